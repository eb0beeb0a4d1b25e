"""Rehearsals of conjugate models: ranks, refits, resumption, and what cannot be rehearsed."""

import json
import warnings

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from exact_inference import PRIOR_SD, count_compilations, exact, trial
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoLaplaceApproximation, AutoNormal
from scipy import stats

import aimz
from aimz import ImpactModel
from aimz.inference import make_refit

pytestmark = pytest.mark.usefixtures("plain_code")

N = 20
X = np.zeros(N, np.float32)
ARM = np.float32(np.arange(N) % 2)
Y = np.float32(0.8 * ARM + np.random.default_rng(0).normal(size=N))
QUIET = {"progress": False, "rng_key": random.key(5)}


@pytest.fixture(scope="module")
def calibrated():
    return ImpactModel(trial, random.key(0), exact()).rehearse(
        X, arm=ARM, kind="sbc", effect="arm", num_simulations=40, **QUIET
    )


def test_exact_posterior_is_calibrated_and_has_known_moments(calibrated):
    table = calibrated.summary()
    assert table.index.tolist() == ["effect[arm = 1]", "gain"]
    assert calibrated.ok
    # The posterior variance is known: 1 / (10 + 4), of a prior of 1 / 4.
    np.testing.assert_allclose(table["contraction"], 1 - (1 / 14) / PRIOR_SD**2, atol=0.05)
    simulations = calibrated.simulations
    pit = simulations["pit"].sel(quantity="gain").values
    assert stats.kstest(pit, "uniform").pvalue > 0.01
    # The effect is the coefficient, in truth and in estimates.
    effect, gain = (simulations.sel(quantity=name) for name in table.index)
    np.testing.assert_allclose(effect["truth"], gain["truth"], atol=1e-5)
    np.testing.assert_allclose(effect["mean"], gain["mean"], atol=1e-5)
    assert set(np.unique(simulations["rank"])) <= set(range(100))
    assert "contains the true value" in repr(calibrated)
    assert repr(calibrated) in calibrated._repr_html_().replace("&gt;", ">")


def test_too_narrow_posterior_is_found():
    model = ImpactModel(trial, random.key(0), exact(factor=0.3))
    found = model.rehearse(X, arm=ARM, kind="sbc", num_simulations=40, **QUIET)
    assert found.summary().loc["gain", "verdict"] == "intervals too narrow"
    assert found.ok is False
    few = model.rehearse(X, arm=ARM, kind="sbc", num_simulations=3, **QUIET)
    assert few.ok is None
    assert "not enough to judge" in repr(few)


def test_simulation_depends_on_key_and_number_only(tmp_path, monkeypatch, calibrated):
    from aimz.validation import simulation

    ran, run = [], simulation.Simulation._run
    monkeypatch.setattr(simulation.Simulation, "_run", lambda self, number: ran.append(number) or run(self, number))

    def rehearse(n, **options):
        model = ImpactModel(trial, random.key(9), exact())
        given = QUIET | options
        return model.rehearse(X, arm=ARM, kind="sbc", effect="arm", num_simulations=n, checkpoint_dir=tmp_path, **given)

    first = rehearse(3).simulations
    (tmp_path / "simulation-000001.json").unlink()
    second = rehearse(5).simulations
    assert ran == [0, 1, 2, 1, 3, 4]
    for name in ("truth", "mean", "sd", "rank", "pit"):
        np.testing.assert_array_equal(first[name], second[name][:3])
        np.testing.assert_array_equal(second[name], calibrated.simulations[name][:5])
    with pytest.raises(aimz.CheckpointError, match="rng_key differ"):
        rehearse(5, rng_key=random.key(6))
    with pytest.raises(aimz.CheckpointError, match="data of `arm`"):
        ImpactModel(trial, random.key(9), exact()).rehearse(
            X, arm=1 - ARM, kind="sbc", effect="arm", checkpoint_dir=tmp_path, **QUIET
        )
    path = tmp_path / "simulation-000002.json"
    content = json.loads(path.read_text())
    content["truth"][0] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(aimz.CheckpointError, match="damaged"):
        rehearse(5)


