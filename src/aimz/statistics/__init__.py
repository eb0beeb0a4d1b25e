"""Statistics over draws, PSIS-LOO, and groups of rows, in NumPy."""

from aimz.statistics.calibration import (
    MIN_SIMULATIONS,
    PlaceboNull,
    coverage_of,
    placebo_null,
    rank_of,
    shape_of_ranks,
    uniform_band,
    uniformity,
)
from aimz.statistics.decisions import Utility, allocate, choose, is_affine, search
from aimz.statistics.draws import (
    Reduction,
    Statistic,
    Statistics,
    read_ci,
    read_interval,
    read_statistics,
    reduce_rows,
)
from aimz.statistics.fit_support import FitSupport
from aimz.statistics.forecast_scores import crps, lagged_forecast
from aimz.statistics.groups import Groups, local_codes, read_groups, read_weights, with_axes
from aimz.statistics.independence import IndependenceTest, holm, independence_test
from aimz.statistics.loo import UNSEEN, LeaveOneOut
from aimz.statistics.missing_values import has_missing, missing_code, with_nan
from aimz.statistics.moments import DrawMoments
from aimz.statistics.overlap import Overlap, overlap_of
from aimz.statistics.perfect_choice import best_by_draw
from aimz.statistics.pit import Calibration
from aimz.statistics.predictive_checks import COVERAGE, PredictiveChecks
from aimz.statistics.row_moments import Moments
from aimz.statistics.row_support import (
    FAR_LEVERAGE,
    TOLERATED_SHARE,
    ColumnSupport,
    RowSupport,
    SupportCounts,
)
from aimz.statistics.sensitivity import (
    BenchmarkStrength,
    ConfoundingBias,
    ResidualSums,
    bounding_factor,
    e_value,
    inverse_products,
    partial_strengths,
    robustness_value,
    treatment_left,
)

__all__ = [
    "COVERAGE",
    "FAR_LEVERAGE",
    "MIN_SIMULATIONS",
    "TOLERATED_SHARE",
    "UNSEEN",
    "BenchmarkStrength",
    "Calibration",
    "ColumnSupport",
    "ConfoundingBias",
    "DrawMoments",
    "FitSupport",
    "Groups",
    "IndependenceTest",
    "LeaveOneOut",
    "Moments",
    "Overlap",
    "PlaceboNull",
    "PredictiveChecks",
    "Reduction",
    "ResidualSums",
    "RowSupport",
    "Statistic",
    "Statistics",
    "SupportCounts",
    "Utility",
    "allocate",
    "best_by_draw",
    "bounding_factor",
    "choose",
    "coverage_of",
    "crps",
    "e_value",
    "has_missing",
    "holm",
    "independence_test",
    "inverse_products",
    "is_affine",
    "lagged_forecast",
    "local_codes",
    "missing_code",
    "overlap_of",
    "partial_strengths",
    "placebo_null",
    "rank_of",
    "read_ci",
    "read_groups",
    "read_interval",
    "read_statistics",
    "read_weights",
    "reduce_rows",
    "robustness_value",
    "search",
    "shape_of_ranks",
    "treatment_left",
    "uniform_band",
    "uniformity",
    "with_axes",
    "with_nan",
]
