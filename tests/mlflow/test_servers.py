"""MLflow's tracking and scoring servers, and its web pages in a browser."""

import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request

import mlflow
import numpy as np
import pytest
from servers import environment, free_port, running

from aimz import mlflow as flavor

pytestmark = pytest.mark.timeout(900)  # several processes import JAX

ROWS = ["months", "price", "mail"]


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracking")
    url = f"http://127.0.0.1:{(port := free_port())}"
    arguments = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    with running([*arguments, *stores], f"{url}/health", folder / "server"):
        yield url


@pytest.fixture(scope="module")
def logged(tracking, customers):
    """Run and model of a fit that was logged and registered on the tracking server."""
    from jax import random

    import importable_kernels
    from aimz import ImpactModel

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(tracking)
    mlflow.set_experiment("shop")
    try:
        flavor.autolog(registered_model_name="shop")
        model = ImpactModel(importable_kernels.shop, random.key(0), importable_kernels.svi)
        model.fit_on_batch(customers, num_steps=500, num_samples=400, progress=False)
        flavor.autolog(disable=True)
        run = mlflow.search_runs(experiment_names=["shop"], output_format="list")[0]
        yield run, model
    finally:
        flavor.autolog(disable=True)
        mlflow.set_tracking_uri(before)
        os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="module")
def scoring(tracking, logged, tmp_path_factory):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    arguments = ["models", "serve", "-m", "models:/shop/1", "--env-manager", "local", "--workers", "1"]
    place = tmp_path_factory.mktemp("scoring")
    with running(
        [*arguments, "--host", "127.0.0.1", "--port", str(port)],
        f"{url}/ping",
        place,
        MLFLOW_TRACKING_URI=tracking,
    ):
        yield f"{url}/invocations"


def post(url, body, kind="application/json"):
    """Return the status and the body of a response."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def split(rows):
    return {"dataframe_split": rows.to_dict("split", index=False)}


def test_tracking_server_has_the_fit(logged, tracking):
    run, model = logged
    assert run.info.status == "FINISHED"
    client = mlflow.MlflowClient(tracking)
    losses = client.get_metric_history(run.info.run_id, "loss")
    assert np.array_equal([metric.value for metric in losses], np.asarray(model.vi_result.losses, float))
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert np.array_equal(flavor.load_model("models:/shop/1").posterior["gain"], model.posterior["gain"])


def test_scoring_server_predicts_each_row(scoring, logged, customers):
    _, model = logged
    rows = customers[ROWS].head(20)
    status, answer = post(scoring, split(rows))
    assert status == 200
    assert len(answer["predictions"]) == 20
    assert list(answer["predictions"][0]) == ["mean", "sd", "q0.05", "q0.5", "q0.95"]
    draws = {name: np.asarray(value, np.float64) for name, value in model.posterior.items()}
    X = rows[["months", "price"]].to_numpy()
    means = draws["level"][:, None] + draws["slope"] @ X.T + draws["gain"][:, None] * rows["mail"].to_numpy()
    spread = np.sqrt(means.var(0) + 1.0)
    found = np.array([row["mean"] for row in answer["predictions"]])
    assert np.abs((found - means.mean(0)) / (spread / np.sqrt(400))).max() < 4.5
    assert post(scoring, split(rows)) == (200, answer)
    records = post(scoring, {"dataframe_records": rows.to_dict("records")})
    assert records == (200, answer)
    # MLflow parses CSV by its types of columns, and has none for integers that does not cut fractions.
    status, by_csv = post(scoring, rows.to_csv(index=False).encode(), "text/csv")
    assert status == 400
    assert "Failed to parse input" in by_csv["message"]


def test_scoring_server_estimates_an_effect(scoring, logged, customers):
    _, model = logged
    params = {"baseline": '{"mail": 0}', "intervention": '{"mail": 1}', "statistics": '["mean", "sd", 0.1, 0.9]'}
    status, answer = post(scoring, {**split(customers[ROWS].head(3)), "params": params})
    assert status == 200
    gain = np.asarray(model.posterior["gain"], np.float64)
    expected = [gain.mean(), gain.std(), *np.quantile(gain, [0.1, 0.9])]
    for row in answer["predictions"]:
        assert np.allclose(list(row.values()), expected, atol=2e-4)


def test_scoring_server_explains_invalid_requests(scoring, customers):
    rows = customers[ROWS].head(2)
    good = split(rows)
    wrong = {
        "is missing inputs ['price']": split(rows[["months", "mail"]]),
        "price": split(rows.astype({"price": object}).assign(price="low")),
        "Cannot intervene on 'prise'": {**good, "params": {"intervention": '{"prise": 1}'}},
        "`intervention` must be JSON; got '{price'": {**good, "params": {"intervention": "{price"}},
        "`statistics` must be known; got 'median'": {**good, "params": {"statistics": '["median"]'}},
        "at most the number of posterior draws, 400": {**good, "params": {"num_samples": 401}},
        "valid JSON": b"{",
        "exactly one of the input fields": {"rows": [1]},
    }
    for words, body in wrong.items():
        status, answer = post(scoring, body)
        assert 400 <= status < 500, (words, status)
        assert words in answer["message"], (words, answer)
    assert post(scoring, good)[0] == 200


def browser():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def check_page(url, folder, *patterns):
    """Load a page, up to six times, until it shows all patterns.

    The browser considers a page loaded as soon as no request is pending, which may be before the next one.
    """
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += [f"--user-data-dir={folder / 'profile'}", "--window-size=1500,1400", "--virtual-time-budget=200000"]
    missing = shown = None
    for _ in range(6):
        done = subprocess.run(
            [browser(), *options, "--dump-dom", url],
            env=environment(),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=240,
            check=True,
        )
        shown = re.sub(r"<(script|style).*?</\1>", "", done.stdout, flags=re.DOTALL)
        missing = [pattern for pattern in patterns if not re.search(pattern, shown)]
        if not missing:
            return
    raise AssertionError(f"{url} does not show {missing}:\n{shown[-5000:]}")


@pytest.mark.slow
@pytest.mark.skipif(browser() is None, reason="needs Chromium to show MLflow's pages")
def test_web_pages_show_the_logged_fit(tracking, logged, tmp_path):
    run, _ = logged
    experiment = f"{tracking}/#/experiments/{run.info.experiment_id}"
    page = f"{experiment}/runs/{run.info.run_id}"
    (model_id,) = [output.model_id for output in run.outputs.model_outputs]
    name, loss = re.escape(run.info.run_name), re.escape(str(run.data.metrics["loss"])[:6])
    check_page(page, tmp_path, name, "num_steps", ">500<", "AutoNormal", "Trace_ELBO", "Finished", ">shop<", loss)
    axis = [rf'class="xtick"><text[^>]*>(<[^>]*>)*{step}<' for step in (0, 200, 400)]
    check_page(f"{page}/model-metrics", tmp_path, r">loss<", *axis)
    files = ["kernel.py", "kernel_sites.txt", "posterior.csv"]
    check_page(f"{page}/artifacts/figures/loss.png", tmp_path, r'<img alt="figures/loss.png" src="blob:', *files)
    check_page(f"{experiment}/models/{model_id}", tmp_path, "Ready", name, "AutoNormal", loss)
