"""The arguments of one call, checked and sorted."""

__all__ = ["KernelArguments", "check_aligned", "read_call", "read_rows"]

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aimz.data.arrays import fingerprint, is_array, read_array
from aimz.data.dataframes import index_of
from aimz.data.lazy_arrays import LazyArray
from aimz.data.row_readers import BatchField, RowReader, open_rows
from aimz.data.tables import Matrix, match_columns, open_table


@dataclass(frozen=True)
class KernelArguments:
    """The arguments of one call of the kernel, sorted."""

    arrays: dict[str, Any]
    """Arrays, or :class:`Rows` of them; the first axis of each is the row axis, unless it is 0-d."""
    static: dict[str, object] = field(default_factory=dict)
    """Everything else, handed to the kernel as it is."""
    n_obs: int = 0
    """Number of rows."""
    columns: tuple[str, ...] = ()
    """Names of the columns of the input, where it is a table."""
    tables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The same for each argument that is one."""
    index: Any = None
    """Labels of the rows, a :class:`pandas.Index`, where the input has some."""

    def without(self, name: str) -> "KernelArguments":
        """Return the same call without the array ``name``."""
        return replace(self, arrays={k: v for k, v in self.arrays.items() if k != name})

    def fingerprint(self, name: str) -> str:
        """Return a digest of an array's shape and values; equal numbers of another dtype have the same."""
        array = self.arrays[name]
        return read_rows(array, name).digest if array.ndim else fingerprint([np.asarray(array)])

    @property
    def rows(self) -> dict[str, RowReader]:
        """Readers of the arrays that have a row axis."""
        return {name: open_rows(array) for name, array in self.arrays.items() if array.ndim}

    @property
    def batch_fields(self) -> frozenset[str]:
        """Names of the arrays whose rows are supplied by batches."""
        return frozenset(name for name, rows in self.rows.items() if rows.from_batches)


def read_rows(value: Any, name: str) -> Any:
    """Return a reader of an array that was not checked, or the reader that ``value`` is."""
    return value if isinstance(value, RowReader) else LazyArray(value, name)


def _sort_extra(value: Any, name: str, *, in_parts: bool) -> tuple[Any, object]:
    """Return a further kernel argument as an array, or as the plain value it is.

    Zero-dimensional integers become Python integers, since a kernel uses them as sizes, which a compiled
    program must know in advance.
    """
    if isinstance(value, np.generic):
        return None, value.item()
    if isinstance(value, BatchField):
        return value, None
    if not is_array(value):
        return None, value
    array: Any = read_rows(value, name) if in_parts and np.ndim(value) else read_array(value, name)
    if array.ndim == 0 and array.dtype.kind in "iub":
        return None, array.item()
    return array, None


def read_call(
    required: Mapping[str, Any],
    extra: Mapping[str, Any],
    *,
    in_parts: bool = False,
    known: Mapping[str, tuple[str, ...]] | None = None,
    index: Any = None,
) -> KernelArguments:
    """Sort and check the arguments of a call.

    Parameters
    ----------
    required : mapping of str to array_like
        The input first, then where the method takes it the output.
    extra : mapping of str to object
        The kernel's further arguments.  Arrays among them must be aligned with the rows; everything else
        (numbers, strings, lists, None) reaches the kernel untouched.
    in_parts : bool
        Whether rows will be taken when they are needed, so that nothing has to be loaded or converted whole.
    known : mapping of str to tuple of str, optional
        The columns of arguments that are tables, where they are known.
    index : pandas.Index, optional
        Labels of the rows of the input, where it does not have them any more.

    Raises
    ------
    TypeError, ValueError
        If an array is empty, 0-d, not numeric, would be changed by the conversion, or if lengths differ.
    """
    input_ = next(iter(required))
    index = index_of(required[input_]) if index is None else index
    check_aligned({**required, **extra}, {input_: index})
    given = {name: _as_matrix(value, name, known or {}) for name, value in {**required, **extra}.items()}
    tables = {name: columns for name, value in given.items() if (columns := getattr(value, "columns", ()))}
    given = {n: np.asarray(v) if isinstance(v, Matrix) and not in_parts else v for n, v in given.items()}
    required, extra = {name: given[name] for name in required}, {name: given[name] for name in extra}
    arrays: dict[str, Any] = {}
    static: dict[str, object] = {}
    for name, value in required.items():
        if value is None:
            msg = f"`{name}` must be an array; got None. Pass it, as an argument or as a field of the batches."
            raise TypeError(msg)
        arrays[name] = read_rows(value, name) if in_parts else read_array(value, name)
        if arrays[name].ndim == 0:
            msg = f"`{name}` must have a row axis; got a 0-d array. Pass an array of shape (n_obs, ...)."
            raise ValueError(msg)
    for name, value in extra.items():
        array, plain = _sort_extra(value, name, in_parts=in_parts)
        if array is None:
            static[name] = plain
        else:
            arrays[name] = array
    lengths = {name: array.shape[0] for name, array in arrays.items() if array.ndim}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"`{name}`: {length}" for name, length in lengths.items())
        msg = (
            f"Arrays must have the same number of rows (length of the first axis); got {listed}. What has no "
            "row axis (a table per group, say) can be closed over by the kernel."
        )
        raise ValueError(msg)
    n_obs = next(iter(lengths.values()))
    if n_obs == 0:
        msg = f"{' and '.join(f'`{name}`' for name in lengths)} must not be empty; got no rows."
        raise ValueError(msg)
    return KernelArguments(arrays, static, n_obs, tables.get(input_, ()), tables, index)


def _as_matrix(value: Any, name: str, known: Mapping[str, tuple[str, ...]]) -> Any:
    """Return a table as a matrix, and anything else as it is."""
    table = open_table(value, name)
    return value if table is None else match_columns(table, name, known)


def check_aligned(given: Mapping[str, Any], known: Mapping[str, Any] | None = None) -> None:
    """Refuse arrays whose rows have other labels than another: they would be matched by place.

    ``known`` are labels of some that do not show them.

    Raises
    ------
    ValueError
        If two that have labels differ.
    """
    labels = {name: index_of(value) for name, value in given.items()} | dict(known or {})
    labelled = {name: index for name, index in labels.items() if index is not None}
    name = next(iter(labelled), "")
    for other, index in labelled.items():
        if len(index) == len(labelled[name]) and not index.equals(labelled[name]):
            msg = (
                f"`{other}` has another index than `{name}`, and rows are matched by place. Put both in one order, or "
                "pass the values alone."
            )
            raise ValueError(msg)
