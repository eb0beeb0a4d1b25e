"""Law 6: statistics equal NumPy's on the stored draws; and what streams must keep holds with them in place of draws."""

import tempfile
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from arviz_base import rc_context
from arviz_stats.base import array_stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax import random
from test_faults import Trouble, Watched, check_refused, chunk_files, raising_from

from aimz.methods import execution as streaming
from aimz.statistics import Statistics, read_statistics
from aimz.store import InMemoryStore, TemporaryFileStore
from aimz.utils.data import ArrayDataset, ArrayLoader
from kernels import CASES, QUICK_CASES, each_kernel
from slow_cases import slow_except
from stream_helpers import MEMORY, D, N, arrays, new_model, padded_batches, shared

pytestmark = pytest.mark.usefixtures("quiet_local_latents")

ASKED: tuple[Any, ...] = (
    "mean",
    "sd",
    0,
    0.05,
    0.5,
    0.95,
    1.0,
    ("exceeds", 0.5),
    ("exceeds", -1),
    ("eti", 0.8),
    ("hdi", 0.7),
    ("hdi", 0.3),
    "interval",
)
LABELS = ["mean", "sd", "0", "0.05", "0.5", "0.95", "1", "exceeds 0.5", "exceeds -1", "eti80_lb", "eti80_ub"]
LABELS += ["hdi70_lb", "hdi70_ub", "hdi30_lb", "hdi30_ub", "eti89_lb", "eti89_ub"]
SCORING = {name: value for name, value in MEMORY.items() if name != "rng_key"}


def witness(draws: np.ndarray) -> np.ndarray:
    """What was asked for, by NumPy and ArviZ, of draws ``(n_draws, ...)`` as doubles."""
    draws = draws.astype(np.float64)
    each = [draws.mean(0), draws.std(0), *np.quantile(draws, (0, 0.05, 0.5, 0.95, 1), axis=0)]
    each += [(draws > 0.5).mean(0), (draws > -1).mean(0)]
    for interval, prob in ((array_stats.eti, 0.8), (array_stats.hdi, 0.7), (array_stats.hdi, 0.3)):
        each += list(np.moveaxis(interval(draws, prob, axis=0), -1, 0))
    each += list(np.moveaxis(array_stats.eti(draws, 0.89, axis=0), -1, 0))
    return np.stack(each)


SOME = 7
"""Of so many columns one is looked at: ArviZ takes them one by one.  No size of a block or a tile is a multiple."""


def assert_statistics(found: np.ndarray, draws: np.ndarray, what: str = "") -> None:
    """``found`` has the statistics first, ``draws`` chains and draws."""
    assert found.dtype == np.float64
    assert found.shape == (len(LABELS), *draws.shape[2:])
    draws = draws.reshape(draws.shape[0] * draws.shape[1], -1)[:, ::SOME]
    found = found.reshape(len(found), -1)[:, ::SOME]
    expected = witness(draws)
    # Sums may be taken in another order; what is taken from sorted draws has the same bits.
    np.testing.assert_allclose(found[:2], expected[:2], rtol=1e-14, atol=1e-300, err_msg=what)
    np.testing.assert_array_equal(found[2:9], expected[2:9], err_msg=what)
    np.testing.assert_allclose(found[9:], expected[9:], rtol=1e-15, err_msg=what)


def check(found: xr.DataTree, draws: xr.DataTree, what: str = "") -> None:
    """All sites of a result with statistics, against one with draws."""
    ours, theirs = arrays(found), arrays(draws)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert_statistics(ours[name], theirs[name], f"{name} {what}")
    group = next(found[g] for g in found.children if g not in ("posterior", "observed_data", "sample_stats"))
    assert list(group.coords["statistic"].values) == LABELS
    assert all(array.dims[0] == "statistic" for array in group.data_vars.values())
    assert not {"chain", "draw"} & set(group.dims)
    n_draws = next(iter(theirs.values())).shape[:2]
    assert group.attrs["n_draws"] == n_draws[0] * n_draws[1]
    assert list(group.attrs["statistics"]) == LABELS
    assert list(group.attrs["interval_kind"]) == ["eti", "hdi", "hdi", "eti"]
    assert list(group.attrs["interval_prob"]) == [0.8, 0.7, 0.3, 0.89]


# ------------------------------------------------------------------------------------------- law 6


