"""Options of a fit, checked, and its number of epochs."""

__all__ = ["Epochs", "FitOptions", "read_options"]

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aimz.data import check_count, check_flag, read_output_dir
from aimz.inference import CYCLE, ROUNDS
from aimz.utils.data import ArrayLoader


@dataclass(frozen=True)
class FitOptions:
    """Options of a fit in minibatches, checked."""

    batch_size: int | None
    epochs: int | None
    shuffle: bool
    total_size: int | None
    progress: bool
    on_epoch_end: Callable[[int, float], Any] | None
    checkpoint_dir: Path | None

    @property
    def in_batches(self) -> bool:
        """Whether an option is given that a fit to all rows at once does not have."""
        given = self.batch_size, self.epochs, self.total_size, self.on_epoch_end, self.checkpoint_dir
        return any(option is not None for option in given)

    def repeated(self, X: Any, num_samples: int) -> dict[str, Any]:
        """Return the options with which a fit to rows in memory repeats a fit to ``X``."""
        found: dict[str, Any] = {"num_samples": num_samples, "shuffle": self.shuffle}
        found |= {"batch_size": self.batch_size, "epochs": self.epochs, "on_epoch_end": self.on_epoch_end}
        if isinstance(X, ArrayLoader):
            found |= {"batch_size": self.batch_size or X.batch_size, "shuffle": X.shuffle}
        return found


def read_options(
    *,
    batch_size: Any,
    epochs: Any,
    shuffle: Any,
    total_size: Any,
    progress: Any,
    on_epoch_end: Any,
    checkpoint_dir: Any,
) -> FitOptions:
    """Check the options of a fit.

    Raises
    ------
    TypeError, ValueError, OSError
        If an option has the wrong type or value, or the directory cannot be written.
    """
    if on_epoch_end is not None and not callable(on_epoch_end):
        msg = f"`on_epoch_end` must be a function of the epoch and its loss; got {on_epoch_end!r}. Pass one, or None."
        raise TypeError(msg)
    return FitOptions(
        batch_size=None if batch_size is None else check_count(batch_size, "batch_size"),
        epochs=None if epochs is None else check_count(epochs, "epochs"),
        shuffle=check_flag(shuffle, "shuffle"),
        total_size=None if total_size is None else check_count(total_size, "total_size", 2**63 - 1),
        progress=check_flag(progress, "progress"),
        on_epoch_end=on_epoch_end,
        checkpoint_dir=None if checkpoint_dir is None else read_output_dir(checkpoint_dir, "checkpoint_dir"),
    )


@dataclass(frozen=True)
class Epochs:
    """Number of epochs of a fit."""

    total: int
    per_round: int | None
    """Number of epochs of a round, after which the fit ends if it has settled."""
    cycle: int
    """Number of steps over which the learning rate of a chosen optimizer decays."""

    @staticmethod
    def of(epochs: int | None, steps: int, scale: float) -> "Epochs":
        """Return ``epochs``, or as many as rounds need; the more rows a batch represents, the longer a round is."""
        if epochs is not None:
            return Epochs(epochs, None, epochs * steps)
        per_round = -(-int(CYCLE * np.clip(np.sqrt(scale) / 2, 1, 20)) // steps)
        return Epochs(ROUNDS * per_round, per_round, per_round * steps)
