"""Verdicts of predictive checks, in words."""

__all__ = ["data_findings", "statistic_lines"]

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np

from aimz.methods.check_result import Finding
from aimz.methods.predictive_checks import CheckedRows
from aimz.statistics import COVERAGE, Groups

_TAIL = 0.005
"""Share of predicted data sets beyond the observed value, on either side, below which the model is rejected."""
_ERRORS = 4.0
"""Number of standard errors that a coverage may differ from its level."""
_SHOWN = 3
_UNRELIABLE = 0.05
"""Share of rows with unreliable weights above which the calibration is not reliable."""
_ADVICE = {
    "mean": "the predicted mean is off: check the link, the intercept and the priors",
    "sd": "the spread of the data differs: let the scale be estimated, or choose a distribution with another variance",
    "zeros": "the share of zeros differs: choose a zero-inflated or hurdle distribution",
    "smallest": "the smallest value is unusual: check the row, or choose a distribution with other tails",
    "largest": "the largest value is unusual: check the row, or choose a distribution with heavier tails",
    "coverage": "intervals of single rows are too narrow or too wide: model the noise of rows",
    "pit": "predictions of single rows are not calibrated: see `plot`, and choose another distribution or its scale",
    "reliability": "predicted probabilities differ from observed shares: see `plot`; check the link and interactions",
}


def statistic_lines(found: CheckedRows) -> list[dict[str, Any]]:
    """Return a line for each statistic and group.

    A line has the labels of the group, the observed value, the mean and the 5 % and 95 % quantiles of predicted values,
    ``p``, the share of predicted values above the observed one (ties count half), and a verdict.
    """
    lines = []
    cells = _label_cells(found.groups)
    has_values = found.checks.observed.count[:, 0] > 0
    tail = max(_TAIL / max(1, int(has_values.sum())), 0.5 / found.checks.n_draws)
    for name, observed, predicted in _statistics(found):
        for cell, labels in enumerate(cells):
            if not has_values[cell]:
                continue
            drawn, value = predicted[cell], float(observed[cell])
            share = float((drawn > value).mean() + 0.5 * (drawn == value).mean())
            share = np.nan if np.isnan(drawn).any() or np.isnan(value) else share
            low, high = np.quantile(drawn, [0.05, 0.95])
            lines.append(
                {
                    "statistic": name,
                    **labels,
                    "observed": value,
                    "predicted": float(drawn.mean()),
                    "low": float(low),
                    "high": float(high),
                    "p": share,
                    "expected": f"{tail:.4g}-{1 - tail:.6g}",
                    "verdict": "ok" if tail <= share <= 1 - tail else "bad",
                }
            )
    return lines


def _label_cells(groups: Groups) -> list[dict[str, Any]]:
    """Return the labels of each group by dimension."""
    cells = product(*groups.labels.values())
    return [dict(zip(groups.labels, labels, strict=True)) for labels in cells]


def _statistics(found: CheckedRows) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the name, the observed values ``(n_groups,)`` and the predicted values ``(n_groups, n_draws)``."""
    observed, drawn = found.checks.observed, found.checks.drawn
    own = {
        name: (observed.average(sums)[:, 0], drawn.average(drawn.sums[name])) for name, sums in observed.sums.items()
    }
    kept = found.checks.kept_values(found.groups.codes) if found.data_statistics else None
    for name, function in found.data_statistics.items():
        assert kept is not None
        own[name] = _of_data(function, *kept, found.checks.n_groups)
    pairs = {
        "mean": (observed.mean[:, 0], drawn.mean),
        "sd": (observed.sd[:, 0], drawn.sd),
        "zeros": (observed.average(observed.zeros)[:, 0], drawn.average(drawn.zeros)),
        "smallest": (observed.low[:, 0], drawn.low),
        "largest": (observed.high[:, 0], drawn.high),
    }
    zeros = (observed.zeros.sum() / observed.count.sum() + drawn.zeros.mean(1).sum() / drawn.count.sum()) / 2
    constant = observed.count.sum() < 2 or not (observed.squares.any() or drawn.squares.any())
    for name, (value, values) in pairs.items():
        unused = (name == "sd" and constant) or (name == "zeros" and not 0.0 < zeros < 1.0)
        if name not in own and not unused:
            yield name, value, values
    for name, (value, values) in own.items():
        yield name, np.asarray(value), np.asarray(values)


def _of_data(
    function: Any, drawn: np.ndarray, observed: np.ndarray, codes: np.ndarray | None, n_groups: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a statistic of the kept rows of each group, of the data and of each draw."""
    values, predicted = np.full(n_groups, np.nan), np.full((n_groups, len(drawn)), np.nan)
    for group in range(n_groups):
        rows = slice(None) if codes is None else codes == group
        if len(observed[rows]):
            values[group] = function(observed[rows])
            predicted[group] = [function(each) for each in drawn[:, rows]]
    return values, predicted


