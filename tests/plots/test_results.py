"""Plots of results from a model, of results larger than memory, and of invalid input."""

import tracemalloc
from types import SimpleNamespace

import dask.array as da
import example_plots
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from image_comparison import misplaced_texts
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel, plots


def kernel(X, t, y=None):
    level = numpyro.sample("level", dist.Normal())
    gain = numpyro.sample("gain", dist.Normal())
    with numpyro.plate("customer", X.shape[0]):
        numpyro.sample("y", dist.Normal(level + (gain + X) * t, 1.0), obs=y)


X = np.linspace(-1.0, 1.0, 60)
T = np.arange(60) % 2
OFF, ON = {"intervention": {"t": 0}}, {"intervention": {"t": 1}}


@pytest.fixture(scope="module")
def model():
    made = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    rng = np.random.default_rng(0)
    return made.set_posterior_sample({"level": rng.normal(0, 0.1, 80), "gain": rng.normal(0.5, 0.1, 80)})


def text_of(figure):
    """Return all texts of a figure in one line."""
    figure.draw_without_rendering()
    found = [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]
    return " ".join(" ".join(found).split())


def test_plot_effect_draws_a_line_for_each_path():
    noise = np.random.default_rng(0).normal(0.0, 0.1, (1, 200, 3))
    draws = noise - noise.mean(axis=1) + np.array([6.5, 0.5, 6.0])
    coords = {"path": ["total", "direct", "indirect"]}
    array = xr.DataArray(draws, dims=("chain", "draw", "path"), coords=coords, name="y")
    words = text_of(plots.plot_effect(array))
    assert all(text in words for text in ("total", "direct", "indirect", "6.50 (", "0.500 (", "6.00 ("))
    assert "Average over" not in words


def test_plots_of_model_results(model, tmp_path):
    rows = {"X": X, "t": T, "progress": False, "output_dir": tmp_path}
    observed = X * T
    predicted = model.predict(**rows)
    assert "50 of 80 draws" in text_of(plots.plot_predictive(predicted, observed=observed))
    numbers = model.predict(**rows, statistics=("mean", 0.05, 0.95))
    assert "90 % interval between quantiles of each row" in text_of(plots.plot_predictive(numbers, observed=observed))

    sides = {"args_baseline": {**rows, **OFF}, "args_intervention": {**rows, **ON}}
    effect = model.estimate_effect(**sides)
    words = text_of(plots.plot_effect(effect))
    assert "With t = 1 against t = 0." in words
    assert "Average over 60 rows within each draw." in words
    figure = plots.plot_uplift(effect, treated=T, outcome=observed, cost=0.2)
    assert len(figure.axes) == 3
    assert misplaced_texts(figure) == []
    by_row = model.estimate_effect(**sides, statistics=("mean", "interval"))
    assert "customer" in text_of(plots.plot_effect(by_row))

    shared = {"baseline": "off", "X": X, "t": T, "progress": False}
    found = model.compare_scenarios({"off": OFF, "on": ON}, by={"half": X > 0}, **shared)
    words = text_of(plots.plot_groups(found))
    assert "all rows (60)" in words
    assert "True (30)" in words
    assert "on against off." in words
    assert "against off" in text_of(plots.plot_effect(found))
    doses = {dose: {"intervention": {"t": dose}} for dose in (0.0, 0.5, 1.0, 1.5, 2.0, 2.5)}
    sweep = model.compare_scenarios(doses, **(shared | {"baseline": 0.0}))
    assert plots.plot_effect(sweep).axes[0].get_xlabel() == "t"


def test_average_effect_is_averaged_within_draws(model):
    """The interval is that of the average, not that of a row."""
    rng = np.random.default_rng(1)
    effect = example_plots.on_rows(rng.normal(0, 5, 2000), 0.1)
    (bar,) = [
        line for line in plots.plot_effect(effect).axes[0].lines if len(line.get_xdata()) == 2 and line.get_lw() == 3
    ]
    expected = np.quantile(effect.mean("customer"), [0.055, 0.945])
    np.testing.assert_allclose(bar.get_xdata(), expected, rtol=1e-9)


