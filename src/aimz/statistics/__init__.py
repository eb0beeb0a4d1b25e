"""From draws to answers, in NumPy: statistics over draws, and averages over rows."""

from aimz.statistics.asked import read_interval, read_statistics
from aimz.statistics.draws import Reduction, Statistic, Statistics
from aimz.statistics.groups import Groups, local_codes, read_groups, read_weights
from aimz.statistics.loo import LeaveOneOut
from aimz.statistics.threads import reduce_rows

__all__ = [
    "Groups",
    "LeaveOneOut",
    "Reduction",
    "Statistic",
    "Statistics",
    "local_codes",
    "read_groups",
    "read_interval",
    "read_statistics",
    "read_weights",
    "reduce_rows",
]
