"""Selection of a variable, draws and rows from a result, which is read in blocks.

A result may be far larger than memory.  Averages over rows are accumulated block by block, and individual draws or rows
are subsampled: evenly spaced draws, and rows at random with a fixed seed.
"""

__all__ = [
    "PATH",
    "PREDICTED",
    "SAMPLE_DIMS",
    "SCENARIO",
    "STATISTIC",
    "SortedRows",
    "average_rows",
    "check_finite",
    "intervals",
    "read_blocks",
    "read_column",
    "remaining_dims",
    "select_variable",
    "sort_rows",
    "subsample_rows",
    "thin_draws",
]

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from aimz.data import is_plain_range
from aimz.output import interval_bounds, tree_of
from aimz.statistics import Statistic

SAMPLE_DIMS = ("chain", "draw")
STATISTIC = "statistic"
SCENARIO = "scenario"
PATH = "path"
PREDICTED = ("posterior_predictive", "predictions", "prior_predictive")
_BLOCK_SIZE = 2**22
"""Number of values that are read at once: 32 MiB in double precision."""
_MANY_ROWS, _RUN_LENGTH = 200_000, 20


def select_variable(given: Any, groups: Iterable[str], var_name: str | None, function: str) -> xr.DataArray:
    """Return the variable to plot, with the attributes of its group.

    Raises
    ------
    TypeError, ValueError
        If there is none, or there are several and ``var_name`` is not one of them.
    """
    given = tree_of(given)
    if isinstance(given, xr.DataArray):
        return given.rename(given.name or var_name or "effect")
    attrs: dict[str, Any] = {}
    if isinstance(given, xr.DataTree):
        group = next((name for name in groups if name in given.children), None)
        if group is None and not given.data_vars:
            msg = (
                f"`{function}` needs a result with one of the groups {', '.join(groups)}; got one with "
                f"{sorted(map(str, given.children)) or 'none'}. Pass such a result, or a variable of it."
            )
            raise ValueError(msg)
        attrs = _attrs_of_effect(given, var_name)
        given = (given if group is None else given[group]).to_dataset()
    if not isinstance(given, xr.Dataset):
        msg = f"`{function}` needs a result (a DataTree, Dataset or DataArray); got {type(given).__name__}."
        raise TypeError(msg)
    names = [str(name) for name in given.data_vars]
    if (var_name is None and len(names) != 1) or (var_name is not None and var_name not in names):
        got = f"{var_name!r}" if var_name is not None else "no `var_name`"
        msg = f"`var_name` must be one of {names}; got {got}. Pass `var_name={(names or ['y'])[0]!r}`."
        raise ValueError(msg)
    array = given[var_name or names[0]]
    return array.assign_attrs({**given.attrs, **attrs, **array.attrs})


def _attrs_of_effect(tree: xr.DataTree, var_name: str | None) -> dict[str, Any]:
    """Return the long name and units of the effects by group, which also apply to the effects over all rows."""
    effects = tree["effect"].to_dataset() if "effect" in tree.children else xr.Dataset()
    name = next(iter(effects.data_vars), None) if var_name is None else var_name
    attrs = effects[name].attrs if name in effects.data_vars else {}
    return {key: attrs[key] for key in ("long_name", "units") if key in attrs}


def remaining_dims(array: xr.DataArray, *, most: int, function: str, known: Iterable[str] = ()) -> list[str]:
    """Return the dimensions other than draws, statistics and ``known``; raise if there are more than ``most``."""
    if not set(SAMPLE_DIMS) <= set(array.dims) and STATISTIC not in array.dims:
        msg = (
            f"`{function}` needs draws (dimensions `chain` and `draw`) or statistics (`statistic`); got the dimensions "
            f"{array.dims}. Pass a result without averaging it."
        )
        raise ValueError(msg)
    dims = [str(dim) for dim in array.dims if dim not in (*SAMPLE_DIMS, STATISTIC, *known)]
    if len(dims) > most:
        msg = (
            f"`{function}` draws one value for each row; `{array.name}` also has the dimensions {dims}. Choose, for "
            f"instance with `result[group][{str(array.name)!r}].isel({dims[-1]}=0)`."
        )
        raise ValueError(msg)
    return dims


def read_column(given: Any, name: str, array: xr.DataArray, row_dim: str, *, finite: bool = True) -> np.ndarray:
    """Return one number for each row.

    Raises
    ------
    TypeError, ValueError
        If the values are not numbers, one for each row, have other labels than the rows, or are not finite.
    """
    n_obs = array.sizes[row_dim]
    try:
        values = np.asarray(given, np.float64)
    except (TypeError, ValueError) as error:
        msg = f"`{name}` must be numbers, one for each row; got {type(given).__name__}."
        raise TypeError(msg) from error
    if values.shape != (n_obs,):
        msg = f"`{name}` must have one number for each of the {n_obs:,} rows; got shape {values.shape}."
        raise ValueError(msg)
    _check_labels(given, name, array, row_dim)
    return check_finite(values, name) if finite else values


