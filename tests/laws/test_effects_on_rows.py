"""Statistics of the effect on each row: those of the differences, computed in one pass."""

from pathlib import Path

import numpy as np
import pytest
from jax import random

from aimz import open_result
from aimz.errors import IncompleteResultError
from aimz.store import ZarrStore
from stream_helpers import KEY, MEMORY, N, new_model, shared

pytestmark = pytest.mark.usefixtures("quiet_local_latents")

WANTED = ("mean", "sd", 0.05, 0.5, ("exceeds", 0.0))
# Of each kind one: plain, with locals, with parameters, with whole numbers, and one whose rows see one another.
NAMES = ("linear", "hierarchical", "local_latents", "param_site", "categorical", "gaussian_process")


def sides(case) -> dict:
    arguments = {"X": case.X, **case.extra}
    return {
        "args_baseline": {**arguments, **MEMORY},
        "args_intervention": {**arguments, "intervention": case.intervention, **MEMORY},
    }


@pytest.mark.parametrize("name", NAMES)
def test_statistics_are_those_of_the_differences(name):
    case, model = shared(name)
    effect = model.estimate_effect(**sides(case))["posterior_predictive"].to_dataset()
    found = model.estimate_effect(**sides(case), statistics=WANTED, kind="outcome")["posterior_predictive"].to_dataset()
    assert set(found.data_vars) == set(effect.data_vars)
    for site, array in effect.items():
        draws = array.values.astype(np.float64).reshape(-1, *array.shape[2:])
        expected = np.stack(
            [draws.mean(0), draws.std(0), *np.quantile(draws, [0.05, 0.5], axis=0), (draws > 0).mean(0)]
        )
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(found[site].values[:-1], expected[:-1], atol=2e-5 * scale)
        # A draw that rounds to the other side of the bound counts as one in so many.
        assert np.mean(found[site].values[-1] != expected[-1]) < 0.01


def test_attributes_say_what_was_compared():
    case, model = shared("linear")
    group = model.estimate_effect(**sides(case), statistics="mean")["posterior_predictive"]
    assert group.attrs["contrast"] == "intervention - baseline"
    assert group.attrs["baseline"] == "{}"
    assert next(iter(case.intervention)) in group.attrs["intervention"]
    assert group["y"].dims[0] == "statistic"


def test_a_call_that_was_interrupted_is_finished_to_the_same_bits(tmp_path, monkeypatch):
    case, model = shared("linear")
    arguments = {"X": case.X, **case.extra, "rng_key": KEY}
    there = {**arguments, "intervention": case.intervention, "output_dir": tmp_path, "progress": False}

    def effect(**more):
        return model.estimate_effect(
            args_baseline=arguments, args_intervention={**there, **more}, statistics=("mean", "sd")
        )

    whole = effect()["posterior_predictive"]["y"].values

    def fail(self, length):
        raise OSError("pulled out")

    with monkeypatch.context() as patched:
        patched.setattr(ZarrStore, "finish", fail)
        with pytest.raises(OSError, match="pulled out"):
            effect()
    (left,) = [path for path in Path(tmp_path).iterdir() if b"aimz_unfinished" in (path / "zarr.json").read_bytes()]
    with pytest.raises(IncompleteResultError):
        open_result(left)
    # Another baseline is another call.
    with pytest.raises(ValueError, match="cannot be resumed"):
        model.estimate_effect(
            args_baseline={**arguments, "intervention": case.intervention},
            args_intervention={**there, "resume": left},
            statistics=("mean", "sd"),
        )
    np.testing.assert_array_equal(effect(resume=left)["posterior_predictive"]["y"].values, whole)


def test_rows_of_an_iterable_are_read_once():
    case, model = shared("linear")

    def batches():
        for start in range(0, N, 700):
            yield {"X": case.X[start : start + 700]}

    rows = batches()
    found = model.estimate_effect(
        args_baseline={"X": rows, **MEMORY},
        args_intervention={"X": rows, "intervention": case.intervention, **MEMORY},
        statistics="mean",
    )
    expected = model.estimate_effect(**sides(case), statistics="mean")
    np.testing.assert_array_equal(
        found["posterior_predictive"]["y"].values, expected["posterior_predictive"]["y"].values
    )


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda given: given | {"on_batch": True, "args_baseline": {"X": 1}}, TypeError, "both must be arguments"),
        (
            lambda given: given | {"args_baseline": given["args_baseline"] | {"rng_key": random.key(99)}},
            ValueError,
            "one `rng_key`",
        ),
        (
            lambda given: given | {"args_baseline": given["args_baseline"] | {"batch_size": 7}},
            ValueError,
            "given once",
        ),
        (
            lambda given: given | {"args_baseline": given["args_baseline"] | {"return_sites": ["b"]}},
            ValueError,
            "return the same sites",
        ),
        (lambda given: given | {"statistics": "median"}, ValueError, "must be known"),
    ],
)
def test_what_cannot_be_done_is_refused(change, error, match):
    case, model = shared("linear")
    given = {**sides(case), "statistics": "mean"}
    given["args_baseline"] = {"X": case.X, "progress": False}
    with pytest.raises(error, match=match):
        model.estimate_effect(**change(given))


def test_trees_have_no_draws_to_go_by():
    case, model = shared("linear")
    tree = model.predict(case.X, **MEMORY)
    with pytest.raises(TypeError, match="is a tree"):
        model.estimate_effect(output_baseline=tree, args_intervention={"X": case.X}, statistics="mean")


def test_whole_numbers_have_a_sign():
    """A truth value has no minus, and a difference of two may be -1."""
    import numpyro
    import numpyro.distributions as dist

    def kernel(X, y=None):
        slope = numpyro.sample("slope", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            mu = numpyro.deterministic("mu", slope * X)
            numpyro.deterministic("up", mu > 0.5)
            numpyro.sample("y", dist.Normal(mu), obs=y)

    model = new_model(kernel, {"slope": np.array([1.0, 2.0])})
    X = np.linspace(0, 1, 50)
    found = model.estimate_effect(
        args_baseline={"X": X},
        args_intervention={"X": X, "intervention": {"X": 0.0}, "store": "memory", "progress": False},
        statistics="mean",
    )["posterior_predictive"]["up"]
    expected = -np.mean([X.astype(np.float32) > 0.5, 2 * X.astype(np.float32) > 0.5], axis=0)
    np.testing.assert_array_equal(found.values[0], expected)
