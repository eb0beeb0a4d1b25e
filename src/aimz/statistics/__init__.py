"""Statistics over draws, PSIS-LOO, and groups of rows, in NumPy."""

from aimz.statistics.draws import (
    Reduction,
    Statistic,
    Statistics,
    read_ci,
    read_interval,
    read_statistics,
    reduce_rows,
)
from aimz.statistics.groups import Groups, local_codes, read_groups, read_weights, with_axes
from aimz.statistics.loo import UNSEEN, LeaveOneOut
from aimz.statistics.missing_values import has_missing, missing_code, with_nan

__all__ = [
    "UNSEEN",
    "Groups",
    "LeaveOneOut",
    "Reduction",
    "Statistic",
    "Statistics",
    "has_missing",
    "local_codes",
    "missing_code",
    "read_ci",
    "read_groups",
    "read_interval",
    "read_statistics",
    "read_weights",
    "reduce_rows",
    "with_axes",
    "with_nan",
]
