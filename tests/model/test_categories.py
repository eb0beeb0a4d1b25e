"""Text and categorical arguments: encoded by the categories of the fit, which label axes; others are new groups."""

import warnings

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
import zarr
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import aimz
from aimz import ImpactModel, OutputWarning

pytestmark = pytest.mark.usefixtures("plain_code")
SHOPS = ("east", "north", "south")
LEVELS = {"east": 9.0, "north": 1.0, "south": 5.0}
FRAME = pd.DataFrame({"price": np.arange(6.0), "shop": ["south", "north", "east", "south", "east", "north"]})
FRAME["y"] = FRAME["shop"].map(LEVELS) + 2 * FRAME["price"]
EXPECTED = FRAME["y"].to_numpy()
POSTERIOR = {"mean": np.full(500, 50.0), "a": np.tile([9.0, 1.0, 5.0], (500, 1))}
QUIET = {"progress": False, "store": "memory"}


def kernel(X, shop, num_shops, y=None):
    mean = numpyro.sample("mean", dist.Normal(0, 10))
    with numpyro.plate("shops", num_shops):
        a = numpyro.sample("a", dist.Normal(mean, 0.5))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(a[shop] + 2 * X[:, 0], 0.01), obs=y)


def uncounted(X, shop, y=None):
    with numpyro.plate("shop", 3):
        a = numpyro.sample("a", dist.Normal(0, 10))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(a[shop] + 2 * X[:, 0], 0.01), obs=y)


def new_model(of=kernel, **options):
    mcmc = MCMC(NUTS(of), num_warmup=2, num_samples=2, progress_bar=False)
    return ImpactModel(of, random.key(0), mcmc, **options)


@pytest.fixture(scope="module")
def model():
    """Return a model that was fitted, with a chosen posterior in the place of its own."""
    fitted = new_model().fit_on_batch(FRAME, progress=False)
    return fitted.set_posterior_sample(POSTERIOR)


def means(tree):
    return tree["posterior_predictive"]["y"].mean(("chain", "draw")).values


def group(frame):
    found = zarr.create_group(zarr.storage.MemoryStore())
    for name in ("price", "shop"):
        found.create_array(name, data=frame[name].to_numpy(dtype=str if name == "shop" else float))
    return found


def parquet(frame, path):
    frame.to_parquet(path / "rows.parquet")
    return path / "rows.parquet"


