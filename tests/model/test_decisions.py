"""Choices of levers against closed forms, NumPy and SciPy on the same sums."""

from itertools import product

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS
from scipy.optimize import minimize_scalar
from scipy.stats import norm

import aimz

pytestmark = pytest.mark.usefixtures("plain_code")

RNG = np.random.default_rng(2)


def model_of(kernel, draws):
    model = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    return model.set_posterior_sample(draws)


def channels(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([3]).to_event(1))
    with numpyro.plate("week", X.shape[0]):
        numpyro.sample("y", dist.Normal(jnp.sqrt(X) @ b, 1.0), obs=y)


def test_budget_over_channels_has_the_shares_of_its_closed_form():
    """Responses b * sqrt(x) get shares of the budget in proportion to b^2."""
    b = np.array([1.0, 2.0, 3.0])
    weeks = pd.DataFrame(np.full((20, 3), 3.0), columns=["tv", "radio", "print"])
    model = model_of(channels, {"b": np.tile(b, (5, 1))})
    found = model.optimize(dict.fromkeys(weeks.columns, (0.01, 14.0)), budget=14.0, X=weeks)
    np.testing.assert_allclose(found.action[list(weeks.columns)].to_numpy()[0], 14 * b**2 / (b**2).sum(), rtol=0.02)
    assert found.gain.mean() == pytest.approx((14 * 14.0) ** 0.5 - 6 * 3**0.5, rel=1e-3)
    bounds = {"tv": (0.01, 0.5), "radio": (0.01, 14.0), "print": (0.01, 14.0)}
    found = model.optimize(bounds, budget=13.5, X=weeks)
    np.testing.assert_allclose(found.action.loc[0, list(bounds)].tolist(), [0.5, 4.0, 9.0], rtol=0.02)
    notes = [note for note in found.notes if "allowed value" in note]
    assert notes == ["`tv` is at its highest allowed value, 0.5: a better one may be beyond it"]


PRICE = RNG.uniform(4.0, 9.0, 300).astype(np.float32)
REGION = np.arange(300) % 3
SLOPES = RNG.normal([0.8, 1.0, 1.3], 0.05, (40, 3))


def demand(X, price, region, y=None):
    b = numpyro.sample("b", dist.Normal().expand([3]).to_event(1))
    with numpyro.plate("shop", X.shape[0]):
        numpyro.sample("y", dist.Normal(10.0 + X - b[region] * price, 1.0), obs=y)


ROWS = {"X": np.linspace(-1, 1, 300, dtype=np.float32), "args": {"price": PRICE, "region": REGION}}


def profit(y, price):
    return y * (price - 3)


def profits(price, group):
    """Return the profit of each draw in one region."""
    level = 10.0 + ROWS["X"][group == REGION].mean()
    return (level - SLOPES[:, group] * price) * (price - 3)


@pytest.fixture(scope="module")
def shops():
    return model_of(demand, {"b": SLOPES})


def test_intervals_by_group_equal_scipy_on_the_same_sums(shops):
    found = shops.optimize({"price": (3.5, 9.0)}, value=profit, by="region", **ROWS)
    for group in range(3):
        best = minimize_scalar(lambda p, g=group: -profits(p, g).mean(), bounds=(3.5, 9.0), method="bounded").x
        assert found.action.loc[group, "price"] == pytest.approx(best, abs=0.02)
        np.testing.assert_allclose(found.action.loc[group, "value"], profits(best, group).mean(), rtol=1e-3)
    today = ((10 + ROWS["X"] - SLOPES[:, REGION] * PRICE) * (PRICE - 3)).mean(1)
    np.testing.assert_allclose(found.today, today, rtol=1e-4)
    assert (found.gain > 0).all()


