"""Test whether the loss of a variational fit has settled."""

__all__ = ["warn_unless_settled"]

import numpy as np
from numpyro.optim import Minimize
from scipy.special import stdtrit

from aimz.errors import FitWarning, warn

_MIN_STEPS = 50
"""Least number of steps, over all fits of the model, for which the losses can be judged."""
_ERROR_RATE = 1e-4
"""Share of settled fits for which the test warns, for normal losses whose correlation decays within a few groups."""
_NATS = 2.0
"""Fall of the loss over the tested steps that is immaterial."""
_GROUPS, _MIN_GROUPS = 20, 6


def warn_unless_settled(losses: np.ndarray, option: str, *, optimizer: object, steps_per_epoch: int = 1) -> None:
    """Warn if the loss still falls at the end of a fit; ``option`` is the argument that sets the number of steps.

    The test regresses the ranks of the losses of the last fifth of all steps on time, in groups of steps or epochs.
    """
    if isinstance(optimizer, Minimize):  # each step is a whole optimization
        return
    window = losses[-max(len(losses) // 5, _MIN_STEPS) :]
    if not np.isfinite(window).all():
        return
    if len(losses) < _MIN_STEPS:
        found = f"after {len(losses)} step(s), too few for the loss to have settled"
    else:
        fall = _significant_fall(window.astype(np.float64), steps_per_epoch)
        if fall <= _NATS:
            return
        steps = f"{len(window)} of {len(losses)} steps"
        found = f"before its loss has settled: the loss fell by {fall:.3g} during the last {steps}"
    warn(
        f"The fit ended {found}. Expected a level loss, since the guide is not the posterior before. Call the method "
        f"again with more steps (`{option}`), which continues the fit, or start with a higher learning rate.",
        FitWarning,
    )


def _significant_fall(losses: np.ndarray, steps_per_epoch: int) -> float:
    """Return by how much the loss fell from the first to the second half; 0 if a settled fit may fall as much."""
    # The mean over an epoch is free of the noise of which rows are in a batch.
    if len(losses) // steps_per_epoch >= _MIN_GROUPS:
        losses = losses[len(losses) % steps_per_epoch :].reshape(-1, steps_per_epoch).mean(1)
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
    if slope > float(stdtrit(n - 2, _ERROR_RATE)) * error:
        return 0.0
    half = len(losses) // 2
    return float(losses[:half].mean() - losses[half:].mean())
