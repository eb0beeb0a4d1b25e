"""Statistics over draws, PSIS-LOO, and groups of rows, in NumPy."""

from aimz.statistics.draws import Reduction, Statistic, Statistics, read_interval, read_statistics, reduce_rows
from aimz.statistics.groups import Groups, local_codes, read_groups, read_weights
from aimz.statistics.loo import UNSEEN, LeaveOneOut

__all__ = [
    "UNSEEN",
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