@pytest.mark.parametrize("utility", ["mean", ("cvar", 0.8), lambda draws: np.quantile(draws, 0.1)])
def test_lists_equal_numpy(shops, utility):
    prices = [4.0, 5.0, 6.0, 7.0, 8.0]
    found = shops.optimize({"price": prices}, value=profit, by="region", utility=utility, **ROWS)
    values = np.stack([[profits(p, g) for p in prices] for g in range(3)], -1)  # (actions, draws, groups)
    rank = {"mean": lambda v: v.mean(1), ("cvar", 0.8): lambda v: np.sort(v, 1)[:, :8].mean(1)}.get(
        utility if isinstance(utility, tuple | str) else None, lambda v: np.quantile(v, 0.1, axis=1)
    )
    best = rank(values).argmax(0)
    assert found.action["price"].tolist() == [prices[i] for i in best]
    own = np.stack([values[i, :, g] for g, i in enumerate(best)], -1)
    np.testing.assert_allclose(found.value, own.mean(1), rtol=1e-4)
    regret = values.max(0) - own
    np.testing.assert_allclose(found.regret, regret.mean(1), atol=1e-3)
    np.testing.assert_allclose(found.action["probability_best"], (regret < 1e-4).mean(0), atol=1e-9)
    assert found.value_of_information == pytest.approx(regret.mean(), abs=1e-3)


def test_budget_over_groups(shops):
    """A budget on average over regions is spent where a unit is worth most; found by comparing all allocations."""
    prices = [3.0, 4.0, 5.0, 6.0, 7.0]
    found = shops.optimize({"price": prices}, value=profit, budget=4.5, by="region", **ROWS)
    values = np.array([[profits(p, g).mean() for g in range(3)] for p in prices])
    allowed = [a for a in product(range(5), repeat=3) if np.mean([prices[i] for i in a]) <= 4.5]
    best = max(allowed, key=lambda a: sum(values[i, g] for g, i in enumerate(a)))
    assert found.action["price"].tolist() == [prices[i] for i in best]
    close = [6.25, 6.35, 6.45]
    found = shops.optimize({"price": close}, value=profit, budget=100.0, **ROWS)
    values = np.array([sum(profits(p, g) for g in range(3)) / 3 for p in close])
    chance = (values[values.mean(1).argmax()] == values.max(0)).mean()
    assert found.probability_best == pytest.approx(chance)
    assert chance < 0.9
    limited = shops.optimize({"price": prices}, value=profit, constraint=lambda a: 5.5 - a["price"], **ROWS)
    assert limited.action["price"].item() == 5.0


def test_a_lever_of_the_value_alone_has_the_critical_ratio_of_the_newsvendor():
    def kernel(X, y=None):
        m = numpyro.sample("m", dist.Normal())
        with numpyro.plate("day", X.shape[0]):
            numpyro.sample("y", dist.Normal(m + X, 2.0), obs=y)

    model = model_of(kernel, {"m": np.full(30, 50.0)})
    rows = {"X": np.zeros(1000), "rng_key": random.key(4)}
    sold = lambda y, order: 10 * jnp.minimum(y, order) - 3 * order  # noqa: E731
    found = model.optimize({"order": (40.0, 60.0)}, value=sold, **rows)
    assert found.action["order"].item() == pytest.approx(50 + 2 * norm.ppf(0.7), abs=0.1)
    assert found.today is None
    assert found.gain is None


def test_notes_name_bounds_support_and_optimism(shops):
    found = shops.optimize({"price": (3.5, 5.0)}, value=profit, **ROWS)
    assert any("`price` is at its highest allowed value, 5" in note for note in found.notes)
    assert any("optimistic" in note for note in found.notes)
    assert any("Support of the data: not known" in note for note in found.notes)
    assert "Against today" in str(found)
    half = np.arange(300) < 150
    held = shops.optimize({"price": [5.0, 6.0]}, value=profit, holdout=half, **ROWS)
    assert not any("optimistic" in note for note in held.notes)
    price = held.action["price"].item()
    level = 10 + ROWS["X"][half]
    expected = ((level - SLOPES[:, REGION[half]] * price) * (price - 3)).mean(1)
    np.testing.assert_allclose(held.value, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("levers", "options", "message"),
    [
        ({"price": (9, 4)}, {}, "an interval"),
        ({"price": "high"}, {}, "an interval"),
        ({"price": (4, 9), "X": [1, 2]}, {}, "all intervals or all lists"),
        ({"price": (4, 9)}, {"utility": np.median}, "needs lists of values"),
        ({"price": (4, 9)}, {"utility": "max"}, "must be 'mean'"),
        ({"price": (4, 9)}, {"budget": 3.0}, "lowest values"),
        ({"price": [4, 9]}, {"constraint": lambda a: -1}, "None of the 2 actions is feasible"),
        ({"cost": (4, 9)}, {"value": lambda y: y}, "'cost', which is in neither of both"),
        ({"price": (4, 9)}, {"value": lambda y, size: y}, "'size', which is none of them"),
    ],
)
def test_invalid_choices(shops, levers, options, message):
    with pytest.raises(ValueError, match=message):
        shops.optimize(levers, **options, **ROWS)
    with pytest.raises(TypeError, match="must map names"):
        shops.optimize(["price"], **ROWS)


