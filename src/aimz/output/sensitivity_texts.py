"""Numbers, sentences and text about the strength that a hidden common cause would need."""

__all__ = ["sensitivity_line", "sensitivity_sentences", "sensitivity_text"]

import textwrap
from typing import Any

import numpy as np
import pandas as pd

from aimz.statistics import Statistic, Statistics, read_ci

_WIDTH = 76
_MAX_LINES = 16


def sensitivity_line(draws: np.ndarray, interval: Statistic, null: float | None) -> dict[str, float]:
    """Return mean, sd and interval of draws, and the share above ``null`` unless that is None."""
    parts = Statistics((Statistic("mean"), Statistic("sd"), interval))
    if np.isnan(draws).any():
        found = dict.fromkeys(parts.labels, np.nan)
        share = np.nan
    else:
        found = dict(zip(parts.labels, map(float, parts(draws)), strict=True))
        share = float((draws > (null or 0.0)).mean())
    return found if null is None else {**found, f"P(>{null:g})": share}


def sensitivity_sentences(result: Any) -> list[str]:
    """Return sentences that state what a hidden cause would have to be."""
    interval = read_ci(None, None)
    low, high = (float(bound) for bound in Statistics((interval,))(result.robustness.values.ravel()))
    middle = float(np.median(result.robustness))
    level = f"{100 * interval.at:.3g} % interval"
    names = f"`{result.treatment}` and `{result.outcome}`"
    if result.strengths is None:
        return [
            f"To explain away the whole effect, a hidden common cause of {names} would have to multiply both the "
            f"chance of the treatment and the outcome by {middle:.3g} ({level} {low:.3g} to {high:.3g}), given the "
            "covariates.",
            "A cause weaker than that with one of them would have to be stronger with the other.",
        ]
    side = "above" if result.strengths.sign > 0 else "below"
    sentences = [
        f"To explain away the whole effect, a hidden common cause of {names} would have to explain "
        f"{_percent(middle)} % ({level} {_percent(low)} to {_percent(high)} %) of what the covariates leave of both."
    ]
    at = result.robustness_value(alpha=0.05)
    sentences.append(
        f"A cause that explains {_percent(at)} % of both would leave a probability of 97.5 % that the effect is "
        f"{side} 0."
        if at > 0
        else f"Without any hidden cause, the probability that the effect is {side} 0 is already below 97.5 %."
    )
    for name, benchmark in result.strengths.benchmarks.items():
        treatment, outcome = benchmark.bound(1)
        if np.isnan(treatment):
            sentences.append(f"No hidden cause can be as strong as `{name}`, which explains most of the treatment.")
            continue
        left = result.unit * result.strengths.adjusted(treatment, outcome)
        share = float((left * result.strengths.sign > 0).mean())
        sentences.append(
            f"One as strong as `{name}` would leave an effect of {left.mean():.3g}, {side} 0 with probability "
            f"{_probability(share, len(left))} %."
        )
    return sentences


def sensitivity_text(result: Any) -> str:
    """Return sentences, a table and a line about the covariates."""
    joined = " ".join(result.sentences).replace(" %", "\0%")
    lines = [textwrap.fill(joined, _WIDTH, break_on_hyphens=False).replace("\0", " "), ""]
    table = result.table()
    shown = table.drop(columns=["times", "risk_ratio", "sd"], errors="ignore").head(_MAX_LINES)
    lines += pd.DataFrame(shown).to_string(index=False, float_format=lambda x: f"{x:.3g}").splitlines()
    if len(table) > _MAX_LINES:
        lines.append(f"... and {len(table) - _MAX_LINES} more: `table()` returns all.")
    given = ", ".join(result.covariates) or "no covariates"
    about = f"Given {given}; {result.n_obs:,} rows, {result.robustness.size:,} draws."
    return "\n".join([*lines, "", *textwrap.wrap(about, _WIDTH, break_on_hyphens=False)])


def _percent(share: float) -> str:
    """Return a share in percent, with three digits, but never as 100 if it is less."""
    text = f"{100 * share:.3g}"
    return "over 99.9" if text == "100" and share < 1 else text


def _probability(share: float, n_draws: int) -> str:
    """Return a share of draws in percent; if it is all or none of them, a bound."""
    if share in (0.0, 1.0):
        return f"over {100 - 100 / n_draws:.4g}" if share else f"below {100 / n_draws:.2g}"
    return _percent(share)
