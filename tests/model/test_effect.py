"""Effects of one treatment: closed forms, default comparisons, printed answers, and errors."""

import re
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from jax import random
from jax.scipy.special import expit
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta

import aimz
from aimz import EffectResult, ImpactModel

N = 120
RNG = np.random.default_rng(3)
X = RNG.normal(size=N).astype(np.float32)
MAIL = RNG.integers(0, 2, N)
PRICE = RNG.uniform(4, 9, N).astype(np.float32)
SEGMENT = np.where(X > 0, "new", "known")
GAIN = RNG.normal(-0.8, 0.2, 200).astype(np.float32)
SLOPE = RNG.normal(-0.2, 0.05, 200).astype(np.float32)
ROWS: dict[str, Any] = {"X": X, "args": {"mail": MAIL, "price": PRICE}, "progress": False}


def linear(X, mail=0, price=0.0, y=None):
    gain = numpyro.sample("gain", dist.Normal())
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("customer", X.shape[0]):
        numpyro.sample("y", dist.Normal(X + gain * mail + slope * price, 1.0), obs=y)


def logistic(X, mail, price, y=None):
    gain = numpyro.sample("gain", dist.Normal())
    slope = numpyro.sample("slope", dist.Normal())
    with numpyro.plate("customer", X.shape[0]):
        numpyro.sample("y", dist.Bernoulli(logits=X + gain * mail + slope * price), obs=y)


def given(kernel) -> ImpactModel:
    model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    return model.set_posterior_sample({"gain": GAIN, "slope": SLOPE})


LOGISTIC = given(logistic)


def probabilities(mail: Any = MAIL, price: Any = PRICE) -> np.ndarray:
    """Return the probability of each draw and row."""
    draws = GAIN[:, None], SLOPE[:, None]
    return np.asarray(expit(X + draws[0] * mail + draws[1] * np.asarray(price)), np.float64)


def draws_of(result: EffectResult, **labels: Any) -> np.ndarray:
    found = result.draws
    assert isinstance(found, xr.DataArray)
    return found.sel(labels).values[0].squeeze()


def test_a_linear_effect_equals_the_coefficient():
    model = given(linear)
    effect = model.effect("mail", **ROWS)
    np.testing.assert_allclose(draws_of(effect), GAIN, rtol=1e-5)
    assert effect.draws.name == "y"
    assert effect.draws.scenario.values.tolist() == ["mail = 1"]
    on_gain = model.effect("gain", X=X, args={"mail": np.ones(N)}, progress=False)
    np.testing.assert_allclose(draws_of(on_gain), 1.0, rtol=1e-5)


def test_a_logistic_effect_equals_the_average_of_its_rows():
    before, after = probabilities(0), probabilities(1)
    effect = LOGISTIC.effect("mail", **ROWS)
    np.testing.assert_allclose(draws_of(effect), (after - before).mean(1), rtol=1e-4)
    treated = LOGISTIC.effect("mail", where="mail", **ROWS)
    np.testing.assert_allclose(draws_of(treated), (after - before)[:, MAIL == 1].mean(1), rtol=1e-4)
    assert f"Average over {MAIL.sum()} of {N} rows; 200 draws." in repr(treated)
    same = LOGISTIC.effect("mail", where=MAIL == 1, weights=np.full(N, 2.0), **ROWS)
    np.testing.assert_allclose(draws_of(same), draws_of(treated), rtol=1e-5)
    lift = LOGISTIC.effect("mail", by={"segment": SEGMENT}, contrast="lift", **ROWS)
    for name in ("new", "known"):
        chosen = name == SEGMENT
        expected = after[:, chosen].mean(1) / before[:, chosen].mean(1) - 1
        np.testing.assert_allclose(draws_of(lift, segment=name), expected, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "before", "after", "names"),
    [
        ({"treatment": "price"}, {}, {"price": PRICE + 1}, ["price + 1"]),
        ({"treatment": "price", "values": (4, 9)}, {"price": 4}, {"price": 9}, ["price = 9"]),
        ({"treatment": "price", "values": [9], "baseline": 4}, {"price": 4}, {"price": 9}, ["price = 9"]),
        ({"price": 9.0}, {}, {"price": 9.0}, ["price = 9"]),
        ({"price": lambda p: 1.1 * p}, {}, {"price": 1.1 * PRICE}, ["1.1 * price"]),
        ({"price": lambda p: p - 0.5}, {}, {"price": PRICE - 0.5}, ["price - 0.5"]),
        ({"price": lambda p: p**2}, {}, {"price": PRICE**2}, ["price changed"]),
        ({"price": 9.0, "mail": 1}, {}, {"price": 9.0, "mail": 1}, ["price = 9, mail = 1"]),
        ({"treatment": {"price": 9.0}}, {}, {"price": 9.0}, ["price = 9"]),
        ({"intervention": {"price": PRICE / 2}}, {}, {"price": PRICE / 2}, ["price as given"]),
        ({"price": 9.0, "baseline": {"price": 4.0}}, {"price": 4.0}, {"price": 9.0}, ["price = 9"]),
    ],
)
def test_forms_of_a_question(options, before, after, names):
    effect = LOGISTIC.effect(**options, **ROWS)
    assert effect.draws.scenario.values.tolist() == names
    expected = (probabilities(**after) - probabilities(**before)).mean(1)
    np.testing.assert_allclose(draws_of(effect), expected, rtol=2e-3, atol=1e-6)