# The negative binomial draws its counts as the Poisson does, and takes a quarter of a minute to compile.
@each_kernel(QUICK_CASES)
def test_predictions(case, tmp_path):
    """Of every kernel, in memory and as whoever opens the files reads them."""
    case, model = shared(case.name)
    draws = model.predict(**case.arguments(), **MEMORY)
    check(model.predict(**case.arguments(), **MEMORY, statistics=ASKED), draws)
    stored = {**MEMORY, "store": "persistent", "output_dir": tmp_path}
    path = model.predict(**case.arguments(), **stored, statistics=ASKED).attrs["artifact_path"]
    with xr.open_datatree(path, engine="zarr") as opened:
        check(opened, draws, "stored")
        np.testing.assert_array_equal(opened["posterior"].sizes["draw"], D)


@pytest.mark.parametrize(
    "name", ["linear", "multi_output", "hierarchical", "local_latents", "param_site", "state_space"]
)
def test_prior_predictions(name):
    """What is done with draws does not know where they come from, so one kernel of each shape will do."""
    case, model = shared(name)
    options = {**MEMORY, "num_samples": 5}
    draws = model.sample_prior_predictive(**case.arguments(), **options)
    check(model.sample_prior_predictive(**case.arguments(), **options, statistics=ASKED), draws)


@each_kernel([case for case in CASES if case.scored])
def test_scores(case):
    """One number for all rows together is one too."""
    case, model = shared(case.name)
    draws = model.log_likelihood(**case.arguments(), y=case.y, **SCORING)
    check(model.log_likelihood(**case.arguments(), y=case.y, **SCORING, statistics=ASKED), draws)


def test_stored_scores_and_prior_predictions(tmp_path):
    case, model = shared("linear")
    stored = {"store": "persistent", "output_dir": tmp_path, "statistics": ASKED}
    for method, arguments, options in (
        (model.log_likelihood, {**case.arguments(), "y": case.y}, SCORING),
        (model.sample_prior_predictive, case.arguments(), {**MEMORY, "num_samples": 5}),
        (model.sample_posterior_predictive, case.arguments(), MEMORY),
    ):
        tree = method(**arguments, **{**options, **stored})
        with xr.open_datatree(tree.attrs["artifact_path"], engine="zarr") as opened:
            check(opened, method(**arguments, **options), str(method))


def every_shape(X, y=None):
    """Sites without rows, with rows on any axis, integers, booleans and halves."""
    b = numpyro.sample("b", dist.Normal())
    v = numpyro.sample("v", dist.Normal().expand([2, 3]).to_event(2))
    numpyro.deterministic("total", v.sum())
    with numpyro.plate("outputs", 2, dim=-2), numpyro.plate("obs", X.shape[0], dim=-1):
        mu = numpyro.deterministic("mu", b * jnp.stack([X, -X]))
        numpyro.sample("y", dist.Bernoulli(logits=mu), obs=y)
    numpyro.deterministic("count", jnp.floor(3 * mu).astype(jnp.int32))
    numpyro.deterministic("above", mu[0] > 0.2)
    numpyro.deterministic("small", (100 * jnp.abs(mu)).astype(jnp.uint8))
    numpyro.deterministic("half", mu.astype(jnp.float16))
    numpyro.deterministic("image", mu[:, :, None, None] * v)


SHAPES = ["b", "v", "total", "mu", "y", "count", "above", "small", "half", "image"]
ROWS = np.linspace(-2, 2, N, dtype=np.float32)


def every_shape_model(n_draws: int = 31, **options: Any):
    keys = random.split(random.key(4))
    draws = {"b": random.normal(keys[0], (n_draws,)), "v": random.normal(keys[1], (n_draws, 2, 3))}
    return new_model(every_shape, {name: np.asarray(value) for name, value in draws.items()}, **options)


