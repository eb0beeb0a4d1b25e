"""Dependence of the rows of a call on one another, and the warning about it if rows are not the fitted ones."""

__all__ = ["RowsInteractError", "block_length", "check_rows_independent", "depends_on_rows", "warn_about_new_rows"]

from collections.abc import Iterable
from dataclasses import replace
from math import prod

import jax.numpy as jnp

import aimz.stream
from aimz.engine.kernel_engine import KernelEngine
from aimz.engine.layout import InputLayout
from aimz.engine.prepared_call import PreparedCall
from aimz.errors import OutputWarning, warn
from aimz.forward import PassSpec
from aimz.kernel import RowUse, freeze, site_obstacle


class RowsInteractError(Exception):
    """Rows cannot be computed in blocks; the text is the reason."""


def block_length(prepared: PreparedCall, n_obs: int | None) -> int:
    """Return the number of rows of a block; it does not depend on the return sites."""
    rows = prepared.call.n_obs
    row_bytes = sum(
        prod(site.traced_shape) // rows * jnp.dtype(site.dtype).itemsize
        for site in prepared.spec.sites
        if site.row_axes and site.dtype and (site.is_sample or site.name in prepared.spec.deterministic_sites)
    )
    return aimz.stream.block_rows(row_bytes, prepared.plan.n_draws, n_obs)


def check_rows_independent(
    engine: KernelEngine, prepared: PreparedCall, plan: PassSpec, layout: InputLayout, other: int
) -> RowUse:
    """Return how the kernel uses row numbers, read from its sites and its jaxprs at two numbers of rows.

    ``plan`` is the pass of the call over one block, and ``other`` the other number of rows.

    Raises
    ------
    RowsInteractError
        If rows depend on one another, or the kernel cannot be traced at another number of rows.
    """
    scored = prepared.settings.scored is not None
    obstacle = site_obstacle(
        prepared.spec,
        drawn=prepared.substitution.drawn,
        returned=plan.return_sites,
        scored=scored,
    )
    if obstacle is None and other != plan.n_obs:
        kind = "log_density" if scored else "predictive"
        try:
            use = engine.programs.use(kind, plan, layout.one_block, other)
        except Exception as error:  # noqa: BLE001, RUF100 (a user's kernel may raise anything at a size of our choosing)
            obstacle = f"for {plan.n_obs} rows it raises {type(error).__name__}"
        else:
            if use.obstacle is None:
                return use
            obstacle = use.obstacle
    if obstacle is not None:
        raise RowsInteractError(obstacle)
    return RowUse()


def warn_about_new_rows(engine: KernelEngine, calls: Iterable[PreparedCall], n_obs: int | None) -> None:
    """Warn once if rows that are not the fitted ones depend on other rows, or on their number among the rows."""
    for prepared in calls:
        found = _dependence(engine, prepared, n_obs) if _has_new_rows(prepared) else None
        meaning = None if found is None else next((text for words, text in _MEANINGS if words in found), None)
        if meaning is not None:
            warn(
                f"Rows depend on one another in kernel `{engine.signature.kernel}` ({found}), and these are not the "
                f"fitted rows. {meaning}{'' if meaning in _OF_ALL_ROWS else _HOW_TO_CONTINUE}",
                OutputWarning,
            )
            return


def _has_new_rows(prepared: PreparedCall) -> bool:
    """Return whether a call predicts or scores rows other than the fitted ones."""
    settings = prepared.settings
    if settings.posterior is None or prepared.plan.history is not None:
        return False
    return not settings.in_sample or not settings.changed.isdisjoint(prepared.call.arrays)


def depends_on_rows(engine: KernelEngine, prepared: PreparedCall, n_obs: int | None) -> bool:
    """Return whether sites with a value for each row depend on other rows, or on their number among the rows."""
    return _dependence(engine, prepared, n_obs) is not None


def _dependence(engine: KernelEngine, prepared: PreparedCall, n_obs: int | None) -> str | None:
    """Return in words how sites with a value for each row depend on other rows, or None."""
    # A site without rows, such as an average over rows, describes the rows of a call on purpose.
    plan, arrays = prepared.plan, prepared.call.arrays
    with_rows = tuple(name for name in plan.return_sites if name in plan.row_axes)
    if not with_rows:
        return None
    key = (
        n_obs,
        with_rows,
        prepared.substitution,
        prepared.settings.scored,
        tuple((name, array.shape, str(array.dtype)) for name, array in arrays.items()),
        freeze(plan.static),
        freeze(plan.transforms),
        plan.worlds_key,
    )
    alone = replace(prepared, plan=replace(plan, return_sites=with_rows))
    return engine.programs.row_dependences.get(key, lambda: _find_dependence(engine, alone, n_obs))


def _find_dependence(engine: KernelEngine, prepared: PreparedCall, n_obs: int | None) -> str | None:
    """Return the dependence of rows, found by comparing programs."""
    block = block_length(prepared, n_obs)
    try:
        other = 2 * block if n_obs in (None, block) else n_obs
        use = check_rows_independent(engine, prepared, prepared.plan.for_rows(block), InputLayout.of(prepared), other)
    except RowsInteractError as reason:
        return str(reason)
    return "it computes with the numbers of the rows in its plate" if use.uses_global_index else None


_HOW_TO_CONTINUE = " If they follow the fitted rows, call `model.forecast`, which continues from these."
_STATE = "A recursion starts again at the first of them. Pass the last state, or the history, as an argument."
_NUMBERS = "They are numbered from 0 again. Pass the number or the time of each row as an argument."
_COUNT = "The number of rows of this call is used. Pass the number of the fitted rows as an argument."
_SELECTED = (
    "Rows are looked up among the rows of this call. Pass the values of the fitted rows (the history, say) as an "
    "argument."
)
_MEANS = "Means are computed over the rows of this call. Pass the means of the fitted rows as arguments."
_COMPARED = "Only rows of this call are compared. Pass the fitted rows as an argument."
_OF_ALL_ROWS = (_MEANS, _COMPARED)
"""Meanings of kernels in which rows have no order, so that no series is continued."""
_MEANINGS = (
    (
        "joint distribution",
        "The process begins at its prior, without the fitted rows. Condition on them in the kernel.",
    ),
    ("reduces over rows (`slice`)", _SELECTED),
    ("reduces over rows (`dynamic_slice`)", _SELECTED),
    ("reduces over rows (`gather`)", _SELECTED),
    ("looks up other rows", _SELECTED),
    ("selects, splits or extends its rows", _SELECTED),
    (
        "reduces over rows",
        _MEANS,
    ),
    ("counts the rows", _NUMBERS),
    ("numbers of the rows", _NUMBERS),
    ("makes an array that depends on the number of rows", _NUMBERS),
    ("computes with the number of rows", _COUNT),
    ("depends on the number of rows", _COUNT),
    ("compares rows", _COMPARED),
    ("scan", _STATE),
    ("moves values between rows", _STATE),
    ("loops over the rows", _STATE),
)
"""Part of a reason, and its meaning for new rows."""
