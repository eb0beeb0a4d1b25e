"""Methods for time series: forecasts, the effect of an event, and backtests."""

from aimz.timeseries.forecasting import ForecastMethods
from aimz.timeseries.impact import ImpactMethods

__all__ = ["ForecastMethods", "ImpactMethods"]
