"""Test whether the loss of a variational fit has settled."""

__all__ = ["ROUNDS", "Judgement", "Moments", "Rounds", "judge_losses", "warn_at_limit"]

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpyro.optim import Minimize
from scipy.special import stdtr

from aimz.errors import FitWarning, warn

_MIN_STEPS = 50
"""Least number of steps, over all fits of the model, for which the losses can be judged."""
_ERROR_RATE = 1e-4
"""Share of settled fits for which the test warns, for normal losses whose correlation decays within a few groups."""
_ERROR_RATE_AT_END = 0.025
"""Same for the last fifth of the steps, of fits whose loss has certainly fallen during the last third."""
_NATS = 2.0
"""Fall of the loss over the tested steps that is immaterial."""
_GROUPS, _MIN_GROUPS = 20, 6
_MAX_MOVE, _MAX_RATIO = 0.15, 1.15
"""Largest move of a mean, in standard deviations, and largest ratio of standard deviations, between settled rounds."""
_MAX_FALL = 0.5
"""Fall of the loss between rounds that is immaterial."""


ROUNDS = 20
"""Largest number of rounds of a fit that ends when it has settled."""


type Moments = tuple[np.ndarray, np.ndarray]
"""Means and standard deviations of a guide."""


class Rounds:
    """Rounds of a fit that ends when it has settled, after ``ROUNDS`` rounds at the latest.

    Parameters
    ----------
    steps
        Number of steps of a round.
    moments
        Function of a state that returns the moments of the guide, which are compared between rounds; None to judge the
        losses only.
    losses
        Losses of the rounds that have ended.
    """

    def __init__(
        self, steps: int, moments: Callable[[Any], Moments] | None, losses: np.ndarray, *, optimizer: object
    ) -> None:
        self.steps = steps
        self.settled = False
        self._find_moments = moments
        self._moments: Moments | None = None
        self._losses = losses
        self._optimizer = optimizer

    @property
    def limit(self) -> int:
        """Largest number of steps."""
        return ROUNDS * self.steps

    def end(self, losses: np.ndarray, state: Any) -> bool:
        """Add the losses of some steps, which led to ``state``; return whether the fit ends."""
        before = len(self._losses) // self.steps
        self._losses = np.concatenate([self._losses, losses])
        number = len(self._losses) // self.steps
        if number == before:
            return False
        if self._find_moments is None:
            self.settled = judge_losses(self._losses, optimizer=self._optimizer).settled
        else:
            earlier, self._moments = self._moments, self._find_moments(state)
            self.settled = earlier is not None and self._is_level() and _agree(earlier, self._moments)
        return self.settled or number >= ROUNDS

    def _is_level(self) -> bool:
        """Return whether the loss at the end of a round is not below that at the end of the one before."""
        ends = self._losses, self._losses[: -self.steps]
        last, earlier = (part[-max(self.steps // 5, 1) :].astype(np.float64) for part in ends)
        # Losses of neighboring steps are correlated.
        error = np.hypot(last.std(), earlier.std()) / np.sqrt(max(len(last) / 5, 1))
        return bool(earlier.mean() - last.mean() < max(_MAX_FALL, 4 * error))


def _agree(before: Moments, after: Moments) -> bool:
    """Return whether the moments of a guide are about the same."""
    (mean, sd), (new_mean, new_sd) = before, after
    moved, ratio = np.abs(new_mean - mean) / new_sd, np.abs(np.log(new_sd / sd))
    return bool((moved < _MAX_MOVE).all() and (ratio < np.log(_MAX_RATIO)).all())


@dataclass(frozen=True)
class Judgement:
    """Whether the losses of a fit are level at its end."""

    settled: bool
    found: str = ""
    """Description of losses that are not level."""

    def warn(self, option: str) -> None:
        """Warn if the losses are not level; ``option`` is the argument that sets the number of steps."""
        if not self.settled:
            warn(
                f"The draws are not from the posterior yet: the fit ended {self.found}. Expected a level loss. "
                f"Call the method again with more steps (`{option}`), which continues the fit, or start with a higher "
                "learning rate.",
                FitWarning,
            )


def warn_at_limit(steps: int) -> None:
    """Warn that a fit reached its largest number of rounds before it settled."""
    warn(
        f"The posterior is not reliable: the fit did not settle in {steps:,} steps. Call `fit` again to "
        "continue, let the learning rate of your optimizer decay, or pass `inference='nuts'` to a new model.",
        FitWarning,
    )


def judge_losses(losses: np.ndarray, *, optimizer: object, steps_per_epoch: int = 1) -> Judgement:
    """Return whether the loss still falls at the end of a fit.

    The test regresses the ranks of the losses of the last fifth of all steps on time, in groups of steps or epochs. If
    these are too noisy, it also uses the last third.
    """
    if isinstance(optimizer, Minimize):  # each step is a whole optimization
        return Judgement(settled=True)
    window, longer = (losses[-max(len(losses) // part, _MIN_STEPS) :].astype(np.float64) for part in (5, 3))
    if not np.isfinite(longer).all():
        return Judgement(settled=True)  # a warning about the step was issued
    if len(losses) < _MIN_STEPS:
        return Judgement(settled=False, found=f"after {len(losses)} step(s), too few for the loss to have settled")
    window, longer = (_epoch_means(part, steps_per_epoch) for part in (window, longer))
    half = len(window) // 2
    fall, chance = float(window[:half].mean() - window[half:].mean()), _chance(window)
    noisy = chance < _ERROR_RATE_AT_END and _chance(longer) < _ERROR_RATE
    if fall <= _NATS or not (chance < _ERROR_RATE or noisy):
        return Judgement(settled=True)
    steps = f"{max(len(losses) // 5, _MIN_STEPS)} of {len(losses)} steps"
    found = f"before its loss has settled: the loss fell by {fall:.3g} during the last {steps}"
    return Judgement(settled=False, found=found)


def _epoch_means(losses: np.ndarray, steps_per_epoch: int) -> np.ndarray:
    """Average the losses of each epoch, which removes the noise of which rows are in a batch, if there are enough."""
    if len(losses) // steps_per_epoch < _MIN_GROUPS:
        return losses
    return losses[len(losses) % steps_per_epoch :].reshape(-1, steps_per_epoch).mean(1)


def _chance(losses: np.ndarray) -> float:
    """Return the probability that settled losses fall as much."""
    size = max(1, len(losses) // _GROUPS, min(5, len(losses) // 10))
    # Losses far from the optimum have heavy tails, and ranks have none.
    ranks = np.argsort(np.argsort(losses))[len(losses) % size :].reshape(-1, size).mean(1)
    n = len(ranks)
    time = np.arange(n) - (n - 1) / 2
    slope = time @ ranks / (time @ time)
    residual = ranks - ranks.mean() - slope * time
    squares = residual @ residual
    lag = float(np.clip(residual[1:] @ residual[:-1] / squares, 0.0, 0.9)) if squares else 0.0
    error = np.sqrt(squares / (n - 2) / (time @ time) * (1 + lag) / (1 - lag))
    return float(stdtr(n - 2, slope / error)) if error else float(slope > 0)
