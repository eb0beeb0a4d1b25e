"""From draws to answers, in NumPy: statistics over draws, and averages over rows."""

from aimz.statistics.asked import Statistic, Statistics, read_statistics
from aimz.statistics.over_draws import over_draws

__all__ = ["Statistic", "Statistics", "over_draws", "read_statistics"]
