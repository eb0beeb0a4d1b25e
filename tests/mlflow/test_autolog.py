"""Automatic logging of fits."""

import json
import logging
from contextlib import contextmanager

import mlflow
import numpy as np
import numpyro
import optax
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS

import importable_kernels
from aimz import ImpactModel
from aimz import mlflow as flavor

ROWS = ["months", "price", "mail"]


def files_of(client, run, folder=None):
    found = []
    for file in client.list_artifacts(run.info.run_id, folder):
        found += files_of(client, run, file.path) if file.is_dir else [file.path]
    return set(found)


def last_run(client):
    experiment = client.get_experiment_by_name("tests").experiment_id
    return client.search_runs([experiment], order_by=["attributes.start_time DESC"], max_results=1)[0]


def count_runs(client):
    return len(client.search_runs([client.get_experiment_by_name("tests").experiment_id]))


def test_autolog_logs_a_fit_without_changing_it(store, new_model, customers):
    plain, logged = new_model(), new_model()
    plain.fit_on_batch(customers, num_steps=50, num_samples=30, progress=False)
    flavor.autolog(registered_model_name="automatic", extra_tags={"team": "pricing"})
    assert logged.fit_on_batch(customers, num_steps=50, num_samples=30, progress=False) is logged
    assert mlflow.active_run() is None
    for name, draws in plain.posterior.items():
        assert np.array_equal(draws, logged.posterior[name])
    assert np.array_equal(random.key_data(plain.rng_key), random.key_data(logged.rng_key))
    again = [m.predict_on_batch(customers, return_datatree=False)["y"] for m in (plain, logged)]
    assert np.array_equal(*again)

    run = last_run(store)
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "kernel": "shop",
        "param_input": "X",
        "param_output": "y",
        "inference": "SVI",
        "guide": "AutoNormal",
        "optimizer": "Adam",
        "loss": "Trace_ELBO",
        "num_particles": "1",
        "num_steps": "50",
        "num_samples": "30",
        "n_draws": "30",
        "n_obs": "200",
    }
    losses = store.get_metric_history(run.info.run_id, "loss")
    assert [metric.step for metric in losses] == list(range(50))
    assert np.array_equal([metric.value for metric in losses], plain.vi_result.losses.astype(float))
    assert run.data.tags["team"] == "pricing"
    assert files_of(store, run) == {"kernel.py", "kernel_sites.txt", "posterior.csv", "figures/loss.png"}
    source = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/kernel.py")
    assert source.startswith("def shop(X, mail, y=None):")
    table = mlflow.artifacts.load_text(f"{run.info.artifact_uri}/posterior.csv").splitlines()
    assert [line.partition(",")[0] for line in table[1:]] == ["level", "slope[months]", "slope[price]", "gain"]
    image = mlflow.artifacts.load_image(f"{run.info.artifact_uri}/figures/loss.png")
    assert min(image.size) > 200
    (data,) = run.inputs.dataset_inputs
    assert json.loads(data.dataset.profile)["num_rows"] == 200
    (output,) = run.outputs.model_outputs
    served = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
    assert served.metadata.get_input_schema().input_names() == ROWS
    assert np.array_equal(served.input_example[ROWS], customers[ROWS].head(5))
    assert [found.version for found in store.search_model_versions("name = 'automatic'")] == [1]


def test_autolog_minibatches_and_second_fit_in_active_run(store, new_model, customers):
    X, mail, y = customers[["months", "price"]].to_numpy(), customers["mail"].to_numpy(), customers["y"].to_numpy()
    model = new_model()
    flavor.autolog(log_models=False)
    with mlflow.start_run() as run:
        model.fit(X, y, mail=mail, batch_size=50, epochs=2, num_samples=10, progress=False)
        model.fit(X, y, mail=mail, batch_size=50, epochs=3, num_samples=10, progress=False)
        assert mlflow.active_run().info.run_id == run.info.run_id
    run = store.get_run(run.info.run_id)
    assert run.data.params["epochs"] == "2"  # of the first fit; MLflow does not allow changing it
    assert run.data.params["batch_size"] == "50"
    losses = store.get_metric_history(run.info.run_id, "loss")
    assert sorted(metric.step for metric in losses) == list(range(20))
    assert run.outputs.model_outputs == []
    assert json.loads(run.inputs.dataset_inputs[0].dataset.profile)["features_shape"] == {"X": [200, 2], "mail": [200]}


