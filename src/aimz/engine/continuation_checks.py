"""Checks of a forecast before it is computed: it runs over all steps, and later steps do not change fitted ones."""

__all__ = ["check_continued", "read_needed_steps"]

from dataclasses import replace

import jax
import numpy as np

from aimz.data import open_rows
from aimz.engine.kernel_engine import KernelEngine
from aimz.engine.known_steps import FittedSteps
from aimz.engine.layout import InputLayout
from aimz.engine.prepared_call import PreparedCall
from aimz.errors import KernelValidationError
from aimz.forward import PassSpec, TracedStep, changed_by_later_steps, n_needed_steps

_SERIES = 4
"""Number of series that are computed."""
_FEW_VALUES = 2**22
"""Number of fitted steps of all series and draws up to which a forecast runs over all of them."""


def check_continued(engine: KernelEngine, prepared: PreparedCall) -> None:
    """Trace a forecast over the fitted and the later steps, and check that the fitted steps keep their values.

    Raises
    ------
    KernelValidationError
        If a site cannot be continued, or has other values in the fitted steps if later steps follow.
    """
    layout, kernel = InputLayout.of(prepared), engine.signature.kernel
    try:
        step = _step(engine, prepared, layout)
    except KernelValidationError:
        raise
    except Exception as error:
        error.add_note(f"This was raised by kernel `{kernel}` in a run over the fitted and the later steps together.")
        raise
    site = engine.programs.changed_sites.get(step, lambda: _changed_site(engine, prepared, layout))
    if site is not None:
        msg = (
            f"Site `{site}` of kernel `{kernel}` has other values in the fitted steps if later steps follow, so that a "
            "forecast would not continue what was fitted. The kernel uses the number of steps, an average over them, "
            "or later steps. Pass such a number, or the time of each step, as an argument."
        )
        raise KernelValidationError(msg)


def read_needed_steps(engine: KernelEngine, prepared: PreparedCall) -> FittedSteps:
    """Return the last fitted steps of the series of a forecast, as far as later steps depend on them.

    Long series of which only the last state matters then take the time and the memory of the later steps.
    """
    fitted, history = prepared.settings.fitted_steps, prepared.plan.history
    assert fitted is not None
    assert history is not None
    if prepared.plan.n_draws * prepared.call.n_obs * fitted.n_steps <= _FEW_VALUES:
        return fitted  # the test would take longer
    layout = InputLayout.of(prepared)
    step = _step(engine, prepared, layout)

    def needed() -> int:
        numbers = {0, prepared.plan.n_draws // 2, prepared.plan.n_draws - 1}
        plan, values, arrays = _first_series(prepared, layout)
        draws = [_one_draw(prepared, layout, number) for number in numbers]
        return n_needed_steps(engine.kernel, plan, draws, values, arrays)

    skipped = fitted.n_steps - engine.programs.needed_steps.get(step, needed)
    if not skipped:
        return fitted
    names = {*history.arguments, engine.signature.param_output} & fitted.call.arrays.keys()
    last = {name: open_rows(fitted.call.arrays[name]).apply(lambda rows: rows[:, skipped:]) for name in names}
    call = replace(fitted.call, arrays={**fitted.call.arrays, **last})
    return FittedSteps(fitted.axis, fitted.n_steps - skipped, call, skipped)


def _step(engine: KernelEngine, prepared: PreparedCall, layout: InputLayout) -> TracedStep:
    """Return the traced pass over the first series, which is the same for any number of series."""
    plan, values, arrays = _first_series(prepared, layout)
    inputs = jax.eval_shape(lambda *given: given, _one_draw(prepared, layout, 0), values, arrays, None)
    return engine.programs.step("predictive", plan, inputs)


def _changed_site(engine: KernelEngine, prepared: PreparedCall, layout: InputLayout) -> str | None:
    """Return a site that later steps change, in the first draw and the first series."""
    plan, values, arrays = _first_series(prepared, layout)
    return changed_by_later_steps(engine.kernel, plan, _one_draw(prepared, layout, 0), values, arrays)


def _first_series(
    prepared: PreparedCall, layout: InputLayout
) -> tuple[PassSpec, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the pass, the values and the arguments of the first series; of all rows if they are the steps."""
    n_rows = _n_rows(prepared)
    values = {**layout.values, **{name: reader.read(0, n_rows) for name, reader in layout.row_values.items()}}
    arrays = {**layout.arrays, **{name: reader.read(0, n_rows) for name, reader in layout.row_arrays.items()}}
    return prepared.plan.for_rows(n_rows), values, arrays


def _one_draw(prepared: PreparedCall, layout: InputLayout, number: int) -> dict[str, np.ndarray]:
    """Return the values of one draw in the first series."""
    found = {name: np.asarray(value[number]) for name, value in layout.draws.items()}
    rows = np.arange(_n_rows(prepared))
    for name in layout.row_draws:
        found[name] = np.take(np.asarray(prepared.draws[name][number]), rows, layout.row_axes[name])
    return found


def _n_rows(prepared: PreparedCall) -> int:
    """Return the number of rows of a check."""
    history = prepared.plan.history
    assert history is not None
    return min(_SERIES, prepared.call.n_obs) if history.axis else prepared.call.n_obs
