"""Models in MLflow: saved, logged, loaded, served, and fits that are logged by themselves.

Needs the extra ``mlflow``.
"""

import warnings

try:
    with warnings.catch_warnings(action="ignore"):  # of MLflow about itself, while it is imported
        import mlflow.data
        import mlflow.pyfunc  # noqa: F401
except ImportError as error:
    _msg = (
        f"`aimz.mlflow` needs MLflow, which is not installed ({error}). It is an extra of its own: "
        "`pip install 'aimz[mlflow]'`."
    )
    raise ImportError(_msg) from error

from aimz.mlflow.autolog import autolog
from aimz.mlflow.flavor import _load_pyfunc as _load_pyfunc  # MLflow asks for it
from aimz.mlflow.flavor import load_model, log_model, save_model
from aimz.mlflow.requirements import get_default_conda_env, get_default_pip_requirements

__all__ = [
    "autolog",
    "get_default_conda_env",
    "get_default_pip_requirements",
    "load_model",
    "log_model",
    "save_model",
]
