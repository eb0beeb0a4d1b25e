"""What a picture says: names of axes, of effects and of intervals."""

__all__ = [
    "about",
    "against",
    "axis_label",
    "dose_label",
    "effect_axis",
    "estimate",
    "interval_name",
    "number",
    "subject",
    "wanted_interval",
]

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from aimz.plots.selection import SCENARIO, intervals
from aimz.statistics import Statistic, read_interval

_MINUS = "\N{MINUS SIGN}"


def about(array: xr.DataArray) -> tuple[float, str, bool]:
    """Return the value of no effect, the name of the contrast, and whether it is a share."""
    contrast = str(array.attrs.get("contrast", "difference"))
    null = float(array.attrs.get("no_effect", 1.0 if contrast == "ratio" else 0.0))
    return null, "difference" if contrast == "intervention - baseline" else contrast, contrast == "lift"


def axis_label(name: Any, attrs: Mapping[Any, Any], *, prefix: str = "", percent: bool = False) -> str:
    """Return the words on an axis: a long name if there is one, and the unit."""
    label = f"{prefix}{attrs.get('long_name') or str(name).replace('_', ' ')}"
    unit = attrs.get("units") or attrs.get("unit")
    return f"{label} ({unit})" if unit and not percent else label


def interval_name(interval: Statistic) -> str:
    """Return level and kind of an interval in words."""
    kinds = {
        "eti": "equal-tailed interval",
        "hdi": "highest-density interval",
        "quantile": "interval between quantiles",
    }
    return f"{100 * interval.at:.4g} % {kinds[interval.kind]}"


def number(x: float) -> str:
    """Return a number with three digits that count, or all digits before the point."""
    if not np.isfinite(x) or x == 0:
        return f"{x:g}"
    if not 1e-3 <= abs(x) < 1e7:
        mantissa, _, exponent = f"{x:.2e}".partition("e")
        return f"{mantissa}e{int(exponent)}".replace("-", _MINUS)
    digits = max(0, 2 - int(np.floor(np.log10(abs(x)))))
    return f"{x:,.{digits}f}".replace("-", _MINUS)


def estimate(draws: np.ndarray, interval: Statistic, *, percent: bool = False) -> str:
    """Return a posterior mean with its interval."""
    scale, unit = (100.0, " %") if percent else (1.0, "")
    mean = f"{number(scale * float(draws.mean()))}{unit}"
    if draws.size < 2:
        return mean
    low, high = (float(bound) for bound in intervals(draws, interval))
    return f"{mean} ({number(scale * low)} to {number(scale * high)}{unit})"


def dose_label(array: xr.DataArray) -> str:
    """Return what the levels of a sweep are levels of: the one thing all its scenarios set, if there is one."""
    attrs = array[SCENARIO].attrs
    if attrs.get("long_name") or attrs.get("units"):
        return axis_label(SCENARIO, attrs)
    try:
        scenarios = json.loads(array.attrs.get("interventions", "{}"))
        names = {name for settings in scenarios.values() for name in settings}
    except (AttributeError, TypeError, ValueError):
        names = set()
    return axis_label(names.pop(), {}) if len(names) == 1 else SCENARIO


def wanted_interval(hdi_prob: float | None) -> Statistic:
    """Return the interval to draw; see :func:`aimz.summary`."""
    if hdi_prob is not None and not 0 < hdi_prob < 1:
        msg = f"`hdi_prob` must lie between 0 and 1; got {hdi_prob!r}. For 90 %, pass 0.9."
        raise ValueError(msg)
    return read_interval(hdi_prob, None if hdi_prob is None else "hdi")


def effect_axis(array: xr.DataArray, contrast: str, *, percent: bool) -> str:
    """Return the words on the axis of an effect."""
    label = axis_label(array.name, array.attrs, percent=percent or contrast == "ratio")
    return {
        "difference": f"change in {label}",
        "lift": f"relative change in {label}",
        "ratio": f"ratio of {label}",
    }.get(contrast, f"{contrast} of {label}")


def subject(array: xr.DataArray, contrast: str) -> str:
    """Return what a picture of an effect is about."""
    label = array.attrs.get("long_name") or str(array.name).replace("_", " ")
    return {
        "difference": f"Effect on {label}",
        "lift": f"Relative effect on {label}",
        "ratio": f"Ratio of {label}",
    }.get(contrast, f"{contrast} of {label}")


def against(array: xr.DataArray, names: Sequence[str] = ()) -> str:
    """Return a sentence that says what is compared with what."""
    baseline = array.attrs.get("baseline")
    if baseline is None:
        return ""
    if SCENARIO in array.dims:
        return f"{names[0]} against {baseline}." if len(names) == 1 else f"Each against {baseline}."
    sides = [_settings(array.attrs.get(side)) for side in ("intervention", "baseline")]
    return f"With {sides[0]} against {sides[1]}." if all(sides) else ""


def _settings(text: Any) -> str:
    """Return in words what a scenario sets, which a result holds as JSON."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return ""
    if not isinstance(found, dict):
        return ""
    return ", ".join(f"{name} = {value}" for name, value in found.items()) or "nothing set"