def test_a_sweep_has_numbers_as_labels():
    effect = LOGISTIC.effect("price", values=np.linspace(4, 9, 6), **ROWS)
    assert effect.draws.scenario.values.tolist() == [5.0, 6.0, 7.0, 8.0, 9.0]
    expected = (probabilities(price=7.0) - probabilities(price=4.0)).mean(1)
    np.testing.assert_allclose(draws_of(effect, scenario=7.0), expected, rtol=2e-3)
    assert "under price = 7 than under price = 4" in aimz.in_words(effect)[2]
    assert effect.plot().axes[0].get_xlabel() == "price"


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (MAIL == 1, ["mail = True"]),
        (MAIL.astype(np.float32), ["mail = 1"]),
        (np.zeros(N, int), ["mail = 1"]),
        (np.arange(N) % 3, ["mail = 1", "mail = 2"]),
        (np.where(MAIL, 1.5, np.nan) + np.arange(N) % 2, ["mail = 2.5"]),
        (np.arange(N), ["mail + 1"]),
        (np.full(N, 7), ["mail + 1"]),
    ],
)
def test_default_comparison(values, names):
    effect = LOGISTIC.effect("mail", X=X, args={"mail": values, "price": PRICE}, nan_policy="omit", progress=False)
    assert effect.draws.scenario.values.tolist() == names


