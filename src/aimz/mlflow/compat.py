"""Every name of MLflow's that is not part of its public interface, and nothing else.

MLflow has no public way to add a flavour's autologging.  What is used are the functions that all of its own flavours
use, which have been there under these names since MLflow 1.14.
"""

__all__ = ["autologging_integration", "get_autologging_config", "is_testing", "safe_patch"]

from mlflow.utils.autologging_utils import (
    autologging_integration,
    get_autologging_config,
    is_testing,
    safe_patch,
)