def test_rows_without_numbers_are_left_out():
    numbers = example_plots.row_statistics([2.0, 3.0, 4.0, 5.0, -9.0, 1.0, 1.0, 1.0, 1.0, 1.0], 0.1)
    numbers[:, 5:] = np.nan
    words = text_of(plots.plot_effect(numbers))
    assert "above no effect for 80 % of rows (blue), below for 20 % (orange)" in words
    assert "5 of 10 rows have no numbers and are left out." in words
    assert "no numbers" not in text_of(plots.plot_effect(numbers[:, :5]))
    observed = [2.0, 3.0, 4.0, 0.0, -9.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    words = text_of(plots.plot_predictive(numbers, observed=observed))
    assert "80 % of the observations lie inside." in words
    assert "5 of 10 rows have no numbers and are left out." in words
    with pytest.raises(ValueError, match="none of 5 has any"):
        plots.plot_effect(numbers[:, 5:])


def test_plot_loss_of_model_result_and_array():
    fitted = ImpactModel(kernel, random.key(0), SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.05), Trace_ELBO()))
    with pytest.raises(ValueError, match="ImpactModel has none"):
        plots.plot_loss(fitted)
    fitted.vi_result = SimpleNamespace(params={}, losses=jnp.arange(40.0, 0.0, -1.0))
    figures = [plots.plot_loss(s) for s in (fitted, fitted.vi_result, fitted.vi_result.losses)]
    for figure in figures:
        np.testing.assert_array_equal(figure.axes[0].lines[0].get_ydata(), np.arange(40.0, 0.0, -1.0))


def test_plot_loss_of_millions_of_steps_has_few_points():
    figure = plots.plot_loss(np.linspace(3.0, 1.0, 2_000_000))
    line = figure.axes[0].lines[0]
    assert len(line.get_xdata()) <= 1000
    # At the end an average covers more steps before than after.
    at, mean = (values[:-6] for values in line.get_data())
    np.testing.assert_allclose(mean, np.interp(at, [1, 2e6], [3, 1]), atol=1e-5)


def test_interval_is_from_arviz_or_hdi_prob():
    from arviz_base import rc_context

    effect = example_plots.compared([1.0, 2.0], 0.3, scenario=["a", "b"])
    with rc_context({"stats.ci_prob": 0.6, "stats.ci_kind": "hdi"}):
        assert "60 % highest-density interval" in text_of(plots.plot_effect(effect))
    assert "95 % highest-density interval" in text_of(plots.plot_effect(effect, hdi_prob=0.95))
    with pytest.raises(ValueError, match="between 0 and 1"):
        plots.plot_effect(effect, hdi_prob=95)


def test_plot_groups_sorts_and_drops_empty_groups():
    tree = example_plots.compared([[1.0, 3.0, 2.0]], 0.1, scenario=["up"], region=["a", "b", "c"])
    tree["groups"]["rows"].values[:] = [10, 20, 0]
    ticks = [label.get_text() for label in plots.plot_groups(tree).axes[0].get_yticklabels()]
    assert ticks == ["all rows (30)", "b (20)", "a (10)"]
    ticks = [label.get_text() for label in plots.plot_groups(tree, sort=False).axes[0].get_yticklabels()]
    assert ticks == ["all rows (30)", "a (10)", "b (20)"]


class LazyDraws:
    """Lazy array of 1,000 draws of 50,000 rows (200 MB), which records the largest part that is read."""

    shape, dtype, ndim = (2, 500, 50_000), np.dtype(np.float64), 3

    def __init__(self):
        self.largest = 0

    def __getitem__(self, key):
        sizes = [len(range(*k.indices(n))) for k, n in zip(key, self.shape, strict=True)]
        self.largest = max(self.largest, int(np.prod(sizes)))
        chain, draw, row = (np.arange(n, dtype=np.float32)[k] for k, n in zip(key, self.shape, strict=True))
        return (row / 5e4)[None, None, :] + (1e-3 * draw)[None, :, None] + (0.1 * chain)[:, None, None]


@pytest.fixture
def stored():
    source = LazyDraws()
    chunked = da.from_array(source, chunks=(2, 500, 2000), meta=np.empty((0, 0, 0), np.float32))
    return source, xr.DataArray(chunked, dims=("chain", "draw", "row"), name="y")


