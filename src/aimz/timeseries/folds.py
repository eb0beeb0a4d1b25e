"""Origins of a backtest, their rows, and the scores of their forecasts."""

__all__ = ["Fold", "Folds", "read_folds", "score_table"]

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimz._imports import pandas as pd
from aimz.data import index_of, is_plain_range
from aimz.engine import KernelEngine
from aimz.statistics import Statistic, Statistics, crps, lagged_forecast
from aimz.timeseries.design import LabelReader
from aimz.timeseries.periods import Periods, name_of
from aimz.timeseries.rows import Rows, is_wide
from aimz.timeseries.steps import without_steps

_SCORES = ("mean", "low", "high", "crps", "absolute_error", "covered", "width")


@dataclass(frozen=True)
class Fold:
    """Rows before an origin, and the rows that are forecast from there; in wide form, steps instead of rows."""

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
    """Unit of each row, or in wide form of each series."""
    parts: Sequence[Fold]
    season: int | None

    def cells(self, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the unit and of the period of some rows; in wide form, of all series in some steps."""
        codes = self.periods.codes[steps]
        if self.rows.axis:
            every = np.arange(self.rows.n_obs)
            return np.repeat(every, len(codes)), np.tile(codes, len(every))
        return (np.zeros_like(codes) if self.units is None else pd.factorize(self.units)[0][steps]), codes

    def history(self) -> np.ndarray:
        """Return the values of each series ``(n_units, n_periods)``, NaN where it has no row."""
        units, codes = self.cells(np.arange(self.rows.n_times))
        found = np.full((1 + units.max(), len(self.periods)), np.nan)
        found[units, codes] = self.rows.observed.ravel()
        return found


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
    wide = is_wide(X, y)
    engine = without_steps(engine) if wide else engine
    reader = LabelReader.of(engine, X, arguments, wide=wide)
    periods = Periods.of(reader.read_period(asked["period"]), reader.name_of(asked["period"]))
    units = None if asked["unit"] is None else np.asarray(reader.read(asked["unit"], "unit"))
    if wide and units is None and (labels := index_of(X)) is not None and not is_plain_range(labels):
        units = np.asarray(labels)
    rows = Rows.of(engine, reader.table, y, arguments, "backtest")
    for option, array in (("period", periods.codes), ("unit", units)):
        rows.check_length(option, array)
    order = np.argsort(periods.codes, kind="stable")
    periods = Periods(periods.labels, periods.codes[order], periods.name)
    units = units if units is None or wide else units[order]
    cells = pd.DataFrame({"period": periods.codes, "unit": 0 if units is None or wide else units})
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


def score_table(folds: Folds, draws: Sequence[np.ndarray], interval: Statistic) -> "pd.DataFrame":
    """Return a row for each forecast of the model and of the baselines."""
    history = folds.history()
    methods: dict[str, int | None] = {"last value": None}
    if folds.season is not None:
        methods[f"same season ({folds.season})"] = folds.season
    tables, n_before = [], 0
    for fold, of_model in zip(folds.parts, draws, strict=True):
        units, codes = folds.cells(fold.ahead)
        about = _about(folds, fold, n_before)
        n_before += len(about)
        observed = about["observed"].to_numpy()
        tables.append(about.assign(method="model", **_scores(of_model, observed, interval)))
        for name, season in methods.items():
            scores = {score: np.full(len(about), np.nan) for score in _SCORES}
            for horizon in np.unique(codes - fold.origin + 1):
                index = np.flatnonzero(codes - fold.origin + 1 == horizon)
                for at, baseline in _baselines(history[units[index], : fold.origin], int(horizon), season):
                    for score, values in _scores(baseline, observed[index[at]], interval).items():
                        scores[score][index[at]] = values
            tables.append(about.assign(method=name, **scores))
    return pd.concat(tables, ignore_index=True)


def _about(folds: Folds, fold: Fold, n_before: int) -> "pd.DataFrame":
    """Return the forecast from an origin."""
    units, codes = folds.cells(fold.ahead)
    columns: dict[str, Any] = {
        "row": n_before + np.arange(len(codes)),
        "method": "",
        "origin": folds.periods.labels[[fold.origin] * len(codes)],
        "horizon": codes - fold.origin + 1,
        "period": folds.periods.labels[codes],
    }
    if folds.rows.axis:
        columns["unit"] = units if folds.units is None else folds.units[units]
    elif folds.units is not None:
        columns["unit"] = folds.units[fold.ahead]
    return pd.DataFrame({**columns, "observed": folds.rows.values(fold.ahead).ravel()})


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


def _baselines(history: np.ndarray, horizon: int, season: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield draws ``(n_draws, n)`` of the last value, or the last of the same season, by pattern of missing values."""
    lag = horizon if season is None else season * -(-horizon // season)
    patterns, numbers = np.unique(np.isnan(history), axis=0, return_inverse=True)
    for i in range(len(patterns)):
        at = np.flatnonzero(numbers == i)
        draws = lagged_forecast(history[at].T, lag, horizon)
        if len(draws):
            yield at, draws