def test_columns_of_a_table_and_sites():
    def kernel(X, y=None):
        gain = numpyro.sample("gain", dist.Normal())
        with numpyro.plate("customer", X.shape[0]):
            mood = numpyro.sample("mood", dist.Bernoulli(0.5))
            numpyro.sample("y", dist.Normal(gain * X[:, 1] + 2.0 * mood, 1.0), obs=y)

    frame = pd.DataFrame({"age": X, "mail": MAIL, "segment": SEGMENT})[["age", "mail"]]
    model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    model.set_posterior_sample({"gain": GAIN})
    with pytest.warns(aimz.OutputWarning):  # `mood` has no posterior draws
        column = model.effect("mail", X=frame, progress=False)
    site = model.effect("mood", X=frame, by={"segment": SEGMENT}, progress=False)
    np.testing.assert_allclose(draws_of(column), GAIN, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(draws_of(site, segment="new"), 2.0, rtol=1e-4)
    assert site.draws.scenario.values.tolist() == ["mood = 1"]


@pytest.mark.filterwarnings("ignore::aimz.FitWarning")
def test_rows_of_the_fit():
    model = ImpactModel(linear, random.key(0), SVI(linear, AutoDelta(linear), numpyro.optim.Adam(0.01), Trace_ELBO()))
    x, y = X.copy(), X + MAIL
    model.fit_on_batch(x, y, mail=MAIL, price=PRICE, num_steps=2, num_samples=3, progress=False)
    effect = model.effect("price", rng_key=random.key(1), progress=False)
    other = model.effect("price", rng_key=random.key(1), **ROWS)
    np.testing.assert_array_equal(effect.draws, other.draws)
    np.testing.assert_allclose(draws_of(effect), model.posterior["slope"], rtol=1e-4)
    assert f"Average over {N} rows of the fit; 3 draws." in repr(effect)
    doubled = model.effect("price", args={"price": 2 * PRICE}, progress=False)  # replaces an argument of the fit
    np.testing.assert_allclose(draws_of(doubled), model.posterior["slope"], rtol=1e-4)
    x += 1
    with pytest.raises(ValueError, match="The rows of the fit were modified in place since: `X` has other values"):
        model.effect("price", progress=False)
    assert isinstance(model.effect("price", **ROWS), EffectResult)


def test_the_answer_is_printed_in_the_units_of_the_question():
    effect = LOGISTIC.effect("mail", **ROWS)
    mean = effect.draws.mean().item()
    (text,) = aimz.in_words(effect)
    points = re.match(r"The probability of `y` is on average ([\d.]+) percentage points lower under mail = 1", text)
    assert points is not None
    np.testing.assert_allclose(float(points[1]), -100 * mean, rtol=5e-3)
    assert text.endswith("percentage points lower); below 0 with probability over 99.5 %.")
    (lift,) = aimz.in_words(LOGISTIC.effect("mail", contrast="lift", **ROWS), ci_prob=0.5, ci_kind="hdi")
    assert re.search(r"is on average [\d.]+ % lower under .* \(50 % HDI interval [\d.]+ % to [\d.]+ % lower\)", lift)
    lines = repr(effect).splitlines()
    assert max(map(len, lines)) <= 79
    assert re.search(r"mail = 1 -[\d.]+ pp [\d.]+ pp -[\d.]+ pp -[\d.]+ pp 0\.000", repr(effect))
    (drawn,) = aimz.in_words(LOGISTIC.effect("mail", kind="outcome", **ROWS))
    assert drawn.startswith("The drawn share of `y` is on average")


def test_an_effect_without_uncertainty_or_without_values():
    """The numbers of an effect that does not vary have no rounding errors, and missing ones are not called zero."""
    with pytest.warns(aimz.OutputWarning, match="drawn outcomes .* are averaged"):
        sure = given(linear).effect(y=lambda y: y + 1, **ROWS)
    assert re.search(r"Drawn `y` is on average 1 higher .* interval 1 to 1 higher", aimz.in_words(sure)[0])
    assert re.search(r"y \+ 1 +1 +0 +1 +1 1\.000", repr(sure))
    rows = {**ROWS, "X": np.where(X > 1, np.nan, X)}
    with pytest.warns(aimz.OutputWarning, match="NaN"):
        (text,) = aimz.in_words(LOGISTIC.effect("price", **rows))
    assert "has no difference that can be computed under price + 1 against as observed" in text


def test_accessors_of_a_result():
    effect = LOGISTIC.effect("mail", by={"segment": SEGMENT}, **ROWS)
    table = effect.summary(ci_prob=0.8, ci_kind="hdi", rope=(-0.01, 0.01))
    assert {"hdi80_lb", "hdi80_ub", "P(in ROPE)"} <= set(table.columns)
    pd.testing.assert_frame_equal(table, aimz.summary(effect.tree, hdi_prob=0.8, rope=(-0.01, 0.01)))
    frame = effect.to_pandas()
    assert frame.columns.tolist() == ["chain", "draw", "scenario", "segment", "y"]
    assert len(frame) == 400
    assert aimz.plots.plot_effect(effect).axes
    assert aimz.plots.plot_groups(effect).axes
    assert effect.plot(ci_prob=0.5).axes[0].get_xlabel() == "change in the probability of y"
    page = effect._repr_html_()
    assert page.startswith("<pre>")
    assert "src='data:image/png;base64," in page


def test_effects_of_rows_have_a_table():
    """The table of `estimate_effect` averages rows within each draw; statistics of rows have no such average."""
    sides = {"args_baseline": {"X": X, "mail": MAIL, "price": PRICE, "intervention": {"mail": 0}}}
    sides["args_intervention"] = {**sides["args_baseline"], "intervention": {"mail": 1}}
    sides = {side: {**one, "store": "memory", "progress": False} for side, one in sides.items()}
    tree = LOGISTIC.estimate_effect(**sides)
    draws = tree["posterior_predictive"]["y"].values.mean(-1)
    table = aimz.summary(tree)
    np.testing.assert_allclose(table["mean"], draws.mean(), rtol=1e-6)
    np.testing.assert_allclose(table["sd"], draws.std(ddof=1), rtol=1e-6)
    assert "`y` is on average" in aimz.in_words(tree)[0]
    assert "lower under mail = 1 than under mail = 0" in aimz.in_words(tree)[0]
    rows = LOGISTIC.estimate_effect(**sides, statistics=("mean", "sd"))
    with pytest.raises(ValueError, match=r"must hold draws; got statistics over draws \(mean, sd\).*Call `effect`"):
        aimz.summary(rows)
    with pytest.raises(TypeError, match=r"must hold effects; got a tree with predictions.*Call `effect`"):
        aimz.in_words(LOGISTIC.predict_on_batch(X, mail=MAIL, price=PRICE))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs the name of a treatment, or an intervention; got neither. Call"),
        ({"treatment": "mail", "price": 9.0}, r"got 'mail' and \['price'\]. Call"),
        ({"intervention": {"mail": 1}, "price": 9.0}, "must be passed once"),
        ({"treatment": 3}, "`treatment` must be the name"),
        ({"treatment": "mial"}, "got 'mial'. Did you mean 'mail'\\? Sites: gain, slope, y. Arguments: X, mail, price"),
        ({"price": (4, 9)}, r"got \(4, 9\). To compare .* `effect\('price', values=\(4, 9\)\)`"),
        ({"price": 9.0, "values": (4, 9)}, "`values` belong to one treatment"),
        ({"treatment": "price", "values": (4, 4)}, "must be two or more different values"),
        ({"treatment": "price", "values": 4}, "`values` must be a list of values"),
        ({"treatment": "price", "baseline": 4.0}, "has too many values"),
        ({"price": 9.0, "baseline": 4.0}, "`baseline` must map the names"),
        (
            {"treatment": "mail", "baseline": {"mail": 0}},
            "`baseline` of the treatment `mail` must be one of its values",
        ),
        ({"price": 9.0, "baseline": {"price": 9.0}}, "must differ"),
        ({"treatment": "mail", "where": MAIL > 1}, "`where` must select rows.*got no selected row"),
        ({"treatment": "mail", "where": MAIL[:5]}, "`where` must select rows"),
        ({"treatment": "mail", "args": [1]}, "`args` must map names"),
        ({"treatment": "mail", "ci_kind": "hdi"}, r"got 'mail' and.*\.summary\(ci_prob=0\.5\)"),
        ({"treatment": "y"}, "must be a cause of the outcome; got the outcome 'y' itself"),
        ({"treatment": "mail", "X": None}, "`effect` needs rows.*`set_posterior_sample`. Pass the input as `X`"),
    ],
)
def test_errors(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        LOGISTIC.effect(**{**ROWS, **options})


def test_an_argument_that_has_its_default_has_no_values():
    with pytest.raises(ValueError, match=r"`mail` is an argument .* with a default, .* Pass them, in `args="):
        given(linear).effect("mail", X=X, progress=False)


def test_missing_kernel_arguments_are_named():
    with pytest.raises(TypeError, match=r"Missing kernel argument.*`mail`") as caught:
        LOGISTIC.effect("mail", X=X, progress=False)
    assert "Arguments of the kernel are in `args`" in caught.value.__notes__[0]


@pytest.mark.filterwarnings("ignore::aimz.FitWarning")
def test_each_category_is_compared_with_the_first():
    """Of a text column: by default, with values, and with another baseline."""

    def kernel(X, mail, n_mail=3, y=None):
        gain = numpyro.sample("gain", dist.Normal().expand([n_mail]).to_event(1))
        with numpyro.plate("customer", X.shape[0]):
            numpyro.sample("y", dist.Normal(X[:, 0] + gain[mail], 1.0), obs=y)

    frame = pd.DataFrame({"age": X, "mail": np.array(["none", "men", "women"])[np.arange(N) % 3], "y": X})
    model = ImpactModel(kernel, random.key(0), SVI(kernel, AutoDelta(kernel), numpyro.optim.Adam(0.1), Trace_ELBO()))
    model.fit_on_batch(frame, num_steps=3, num_samples=2, progress=False)
    gain = dict(zip(("men", "none", "women"), np.asarray(model.posterior["gain"]).T, strict=True))
    for options, baseline, others in (
        ({}, "men", ["none", "women"]),
        ({"values": ("none", "women")}, "none", ["women"]),
        ({"baseline": "women"}, "women", ["men", "none"]),
    ):
        effect = model.effect("mail", **options, progress=False)
        assert effect.draws.scenario.values.tolist() == [f"mail = {name}" for name in others]
        for name in others:
            found = draws_of(effect, scenario=f"mail = {name}")
            np.testing.assert_allclose(found, gain[name] - gain[baseline], rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="must be one of its categories, 'men', 'none', 'women'; got 'man'"):
        model.effect("mail", values=("none", "man"), progress=False)