@pytest.mark.parametrize("shard_axis", ["obs", "draw"])
@pytest.mark.parametrize("num_chains", slow_except([1, 2], 2))
def test_sites_of_every_shape_and_type(shard_axis, num_chains, tmp_path):
    """Chains count together; rows and draws are cut alike."""
    model = every_shape_model(32, num_chains=num_chains)
    options = {**MEMORY, "return_sites": SHAPES, "shard_axis": shard_axis}
    draws = model.predict(ROWS, **options)
    assert {name: draws["posterior_predictive"][name].dtype.kind for name in SHAPES} == {
        **dict.fromkeys(SHAPES, "f"),
        "y": "i",
        "count": "i",
        "above": "b",
        "small": "u",
    }
    assert draws["posterior_predictive"]["y"].shape == (num_chains, 32 // num_chains, 2, N)
    check(model.predict(ROWS, **options, statistics=ASKED), draws)
    stored = {**options, "store": "persistent", "output_dir": tmp_path}
    check(model.predict(ROWS, **stored, statistics=ASKED), draws, "stored")


@pytest.mark.parametrize("name", ["linear", "local_latents", "hierarchical", "subsampled", "state_space"])
def test_draws_cut_instead_of_rows(name, tmp_path):
    case, model = shared(name)
    options = {**MEMORY, "shard_axis": "draw"}
    draws = model.predict(**case.arguments(), **options)
    found = model.predict(**case.arguments(), **options, statistics=ASKED)
    check(found, draws)
    again = model.predict(**case.arguments(), **options, statistics=ASKED, batch_size=2)
    for site, values in arrays(found).items():
        np.testing.assert_array_equal(arrays(again)[site], values)
    scores = model.log_likelihood(**case.arguments(), y=case.y, **SCORING, shard_axis="draw")
    check(
        model.log_likelihood(**case.arguments(), y=case.y, **SCORING, shard_axis="draw", statistics=ASKED),
        scores,
        "scores",
    )


def test_sites_are_looked_at_in_parts_where_draws_are_cut(monkeypatch):
    """However few columns are looked at together."""
    model = every_shape_model()
    options = {**MEMORY, "return_sites": SHAPES, "shard_axis": "draw", "statistics": ASKED}
    whole = arrays(model.predict(ROWS, **options))
    monkeypatch.setattr(streaming, "_SPILLED_BYTES", 31 * 4 * 777)
    for site, values in arrays(model.predict(ROWS, **options)).items():
        np.testing.assert_array_equal(values, whole[site], err_msg=site)


# Some of the values, so that there are ties; and what is far apart, or has no number.
_VALUES = st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 3.0])
_VALUES |= st.floats(-(2.0**60), 2.0**60, width=32) | st.floats(-1, 1, width=32)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    hnp.arrays(
        st.sampled_from([np.float32, np.float64, np.float16]),
        hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=40),
        elements=st.floats(-1000, 1000, width=16),
    )
    | hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=300), elements=_VALUES)
    | hnp.arrays(
        st.sampled_from([np.int32, np.uint8, np.int8, np.bool_]),
        hnp.array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=60),
    ),
    st.sampled_from(["C", "F"]),
)
def test_any_draws(draws, order):
    """Any number of draws, one alone among them, of any type and memory layout."""
    found = read_statistics(ASKED)(np.asarray(draws, order=order))
    expected = witness(draws)
    scale = np.abs(draws.astype(np.float64)).max(0)
    assert (np.abs(found[:2] - expected[:2]) <= 1e-14 * scale).all()
    np.testing.assert_array_equal(found[2:9], expected[2:9])
    np.testing.assert_allclose(found[9:], expected[9:], rtol=1e-15)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 50), st.just(3)), elements=st.floats(-9, 9)),
    st.lists(st.floats(0, 1), min_size=1, max_size=9, unique_by=lambda q: f"{q:.15g}"),
)
def test_any_quantile(draws, quantiles):
    found = read_statistics(quantiles)(draws)
    np.testing.assert_array_equal(found, np.quantile(draws, quantiles, axis=0))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    hnp.arrays(np.float64, st.tuples(st.integers(1, 50), st.just(3)), elements=st.floats(-9, 9)),
    st.floats(0.001, 0.999),
)
def test_any_interval(draws, prob):
    found = read_statistics([("hdi", prob), ("eti", prob)])(draws)
    np.testing.assert_array_equal(found[:2].T, array_stats.hdi(draws, prob, axis=0))
    np.testing.assert_allclose(found[2:].T, array_stats.eti(draws, prob, axis=0), rtol=1e-15)


def test_a_mean_far_from_zero_keeps_its_digits():
    """Sums are taken in double precision, spreads about the mean."""
    draws = (1e6 + np.random.default_rng(0).normal(size=(4000, 50))).astype(np.float32)
    mean, sd = read_statistics(("mean", "sd"))(draws)
    np.testing.assert_allclose(mean, draws.astype(np.float64).mean(0), rtol=1e-15)
    np.testing.assert_allclose(sd, draws.astype(np.float64).std(0), rtol=1e-12)
    assert np.abs(draws.std(0) / sd - 1).max() > 1e-5  # single precision would show