def check_finite(values: np.ndarray, name: str) -> np.ndarray:
    """Return values; raise if some are not finite."""
    lost = int((~np.isfinite(values)).sum())
    if lost:
        msg = f"`{name}` must be finite for every row; {lost:,} of {len(values):,} are not. Drop those rows."
        raise ValueError(msg)
    return values


def _check_labels(given: Any, name: str, array: xr.DataArray, row_dim: str) -> None:
    """Check that values have the labels of the result's rows, in the same order, unless theirs are a plain range."""
    dims, index = getattr(given, "dims", None), getattr(given, "index", None)
    if isinstance(dims, tuple) and dims:
        index = given.indexes.get(dims[0])
    if index is None or not hasattr(index, "nlevels") or is_plain_range(index):
        return
    expected = [_plain_labels(coord.to_index()) for coord in array.coords.values() if coord.dims == (row_dim,)]
    if row_dim not in array.coords:
        expected.append(np.arange(array.sizes[row_dim]))
    for level in range(index.nlevels):
        labels = _plain_labels(index.get_level_values(level))
        if not any(np.array_equal(labels, other) for other in expected):
            first = int(np.argmax(labels != expected[0])) if labels.shape == expected[0].shape else 0
            msg = (
                f"`{name}` must have the labels of the rows of the result (`{row_dim}`), in the same order; got "
                f"{index[first]} where the result has {expected[0][first]}. Reorder it with `reindex`, or, if its "
                "values are already in that order, pass the values alone (`.to_numpy()`)."
            )
            raise ValueError(msg)


def _plain_labels(index: Any) -> np.ndarray:
    """Return labels as a result stores them: numbers, dates without a time zone, or strings."""
    if getattr(index, "tz", None) is not None:
        index = index.tz_convert("UTC").tz_localize(None)
    labels = np.asarray(index.to_timestamp() if hasattr(index, "to_timestamp") else index)
    return labels if labels.dtype.kind in "biufMm" else labels.astype(str)


def intervals(draws: np.ndarray, interval: Statistic) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper bounds over the first axis, or NaN if a draw is not finite."""
    draws = np.asarray(draws, np.float64)
    finite = np.isfinite(draws).all(axis=0)
    bounds = interval_bounds(np.where(finite, draws, 0.0), interval, "plots")
    return np.where(finite, bounds[..., 0], np.nan), np.where(finite, bounds[..., 1], np.nan)


@dataclass(frozen=True)
class SortedRows:
    """Centre and interval of each row, sorted by the centre."""

    centre: np.ndarray
    low: np.ndarray
    high: np.ndarray
    rows: np.ndarray
    """Position of each row in the result."""
    drawn: np.ndarray
    """Positions of the rows to draw, evenly spaced among the sorted ones."""
    centre_name: str
    """The word "mean" or "median"."""
    interval: Statistic
    notes: tuple[str, ...]
    """Sentences about rows that are left out."""

    @property
    def share(self) -> np.ndarray:
        """Horizontal positions of the rows to draw, between 0 and 1."""
        return (self.drawn + 0.5) / len(self.rows)


def sort_rows(array: xr.DataArray, row_dim: str, most: int, function: str) -> SortedRows:
    """Read statistics of rows, of 200,000 at random if there are more, and sort them; at most ``most`` are drawn.

    Raises
    ------
    ValueError
        If there is no centre or no interval among the statistics, or no row has finite ones.
    """
    labels = [str(label) for label in array[STATISTIC].values]
    centre = next((label for label in ("mean", "0.5") if label in labels), None)
    bounds = _find_bounds(labels)
    if centre is None or bounds is None:
        msg = (
            f"`{function}` needs a mean and an interval of each row; got {labels}. Pass "
            "`statistics=('mean', 'interval')` to the call that computes them."
        )
        raise ValueError(msg)
    low, high, interval = bounds
    chosen, note = subsample_rows(array.sizes[row_dim], _MANY_ROWS)
    part = array.sel({STATISTIC: [centre, low, high]}).isel({row_dim: chosen})
    values = part.transpose(STATISTIC, row_dim).values
    finite = np.isfinite(values).all(axis=0)
    if not finite.any():
        msg = f"`{function}` needs rows with finite statistics; none of {finite.size:,} has any. Check the result."
        raise ValueError(msg)
    order = np.argsort(values[0], kind="stable")
    order = order[finite[order]]
    n, lost = len(order), int((~finite).sum())
    middle, lower, upper = values[:, order]
    missing = f"{lost:,} of {finite.size:,} rows have no numbers and are left out." if lost else ""
    return SortedRows(
        middle,
        lower,
        upper,
        rows=order if isinstance(chosen, slice) else chosen[order],
        drawn=np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.intp)),
        centre_name="mean" if centre == "mean" else "median",
        interval=interval,
        notes=(note, missing),
    )


def _find_bounds(labels: list[str]) -> tuple[str, str, Statistic] | None:
    """Return the labels of an interval's bounds: of the first equal-tailed or HDI one, or the outermost quantiles."""
    for kind in ("eti", "hdi"):
        for label in labels:
            match = re.fullmatch(rf"({kind}(.+))_lb", label)
            if match and f"{match[1]}_ub" in labels:
                return label, f"{match[1]}_ub", Statistic(kind, float(match[2]) / 100)
    levels = sorted(float(label) for label in labels if re.fullmatch(r"\d*\.?\d+", label) and label != "0.5")
    if len(levels) < 2:
        return None
    low, high = levels[0], levels[-1]
    return f"{low:.15g}", f"{high:.15g}", Statistic("quantile", round(high - low, 12))


