"""Mistakes that people make in the first hours, each with the sentence that answers it."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS

import aimz
from aimz import ImpactModel

pytestmark = pytest.mark.usefixtures("plain_code")
rng = np.random.default_rng(0)
ROWS = pd.DataFrame({"price": rng.normal(size=30), "foot": rng.normal(size=30), "shop": ["a", "b", "c"] * 10})
SHOPS = ROWS.assign(sales=rng.normal(size=30))
QUIET = {"progress": False, "store": "memory"}
BOTH = {"as is": {}, "dear": {"intervention": {"price": 1.0}}}


def kernel(X, shop, num_shops, sales=None):
    slope = numpyro.sample("slope", dist.Normal(0, 5).expand([2]).to_event(1))
    with numpyro.plate("shops", num_shops):
        level = numpyro.sample("level", dist.Normal(0, 5))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("sales", dist.Normal(level[shop] + X @ slope, 1.0), obs=sales)


def new_model(inference=None, **options):
    mcmc = MCMC(NUTS(kernel), num_warmup=1, num_samples=2, progress_bar=False) if inference is None else inference
    return ImpactModel(kernel, random.key(0), mcmc, **{"param_output": "sales", **options})


@pytest.fixture(scope="module")
def model():
    return new_model().fit_on_batch(SHOPS, progress=False)


def fit(*args, **kwargs):
    return new_model().fit_on_batch(*args, **{"progress": False, **kwargs})


def compare(model, scenarios=BOTH, **options):
    return model.compare_scenarios(scenarios, **{"baseline": "as is", "X": SHOPS, "progress": False, **options})


MISTAKES = {
    # Data
    "predicts before the fit": (lambda _: new_model().predict(SHOPS, **QUIET), "this model has none yet. Call `fit"),
    "passes nothing": (lambda m: m.predict(None, **QUIET), "`X` must be an array; got None"),
    "passes a path": (lambda m: m.predict("rows.csv", **QUIET), "got the text 'rows.csv'. Read the file with `pandas"),
    "passes a dictionary": (
        lambda m: m.predict({"price": [1.0], "foot": [1.0]}, **QUIET),
        r"got a mapping with 'price', 'foot'. Pass `pandas.DataFrame\(X\)`",
    ),
    "passes no rows": (lambda m: m.predict(SHOPS[:0], **QUIET), "must not be empty; got no rows"),
    "forgets the outcome": (lambda _: fit(ROWS), "`sales` must be an array; got None"),
    "misspells the outcome": (
        lambda _: fit(SHOPS, y="sale"),
        "got 'sale', and `X` has 'price', 'foot', 'shop', 'sales'",
    ),
    "names an outcome of an array": (
        lambda _: fit(ROWS[["price", "foot"]].to_numpy(), y="sales", shop=ROWS["shop"]),
        "`y='sales'` names a column, but `X` has none; got an object of type `ndarray`",
    ),
    "passes the outcome of other rows": (
        lambda _: fit(ROWS, SHOPS["sales"].sample(frac=1, random_state=0)),
        "`sales` has another index than `X`, but rows are matched by position",
    ),
    "passes half of the outcome": (
        lambda _: fit(ROWS, SHOPS["sales"][:5].to_numpy()),
        "must have the same number of rows .*`X`: 30, `sales`: 5",
    ),
    "passes the outcome as a table": (
        lambda _: fit(ROWS, SHOPS[["sales"]].to_numpy()),
        r"each observation would be compared with all others.*pass `y\[:, 0\]`",
    ),
    "passes a text outcome": (lambda _: fit(ROWS, SHOPS["shop"]), "`sales` must be numeric; got text data"),
    "has missing outcomes": (
        lambda _: fit(SHOPS.assign(sales=SHOPS["sales"].where(SHOPS.index > 3))),
        "4 of 30 values of `sales` are not finite numbers; got nan, first in row 0.*Drop or impute",
    ),
    "forgets a column": (lambda m: m.predict(SHOPS.drop(columns="foot"), **QUIET), "`X` is missing column 'foot'"),
    "forgets an argument": (
        lambda m: m.predict(SHOPS.drop(columns="shop"), **QUIET),
        r"Missing kernel argument\(s\) `shop`; kernel `kernel` has no default",
    ),
    "passes codes without their number": (
        lambda m: m.predict(ROWS[["price", "foot"]], shop=np.zeros(30, int), **QUIET),
        "`num_shops` is the number of categories of `shop` if that is text or categorical; pass it with codes",
    ),
    "leaves a group empty": (
        lambda m: m.predict(SHOPS.assign(shop=SHOPS["shop"].where(SHOPS.index != 4)), **QUIET),
        "`shop` must have a category in each row; it is missing in 1 of 30 rows, the first is row 4",
    ),
    "has a text column in the input": (
        lambda _: fit(SHOPS.assign(region="north")),
        r"The kernel does not get 'region' of `X`, which is text.*groups of an answer \(`by=`\)",
    ),
    "has a date in the input": (
        lambda _: fit(SHOPS.assign(day=pd.date_range("2024", periods=30))),
        r"got 'day' \(date\).*dates as days",
    ),
    "has a column twice": (
        lambda m: m.predict(pd.concat([SHOPS, SHOPS[["price"]]], axis=1), **QUIET),
        "The columns of `X` must have different names",
    ),
    "passes fewer columns as an array": (
        lambda m: m.predict(ROWS[["price"]].to_numpy(), shop=ROWS["shop"], **QUIET),
        r"`X` must have the shape \(n_obs, 2\), as in the fit; got \(n_obs, 1\)",
    ),
    # Names
    "passes the outcome to predict": (
        lambda m: m.predict(ROWS, sales=SHOPS["sales"], **QUIET),
        "`sales` is a reserved kernel parameter",
    ),
    "misspells an argument": (
        lambda m: m.predict(SHOPS, shops=SHOPS["shop"], **QUIET),
        r"Unknown kernel argument\(s\) `shops`; kernel `kernel` takes `shop`, `num_shops`",
    ),
    "sets a column by a keyword": (
        lambda m: m.predict(SHOPS, price=1.0, **QUIET),
        r"Unknown kernel argument.*To set a column or a site, pass `intervention=\{'price': ...\}`",
    ),
    "sets a column in a scenario": (
        lambda m: compare(m, {"as is": {}, "dear": {"price": 1.0}}),
        r"To set a column or a site, pass `intervention=\{'price': ...\}`",
    ),
    "misspells a site": (lambda m: m.predict(SHOPS, return_sites="slopes", **QUIET), "Known: slope, level, sales"),
    "misspells an intervention": (
        lambda m: m.predict(SHOPS, intervention={"prcie": 1.0}, **QUIET),
        "Cannot intervene on 'prcie'.*Columns: price, foot",
    ),
    "misspells a category": (
        lambda m: m.predict(SHOPS, intervention={"shop": "d"}, **QUIET),
        r"`intervention\['shop'\]` must be one of its categories, 'a', 'b', 'c'; got 'd'",
    ),
    "intervenes by a name alone": (
        lambda m: m.predict(SHOPS, intervention="price", **QUIET),
        "`intervention` must be a mapping .* got str. Write",
    ),
    "sets a number to a word": (
        lambda m: m.predict(SHOPS, intervention={"price": "low"}, **QUIET),
        r"`intervention\['price'\]` must be numeric",
    ),
    "sets three values for thirty rows": (
        lambda m: m.predict(SHOPS, intervention={"price": np.ones(3)}, **QUIET),
        r"on column `price` must broadcast to its shape \(30,\); got shape \(3,\)",
    ),
    "conditions on a parameter": (
        lambda m: m.predict(SHOPS, condition={"slope": np.zeros(2)}, **QUIET),
        "Cannot condition on `slope`, which has posterior draws",
    ),
    # Options
    "guesses a store": (lambda m: m.predict(SHOPS, store="ram", progress=False), "'persistent' or 'memory'; got 'ram'"),
    "passes a seed as text": (
        lambda m: m.predict(SHOPS, rng_key="seed", **QUIET),
        "`rng_key` must be one typed JAX key, or a whole number as its seed; got 'seed'",
    ),
    "answers no": (lambda m: m.predict(SHOPS, in_sample="no", **QUIET), "`in_sample` must be True or False; got 'no'"),
    "asks for the median": (lambda m: m.predict(SHOPS, statistics="median", **QUIET), "numbers between 0 and 1"),
    "asks for percent": (lambda m: m.predict(SHOPS, statistics=(5, 95), **QUIET), "must be known; got 5"),
    "asks for batches of nothing": (lambda m: m.predict(SHOPS, batch_size=0, **QUIET), "positive integer; got 0"),
    # Comparisons
    "names no baseline": (
        lambda m: compare(m, baseline="now"),
        "`baseline` one of them; got 'as is', 'dear', and 'now'",
    ),
    "compares one scenario": (lambda m: compare(m, {"as is": {}}), "`scenarios` must be two or more"),
    "passes values as scenarios": (
        lambda m: compare(m, {"as is": {}, "dear": 1.0}),
        "`scenarios` must map names to arguments of `predict`",
    ),
    "compares without rows": (lambda m: compare(m, X=None), "Scenario 'as is' has no `X`"),
    "groups by an unknown column": (
        lambda m: compare(m, by="region"),
        "`by` names 'region', which is neither a column",
    ),
    "weights by negative numbers": (lambda m: compare(m, weights=-np.ones(30)), "at least 0, and not all 0"),
    "asks for percent of an effect": (lambda m: compare(m, contrast="percent"), "'difference', 'ratio', 'lift'"),
    "asks for the mean effect": (lambda m: compare(m, kind="mean"), "`kind` must be 'expected' or 'outcome'"),
    "forgets a side": (
        lambda m: m.estimate_effect(args_baseline={"X": SHOPS}),
        "Exactly one of `output_intervention` and `args_intervention` must be given; got neither",
    ),
    "summarizes data": (lambda _: aimz.summary(SHOPS), "must be a result of `compare_scenarios`.*got DataFrame"),
    # Construction, draws and files
    "passes the sampler": (lambda _: new_model(NUTS(kernel)), "Unsupported inference object: `NUTS`. Expected `SVI`"),
    "has another name of the outcome": (
        lambda _: new_model(param_output="y"),
        "Kernel must accept 'X' and 'y' as argument",
    ),
    "sets no draws": (lambda _: new_model().set_posterior_sample({}), "`samples` must not be empty"),
    "sets draws of different lengths": (
        lambda _: new_model().set_posterior_sample({"slope": np.zeros((4, 2)), "level": np.zeros((3, 3))}),
        "of the same length for each site; got `slope`: 4, `level`: 3",
    ),
    "scores other rows by leave-one-out": (
        lambda m: m.loo(SHOPS.assign(price=0.0), progress=False),
        "the data passed are not the data of the fit",
    ),
    "opens a result that is not there": (lambda _: aimz.open_result("/nonexistent"), "There is no result in"),
    "loads a model that is not there": (
        lambda _: ImpactModel.load("/nonexistent", kernel),
        "must be a directory written by `ImpactModel.save`",
    ),
    "passes an option twice": (
        lambda m: m.predict(ROWS[["price", "foot"]], shop=ROWS["shop"], args={"shop": ROWS["shop"]}, **QUIET),
        "`shop` must be given once; got it as a keyword argument and in `args`",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_answered(model, mistake):
    call, answer = MISTAKES[mistake]
    with pytest.raises((TypeError, ValueError, OSError, aimz.errors.OutputWarning), match=f"(?s){answer}"):
        call(model)