# ------------------------------------------------------------------------------------------- NaN and infinity


def product(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.deterministic("mu", b * X)
        numpyro.sample("y", dist.Normal(X), obs=y)


def product_model():
    return new_model(product, {"b": np.ones(3, np.float32)})


@pytest.mark.filterwarnings("ignore:Arguments have NaN")
@pytest.mark.parametrize("shard_axis", ["obs", "draw"])
def test_draws_that_are_nan_make_all_statistics_of_their_row_nan(shard_axis):
    """Of theirs, and of no other."""
    X = ROWS.copy()
    X[[7, 1500]] = np.nan
    X[20] = np.inf
    b = np.linspace(1, 2, 9, dtype=np.float32)
    options = {**MEMORY, "return_sites": ["mu", "b"], "statistics": ASKED, "shard_axis": shard_axis}
    found = arrays(new_model(product, {"b": b}).predict(X, **options))
    bad = [7, 20, 1500]
    assert np.isnan(found["mu"][:, [7, 1500]]).all()
    others = np.delete(np.arange(N), bad)
    draws = b[:, None] * X[others]
    assert_statistics(found["mu"][:, others], draws[None])
    assert_statistics(found["b"], b[None])
    # Infinite in all draws: quantiles and probabilities have a value, a spread has none.
    values = dict(zip(LABELS, found["mu"][:, 20], strict=True))
    assert np.isnan(values["sd"])
    assert values["mean"] == values["0.05"] == values["1"] == values["eti80_lb"] == np.inf
    assert values["exceeds 0.5"] == 1

    b[4] = np.nan  # in one draw of all rows
    found = arrays(new_model(product, {"b": b}).predict(ROWS, **options))
    assert np.isnan(found["mu"]).all()
    assert np.isnan(found["b"]).all()


def test_one_infinite_draw_leaves_the_quantiles_beside_it():
    draws = np.random.default_rng(0).normal(size=(101, 4))
    draws[3, 1], draws[5, 2], draws[[8, 9], 3] = np.inf, -np.inf, (np.inf, -np.inf)
    found = dict(zip(LABELS, read_statistics(ASKED)(draws), strict=True))
    with np.errstate(invalid="ignore"):
        for label, q in (("0.05", 0.05), ("0.5", 0.5), ("0.95", 0.95)):
            np.testing.assert_array_equal(found[label], np.quantile(draws, q, axis=0))
        np.testing.assert_array_equal(found["mean"][:3], draws.mean(0)[:3])
    np.testing.assert_array_equal(found["exceeds 0.5"], (draws > 0.5).mean(0))
    np.testing.assert_array_equal(found["1"][1:], np.max(draws, 0)[1:])
    assert np.isnan(found["mean"][3])


# ------------------------------------------------------------------------------------------- law 1


@pytest.mark.parametrize("name", ["linear", "local_latents", "factor_only", "masked"])
def test_batch_size_and_source_do_not_show(name, tmp_path):
    """Not even in the last bit."""
    case, model = shared(name)
    options = {**MEMORY, "statistics": ASKED}
    whole = arrays(model.predict(**case.arguments(), **options))
    by_row = {key: value for key, value in case.arguments().items() if hasattr(value, "shape")}
    ways: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        f"batches of {size}": (case.arguments(), {"batch_size": size}) for size in (1, 1500, 2048, 10**6)
    }
    ways["stored"] = (case.arguments(), {"store": "persistent", "output_dir": tmp_path, "batch_size": 700})
    ways["iterable"] = ({"X": padded_batches(by_row)}, {})
    ways["stored iterable"] = ({"X": padded_batches(by_row)}, {"store": "persistent", "output_dir": tmp_path})
    ways["loader"] = ({"X": ArrayLoader(ArrayDataset(**by_row), random.key(0), batch_size=77)}, {})
    for way, (arguments, more) in ways.items():
        found = arrays(model.predict(**arguments, **{**options, **more}))
        for site, values in whole.items():
            np.testing.assert_array_equal(found[site], values, err_msg=f"{site} {way}")


@pytest.mark.parametrize("store", ["memory", "persistent"])
def test_statistics_of_an_iterable_whose_rows_mix(store, tmp_path):
    """Of unknown length, and gathered, and computed some draws at a time."""
    case, model = shared("gaussian_process")
    draws = model.predict(case.X, **MEMORY)
    where = {"store": store, **({"output_dir": tmp_path} if store == "persistent" else {})}
    found = model.predict(padded_batches({"X": case.X}, 25), **{**MEMORY, **where}, statistics=ASKED)
    check(found, draws)


