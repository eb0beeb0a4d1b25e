"""Labels of axes (an index of pandas, names, dates) as JSON and arrays."""

__all__ = ["read_labels", "write_labels"]

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from aimz.errors import warn
from aimz.persistence.plain import is_plain, read_plain, write_plain

if TYPE_CHECKING:
    import pandas as pd


def write_labels(labels: Any, name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return labels as JSON; what is long is added to ``arrays``, under names that begin with ``name``.

    Warns
    -----
    UserWarning
        If they are objects that are neither numbers, texts, dates, periods, intervals nor categories: their text is
        written.
    """
    import pandas as pd

    index = labels if isinstance(labels, pd.Index) else pd.Index(np.asarray(labels))

    def put(kind: str, values: Any) -> str:
        arrays[f"{name}/{kind}"] = np.asarray(values)
        return f"{name}/{kind}"

    def below(kind: str, part: Any) -> dict[str, Any]:
        return write_labels(part, f"{name}/{kind}", arrays)

    node = _write(index, put, below)
    if node is None:
        warn(
            f"Labels of type `{type(index[0]).__name__}` cannot be saved; their text is, and `{name}` will have other "
            "labels after a load. Label by numbers, texts or dates."
        )
        node = {"texts": _write_texts([str(item) for item in index], put), "dtype": "object"}
    names = [part if is_plain(part) else str(part) for part in index.names]
    return {**node, "names": [write_plain(part) for part in names]}


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
        zone = None if index.tz is None else str(index.tz)
        return {"dates": put("dates", index.asi8), "unit": index.unit, "zone": zone, "freq": index.freqstr}
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
    if all(type(item) in (str, int, float, bool, type(None)) for item in items):
        return {"mixed": [write_plain(item) for item in items], "dtype": str(index.dtype)}
    return None


def _write_texts(texts: list[str], put: Callable[[str, Any], str]) -> list[str]:
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    return [put("texts", np.frombuffer(b"".join(encoded), np.uint8)), put("ends", ends)]


def _read_texts(of: list[str], arrays: Mapping[str, np.ndarray]) -> list[str]:
    content, ends = arrays[of[0]].tobytes(), arrays[of[1]].tolist()
    return [content[a:b].decode("utf-8", "surrogatepass") for a, b in zip([0, *ends], ends, strict=False)]


def read_labels(node: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> "pd.Index":
    """Return the labels that :func:`write_labels` wrote."""
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
        dates = dates if node["zone"] is None else dates.tz_localize("UTC").tz_convert(node["zone"])
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
    return pd.Index([read_plain(item) for item in node["mixed"]], dtype=node["dtype"])