def test_weights_may_be_an_argument_by_name(shops):
    options = {"value": profit, "by": "region", **ROWS}
    one, other = (shops.optimize({"price": [6.4, 6.6]}, weights=w, **options) for w in ("price", PRICE))
    np.testing.assert_allclose(one.value, other.value, rtol=1e-6)
    set_price = one.action["price"].to_numpy()[REGION]
    by_row = (10 + ROWS["X"] - SLOPES[:, REGION] * set_price) * (set_price - 3)
    np.testing.assert_allclose(one.value, np.average(by_row, axis=1, weights=PRICE), rtol=1e-4)
    # Regret and chances are averages over the groups by their weight, and values of groups averages of their rows.
    shares = np.bincount(REGION, weights=PRICE) / PRICE.sum()
    values = np.empty((2, 40, 3))  # (actions, draws, groups)
    for (i, price), group in product(enumerate((6.4, 6.6)), range(3)):
        rows = group == REGION
        level = 10 + np.average(ROWS["X"][rows], weights=PRICE[rows])
        values[i, :, group] = (level - SLOPES[:, group] * price) * (price - 3)
    own = values.mean(1).max(0)
    np.testing.assert_allclose(one.action["value"], own, rtol=1e-4)
    chosen = np.where(one.action["price"] == 6.4, values[0], values[1])
    chances = (chosen == values.max(0)).mean(0)
    assert 0.2 < chances.min() < 0.9
    np.testing.assert_allclose(one.regret, (values.max(0) - chosen) @ shares, atol=2e-5)
    assert one.regret.max() > 1e-3
    np.testing.assert_allclose(one.action["probability_best"], chances, rtol=1e-6)
    np.testing.assert_allclose(one.probability_best, chances @ shares, rtol=1e-6)
    today = (10 + ROWS["X"] - SLOPES[:, REGION] * PRICE) * (PRICE - 3)
    np.testing.assert_allclose(one.today, np.average(today, axis=1, weights=PRICE), rtol=1e-4)


def test_lists_with_a_budget_by_group_obey_the_constraint(shops):
    options = {"value": profit, "by": "region", "budget": 100.0, **ROWS}
    free = shops.optimize({"price": [4.0, 4.5, 6.0]}, **options)
    bound = shops.optimize({"price": [4.0, 4.5, 6.0]}, constraint=lambda a: 5.0 - a["price"], **options)
    assert (free.action["price"] > 5).any()
    assert (bound.action["price"] <= 5).all()


def test_several_levers_start_from_infeasible_values():
    """The middle of the intervals violates the constraint; without a solution the error names it."""

    weeks = pd.DataFrame(np.full((20, 3), 3.0), columns=["tv", "radio", "print"])
    model = model_of(channels, {"b": np.tile([1.0, 2.0, 3.0], (5, 1))})
    levers = dict.fromkeys(weeks.columns, (0.01, 14.0))
    found = model.optimize(levers, constraint=lambda a: 14.0 - sum(a.values()), X=weeks)
    np.testing.assert_allclose(found.action[list(levers)].to_numpy()[0], np.array([1, 4, 9.0]), rtol=0.02)
    with pytest.raises(ValueError, match="No feasible action was found"):
        model.optimize(levers, constraint=lambda a: -1.0 - sum(a.values()), X=weeks)


def test_perfect_information_under_a_constraint_is_a_lower_bound_with_a_note(shops):
    """The constraint does not bind, so that the bound can be compared with the search without it."""
    given = {"value": profit, "by": "region", **ROWS}
    bound = shops.optimize({"price": (3.5, 9.0)}, constraint=lambda a: 20.0 - np.max(a["price"]), **given)
    exact = shops.optimize({"price": (3.5, 9.0)}, **given)
    assert 0 < bound.value_of_information < exact.value_of_information
    text = "The value of perfect information is a lower bound"
    assert text in str(bound)
    assert text not in str(exact)


