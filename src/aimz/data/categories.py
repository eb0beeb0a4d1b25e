"""Text and categorical arguments, encoded by the categories of the fit."""

__all__ = [
    "Categories",
    "EncodedColumn",
    "categories_of",
    "encode",
    "has_text",
    "is_text",
    "label_codes",
    "merge_labels",
    "plain_labels",
]

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from aimz._imports import pandas as pd
from aimz.data.dataframes import index_of, non_numeric_columns, open_series

type Categories = tuple[str | int, ...]
"""Labels of categories, in the order of their codes."""

_PIECE = 2**20
"""Number of rows that are read from a store together."""


class EncodedColumn:
    """Codes of a text or categorical argument, with its categories.

    Parameters
    ----------
    codes : numpy.ndarray of shape (n_obs,)
        Positions among the categories.
    categories : tuple of str or int
        Categories of the fit, then new ones.
    index : pandas.Index, optional
        Labels of the rows.
    """

    ndim = 1

    def __init__(self, codes: np.ndarray, categories: Categories, index: Any = None) -> None:
        self.codes, self.categories, self.index = codes, categories, index
        self.shape, self.dtype = codes.shape, codes.dtype

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.asarray(self.codes, dtype)

    def __getitem__(self, rows: Any) -> np.ndarray:
        return np.asarray(self.codes[rows])

    def __len__(self) -> int:
        return len(self.codes)


def encode(value: Any, name: str, known: Categories | None, *, counted: bool, grows: bool) -> Any:
    """Return a text or categorical argument as codes, and anything else unchanged.

    Parameters
    ----------
    value : object
        Argument of the kernel.
    name : str
        Name of the argument in error messages.
    known : tuple of str or int, optional
        Categories of the fit; by default they are found in ``value``.
    counted : bool
        Whether the kernel has a parameter for the number of categories; Booleans are then encoded, too.
    grows : bool
        Whether categories that are not known are added as new ones.

    Raises
    ------
    ValueError
        If a category is missing, or not known and cannot be added.
    """
    found = _factorized(value, with_flags=counted)
    if found is None:
        return value
    codes, labels, declared = found
    missing = np.flatnonzero(codes < 0)
    if len(missing):
        msg = (
            f"`{name}` must have a category in each row; it is missing in {len(missing):,} of {len(codes):,} rows, the "
            f"first is row {missing[0]:,}. Fill in a category, such as 'unknown', or leave these rows out."
        )
        raise ValueError(msg)
    if known is None:
        categories = tuple(labels) if declared else merge_labels((), labels)
    else:
        used = {labels[code] for code in np.unique(codes)}
        new = used.difference(known)
        if new and not (counted and grows):
            raise ValueError(_unseen(name, new, known, codes, labels, counted=counted))
        categories = merge_labels(known, new)
    places = {label: place for place, label in enumerate(categories)}
    table = np.array([places.get(label, -1) for label in labels], np.int32)
    return EncodedColumn(table[codes], categories, index_of(value))


def merge_labels(known: Categories, labels: Iterable[str | int]) -> Categories:
    """Return known categories, then the other labels in sorted order."""
    new = set(labels).difference(known)
    return (*known, *sorted(new, key=lambda label: (isinstance(label, str), label)))


def label_codes(labels: Sequence[Any], name: str, known: Categories) -> np.ndarray:
    """Return the codes of labels; raise ``ValueError`` if one is not known."""
    plain = plain_labels(labels)
    unknown = next((label for label in plain if label not in known), None)
    if unknown is not None:
        msg = f"`{name}` must be one of its categories, {_listed(known)}; got {unknown!r}. Pass one of them."
        raise ValueError(msg)
    return np.array([known.index(label) for label in plain], np.int32)


def categories_of(arguments: Mapping[str, Any]) -> dict[str, Categories]:
    """Return the categories of the arguments that have some."""
    found = {name: getattr(value, "categories", ()) for name, value in arguments.items()}
    return {name: labels for name, labels in found.items() if isinstance(labels, tuple) and labels}


def has_text(column: Any) -> bool:
    """Return whether all labels of a column are texts."""
    found = _factorized(column, with_flags=False)
    return found is not None and is_text(found[1])


def is_text(values: Sequence[Any]) -> bool:
    """Return whether all values of a list are texts."""
    return bool(values) and all(isinstance(value, str) for value in values)


def _unseen(
    name: str, new: set[str | int], known: Categories, codes: np.ndarray, labels: Sequence[Any], *, counted: bool
) -> str:
    """Return the error message for categories that are not known."""
    rows = np.flatnonzero(np.isin(codes, [place for place, label in enumerate(labels) if label in new]))
    if counted:
        how = (
            "Rows that are read in pieces, and a fit that continues, cannot have new categories. Declare all of them: "
            f"`ImpactModel(..., coords={{{name!r}: [...]}})`."
        )
    else:
        how = (
            "Correct them. To predict new groups, let the kernel take the number of categories as a parameter, "
            f"`num_{name}`, and use it as the size of the plate."
        )
    return (
        f"`{name}` has categories that are not known in {len(rows):,} of {len(codes):,} rows: "
        f"{_listed(merge_labels((), new))}; the first is row {rows[0]:,}. Known are {_listed(known)}. {how}"
    )


def _listed(labels: Sequence[Any]) -> str:
    """Return at most six labels as a text."""
    shown = ", ".join(map(repr, labels[:6]))
    return shown if len(labels) <= 6 else f"{shown}, ... ({len(labels)} categories)"


def plain_labels(labels: Iterable[Any]) -> Categories:
    """Return labels as texts and integers, which can be stored."""
    return tuple(map(_plain, labels))


def _plain(label: Any) -> str | int:
    """Return a label as a text or an integer, which can be stored."""
    label = label.item() if isinstance(label, np.generic) else label
    return label if isinstance(label, str | int) else str(label)


def _factorized(value: Any, *, with_flags: bool) -> tuple[np.ndarray, list[Any], bool] | None:
    """Return codes (-1 if missing), labels, and whether the type declares them; None if there is nothing to encode."""
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    series = None if kind in ("i", "u", "f") else open_series(value)
    if series is None and (kind is None or kind not in "OUSTb"):
        return None

    if series is not None:
        is_flag = with_flags and str(series.dtype) == "Boolean"
        described = non_numeric_columns({"": series.dtype}).get("")
        if described not in ("text", "categorical", "object") and not is_flag:
            return None
        native = series.to_native()
        if isinstance(getattr(native, "dtype", None), pd.CategoricalDtype):
            return np.asarray(native.cat.codes), [_plain(label) for label in native.cat.categories], True
        values = series.to_numpy()
        declared = [_plain(label) for label in getattr(series.dtype, "categories", ())]
    else:
        if len(value.shape) != 1 or (kind == "b" and not with_flags):
            return None
        values, declared = _in_memory(value), []
    codes, found = pd.factorize(np.asarray(values, object))
    if not with_flags and not any(isinstance(label, str) for label in found):
        return None  # an object column of numbers
    labels = [_plain(label.decode() if isinstance(label, bytes) else label) for label in found]
    if not declared:
        return codes, labels, False
    places = np.array([*map(declared.index, labels), -1])
    return places[codes], declared, True


def _in_memory(value: Any) -> np.ndarray:
    """Return an array that may be read from a store, read in pieces."""
    if isinstance(value, np.ndarray):
        return value
    length = value.shape[0]
    pieces = [np.asarray(value[start : start + _PIECE]) for start in range(0, length, _PIECE)]
    return np.concatenate([piece.astype(object) for piece in pieces]) if pieces else np.zeros(0, object)
