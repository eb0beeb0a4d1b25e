"""Axis labels, titles and captions."""

__all__ = [
    "EffectLabels",
    "axis_label",
    "describe_comparison",
    "dose_label",
    "effect_labels",
    "estimate",
    "format_number",
    "interval_name",
    "plain_name",
]

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from aimz.plots.selection import SCENARIO, intervals
from aimz.statistics import Statistic

_INTERVALS = {
    "eti": "equal-tailed interval",
    "hdi": "highest-density interval",
    "quantile": "interval between quantiles",
}


@dataclass(frozen=True)
class EffectLabels:
    """Texts that depend on the contrast of an effect."""

    no_effect: float
    """Value of the contrast if there is no effect."""
    unit: str
    """Unit of the effect's numbers: " %" of a lift, " pp" (percentage points) of a change of a probability, or none."""
    axis: str
    """Label of the effect's axis."""
    title: str
    """Title of a figure of the effect."""


def effect_labels(array: xr.DataArray) -> EffectLabels:
    """Return the texts for an effect, from its name and attributes."""
    contrast = str(array.attrs.get("contrast", "difference"))
    no_effect = float(array.attrs.get("no_effect", 1.0 if contrast == "ratio" else 0.0))
    name = plain_name(array.name, array.attrs)
    label = name if contrast in ("lift", "ratio") else axis_label(array.name, array.attrs)
    points = array.attrs.get("scale") == "probability" and contrast == "difference"
    of = f"the probability of {label}" if points else label
    difference = (f"change in {of}", f"Effect on {name}")
    axis, title = {
        "difference": difference,
        "intervention - baseline": difference,
        "lift": (f"relative change in {name}", f"Relative effect on {name}"),
        "ratio": (f"ratio of {name}", f"Ratio of {name}"),
    }.get(contrast, (f"{contrast} of {label}", f"{contrast} of {name}"))
    return EffectLabels(no_effect, " %" if contrast == "lift" else " pp" if points else "", axis, title)


def plain_name(name: Any, attrs: Mapping[Any, Any]) -> str:
    """Return the long name of a variable, or its name with spaces."""
    return str(attrs.get("long_name") or str(name).replace("_", " "))


def axis_label(name: Any, attrs: Mapping[Any, Any], prefix: str = "") -> str:
    """Return the name of a variable with its units."""
    units = attrs.get("units") or attrs.get("unit")
    return f"{prefix}{plain_name(name, attrs)}" + (f" ({units})" if units else "")


def interval_name(interval: Statistic) -> str:
    """Return the probability and kind of an interval."""
    return f"{100 * interval.at:.4g} % {_INTERVALS[interval.kind]}"


def format_number(x: float) -> str:
    """Return a number with three significant digits, or all digits before the decimal point."""
    if not np.isfinite(x) or x == 0:
        return f"{x:g}"
    if 1e-3 <= abs(x) < 1e7:
        text = f"{x:,.{max(0, 2 - int(np.floor(np.log10(abs(x)))))}f}"
    else:
        mantissa, _, exponent = f"{x:.2e}".partition("e")
        text = f"{mantissa}e{int(exponent)}"
    return text.replace("-", "\N{MINUS SIGN}")


def estimate(draws: np.ndarray, interval: Statistic, *, unit: str = "") -> str:
    """Return a posterior mean with its interval."""
    scale = 100.0 if unit else 1.0
    mean = f"{format_number(scale * float(draws.mean()))}{unit}"
    if draws.size < 2:
        return mean
    low, high = (float(bound) for bound in intervals(draws, interval))
    return f"{mean} ({format_number(scale * low)} to {format_number(scale * high)}{unit})"


def dose_label(array: xr.DataArray) -> str:
    """Return the label of the levels of a sweep: the variable that all its scenarios set, if there is only one."""
    attrs = array[SCENARIO].attrs
    if attrs.get("long_name") or attrs.get("units"):
        return axis_label(SCENARIO, attrs)
    try:
        scenarios = json.loads(array.attrs.get("interventions", "{}"))
        names = {name for settings in scenarios.values() for name in settings}
    except (AttributeError, TypeError, ValueError):
        names = set()
    return axis_label(names.pop(), {}) if len(names) == 1 else SCENARIO


def describe_comparison(attrs: Mapping[Any, Any], scenarios: Sequence[str] | None = None) -> str:
    """Return a sentence with the scenarios that are compared, or an empty text if they are not known."""
    baseline = attrs.get("baseline")
    if baseline is None:
        return ""
    if scenarios is not None:
        return f"{scenarios[0]} against {baseline}." if len(scenarios) == 1 else f"Each against {baseline}."
    sides = [_describe_settings(attrs.get(side)) for side in ("intervention", "baseline")]
    return f"With {sides[0]} against {sides[1]}." if all(sides) else ""


def _describe_settings(stored: Any) -> str:
    """Return the settings of a scenario, which a result stores as JSON, as text."""
    try:
        settings = json.loads(stored)
    except (TypeError, ValueError):
        return ""
    if not isinstance(settings, dict):
        return ""
    return ", ".join(f"{name} = {value}" for name, value in settings.items()) or "nothing set"
