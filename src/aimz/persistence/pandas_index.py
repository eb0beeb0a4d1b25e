"""Labels of axes (pandas indexes, names, dates) as JSON and arrays."""

__all__ = ["read_labels", "write_labels"]

import datetime
import json
import zoneinfo
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from aimz._imports import pandas as pd
from aimz.errors import AimzWarning, warn
from aimz.persistence.kernel_spec import is_plain, read_plain, write_plain


def write_labels(labels: Any, name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return labels as JSON and add their values to ``arrays``, under names that begin with ``name``.

    Only row labels are written as a range, since the length of rows is known from the data.

    Warns
    -----
    AimzWarning
        If labels are not numbers, strings, dates, periods, intervals or categories, or cannot be restored exactly.
        They are written as strings.
    """
    index = labels if isinstance(labels, pd.Index) else pd.Index(np.asarray(labels))
    if isinstance(index, pd.RangeIndex) and name != "rows":
        index = pd.Index(index.to_numpy(), name=index.name)
    names = [write_plain(part if is_plain(part) else str(part)) for part in index.names]
    added: dict[str, np.ndarray] = {}

    def put(kind: str, values: Any) -> str:
        unique = f"{name}/{kind}"
        while unique in arrays or unique in added:
            unique += "'"
        added[unique] = np.asarray(values)
        return unique

    def write_child(kind: str, part: Any) -> dict[str, Any]:
        return write_labels(part, f"{name}/{kind}", added)

    node = _write(index, put, write_child)
    if node is None or not _round_trips({**node, "names": names}, added, index):
        added.clear()
        kind = type(index[0]).__name__ if len(index) else str(index.dtype)
        warn(
            f"Labels of type `{kind}` (`{name}`) cannot be saved and are saved as strings; a loaded model has the "
            "strings. Use numbers, strings or dates as labels to restore them exactly.",
            AimzWarning,
        )
        node = {"texts": _write_texts([str(item) for item in index], put), "dtype": "object"}
    arrays.update(added)
    return {**node, "names": names}


def _round_trips(node: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: "pd.Index") -> bool:
    try:
        return bool(read_labels(node, arrays, rows=True).equals(index))
    except Exception:  # noqa: BLE001, RUF100 (a time zone or frequency without a name can fail anywhere)
        return False


def _write(
    index: "pd.Index", put: Callable[[str, Any], str], write_child: Callable[[str, Any], dict[str, Any]]
) -> dict[str, Any] | None:
    if isinstance(index, pd.RangeIndex):
        return {"range": [index.start, index.stop, index.step]}
    if isinstance(index, pd.MultiIndex):
        levels = [write_child(f"level {i}", level) for i, level in enumerate(index.levels)]
        return {"levels": levels, "codes": [put(f"codes {i}", np.asarray(c)) for i, c in enumerate(index.codes)]}
    if isinstance(index, pd.CategoricalIndex):
        codes = put("codes", index.codes)
        return {
            "categories": write_child("categories", index.categories),
            "codes": codes,
            "ordered": bool(index.ordered),
        }
    if isinstance(index, pd.DatetimeIndex):
        dates = {"dates": put("dates", index.asi8), "unit": index.unit, "zone": _zone(index.tz)}
        return {**dates, "freq": index.freqstr if _has_name(index.freq) else None}
    if isinstance(index, pd.TimedeltaIndex):
        return {"durations": put("durations", index.asi8), "unit": index.unit}
    if isinstance(index, pd.PeriodIndex):
        return {"periods": put("periods", index.asi8), "freq": index.freqstr}
    if isinstance(index, pd.IntervalIndex):
        return {
            "left": write_child("left", index.left),
            "right": write_child("right", index.right),
            "closed": index.closed,
        }
    if isinstance(index.dtype, np.dtype) and index.dtype.kind in "biufc":
        return {"numbers": put("numbers", index.to_numpy())}
    items = index.tolist()
    if items and all(type(item) is str for item in items):
        return {"texts": _write_texts(items, put), "dtype": "object" if index.dtype == object else "str"}
    if items and all(type(item) is datetime.date for item in items):
        return {"days": put("days", [item.toordinal() for item in items])}
    items = [item.item() if isinstance(item, np.generic) else item for item in items]
    if all(type(item) in (str, int, float, bool, type(None)) for item in items):
        content = json.dumps([write_plain(item) for item in items]).encode()
        return {"mixed": put("mixed", np.frombuffer(content, np.uint8)), "dtype": str(index.dtype)}
    return None


def _zone(zone: datetime.tzinfo | None) -> str | float | None:
    """Return the name of a time zone, or its offset from UTC in seconds."""
    if isinstance(zone, datetime.timezone):
        return zone.utcoffset(None).total_seconds()
    return None if zone is None else str(zone)


def _time_zone(zone: str | float) -> datetime.tzinfo:
    """Return a time zone by the standard library, which accepts no file paths as names."""
    return zoneinfo.ZoneInfo(zone) if isinstance(zone, str) else datetime.timezone(datetime.timedelta(seconds=zone))


def _has_name(freq: Any) -> bool:
    """Return whether the name of a frequency determines it."""
    try:
        return freq is not None and pd.tseries.frequencies.to_offset(freq.freqstr) == freq
    except ValueError:
        return False


def _write_texts(texts: list[str], put: Callable[[str, Any], str]) -> list[str]:
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return [put("texts", np.frombuffer(b"".join(encoded), np.uint8)), put("ends", ends)]


def _read_texts(names: list[str], arrays: Mapping[str, np.ndarray]) -> list[str]:
    content, ends = arrays[names[0]].tobytes(), arrays[names[1]].tolist()
    return [content[a:b].decode("utf-8", "surrogatepass") for a, b in zip([0, *ends], ends, strict=False)]


def read_labels(node: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, rows: bool = False) -> "pd.Index":
    """Return the labels written by :func:`write_labels`; only labels of ``rows`` may be a range.

    Raises
    ------
    ValueError
        If other labels are a range: a few bytes in a file could allocate any amount of memory.
    """
    if "range" in node and not rows:
        msg = "Only row labels can be a range"
        raise ValueError(msg)

    names = [read_plain(name) for name in node["names"]]
    if "levels" in node:
        levels = [read_labels(level, arrays) for level in node["levels"]]
        return pd.MultiIndex(levels, [arrays[codes] for codes in node["codes"]], names=names)
    return _read(node, arrays).rename(names[0])


def _read(node: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "pd.Index":
    if "range" in node:
        return pd.RangeIndex(*node["range"])
    if "categories" in node:
        categories = read_labels(node["categories"], arrays)
        codes = pd.Categorical.from_codes(arrays[node["codes"]], categories, ordered=node["ordered"])
        return pd.CategoricalIndex(codes)
    if "dates" in node:
        dates = pd.DatetimeIndex(arrays[node["dates"]].view(f"M8[{node['unit']}]"))
        dates = dates if node["zone"] is None else dates.tz_localize("UTC").tz_convert(_time_zone(node["zone"]))
        return dates if node["freq"] is None else pd.DatetimeIndex(dates, freq=node["freq"])
    if "durations" in node:
        return pd.TimedeltaIndex(arrays[node["durations"]].view(f"m8[{node['unit']}]"))
    if "periods" in node:
        return pd.PeriodIndex.from_ordinals(arrays[node["periods"]], freq=node["freq"])
    if "left" in node:
        ends = (read_labels(node[side], arrays) for side in ("left", "right"))
        return pd.IntervalIndex.from_arrays(*ends, closed=node["closed"])
    if "numbers" in node:
        return pd.Index(arrays[node["numbers"]].copy())
    if "texts" in node:
        return pd.Index(_read_texts(node["texts"], arrays), dtype=node["dtype"])
    if "days" in node:
        days = [datetime.date.fromordinal(day) for day in arrays[node["days"]].tolist()]
        return pd.Index(days, dtype=object)
    mixed = json.loads(arrays[node["mixed"]].tobytes())
    return pd.Index([read_plain(item) for item in mixed], dtype=node["dtype"])
