"""Refits of a model to other rows."""

__all__ = ["RefitMethods"]

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import jax

from aimz.inference import Fit
from aimz.methods import FittedRows, FittingMethods
from aimz.timeseries.forecasting import ForecastMethods

if TYPE_CHECKING:
    from aimz.timeseries.rows import Rows


class RefitMethods(FittingMethods, ForecastMethods):
    """Refits of a model, which itself does not change."""

    def _refitted(self, refit: Fit, rows: "Rows", key: jax.Array, options: Mapping[str, Any] | None) -> Self:
        """Return a copy of the model that is fitted to other rows; copies of ``refit`` share compiled programs."""
        model = copy.copy(self)
        engine = self._engine.for_fit(restart=True)
        vars(model).update(_engine=engine, _fit=refit.copy(), _posterior=None, _observed=None, _rows=FittedRows())
        return model.fit(rows.X, rows.y, args=rows.arguments, **{"rng_key": key, "progress": False, **(options or {})})
