"""Uplift and Qini curves, compared with closed forms and with sums over rows."""

from itertools import permutations

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import xarray as xr
from jax import random
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel, plots
from aimz.plots import policy_value, qini_curve, uplift_curve


def line(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("customer", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + X[:, 0]), obs=y)


def effects(values, **attrs):
    return xr.DataArray(np.asarray(values, float), dims=("chain", "draw", "row"), name="y", attrs=attrs)


@pytest.fixture
def some():
    """Effects on 37 unordered rows, in 2 chains of 11 draws."""
    rng = np.random.default_rng(0)
    return effects(rng.normal(rng.permutation(37) / 10 - 1, 0.5, (2, 11, 37)))


def expected_gain(draws, score, counts):
    """Return gains of treating the first rows of a ranking, from a sum for each draw and number of rows."""
    n = draws.shape[-1]
    ranking = sorted(range(n), key=lambda i: -score[i])
    return np.array([[sum(draw[i] for i in ranking[:k]) / n for k in counts] for draw in draws])


@pytest.mark.parametrize("n_cuts", [1, 5, 36, 37, 200])
def test_gain_sums_the_largest_effects(some, n_cuts):
    curve = uplift_curve(some, n_cuts=n_cuts)
    draws = some.values.reshape(22, 37)
    expected = expected_gain(draws, draws.mean(axis=0), curve["n_rows"].values)
    np.testing.assert_allclose(curve["gain"].values.reshape(22, -1), expected, atol=1e-12)
    np.testing.assert_allclose(curve["gain"].isel(share=-1), some.mean("row"), atol=1e-12)
    xr.testing.assert_allclose(
        curve["random"].drop_vars("n_rows"), some.mean("row") * curve["share"].drop_vars("n_rows")
    )
    assert curve.sizes["share"] == min(n_cuts, 37) + 1
    assert curve["share"].values[[0, -1]].tolist() == [0.0, 1.0]


def test_gain_with_user_ranking(some):
    score = np.random.default_rng(1).normal(size=37)
    curve = uplift_curve(some, ranking=score, n_cuts=37)
    expected = expected_gain(some.values.reshape(22, 37), score, range(38))
    np.testing.assert_allclose(curve["gain"].values.reshape(22, -1), expected, atol=1e-12)


def test_tied_rows_average_over_their_orders(some):
    """Compares with the average over all orders of the tied rows."""
    rng = np.random.default_rng(5)
    y = some.isel(row=slice(6))
    score = np.array([1.0, 0.0, 2.0, 1.0, 1.0, 1.0])
    orders = [score + 1e-3 * np.array([a, 0, 0, b, c, d]) for a, b, c, d in permutations(range(4))]
    for n_cuts in (2, 4, 6):
        found = uplift_curve(y, ranking=score, n_cuts=n_cuts)
        each = [uplift_curve(y, ranking=order, n_cuts=n_cuts)["gain"] for order in orders]
        np.testing.assert_allclose(found["gain"], np.mean(each, axis=0), atol=1e-12)
    # The order of the rows does not matter.
    treated, outcome, coarse = np.arange(37) % 2, rng.normal(size=37), np.arange(37) // 5
    original = qini_curve(some, treated=treated, outcome=outcome, ranking=coarse, n_cuts=8, n_boot=0)
    p = rng.permutation(37)
    permuted = qini_curve(
        some.isel(row=p), treated=treated[p], outcome=outcome[p], ranking=coarse[p], n_cuts=8, n_boot=0
    )
    xr.testing.assert_allclose(original, permuted)


def test_constant_ranking_has_zero_coefficient():
    """Also if the rows are sorted by treatment or outcome."""
    constant = effects(np.ones((1, 10, 100)))
    treated = np.tile([1, 0], 50)
    for order in (np.arange(100), np.argsort(treated)):
        arm = treated[order]
        outcome = np.r_[np.full(50, 10.0), np.zeros(50)] * arm
        found = qini_curve(constant, treated=arm, outcome=outcome, n_cuts=4, n_boot=20)
        assert found["coefficient"].item() == pytest.approx(0, abs=1e-9)
        np.testing.assert_allclose(found["coefficient_boot"], 0, atol=1e-9)
        # The outcome of the 50 treated rows, less that of the untreated rows, which is zero.
        assert found["qini"].values[-1] == pytest.approx(outcome.sum())


