"""What a picture is of: one variable of a result, read piece by piece.

A result may be far larger than memory.  Averages over rows are added up block by block, and where a picture shows draws
or rows one by one, it shows some of them: draws at equal distances, and rows chosen by a fixed seed.
"""

__all__ = [
    "PREDICTED",
    "SAMPLE_DIMS",
    "SCENARIO",
    "STATISTIC",
    "Bounds",
    "blocks",
    "bounds_of",
    "check_labels",
    "intervals",
    "own_dims",
    "rows_average",
    "some_rows",
    "thinned",
    "variable",
    "with_numbers",
]

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from aimz.data import is_plain_range
from aimz.statistics import Statistic

SAMPLE_DIMS = ("chain", "draw")
STATISTIC = "statistic"
SCENARIO = "scenario"
PREDICTED = ("posterior_predictive", "predictions", "prior_predictive")
_AT_ONCE = 2**22
"""Numbers that are read at once: 32 MiB in double precision."""
_MANY_ROWS, _RUN = 200_000, 20


def variable(given: Any, groups: Iterable[str], var_name: str | None, what: str) -> xr.DataArray:
    """Return the one variable a picture is of.

    Raises
    ------
    TypeError, ValueError
        If there is none, or several and ``var_name`` does not say which.
    """
    if isinstance(given, xr.DataArray):
        return given.rename(given.name or var_name or "effect")
    named: dict[str, Any] = {}
    if isinstance(given, xr.DataTree):
        group = next((name for name in groups if name in given.children), None)
        if group is None and not given.data_vars:
            msg = (
                f"`{what}` needs a result with one of the groups {', '.join(groups)}; got one with "
                f"{sorted(map(str, given.children)) or 'none'}. Pass such a result, or a variable of it."
            )
            raise ValueError(msg)
        named = _names_in(given, var_name)
        given = (given if group is None else given[group]).to_dataset()
    if not isinstance(given, xr.Dataset):
        msg = f"`{what}` needs a result (a DataTree, Dataset or DataArray); got {type(given).__name__}."
        raise TypeError(msg)
    names = [str(name) for name in given.data_vars]
    if (var_name is None and len(names) != 1) or (var_name is not None and var_name not in names):
        got = f"{var_name!r}" if var_name is not None else "no `var_name`"
        msg = f"`var_name` must say which of {names} to draw; got {got}. Pass `var_name={(names or ['y'])[0]!r}`."
        raise ValueError(msg)
    name = names[0] if var_name is None else var_name
    return given[name].assign_attrs({**given.attrs, **named, **given[name].attrs})


def _names_in(tree: xr.DataTree, var_name: str | None) -> dict[str, Any]:
    """Return what effects by group are called and measured in; it holds for those over all rows as well."""
    if "effect" not in tree.children:
        return {}
    effects = tree["effect"].to_dataset()
    name = next(iter(effects.data_vars), None) if var_name is None else var_name
    attrs = effects[name].attrs if name in effects.data_vars else {}
    return {key: attrs[key] for key in ("long_name", "units") if key in attrs}


def own_dims(array: xr.DataArray, *, most: int, what: str, known: Iterable[str] = ()) -> list[str]:
    """Return the dimensions besides those of draws, statistics and those ``known``; refuse more than ``most``.

    Raises
    ------
    ValueError
        If there are more; the text says how to choose.
    """
    sampled = set(SAMPLE_DIMS) <= set(array.dims)
    if not sampled and STATISTIC not in array.dims:
        msg = (
            f"`{what}` needs draws (dimensions `chain` and `draw`) or statistics (`statistic`); got the dimensions "
            f"{array.dims}. Pass a result as it is, not an average of it."
        )
        raise ValueError(msg)
    own = [str(dim) for dim in array.dims if dim not in (*SAMPLE_DIMS, STATISTIC, *known)]
    if len(own) > most:
        extra = own[-1]
        msg = (
            f"`{what}` draws one number for each row; `{array.name}` has the dimensions {own} besides. Choose, for "
            f"instance with `result[group][{str(array.name)!r}].isel({extra}=0)`."
        )
        raise ValueError(msg)
    return own


