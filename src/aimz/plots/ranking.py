"""Cumulative effects along a ranking of rows.

Rows are ranked once, by their posterior mean effect, and the ranking is the same for all draws: a decision is made
before it is known which draw is true.  Effects are accumulated along it for each draw, block by block, at no more than
200 cuts.  Apart from a few numbers for each row, memory depends only on the numbers of cuts and draws.
"""

__all__ = ["SHARE", "RankedEffects", "block_sums", "rank_effects"]

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from aimz.plots.selection import (
    PREDICTED,
    SAMPLE_DIMS,
    STATISTIC,
    check_finite,
    read_blocks,
    read_column,
    remaining_dims,
    select_variable,
    thin_draws,
)

_MAX_CUTS = 200
SHARE = "share"


@dataclass(frozen=True)
class RankedEffects:
    """Effects on rows and the position of each row in the ranking."""

    array: xr.DataArray
    row_dim: str
    cells: np.ndarray
    """Cell of each row, of shape ``(n_obs,)``: the block of rows between two cuts, or a cell of tied rows."""
    spread: np.ndarray
    """Share of each cell in each block, of shape ``(n_cells, n_cuts)``."""
    cuts: np.ndarray
    """Number of rows treated at each cut, of shape ``(n_cuts,)``."""
    attrs: dict[str, Any]

    @property
    def n_obs(self) -> int:
        """Number of rows."""
        return self.array.sizes[self.row_dim]

    @property
    def sample_dims(self) -> tuple[str, ...]:
        """Dimensions of the draws, if there are any."""
        return SAMPLE_DIMS if set(SAMPLE_DIMS) <= set(self.array.dims) else ()

    @property
    def share(self) -> np.ndarray:
        """Share of rows treated at 0 and at each cut."""
        return np.concatenate([[0.0], self.cuts / self.n_obs])

    @property
    def coords(self) -> dict[str, Any]:
        """Coordinates of a curve."""
        draws = {dim: self.array[dim] for dim in self.sample_dims if dim in self.array.coords}
        return {**draws, SHARE: self.share, "n_rows": (SHARE, np.concatenate([[0], self.cuts]))}

    def cumulate(self, sums: np.ndarray) -> np.ndarray:
        """Return cumulative sums of shape ``(n_chains, n_draws, n_cuts + 1)`` from sums of shape ``(.., n_cuts)``."""
        total = np.concatenate([np.zeros((len(sums), 1)), np.cumsum(sums, axis=1)], axis=1)
        return total.reshape(*(self.array.sizes[dim] for dim in self.sample_dims), -1)


def rank_effects(
    effects: Any, var_name: str | None, ranking: Any, n_cuts: int, max_draws: int | None, function: str
) -> RankedEffects:
    """Rank the rows of a result by their effects, or by the scores ``ranking``.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, or there are no effects on rows.
    """
    if not (isinstance(n_cuts, int | np.integer) and 1 <= n_cuts <= _MAX_CUTS):
        msg = f"`n_cuts` must be an integer from 1 to {_MAX_CUTS}; got {n_cuts!r}. Omit it for 100."
        raise ValueError(msg)
    array = select_variable(effects, PREDICTED, var_name, function)
    dims = remaining_dims(array, most=1, function=function)
    if not dims or "scenario" in dims or not array.sizes[dims[0]]:
        msg = (
            f"`{function}` needs effects on rows; got the dimensions {array.dims}. Pass what `estimate_effect` returns."
        )
        raise ValueError(msg)
    row_dim, note = dims[0], ""
    if STATISTIC in array.dims:
        if "mean" not in array[STATISTIC].values:
            msg = (
                f"`{function}` needs the mean of each row, or draws. Pass `statistics='mean'` to `estimate_effect`, or "
                "omit it."
            )
            raise ValueError(msg)
        array = array.sel({STATISTIC: "mean"}, drop=True)
    else:
        array, note = thin_draws(array.transpose(*SAMPLE_DIMS, row_dim), max_draws)
    n_obs = array.sizes[row_dim]
    if ranking is None:
        means = [block.mean(axis=0, dtype=np.float64) for _, block in read_blocks(array, row_dim)]
        score = check_finite(np.concatenate(means), "effects")
    else:
        score = read_column(ranking, "ranking", array, row_dim)
    cuts = np.unique(np.round(np.linspace(0, n_obs, min(n_cuts, n_obs) + 1)).astype(np.int64))[1:]
    attrs = {
        "n_obs": n_obs,
        "ranked_by": "posterior mean effect" if ranking is None else "ranking",
        "site": str(array.name),
        "thinned": note,
        **{key: array.attrs[key] for key in ("units", "long_name", "baseline", "intervention") if key in array.attrs},
    }
    return RankedEffects(array, row_dim, *_assign_cells(score, cuts), cuts, attrs)


def _assign_cells(score: np.ndarray, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cell of each row, and the share of each cell in each block that ends at ``cuts``.

    Each block is a cell.  Tied rows that span several blocks are another cell, which is divided among these blocks in
    proportion: the average over all orders of the rows.  Otherwise the order of the file would matter.
    """
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    start = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    stop = np.append(start[1:], len(score))
    first, last = np.searchsorted(cuts, start, side="right"), np.searchsorted(cuts, stop - 1, side="right")
    ties = np.flatnonzero(first != last)
    first[ties] = len(cuts) + np.arange(len(ties))
    cells = np.empty(len(score), np.int64)
    cells[order] = np.repeat(first, stop - start)
    low, high = start[ties, None], stop[ties, None]
    inside = np.minimum(high, cuts) - np.maximum(low, np.append(0, cuts[:-1]))
    return cells, np.concatenate([np.eye(len(cuts)), np.maximum(0, inside) / (high - low)])


def block_sums(rows: RankedEffects, kept: np.ndarray | None = None) -> np.ndarray:
    """Return sums of effects over the rows of each block, or over its ``kept`` rows, of shape ``(n_draws, n_cuts)``."""
    total = np.zeros((rows.array.size // rows.n_obs, len(rows.spread)))
    for where, values in read_blocks(rows.array, rows.row_dim):
        cells = rows.cells[where]
        if kept is not None:
            cells, values = cells[kept[where]], values[:, kept[where]]
        if not cells.size:
            continue
        order = np.argsort(cells, kind="stable")
        starts = np.flatnonzero(np.diff(cells[order], prepend=-1))
        total[:, cells[order][starts]] += np.add.reduceat(values[:, order].astype(np.float64), starts, axis=1)
    return np.asarray(total @ rows.spread)