def test_a_value_that_is_affine_for_some_arguments_only_takes_drawn_outcomes():
    from aimz.statistics import is_affine

    def value(y, order, lim):
        return (10 * min(y, order) if lim > 0.9 else 10 * y) - 3 * order

    assert not is_affine(value, ["order", "lim"], [{"order": 0.0}, {"order": 20.0}])
    assert is_affine(lambda y, order, lim: lim * y - order, ["order", "lim"], [{"order": 0.0}, {"order": 20.0}])


# ---------------------------------------------------------------------------- perfect information and utilities


def test_perfect_information_of_an_interval_is_that_of_its_closed_form(shops):
    """If b is known, the best price is (level / b + 3) / 2; the searched prices are finer than a coarse list."""
    found = shops.optimize({"price": (3.5, 9.0)}, value=profit, by="region", **ROWS)
    expected = 0.0
    for group in range(3):
        level = 10.0 + ROWS["X"][group == REGION].mean()
        best = profits_at((level / SLOPES[:, group] + 3) / 2, group)
        expected += (best - profits(found.action.loc[group, "price"], group)).mean() / 3
    assert found.value_of_information == pytest.approx(expected, rel=0.02)
    assert expected > 0.01
    fine = shops.optimize({"price": list(np.linspace(3.5, 9.0, 45))}, value=profit, by="region", **ROWS)
    assert fine.value_of_information == pytest.approx(expected, rel=0.1)


def profits_at(prices, group):
    level = 10.0 + ROWS["X"][group == REGION].mean()
    return (level - SLOPES[:, group] * prices) * (prices - 3)


def test_perfect_information_of_a_budget_is_that_of_its_closed_form():
    """If b is known, a budget B is worth sqrt(B sum b^2)."""
    b = np.abs(RNG.normal([1.0, 2.0, 3.0], 0.4, (60, 3)))
    weeks = pd.DataFrame(np.full((20, 3), 3.0), columns=["tv", "radio", "print"])
    found = model_of(channels, {"b": b}).optimize(dict.fromkeys(weeks.columns, (0.001, 14.0)), budget=14.0, X=weeks)
    assert found.regret.min() > -1e-3
    assert found.value_of_information == pytest.approx((np.sqrt(14 * (b**2).sum(1)) - found.value).mean(), rel=0.02)


@pytest.mark.parametrize("price", [0.4, 0.7, 1.2])
def test_allocation_to_groups_of_different_size_equals_the_best_of_all(price):
    """An allocation that is best at some price of the budget is the best one that spends no more (Everett, 1963)."""
    from aimz.statistics import allocate

    costs, shares = np.array([0.0, 1.0, 2.0, 4.0]), np.array([0.125, 0.25, 0.625])
    values = np.sqrt(costs)[:, None] * [3.0, 1.0, 2.0]
    budget = costs[(values - price * costs[:, None]).argmax(0)] @ shares
    found = allocate(values, costs, shares, float(budget))
    actions = np.array(list(product(range(4), repeat=3)))
    allowed = actions[costs[actions] @ shares <= budget]
    best = max((values[one, range(3)] * shares).sum() for one in allowed)
    assert 0 < costs[found] @ shares <= budget
    assert (values[found, range(3)] * shares).sum() == pytest.approx(best)


@pytest.mark.parametrize("level", [0.0, 5000.0])
@pytest.mark.parametrize("seed", range(10))
def test_allocation_of_coarse_costs_equals_the_best_of_all(seed, level):
    """Values that are not concave in the costs, of groups at any level: the best allocation is best at no price."""
    from aimz.statistics import allocate

    noise = np.random.default_rng(seed)
    costs, shares = np.array([0.0, 1.0, 3.0, 4.0]), noise.dirichlet(np.ones(4))
    values, budget = noise.uniform(size=(4, 4)) * costs[:, None], noise.uniform(0.5, 3.0)
    span = np.ptp(values, axis=0) @ shares
    values += level * np.arange(4)
    found = allocate(values, costs, shares, budget)
    actions = np.array(list(product(range(4), repeat=4)))
    allowed = actions[costs[actions] @ shares <= budget]
    best = max(values[one, range(4)] @ shares for one in allowed)
    assert costs[found] @ shares <= budget + 1e-6
    assert values[found, range(4)] @ shares == pytest.approx(best, rel=0, abs=1e-3 * span)


