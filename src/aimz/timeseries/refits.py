"""Refits of a model to other rows."""

__all__ = ["RefitMethods"]

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import jax

from aimz.inference import PosteriorOnly, make_fit
from aimz.methods import FittingMethods, ModelState
from aimz.timeseries.forecasting import ForecastMethods

if TYPE_CHECKING:
    from aimz.timeseries.rows import Rows


class RefitMethods(FittingMethods, ForecastMethods):
    """Refits of a model, which itself does not change."""

    def _refitted(self, rows: "Rows", key: jax.Array, options: Mapping[str, Any] | None, *, method: str) -> Self:
        """Return a new model with the same kernel and inference, fitted to other rows.

        Raises
        ------
        NotFittedError
            If the model has no inference object.
        """
        fit, engine = self._fit, self._engine
        if isinstance(fit, PosteriorOnly):
            fit.require_inference(f"`{method}`, which fits the kernel to other rows,")
        inference = fit.choice.requested if fit.choice is not None else fit.inference or getattr(fit, "requested", None)
        state = ModelState(
            key, engine.for_fit(restart=True), make_fit(engine.kernel, inference, None), self._results, None, None
        )
        model = object.__new__(type(self))
        model._set_state(state)
        restore = fit.restorer()
        try:
            model.fit(rows.X, rows.y, args=rows.arguments, **{"progress": False, **(options or {})})
        finally:
            restore()
        return model
