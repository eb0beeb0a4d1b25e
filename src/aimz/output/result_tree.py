"""The tree of a result, which is printed in six lines."""

__all__ = ["ResultTree", "tree_of"]

import html
import math
from typing import Any

import xarray as xr

from aimz.output.labels import SAMPLE_DIMS, STATISTIC

_WHAT = {
    "effect": "effects",
    "posterior_predictive": "posterior predictions",
    "predictions": "predictions of new observations",
    "prior_predictive": "prior predictions",
    "log_likelihood": "log densities",
    "log_prior": "log densities of priors",
    "posterior": "posterior draws",
}
"""Name of the main group of a result to what it contains, in order of precedence."""


class ResultTree(xr.DataTree):
    """A :class:`xarray.DataTree` whose text is a summary of the result; it differs in nothing else.

    The groups, such as ``tree["posterior"]``, have the text of xarray.
    """

    __slots__ = ()

    def __repr__(self) -> str:  # type: ignore[override]
        """Return a text of six lines: contents, rows, draws, location, groups and how to get a table."""
        group = next((name for name in _WHAT if name in self.children), None)
        if self.parent is not None or group is None:
            return super().__repr__()
        return _describe(self, group)

    def __str__(self) -> str:
        """Return the text of ``repr``."""
        return repr(self)

    def _repr_html_(self) -> str:
        text = repr(self)
        tree = super()._repr_html_()
        return f"<pre>{html.escape(text)}</pre>{tree}" if text.startswith("<Result") else tree


def _describe(tree: xr.DataTree, group: str) -> str:
    """Return the text of a result whose main group is ``group``."""
    main = tree[group].to_dataset()
    sites = ", ".join(f"`{name}`" for name in main.data_vars)
    is_effect = "contrast" in main.attrs
    what = "effects on" if is_effect else f"{_WHAT[group]} of"
    n_bytes = sum(array.nbytes for node in tree.children.values() for array in node.data_vars.values())
    path = tree.attrs.get("artifact_path")
    return "\n".join(
        [
            f"<Result: {what} {sites}>",
            f"  Rows:   {_rows(tree, main)}",
            f"  Draws:  {_draws(main)}",
            f"  Stored: {'in memory' if path is None else path}, {_size(n_bytes)}",
            f"  Groups: {', '.join(map(str, tree.children))}",
            f"  Table:  {_table(main, group, is_effect=is_effect)}",
        ]
    )


def _table(main: xr.Dataset, group: str, *, is_effect: bool) -> str:
    """Return the call that makes a table of a result."""
    if STATISTIC in main.dims:
        return f"result[{group!r}].to_dataset().to_dataframe()"
    if is_effect:
        return "aimz.summary(result)"
    if group == "posterior":
        return "arviz_stats.summary(result)"
    return f"result[{group!r}].to_dataset().mean(('chain', 'draw')).to_dataframe()"


def _rows(tree: xr.DataTree, main: xr.Dataset) -> str:
    """Return the number of rows of a result, or of its averages."""
    if "groups" in tree.children and "n_obs" in main.attrs:
        by = list(tree["groups"]["rows"].dims)
        return f"averages over {main.attrs['n_obs']:,}" + (f", by {', '.join(map(str, by))}" if by else "")
    largest = max(main.data_vars.values(), key=lambda array: array.size)
    dims = [dim for dim in largest.dims if dim not in (*SAMPLE_DIMS, STATISTIC)]
    return f"{main.sizes[dims[0]]:,} along {dims[0]!r}" if dims else "none"


def _draws(main: xr.Dataset) -> str:
    """Return the number of draws, or the statistics over them."""
    if STATISTIC in main.dims:
        return f"statistics {', '.join(map(str, main[STATISTIC].values))} of {main.attrs.get('n_draws', 0):,} draws"
    chains, draws = (main.sizes.get(dim, 1) for dim in SAMPLE_DIMS)
    return f"{chains * draws:,}" + (f" ({chains} chains of {draws:,})" if chains > 1 else "")


def _size(n_bytes: int) -> str:
    """Return a number of bytes with a unit."""
    power = min(4, int(math.log10(max(1, n_bytes))) // 3)
    return f"{n_bytes / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def tree_of(result: Any) -> Any:
    """Return the tree of an `EffectResult`, and anything else unchanged."""
    return result if isinstance(result, xr.DataTree | xr.Dataset | xr.DataArray) else getattr(result, "tree", result)