def thin_draws(array: xr.DataArray, max_draws: int | None) -> tuple[xr.DataArray, str]:
    """Return at most ``max_draws`` draws, evenly spaced in each chain, and a sentence if some are left out."""
    if max_draws is not None and not (isinstance(max_draws, int | np.integer) and max_draws > 0):
        msg = f"`max_draws` must be a positive integer; got {max_draws!r}. Omit it for the default."
        raise ValueError(msg)
    n_chains, n_each = (array.sizes[dim] for dim in SAMPLE_DIMS)
    if max_draws is None or n_chains * n_each <= max_draws:
        return array, ""
    each = max(1, max_draws // n_chains)
    chosen = np.linspace(0, n_each - 1, each).round().astype(np.intp) if each > 1 else np.array([n_each // 2])
    thinned = array.isel(draw=chosen, chain=slice(max_draws))
    kept = math.prod(thinned.sizes[dim] for dim in SAMPLE_DIMS)
    return thinned, f"Drawn from {kept:,} of {n_chains * n_each:,} draws."


def subsample_rows(n_obs: int, max_rows: int, seed: int = 0) -> tuple[Any, str]:
    """Return an indexer of at most ``max_rows`` rows, the same in each call, and a sentence if some are left out.

    Of very many rows, short runs are taken, spread over all of them: single rows would be in every chunk of a result.
    """
    if not (isinstance(max_rows, int | np.integer) and max_rows > 0):
        msg = f"`max_rows` must be a positive integer; got {max_rows!r}. Omit it for the default."
        raise ValueError(msg)
    if n_obs <= max_rows:
        return slice(None), ""
    rng = np.random.default_rng(seed)
    if n_obs <= _MANY_ROWS or max_rows < 2 * _RUN_LENGTH:
        chosen = np.sort(rng.choice(n_obs, max_rows, replace=False))
    else:
        n_runs = max_rows // _RUN_LENGTH
        edges = np.linspace(0, n_obs, n_runs + 1).astype(np.int64)
        spare = np.maximum(1, np.diff(edges) - _RUN_LENGTH)
        starts = edges[:-1] + (rng.random(n_runs) * spare).astype(np.int64)
        chosen = np.unique((starts[:, None] + np.arange(_RUN_LENGTH)).ravel().clip(0, n_obs - 1))
    return chosen, f"{len(chosen):,} of {n_obs:,} rows, chosen at random."


def read_blocks(array: xr.DataArray, row_dim: str) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield blocks of rows: their slice, and their values of shape ``(n_draws, n_rows)``."""
    head = [str(dim) for dim in array.dims if dim != row_dim]
    n_obs, n_head = array.sizes[row_dim], math.prod(array.sizes[dim] for dim in head)
    step = max(1, _BLOCK_SIZE // max(1, n_head))
    chunks = array.chunksizes.get(row_dim, ())
    if chunks and chunks[0] <= step:  # whole chunks, so that none is read twice
        step = step // chunks[0] * chunks[0]
    for start in range(0, n_obs, step):
        rows = slice(start, min(start + step, n_obs))
        block = array.isel({row_dim: rows}).transpose(*head, row_dim).values
        yield rows, block.reshape(n_head, -1)


def average_rows(array: xr.DataArray, row_dim: str) -> np.ndarray:
    """Return the average over rows for each draw, of shape ``(n_draws,)``."""
    total = np.zeros(array.size // array.sizes[row_dim])
    for _, block in read_blocks(array, row_dim):
        total += block.sum(axis=1, dtype=np.float64)
    return np.asarray(total / array.sizes[row_dim])