TABLES = {
    "pandas": lambda frame, _: frame,
    "pandas categories in another order": lambda frame, _: frame.assign(
        shop=pd.Categorical(frame["shop"], ["south", "unused", *sorted({*frame["shop"]} - {"south"})])
    ),
    "polars": lambda frame, _: pl.from_pandas(frame),
    "polars categories": lambda frame, _: pl.from_pandas(frame).with_columns(pl.col("shop").cast(pl.Categorical)),
    "pyarrow": lambda frame, _: pa.table(frame),
    "pyarrow dictionary": lambda frame, _: pa.table(frame.astype({"shop": "category"})),
    "xarray": lambda frame, _: frame.to_xarray(),
    "zarr": lambda frame, _: group(frame),
    "parquet": lambda frame, path: ds.dataset(parquet(frame, path)),
    "lazy frame": lambda frame, path: pl.scan_parquet(parquet(frame, path)),
    "frames": lambda frame, _: [frame[:2], frame[2:]],
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_are_encoded_by_the_categories_of_the_fit(model, kind, tmp_path):
    rows = FRAME.iloc[[2, 1, 4]].reset_index(drop=True)  # without "south"
    found = model.predict(TABLES[kind](rows, tmp_path), **QUIET)
    np.testing.assert_allclose(means(found), EXPECTED[[2, 1, 4]], atol=0.01)
    assert found["posterior"]["a"].coords["shops"].values.tolist() == list(SHOPS)
    with pytest.warns(OutputWarning, match="New categories of `shop`: 'west'"):
        found = model.predict(TABLES[kind](rows.assign(shop=["east", "west", "west"]), tmp_path), **QUIET)
    np.testing.assert_allclose(means(found) - 2 * rows["price"], [9, 50, 50], atol=0.1)


ARGUMENTS = {
    "series": FRAME["shop"],
    "categorical series": FRAME["shop"].astype("category"),
    "list": list(FRAME["shop"]),
    "array": FRAME["shop"].to_numpy(dtype=str),
    "codes": np.array([2, 1, 0, 2, 0, 1]),
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_arguments_are_encoded(model, kind):
    counts = {"num_shops": 3} if kind == "codes" else {}
    for tree in (
        model.predict_on_batch(FRAME[["price"]], shop=ARGUMENTS[kind], **counts),
        model.predict(FRAME[["price"]], shop=ARGUMENTS[kind], **counts, **QUIET),
    ):
        np.testing.assert_allclose(means(tree), EXPECTED, atol=0.01)


def test_new_groups_are_drawn_from_their_distribution_and_labelled(model):
    rows = FRAME.iloc[:3].assign(shop=["west", "north", "centre"])
    with pytest.warns(OutputWarning, match="there are more than in .* New categories of `shop`: 'centre', 'west'"):
        found = model.predict_on_batch(rows, return_sites=["a", "y"])["posterior_predictive"]
    assert found["a"].coords["shops"].values.tolist() == [*SHOPS, "centre", "west"]
    assert "a[3]" in repr(model)
    assert model.describe(as_dict=True)["sites"]["a"]["shape"] == [3]  # of the fit, not of the latest call
    new = found["a"].sel(shops="west").values.ravel()
    assert abs(new.mean() - 50) < 4 * 0.5 / np.sqrt(500)
    assert abs(new.std() / 0.5 - 1) < 0.15
    np.testing.assert_allclose(found["y"].values[..., 0].ravel() - 2 * rows["price"].iloc[0], new, atol=0.1)


def test_scores_and_comparisons_read_labels(model):
    scores = model.log_likelihood(FRAME, **QUIET)["log_likelihood"]["y"].values
    np.testing.assert_allclose(scores, -np.log(0.01) - 0.5 * np.log(2 * np.pi), atol=0.01)
    scenarios = {"as is": {}, "north": {"intervention": {"shop": "north"}}}
    for given in ({"X": FRAME}, {"X": FRAME[["price"]], "shop": FRAME["shop"]}):
        found = model.compare_scenarios(scenarios, baseline="as is", by="shop", progress=False, **given)
        effect = found["effect"]["y"].mean(("chain", "draw")).sel(scenario="north")
        for shop, level in LEVELS.items():
            np.testing.assert_allclose(effect.sel(shop=shop), 1 - level, atol=1e-4)
    found = model.predict_on_batch(FRAME, intervention={"shop": np.array(["east"] * 6)})
    np.testing.assert_allclose(means(found), 9 + 2 * FRAME["price"], atol=0.01)


def test_saved_model_keeps_the_categories(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = ImpactModel.load(tmp_path / "model", kernel)
    options = {"rng_key": random.key(1), "return_datatree": False}
    draws = [one.predict_on_batch(FRAME.iloc[:2], **options)["y"] for one in (model, loaded)]
    np.testing.assert_array_equal(*draws)
    assert loaded.posterior_tree()["posterior"]["a"].coords["shops"].values.tolist() == list(SHOPS)


@pytest.mark.parametrize("kind", ["parquet", "frames"])
def test_minibatch_fit_finds_the_categories_of_all_rows(kind, tmp_path):
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    model = ImpactModel(kernel, random.key(0), svi)
    model.fit(TABLES[kind](FRAME, tmp_path), epochs=1, batch_size=2, num_samples=2, progress=False)
    assert model.inputs.categories == {"shop": SHOPS}
    assert model.inputs.static == {}
    assert model.posterior["a"].shape == (2, 3)


def test_plate_with_the_name_of_the_argument_is_labelled_without_a_count():
    model = new_model(uncounted).fit_on_batch(FRAME, progress=False)
    assert model.posterior_tree()["posterior"]["a"].coords["shop"].values.tolist() == list(SHOPS)
    new = FRAME.assign(shop=["west", "north", "east", "south", "east", "west"])
    with pytest.raises(ValueError, match=r"not known in 2 of 6 rows: 'west'; the first is row 0\. Known are 'east'"):
        model.predict_on_batch(new)


def test_categories_can_be_declared():
    model = new_model(coords={"shop": ["south", "east", "north"]})
    model.set_posterior_sample({"mean": np.zeros(3), "a": np.tile([5.0, 9.0, 1.0], (3, 1))})
    np.testing.assert_allclose(means(model.predict_on_batch(FRAME)), EXPECTED, atol=0.05)
    with pytest.raises(ValueError, match=r"cannot have new categories\. Declare all of them"):
        model.fit_on_batch(FRAME.assign(shop="west"), progress=False)


@pytest.mark.parametrize("ports", [("B", "C", "A"), ("B", "C", "D")])
def test_an_array_shared_by_arguments_is_encoded_by_the_categories_of_each(ports):
    """Scenarios read a shared array once, but for each argument."""

    def voyage(X, origin, destination, y=None):
        with numpyro.plate("origin", 3):
            a = numpyro.sample("a", dist.Normal())
        with numpyro.plate("destination", 3):
            b = numpyro.sample("b", dist.Normal())
        mu = numpyro.deterministic("mu", X + a[origin] + b[destination])
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    model = ImpactModel(voyage, random.key(0), coords={"origin": ["A", "B", "C"], "destination": list(ports)})
    model.set_posterior_sample({"a": np.tile([1.0, 2.0, 3.0], (4, 1)), "b": np.tile([10.0, 20.0, 30.0], (4, 1))})
    origin = np.array(list("AABC"), object)
    scenarios = {"there": {"destination": np.array(list("BBBB"), object)}, "same": {"destination": origin}}
    given = {"X": np.zeros(4), "origin": origin, "baseline": "there", "return_sites": "mu", "progress": False}
    if "A" not in ports:
        with pytest.raises(ValueError, match=r"`destination`.* in 2 of 4 rows: 'A'"):
            model.compare_scenarios(scenarios, **given)
        return
    found = model.compare_scenarios(scenarios, **given)["effect"]["mu"].sel(scenario="same")
    np.testing.assert_allclose(found, np.mean([30, 30, 10, 20]) - 10, rtol=1e-6)


FAULTS = {
    "missing": (
        lambda m: m.predict_on_batch(FRAME.assign(shop=[None, *FRAME["shop"][1:]])),
        "`shop` must have a category in each row; it is missing in 1 of 6 rows, the first is row 0",
    ),
    "intervention": (
        lambda m: m.predict_on_batch(FRAME, intervention={"shop": "nowhere"}),
        r"`intervention\['shop'\]` must be one of its categories, 'east', 'north', 'south'; got 'nowhere'",
    ),
    "unknown order": (
        lambda _: new_model().set_posterior_sample(POSTERIOR).predict_on_batch(FRAME),
        "the posterior belongs to codes, and their order is not known. Declare the categories",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(model, fault):
    call, message = FAULTS[fault]
    with pytest.raises(ValueError, match=message):
        call(model)


def test_flags_are_encoded_if_the_kernel_counts_them():
    def flags(X, treated, num_treated, y=None):
        with numpyro.plate("arm", num_treated):
            a = numpyro.sample("a", dist.Normal(0, 1))
        with numpyro.plate("row", X.shape[0]):
            numpyro.sample("y", dist.Normal(a[treated] + X[:, 0], 0.01), obs=y)

    table = pd.DataFrame({"x": np.zeros(4), "treated": [True, False, False, True]})
    found = new_model(flags).sample_prior_predictive_on_batch(table, num_samples=5, return_sites=["a", "y"])
    prior = found["prior_predictive"]
    assert prior["a"].coords["arm"].values.tolist() == [False, True]
    np.testing.assert_allclose(prior["y"].values[..., 0], prior["a"].sel(arm=True).values, atol=0.1)


def test_summary_names_the_groups(model):
    scenarios = {"as is": {}, "dear": {"intervention": {"price": lambda price: price + 1}}}
    found = model.compare_scenarios(scenarios, baseline="as is", by="shop", X=FRAME, progress=False)
    table = aimz.summary(found)
    assert set(table["shop"]) == {"all", *SHOPS}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(table["mean"], 2, atol=1e-4)


def test_text_is_an_error_if_the_kernel_has_no_groups_of_it():
    def numeric(X, dose, y=None):
        with numpyro.plate("row", X.shape[0]):
            numpyro.sample("y", dist.Normal(X[:, 0] + dose, 1.0), obs=y)

    table = pd.DataFrame({"x": np.zeros(3), "dose": ["low", "high", "low"]})
    with pytest.raises(TypeError, match="`dose` must be numeric; got dtype str, and kernel `numeric` has no groups"):
        new_model(numeric).sample_prior_predictive(table, num_samples=2, **QUIET)
