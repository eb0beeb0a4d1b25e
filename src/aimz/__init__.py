"""Bayesian what-if analysis on NumPyro models.

:class:`ImpactModel` is the main class.  It takes a NumPyro model (a *kernel*), fits it with
:class:`numpyro.infer.SVI` or :class:`numpyro.infer.MCMC`, predicts, intervenes, and compares scenarios.
:mod:`aimz.primitives` has NumPyro's primitives and validates a model before any data are used; :mod:`aimz.plots` plots
the results; :mod:`aimz.mlflow` logs, stores and serves models in MLflow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import aimz._imports  # noqa: F401
from aimz._distribution import VERSION
from aimz.data import grid
from aimz.errors import (
    AimzWarning,
    CheckpointError,
    ClusterError,
    FitWarning,
    IncompleteResultError,
    KernelValidationError,
    NotFittedError,
    OutputWarning,
    PerformanceWarning,
    SavedModelError,
    StaleResultError,
    SupportWarning,
)
from aimz.kernel import as_in
from aimz.model import (
    AssuranceResult,
    BacktestResult,
    CheckResult,
    EffectResult,
    FalsificationResult,
    IdentificationResult,
    ImpactModel,
    PriorSensitivityResult,
    RehearsalResult,
)

if TYPE_CHECKING:
    from aimz import output, plots, store  # noqa: F401 (types of the modules that `__getattr__` imports)

__all__ = [
    "AimzWarning",
    "AssuranceResult",
    "BacktestResult",
    "CheckResult",
    "CheckpointError",
    "ClusterError",
    "EffectResult",
    "FalsificationResult",
    "FitWarning",
    "IdentificationResult",
    "ImpactModel",
    "IncompleteResultError",
    "KernelValidationError",
    "NotFittedError",
    "OutputWarning",
    "PerformanceWarning",
    "PriorSensitivityResult",
    "RehearsalResult",
    "SavedModelError",
    "StaleResultError",
    "SupportWarning",
    "__version__",
    "as_in",
    "describe_result",
    "grid",
    "in_words",
    "open_result",
    "share_mediated",
    "summary",
]

__version__ = VERSION


def __getattr__(name: str) -> Any:
    """Import modules on first access, if they import xarray or are rarely used."""
    if name in ("mlflow", "output", "plots", "primitives", "store"):
        return import_module(f"aimz.{name}")
    if name in ("describe_result", "in_words", "open_result", "share_mediated", "summary"):
        return getattr(import_module("aimz.output"), name)
    msg = f"module 'aimz' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    """Return the public names, and the modules that are imported on first access."""
    return sorted([*__all__, "mlflow", "plots", "primitives", "utils"])
