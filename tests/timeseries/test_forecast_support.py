"""Warnings about later inputs that are outside of the data of the fit."""

import warnings

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta
from numpyro.optim import Adam

import aimz
from aimz.statistics import Moments

N, H = 60, 12
RNG = np.random.default_rng(0)
ROWS = pd.DataFrame(
    {
        "week": np.arange(N + H),
        "trend": np.cumsum(0.5 + 0.3 * RNG.normal(size=N + H)),
        "price": RNG.uniform(4.0, 6.0, N + H),
    }
)
OPTIONS = {"progress": False, "store": "memory", "rng_key": random.key(1)}


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)


def fitted(columns):
    model = aimz.ImpactModel(kernel, random.key(0), SVI(kernel, AutoDelta(kernel), Adam(0.1), Trace_ELBO()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", aimz.FitWarning)
        return model.fit_on_batch(ROWS[columns][:N], np.ones(N), num_steps=1, num_samples=4, progress=False)


def warned(model, X, **options):
    """Return the warnings about the support of a forecast, and its attribute."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = model.forecast(X, **OPTIONS, **options)["predictions"].attrs["support"]
    return [str(one.message) for one in caught if issubclass(one.category, aimz.SupportWarning)], found


def test_numbers_of_periods_are_not_judged():
    model, later = fitted(["week", "price"]), ROWS[["week", "price"]][N:]
    assert warned(model, later) == ([], "supported")
    assert warned(model, later[:1]) == ([], "supported")
    gap = later.assign(week=later["week"] + 7)  # the weeks before it are left out
    assert "`week` outside of the data" in warned(model, gap)[1]
    assert "`week` outside of the data" in warned(model, gap[:1])[1]


def test_fractions_of_years_number_the_periods_also_in_single_precision():
    from aimz.engine.support_checks import _goes_on
    from aimz.statistics import FitSupport

    years = (2010 + np.arange(N + H) / 12).astype(np.float32)[:, None]
    support = FitSupport.of({"X": years}, {})
    support.add({"X": years[:N]})
    support = support.finished()
    assert _goes_on(years[N:, 0].astype(np.float64), support, 0)
    assert not _goes_on(years[N:, 0].astype(np.float64) + 1.0, support, 0)


def test_steps_of_series_are_not_compared_with_steps_of_the_fit():
    def of_series(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        with numpyro.plate("series", X.shape[0]):
            walk = dist.GaussianRandomWalk(1.0, num_steps=X.shape[1])
            level = numpyro.sample("level", walk)
            numpyro.sample("y", dist.Normal(level + b * X, 1.0).to_event(1), obs=y)

    model = aimz.ImpactModel(of_series, random.key(0), SVI(of_series, AutoDelta(of_series), Adam(0.1), Trace_ELBO()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", aimz.FitWarning)
        model.fit_on_batch(np.ones((6, 8)), np.ones((6, 8)), num_steps=1, num_samples=4, progress=False)
    for options in ({}, {"intervention": {"X": 9.0}}):
        assert warned(model, np.ones((6, 3)), **options)[1].startswith("not known: the columns of the fit are steps of")


def test_inputs_with_a_trend_warn_once_with_what_a_forecast_assumes():
    model, later = fitted(["trend", "price"]), ROWS[["trend", "price"]][N:]
    messages, found = warned(model, later)
    assert len(messages) == 1
    assert "% of the rows have `trend` outside of the data of the fit" in messages[0]
    assert "assumes that the fitted relation goes on, as any forecast from inputs with a trend does" in messages[0]
    assert found.startswith("extrapolates")
    messages, found = warned(model, later[:6])
    assert messages == []
    assert found.startswith("extrapolates")
    messages, _ = warned(model, later[:6], intervention={"price": 12.0})
    assert "`price` outside of the data of the fit" in messages[0]
    assert "rests on the form of the kernel" in messages[0]


def test_expected_values_of_columns_leave_the_leverage_of_the_others():
    rows = RNG.normal(size=(50, 4)) @ RNG.normal(size=(4, 4)) + 3.0
    moments, new = Moments.of(rows), RNG.normal(size=(5, 4)) + 3.0
    found = moments.leverage(moments.with_expected(new, (1, 3)))
    design = np.column_stack([np.ones(50), rows[:, [0, 2]]])
    asked = np.column_stack([np.ones(5), new[:, [0, 2]]])
    np.testing.assert_allclose(found, np.diag(asked @ np.linalg.inv(design.T @ design) @ asked.T), rtol=1e-8)
    every = moments.with_expected(new, (0, 1, 2, 3))
    np.testing.assert_allclose(moments.leverage(every), 1 / 50)