def test_allocation_of_actions_without_a_difference_is_affordable():
    """No action gains anything, so that a program has nothing to maximize; the first one costs too much."""
    from aimz.statistics import allocate

    for costs in ([4.0, 1.0, 0.0], [2.0]):
        found = allocate(np.zeros((len(costs), 2)), np.array(costs), np.array([0.5, 0.5]), 2.0)
        assert np.array(costs)[found] @ [0.5, 0.5] <= 2.0


@pytest.mark.parametrize("budget", [0.3, 1.3, 3.1])
def test_allocation_leaves_no_money_for_a_better_action_of_a_group(budget):
    from aimz.statistics import allocate

    costs, shares = np.linspace(0, 4, 9), np.full(8, 0.125)
    values = np.sqrt(costs)[:, None] * np.ones(8)
    found = allocate(values, costs, shares, budget)
    spent = costs[found] @ shares
    assert spent <= budget
    dearer = [
        (costs[action] - costs[found[group]]) * 0.125 for group in range(8) for action in range(found[group] + 1, 9)
    ]
    assert min(dearer) > budget - spent


def test_text_of_a_result_has_its_quantiles():
    from aimz.methods.decision_result import DecisionResult

    value = np.linspace(0.0, 100.0, 1001)
    table = pd.DataFrame({"price": [4.0], "value": [50.0], "probability_best": [0.25]})
    found = DecisionResult(table, value, np.full(1001, 30.0), 0.25, value / 100, ("A note",))
    text = str(found)
    assert "Value per row: 50 (89 % interval 5.5 to 94.5)." in text
    assert "Against today: +20 (-24.5 to 64.5), above 0 in 69.9 % of draws." in text
    assert "with probability 25 %; perfect information is worth 0.5 per row" in text
    assert text.endswith("- A note.")


def test_cvar_by_group_is_the_same_for_lists_and_intervals(shops):
    given = {"value": profit, "by": "region", "utility": ("cvar", 0.8), **ROWS}
    found = shops.optimize({"price": (3.5, 9.0)}, **given)
    listed = shops.optimize({"price": list(np.linspace(3.5, 9.0, 56))}, **given)
    np.testing.assert_allclose(found.action["price"], listed.action["price"], atol=0.051)
    for group in range(3):
        worst = lambda p, g=group: -np.sort(profits(p, g))[:8].mean()  # noqa: E731
        best = minimize_scalar(worst, bounds=(3.5, 9.0), method="bounded").x
        assert found.action.loc[group, "price"] == pytest.approx(best, abs=0.02)


def test_a_search_that_ends_below_its_start_returns_the_start():
    from aimz.statistics import Utility, search

    def wrong(action):
        """A value whose derivative has the wrong sign."""
        return -((action - 0.4) ** 2)[0][None], 2 * (action - 0.4)[None]

    given = {"shares": np.ones(1), "budget": None, "constraint": None}
    found = search(wrong, Utility(), np.array([[0.5]]), np.array([[0.0, 1.0]]), **given)
    assert found.item() == 0.5


def test_levers_of_today_are_a_start_and_a_note_if_they_are_better(shops):
    """Three levers have one start in the middle, on the wrong side of a valley; today is on the other."""

    def valley(X, y=None):
        a = numpyro.sample("a", dist.Normal())
        with numpyro.plate("week", X.shape[0]):
            numpyro.sample("y", dist.Normal(a + jnp.cos(2.5 * X).sum(1), 1.0), obs=y)

    weeks = pd.DataFrame(np.full((20, 3), 0.2), columns=["tv", "radio", "print"])
    found = model_of(valley, {"a": np.zeros(3)}).optimize(dict.fromkeys(weeks.columns, (0.1, 4.0)), X=weeks)
    assert found.gain.mean() > 0
    np.testing.assert_allclose(found.value, 3 * np.cos(0.25), atol=1e-3)
    prices = np.where(REGION == 0, 7.0, np.where(REGION == 1, 6.5, 5.5)).astype(np.float32)
    rows = {"X": ROWS["X"], "args": {"price": prices, "region": REGION}}
    found = shops.optimize({"price": (3.5, 9.0)}, value=profit, **rows)
    assert any("Leaving the levers as they are" in note for note in found.notes)
