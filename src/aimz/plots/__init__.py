"""Plots of results, and the curves they show.

Every ``plot_*`` function returns a :class:`matplotlib.figure.Figure`, which a notebook displays and ``savefig`` writes.
It is not registered with ``pyplot``, so it does not need to be closed.  matplotlib and arviz-plots are imported on the
first access to one of these functions.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aimz.plots.uplift_curves import policy_value, qini_curve, uplift_curve

if TYPE_CHECKING:
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

_MODULES = {
    "plot_assurance": "rehearsal",
    "plot_calibration": "calibration",
    "plot_effect": "effect",
    "plot_groups": "groups",
    "plot_impact": "impact",
    "plot_loss": "loss",
    "plot_predictive": "predictive",
    "plot_rehearsal": "rehearsal",
    "plot_response": "response",
    "plot_sensitivity": "sensitivity",
    "plot_uplift": "uplift",
}
"""Module of each function that draws."""


def __getattr__(name: str) -> Any:
    """Import matplotlib, arviz-plots and the module of a plot on first access."""
    if name not in _MODULES:
        msg = f"module 'aimz.plots' has no attribute {name!r}"
        raise AttributeError(msg)
    try:
        for package in ("arviz_plots", "matplotlib"):
            import_module(package)
    except ImportError as error:
        msg = (
            f"`{name}` draws with matplotlib and arviz-plots, which are not installed. Call "
            "`pip install arviz-stats arviz-plots matplotlib`."
        )
        raise ImportError(msg) from error
    return getattr(import_module(f"aimz.plots.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
