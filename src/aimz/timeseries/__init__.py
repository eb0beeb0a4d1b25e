"""Methods for time series: forecasts, the effect of an event, and backtests."""

__all__: list[str] = []
