"""What a streaming method is given: arrays, or something that yields them batch by batch."""

__all__ = ["Given", "RowSource", "check_order", "open_source", "read_given"]

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aimz.data import (
    BatchReader,
    ChunkedTable,
    KernelArguments,
    LazyArray,
    Table,
    is_array,
    is_batches,
    is_shuffled,
    open_chunked_table,
    open_rows,
    open_table,
)
from aimz.engine.kernel_engine import KernelEngine, PreparedCall
from aimz.errors import warn
from aimz.kernel import ValueSource
from aimz.utils.data import ArrayDataset, ArrayLoader


@dataclass(frozen=True)
class Given:
    """The arguments of a streaming call."""

    call: KernelArguments
    reader: BatchReader | None = None
    """Where the rows come from, if not from arrays."""
    n_obs_known: bool = True
    shuffled: bool = False
    pieces: ChunkedTable | None = None
    """The table that the reader reads, if it can be read from any row."""

    def all_rows(self) -> KernelArguments:
        """Return the same with every row in memory, for a kernel that needs them all."""
        if self.reader is None:
            return self.call
        return self.with_rows(self.reader.read(0, 1 << 62))

    def with_rows(self, rows: Mapping[str, np.ndarray]) -> KernelArguments:
        """Return the arguments with rows that were read, by field."""
        fields = {name: rows[name] for name in self.call.batch_fields}
        return replace(self.call, arrays={**self.call.arrays, **fields}, n_obs=len(next(iter(rows.values()))))


def read_given(
    engine: KernelEngine, X: Any, kwargs: Mapping[str, Any], *, y: Any = None, scored: bool, expected: int | None
) -> Given:
    """Check the arguments of a streaming call; nothing is loaded whole.

    Parameters
    ----------
    X
        An array, a data set, or an iterable of batches.
    kwargs
        Further arguments of the kernel.
    y
        The output, where it is scored and does not come with the batches.
    scored
        Whether the method takes the output.
    expected
        How many rows an iterable of unknown length should have.
    """
    return open_source(engine, X, kwargs, expected).given(engine, kwargs, y, scored=scored)


@dataclass(frozen=True)
class RowSource:
    """Where the rows of the input come from; several calls may share one."""

    fields: Mapping[str, Any]
    """The input, and what comes along with it."""
    table: Table | None = None
    """The table whose columns are these, if they have to be looked for."""
    read: dict[str, Any] = field(default_factory=dict)
    """Columns that were taken from it."""
    reader: BatchReader | None = None
    n_obs_known: bool = True
    shuffled: bool = False
    pieces: ChunkedTable | None = None

    def given(self, engine: KernelEngine, kwargs: Mapping[str, Any], y: Any = None, *, scored: bool) -> Given:
        """Return the arguments of one call that gets these rows."""
        names = engine.signature.param_input, engine.signature.param_output
        fields = self.fields
        if self.table is not None:
            fields = self._columns(engine, {*kwargs, *(() if scored and y is None else names[1:])})
        X, fields, y = _sorted(fields, names, y, scored=scored)
        if self.reader is not None and self.reader.named:  # what is passed goes before a column of that name
            fields = {name: array for name, array in fields.items() if name not in kwargs}
        output = {"output": y} if scored else {}
        index = None if self.table is None else self.table.index
        call = engine.read_call(X, {**_apart(fields, kwargs), **kwargs}, in_parts=True, index=index, **output)
        return Given(call, self.reader, self.n_obs_known, self.shuffled, self.pieces)

    def _columns(self, engine: KernelEngine, leave: Iterable[str]) -> dict[str, Any]:
        """Return the arguments that the table holds; those that were taken before are the same objects."""
        assert self.table is not None
        found = engine.parameters.fields(self.table, leave=frozenset({*leave, *self.read}))
        for name, array in found.items():
            self.read.setdefault(name, LazyArray(array, name))
        return {name: array for name, array in self.read.items() if name not in leave}


def open_source(engine: KernelEngine, X: Any, kwargs: Mapping[str, Any], expected: int | None) -> RowSource:
    """Return where the rows come from; of an iterable, the first batch is read."""
    names = engine.signature.param_input, engine.signature.param_output
    X = open_chunked_table(X, engine.parameters) or X
    table = open_table(X, names[0])
    if table is not None:
        return RowSource({}, table)
    if isinstance(X, ArrayDataset) or (isinstance(X, ArrayLoader) and not X.shuffle):
        # Its arrays are at hand, so no batch needs to be made.
        return RowSource((X if isinstance(X, ArrayDataset) else X.dataset).labelled)
    if not is_batches(X):
        return RowSource({names[0]: X})
    shuffled = is_shuffled(X)
    if shuffled:
        warn("The loader shuffles its rows; they come out in its order, not in that of its data set.")
    reader = BatchReader(X, engine.parameters)
    # As many rows as a block may have tell whether there are fewer: then the blocks are those of an array.
    known = X.n_obs if isinstance(X, ChunkedTable) else len(X.dataset) if isinstance(X, ArrayLoader) else None
    known = reader.length_up_to(_BLOCK) if known is None else known
    beside = next((value.shape[0] for value in kwargs.values() if is_array(value) and np.ndim(value)), None)
    expected = beside or expected
    rows = reader.fields(known or expected or len(next(iter((reader.first or {}).values()))))
    pieces = X if isinstance(X, ChunkedTable) and X.same_order and X.n_obs is not None else None
    return RowSource(rows, reader=reader, n_obs_known=known is not None, shuffled=shuffled, pieces=pieces)


_BLOCK = 1024
"""No block has more rows, and with more rows than that blocks do not depend on how many there are."""


def check_order(given: Given, prepared: PreparedCall) -> None:
    """Refuse rows in an order of their own where something else goes with each of them."""
    if not given.shuffled:
        return
    aligned = list(prepared.substitution.sites_from(ValueSource.POSTERIOR_ROWS))
    axes = {name: axis for name, axis in prepared.plan.row_axes.items() if name in prepared.values}
    aligned += [name for name, axis in axes.items() if not open_rows(prepared.values[name], axis).is_constant]
    aligned += [name for name, rows in prepared.call.rows.items() if rows.n_rows is not None]
    if aligned:
        msg = (
            f"The loader shuffles its rows, and `{aligned[0]}` has a value for each in another order. Pass the arrays, "
            "or a loader that does not shuffle, or one that yields all of them."
        )
        raise ValueError(msg)


def _sorted(
    fields: Mapping[str, Any], names: tuple[str, str], y: Any, *, scored: bool
) -> tuple[Any, dict[str, Any], Any]:
    """Return input, further fields and output; an output that comes along where none is taken is left alone."""
    rest = dict(fields)
    param_input, param_output = names
    if param_input not in rest:
        msg = f"Batches must have a field `{param_input}`, the input; got {sorted(rest)}. Name the field so."
        raise ValueError(msg)
    X, given = rest.pop(param_input), rest.pop(param_output, None)
    if scored and y is not None and given is not None:
        msg = f"`{param_output}` must be given once; it comes with the batches and as an argument. Leave one out."
        raise TypeError(msg)
    return X, rest, (y if given is None else given) if scored else None


def _apart(fields: Mapping[str, Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    twice = sorted(set(fields) & set(kwargs))
    if twice:
        msg = f"`{twice[0]}` must be given once; it comes with the batches and as an argument. Leave one out."
        raise TypeError(msg)
    return dict(fields)