@pytest.mark.parametrize(
    "plot",
    [
        lambda y: plots.plot_predictive(y, observed=np.linspace(0, 1, 50_000)),
        plots.plot_effect,
        lambda y: plots.plot_uplift(y, n_cuts=10),
    ],
    ids=["predictive", "effect", "uplift"],
)
def test_large_results_are_read_in_blocks(stored, plot):
    source, array = stored
    plots.plot_loss([2.0, 1.0])  # import before measuring
    tracemalloc.start()
    figure = plot(array)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert source.largest <= 2 * 500 * 2000
    assert peak < 100e6, f"{peak / 1e6:.0f} MB for a result of 200 MB"
    assert misplaced_texts(figure) == []


def test_subsample_is_reported_and_reproducible(stored):
    _, array = stored
    observed = np.linspace(0, 1, 50_000)
    first, second = (plots.plot_predictive(array, observed=observed, max_rows=300, max_draws=20) for _ in range(2))
    assert "Drawn from 20 of 1,000 draws. 300 of 50,000 rows, chosen at random." in text_of(first)
    lines = [np.concatenate([line.get_xydata() for line in f.axes[0].lines]) for f in (first, second)]
    np.testing.assert_array_equal(*lines)


def test_subsample_rows_spreads_runs_over_all_rows():
    from aimz.plots.selection import subsample_rows

    chosen, words = subsample_rows(10_000_000, 5000)
    assert len(chosen) == len(np.unique(chosen)) == 5000
    assert np.histogram(chosen, 10, (0, 10_000_000))[0].tolist() == [500] * 10
    assert words.startswith("5,000 of 10,000,000 rows")
    assert subsample_rows(100, 5000) == (slice(None), "")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: plots.plot_loss([]), ValueError, "at least two steps; got 0"),
        (lambda: plots.plot_loss([np.nan, np.nan]), ValueError, "none that is"),
        (lambda: plots.plot_loss("losses"), TypeError, "got str"),
        (lambda: plots.plot_loss([1.0, -1.0], yscale="log"), ValueError, "needs positive losses"),
        (lambda: plots.plot_loss([2.0, 1.0], figsize=(0, 1)), ValueError, "`figsize` must be"),
        (lambda: plots.plot_effect(xr.DataTree()), ValueError, "one of the groups effect_overall"),
        (lambda: plots.plot_effect(xr.DataArray(np.ones(3), dims="row")), ValueError, "needs draws"),
        (
            lambda: plots.plot_effect(example_plots.draws(np.ones((2, 3)), 1.0, row=[0, 1], part=[0, 1, 2])),
            ValueError,
            "isel",
        ),
        (
            lambda: plots.plot_effect(example_plots.compared([1.0], 1.0, scenario=["a"]), ax=3),
            TypeError,
            "`ax` must be",
        ),
        (lambda: plots.plot_groups(example_plots.compared([1.0], 1.0, scenario=["a"])), ValueError, "by=..."),
        (lambda: plots.plot_groups(example_plots.draws(np.ones(201), 1.0, g=range(201))), ValueError, "Aggregate them"),
        (
            lambda: plots.plot_groups(example_plots.compared([[1.0]], 1.0, scenario=["a"], g=[0]), scenario="b"),
            ValueError,
            "got 'b'. Pass `scenario='a'`",
        ),
        (
            lambda: plots.plot_predictive(example_plots.draws(np.ones(3), 1.0, row=[0, 1, 2]), kind="pie"),
            ValueError,
            "'ecdf'",
        ),
        (
            lambda: plots.plot_predictive(example_plots.draws(np.ones(3), 1.0, row=[0, 1, 2]), observed=[1.0]),
            ValueError,
            "each of the 3 rows",
        ),
        (
            lambda: plots.plot_predictive(example_plots.row_statistics(np.ones(3), 1.0).isel(statistic=[0])),
            ValueError,
            r"statistics=\('mean', 'interval'\)",
        ),
    ],
)
def test_plots_reject_invalid_input(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_plot_loss_rejects_mcmc(model):
    with pytest.raises(ValueError, match="for chains of MCMC call `diagnose`"):
        plots.plot_loss(model)