def test_cluster_computes_the_same_simulations(calibrated):
    from distributed import Client, LocalCluster

    with (
        LocalCluster(1, processes=False, threads_per_worker=2, dashboard_address=None) as cluster,
        Client(cluster) as c,
    ):
        model = ImpactModel(trial, random.key(0), exact())
        found = model.rehearse(X, arm=ARM, kind="sbc", effect="arm", num_simulations=4, client=c, **QUIET)
    for name in ("truth", "mean", "sd", "rank"):
        np.testing.assert_array_equal(found.simulations[name], calibrated.simulations[name][:4])


def line(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)


def svi_of(guide):
    return SVI(line, guide(line), numpyro.optim.Adam(0.05), Trace_ELBO())


INFERENCES = {
    "svi": (lambda: svi_of(AutoNormal), {"num_steps": 100}),
    "laplace": (lambda: svi_of(AutoLaplaceApproximation), {"num_steps": 60}),
    "minibatches": (lambda: svi_of(AutoNormal), {"batch_size": 10, "epochs": 20}),
    "nuts": (lambda: MCMC(NUTS(line), num_warmup=50, num_samples=100, progress_bar=False), {}),
}


@pytest.mark.parametrize(
    "name", ["svi", *(pytest.param(name, marks=pytest.mark.slow) for name in INFERENCES if name != "svi")]
)
def test_refit_equals_fit_of_a_new_model_and_compiles_nothing(name):
    """A refit has the draws of a new model that is fitted in the same way; only the first one compiles."""
    make, options = INFERENCES[name]
    method = "fit_on_batch" if "num_steps" in options else "fit"
    warnings.simplefilter("ignore", aimz.FitWarning)  # of short fits
    x = np.float32(np.linspace(-1, 1, N))
    refit, found = make_refit(ImpactModel(line, random.key(0), make())._fit), []
    compiled = count_compilations()
    for i in range(3):
        model = ImpactModel(line, random.key(1), make())
        model._fit = refit.copy()
        before = len(compiled)
        getattr(model, method)(x, Y + i, rng_key=random.key(i), progress=False, **options)
        found.append(model.posterior["b"])
        if i and name != "laplace":  # whose guide keeps the data, and is set up again
            assert len(compiled) == before
    new = ImpactModel(line, random.key(1), make())
    getattr(new, method)(x, Y + 2, rng_key=random.key(2), progress=False, **options)
    if name == "nuts":  # another program, so that rounding differs
        assert abs(new.posterior["b"].mean() - found[2].mean()) < 0.2
    else:
        np.testing.assert_array_equal(new.posterior["b"], found[2])


def test_refits_repeat_method_and_options_of_the_fit():
    model = ImpactModel(line, random.key(0), svi_of(AutoNormal))
    model.fit(X + 1, Y, batch_size=10, epochs=3, progress=False)
    found = model.rehearse(num_simulations=1, **QUIET)
    assert found.simulations.attrs["source"] == "posterior"
    model.fit_on_batch(X + 1, Y, num_steps=7, num_samples=30, progress=False)
    assert (model._rows.method, model._rows.options) == ("fit_on_batch", {"num_steps": 7, "num_samples": 30})
    assert model.rehearse(num_simulations=1, **QUIET).simulations.attrs["n_ranks"] == 31
    with pytest.raises(ValueError, match="must have options of `fit`"):
        model.rehearse(fit_options={"steps": 3}, **QUIET)


