"""Names from MLflow that are not part of its public interface.

MLflow has no public way to add autologging for another flavor.  These functions are the ones that its own flavors use,
and have had the same names since MLflow 1.14.
"""

__all__ = ["autologging_integration", "get_autologging_config", "is_testing", "safe_patch"]

from mlflow.utils.autologging_utils import (
    autologging_integration,
    get_autologging_config,
    is_testing,
    safe_patch,
)
