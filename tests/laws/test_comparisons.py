"""Law 4 for averages: many scenarios in one pass are what each would be alone, added up over rows; and in words."""

import json
import math
import re
import warnings
from functools import cache
from typing import Any

import dask.array
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from arviz_base import rc_context
from arviz_stats import summary as arviz_summary
from jax import random
from numpyro.infer import MCMC, NUTS

import aimz
from aimz import ImpactModel
from aimz.errors import NotFittedError
from aimz.forward import CompiledPrograms
from aimz.store import SumAccumulator
from aimz.utils.data import ArrayDataset, ArrayLoader
from kernels import Case
from stream_helpers import KEY, MEMORY, D, N, arrays, new_model, padded_batches, shared

pytestmark = pytest.mark.usefixtures("quiet_local_latents")

OPTIONS = {"progress": False, "rng_key": KEY}
CHEAP = ("linear", "local_latents", "masked", "state_space")
DIMS = ("chain", "draw")


def labels_of(n_obs: int) -> np.ndarray:
    return np.array(["low", "mid", "top"])[np.arange(n_obs) * 7 % 11 % 3]


def weights_of(n_obs: int) -> np.ndarray:
    """Also none at all."""
    return np.asarray(np.arange(n_obs) % 5, np.float32)


def averaged(values: np.ndarray, weights: np.ndarray | None = None, codes: np.ndarray | None = None) -> np.ndarray:
    """Return the averages of ``(chain, draw, row, ...)`` over the rows, in doubles; the groups take their place."""
    values = values.astype(np.float64)
    weights = np.ones(values.shape[2]) if weights is None else np.asarray(weights, np.float64)
    if codes is None:
        return np.average(values, axis=2, weights=weights)
    cells = [codes == code for code in range(codes.max() + 1)]
    return np.stack([np.average(values[:, :, cell], axis=2, weights=weights[cell]) for cell in cells], axis=2)


def assert_near(found: np.ndarray, expected: np.ndarray, scale: np.ndarray, what: str = "") -> None:
    """To 1e-5 of the averages the effects are between."""
    assert found.dtype == np.float64
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(np.abs(scale).max(), 1e-2), err_msg=what)


def another(value: Any) -> Any:
    """Another dose of an intervention."""
    if callable(value):
        return lambda given: 3 * value(given)
    return 1 if isinstance(value, int) else np.asarray(value) * 0.5 + 0.25


def scenarios_of(case: Case) -> dict[str, dict[str, Any]]:
    third = {name: another(value) for name, value in case.intervention.items()}
    return {"as is": {}, "other": {"intervention": case.intervention}, "third": {"intervention": third}, "again": {}}


def row_effect(model: ImpactModel, arguments: dict[str, Any], before: dict, after: dict) -> dict[str, np.ndarray]:
    tree = model.estimate_effect(
        args_baseline={**arguments, **before, **MEMORY}, args_intervention={**arguments, **after, **MEMORY}
    )
    return arrays(tree)


# ------------------------------------------------------------------------------------------- of some kernels


@pytest.mark.parametrize("name", CHEAP)
def test_without_groups_and_weights(name):
    """All rows count alike; the other way round the sign changes."""
    case, model = shared(name)
    arguments, scenarios = case.arguments(), scenarios_of(case)
    there = model.compare_scenarios(scenarios, baseline="as is", **arguments, **OPTIONS)
    assert set(there.children) == {"effect", "scenarios", "groups"}
    assert there["groups"]["rows"] == there["groups"]["weight"] == len(case.X)
    back = model.compare_scenarios(scenarios, baseline="other", **arguments, **OPTIONS)
    by_row = row_effect(model, arguments, {}, scenarios["other"])
    for site in case.returns:
        effect = there["effect"][site].sel(scenario="other").values
        scale = there["scenarios"][site].values
        assert effect.shape == (1, D, *by_row[site].shape[3:])
        assert_near(effect, averaged(by_row[site]), scale, site)
        assert_near(back["effect"][site].sel(scenario="as is").values, -effect, scale, site)
        assert (effect != 0).any()
        # The same twice is the same, to the bit; for other kernels see `test_comparisons_of_every_kernel`.
        assert (there["effect"][site].sel(scenario="again") == 0).all()
        twice = (there["scenarios"][site].sel(scenario=name, drop=True) for name in ("as is", "again"))
        np.testing.assert_array_equal(*twice)


@pytest.mark.parametrize("name", CHEAP)
def test_batch_size_does_not_show(name):
    """Nor how many scenarios are asked about in another order, where they share one world."""
    case, model = shared(name)
    n_obs = len(case.X)
    options = {**OPTIONS, "by": labels_of(n_obs), "weights": weights_of(n_obs), **case.arguments()}
    whole = model.compare_scenarios(scenarios_of(case), baseline="as is", **options)
    for batch_size in (1, 1500, 2048, 10**6):
        found = model.compare_scenarios(scenarios_of(case), baseline="as is", **options, batch_size=batch_size)
        for group in ("effect", "scenarios", "effect_overall", "scenarios_overall", "groups"):
            xr.testing.assert_equal(found[group].to_dataset(), whole[group].to_dataset())


def test_chains_are_the_draws_in_order():
    case, one = shared("linear")
    draws = {name: np.concatenate([value, value[::-1]]) for name, value in one.posterior.items()}
    model = new_model(case.kernel, draws, num_chains=2)
    alone = new_model(case.kernel, draws)
    options = {**OPTIONS, "X": case.X, "by": labels_of(N), "baseline": "as is"}
    two = model.compare_scenarios(scenarios_of(case), **options)
    flat = alone.compare_scenarios(scenarios_of(case), **options)
    assert two["effect"]["y"].shape == (2, D, 3, 3)
    for group in ("effect", "scenarios", "effect_overall"):
        for site in case.returns:
            found = two[group][site].values
            np.testing.assert_array_equal(found.reshape(1, 2 * D, *found.shape[2:]), flat[group][site].values)


# ------------------------------------------------------------------------------------------- scenarios of any kind


def world(X, t, cubic=False, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        m = numpyro.sample("m", dist.Normal(X[:, 0], 0.5))
        mu = numpyro.deterministic("mu", m + b * (t**3 if cubic else t))
        numpyro.sample("y", dist.Normal(mu, 0.3), obs=y)


X2 = np.asarray(random.normal(random.key(2), (N, 2)))
T = np.linspace(0, 1, N, dtype=np.float32)
ROW = np.asarray(random.normal(random.key(3), (N,)))
B = np.linspace(0.5, 1.5, D, dtype=np.float32)
M = np.asarray(random.normal(random.key(4), (D, N)))


def world_model() -> ImpactModel:
    return new_model(world, {"b": B, "m": M})


# Each scenario, and its `mu` for given `b` and `m`, `(n_draws, 1)` and `(n_draws, n_obs)`.
WORLDS: dict[str, tuple[dict[str, Any], Any]] = {
    "as is": ({}, lambda b, m: m + b * T),
    "argument by number": ({"intervention": {"t": 2.0}}, lambda b, m: m + 2 * b),
    "argument by another": ({"intervention": {"t": 3}}, lambda b, m: m + 3 * b),
    "argument by row": ({"intervention": {"t": ROW}}, lambda b, m: m + b * ROW),
    "argument by function": ({"intervention": {"t": lambda t: t**2}}, lambda b, m: m + b * T.astype(float) ** 2),
    "argument itself": ({"t": ROW}, lambda b, m: m + b * ROW),
    "site by number": ({"intervention": {"m": 0.5}}, lambda b, m: 0.5 + b * T),
    "site by row": ({"intervention": {"m": ROW}}, lambda b, m: ROW + b * T),
    "site by function": ({"intervention": {"m": lambda m: m + 1}}, lambda b, m: m + 1 + b * T),
    "global site": ({"intervention": {"b": -1.0}}, lambda b, m: m - T),
    "global site by function": ({"intervention": {"b": lambda b: 2 * b}}, lambda b, m: m + 2 * b * T),
    "deterministic site": ({"intervention": {"mu": ROW}}, lambda b, m: np.broadcast_to(ROW, M.shape)),
    "static argument": ({"cubic": True}, lambda b, m: m + b * T.astype(float) ** 3),
    "several": ({"intervention": {"t": ROW, "b": 0.5, "m": 2.0}}, lambda b, m: np.broadcast_to(2 + 0.5 * ROW, M.shape)),
}


def test_scenarios_of_any_structure_in_one_call():
    """Sites set, arguments set, by number, by row and by function: the mean is what it is on paper, and so is `y`."""
    model, codes = world_model(), np.arange(N) % 4
    scenarios = {name: args for name, (args, _) in WORLDS.items()}
    tree = model.compare_scenarios(
        scenarios, baseline="as is", by=codes, X=X2, t=T, **OPTIONS, return_sites=["mu", "y", "b"]
    )
    b, m = B.astype(float)[:, None], M.astype(float)
    means = {name: mean(b, m)[None] for name, (_, mean) in WORLDS.items()}
    for name in WORLDS:
        found = tree["scenarios"]["mu"].sel(scenario=name).values
        np.testing.assert_allclose(found, averaged(means[name], None, codes), rtol=1e-5, atol=1e-6, err_msg=name)
        if name == "as is":
            continue
        expected = averaged(means[name] - means["as is"], None, codes)
        for site in ("mu", "y"):  # the noise is common
            found = tree["effect"][site].sel(scenario=name).values
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6, err_msg=f"{site} {name}")
    assert tree["effect"]["b"].dims == (*DIMS, "scenario")  # of no row, so of no group
    values = tree["scenarios"]["b"]
    np.testing.assert_allclose(values.sel(scenario="global site"), -1)
    np.testing.assert_allclose(values.sel(scenario="global site by function")[0], 2 * B)
    np.testing.assert_allclose(values.sel(scenario="argument by row")[0], B)
    attrs = tree["effect"].attrs
    said = json.loads(attrs["interventions"])
    assert said["several"].keys() == {"t", "b", "m"}
    assert said["as is"] == said["static argument"] == {}
    assert said["argument by number"] == {"t": 2.0}
    assert attrs["local_latents"] == "posterior"
    assert "drawn_anew" not in attrs
    assert (attrs["baseline"], attrs["contrast"], attrs["no_effect"], attrs["n_obs"]) == ("as is", "difference", 0, N)


