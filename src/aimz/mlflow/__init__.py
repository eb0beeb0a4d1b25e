"""MLflow flavor: log, save, load and serve models, and log fits automatically.

Needs the extra ``mlflow``.
"""

import importlib
import warnings

try:
    with warnings.catch_warnings(action="ignore"):  # MLflow's own, on first import
        for _module in ("mlflow.data", "mlflow.pyfunc", "cloudpickle"):
            importlib.import_module(_module)
except ImportError as error:
    _msg = f"`aimz.mlflow` needs MLflow, which is not installed ({error}). Call `pip install mlflow cloudpickle`."
    raise ImportError(_msg) from error

from aimz.mlflow.autolog import autolog
from aimz.mlflow.flavor import _load_pyfunc as _load_pyfunc  # loader of the pyfunc flavor
from aimz.mlflow.flavor import load_model, log_model, save_model
from aimz.mlflow.requirements import get_default_conda_env, get_default_pip_requirements
from aimz.mlflow.run_logging import log_report

__all__ = [
    "autolog",
    "get_default_conda_env",
    "get_default_pip_requirements",
    "load_model",
    "log_model",
    "log_report",
    "save_model",
]
