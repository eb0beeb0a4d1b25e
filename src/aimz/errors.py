"""Public exceptions, each of which is also the builtin exception that fits, and the categories of warnings."""

__all__ = [
    "AimzWarning",
    "CheckpointError",
    "ClusterError",
    "FitWarning",
    "IncompleteResultError",
    "KernelValidationError",
    "NotFittedError",
    "OutputWarning",
    "PerformanceWarning",
    "SavedModelError",
    "StaleResultError",
    "SupportWarning",
]

import sys
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

_HERE = str(Path(__file__).parent)
_ONCE = "default", "module", "once"
"""Actions of filters that do not repeat a warning."""


class KernelValidationError(ValueError):
    """The kernel is not supported as written; the message explains what to change."""


class NotFittedError(ValueError, AttributeError):
    """A method was called that needs a posterior, before there is one.

    Both a :class:`ValueError` and an :class:`AttributeError`, like scikit-learn's exception of the same name.
    """


class CheckpointError(ValueError):
    """A checkpoint is damaged, or belongs to another fit than the one to be resumed."""


class ClusterError(RuntimeError):
    """A worker or another process cannot compute rows: its versions, kernel, directory or data differ."""


class SavedModelError(ValueError):
    """A saved model is damaged, has a newer format, or was saved with another kernel, guide or optimizer."""


class IncompleteResultError(OSError):
    """A stored result is incomplete: its call did not finish, or a file is missing, truncated or altered."""


class StaleResultError(FileNotFoundError):
    """A stored result no longer exists: its directory was removed, for example by ``cleanup``."""


class AimzWarning(UserWarning):
    """Base class of all warnings of this package."""


class FitWarning(AimzWarning, RuntimeWarning):
    """A fit did not settle, ignored an option, or has no posterior draws for some sites."""


class OutputWarning(AimzWarning):
    """A result may mean something else than expected; the message names the assumption behind its numbers."""


class PerformanceWarning(AimzWarning):
    """A call needs more time or memory than it would with another kernel or another way to run it."""


class SupportWarning(AimzWarning):
    """An answer is about rows that are outside of the data of the fit, so that it rests on the form of the kernel."""


def warn(message: str, category: type[AimzWarning]) -> None:
    """Issue a warning that points to the line of the user's code.

    A method of a model issues the same warning once until the model gets another posterior, unless filters of the user
    require each warning, or an error.
    """
    issued: set[Any] | None = None
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_HERE):
        issued = getattr(frame.f_locals.get("self"), "_issued_warnings", issued)
        frame = frame.f_back
    if issued is None or frame is None or not _is_shown_once(message, category, frame):
        warnings.warn(message, category, skip_file_prefixes=(_HERE,))
    elif (message, category) not in issued:
        issued.add((message, category))
        # Without a registry, since the same line may call another model.
        place = frame.f_code.co_filename, frame.f_lineno, frame.f_globals.get("__name__")
        warnings.warn_explicit(message, category, *place)


def _is_shown_once(message: str, category: type[Warning], frame: FrameType) -> bool:
    """Return whether the filter of a warning shows it once, as the default does."""
    module = str(frame.f_globals.get("__name__"))
    for action, text, kind, where, line in warnings.filters:
        if (
            issubclass(category, kind)
            and line in (0, frame.f_lineno)
            and (text is None or text == message or (not isinstance(text, str) and text.match(message)))
            and (where is None or where == module or (not isinstance(where, str) and where.match(module)))
        ):
            return action in _ONCE
    return True