def test_the_order_of_scenarios_does_not_show():
    """Worlds are computed in another order than scenarios are named."""
    model = world_model()
    names = list(WORLDS)
    for order in (names[::-1], names[1::2] + names[::2]):
        scenarios = {name: WORLDS[name][0] for name in order}
        shared_by_all = {"X": X2, "t": T, "return_sites": "mu", **OPTIONS}
        found = model.compare_scenarios(scenarios, baseline="site by row", **shared_by_all)
        b, m = B.astype(float)[:, None], M.astype(float)
        means = {name: mean(b, m)[None] for name, (_, mean) in WORLDS.items()}
        for name in order:
            effect = averaged(means[name] - means["site by row"])
            np.testing.assert_allclose(found["scenarios"]["mu"].sel(scenario=name), averaged(means[name]), atol=1e-5)
            if name != "site by row":
                np.testing.assert_allclose(found["effect"]["mu"].sel(scenario=name), effect, atol=1e-5)


def test_what_one_scenario_draws_anew_all_do():
    """Or the difference would be between fitted rows and others; the attributes say so."""
    model = world_model()
    options = {**OPTIONS, "baseline": "as is", "X": X2, "t": T, "return_sites": ["m", "mu"]}
    kept = {"as is": {}, "t": {"intervention": {"t": 2.0}}}
    anew = {**kept, "X": {"intervention": {"X": lambda X: X + np.float32(1)}}}
    found = model.compare_scenarios(kept, **options)
    assert "drawn_anew" not in found["effect"].attrs
    assert found["scenarios"].attrs["local_latents"] == "posterior"
    np.testing.assert_allclose(found["scenarios"]["m"].values[0, :, 0], M.mean(1), rtol=1e-5)
    found = model.compare_scenarios(anew, **options)
    assert found["effect"].attrs["drawn_anew"] == ["m"]
    assert "local_latents" not in found["scenarios"].attrs
    drawn = found["scenarios"]["m"].values[0]
    # 2,500 draws of sd 0.5 around the input, to five standard errors; and the posterior's are not among them.
    assert (np.abs(drawn[:, 0] - X2[:, 0].mean()) < 5 * 0.5 / np.sqrt(N)).all()
    assert (drawn[:, 0] != M.mean(1)).all()
    np.testing.assert_allclose(found["effect"]["m"].values[0], [[0, 1]] * D, atol=1e-6)
    np.testing.assert_allclose(drawn[:, 0], drawn[:, 1], rtol=1e-12)
    other = {name: {**args, "in_sample": False} for name, args in kept.items()}
    found = model.compare_scenarios(other, **options)
    assert found["effect"].attrs["in_sample"] == 0
    assert found["effect"].attrs["local_latents"] == "drawn anew"
    np.testing.assert_array_equal(found["scenarios"]["m"].values[0, :, 0], drawn[:, 0])


def test_the_key_is_used_once():
    model, again = world_model(), world_model()
    scenarios = {"as is": {}, "t": {"intervention": {"t": 2.0}}}
    options = {"baseline": "as is", "X": X2, "t": T, "progress": False, "kind": "outcome"}
    first = model.compare_scenarios(scenarios, **options)
    second = model.compare_scenarios(scenarios, **options)
    assert (first["scenarios"]["y"] != second["scenarios"]["y"]).any()
    again.predict(X2, t=T, store="memory", progress=False)  # one key as well
    assert again.rng_key != model.rng_key
    third = again.compare_scenarios(scenarios, **options)
    xr.testing.assert_equal(third["scenarios"].to_dataset(), second["scenarios"].to_dataset())
    assert again.rng_key == model.rng_key


def mixing(X, t, y=None):
    """A row sees the mean of all."""
    b = numpyro.sample("b", dist.Normal())
    mu = numpyro.deterministic("mu", b * (X[:, 0] - X[:, 0].mean()) + t)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