def test_recovery_of_set_truths_from_a_table_with_its_outcome():
    frame = pd.DataFrame({"arm": ARM, "sales": Y, "X": X})
    model = ImpactModel(trial, random.key(0), exact()).fit(frame, "sales", progress=False)
    scenarios = {"no": {"intervention": {"arm": 0.0}}, "yes": {"intervention": {"arm": 1.0}}}
    found = model.rehearse(
        effect=scenarios, baseline="no", truth={"gain": 0.7}, parameters=(), num_simulations=20, **QUIET
    )
    assert found.simulations["quantity"].values.tolist() == ["effect[yes]"]
    np.testing.assert_allclose(found.simulations["truth"], 0.7, rtol=1e-5)
    # The prior shrinks the estimate from 0.7 to 0.7 * 10 / 14.
    line = found.summary().loc["effect[yes]"]
    assert abs(line["bias"] - (0.7 * 10 / 14 - 0.7)) < 4 * line["bias_se"]
    assert line["bias_se"] < 0.1


def mediated(X, m=None, y=None):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", X.shape[0]):
        m = numpyro.sample("mediator", dist.Normal(a, 0.1), obs=m)
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


def test_observed_mediators_are_simulated_together_with_the_output():
    model = ImpactModel(
        mediated, random.key(0), MCMC(NUTS(mediated), num_warmup=30, num_samples=30, progress_bar=False)
    )
    found = model.rehearse(X, m=X, kind="sbc", num_simulations=4, **QUIET)
    # With the mediator of the data, all estimates would be close to 0.
    np.testing.assert_allclose(found.simulations["mean"], found.simulations["truth"], atol=0.2)
    assert np.ptp(found.simulations["truth"].values) > 0.5

    def fixed(X, m, y=None):
        return mediated(X, m, y)

    with pytest.raises(aimz.KernelValidationError, match="m=None"):
        ImpactModel(fixed, random.key(0)).rehearse(X, m=X, kind="sbc", **QUIET)


def test_what_cannot_be_rehearsed_raises():
    def improper(X, y=None):
        b = numpyro.sample("b", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(b + X, 1.0), obs=y)

    def certain(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        mu = numpyro.deterministic("y", b * X)
        numpyro.factor("loss", -0.5 * ((0.0 if y is None else y) - mu) ** 2)

    with pytest.raises(ValueError, match="mproper"):
        ImpactModel(improper, random.key(0)).rehearse(X, kind="sbc", **QUIET)
    with pytest.raises(aimz.KernelValidationError, match="deterministic site"):
        ImpactModel(certain, random.key(0)).rehearse(X, kind="sbc", **QUIET)
    injected = ImpactModel(line, random.key(0), svi_of(AutoNormal)).set_posterior_sample({"b": jnp.zeros(9)})
    with pytest.raises(aimz.NotFittedError, match="set_posterior_sample"):
        injected.rehearse(X, **QUIET)
    model = ImpactModel(trial, random.key(0), exact())
    for options, error, text in [
        ({"kind": "power"}, ValueError, "'recovery', 'sbc' or 'placebo'"),
        ({"kind": "sbc", "source": "posterior"}, ValueError, "draws true values from the prior"),
        ({"source": "posterior"}, aimz.NotFittedError, "needs a posterior"),
        ({"effect": {"a": {}, "b": {}}, "baseline": "c"}, ValueError, "name of one of the scenarios, 'a', 'b'"),
        ({"by": "arm"}, TypeError, "belongs to an effect"),
        ({"permute": "arm"}, TypeError, "belong to kind='placebo'"),
        ({"truth": {"gian": 1.0}}, ValueError, "Choose from gain"),
        ({"kind": "sbc", "truth": {"gain": 1.0}}, ValueError, "sets true values in a recovery"),
        ({"parameters": "y"}, ValueError, "without a row axis"),
    ]:
        with pytest.raises(error, match=text):
            model.rehearse(X, arm=ARM, **options, **QUIET)
    with pytest.raises(TypeError, match="needs rows"):
        model.rehearse(**QUIET)


def test_effect_that_was_computed_is_no_question():
    model = ImpactModel(trial, random.key(0), exact()).fit(X, Y, arm=ARM, progress=False)
    with pytest.raises(TypeError, match="must be the question"):
        model.rehearse(effect=model.effect("arm", progress=False), **QUIET)
