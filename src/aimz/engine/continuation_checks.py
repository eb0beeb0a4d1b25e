"""Checks of a forecast before it is computed: it runs over all steps, and later steps do not change fitted ones."""

__all__ = ["check_continued"]

import numpy as np

from aimz.data import RowReader
from aimz.engine.kernel_engine import KernelEngine
from aimz.engine.layout import InputLayout
from aimz.engine.prepared_call import PreparedCall
from aimz.errors import KernelValidationError
from aimz.forward import changed_by_later_steps

_SERIES = 4
"""Number of series that are computed."""


def check_continued(engine: KernelEngine, prepared: PreparedCall) -> None:
    """Trace a forecast over the fitted and the later steps, and check that the fitted steps keep their values.

    Raises
    ------
    KernelValidationError
        If a site cannot be continued, or has other values in the fitted steps if later steps follow.
    """
    layout, kernel = InputLayout.of(prepared), engine.signature.kernel
    try:
        step = engine.programs.step("predictive", prepared.plan, layout.one_pass())
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


def _changed_site(engine: KernelEngine, prepared: PreparedCall, layout: InputLayout) -> str | None:
    """Return a site that later steps change, in the first draw and the first series."""
    history = prepared.plan.history
    assert history is not None
    rows = min(_SERIES, prepared.call.n_obs) if history.axis else prepared.call.n_obs

    def read(reader: RowReader) -> np.ndarray:
        return reader.read(0, rows) if history.axis else np.asarray(reader)

    first = {name: np.asarray(value[0]) for name, value in layout.draws.items()}
    for name in layout.row_draws:
        first[name] = np.take(np.asarray(prepared.draws[name][0]), np.arange(rows), layout.row_axes[name])
    values = {**layout.values, **{name: read(reader) for name, reader in layout.row_values.items()}}
    arrays = {**layout.arrays, **{name: read(reader) for name, reader in layout.row_arrays.items()}}
    return changed_by_later_steps(engine.kernel, prepared.plan.for_rows(rows), first, values, arrays)
