"""Methods for time series: forecasts, the effect of an event, and backtests."""

__all__ = ()