LABELS = {
    "texts": pd.Index([f"c{i}" for i in range(37)]),
    "numbers": pd.Index(np.arange(37) + 100),
    "dates": pd.date_range("2024-01-01", periods=37, tz="Europe/Berlin"),
    "months": pd.period_range("2020-01", periods=37, freq="M"),
    "levels": pd.MultiIndex.from_product([["a"], range(37)], names=["shop", "day"]),
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_labels_must_match_the_rows(some, labels):
    """The result has labels from the same index."""
    sampler = MCMC(NUTS(line), num_warmup=1, num_samples=1)
    model = ImpactModel(line, random.key(0), sampler).set_posterior_sample({"a": np.arange(3.0)})
    result = model.predict_on_batch(pd.DataFrame({"x": np.arange(37.0)}, index=labels))
    score = pd.Series(np.random.default_rng(6).normal(size=37), index=labels)
    treated, outcome = pd.Series(np.arange(37) % 2, index=labels), score + 1
    plain = uplift_curve(result, ranking=score.to_numpy())
    xr.testing.assert_identical(uplift_curve(result, ranking=score), plain)
    xr.testing.assert_identical(uplift_curve(result, ranking=score.reset_index(drop=True)), plain)
    for call in (
        lambda: uplift_curve(result, ranking=score[::-1]),
        lambda: qini_curve(result, treated=treated[::-1], outcome=outcome, n_boot=0),
        lambda: qini_curve(result, treated=treated, outcome=outcome.sort_values(), n_boot=0),
        lambda: plots.plot_predictive(result, observed=score[::-1]),
    ):
        with pytest.raises(ValueError, match=r"must have the labels of the rows of the result.*pass the values alone"):
            call()


def test_labels_of_data_arrays_and_plain_ranges(some):
    score = xr.DataArray(np.random.default_rng(6).normal(size=37), dims="row")
    plain = uplift_curve(some, ranking=score)  # no labels
    labelled = score.assign_coords(row=np.arange(37))
    xr.testing.assert_identical(uplift_curve(some, ranking=labelled), plain)
    with pytest.raises(ValueError, match="`ranking` must have the labels"):
        uplift_curve(some, ranking=labelled[::-1])
    with pytest.raises(ValueError, match="got 36 where the result has 0"):
        uplift_curve(some, ranking=labelled.to_series()[::-1])


def test_gain_of_uniform_effects_is_a_parabola():
    """With effects uniform on 0 to 1, the top share s gains s - s^2/2, and the area above random is 1/12."""
    n = 100_000
    curve = uplift_curve(effects((np.arange(n)[None, None] + 0.5) / n))
    share = curve["share"].values
    np.testing.assert_allclose(curve["gain"].values.ravel(), share - share**2 / 2, atol=1e-9)
    assert curve["area"].item() == pytest.approx(1 / 12, abs=1e-4)


def test_gain_of_equal_effects_is_random():
    curve = uplift_curve(effects(np.full((2, 3, 50), 0.7)))
    np.testing.assert_allclose(curve["gain"], curve["random"], atol=1e-12)
    np.testing.assert_allclose(curve["area"], 0.0, atol=1e-12)


def test_curve_does_not_depend_on_blocks(some, monkeypatch):
    from aimz.plots import selection

    whole = uplift_curve(some)
    monkeypatch.setattr(selection, "_BLOCK_SIZE", 22 * 4)
    xr.testing.assert_allclose(uplift_curve(some), whole)
    xr.testing.assert_allclose(uplift_curve(some.transpose("row", "draw", "chain")), whole)
    xr.testing.assert_allclose(uplift_curve(some.chunk(row=3)), whole)


def test_curve_of_row_means(some):
    stats = xr.concat([some.mean(("chain", "draw")), some.std(("chain", "draw"))], "statistic")
    stats = stats.assign_coords(statistic=["mean", "sd"])
    curve = uplift_curve(stats)
    assert set(curve["gain"].dims) == {"share"}
    np.testing.assert_allclose(curve["gain"], uplift_curve(some)["gain"].mean(("chain", "draw")), atol=1e-12)


def test_qini_matches_radcliffe_formula(some):
    rng = np.random.default_rng(2)
    treated, outcome = rng.integers(0, 2, 37), rng.normal(5, 2, 37)
    found = qini_curve(some, treated=treated, outcome=outcome, n_cuts=37, n_boot=0)
    draws = some.values.reshape(22, 37)
    ranking = sorted(range(37), key=lambda i: -draws.mean(axis=0)[i])
    for k in range(1, 38):
        yes = [i for i in ranking[:k] if treated[i]]
        no = [i for i in ranking[:k] if not treated[i]]
        expected = outcome[yes].sum() - outcome[no].sum() * len(yes) / len(no) if no else np.nan
        assert found["qini"].values[k] == pytest.approx(expected, nan_ok=True)
        np.testing.assert_allclose(found["qini_model"].values.reshape(22, -1)[:, k], draws[:, yes].sum(axis=1))


def test_qini_of_true_effects_agrees_with_the_model():
    """Observed and expected curve agree within the bootstrap's error if the effects are the true ones."""
    rng = np.random.default_rng(3)
    true = rng.gamma(2.0, 1.0, 20_000)
    treated = rng.integers(0, 2, 20_000)
    outcome = 10 + true * treated + rng.normal(0, 2, 20_000)
    found = qini_curve(effects(true[None, None]), treated=treated, outcome=outcome, n_cuts=20)
    error = found["qini_boot"].std("replication").values[1:]
    z = (found["qini"] - found["qini_model"].isel(chain=0, draw=0)).values[1:] / error
    assert np.abs(z).max() < 4
    # The end of the curve is a difference of two means, whose error is known.
    y1, y0 = outcome[treated == 1], outcome[treated == 0]
    assert found["qini"].values[-1] == pytest.approx(len(y1) * (y1.mean() - y0.mean()))
    mean_error = found["qini_boot"].isel(share=-1).std().item()
    n1 = len(y1)
    # A bootstrap of rows also varies the number of treated rows.
    closed = n1 * np.sqrt(y1.var() / len(y1) + y0.var() / len(y0) + (y1.mean() - y0.mean()) ** 2 / n1)
    assert mean_error == pytest.approx(closed, rel=4 / np.sqrt(2 * 200))
    assert found["coefficient"].item() > 0


def test_qini_of_random_ranking_is_zero():
    rng = np.random.default_rng(4)
    treated, outcome = rng.integers(0, 2, 5000), rng.normal(0, 1, 5000)
    found = qini_curve(effects(rng.normal(size=(1, 1, 5000))), treated=treated, outcome=outcome)
    assert abs(found["coefficient"]) < 4 * found["coefficient_boot"].std()


def test_policy_value_of_uniform_effects():
    """With effects uniform on 0 to 1, worth 4 each, those above 1/4 pay a cost of 1."""
    n = 10_000
    curve = uplift_curve(effects((np.arange(n)[None, None] + 0.5) / n))
    worth = policy_value(curve, cost=1.0, value=4.0)
    share = curve["share"].values
    np.testing.assert_allclose(worth["value"].values.ravel(), 4 * (share - share**2 / 2) - share, atol=1e-6)
    assert worth["best_share"].item() == 0.75
    assert worth["best_value"].item() == pytest.approx(4 * (0.75 - 0.75**2 / 2) - 0.75)


def test_best_share_by_draw(some):
    worth = policy_value(uplift_curve(some, n_cuts=37), cost=0.6)
    values = worth["value"].values
    share = worth["share"].values
    np.testing.assert_array_equal(worth["best_share_by_draw"].values, share[values.argmax(-1)])
    assert worth["best_share"].item() == share[values.mean((0, 1)).argmax()]
    assert len(np.unique(worth["best_share_by_draw"])) > 1


def test_best_share_is_zero_if_cost_exceeds_effects(some):
    assert policy_value(uplift_curve(some), cost=100.0)["best_share"].item() == 0.0


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"n_cuts": 0}, ValueError, "from 1 to 200"),
        ({"ranking": [1.0, 2.0]}, ValueError, "each of the 37 rows"),
        ({"ranking": ["a"] * 37}, TypeError, "`ranking` must be numbers"),
        ({"ranking": np.full(37, np.nan)}, ValueError, "must be finite"),
        ({"var_name": "z", "effects": "dataset"}, ValueError, r"must be one of \['y'\]"),
        ({"effects": "averaged"}, ValueError, "needs effects on rows"),
        ({"effects": "nan"}, ValueError, "1 of 37 are not"),
        ({"effects": [1.0, 2.0]}, TypeError, "got list"),
        ({"max_draws": 0}, ValueError, "positive integer"),
    ],
)
def test_uplift_curve_rejects_invalid_arguments(some, arguments, error, words):
    given = arguments.pop("effects", some)
    if isinstance(given, str):
        holed = some.where(np.arange(37) != 5)
        given = {"dataset": some.to_dataset(), "averaged": some.mean("row"), "nan": holed}[given]
    with pytest.raises(error, match=words):
        uplift_curve(given, **arguments)


@pytest.mark.parametrize(
    ("treated", "outcome", "words"),
    [
        (np.ones(37), np.ones(37), "some of each; got 1"),
        (np.arange(37), np.ones(37), "1 for treated rows and 0 for others"),
        (np.ones(5), np.ones(37), "`treated` must have one number for each"),
        (np.arange(37) % 2, np.full(37, np.inf), "`outcome` must be finite"),
    ],
)
def test_qini_curve_rejects_invalid_experiments(some, treated, outcome, words):
    with pytest.raises(ValueError, match=words):
        qini_curve(some, treated=treated, outcome=outcome)


def test_plot_uplift_needs_treatment_and_outcome(some):
    with pytest.raises(ValueError, match="`treated` without `outcome`"):
        plots.plot_uplift(some, treated=np.ones(37))


@pytest.mark.parametrize("cost", [np.nan, "1", None, [1.0, 2.0]])
def test_policy_value_rejects_invalid_cost(some, cost):
    with pytest.raises(ValueError, match="`cost` must be a finite number"):
        policy_value(uplift_curve(some), cost=cost)
