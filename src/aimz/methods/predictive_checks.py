"""Comparison of observed values with draws of their prediction."""

__all__ = ["compare_with_predictions"]

from collections.abc import Iterator

import numpy as np

from aimz.methods.check_result import Finding

_TAIL = 0.005
"""Share of predicted data sets beyond the observed value, on either side, below which the model is rejected."""
_COVERAGE = 0.9
_ERRORS = 4.0
"""Number of standard errors that a coverage may differ from its level."""
_ADVICE = {
    "mean": "the predicted mean is off: check the link, the intercept and the priors",
    "sd": "the spread of the data differs: let the scale be estimated, or choose a distribution with another variance",
    "zeros": "the share of zeros differs: choose a zero-inflated or hurdle distribution",
    "smallest": "the smallest value is unusual: check the row, or choose a distribution with other tails",
    "largest": "the largest value is unusual: check the row, or choose a distribution with heavier tails",
    "coverage": "intervals of single rows are too narrow or too wide: model the noise of rows",
}


def compare_with_predictions(observed: np.ndarray, drawn: np.ndarray) -> list[Finding]:
    """Return posterior predictive checks of ``observed``, given draws of shape ``(n_draws, *observed.shape)``.

    The value of each statistic is the share of predicted data sets whose statistic is at least the observed one; ties
    count half. It is near 0 or 1 if the model does not predict the statistic.
    """
    kept = np.isfinite(observed)
    observed, drawn = observed[kept].astype(np.float64), drawn[:, kept].astype(np.float64)
    findings = []
    for name, of_data, of_draws in _statistics(observed, drawn):
        share = float((of_draws > of_data).mean() + 0.5 * (of_draws == of_data).mean())
        bad = not _TAIL <= share <= 1 - _TAIL
        findings.append(
            Finding("data", f"{name}: P(predicted > observed)", share, f"{_TAIL}-{1 - _TAIL}", *_verdict(name, bad=bad))
        )
    low, high = np.quantile(drawn, [(1 - _COVERAGE) / 2, (1 + _COVERAGE) / 2], axis=0)
    coverage = float(((low <= observed) & (observed <= high)).mean())
    error = _ERRORS * np.sqrt(_COVERAGE * (1 - _COVERAGE) / len(observed))
    # Intervals of discrete values contain more than their level.
    lowest, highest = max(_COVERAGE - 0.03 - error, 0.0), min(_COVERAGE + 0.03 + error, 1.0)
    discrete = bool((drawn == np.round(drawn)).all())
    bad = coverage < lowest or (coverage > highest and not discrete)
    expected = f"{lowest:.2f}-{1.0 if discrete else highest:.2f}"
    findings.append(Finding("data", "coverage of 90 % intervals", coverage, expected, *_verdict("coverage", bad=bad)))
    return findings


def _statistics(observed: np.ndarray, drawn: np.ndarray) -> Iterator[tuple[str, float, np.ndarray]]:
    """Yield the name, the observed value and the predicted values of each statistic."""
    yield "mean", observed.mean(), drawn.mean(1)
    if len(observed) > 1 and (np.ptp(observed) or np.ptp(drawn)):
        yield "sd", observed.std(), drawn.std(1)
    if 0.0 < ((drawn == 0.0).mean() + (observed == 0.0).mean()) / 2 < 1.0:
        yield "zeros", (observed == 0.0).mean(), (drawn == 0.0).mean(1)
    yield "smallest", observed.min(), drawn.min(1)
    yield "largest", observed.max(), drawn.max(1)


def _verdict(name: str, *, bad: bool) -> tuple[str, str]:
    """Return the verdict and the advice of a check."""
    return ("bad", _ADVICE[name]) if bad else ("ok", "")
