"""Rows of a fit in which a column has one of a few values: moments and ranges of all columns."""

__all__ = ["Level", "Levels", "levels_of", "merged_levels"]

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from aimz.statistics.row_moments import Moments

type Levels = dict[float, "Level"]

_MAX_LEVELS = 10
"""Largest number of values of a column that are levels, each with its own moments."""
_PLACES = (np.arange(64) + np.random.default_rng(0).random(64)) / 64
"""Places of the sampled rows among the rows of a level: one in each of 64 equal parts, at random, since rows may be
periodic."""


@dataclass
class Level:
    """Rows in which a column has one value."""

    moments: Moments
    low: np.ndarray
    high: np.ndarray
    far: float = np.inf
    """99th percentile of the leverage of these rows, each among the others, in the other columns."""

    def exceeded_by(self, other: "Level") -> np.ndarray:
        """Return the columns in which another range is not within this one."""
        beyond: np.ndarray = ~((other.low >= self.low) & (other.high <= self.high))
        return beyond


def levels_of(
    rows: np.ndarray, complete: np.ndarray, whole: Level, known: list[Levels | None], *, thin: bool
) -> list[Levels | None]:
    """Return the levels of each column of rows; None for columns with more than ten values.

    ``complete`` are flags of the rows with finite values only, and ``whole`` has the moments and ranges of all rows.
    ``known`` has the levels of earlier rows, and ranges within them are NaN.  If ``thin``, the moments are of
    a sample, with the number of all rows of the level, since moments of all rows take longer than a fit if many columns
    have levels.
    """
    found: list[Levels | None] = []
    for column, earlier in enumerate(known):
        values = rows[:, column]
        masks = None if earlier is None else _masks(values, earlier)
        if masks is None:
            found.append(None)
        elif len(masks) == 1 and not np.isnan(values).any():
            found.append({value: replace(whole) for value in masks})
        else:
            given = earlier or {}
            found.append({v: _level(rows, own, complete, whole, given.get(v), thin=thin) for v, own in masks.items()})
    return found


def _masks(values: np.ndarray, known: Collection[float]) -> dict[float, np.ndarray] | None:
    """Return the rows with each value; None if there are many values."""
    masks = {value: values == value for value in known}
    if not known or sum(map(np.count_nonzero, masks.values())) + np.isnan(values).sum() < len(values):
        present = values[~np.isnan(values)]
        if len(np.unique(present[: 16 * _MAX_LEVELS])) > _MAX_LEVELS:
            return None
        distinct = np.unique(present)
        if len(distinct) > _MAX_LEVELS:
            return None
        masks = {float(value): values == value for value in distinct}
    return {value: mask for value, mask in masks.items() if mask.any()}


def _level(
    rows: np.ndarray, mask: np.ndarray, complete: np.ndarray, whole: Level, known: Level | None, *, thin: bool
) -> Level:
    """Return the level of the rows of a mask; its ranges are NaN where the ranges of the known level hold all rows."""
    own = np.flatnonzero(mask & complete)
    chosen = own[(_PLACES * len(own)).astype(np.intp)] if thin and len(own) > len(_PLACES) else own
    moments = Moments.of(rows[chosen]).of_rows(len(own))
    low, high = np.full((2, rows.shape[1]), np.nan)
    beyond = np.arange(rows.shape[1]) if known is None else np.flatnonzero(known.exceeded_by(whole))
    if len(beyond):
        part = rows[np.ix_(np.flatnonzero(mask), beyond)]
        low[beyond], high[beyond] = np.fmin.reduce(part, axis=0), np.fmax.reduce(part, axis=0)
    return Level(moments, low, high)


def merged_levels(one: Levels | None, other: Levels | None) -> Levels | None:
    """Return the rows of each value in both parts; None if there are many values."""
    if one is None or other is None or len({*one, *other}) > _MAX_LEVELS:
        return None
    found = {}
    for value in sorted({*one, *other}):
        if value not in one or value not in other:
            found[value] = one.get(value) or other[value]
            continue
        here, there = one[value], other[value]
        low, high = np.fmin(here.low, there.low), np.fmax(here.high, there.high)
        found[value] = Level(here.moments.merged(there.moments), low, high)
    return found
