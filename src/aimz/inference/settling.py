"""Test whether the loss of a variational fit has settled."""

__all__ = ["warn_unless_settled"]

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


def warn_unless_settled(losses: np.ndarray, option: str, *, optimizer: object, steps_per_epoch: int = 1) -> None:
    """Warn if the loss still falls at the end of a fit; ``option`` is the argument that sets the number of steps.

    The test regresses the ranks of the losses of the last fifth of all steps on time, in groups of steps or epochs. If
    these are too noisy, it also uses the last third.
    """
    if isinstance(optimizer, Minimize):  # each step is a whole optimization
        return
    window, longer = (losses[-max(len(losses) // part, _MIN_STEPS) :].astype(np.float64) for part in (5, 3))
    if not np.isfinite(longer).all():
        return
    if len(losses) < _MIN_STEPS:
        found = f"after {len(losses)} step(s), too few for the loss to have settled"
    else:
        window, longer = (_epoch_means(part, steps_per_epoch) for part in (window, longer))
        half = len(window) // 2
        fall, chance = float(window[:half].mean() - window[half:].mean()), _chance(window)
        noisy = chance < _ERROR_RATE_AT_END and _chance(longer) < _ERROR_RATE
        if fall <= _NATS or not (chance < _ERROR_RATE or noisy):
            return
        steps = f"{max(len(losses) // 5, _MIN_STEPS)} of {len(losses)} steps"
        found = f"before its loss has settled: the loss fell by {fall:.3g} during the last {steps}"
    warn(
        f"The fit ended {found}. Expected a level loss, since the guide is not the posterior before. Call the method "
        f"again with more steps (`{option}`), which continues the fit, or start with a higher learning rate.",
        FitWarning,
    )


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