@pytest.mark.parametrize("n_groups", [1, 5, 1500])
def test_rows_that_mix(n_groups):
    """All are computed together, which is said, and added up in parts of their own."""
    model, codes = new_model(mixing, {"b": B}), np.arange(N) * 13 % n_groups
    rng = np.random.default_rng(n_groups)
    weights = rng.gamma(1, size=N).astype(np.float32)
    scenarios = {"as is": {}, "twice": {"intervention": {"X": lambda X: 2 * X}}, "t": {"intervention": {"t": 1.0}}}
    options = {**OPTIONS, "baseline": "as is", "t": T, "weights": weights, "by": None if n_groups == 1 else codes}
    with pytest.warns(UserWarning, match="`mixing` cannot be split along its rows .* all rows are computed together"):
        found = model.compare_scenarios(scenarios, X=X2, **options)
    x = X2[:, 0].astype(float)
    mean = B[:, None] * (x - x.mean()) + T
    for name, expected in (("twice", mean - T), ("t", np.broadcast_to(1 - T, mean.shape))):
        hand = averaged(expected[None], weights, None if n_groups == 1 else codes)
        np.testing.assert_allclose(found["effect"]["mu"].sel(scenario=name), hand, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(found["effect"]["y"].sel(scenario=name), hand, atol=1e-5, err_msg=name)
    for batches in (padded_batches({"X": X2}), padded_batches({"X": X2}, 2500)):
        again = model.compare_scenarios(scenarios, X=batches, **options)
        for group in found.children:
            xr.testing.assert_equal(again[group].to_dataset(), found[group].to_dataset())


@pytest.mark.parametrize("kind", ["generator", "padded", "loader", "memmap", "dask", "data set"])
@pytest.mark.parametrize("by", [False, True])
def test_rows_from_anywhere(kind, by, tmp_path):
    """The same bits; of unknown length, too."""
    model = world_model()
    model.describe(X2, t=T)
    groups = {"by": np.arange(N) * 7 % 13, "weights": weights_of(N)} if by else {}
    mapped = np.memmap(tmp_path / "X", X2.dtype, "w+", shape=X2.shape)
    mapped[:] = X2
    both = {"X": X2, "t": T}
    ways: dict[str, Any] = {
        "generator": lambda: {"X": ({name: v[i : i + 700] for name, v in both.items()} for i in range(0, N, 700))},
        "padded": lambda: {"X": padded_batches(both)},
        "loader": lambda: {"X": ArrayLoader(ArrayDataset(**both), random.key(0), batch_size=123)},
        "memmap": lambda: {"X": mapped, "t": T},
        "dask": lambda: {"X": dask.array.from_array(X2, chunks=(400, -1)), "t": dask.array.from_array(T, chunks=999)},
        "data set": lambda: {"X": ArrayDataset(**both)},
    }
    scenarios = {
        "as is": {},
        "number": {"intervention": {"t": 2.0}},
        "function": {"intervention": {"t": lambda t: t**2 + 1}},
        "another": {"intervention": {"t": lambda t: 3 * t}},
        "site": {"intervention": {"m": 1.0}},
        "both": {"intervention": {"m": 1.0, "X": lambda X: -X}},
    }
    whole = model.compare_scenarios(scenarios, baseline="as is", **both, **groups, **OPTIONS)
    found = model.compare_scenarios(scenarios, baseline="as is", **ways[kind](), **groups, **OPTIONS)
    assert found["effect"].attrs["n_obs"] == N
    for group in whole.children:
        xr.testing.assert_equal(found[group].to_dataset(), whole[group].to_dataset())


@pytest.mark.parametrize("beside", [{"by": np.arange(2400)}, {"weights": np.ones(2600)}, {"t": np.zeros(2600)}])
def test_rows_of_unknown_length_are_counted(beside):
    """What goes with them must be as many; which is known only when they have ended."""
    name, array = next(iter(beside.items()))
    given = {"t": np.resize(T, len(array)), **beside} if name == "t" else {**beside}
    batches = padded_batches({"X": X2} if name == "t" else {"X": X2, "t": T})
    with pytest.raises(ValueError, match=rf"The iterable has \d+ rows.*, and `{name}` has {len(array)}\."):
        plain_model().compare_scenarios(DOSES, X=batches, **given, **PLAIN)


# ------------------------------------------------------------------------------------------- groups and weights


def plain(X, t, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        mu = numpyro.deterministic("mu", b * t + X[:, 0])
        numpyro.sample("y", dist.Normal(mu), obs=y)


def plain_model(n_draws: int = D, **options: Any) -> ImpactModel:
    return new_model(plain, {"b": np.linspace(0.5, 1.5, n_draws, dtype=np.float32)}, **options)


DOSES = {"none": {"intervention": {"t": 0.0}}, "full": {"intervention": {"t": 1.0}}, "as is": {}}
PLAIN = {**OPTIONS, "baseline": "none", "return_sites": "mu"}


def effect_by_hand(weights: np.ndarray | None = None, codes: np.ndarray | None = None) -> np.ndarray:
    """The effect of the actual dose against none."""
    return averaged((B.astype(float)[:, None] * T)[None], weights, codes)


SEGMENT = np.array(["b", "a", "c", "a"])[np.arange(N) % 4]
YEAR = 2000 + np.arange(N) % 3


@pytest.mark.parametrize(
    ("by", "names"),
    [
        (SEGMENT, ["a", "b", "c"]),
        (SEGMENT.tolist(), ["a", "b", "c"]),
        (SEGMENT.astype(object), ["a", "b", "c"]),
        (pd.Series(SEGMENT, index=np.arange(N)[::-1]), ["a", "b", "c"]),
        (pd.Categorical(SEGMENT, categories=["c", "b", "a", "unused"]), ["c", "b", "a"]),
        (YEAR, [2000, 2001, 2002]),
        (jnp.asarray(YEAR), [2000, 2001, 2002]),
        (YEAR - 2001.5, [-1.5, -0.5, 0.5]),
        (YEAR == 2001, [False, True]),
        (np.array(["2020-01-02", "2019-05-06"], "datetime64[ns]")[np.arange(N) % 2], None),
    ],
    ids=["text", "list", "objects", "series", "categories", "integers", "JAX", "floats", "booleans", "dates"],
)
def test_labels_of_any_type(by, names):
    """Groups come in the order of their labels, those of categories in theirs; rows are matched by place."""
    found = plain_model().compare_scenarios(DOSES, by=by, X=X2, t=T, **PLAIN)
    known, codes = np.unique(np.asarray(by), return_inverse=True)
    labels = found["effect"]["group"].values
    if isinstance(by, pd.Categorical):
        known, codes = known[::-1], 2 - codes
    np.testing.assert_array_equal(labels, known)
    assert names is None or labels.tolist() == names
    np.testing.assert_allclose(
        found["effect"]["mu"].sel(scenario="as is"), effect_by_hand(None, codes), rtol=1e-5, atol=1e-7
    )
    np.testing.assert_array_equal(found["groups"]["rows"], np.bincount(codes))


def test_several_labels_at_once():
    """One dimension each; what no row has in common has no average, and says so."""
    region = np.where(SEGMENT == "c", "north", "south")
    found = plain_model().compare_scenarios(
        DOSES, by={"segment": SEGMENT, "region": region, "year": YEAR}, X=X2, t=T, **PLAIN
    )
    effect, groups = found["effect"]["mu"].sel(scenario="as is"), found["groups"]
    assert effect.dims == (*DIMS, "segment", "region", "year")
    frame = pd.DataFrame({"segment": SEGMENT, "region": region, "year": YEAR, "t": T.astype(float)})
    cells = frame.groupby(["segment", "region", "year"])["t"]
    for place in np.ndindex(3, 2, 3):
        label = tuple(effect.coords[dim].values[i] for dim, i in zip(("segment", "region", "year"), place, strict=True))
        one = effect.values[(0, slice(None), *place)]
        rows = sum((label[0] == SEGMENT) & (region == label[1]) & (label[2] == YEAR))
        assert groups["rows"].values[place] == groups["weight"].values[place] == rows
        if rows:
            np.testing.assert_allclose(one, B * cells.get_group(label).mean(), rtol=1e-5)
        else:
            assert np.isnan(one).all()
    assert (groups["rows"] == 0).sum() == 9
    assert int(groups["rows"].sum()) == N
    overall = found["effect_overall"]["mu"].sel(scenario="as is").values
    np.testing.assert_allclose(overall, effect_by_hand(), rtol=1e-5)
    for name, labels in {"segment": SEGMENT, "region": region, "year": YEAR}.items():  # each set alone
        margin = found[f"effect_by_{name}"]["mu"]
        alone = plain_model().compare_scenarios(DOSES, by={name: labels}, X=X2, t=T, **PLAIN)["effect"]["mu"]
        xr.testing.assert_allclose(margin.to_dataset(), alone.to_dataset(), rtol=1e-5)


def test_labels_by_name(tmp_path):
    """Of an argument, a column of a frame, several of these, and of labels beside them."""
    case, model = shared("hierarchical")
    group = case.extra["group"]
    scenarios = {"as is": {}, "up": {"intervention": {"X": lambda X: X + 1}}}
    options = {**case.arguments(), **OPTIONS, "baseline": "as is"}
    expected = model.compare_scenarios(scenarios, by={"group": np.asarray(group)}, **options)
    for by in ("group", ["group"], ("group",), {"group": "group"}):
        found = model.compare_scenarios(scenarios, by=by, **options)
        assert found["effect"]["y"].dims == (*DIMS, "scenario", "group")
        for name in found.children:
            xr.testing.assert_equal(found[name].to_dataset(), expected[name].to_dataset())

    frame = pd.DataFrame({"x0": X2[:, 0], "x1": X2[:, 1], "segment": np.arange(N) % 3}, index=np.arange(N)[::-1])
    one = {**PLAIN, "t": T, "X": frame}
    found = plain_model().compare_scenarios(DOSES, by="segment", **one)
    codes = np.arange(N) % 3
    assert found["effect"]["mu"].dims == (*DIMS, "scenario", "segment")
    hand = effect_by_hand(None, codes)
    np.testing.assert_allclose(found["effect"]["mu"].sel(scenario="as is"), hand, rtol=1e-5, atol=1e-7)
    found = plain_model().compare_scenarios(DOSES, by={"a": "segment", "b": YEAR, "c": SEGMENT}, **one)
    assert found["effect"]["mu"].sizes == {"chain": 1, "draw": D, "scenario": 2, "a": 3, "b": 3, "c": 3}
    found = plain_model().compare_scenarios(DOSES, by=["segment", "t"], **{**one, "t": np.float32(YEAR)})
    assert found["groups"]["rows"].dims == ("segment", "t")


@pytest.mark.parametrize("order", ["as they come", "sorted", "mixed"])
@pytest.mark.parametrize("batch_size", [None, 1])
def test_more_groups_than_a_block_has_rows(order, batch_size):
    """Each block then has sums of its own groups only; pandas is the witness."""
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 1700, N) * 3
    codes = np.sort(codes) if order == "sorted" else codes
    weights = rng.gamma(1, size=N).astype(np.float32)
    by: Any = codes
    if order == "mixed":
        by = {"one": codes, "two": np.arange(N) % 50}  # 65,000 cells, almost all of them empty
    found = plain_model().compare_scenarios(DOSES, by=by, weights=weights, X=X2, t=T, **PLAIN, batch_size=batch_size)
    frame = pd.DataFrame({"one": codes, "two": np.arange(N) % 50, "w": weights.astype(float), "t": T.astype(float)})
    frame["x"] = X2[:, 0].astype(float)
    keys = ["one", "two"] if order == "mixed" else ["one"]
    sums = frame.assign(t=frame.w * frame.t, x=frame.w * frame.x).groupby(keys)[["w", "t", "x"]].sum()
    assert np.prod(found["groups"]["rows"].shape) > 1024
    effect = found["effect"]["mu"].sel(scenario="as is").values[0].reshape(D, -1)
    base = found["scenarios"]["mu"].sel(scenario="none").values[0].reshape(D, -1)
    rows = found["groups"]["rows"].values.ravel()
    there = rows > 0
    assert there.sum() == len(sums)
    np.testing.assert_array_equal(rows[there], frame.groupby(keys).size())
    np.testing.assert_allclose(found["groups"]["weight"].values.ravel()[there], sums.w, rtol=1e-12)
    # Of few rows, which are rounded around `X`.
    np.testing.assert_allclose(effect[:, there], B[:, None] * (sums.t / sums.w).values, rtol=1e-6, atol=5e-7)
    np.testing.assert_allclose(base[:, there], np.tile(sums.x / sums.w, (D, 1)), rtol=1e-5, atol=1e-6)
    assert np.isnan(effect[:, ~there]).all()


def test_weights_of_a_part_are_the_effect_on_that_part():
    """The effect on the treated is the average over them; a weight of two is a row twice."""
    model, treated = plain_model(), T > 0.7
    options = {**PLAIN, "return_sites": ["mu", "y"]}
    found = model.compare_scenarios(DOSES, weights=treated, X=X2, t=T, **options)
    by_row = row_effect(model, {"X": X2, "t": T, "return_sites": ["mu", "y"]}, DOSES["none"], {})
    for site in ("mu", "y"):
        effect = found["effect"][site].sel(scenario="as is").values
        np.testing.assert_allclose(effect, averaged(by_row[site][:, :, treated]), rtol=1e-5)
    assert found["groups"]["weight"] == treated.sum()
    assert found["groups"]["rows"] == N
    assert found["effect"].attrs["weights"] == "given"
    hand = np.average(B.astype(float)[:, None] * T, axis=1, weights=np.where(treated, 2, 1))
    for weights in (np.where(treated, 2, 1), np.where(treated, 0.5, 0.25), np.where(treated, 2, 1).astype(np.uint8)):
        found = model.compare_scenarios(DOSES, weights=weights, X=X2, t=T, **PLAIN)
        np.testing.assert_allclose(found["effect"]["mu"].sel(scenario="as is")[0], hand, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Arguments have NaN")
@pytest.mark.parametrize("by", [None, SEGMENT, np.arange(N) // 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_do_not_count_do_not_poison(by, bad):
    """Whatever their values are."""
    X = X2.copy()
    lost = np.arange(N) % 10 == 3
    X[lost, 0] = bad
    weights = np.where(lost, 0, 1)
    found = plain_model().compare_scenarios(DOSES, weights=weights, by=by, X=X, t=T, **PLAIN)
    clean = plain_model().compare_scenarios(DOSES, weights=weights, by=by, X=X2, t=T, **PLAIN)
    for group in clean.children:
        xr.testing.assert_equal(found[group].to_dataset(), clean[group].to_dataset())
    if by is not SEGMENT:
        return
    # A group all rows of which count nothing has no average, like one without rows.
    none = plain_model().compare_scenarios(DOSES, weights=SEGMENT != "b", by=by, X=X2, t=T, **PLAIN)
    assert np.isnan(none["effect"]["mu"].sel(group="b")).all()
    assert (none["groups"]["weight"].sel(group="b"), none["groups"]["rows"].sel(group="b")) == (0, N // 4)
    np.testing.assert_allclose(
        none["effect"]["mu"].sel(group="a", scenario="as is"),
        effect_by_hand(None, np.unique(SEGMENT, return_inverse=True)[1])[:, :, 0],
        rtol=1e-5,
    )


# ------------------------------------------------------------------------------------------- numerical care


@pytest.mark.filterwarnings("ignore:Arguments have NaN")
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_an_infinite_baseline_leaves_the_scenarios_their_averages(value):
    """Values that are not finite are where they are, and nowhere else."""
    t = T.copy()
    t[[5, 1200]] = value
    scenarios = {"as is": {}, "none": DOSES["none"], "full": DOSES["full"]}
    options = {**PLAIN, "X": X2, "t": t, "by": SEGMENT}
    codes = np.unique(SEGMENT, return_inverse=True)[1]
    groups = np.bincount(codes[[5, 1200]], minlength=3) > 0
    assert groups.sum() in (1, 2)
    for baseline in scenarios:
        found = plain_model().compare_scenarios(scenarios, **{**options, "baseline": baseline})
        averages = found["scenarios"]["mu"]
        expected = averaged(np.broadcast_to(X2[:, 0], (1, D, N)), None, codes)
        np.testing.assert_allclose(averages.sel(scenario="none"), expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(averages.sel(scenario="full")[0], expected[0] + B[:, None], rtol=1e-5, atol=1e-6)
        as_is = averages.sel(scenario="as is").values[0]
        np.testing.assert_array_equal(as_is[:, groups], np.full((D, groups.sum()), value))
        assert np.isfinite(as_is[:, ~groups]).all()
        if baseline == "none":
            full = found["effect"]["mu"].sel(scenario="full").values[0]
            np.testing.assert_allclose(full, np.tile(B[:, None], 3), rtol=1e-6)


def far(X, t, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        mu = numpyro.deterministic("mu", 1e5 + 1e4 * X[:, 0] + b * t)
        numpyro.sample("y", dist.Normal(mu, 10.0), obs=y)


@pytest.mark.parametrize("by", [None, SEGMENT])
def test_a_tiny_effect_on_a_large_mean_keeps_its_digits(by):
    """Against the rows themselves, added up in doubles: nothing is lost beyond the rounding of each row."""
    model = new_model(far, {"b": B})
    arguments = {"X": X2, "t": T, "return_sites": ["mu", "y"]}
    scenarios = {"none": {"intervention": {"t": 0.0}}, "some": {"intervention": {"t": 0.05}}}
    codes = None if by is None else np.unique(by, return_inverse=True)[1]
    found = model.compare_scenarios(scenarios, baseline="none", by=by, **arguments, **OPTIONS)
    rows = {name: arrays(model.predict(**arguments, **MEMORY, **args)) for name, args in scenarios.items()}
    for site in ("mu", "y"):
        exact = averaged(rows["some"][site].astype(np.float64) - rows["none"][site].astype(np.float64), None, codes)
        assert (np.abs(exact) < 0.1).all()
        assert np.abs(averaged(rows["none"][site])).min() > 9e4
        np.testing.assert_allclose(found["effect"][site].sel(scenario="some"), exact, rtol=1e-5, err_msg=site)
        # What two sums in single precision would have made of it.
        lost = (rows["some"][site].sum(2) - rows["none"][site].sum(2)) / N
        assert np.abs(lost / averaged(rows["some"][site] - rows["none"][site]) - 1).max() > 1e-3


def test_many_rows_are_added_up_in_doubles():
    """A hundred thousand times 0.1 and a little: single precision would be off in the fourth digit."""
    n_obs = 100_000
    X = np.full((n_obs, 1), 0.1, np.float32)
    found = plain_model().compare_scenarios(DOSES, X=X, t=np.ones(n_obs, np.float32), **PLAIN)
    np.testing.assert_allclose(found["scenarios"]["mu"].sel(scenario="none"), float(np.float32(0.1)), rtol=1e-6)
    full = found["effect"]["mu"].sel(scenario="full")
    np.testing.assert_allclose(full[0], B, rtol=1e-6)


# ------------------------------------------------------------------------------------------- contrasts


CONTRASTS = {
    "difference": (lambda a, b: a - b, 0.0),
    "ratio": (lambda a, b: a / b, 1.0),
    "lift": (lambda a, b: a / b - 1, 0.0),
}


def odds_ratio(scenario, baseline):
    return scenario / (1 - scenario) / (baseline / (1 - baseline))


def spending(X, exposure, y=None):
    """All of it above zero; counts would do as well, whose noise takes ten times as long to compile."""
    b = numpyro.sample("b", dist.Normal(0, 0.3).expand([X.shape[1]]))
    rate = numpyro.deterministic("rate", exposure * jnp.exp(X @ b))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.LogNormal(jnp.log(rate), 0.5), obs=y)


@cache
def spending_model() -> ImpactModel:
    return new_model(spending, {"b": np.asarray(0.3 * random.normal(random.key(5), (D, 2)))})


@pytest.mark.parametrize("contrast", [*CONTRASTS, odds_ratio])
@pytest.mark.parametrize("by", [None, SEGMENT])
def test_contrasts_are_of_averages(contrast, by):
    """Rows are averaged inside each draw first: a ratio is one of averages, not an average of ratios."""
    if contrast == odds_ratio:
        case, model = shared("logistic")
        name, values, arguments, sites = "b", [[1.0, 0.5, 0.0], [0.1, 0.0, 0.2]], case.arguments(), ("y",)
    else:
        model, arguments, sites = spending_model(), {"X": X2, "exposure": np.abs(ROW) + 1}, ("y", "rate")
        name, values = "exposure", [lambda e: 2 * e, lambda e: e + 1]
    scenarios = {"as is": {}, "one": {"intervention": {name: values[0]}}, "two": {"intervention": {name: values[1]}}}
    options = {"by": by, "contrast": contrast, "baseline": "one", "kind": "outcome", **OPTIONS}
    found = model.compare_scenarios(scenarios, **arguments, **options)
    assert set(found["effect"].data_vars) == set(sites)
    function, null = CONTRASTS.get(contrast, (odds_ratio, 0.0))
    codes = None if by is None else np.unique(by, return_inverse=True)[1]
    rows = {key: arrays(model.predict(**arguments, **MEMORY, **args)) for key, args in scenarios.items()}
    for site in sites:
        averages = {key: averaged(found_rows[site], None, codes) for key, found_rows in rows.items()}
        for key in ("as is", "two"):
            expected = function(averages[key], averages["one"])
            np.testing.assert_allclose(found["effect"][site].sel(scenario=key), expected, rtol=2e-5, atol=2e-5)
    assert found["effect"].attrs["contrast"] == (contrast if isinstance(contrast, str) else "odds_ratio")
    assert found["effect"].attrs["no_effect"] == null
    assert list(found["effect"]["scenario"].values) == ["as is", "two"]


@pytest.mark.parametrize("contrast", ["ratio", "lift"])
def test_a_baseline_of_zero_is_warned_of(contrast):
    """NaN, not infinity; and where it is not zero nothing is lost."""
    X = np.where(SEGMENT == "a", 0, 2).astype(np.float32)[:, None]
    options = {**PLAIN, "X": X, "t": T, "contrast": contrast}
    words = rf"The {contrast} of `mu` is NaN where it has no value: .* is 0 in {D} of {3 * D} draws and groups"
    with pytest.warns(UserWarning, match=words):
        found = plain_model().compare_scenarios(DOSES, by=SEGMENT, **options)
    effect = found["effect"]["mu"]
    assert np.isnan(effect.sel(group="a")).all()
    expected = 1 + B / 2 - (contrast == "lift")
    for group in ("b", "c"):
        np.testing.assert_allclose(effect.sel(group=group, scenario="full")[0], expected, rtol=1e-5)
    assert not np.isinf(effect).any()
    assert np.isfinite(found["effect_overall"]["mu"]).all()
    with pytest.warns(UserWarning, match=rf"is 0 in {D} of {D} draws and groups"):
        found = plain_model().compare_scenarios(DOSES, **{**options, "X": 0 * X})
    assert np.isnan(found["effect"]["mu"]).all()
    assert np.isfinite(found["scenarios"]["mu"]).all()


@pytest.mark.parametrize("contrast", ["ratio", "lift"])
def test_a_baseline_of_either_sign_is_warned_of(contrast):
    scenarios = {"as is": {}, "full": DOSES["full"]}
    model = new_model(plain, {"b": np.array([-1, 1, 2], np.float32)})
    options = {**PLAIN, "baseline": "as is", "X": 0 * X2, "t": T, "contrast": contrast}
    with pytest.warns(UserWarning, match="average of `mu` is below 0 in some draws and above in others"):
        model.compare_scenarios(scenarios, **options)
    # Below 0 in one group and above in another is not the same, but what rises there has a ratio below 1.
    X = np.where(SEGMENT == "a", -10, 30).astype(np.float32)[:, None]
    with pytest.warns(UserWarning, match="opposite sign of the change: the baseline's average of `mu` is below 0"):
        model.compare_scenarios(scenarios, by=SEGMENT, **{**options, "X": X})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.compare_scenarios(scenarios, by=SEGMENT, **{**options, "X": np.abs(X)})


@pytest.mark.parametrize(
    ("contrast", "got"),
    [
        (lambda a, b: float((a - b).mean()), "a float"),
        (lambda a, b: (a - b).values, "a ndarray"),
        (lambda a, b: (a - b).mean("draw"), "dimensions"),
        (lambda a, b: b, "dimensions"),
        (lambda a, b: None, "a NoneType"),
    ],
)
def test_a_contrast_that_returns_something_else_is_told_of(contrast, got):
    with pytest.raises(ValueError, match=rf"`contrast` must return an array with the dimensions .* returned {got}"):
        plain_model().compare_scenarios(DOSES, X=X2, t=T, contrast=contrast, **PLAIN)


def test_hypotheses_are_arithmetic_on_effects():
    """Effects have draws of their own, in common: their differences are effects, and their probabilities counts."""
    model = plain_model(200)
    scenarios = {"none": DOSES["none"], "half": {"intervention": {"t": 0.5}}, "full": DOSES["full"]}
    options = {**OPTIONS, "X": X2, "t": T, "return_sites": "y", "by": SEGMENT}
    against_none = model.compare_scenarios(scenarios, baseline="none", **options)["effect"]["y"]
    against_half = model.compare_scenarios(scenarios, baseline="half", **options)["effect"]["y"]
    more = against_none.sel(scenario="full") - against_none.sel(scenario="half")
    np.testing.assert_allclose(more, against_half.sel(scenario="full"), rtol=1e-5)
    b = np.linspace(0.5, 1.5, 200, dtype=np.float32)
    np.testing.assert_allclose(more.sel(group="a")[0], 0.5 * b, rtol=1e-4)
    assert float((more.sel(group="a") > 0.4).mean()) == np.mean(0.5 * b > 0.4)
    table = aimz.summary(more.rename("more"))
    assert list(table["site"]) == ["more"] * 3
    np.testing.assert_allclose(table["mean"], 0.5, rtol=1e-4)
    between = against_none.sel(group="a") - against_none.sel(group="b")
    np.testing.assert_allclose(between, 0, atol=1e-5)


# ------------------------------------------------------------------------------------------- programs


def counted():
    calls: list[tuple[int, ...]] = []

    def kernel(X, dose, y=None):
        calls.append(X.shape)
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * dose + X), obs=y)

    return kernel, calls


def sweep(levels: np.ndarray) -> dict[str, Any]:
    return {f"{level:g}": {"intervention": {"dose": level}} for level in levels}


def test_a_sweep_of_doses_is_one_program(compilations):
    """Other levels are the same program, and other numbers of rows."""
    kernel, calls = counted()
    model = new_model(kernel, {"b": np.linspace(1, 2, 5, dtype=np.float32)})
    X, dose = np.linspace(0, 1, 3000, dtype=np.float32), np.zeros(3000, np.float32)
    model.predict(X, dose=dose, **MEMORY)  # whatever is compiled for any call
    compilations.clear()
    levels = np.linspace(0, 5, 50)
    found = model.compare_scenarios(sweep(levels), baseline="0", X=X, dose=dose, **OPTIONS)
    assert len(compilations) == 1
    expected = np.linspace(1, 2, 5)[:, None] * levels[1:]
    np.testing.assert_allclose(found["effect"]["y"].values[0], expected, rtol=1e-5, atol=1e-5)
    compilations.clear()
    calls.clear()
    levels = np.linspace(0, 7, 50)
    found = model.compare_scenarios(sweep(levels), baseline="0", X=X, dose=dose, **OPTIONS)
    np.testing.assert_allclose(found["effect"]["y"].values[0], np.linspace(1, 2, 5)[:, None] * levels[1:], rtol=1e-5)
    assert not compilations
    assert not calls
    for n_obs in (2049, 2777, 2999):
        model.compare_scenarios(sweep(levels), baseline="0", X=X[:n_obs], dose=dose[:n_obs], **OPTIONS)
        assert not compilations
    model.set_posterior_sample({"b": np.zeros(5, np.float32)})
    model.compare_scenarios(sweep(levels), baseline="0", X=X, dose=dose, weights=X, **OPTIONS, contrast=odds_ratio)
    assert not compilations


def test_the_kernel_runs_as_often_for_many_scenarios_as_for_few():
    """In Python; what differs in values only is one world."""
    X, dose = np.linspace(0, 1, 3000, dtype=np.float32), np.zeros(3000, np.float32)
    numbers = {}
    for n_levels in (2, 5, 50):
        kernel, calls = counted()
        model = new_model(kernel, {"b": np.ones(5, np.float32)})
        model.compare_scenarios(sweep(np.linspace(0, 5, n_levels)), baseline="0", X=X, dose=dose, **OPTIONS)
        numbers[n_levels] = len(calls)
    assert numbers[2] == numbers[5] == numbers[50] > 0


def random_numbers(jaxpr: Any) -> int:
    """Return how many random numbers a traced function makes."""
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "random_bits":
            total += sum(math.prod(out.aval.shape) for out in equation.outvars)
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
            if hasattr(getattr(value, "jaxpr", value), "eqns"):
                total += random_numbers(value)
    return total


def test_noise_is_drawn_once_for_all_levels(monkeypatch):
    """As many random numbers for fifty levels as for two: one for each row of a block."""
    X, dose = np.linspace(0, 1, 3000, dtype=np.float32), np.zeros(3000, np.float32)
    joint, steps = CompiledPrograms.joint, []
    monkeypatch.setattr(CompiledPrograms, "joint", lambda *given: steps.append(joint(*given)) or steps[-1])
    for n_levels in (2, 50):
        kernel, _ = counted()
        model = new_model(kernel, {"b": np.ones(5, np.float32)})
        model.compare_scenarios(sweep(np.linspace(0, 5, n_levels)), baseline="0", X=X, dose=dose, **OPTIONS)
    assert [random_numbers(step.traced.jaxpr) for step in steps] == [1024, 1024]


def test_what_is_kept_does_not_grow_with_rows(monkeypatch):
    """Only sums reach the host, a few for each block of rows."""
    sizes: list[int] = []
    write = SumAccumulator.write

    def noting(sink, name, array, start):
        sizes.append(array.size)
        write(sink, name, array, start)

    monkeypatch.setattr(SumAccumulator, "write", noting)
    totals = {}
    for n_obs in (2048, 20480):
        sizes.clear()
        X, t = np.resize(X2, (n_obs, 2)), np.resize(T, n_obs)
        tree = plain_model().compare_scenarios(DOSES, X=X, t=t, **PLAIN)
        totals[n_obs] = sum(sizes), max(sizes)
        assert sum(array.size for group in ("effect", "scenarios") for array in tree[group].data_vars.values()) == 5 * D
    # Of each block: draws x (baseline and scenarios).
    assert totals[2048] == (2 * D * 4, 2 * D * 4)
    assert totals[20480] == (20 * D * 4, 2 * D * 4)


# ------------------------------------------------------------------------------------------- refusals


def one_dose() -> dict[str, Any]:
    return {"none": DOSES["none"], "full": DOSES["full"]}


def loader(*, shuffle: bool) -> ArrayLoader:
    return ArrayLoader(ArrayDataset(X=X2, t=T), random.key(0), batch_size=100, shuffle=shuffle)


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "scenarios in a list": ({"scenarios": [{}, {}]}, TypeError, "`scenarios` must map names to arguments .* got list"),
    "a scenario that is none": ({"scenarios": {"none": {}, "full": 3}}, TypeError, "must map names to .* no mapping"),
    "one scenario": ({"scenarios": {"none": {}}}, ValueError, "`scenarios` must be two or more"),
    "no scenario": ({"scenarios": {}}, ValueError, "`scenarios` must be two or more"),
    "no such baseline": ({"baseline": "nun"}, ValueError, "`baseline` one of them; got 'none', 'full', and 'nun'"),
    **{
        f"a scenario's own {option}": (
            {"scenarios": {**one_dose(), "own": {option: None}}},
            ValueError,
            f"Scenario 'own' must not set `{option}`, which is the same for all",
        )
        for option in ("rng_key", "return_sites", "batch_size", "statistics", "shard_axis", "store", "output_dir")
    },
    "no input": ({"X": None}, TypeError, "Scenario 'none' has no `X`"),
    "other rows": (
        {"scenarios": {**one_dose(), "few": {"X": X2[:10], "t": T[:10]}}},
        ValueError,
        "The scenarios must have the same rows; got 2500 in the baseline .* and 10",
    ),
    "other observations": (
        {"scenarios": {**one_dose(), "new": {"in_sample": False}}},
        ValueError,
        "The scenarios must have the same rows",
    ),
    "an iterable in one": (
        {"scenarios": {**one_dose(), "rows": {"X": padded_batches({"X": X2})}}},
        ValueError,
        "Scenarios whose rows come from an iterable must share it",
    ),
    "contrast": ({"contrast": "odds"}, ValueError, "`contrast` must be 'difference', 'ratio', 'lift', or a function"),
    "contrasts": ({"contrast": ["ratio"]}, ValueError, r"`contrast` must be .*; got \['ratio'\]"),
    "labels for some": ({"by": SEGMENT[:5]}, ValueError, "`by` must have one value for each of the 2500 rows; got 5"),
    "labels by row and column": ({"by": X2}, ValueError, "`by` must have one label for each row; .*shape"),
    "no labels": ({"by": {"a": []}}, ValueError, "`by` must have one label for each row; `a` has shape"),
    "missing numbers": (
        {"by": np.where(YEAR > 2001, np.nan, 1.0)},
        ValueError,
        f"`by` must have a label for each row; {int((YEAR > 2001).sum())} of `group` are missing",
    ),
    "missing texts": (
        {"by": {"s": [None, *SEGMENT[1:]]}},
        ValueError,
        "`by` must have a label for each row; 1 of `s` are missing",
    ),
    "labels without an order": (
        {"by": [{1}, {2}] * (N // 2)},
        ValueError,
        "labels that can be sorted; got `group`",
    ),
    "labels of two lengths": (
        {"by": {"a": SEGMENT, "b": SEGMENT[:9]}},
        ValueError,
        "`by` must have labels of the same rows; `b` has 9, another 2500",
    ),
    "no such labels": (
        {"by": "segment"},
        ValueError,
        r"`by` names 'segment', which is neither a column .* nor an argument .*\. Known: t\.",
    ),
    "no such labels among several": ({"by": {"s": "segment"}}, ValueError, "`by` names 'segment'"),
    **{
        f"labels named {name}": (
            {"by": {name: SEGMENT}},
            ValueError,
            f"`by` must not name a dimension '{name}': the result or its table has that name",
        )
        for name in ("draw", "chain", "scenario", "mu", "rows", "weight")
    },
    "weights for some": ({"weights": np.ones(3)}, ValueError, "`weights` must have one value for each of the 2500 row"),
    "weights by column": ({"weights": X2}, ValueError, r"`weights` must have one number for each row; got shape"),
    "weights in words": ({"weights": SEGMENT}, ValueError, "`weights` must have one number for each row; .* of <U1"),
    "weight": ({"weights": 1.0}, ValueError, r"`weights` must have one number for each row; got shape \(\)"),
    "negative weights": ({"weights": T - 0.5}, ValueError, "`weights` must be finite, at least 0, and not all 0"),
    "missing weights": ({"weights": np.full(N, np.nan)}, ValueError, "`weights` must be finite"),
    "no weights": ({"weights": np.zeros(N)}, ValueError, "`weights` must be finite, at least 0, and not all 0"),
    "labels of a shuffling loader": ({"X": loader(shuffle=True), "by": SEGMENT}, ValueError, "shuffles its rows"),
    "weights of a shuffling loader": ({"X": loader(shuffle=True), "weights": T}, ValueError, "shuffles its rows"),
    # As in the other methods.
    "batch size": ({"batch_size": 0}, ValueError, "`batch_size` must be a positive integer; got 0"),
    "key": ({"rng_key": 0.5}, TypeError, "`rng_key` must be one typed JAX key, or .*; got 0.5"),
    "return site": ({"return_sites": "mv"}, ValueError, "`return_sites` must name sites of the kernel; got 'mv'"),
    "misspelt intervention": (
        {"scenarios": {**one_dose(), "x": {"intervention": {"dosis": 1.0}}}},
        ValueError,
        r"Cannot intervene on 'dosis'.*Sites: b, mu, y\. Arguments: X, t",
    ),
    "intervention of another shape": (
        {"scenarios": {**one_dose(), "x": {"intervention": {"mu": np.zeros(3)}}}},
        ValueError,
        "intervention on site `mu` must broadcast to its shape",
    ),
    "unknown argument": ({"u": 1}, TypeError, "Unknown kernel argument.*`u`"),
    "output": ({"y": T}, TypeError, "`y` is a reserved kernel parameter and cannot be passed as a keyword argument"),
    "missing argument": ({"t": ...}, TypeError, "Missing kernel argument.*`t`"),
    "empty": ({"X": X2[:0], "t": T[:0]}, ValueError, "must not be empty; got no rows"),
    "misaligned": ({"t": T[:7]}, ValueError, "must have the same number of rows.*`X`: 2500, `t`: 7"),
    "text": ({"X": SEGMENT}, TypeError, "`X` must be numeric; got dtype"),
}


@pytest.mark.filterwarnings("ignore:The loader shuffles")
@pytest.mark.parametrize("what", REFUSED)
def test_refusals(what):
    """Before any work: no key is used, nothing is computed."""
    changes, error, match = REFUSED[what]
    if isinstance(changes.get("X"), ArrayLoader):
        changes = {**changes, "t": ...}
    given = {"scenarios": one_dose(), "baseline": "none", "X": X2, "t": T, "return_sites": "mu", "progress": False}
    given = {name: value for name, value in {**given, **changes}.items() if value is not ...}
    model = plain_model()
    key = model.rng_key
    with pytest.raises(error, match=match):
        model.compare_scenarios(**given)
    assert model.rng_key == key


def test_not_fitted():
    model = ImpactModel(plain, random.key(0), MCMC(NUTS(plain), num_warmup=1, num_samples=1))
    with pytest.raises(NotFittedError, match=r"`compare_scenarios` needs a posterior, and this model has none yet"):
        model.compare_scenarios(one_dose(), baseline="none", X=X2, t=T)


# ------------------------------------------------------------------------------------------- tables and sentences


def compared(contrast: Any = "difference", by: Any = None, **options: Any) -> xr.DataTree:
    """Effects with a spread, of two scenarios that go up and down."""
    rng = np.random.default_rng(3)
    model = new_model(plain, {"b": (1 + rng.normal(size=400)).astype(np.float32)}, num_chains=4)
    scenarios = {
        "as is": {},
        "less": {"intervention": {"t": lambda t: 0.5 * t}},
        "more": {"intervention": {"t": lambda t: t + 0.3}},
        "same": {"intervention": {"t": lambda t: t + 0}},
    }
    sites = ["mu", "y", "b"] if contrast == "difference" else ["mu", "y"]  # `b` has either sign
    given = {"X": X2 + 9, "t": T, "return_sites": sites, **OPTIONS, **options}
    return model.compare_scenarios(scenarios, baseline="as is", contrast=contrast, by=by, **given)


@pytest.mark.parametrize("contrast", ["difference", "ratio", "lift"])
@pytest.mark.parametrize("by", [None, SEGMENT])
def test_numbers_of_a_table_are_arvizs(contrast, by):
    """Line by line, on the same draws; probabilities are counted."""
    tree = compared(contrast, by)
    null = 1.0 if contrast == "ratio" else 0.0
    rope = (null - 0.05, null + 0.05)
    for hdi_prob, bounds in ((None, ["eti89_lb", "eti89_ub"]), (0.8, ["hdi80_lb", "hdi80_ub"])):
        table = aimz.summary(tree, hdi_prob=hdi_prob, rope=rope)
        groups = [] if by is None else ["group"]
        assert list(table.columns) == [
            "site",
            "scenario",
            *groups,
            "mean",
            "sd",
            *bounds,
            f"P(>{null:g})",
            "P(in ROPE)",
        ]
        # Sites with rows in all, then by group; one without rows once.
        assert len(table) == 3 * (2 * (1 if by is None else 4) + (contrast == "difference"))
        kind = {} if hdi_prob is None else {"ci_kind": "hdi", "ci_prob": hdi_prob}
        for line in table[::2].to_dict("records"):
            effects = tree["effect"] if by is None or line["group"] != "all" else tree["effect_overall"]
            draws = effects[line["site"]].sel(scenario=line["scenario"])
            if by is not None and line["group"] != "all":
                draws = draws.sel(group=line["group"])
            theirs = arviz_summary(draws.rename("x").to_dataset(), kind="stats", round_to="none", **kind)
            assert list(theirs.columns) == ["mean", "sd", *bounds]
            for name in theirs.columns:
                np.testing.assert_allclose(line[name], theirs[name].item(), rtol=1e-9, atol=1e-12, err_msg=name)
            values = draws.values.ravel()
            assert line[f"P(>{null:g})"] == np.mean(values > null)
            assert line["P(in ROPE)"] == np.mean((values >= rope[0]) & (values <= rope[1]))


def test_a_table_follows_arvizs_settings():
    tree = compared()
    with rc_context({"stats.ci_prob": 0.5, "stats.ci_kind": "hdi"}):
        table = aimz.summary(tree)
        theirs = arviz_summary(tree["effect"].to_dataset()[["y"]], kind="stats", round_to="none")
        words = aimz.in_words(tree)
    ours = table[table.site == "y"]
    np.testing.assert_allclose(ours[["hdi50_lb", "hdi50_ub"]], theirs[["hdi50_lb", "hdi50_ub"]], rtol=1e-9)
    assert all(
        "(50 % HDI interval " in text
        for text, same in zip(words, table.scenario == "same", strict=True)
        if not same and "b`" not in text
    )
    assert "P(in ROPE)" not in table
    assert (table.attrs["interval_kind"], table.attrs["interval_prob"]) == ("hdi", 0.5)


def test_groups_without_rows_have_no_line():
    region = np.where(SEGMENT == "c", "north", "south")
    tree = compared(by={"segment": SEGMENT, "region": region})
    table = aimz.summary(tree)
    of_mu = table[(table.site == "mu") & (table.scenario == "more")]
    cells = list(zip(of_mu.segment, of_mu.region, strict=True))
    margins = [("a", "all"), ("b", "all"), ("c", "all"), ("all", "north"), ("all", "south")]
    assert cells == [("all", "all"), *margins, ("a", "south"), ("b", "south"), ("c", "north")]
    texts = [text for text in aimz.in_words(tree) if "`mu`" in text and "under more" in text]
    assert [text.split(":")[0] for text in texts[1:4]] == [f"For segment {name}" for name in "abc"]
    assert texts[-1].startswith("For segment c, region north:")
    assert np.isfinite(table.select_dtypes(float)).all(axis=None)


def test_other_things_with_draws_have_a_table():
    """A data set, an array, an effect by row, other dimensions; a result without draws has none."""
    tree = compared(by=SEGMENT)
    effect = tree["effect"].to_dataset()
    whole = aimz.summary(effect)
    one = aimz.summary(effect["mu"])
    np.testing.assert_array_equal(one["mean"], whole[whole.site == "mu"]["mean"])
    assert list(aimz.summary(effect["mu"].sel(scenario="more", drop=True)).columns[:2]) == ["site", "group"]
    case, model = shared("multi_output")
    rows = {**case.arguments(), **MEMORY}
    difference = model.estimate_effect(
        args_baseline=rows, args_intervention={**rows, "intervention": case.intervention}
    )
    table = aimz.summary(difference["posterior_predictive"].to_dataset().mean("obs"))
    assert sorted(set(table.site)) == ["mu", "y"]
    assert len(table) == 4
    for bad in (effect.mean("draw"), 3, None, xr.DataTree(), effect[[]]):
        with pytest.raises(TypeError, match="`effects` must be a result of `compare_scenarios`, or something with dim"):
            aimz.summary(bad)
    for prob in (0, 1, 89, -0.5, float("nan")):
        with pytest.raises(ValueError, match="`hdi_prob` must lie between 0 and 1"):
            aimz.summary(effect, hdi_prob=prob)
    for rope in ((1, 0), (1, 1), 0.1, (0, 1, 2), ("a", "b"), (0, float("nan"))):
        with pytest.raises(ValueError, match="`rope` must be two numbers, the lower first"):
            aimz.summary(effect, rope=rope)


NUMBER = r"-?(?:\d+\.?\d*|inf)"


def says(text: str, pattern: str) -> float | None:
    found = re.search(pattern.replace("#", f"({NUMBER})"), text)
    return None if found is None else float(found[1])


def close(said: float, is_so: float) -> None:
    """To the three digits that are written."""
    np.testing.assert_allclose(said, is_so, rtol=6e-3, atol=1e-12)


def log_ratio(scenario, baseline):
    return np.log(scenario) - np.log(baseline)


@pytest.mark.parametrize("contrast", ["difference", "ratio", "lift", log_ratio])
@pytest.mark.parametrize("by", [None, {"segment": SEGMENT, "year": YEAR}])
def test_sentences_never_contradict_the_table(contrast, by):
    """Every number in them is read back, and every word that goes with its sign."""
    tree = compared(contrast, by)
    for options in ({}, {"hdi_prob": 0.5}):
        check_sentences(tree, contrast, () if by is None else tuple(by), options)


def check_sentences(tree: xr.DataTree, contrast: Any, groups: tuple[str, ...], options: dict[str, Any]) -> None:
    null = 1.0 if contrast == "ratio" else 0.0
    rope = (null - 0.02, null + 0.07)
    table = aimz.summary(tree, **options, rope=rope)
    texts = aimz.in_words(tree, **options, rope=rope)
    assert len(texts) == len(table)
    percent = 100 if contrast == "lift" else 1
    low, high = (name for name in table.columns if name.endswith(("_lb", "_ub")))
    for text, line in zip(texts, table.to_dict("records"), strict=True):
        assert f"`{line['site']}`" in text
        assert text.endswith(".")
        assert f"under {line['scenario']}" in text
        assert "as is" in text
        for name in groups:
            assert (f"{name} {line[name]}" in text) == (line[name] != "all")
        if line["scenario"] == "same" or line["site"] == "b":
            assert text.endswith(f"is on average the same under {line['scenario']} and as is.")
            assert (line["mean"], line["sd"]) == (null, 0)
            continue
        mean = line["mean"]
        if contrast in ("difference", "lift"):
            close(says(text, "is on average # (?:% )?(?:higher|lower) under"), percent * abs(mean))
            assert ("higher under" in text, "lower under" in text) == (mean > 0, mean < 0)
        elif contrast == "ratio":
            close(says(text, "is on average # times under"), mean)
        else:
            assert text.lower().startswith("the log_ratio of") or ": the log_ratio of" in text
            close(says(text, "and under as is is #"), mean)
        lower, upper = percent * line[low], percent * line[high]
        between = re.search(r"interval (.*?)\)", text)[1]
        if contrast in ("difference", "lift") and lower >= 0:
            assert between.endswith(" higher")
        elif contrast in ("difference", "lift") and upper <= 0:
            assert between.endswith(" lower")
            lower, upper = -upper, -lower
        elif contrast in ("difference", "lift"):
            assert re.fullmatch(rf"{NUMBER}(?: %)? lower to {NUMBER}(?: %)? higher", between)
            lower = -lower
        close(says(between, r"^# ?"), lower)
        close(says(between, r"to #"), upper)
        level = 50 if options else 89
        assert f"({level} % {'HDI ' if options else ''}interval" in text
        below = mean < null  # no draw equals no effect
        share = 1 - line[f"P(>{null:g})"] if below else line[f"P(>{null:g})"]
        probability = says(text, rf"; {'below' if below else 'above'} {null:g} with probability (?:over |under )?# %")
        if share in (0, 1):
            assert ("over 99.75 %" if share else "under 0.25 %") in text  # of 400 draws
        else:
            close(probability, 100 * share)
        assert ("which way it goes is open" in text) == (line[low] <= null <= line[high])
        ends = [f"{percent * end:.3g}{' %' if contrast == 'lift' else ''}" for end in rope]
        inside = says(text, rf"It lies between {ends[0]} and {ends[1]} with probability (?:over |under )?# %\.$")
        if 0 < line["P(in ROPE)"] < 1:
            close(inside, 100 * line["P(in ROPE)"])


def test_sentences_where_there_is_nothing_to_say():
    """A baseline of zero: no ratio, no probability, and no number that is none."""
    with pytest.warns(UserWarning, match="is 0 in"):
        tree = plain_model().compare_scenarios(DOSES, X=0 * X2, t=T, contrast="ratio", **PLAIN)
    table = aimz.summary(tree)
    assert table[["mean", "sd", "eti89_lb", "eti89_ub", "P(>1)"]].isna().all(axis=None)
    for text in aimz.in_words(tree):
        assert "has no ratio" in text
        assert "nan" not in text
        assert "probability" not in text
        assert "interval" not in text


def test_all_draws_on_one_side_are_not_certainty():
    draws = xr.DataArray(np.linspace(1, 2, 50)[None], dims=DIMS, name="change")
    (text,) = aimz.in_words(draws)
    assert "above 0 with probability over 98 %" in text
    assert "open" not in text
    (text,) = aimz.in_words(-draws)
    assert "below 0 with probability over 98 %" in text
    assert math.isclose(says(text, "`change` is # on average"), -1.5)


def test_a_number_in_the_name_of_a_site_stays_a_number():
    """Made an array it would name another site, which would be drawn from its prior without a word."""

    def kernel(X, which, y=None):
        b = numpyro.sample(f"b_{which}", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * X), obs=y)

    def plain(X, which, y=None):
        b = [numpyro.sample(f"b_{i}", dist.Normal()) for i in range(2)]
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b[which] * X), obs=y)

    X = np.ones(N, np.float32)
    for one in (kernel, plain):
        model = new_model(one, {"b_0": np.full(D, 2.0), "b_1": np.full(D, 5.0)})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Draws of .* are of no site|.*are not in the posterior")
            found = model.compare_scenarios(
                {"zero": {"which": 0}, "one": {"which": 1}}, baseline="zero", X=X, progress=False, rng_key=KEY
            )
        np.testing.assert_allclose(found["effect"]["y"], 3.0, atol=1e-5)


@pytest.mark.parametrize("levels", [(0.5, 2.0), (1, 3)])
def test_numbers_may_be_plain_arguments(levels):
    def kernel(X, dose, power=1, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * dose**power + X, 0.1), obs=y)

    model = new_model(kernel, {"b": B})
    scenarios = {"low": {"dose": levels[0]}, "high": {"dose": levels[1]}}
    found = model.compare_scenarios(scenarios, baseline="low", X=X2[:, 0], progress=False, rng_key=KEY)
    np.testing.assert_allclose(found["effect"]["y"].values[0, :, 0], B * (levels[1] - levels[0]), rtol=1e-4)
    found = model.compare_scenarios(
        {"low": {"power": 1}, "high": {"power": 3}}, baseline="low", X=X2[:, 0], dose=2.0, progress=False
    )
    np.testing.assert_allclose(found["effect"]["y"].values[0, :, 0], B * 6, rtol=1e-4)