def test_the_key_is_used_once_as_with_draws():
    model, fresh = product_model(), product_model()
    before = model.rng_key
    options = {**MEMORY, "rng_key": None}
    found = model.predict(ROWS, **options, statistics="mean")
    draws = arrays(fresh.predict(ROWS, **options))["y"]
    np.testing.assert_allclose(arrays(found)["y"][0], draws.astype(float).mean((0, 1)), rtol=1e-14)
    assert model.rng_key == fresh.rng_key
    assert model.rng_key != before


# ------------------------------------------------------------------------------------------- interrupted


def scaled(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.deterministic("mu", b * X[:, 0])
        numpyro.sample("y", dist.Normal(b * X[:, 0]), obs=y)


def test_an_interrupted_call_is_finished_with_the_same_bytes(tmp_path):
    """And by a call for the same statistics only."""
    X = np.random.default_rng(1).normal(size=(9000, 2)).astype(np.float32)
    model = new_model(scaled, {"b": np.linspace(0, 1, 7, dtype=np.float32)})
    options = {**MEMORY, "store": "persistent", "statistics": ASKED, "batch_size": 1024, "return_sites": ["y", "mu"]}
    whole = Path(model.predict(X, **options, output_dir=tmp_path / "whole").attrs["artifact_path"])
    results = tmp_path / "results"
    with pytest.raises(Trouble) as caught:
        model.predict(Watched(X, raising_from(6 * 1024, Trouble(), results)), **options, output_dir=results)
    (path,) = results.iterdir()
    assert f"resume='{path}'" in "".join(caught.value.__notes__)
    check_refused(path)
    left = chunk_files(path)
    assert 0 < len(left) < len(chunk_files(whole))
    for other in (("mean", "sd"), None, (*ASKED[:-1], ("eti", 0.5)), ASKED[::-1]):
        with pytest.raises(ValueError, match=r"cannot be resumed by this one: .*\bstatistics\b.* differ"):
            model.predict(X, **{**options, "statistics": other}, resume=path)
    assert chunk_files(path) == left
    tree = model.predict(X, **options, resume=path)
    assert chunk_files(path) == chunk_files(whole)
    draws = model.predict(X, **{**options, "statistics": None, "store": "memory"})
    with xr.open_datatree(path, engine="zarr") as opened:
        check(opened, draws)
    check(tree, draws)
    # Asked again it is complete, and says the same.
    check(model.predict(X, **options, resume=path), draws)


def test_draws_that_were_interrupted_are_not_finished_as_statistics(tmp_path):
    X = np.random.default_rng(1).normal(size=(9000, 2)).astype(np.float32)
    model = new_model(scaled, {"b": np.linspace(0, 1, 7, dtype=np.float32)})
    options = {**MEMORY, "store": "persistent", "batch_size": 1024, "return_sites": ["y", "mu"]}
    with pytest.raises(Trouble):
        model.predict(Watched(X, raising_from(6 * 1024, Trouble(), tmp_path)), **options, output_dir=tmp_path)
    (path,) = tmp_path.iterdir()
    with pytest.raises(ValueError, match=r"statistics differ"):
        model.predict(X, **options, statistics="mean", resume=path)


# ------------------------------------------------------------------------------------------- what is asked


@pytest.mark.parametrize(("kind", "prob"), [("hdi", 0.5), ("eti", 0.94), ("hdi", 0.89)])
def test_interval_is_that_of_arvizs_settings(kind, prob):
    case, model = shared("linear")
    draws = arrays(model.predict(case.X, **MEMORY))
    with rc_context({"stats.ci_prob": prob, "stats.ci_kind": kind}):
        group = model.predict(case.X, **MEMORY, statistics="interval")["posterior_predictive"]
    assert group.attrs["interval_kind"] == [kind]
    assert group.attrs["interval_prob"] == [prob]
    percent = f"{100 * prob:g}"
    assert list(group["statistic"].values) == [f"{kind}{percent}_lb", f"{kind}{percent}_ub"]
    bounds = getattr(array_stats, kind)
    for name, values in draws.items():
        expected = bounds(values[0].astype(np.float64), prob, axis=0)
        np.testing.assert_allclose(group[name].values.T, expected, rtol=1e-15)
    plain = model.predict(case.X, **MEMORY, statistics="mean")["posterior_predictive"]
    assert not {"interval_kind", "interval_prob"} & plain.attrs.keys()


def test_one_statistic_needs_no_brackets():
    case, model = shared("linear")
    many = model.predict(case.X, **MEMORY, statistics=ASKED)["posterior_predictive"]["y"]
    for one, label in (("mean", "mean"), (0.5, "0.5"), (np.float32(0.5), "0.5"), (1, "1")):
        found = model.predict(case.X, **MEMORY, statistics=one)["posterior_predictive"]["y"]
        assert found.shape == (1, N)
        np.testing.assert_array_equal(found.sel(statistic=label), many.sel(statistic=label))
    for pairs in ([("exceeds", 0.5)], iter([["exceeds", 0.5]]), {("exceeds", 0.5): "yes"}):
        found = model.predict(case.X, **MEMORY, statistics=pairs)["posterior_predictive"]["y"]
        np.testing.assert_array_equal(found.sel(statistic="exceeds 0.5"), many.sel(statistic="exceeds 0.5"))


REFUSED: list[tuple[Any, str]] = [
    ("median", r"`statistics` must be known; got 'median'\. Known: 'mean', 'sd', numbers between 0 and 1"),
    (("mean", "max"), r"must be known; got 'max'"),
    (1.5, r"must be known; got 1\.5"),
    ((-0.1,), r"must be known; got -0\.1"),
    (float("nan"), r"must be known; got nan"),
    (True, r"must be known; got True"),
    (("mean", False), r"must be known; got False"),
    (("exceeds", 3.0), r"got 'exceeds'\. Put it in brackets, `statistics=\(\['exceeds', 3\.0\],\)`"),
    (("hdi", 0.9), r"got 'hdi'\. Put it in brackets"),
    ([("exceeds", float("nan"))], r"must be known; got \('exceeds', nan\)"),
    ([("exceeds", "much")], r"must be known; got \('exceeds', 'much'\)"),
    ([("eti", 1.0)], r"must be known; got \('eti', 1\.0\)"),
    ([("hdi", 0)], r"must be known; got \('hdi', 0\)"),
    ([("hdi", True)], r"must be known; got \('hdi', True\)"),
    ([("hdi", 0.5, 0.9)], r"must be known; got \('hdi', 0\.5, 0\.9\)"),
    ([None], r"must be known; got None"),
    (3 + 0j, r"must be known; got \(3\+0j\)"),
    ((), r"must name at least one statistic, and each once; got none\. Known"),
    (("mean", 0.5, "mean"), r"each once; got 'mean' twice"),
    ((0.5, 0.50), r"each once; got '0\.5' twice"),
    (("interval", ("eti", 0.89)), r"each once; got 'eti89_lb' twice"),
    ((0, 0.0), r"each once; got '0' twice"),
]


@pytest.mark.parametrize(
    "method", ["predict", "sample_posterior_predictive", "sample_prior_predictive", "log_likelihood"]
)
@pytest.mark.parametrize(("asked", "match"), REFUSED, ids=lambda p: "" if isinstance(p, str) and " " in p else str(p))
def test_refusals(method, asked, match, tmp_path):
    """In the same words everywhere, before anything is computed, a key used or a directory made."""
    model = product_model()
    key = model.rng_key
    options = {"progress": False, "output_dir": tmp_path / "new", "statistics": asked}
    more = {"sample_prior_predictive": {"num_samples": 2}, "log_likelihood": {"y": ROWS}}.get(method, {})
    with pytest.raises(ValueError, match=match):
        getattr(model, method)(ROWS, **more, **options)
    assert model.rng_key == key
    assert not (tmp_path / "new").exists()
    assert model.temp_dir is None


def test_arrays_are_no_statistics():
    """An array of quantiles is; one of several axes is not."""
    case, model = shared("linear")
    found = model.predict(case.X, **MEMORY, statistics=np.array([0.25, 0.75]))["posterior_predictive"]
    assert list(found["statistic"].values) == ["0.25", "0.75"]
    with pytest.raises(ValueError, match="`statistics` must be known"):
        model.predict(case.X, **MEMORY, statistics=np.array([[0.25, 0.75]]))


def test_a_site_may_not_be_named_as_the_dimension():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.deterministic("statistic", b * X)
        numpyro.sample("y", dist.Normal(X), obs=y)

    model = new_model(kernel, {"b": np.ones(2, np.float32)})
    with pytest.raises(ValueError, match="A site named 'statistic' has no place in a result with `statistics`"):
        model.predict(ROWS, **MEMORY, statistics="mean")
    assert "statistic" in model.predict(ROWS, **MEMORY)["posterior_predictive"]


def test_no_effect_is_taken_of_statistics():
    """The difference of two quantiles is no quantile of the difference."""
    case, model = shared("linear")
    tree = model.predict(case.X, **MEMORY, statistics=(0.5,))
    key = model.rng_key
    with pytest.raises(ValueError, match="The scenarios hold statistics over draws"):
        model.estimate_effect(tree, tree)
    draws = {**MEMORY, "X": case.X}
    with pytest.raises(ValueError, match="`args_intervention` must leave `statistics` out"):
        model.estimate_effect(args_baseline=draws, args_intervention={**draws, "statistics": (0.5,)})
    with pytest.raises(ValueError, match="`args_baseline` must leave `statistics` out"):
        model.estimate_effect(args_baseline={**draws, "statistics": "mean"}, args_intervention=draws)
    with pytest.raises(ValueError, match="statistics over draws"):
        model.estimate_effect(model.predict(case.X, **MEMORY), tree)
    assert model.rng_key == key


# ------------------------------------------------------------------------------------------- law 10


def test_what_is_kept_does_not_grow_with_draws(monkeypatch, tmp_path):
    """What reaches the sink, what is on disk, and what of the draws is there at once."""
    written: list[int] = []
    together: list[int] = []
    write, reduce = InMemoryStore.write, Statistics.__call__

    def noting_write(sink, name, array, start):
        written.append(array.nbytes)
        write(sink, name, array, start)

    def noting_reduce(statistics, draws):
        together.append(draws.nbytes)
        return reduce(statistics, draws)

    monkeypatch.setattr(InMemoryStore, "write", noting_write)
    monkeypatch.setattr(Statistics, "__call__", noting_reduce)
    options = {**MEMORY, "statistics": ("mean", 0.5), "return_sites": "mu"}
    kept, disk, most = {}, {}, {}
    for n_draws in (64, 16384):
        model = new_model(product, {"b": np.linspace(0, 1, n_draws, dtype=np.float32)})
        written.clear()
        together.clear()
        model.predict(ROWS, **options)
        kept[n_draws], most[n_draws] = sum(written), max(together)
        stored = {**options, "store": "persistent", "output_dir": tmp_path / str(n_draws)}
        path = Path(model.predict(ROWS, **stored).attrs["artifact_path"]) / "posterior_predictive" / "mu"
        disk[n_draws] = sum(len(data) for data in chunk_files(path).values())
    assert kept[64] == kept[16384] == 2 * 8 * N
    assert 0 < disk[16384] <= 1.5 * disk[64]
    # Two blocks of at most 16 MiB of all sites, where all draws together are 164 MB: blocks get shorter.
    assert most[16384] <= 2 * 16 * 2**20 < 4 * 16384 * N


def test_where_draws_are_cut_they_wait_in_a_file_that_is_gone(monkeypatch, tmp_path):
    """Also where something fails; a directory of temporary files is empty before and after."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    opened: list[TemporaryFileStore] = []
    enter = TemporaryFileStore.__enter__
    monkeypatch.setattr(TemporaryFileStore, "__enter__", lambda sink: (opened.append(sink), enter(sink))[1])
    model = every_shape_model()
    options = {**MEMORY, "return_sites": ["mu", "b"], "shard_axis": "draw"}
    model.predict(ROWS, **options, statistics="mean")
    assert len(opened) == 1
    assert all(file.closed for file in opened[0]._files)
    assert len(opened[0]._files) == 2

    def failing(*_):
        raise Trouble("in the statistics")

    monkeypatch.setattr(Statistics, "__call__", failing)
    with pytest.raises(Trouble, match="in the statistics"):
        model.predict(ROWS, **options, statistics="mean")
    assert all(file.closed for file in opened[1]._files)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shard_axis", ["obs", "draw"])
def test_no_sites_have_no_statistics(shard_axis):
    """`return_sites=[]` returns none, with statistics as without."""
    model = every_shape_model()
    tree = model.predict(ROWS, **MEMORY, return_sites=[], statistics="mean", shard_axis=shard_axis)
    assert not tree["posterior_predictive"].data_vars