def check_labels(given: Any, name: str, array: xr.DataArray, row_dim: str) -> None:
    """Refuse numbers by row whose labels are not those of the rows of a result: they would be matched by place.

    What has no labels, or such as only count, is taken in the order of the rows.

    Raises
    ------
    ValueError
        If there are other labels, or the same in another order.
    """
    dims, index = getattr(given, "dims", None), getattr(given, "index", None)
    if isinstance(dims, tuple) and dims:
        index = given.indexes.get(dims[0])
    if index is None or not hasattr(index, "nlevels") or is_plain_range(index):
        return
    ours = [_plain(coord.to_index()) for coord in array.coords.values() if coord.dims == (row_dim,)]
    if row_dim not in array.coords:
        ours.append(np.arange(array.sizes[row_dim]))
    for level in range(index.nlevels):
        theirs = _plain(index.get_level_values(level))
        if not any(np.array_equal(theirs, labels) for labels in ours):
            at = int(np.argmax(theirs != ours[0])) if theirs.shape == ours[0].shape else 0
            msg = (
                f"`{name}` must have the labels of the rows of the result (`{row_dim}`), in the same order; got "
                f"{index[at]} where the result has {ours[0][at]}. Put it in that order with `reindex`, or, if it is in "
                "that order, pass the values alone (`.to_numpy()`)."
            )
            raise ValueError(msg)


def _plain(index: Any) -> np.ndarray:
    """Return labels as a result holds them: numbers, dates without a zone, texts."""
    if getattr(index, "tz", None) is not None:
        index = index.tz_convert("UTC").tz_localize(None)
    labels = np.asarray(index.to_timestamp() if hasattr(index, "to_timestamp") else index)
    return labels if labels.dtype.kind in "biufMm" else labels.astype(str)


def with_numbers(values: np.ndarray) -> tuple[np.ndarray, str]:
    """Return which rows have all of their statistics, and a sentence that says how many have not.

    Raises
    ------
    ValueError
        If no row has.
    """
    known = np.isfinite(values).all(axis=0)
    lost = int((~known).sum())
    if lost == known.size:
        msg = f"A picture of rows needs rows with numbers; none of {lost:,} has any that is finite. Look at the result."
        raise ValueError(msg)
    return known, f"{lost:,} of {known.size:,} rows have no numbers and are left out." if lost else ""


