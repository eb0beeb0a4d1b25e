"""Labels of axes (an index of pandas, names, dates) as JSON and arrays."""

__all__ = ["read_labels", "write_labels"]

import datetime
import json
import zoneinfo
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from aimz.errors import warn
from aimz.persistence.plain import is_plain, read_plain, write_plain

if TYPE_CHECKING:
    import pandas as pd


def write_labels(labels: Any, name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return labels as JSON; what is long is added to ``arrays``, under names that begin with ``name``.

    A range is written as its three numbers for rows only, which are as many as the data say.

    Warns
    -----
    UserWarning
        If they are neither numbers, texts, dates, periods, intervals nor categories, or would not come back as they
        are: their text is written.
    """
    import pandas as pd

    index = labels if isinstance(labels, pd.Index) else pd.Index(np.asarray(labels))
    index = (
        pd.Index(index.to_numpy(), name=index.name) if isinstance(index, pd.RangeIndex) and name != "rows" else index
    )
    names = [write_plain(part if is_plain(part) else str(part)) for part in index.names]
    added: dict[str, np.ndarray] = {}

    def put(kind: str, values: Any) -> str:
        unique = f"{name}/{kind}"
        while unique in arrays or unique in added:
            unique += "'"
        added[unique] = np.asarray(values)
        return unique

    def below(kind: str, part: Any) -> dict[str, Any]:
        return write_labels(part, f"{name}/{kind}", added)

    node = _write(index, put, below)
    if node is None or not _comes_back({**node, "names": names}, added, index):
        added.clear()
        kind = type(index[0]).__name__ if len(index) else str(index.dtype)
        warn(
            f"Labels of type `{kind}` (`{name}`) cannot be saved as they are; their text is, and stands for them after "
            "a load. Label by numbers, texts or dates to have them back."
        )
        node = {"texts": _write_texts([str(item) for item in index], put), "dtype": "object"}
    arrays.update(added)
    return {**node, "names": names}


def _comes_back(node: Mapping[str, Any], arrays: Mapping[str, np.ndarray], index: "pd.Index") -> bool:
    try:
        return bool(read_labels(node, arrays, rows=True).equals(index))
    except Exception:  # noqa: BLE001, RUF100 (a time zone or a frequency that has no name may fail anywhere)
        return False


def _write(
    index: "pd.Index", put: Callable[[str, Any], str], below: Callable[[str, Any], dict[str, Any]]
) -> dict[str, Any] | None:
    import pandas as pd

    if isinstance(index, pd.RangeIndex):
        return {"range": [index.start, index.stop, index.step]}
    if isinstance(index, pd.MultiIndex):
        levels = [below(f"level {i}", level) for i, level in enumerate(index.levels)]
        return {"levels": levels, "codes": [put(f"codes {i}", np.asarray(c)) for i, c in enumerate(index.codes)]}
    if isinstance(index, pd.CategoricalIndex):
        codes = put("codes", index.codes)
        return {"categories": below("categories", index.categories), "codes": codes, "ordered": bool(index.ordered)}
    if isinstance(index, pd.DatetimeIndex):
        dates = {"dates": put("dates", index.asi8), "unit": index.unit, "zone": _zone(index.tz)}
        return {**dates, "freq": index.freqstr if _has_name(index.freq) else None}
    if isinstance(index, pd.TimedeltaIndex):
        return {"durations": put("durations", index.asi8), "unit": index.unit}
    if isinstance(index, pd.PeriodIndex):
        return {"periods": put("periods", index.asi8), "freq": index.freqstr}
    if isinstance(index, pd.IntervalIndex):
        return {"left": below("left", index.left), "right": below("right", index.right), "closed": index.closed}
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
    """Return the name of a time zone, or how many seconds it is from UTC."""
    if isinstance(zone, datetime.timezone):
        return zone.utcoffset(None).total_seconds()
    return None if zone is None else str(zone)


def _time_zone(zone: str | float) -> datetime.tzinfo:
    """Return a time zone of the standard library's: no other names are looked for anywhere."""
    return zoneinfo.ZoneInfo(zone) if isinstance(zone, str) else datetime.timezone(datetime.timedelta(seconds=zone))


def _has_name(freq: Any) -> bool:
    """Return whether a frequency is all that its name says."""
    from pandas.tseries.frequencies import to_offset

    try:
        return freq is not None and to_offset(freq.freqstr) == freq
    except ValueError:
        return False


def _write_texts(texts: list[str], put: Callable[[str, Any], str]) -> list[str]:
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return [put("texts", np.frombuffer(b"".join(encoded), np.uint8)), put("ends", ends)]


def _read_texts(of: list[str], arrays: Mapping[str, np.ndarray]) -> list[str]:
    content, ends = arrays[of[0]].tobytes(), arrays[of[1]].tolist()
    return [content[a:b].decode("utf-8", "surrogatepass") for a, b in zip([0, *ends], ends, strict=False)]


def read_labels(node: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, rows: bool = False) -> "pd.Index":
    """Return the labels that :func:`write_labels` wrote; those of ``rows`` may be a range.

    Raises
    ------
    ValueError
        If others are: a range takes no room in a file, and any amount in memory.
    """
    if "range" in node and not rows:
        msg = "labels other than those of rows are no range"
        raise ValueError(msg)
    import pandas as pd

    names = [read_plain(name) for name in node["names"]]
    if "levels" in node:
        levels = [read_labels(level, arrays) for level in node["levels"]]
        return pd.MultiIndex(levels, [arrays[codes] for codes in node["codes"]], names=names)
    return _read(node, arrays).rename(names[0])


def _read(node: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "pd.Index":
    import pandas as pd

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
