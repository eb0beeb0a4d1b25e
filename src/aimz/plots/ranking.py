"""Effects on rows along a ranking of the rows.

Rows are ranked once, by their posterior mean effect, and the ranking is the same for all draws: a rule has to be
decided on before it is known which draw is true.  Along it the effects are added up in each draw, block of rows by
block of rows, at no more than 200 places.  Beside a few numbers for each row, memory grows with places and draws only.
"""

__all__ = ["SHARE", "Ranked", "column", "ranked", "sums"]

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from aimz.plots.selection import PREDICTED, SAMPLE_DIMS, STATISTIC, blocks, check_labels, own_dims, thinned, variable

_MOST_CUTS = 200
SHARE = "share"


@dataclass(frozen=True)
class Ranked:
    """Effects on rows, and where each row is along the ranking."""

    array: xr.DataArray
    row_dim: str
    cells: np.ndarray
    """What each row is counted with, of shape ``(n_obs,)``: a block of rows between two cuts, or rows of one score."""
    spread: np.ndarray
    """The part of each cell that lies in each block, of shape ``(n_cells, n_cuts)``."""
    cuts: np.ndarray
    """Rows treated at each cut, of shape ``(n_cuts,)``."""
    attrs: dict[str, Any]

    @property
    def n_obs(self) -> int:
        """The number of rows."""
        return self.array.sizes[self.row_dim]

    @property
    def n_cuts(self) -> int:
        """The number of cuts."""
        return len(self.cuts)

    @property
    def head(self) -> tuple[str, ...]:
        """The dimensions of draws, if there are any."""
        return SAMPLE_DIMS if set(SAMPLE_DIMS) <= set(self.array.dims) else ()

    @property
    def share(self) -> np.ndarray:
        """The share of rows that are treated at 0 and at each cut."""
        return np.concatenate([[0.0], self.cuts / self.n_obs])

    @property
    def coords(self) -> dict[str, Any]:
        """Labels of a curve."""
        draws = {dim: self.array[dim] for dim in self.head if dim in self.array.coords}
        return {**draws, SHARE: self.share, "n_rows": (SHARE, np.concatenate([[0], self.cuts]))}

    def shaped(self, sums: np.ndarray) -> np.ndarray:
        """Return running sums of shape ``(n_chains, n_draws, n_cuts + 1)``, from those of each block."""
        total = np.concatenate([np.zeros((len(sums), 1)), np.cumsum(sums, axis=1)], axis=1)
        return total.reshape(*(self.array.sizes[dim] for dim in self.head), -1)


def ranked(effects: Any, var_name: str | None, ranking: Any, n_cuts: int, max_draws: int | None, what: str) -> Ranked:
    """Return effects on rows with their ranking; ``what`` says which call wants them.

    Raises
    ------
    TypeError, ValueError
        If something does not fit together.
    """
    if not (isinstance(n_cuts, int | np.integer) and 1 <= n_cuts <= _MOST_CUTS):
        msg = f"`n_cuts` must be an integer from 1 to {_MOST_CUTS}; got {n_cuts!r}. Leave it out for 100."
        raise ValueError(msg)
    array = variable(effects, PREDICTED, var_name, what)
    own = own_dims(array, most=1, what=what)
    if not own or "scenario" in own or not array.sizes[own[0]]:
        msg = f"`{what}` needs effects on rows; got the dimensions {array.dims}. Pass what `estimate_effect` returns."
        raise ValueError(msg)
    said = ""
    if STATISTIC in array.dims:
        if "mean" not in array[STATISTIC].values:
            msg = f"`{what}` needs the mean of each row. Ask `estimate_effect` for `statistics='mean'`, or for draws."
            raise ValueError(msg)
        array = array.sel({STATISTIC: "mean"}, drop=True)
    else:
        array, said = thinned(array.transpose(*SAMPLE_DIMS, own[0]), max_draws)
    n_obs = array.sizes[own[0]]
    score = _means(array, own[0]) if ranking is None else column(ranking, "ranking", array, own[0])
    cuts = np.unique(np.round(np.linspace(0, n_obs, min(n_cuts, n_obs) + 1)).astype(np.int64))[1:]
    attrs = {
        "n_obs": n_obs,
        "ranked_by": "posterior mean effect" if ranking is None else "ranking",
        "site": str(array.name),
        "thinned": said,
        **{key: array.attrs[key] for key in ("units", "long_name", "baseline", "intervention") if key in array.attrs},
    }
    return Ranked(array, own[0], *_cells(score, cuts), cuts, attrs)


def _cells(score: np.ndarray, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cell of each row, and how cells are spread over the blocks that end at ``cuts``.

    A block is a cell.  Rows of one score that lie in several blocks are a further one: each block has of all of them
    the same share, which is the average over their orders.  The order of the file would have a say otherwise.
    """
    order = np.argsort(-score, kind="stable")
    sorted_ = score[order]
    start = np.flatnonzero(np.concatenate([[True], sorted_[1:] != sorted_[:-1]]))
    stop = np.append(start[1:], len(score))
    first, last = np.searchsorted(cuts, start, side="right"), np.searchsorted(cuts, stop - 1, side="right")
    apart = np.flatnonzero(first != last)
    first[apart] = len(cuts) + np.arange(len(apart))
    cells = np.empty(len(score), np.int64)
    cells[order] = np.repeat(first, stop - start)
    low, high = start[apart, None], stop[apart, None]
    inside = np.minimum(high, cuts) - np.maximum(low, np.append(0, cuts[:-1]))
    return cells, np.concatenate([np.eye(len(cuts)), np.maximum(0, inside) / (high - low)])


def _means(array: xr.DataArray, row_dim: str) -> np.ndarray:
    """Return the posterior mean effect of each row."""
    found = [part.mean(axis=0, dtype=np.float64) for _, part in blocks(array, row_dim)]
    return _finite(np.concatenate(found), "effects")


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    lost = int((~np.isfinite(values)).sum())
    if lost:
        msg = f"`{name}` must be finite for every row; {lost:,} of {len(values):,} are not. Leave those rows out."
        raise ValueError(msg)
    return values


def column(given: Any, name: str, array: xr.DataArray, row_dim: str) -> np.ndarray:
    """Return one finite number for each row.

    Raises
    ------
    TypeError, ValueError
        If it is something else, or has other labels than the rows.
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
    check_labels(given, name, array, row_dim)
    return _finite(values, name)


def sums(rows: Ranked, kept: np.ndarray | None = None) -> np.ndarray:
    """Return sums of effects over the rows of each block (those ``kept``), of shape ``(n_draws, n_cuts)``."""
    n_draws = int(np.prod([rows.array.sizes[dim] for dim in rows.head]))
    total = np.zeros((n_draws, len(rows.spread)))
    for where, part in blocks(rows.array, rows.row_dim):
        cells, values = rows.cells[where], part
        if kept is not None:
            cells, values = cells[kept[where]], values[:, kept[where]]
        if not cells.size:
            continue
        order = np.argsort(cells, kind="stable")
        starts = np.flatnonzero(np.diff(cells[order], prepend=-1))
        total[:, cells[order][starts]] += np.add.reduceat(values[:, order].astype(np.float64), starts, axis=1)
    return np.asarray(total @ rows.spread)
