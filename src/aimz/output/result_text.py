"""The text of a result, in six lines."""

__all__ = ["describe_result", "register_displays", "register_prompt", "tree_of"]

import builtins
import html
import math
import sys
from collections.abc import Mapping
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
"""Contents of a result, by the name of its main group, in order of precedence."""


_ASSUMED = {"fitted": ", taken as the rows of the fit", "new": ", taken as new observations"}
"""Text of the assumption about the rows, by attribute of a result."""


def describe_result(result: xr.DataTree) -> str:
    """Return a text of six lines about a result: contents, rows, draws, location, groups and how to get a table.

    Python's prompt, IPython and notebooks display this text for results; ``print(result)`` writes the text of
    xarray, as results are its trees.

    Parameters
    ----------
    result : xarray.DataTree
        Tree that a method of :class:`ImpactModel` returned, or :func:`open_result`.

    Returns
    -------
    str
        The text.

    Raises
    ------
    TypeError
        If ``result`` is not such a tree.

    Examples
    --------
    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> from jax import random
    >>> from numpyro.infer import MCMC, NUTS
    >>> import aimz
    >>> def kernel(X, y=None):
    ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("shop", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)
    >>> model = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=10, num_samples=10))
    >>> _ = model.set_posterior_sample({"b": np.linspace(1.9, 2.1, 500)})
    >>> for line in aimz.describe_result(model.predict_on_batch(np.ones(20))).splitlines()[:3]:
    ...     print(line)
    <Result: posterior predictions of `y`>
      Rows:   20 along 'shop', taken as the rows of the fit
      Draws:  500
    """
    result = tree_of(result)
    group = _main_group(result) if isinstance(result, xr.DataTree) else None
    if group is None:
        msg = (
            "`result` must be a tree that a method of `ImpactModel` returned; got an object of type "
            f"`{type(result).__name__}`, or one of its groups. Pass the whole tree."
        )
        raise TypeError(msg)
    return _describe(result, group)


def register_displays(formatters: Mapping[str, Any]) -> None:
    """Register the display of results with the formatters of IPython, by MIME type; other trees are not affected."""
    plain, page = (formatters[kind] for kind in ("text/plain", "text/html"))
    plain.for_type(xr.DataTree, lambda tree, printer, _: printer.text(_text_of(tree) or repr(tree)))
    page.for_type(xr.DataTree, lambda tree: _html_of(tree))


def register_prompt() -> None:
    """Set the display hook of Python's prompt, which then displays the text of results, and other values as before."""
    display = sys.displayhook

    def display_result(value: object) -> None:
        text = _text_of(value) if isinstance(value, xr.DataTree) else ""
        if not text:
            display(value)
            return
        vars(builtins)["_"] = value  # as every display hook
        sys.stdout.write(f"{text}\n")

    sys.displayhook = display_result


def _main_group(tree: xr.DataTree) -> str | None:
    """Return the name of the main group of a result; None for other trees."""
    if tree.parent is not None or tree.attrs.get("creation_library") != "aimz":
        return None
    return next((name for name in _WHAT if name in tree.children), None)


def _text_of(tree: xr.DataTree) -> str:
    """Return the text of a result; empty for other trees."""
    group = _main_group(tree)
    return "" if group is None else _describe(tree, group)


def _html_of(tree: xr.DataTree) -> str:
    """Return the page of xarray, after the text of a result."""
    text = _text_of(tree)
    return (f"<pre>{html.escape(text)}</pre>" if text else "") + str(tree._repr_html_())


def _describe(tree: xr.DataTree, group: str) -> str:
    """Return the text of a result whose main group is ``group``."""
    main = tree[group].to_dataset()
    sites = ", ".join(f"`{name}`" for name in main.data_vars)
    is_effect = "contrast" in main.attrs or "event_start" in main.attrs
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
    """Return the number of rows of a result and the assumption about them, or the periods of an event."""
    if "event_start" in main.attrs:
        when = f"{main.attrs['event_start']} to {main.attrs['event_end']}"
        groups = "".join(f", by {dim}" for dim in main.attrs["by"])
        return f"{main.attrs['n_periods']:,} periods, {when}, after {main.attrs['n_periods_before']:,} others{groups}"
    if "groups" in tree.children and "n_obs" in main.attrs:
        by = list(tree["groups"]["rows"].dims)
        return f"averages over {main.attrs['n_obs']:,}" + (f", by {', '.join(map(str, by))}" if by else "")
    largest = max(main.data_vars.values(), key=lambda array: array.size)
    dims = [dim for dim in largest.dims if dim not in (*SAMPLE_DIMS, STATISTIC)]
    assumed = _ASSUMED.get(str(main.attrs.get("observations")), "")
    return f"{main.sizes[dims[0]]:,} along {dims[0]!r}{assumed}" if dims else "none"


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
