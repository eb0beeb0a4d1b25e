"""Methods of ``ImpactModel``, one class per task, and the results of ``check`` and ``effect``."""

from aimz.methods.base import LIVE_MODELS, ModelBase, ModelInputs, on_snapshot, optional_key
from aimz.methods.check_result import CheckResult
from aimz.methods.checking import CheckingMethods
from aimz.methods.counterfactuals import CounterfactualMethods
from aimz.methods.decisions import DecisionMethod
from aimz.methods.effect import EffectMethod
from aimz.methods.effect_result import EffectResult
from aimz.methods.fitted_rows import FittedRows
from aimz.methods.fitting import FittingMethods
from aimz.methods.mediation import MediationMethods
from aimz.methods.representation import ModelSummary, describe, description, html, summary
from aimz.methods.requests import RequestMethods
from aimz.methods.saving import ModelState, read_model, write_model
from aimz.methods.scoring import ScoringMethods

__all__ = [
    "LIVE_MODELS",
    "CheckResult",
    "CheckingMethods",
    "CounterfactualMethods",
    "DecisionMethod",
    "EffectMethod",
    "EffectResult",
    "FittedRows",
    "FittingMethods",
    "MediationMethods",
    "ModelBase",
    "ModelInputs",
    "ModelState",
    "ModelSummary",
    "RequestMethods",
    "ScoringMethods",
    "describe",
    "description",
    "html",
    "on_snapshot",
    "optional_key",
    "read_model",
    "summary",
    "write_model",
]
