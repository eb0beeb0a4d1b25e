"""Methods for time series: forecasts, the effect of an event, and backtests."""

from aimz.timeseries.backtest import BacktestMethods
from aimz.timeseries.backtest_result import BacktestResult
from aimz.timeseries.forecasting import ForecastMethods
from aimz.timeseries.impact import ImpactMethods

__all__ = ["BacktestMethods", "BacktestResult", "ForecastMethods", "ImpactMethods"]
