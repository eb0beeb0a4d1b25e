"""Slopes and elasticities against closed forms, statsmodels and finite differences in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import statsmodels.api as sm
import xarray as xr
from jax import random
from numpyro.infer import MCMC, NUTS

import aimz

pytestmark = pytest.mark.usefixtures("plain_code")

N, S = 1500, 12
RNG = np.random.default_rng(7)
FRAME = pd.DataFrame({"price": RNG.uniform(1.0, 9.0, N), "age": RNG.normal(size=N)}).astype(np.float32)
REGION = np.where(RNG.random(N) < 0.4, "north", "south")
DRAWS = {"a": RNG.normal(0.5, 0.1, S), "b": RNG.normal([-0.3, 0.6], 0.05, (S, 2))}
ETA = DRAWS["a"][:, None] + DRAWS["b"] @ FRAME.to_numpy(float).T
PROB = 1 / (1 + np.exp(-ETA))
SLOPE = PROB * (1 - PROB) * DRAWS["b"][:, :1]
PRICE = FRAME["price"].to_numpy(float)


def model_of(kernel, draws, **options):
    model = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1), **options)
    return model.set_posterior_sample(draws)


def logit(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    b = numpyro.sample("b", dist.Normal().expand([2]).to_event(1))
    with numpyro.plate("obs", X.shape[0]):
        eta = numpyro.deterministic("eta", a + X @ b)
        numpyro.sample("y", dist.BernoulliLogits(eta), obs=y)


@pytest.fixture(scope="module")
def model():
    return model_of(logit, DRAWS)


def effect(tree, site="y", group="effect"):
    return tree[group][site].values.reshape(-1, *tree[group][site].shape[2:])


EXACT = {
    "dydx": lambda rows: SLOPE[:, rows].mean(1),
    "eyex": lambda rows: (SLOPE * PRICE / PROB)[:, rows].mean(1),
    "eydx": lambda rows: (SLOPE / PROB)[:, rows].mean(1),
    "dyex": lambda rows: (SLOPE * PRICE)[:, rows].mean(1),
    "total": lambda rows: (SLOPE * PRICE)[:, rows].sum(1) / PROB[:, rows].sum(1),
}


@pytest.mark.parametrize("kind", EXACT)
def test_kinds_equal_their_closed_forms(model, kind):
    found = model.slopes("price", kind=kind, X=FRAME, by=REGION, progress=False)
    for group in ("north", "south"):
        rows = group == REGION
        got = found["effect"]["y"].sel(scenario="price", group=group).values[0]
        np.testing.assert_allclose(got, EXACT[kind](rows), rtol=2e-5)
        level = found["scenarios"]["y"].sel(scenario="as observed", group=group).values[0]
        np.testing.assert_allclose(level, PROB[:, rows].mean(1), rtol=1e-5)
    np.testing.assert_allclose(effect(found, group="effect_overall")[:, 0], EXACT[kind](slice(None)), rtol=2e-5)


@pytest.mark.parametrize(("kind", "name"), [("dydx", "dydx"), ("eyex", "eyex"), ("dyex", "dyex"), ("eydx", "eydx")])
def test_kinds_equal_margeff_of_statsmodels(kind, name):
    rng = np.random.default_rng(1)
    y = (rng.random(N) < PROB[0]).astype(float)
    fit = sm.Logit(y, sm.add_constant(FRAME.to_numpy(float))).fit(disp=0)
    margin = fit.get_margeff(at="overall", method=name).margeff
    point = model_of(logit, {"a": fit.params[:1], "b": fit.params[None, 1:]})
    found = point.slopes("price", kind=kind, X=FRAME, progress=False)
    np.testing.assert_allclose(effect(found)[0, 0], margin[0], rtol=2e-5)


def test_numbers_do_not_depend_on_batches_and_select_rows_by_where_and_weights(model):
    options = {"X": FRAME, "progress": False, "rng_key": random.key(1), "weights": np.arange(N) % 3}
    whole = model.slopes(["price", "age"], **options, where=REGION == "north")
    cut = model.slopes(["price", "age"], **options, where=REGION == "north", batch_size=1)
    assert np.array_equal(effect(whole), effect(cut))
    weights = (np.arange(N) % 3) * (REGION == "north")
    for i in range(2):
        slopes = PROB * (1 - PROB) * DRAWS["b"][:, i : i + 1]
        np.testing.assert_allclose(effect(whole)[:, i], (slopes * weights).sum(1) / weights.sum(), rtol=2e-5)
    assert list(whole["effect"]["scenario"].values) == ["price", "age"]


def test_slopes_under_an_intervention(model):
    found = model.slopes("price", X=FRAME, intervention={"price": 5.0}, progress=False)
    eta = ETA + DRAWS["b"][:, :1] * (5.0 - PRICE)
    prob = 1 / (1 + np.exp(-eta))
    np.testing.assert_allclose(effect(found)[:, 0], (prob * (1 - prob) * DRAWS["b"][:, :1]).mean(1), rtol=2e-5)


def test_slopes_equal_differences_of_scenarios_for_small_steps(model):
    """The derivative of averages is the limit of the effects of `compare_scenarios`."""
    step = 1 / 64
    scenarios = {
        name: {"intervention": {"price": lambda p, s=s: p + s}} for name, s in (("low", -step), ("high", step))
    }
    both = model.compare_scenarios(scenarios, baseline="low", X=FRAME, progress=False)
    found = model.slopes("price", X=FRAME, progress=False)
    np.testing.assert_allclose(effect(found)[:, 0], effect(both)[:, 0] / (2 * step), rtol=1e-4)


def test_table_and_sentences(model):
    found = model.slopes("price", kind="eyex", X=FRAME, progress=False)
    table = aimz.summary(found)
    assert table.loc[0, "scenario"] == "price"
    np.testing.assert_allclose(table.loc[0, "mean"], EXACT["eyex"](slice(None)).mean(), rtol=1e-4)
    (sentence,) = aimz.in_words(found)
    assert sentence.startswith("The probability of `y` changes by -1.")
    assert "% for each percent of `price` on average" in sentence
    assert found["effect"].attrs["slope"] == "eyex"


# ---------------------------------------------------------------------------------------------- levers

X = RNG.uniform(1.0, 5.0, 400).astype(np.float32)
B = {"b": np.linspace(0.5, 1.5, 6)}


def gaussian(mean):
    """Return a kernel with the mean ``mean(X, price, b)``."""

    def kernel(X, price, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(mean(X, price, b), 1.0), obs=y)

    return kernel


def slope(mean, lever="price", *, price=X, draws=B, **options):
    kernel = mean if mean.__name__ == "kernel" else gaussian(mean)
    return model_of(kernel, draws).slopes(lever, X=X, price=price, progress=False, **options)


@pytest.mark.filterwarnings("ignore:Kernel .* cannot be split")
def test_arguments_without_rows_and_sites_are_levers():
    np.testing.assert_allclose(effect(slope(lambda X, p, b: b * p * X, price=2.5))[:, 0], B["b"] * X.mean(), rtol=1e-5)
    np.testing.assert_allclose(effect(slope(lambda X, p, b: b**2 * p, "b"))[:, 0], 2 * B["b"] * X.mean(), rtol=1e-5)
    np.testing.assert_allclose(effect(slope(lambda X, p, b: b * X**2, "X"))[:, 0], 2 * B["b"] * X.mean(), rtol=1e-5)
    found = slope(lambda X, p, b: b * p.mean() + p)
    np.testing.assert_allclose(effect(found)[:, 0], B["b"] + 1, rtol=1e-5)


def test_slopes_pass_through_mediators_with_common_noise():
    def kernel(X, price, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            m = numpyro.sample("m", dist.Normal(2 * price, 1.0))
            numpyro.sample("y", dist.Normal(b * m**2 + 3 * price, 1.0), obs=y)

    draws = {**B, "m": np.zeros((6, 400))}
    options = {"draws": draws, "rng_key": random.key(2)}
    found = slope(kernel, return_sites=["y", "m"], **options)
    np.testing.assert_allclose(effect(found, "m")[:, 0], 2.0, rtol=1e-5)
    m = found["scenarios"]["m"].values.ravel()  # mean of the resampled mediator
    np.testing.assert_allclose(effect(found)[:, 0], B["b"] * 4 * m + 3, rtol=1e-4)


def test_levers_with_several_values_for_each_row_move_together():
    price = RNG.uniform(1, 2, (400, 3)).astype(np.float32)
    mean = lambda X, p, b: b * (p**2).sum(-1)  # noqa: E731
    np.testing.assert_allclose(effect(slope(mean, price=price))[:, 0], B["b"] * 2 * price.sum(1).mean(), rtol=1e-5)
    found = slope(mean, price=price, kind="eyex")
    np.testing.assert_allclose(effect(found)[:, 0], 2.0, rtol=1e-5)


def test_elasticities_of_a_panel_site_need_one_sign_within_each_row():
    """A single row with entries of both signs was answered."""

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            lever = numpyro.deterministic("lever", 1.0 * X)
            numpyro.sample("y", dist.Normal(jnp.exp(b * lever.sum(1)), 1.0), obs=y)

    panel = RNG.uniform(1, 2, (400, 3)).astype(np.float32)
    for rows in (panel, -panel):
        found = model_of(kernel, B).slopes("lever", kind="eyex", X=rows, progress=False)
        np.testing.assert_allclose(effect(found)[:, 0], B["b"] * rows.sum(1).mean(), rtol=1e-5)
    panel[7, 1] = -0.5
    with pytest.raises(ValueError, match=r"`lever` is at or below 0 in 0\.25 % of the rows"):
        model_of(kernel, B).slopes("lever", kind="eyex", X=panel, progress=False)


# ---------------------------------------------------------------------------------------------- errors

BINARY = (np.arange(400) % 2).astype(np.float32)
REJECTED = {
    "comparison": (lambda X, p, b: b * jnp.where(p > 3, p, 0.0), {}, r"a comparison \(test_slopes.py, line \d+\)"),
    "stop_gradient": (lambda X, p, b: b * (p + jax.lax.stop_gradient(p)), {}, "`stop_gradient` cuts it"),
    "look-up": (lambda X, p, b: b * jnp.arange(9.0)[p.astype(int)], {}, "it selects an entry of an array"),
    "rounding": (lambda X, p, b: b * jnp.round(p), {}, "it is rounded"),
    "0 or 1": (lambda X, p, b: b * p, {"price": BINARY}, "`price` is 0 or 1 in all 400 rows"),
    "bool": (lambda X, p, b: b * p, {"price": BINARY > 0}, "`price` is True or False"),
    "index": (lambda X, p, b: b * jnp.arange(9.0)[p], {"price": np.arange(400) % 5}, "as a whole number"),
    "sign of x": (lambda X, p, b: b * p, {"price": X - 3, "kind": "eyex"}, r"`price` is below 0 in \d+ rows"),
    "sign of mean": (lambda X, p, b: b * (p - 3), {"kind": "eydx"}, "`y` is at or below 0 in 5"),
    "unknown": (lambda X, p, b: b * p, {"lever": "cost"}, "Known: price; sites: b, y"),
    "kind": (lambda X, p, b: b * p, {"kind": "dxdy"}, "`kind` must be one of 'dydx'"),
    "where": (lambda X, p, b: b * p, {"where": X}, "`where` must select rows"),
    "draws": (
        lambda X, p, b: b * p,
        {"intervention": {"price": xr.DataArray(np.ones((1, 6)), dims=("chain", "draw"))}},
        "needs one value of `price` in all draws",
    ),
}


@pytest.mark.parametrize("name", REJECTED)
def test_derivatives_that_would_be_wrong_are_rejected(name):
    mean, options, message = REJECTED[name]
    options = {"lever": "price", **options}
    with pytest.raises(ValueError, match=message):
        slope(mean, **options)


def kernel_with_draws(X, price, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        k = numpyro.sample("k", dist.Bernoulli(logits=price))
        g = numpyro.sample("g", dist.Gamma(price, 1.0))
        numpyro.deterministic("through_k", b * k + price)
        numpyro.deterministic("through_g", b * g)
        numpyro.sample("y", dist.Poisson(jnp.exp(b * price)), obs=y)


@pytest.mark.parametrize(
    ("site", "message"),
    [
        ("k", "`k` by `price` is 0 by construction"),
        ("through_k", "site `k` on the way is drawn from a discrete distribution"),
        ("through_g", "is drawn .* by comparing random numbers"),
    ],
)
@pytest.mark.filterwarnings("ignore:The answer|Intervals")
def test_draws_without_a_derivative_are_rejected(site, message):
    model = model_of(kernel_with_draws, B)
    with pytest.raises(ValueError, match=message) as error:
        model.slopes("price", X=X, price=X, return_sites=[site], progress=False)
    assert "compare_scenarios" in str(error.value)


def test_kinks_and_functions_of_jax_are_accepted():
    found = slope(lambda X, p, b: b * jnp.maximum(p - 3, 0.0))
    np.testing.assert_allclose(effect(found)[:, 0], B["b"] * (X > 3).mean(), rtol=1e-5)
    smooth = (jax.nn.softplus, jax.nn.elu, jax.nn.softmax, jax.scipy.special.ndtr, jnp.nan_to_num, jnp.abs)
    mean = lambda X, p, b: sum(f(jnp.stack([p, b * p], -1))[..., 0] for f in smooth)  # noqa: E731
    assert np.isfinite(effect(slope(mean))).all()


def test_curves_on_a_grid(model):
    grid = aimz.grid(FRAME, price=[2.0, 4.0, 8.0], age=[-1.0, 1.0])
    found = model.slopes("price", X=grid, by=["price", "age"], progress=False)
    eta = DRAWS["a"] + DRAWS["b"] @ [4.0, -1.0]
    curve = found["scenarios"]["y"].sel(price=4.0, age=-1.0).values.ravel()
    np.testing.assert_allclose(curve, 1 / (1 + np.exp(-eta)), rtol=1e-5)
    figure = aimz.plots.plot_response(found)
    assert figure.axes[0].get_xlabel() == "price"
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["age -1.0", "age 1.0"]
    with pytest.raises(ValueError, match="needs a dimension whose labels are numbers"):
        aimz.plots.plot_response(found, "region")
