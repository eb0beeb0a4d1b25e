"""From draws to answers, in NumPy: statistics over draws, and averages over rows."""

from aimz.statistics.asked import Statistic, Statistics, read_interval, read_statistics
from aimz.statistics.groups import Groups, local_codes, read_groups, read_weights
from aimz.statistics.over_draws import over_draws

__all__ = [
    "Groups",
    "Statistic",
    "Statistics",
    "local_codes",
    "over_draws",
    "read_groups",
    "read_interval",
    "read_statistics",
    "read_weights",
]