def test_autolog_mcmc(store, customers):
    model = ImpactModel(
        importable_kernels.shop,
        random.key(0),
        MCMC(NUTS(importable_kernels.shop), num_warmup=20, num_samples=25, progress_bar=False),
    )
    flavor.autolog(log_models=False, log_datasets=False, log_reports=True)
    model.fit_on_batch(customers, progress=False)
    run = last_run(store)
    assert "report.html" in {file.path for file in store.list_artifacts(run.info.run_id)}
    params = run.data.params
    assert (params["inference"], params["sampler"], params["num_warmup"]) == ("MCMC", "NUTS", "20")
    assert (params["num_samples"], params["n_draws"]) == ("25", "25")
    assert "num_steps" not in params
    assert set(run.data.metrics) == {"divergences"}
    assert run.inputs.dataset_inputs == []


def test_autolog_logs_the_inference_that_a_fit_chose(store, customers):
    model = ImpactModel(importable_kernels.shop, 0)
    flavor.autolog(log_models=False, log_datasets=False)
    model.fit(customers, batch_size=100, epochs=1, progress=False)
    params = last_run(store).data.params
    assert (params["inference"], params["guide"], params["n_obs"]) == ("SVI", "ScaledNormal", "200")
    assert params["inference_choice"] == model.describe(as_dict=True)["inference"]


def test_log_losses_thins_very_many_steps(store, new_model, monkeypatch):
    from aimz.mlflow import run_logging

    class Result:
        params = None
        losses = np.arange(3_001.0)

    monkeypatch.setattr(run_logging, "_MAX_LOSSES", 1000)
    model = new_model()
    model.vi_result = Result()
    with mlflow.start_run() as run:
        run_logging.log_losses(model, 1, 0, run_logging.now_ms())
    steps = [metric.step for metric in store.get_metric_history(run.info.run_id, "loss")]
    assert 500 <= len(steps) <= 1001
    assert (min(steps), max(steps)) == (1, 3000)


def test_autolog_failing_fit_raises_and_marks_the_run_failed(store, new_model, customers):
    flavor.autolog()
    with pytest.raises(ValueError, match="`num_steps` must be a positive integer"):
        new_model().fit_on_batch(customers, num_steps=-1)
    assert last_run(store).info.status == "FAILED"
    assert mlflow.active_run() is None


def test_autolog_disable_and_exclusive(store, new_model, customers):
    before = count_runs(store)
    flavor.autolog(exclusive=True)
    with mlflow.start_run() as run:
        new_model().fit_on_batch(customers, num_steps=2, num_samples=2, progress=False)
    assert store.get_run(run.info.run_id).data.params == {}
    flavor.autolog(disable=True)
    new_model().fit_on_batch(customers, num_steps=2, num_samples=2, progress=False)
    assert count_runs(store) == before + 1


@pytest.mark.parametrize("broken", ["disk", "start", "server"])
def test_autolog_continues_when_logging_fails(store, new_model, customers, monkeypatch, caplog, broken):
    monkeypatch.setenv("MLFLOW_AUTOLOGGING_TESTING", "false")
    plain = new_model().fit_on_batch(customers, num_steps=5, num_samples=5, progress=False)

    def fail(*args, **kwargs):
        raise RuntimeError("the disk is full")

    if broken == "server":
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        mlflow.set_tracking_uri("http://127.0.0.1:9")
    elif broken == "start":
        monkeypatch.setattr(mlflow.MlflowClient, "create_run", fail)
    else:
        monkeypatch.setattr(mlflow.MlflowClient, "log_batch", fail)
        for name in ("log_text", "log_figure", "log_input", "log_metric"):
            monkeypatch.setattr(mlflow, name, fail)
        monkeypatch.setattr(mlflow.models.Model, "log", fail)
    flavor.autolog()
    with caplog.at_level("WARNING", logger="mlflow"), propagating("mlflow"):
        model = new_model().fit_on_batch(customers, num_steps=5, num_samples=5, progress=False)
    assert np.array_equal(plain.posterior["gain"], model.posterior["gain"])
    assert np.array_equal(random.key_data(plain.rng_key), random.key_data(model.rng_key))
    if broken == "disk":
        for what in ("the arguments", "the data set", "the losses", "the figures", "the table", "the model"):
            assert f"Could not log {what}" in caplog.text


@contextmanager
def propagating(name):
    """Propagate a logger's messages to its parents."""
    logger = logging.getLogger(name)
    before, logger.propagate = logger.propagate, True
    try:
        yield
    finally:
        logger.propagate = before


def test_optimizer_name():
    from aimz.mlflow.run_logging import _optimizer_name

    chain = optax.chain(optax.clip(1.0), optax.adam(0.1))
    assert _optimizer_name(numpyro.optim.optax_to_numpyro(chain)).startswith("optax: clip, scale_by_adam")
    assert _optimizer_name(numpyro.optim.ClippedAdam(0.1)) == "ClippedAdam"
