"""Plots of results, and the curves they show.

Every ``plot_*`` function returns a :class:`matplotlib.figure.Figure`, which a notebook displays and ``savefig`` writes.
It is not registered with ``pyplot``, so it does not need to be closed.  matplotlib and arviz-plots are imported when a
plot is drawn.
"""

from aimz.plots.calibration import plot_calibration
from aimz.plots.effect import plot_effect
from aimz.plots.groups import plot_groups
from aimz.plots.impact import plot_impact
from aimz.plots.loss import plot_loss
from aimz.plots.predictive import plot_predictive
from aimz.plots.rehearsal import plot_assurance, plot_rehearsal
from aimz.plots.response import plot_response
from aimz.plots.sensitivity import plot_sensitivity
from aimz.plots.uplift import plot_uplift
from aimz.plots.uplift_curves import policy_value, qini_curve, uplift_curve

__all__ = [
    "plot_assurance",
    "plot_calibration",
    "plot_effect",
    "plot_groups",
    "plot_impact",
    "plot_loss",
    "plot_predictive",
    "plot_rehearsal",
    "plot_response",
    "plot_sensitivity",
    "plot_uplift",
    "policy_value",
    "qini_curve",
    "uplift_curve",
]
