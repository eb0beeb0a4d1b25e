"""Origins of a backtest, their rows, and the scores of their forecasts."""

__all__ = ["Fold", "Folds", "read_folds", "score_table"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from aimz.data import index_of
from aimz.engine import KernelEngine
from aimz.statistics import Statistic, Statistics, crps, lagged_forecast
from aimz.timeseries.design import LabelReader
from aimz.timeseries.periods import Periods, name_of
from aimz.timeseries.rows import Rows, is_wide


@dataclass(frozen=True)
class Fold:
    """Rows before an origin, and the rows that are forecast from there."""

    origin: int
    """Number of the first period that is forecast."""
    fitted: np.ndarray
    ahead: np.ndarray


@dataclass(frozen=True)
class Folds:
    """Rows in the order of their periods, and the origins of forecasts."""

    rows: Rows
    periods: Periods
    units: np.ndarray | None
    parts: Sequence[Fold]
    season: int | None


def read_folds(
    engine: KernelEngine,
    X: Any,
    y: Any,
    arguments: Mapping[str, Any],
    asked: Mapping[str, Any],
    horizon: int,
    origins: Any,
    season: Any,
) -> Folds:
    """Return the folds of a backtest.

    Raises
    ------
    ValueError
        If there are too few periods, an origin is not one of them, or rows of a period cannot be told to be of
        different series.
    """
    if is_wide(X, y):
        msg = (
            f"`backtest` needs a row for each series and period; got an output of shape {np.shape(y)}, in which a row "
            "is a series. Pass such rows, with the series of each as `unit`."
        )
        raise ValueError(msg)
    reader = LabelReader(X, arguments, engine, index_of(X))
    periods = Periods.of(reader.read_period(asked["period"]), reader.name_of(asked["period"]))
    units = None if asked["unit"] is None else np.asarray(reader.read(asked["unit"], "unit"))
    rows = Rows.of(engine, reader.table, y, arguments, "backtest")
    for option, array in (("period", periods.codes), ("unit", units)):
        rows.check_length(option, array)
    order = np.argsort(periods.codes, kind="stable")
    periods = Periods(periods.labels, periods.codes[order], periods.name)
    units = None if units is None else units[order]
    cells = pd.DataFrame({"period": periods.codes, "unit": 0 if units is None else units})
    repeated = cells.duplicated()
    if repeated.any():
        first = name_of(periods.labels[periods.codes[int(repeated.to_numpy().argmax())]])
        msg = (
            f"`backtest` compares each series with its past, so a series must have one row in each {periods.name}; "
            f"{int(repeated.sum()):,} rows repeat one (the first in {first}). Pass the series of each row as `unit`."
        )
        raise ValueError(msg)
    if season is not None and not (isinstance(season, int | np.integer) and season > 1):
        msg = f"`season` must be a number of periods, at least 2; got {season!r}. Pass 52 for weeks in years, say."
        raise ValueError(msg)
    parts = [_fold(periods, origin, horizon) for origin in _read_origins(periods, horizon, origins)]
    return Folds(rows.take(order), periods, units, parts, None if season is None else int(season))


def _read_origins(periods: Periods, horizon: int, origins: Any) -> list[int]:
    """Return the numbers of the first periods that are forecast."""
    n = len(periods)
    if isinstance(origins, int | np.integer) and not isinstance(origins, bool):
        found = [origin for i in range(int(origins)) if 2 * (origin := n - horizon * (i + 1)) >= n]
        if not found:
            msg = (
                f"`backtest` needs a history of at least half of the periods before each origin; got {n:,} periods, "
                f"`horizon={horizon}` and `origins={origins}`. Pass a smaller `horizon`, or a list of origins."
            )
            raise ValueError(msg)
        return sorted(found)
    labels = origins if isinstance(origins, list | tuple | np.ndarray | pd.Index) else [origins]
    found = sorted({periods.find(label, "origins") for label in labels})
    if not found or found[0] < 2:
        msg = (
            f"`origins` must have at least two periods before them; got {list(labels)!r}, and the first periods are "
            f"{', '.join(name_of(label) for label in periods.labels[:2])}. Pass later ones."
        )
        raise ValueError(msg)
    return found


def _fold(periods: Periods, origin: int, horizon: int) -> Fold:
    inside = (periods.codes >= origin) & (periods.codes < origin + horizon)
    return Fold(origin, np.flatnonzero(periods.codes < origin), np.flatnonzero(inside))


def score_table(folds: Folds, draws: Sequence[np.ndarray], interval: Statistic) -> pd.DataFrame:
    """Return a row for each forecast of the model and of the baselines."""
    history = _series(folds)
    methods: dict[str, int | None] = {"last value": None}
    if folds.season is not None:
        methods[f"same season ({folds.season})"] = folds.season
    tables, n_before = [], 0
    for fold, of_model in zip(folds.parts, draws, strict=True):
        about = _about(folds, fold, n_before)
        n_before += len(about)
        tables.append(about.assign(method="model", **_scores(of_model, about["observed"].to_numpy(), interval)))
        for name, season in methods.items():
            found = [
                _baseline(history[unit][: fold.origin], int(horizon), season)
                for unit, horizon in zip(about.get("unit", np.zeros(len(about))), about["horizon"], strict=True)
            ]
            parts = [
                _scores(one[:, None], np.array([seen]), interval) if len(one) else _no_scores()
                for one, seen in zip(found, about["observed"], strict=True)
            ]
            joined = {score: np.concatenate([part[score] for part in parts]) for score in _no_scores()}
            tables.append(about.assign(method=name, **joined))
    return pd.concat(tables, ignore_index=True)


def _about(folds: Folds, fold: Fold, n_before: int) -> pd.DataFrame:
    """Return what was forecast from an origin."""
    codes = folds.periods.codes[fold.ahead]
    columns: dict[str, Any] = {
        "row": n_before + np.arange(len(codes)),
        "method": "",
        "origin": folds.periods.labels[[fold.origin] * len(codes)],
        "horizon": codes - fold.origin + 1,
        "period": folds.periods.labels[codes],
    }
    if folds.units is not None:
        columns["unit"] = folds.units[fold.ahead]
    observed = folds.rows.observed[fold.ahead].astype(np.float64)
    return pd.DataFrame({**columns, "observed": observed})


def _scores(draws: np.ndarray, observed: np.ndarray, interval: Statistic) -> dict[str, np.ndarray]:
    """Return the scores of draws ``(n_draws, n)``."""
    mean, median, low, high = Statistics((Statistic("mean"), Statistic("quantile", 0.5), interval))(draws)
    covered = np.where(np.isnan(observed), np.nan, (low <= observed) & (observed <= high))
    return {
        "mean": mean,
        "low": low,
        "high": high,
        "crps": crps(draws, observed),
        "absolute_error": np.abs(observed - median),
        "covered": covered,
        "width": high - low,
    }


def _no_scores() -> dict[str, np.ndarray]:
    return dict.fromkeys(("mean", "low", "high", "crps", "absolute_error", "covered", "width"), np.array([np.nan]))


def _series(folds: Folds) -> dict[Any, np.ndarray]:
    """Return the values of each series in all periods, NaN where it has no row."""
    units = np.zeros(folds.rows.n_obs) if folds.units is None else folds.units
    found = {unit: np.full(len(folds.periods), np.nan) for unit in dict.fromkeys(units.tolist())}
    for unit, code, value in zip(units.tolist(), folds.periods.codes, folds.rows.observed, strict=True):
        found[unit][code] = value
    return found


def _baseline(history: np.ndarray, horizon: int, season: int | None) -> np.ndarray:
    """Return draws of the last value, or of the last value of the same season."""
    lag = horizon if season is None else season * -(-horizon // season)
    return lagged_forecast(history, lag, horizon)