def intervals(draws: np.ndarray, interval: Statistic) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper bounds over the first axis; NaN where a draw is."""
    from arviz_stats.base import array_stats

    draws = np.asarray(draws, np.float64)
    known = np.isfinite(draws).all(axis=0)
    safe = np.where(known, draws, 0.0)
    found = (array_stats.hdi if interval.kind == "hdi" else array_stats.eti)(safe, interval.at, axis=0)
    return np.where(known, found[..., 0], np.nan), np.where(known, found[..., 1], np.nan)


@dataclass(frozen=True)
class Bounds:
    """Which statistics of a row are its centre and its interval."""

    centre: str
    low: str
    high: str
    interval: Statistic


def bounds_of(array: xr.DataArray, what: str) -> Bounds:
    """Return which statistics to draw.

    Raises
    ------
    ValueError
        If there is no centre or no interval among them.
    """
    labels = [str(label) for label in array[STATISTIC].values]
    centre = next((label for label in ("mean", "0.5") if label in labels), None)
    pair = None
    for kind in ("eti", "hdi"):
        for label in labels:
            if pair is None and label.startswith(kind) and label.endswith("_lb") and f"{label[:-3]}_ub" in labels:
                pair = label, f"{label[:-3]}_ub", Statistic(kind, float(label[3:-3]) / 100)
    if pair is None:
        levels = sorted(float(label) for label in labels if label.replace(".", "", 1).isdigit() and label != "0.5")
        if len(levels) > 1:
            low, high = (f"{level:.15g}" for level in (levels[0], levels[-1]))
            pair = low, high, Statistic("quantile", round(levels[-1] - levels[0], 12))
    if centre is None or pair is None:
        msg = (
            f"`{what}` needs a mean and an interval of each row; got {labels}. Ask for "
            "`statistics=('mean', 'interval')`."
        )
        raise ValueError(msg)
    return Bounds(centre, *pair)


def thinned(array: xr.DataArray, max_draws: int | None) -> tuple[xr.DataArray, str]:
    """Return at most so many draws, at equal distances in each chain, and a sentence that says so.

    Raises
    ------
    ValueError
        If ``max_draws`` is not a positive integer.
    """
    if max_draws is not None and not (isinstance(max_draws, int | np.integer) and max_draws > 0):
        msg = f"`max_draws` must be a positive integer; got {max_draws!r}. Leave it out for the default."
        raise ValueError(msg)
    n_chains, n_each = (array.sizes[dim] for dim in SAMPLE_DIMS)
    if max_draws is None or n_chains * n_each <= max_draws:
        return array, ""
    each = max(1, max_draws // n_chains)
    chosen = np.linspace(0, n_each - 1, each).round().astype(np.intp) if each > 1 else np.array([n_each // 2])
    array_kept = array.isel(draw=chosen)
    if n_chains > max_draws:
        array_kept = array_kept.isel(chain=slice(max_draws))
    kept = math.prod(array_kept.sizes[dim] for dim in SAMPLE_DIMS)
    return array_kept, f"Drawn from {kept:,} of {n_chains * n_each:,} posterior draws."


def some_rows(n_obs: int, max_rows: int, seed: int = 0) -> tuple[Any, str]:
    """Return an indexer of at most so many rows, always the same, and a sentence that says so.

    Of very many rows, short runs are taken, spread over all of them: single rows would be in every file of a result.

    Raises
    ------
    ValueError
        If ``max_rows`` is not a positive integer.
    """
    if not (isinstance(max_rows, int | np.integer) and max_rows > 0):
        msg = f"`max_rows` must be a positive integer; got {max_rows!r}. Leave it out for the default."
        raise ValueError(msg)
    if n_obs <= max_rows:
        return slice(None), ""
    rng = np.random.default_rng(seed)
    if n_obs <= _MANY_ROWS or max_rows < 2 * _RUN:
        chosen = np.sort(rng.choice(n_obs, max_rows, replace=False))
    else:
        n_runs = max_rows // _RUN
        edges = np.linspace(0, n_obs, n_runs + 1).astype(np.int64)
        starts = edges[:-1] + (rng.random(n_runs) * np.maximum(1, np.diff(edges) - _RUN)).astype(np.int64)
        chosen = np.unique((starts[:, None] + np.arange(_RUN)).ravel().clip(0, n_obs - 1))
    return chosen, f"{len(chosen):,} of {n_obs:,} rows, chosen at random."


def blocks(array: xr.DataArray, row_dim: str) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows and their numbers of shape ``(n_draws, n_rows)``, a bounded number at a time."""
    head = [str(dim) for dim in array.dims if dim != row_dim]
    n_obs, n_head = array.sizes[row_dim], math.prod(array.sizes[dim] for dim in head)
    step = max(1, _AT_ONCE // max(1, n_head))
    chunks = dict(zip(array.dims, array.chunks, strict=True))[row_dim] if array.chunks is not None else ()
    if chunks and chunks[0] <= step:  # whole chunks, so that none is read twice
        step = step // chunks[0] * chunks[0]
    for start in range(0, n_obs, step):
        rows = slice(start, min(start + step, n_obs))
        part = array.isel({row_dim: rows}).transpose(*head, row_dim).values
        yield rows, part.reshape(n_head, -1)


def rows_average(array: xr.DataArray, row_dim: str) -> np.ndarray:
    """Return the average over rows of each draw, of shape ``(n_draws,)``."""
    total = np.zeros(math.prod(array.sizes[dim] for dim in array.dims if dim != row_dim))
    for _, part in blocks(array, row_dim):
        total += part.sum(axis=1, dtype=np.float64)
    return np.asarray(total / array.sizes[row_dim])
