"""Pictures of results, and the numbers behind them.

Every ``plot_*`` function returns a :class:`matplotlib.figure.Figure`, which a notebook shows and ``savefig`` writes.
It is not known to ``pyplot``, so nothing has to be closed.  matplotlib and arviz-plots are imported when a picture is
drawn.
"""

from aimz.plots.effect import plot_effect
from aimz.plots.groups import plot_groups
from aimz.plots.loss import plot_loss
from aimz.plots.predictive import plot_predictive
from aimz.plots.uplift import plot_uplift
from aimz.plots.uplift_curves import policy_value, qini_curve, uplift_curve

__all__ = [
    "plot_effect",
    "plot_groups",
    "plot_loss",
    "plot_predictive",
    "plot_uplift",
    "policy_value",
    "qini_curve",
    "uplift_curve",
]
