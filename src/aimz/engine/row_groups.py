"""Groups and weights of rows, read from `by=` and `weights=`."""

__all__ = ["omit_rows_with_nan", "read_groups_of", "read_labels"]

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from aimz.data import ChunkedTable, KernelArguments, Table, check_aligned, fill_masked, has_nan, open_table
from aimz.engine.inputs import InputSource
from aimz.engine.panels import Panel
from aimz.engine.prepared_call import PreparedCall
from aimz.statistics import Groups, read_groups, read_weights, with_axes


def read_groups_of(by: Any, weights: Any, X: Any, call: KernelArguments, source: InputSource, panel: Panel) -> Groups:
    """Return the groups and the weights of the rows, or of the entries of the panel of the output.

    Raises
    ------
    ValueError
        If there is not one label, or weight, per row or entry, or the rows come in shuffled order.
    """
    labels_by = {f"by[{name!r}]": one for name, one in by.items()} if isinstance(by, Mapping) else {"by": by}
    check_aligned({"X": X, **labels_by, "weights": weights})
    given = {("by", name): labels for name, labels in _read_by(by, X, call).items()}
    if isinstance(weights, str):
        weights = read_labels(weights, X, call, "weights")
    if weights is not None:
        given["weights", ""] = weights
    n_obs = call.n_obs if source.n_obs_known else None
    named = isinstance(by, Mapping)
    read = {
        (option, name): panel.read(array, f"by[{name!r}]" if option == "by" and named else option, n_obs)
        for (option, name), array in given.items()
    }
    dims, read = _varying(read, panel)
    labels, codes = read_groups({name: array for (option, name), array in read.items() if option == "by"})
    scaled, scale = None, 1.0
    if weights is not None:
        scaled, scale = read_weights(fill_masked(np.asanyarray(read["weights", ""]), "weights"))
    for option, array in (("by", codes), ("weights", scaled)):
        if array is None:
            continue
        if n_obs is not None and len(array) != n_obs:
            msg = f"`{option}` must have one value for each of the {n_obs} rows; got {len(array)}."
            raise ValueError(msg)
        if source.shuffled:
            msg = f"`{option}` has one value per row, but the loader shuffles its rows. Pass arrays."
            raise ValueError(msg)
    shape = tuple(panel.sizes[dim] for dim in dims)
    codes, scaled = (_broadcast(array, shape) for array in (codes, scaled))
    return Groups(labels, codes, scaled, scale, panel=dims)


def _varying(read: dict[tuple[str, str], Any], panel: Panel) -> tuple[tuple[str, ...], dict[tuple[str, str], Any]]:
    """Return the dimensions of the panel along which an array varies, and the arrays without the others."""
    wide = [array for array in read.values() if np.ndim(array) > 1]
    kept = [i for i in range(len(panel.sizes)) if any(array.shape[1 + i] > 1 for array in wide)]
    dims = tuple(dim for i, dim in enumerate(panel.sizes) if i in kept)
    return dims, {
        key: array.reshape(len(array), *(array.shape[1 + i] for i in kept)) if np.ndim(array) > 1 else array
        for key, array in read.items()
    }


def _broadcast(array: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray | None:
    """Return values of all entries of the panel."""
    if array is None or not shape:
        return array
    return np.broadcast_to(with_axes(array, 1 + len(shape)), (len(array), *shape))


def omit_rows_with_nan(groups: Groups, calls: Iterable[PreparedCall]) -> Groups:
    """Return the groups without the rows that have NaN in an argument of any of the calls.

    Raises
    ------
    ValueError
        If the rows come from an iterable, which cannot be read twice.
    """
    calls = list(calls)
    omitted, seen = np.zeros(calls[0].call.n_obs, bool), set[int]()
    for prepared in calls:
        for name, rows in prepared.call.rows.items():
            if rows.from_batches:
                msg = (
                    f"`nan_policy='omit'` reads all rows beforehand; got `{name}` from an iterable, which is read "
                    "once. Pass an array or a table in memory, or leave the rows out of the iterable."
                )
                raise ValueError(msg)
            if id(prepared.call.arrays[name]) in seen:
                continue
            seen.add(id(prepared.call.arrays[name]))
            for start in range(0, len(omitted), _ROWS):
                part = rows.read(start, min(start + _ROWS, len(omitted)))
                if has_nan(part):
                    omitted[start : start + len(part)] |= np.isnan(part).reshape(len(part), -1).any(axis=1)
                rows.release(start, start + len(part))
    return groups.without(omitted)


_ROWS = 2**16
"""Number of rows that are read together."""


def read_labels(name: str, X: Any, call: KernelArguments, option: str) -> Any:
    """Return the values of a column or an argument with one value for each row, which an option names."""
    return _read_by(name, X, call, option)[name]


def _read_by(by: Any, X: Any, call: KernelArguments, option: str = "by") -> dict[str, Any]:
    """Return the labels of rows by the name of their dimension.

    A string names a column of a data frame ``X``, or an argument with a row axis; a list names several.
    """
    arrays = call.rows
    if by is None:
        return {}
    if isinstance(by, str):
        by = {by: by}
    elif isinstance(by, list | tuple) and len(by) != call.n_obs and all(isinstance(name, str) for name in by):
        by = {name: name for name in by}
    elif not isinstance(by, Mapping):
        by = {"group": by}
    table: Table | ChunkedTable | None = X if isinstance(X, ChunkedTable) else open_table(X, "X")
    columns = () if table is None else table.names if isinstance(table, Table) else table.known
    found = {}
    for name, labels in by.items():
        if not isinstance(labels, str):
            found[str(name)] = labels
        elif table is not None and labels in columns:
            found[str(name)] = table.labels(labels)
        elif labels in arrays and arrays[labels].ndim and not arrays[labels].from_batches:
            values, categories = np.asarray(arrays[labels]), call.categories.get(labels)
            found[str(name)] = values if categories is None else np.asarray(categories, object)[values]
        else:
            known = dict.fromkeys([*(n for n, array in arrays.items() if array.ndim == 1), *columns])
            msg = (
                f"`{option}` names {labels!r}, which is neither a column of a data frame nor an argument with one "
                f"value for each row. Known: {', '.join(map(str, known)) or 'none'}. Or pass the values themselves."
            )
            raise ValueError(msg)
    return found
