"""Exceptions a user may catch; each is also the builtin that fits."""

__all__ = [
    "CheckpointError",
    "ClusterError",
    "IncompleteResultError",
    "KernelValidationError",
    "NotFittedError",
    "SavedModelError",
    "StaleResultError",
]

import warnings
from pathlib import Path

_HERE = str(Path(__file__).parent)


class KernelValidationError(ValueError):
    """The kernel cannot be used as it is written; the text says what to change."""


class NotFittedError(ValueError, AttributeError):
    """A method needs a posterior, and there is none yet.

    Both a :class:`ValueError` and an :class:`AttributeError`, as scikit-learn's exception of that name is.
    """


class CheckpointError(ValueError):
    """A checkpoint is of another fit than the one that wants to go on from it, or damaged."""


class ClusterError(RuntimeError):
    """A worker, or another process, cannot take part: other versions, no kernel, another place, other data."""


class SavedModelError(ValueError):
    """A saved model is damaged, of a newer format, or of another kernel, guide or optimizer than those at hand."""


class IncompleteResultError(OSError):
    """A stored result is not whole: never finished, or a file of it is missing, truncated or altered."""


class StaleResultError(FileNotFoundError):
    """A stored result is gone: its directory was removed, by ``cleanup`` for one."""


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's that called us, however deep we are."""
    warnings.warn(message, category, skip_file_prefixes=(_HERE,))