def data_findings(found: CheckedRows, lines: list[dict[str, Any]]) -> list[Finding]:
    """Return the verdicts of predictive checks; of groups, the worst one of each statistic."""
    findings, by = [], ", ".join(found.groups.labels)
    for name in dict.fromkeys(line["statistic"] for line in lines):
        own = [line for line in lines if line["statistic"] == name]
        worst = min(own, key=lambda line: np.nan_to_num(min(line["p"], 1 - line["p"]), nan=-1.0))
        bad = [line for line in own if line["verdict"] == "bad"]
        check = f"{name}: P(predicted > observed)" + (f", worst by {by}" if by else "")
        advice = ""
        if bad:
            advice = _ADVICE.get(name, f"the statistic {name!r} of the data differs from its predictions")
            labels = ["/".join(str(line[dim]) for dim in found.groups.labels) for line in bad]
            if by:
                more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
                advice += f" (in {', '.join(labels[:_SHOWN])}{more})"
            if any(np.isnan(line["p"]) for line in bad):
                advice = f"the statistic {name!r} is NaN, since predictions are NaN: check the arguments for NaN"
        findings.append(Finding("data", check, worst["p"], worst["expected"], "bad" if bad else "ok", advice))
    return [*findings, *_calibration_findings(found)]


def _calibration_findings(found: CheckedRows) -> Iterator[Finding]:
    """Yield the verdicts of the predictions of single rows."""
    calibration = found.checks.calibration
    coverage = calibration.covered / max(1, calibration.n_covered)
    error = _ERRORS * np.sqrt(COVERAGE * (1 - COVERAGE) / max(1, calibration.n_covered))
    # Intervals of discrete values contain more than their level.
    lowest, highest = max(COVERAGE - 0.03 - error, 0.0), min(COVERAGE + 0.03 + error, 1.0)
    bad = coverage < lowest or (coverage > highest and not calibration.is_discrete)
    expected = f"{lowest:.2f}-{1.0 if calibration.is_discrete else highest:.2f}"
    yield _finding("coverage of 90 % intervals", coverage, expected, "coverage", bad=bad)
    kind = "LOO-PIT" if calibration.leave_one_out else "PIT"
    lost = calibration.n_unreliable / max(1, calibration.n + calibration.n_lost)
    if not calibration.n:
        yield Finding("data", f"{kind}: distance from uniform", np.nan, "", "not checked", "no row has a PIT value")
    elif calibration.leave_one_out and lost > _UNRELIABLE:
        why = f"{100 * lost:.0f} % of the rows have unreliable weights (Pareto k above 0.7): see `model.loo`"
        yield Finding("data", f"{kind}: distance from uniform", calibration.distance, "", "not checked", why)
    elif calibration.is_binary:
        bad = calibration.excess > 0.03
        name = "probabilities: distance from shares, less 4 errors"
        yield _finding(name, calibration.excess, "0-0.03", "reliability", bad=bad)
    else:
        most = calibration.tolerated_distance
        name = f"{kind}: distance from uniform"
        yield _finding(name, calibration.distance, f"0-{most:.3f}", "pit", bad=calibration.distance > most)


def _finding(name: str, value: float, expected: str, advice: str, *, bad: bool) -> Finding:
    """Return the verdict of a check of single rows."""
    return Finding("data", name, value, expected, "bad" if bad else "ok", _ADVICE[advice] if bad else "")
