"""Sources of the rows of a streamed call: arrays, tables, or iterables of batches."""

__all__ = ["InputSource", "check_order", "open_source"]

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
    with_categories,
)
from aimz.engine.kernel_engine import KernelEngine
from aimz.engine.prepared_call import PreparedCall
from aimz.errors import OutputWarning, warn
from aimz.kernel import ValueSource
from aimz.utils.data import ArrayDataset, ArrayLoader


@dataclass(frozen=True)
class InputSource:
    """Source of the rows of a streamed call; several scenarios may share it."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    """The input and the other fields that its batches or its data set have."""
    table: Table | None = None
    """The table whose columns are the fields."""
    columns: dict[str, Any] = field(default_factory=dict)
    """Columns already taken from the table, so that scenarios share them."""
    reader: BatchReader | None = None
    """Reader of batches; None for arrays."""
    n_obs_known: bool = True
    """Whether the number of rows is known before all rows are read."""
    shuffled: bool = False
    chunked_table: ChunkedTable | None = None
    """The table that the reader reads, if it can be read from any row."""

    def arguments(
        self, engine: KernelEngine, kwargs: Mapping[str, Any], y: Any = None, *, scored: bool
    ) -> KernelArguments:
        """Return the checked arguments of a call with these rows; nothing is loaded whole.

        ``scored`` tells whether the method takes the output, which may be ``y`` or a field.
        """
        names = engine.signature.param_input, engine.signature.param_output
        fields = self.fields
        if self.table is not None:
            fields = self._take_columns(engine, {*kwargs, *(() if scored and y is None else names[1:])})
        X, fields, y = _split_fields(fields, names, y, scored=scored)
        if self.reader is not None and self.reader.named:  # arguments take precedence over columns
            fields = {name: array for name, array in fields.items() if name not in kwargs}
        output = {"output": y} if scored else {}
        index = None if self.table is None else self.table.index
        twice = sorted(set(fields) & set(kwargs))
        if twice:
            raise TypeError(_GIVEN_TWICE.format(twice[0]))
        return engine.read_call(X, {**fields, **kwargs}, in_parts=True, index=index, **output)

    def read_all(self) -> dict[str, np.ndarray]:
        """Return all rows of the reader, by field."""
        assert self.reader is not None
        return self.reader.read(0, 1 << 62)

    def _take_columns(self, engine: KernelEngine, leave: Iterable[str]) -> dict[str, Any]:
        """Return the arguments that the table holds; columns taken before are the same objects."""
        assert self.table is not None
        found = engine.parameters.fields(self.table, leave=frozenset({*leave, *self.columns}))
        for name, array in found.items():
            self.columns.setdefault(name, LazyArray(array, name))
        return {name: array for name, array in self.columns.items() if name not in leave}


def open_source(engine: KernelEngine, X: Any, kwargs: Mapping[str, Any], expected: int | None) -> InputSource:
    """Return the source of the rows of ``X``; of an iterable, the first batch is read.

    ``expected`` is the number of rows that an iterable of unknown length should have.
    """
    name = engine.signature.param_input
    if isinstance(X, np.ndarray):  # neither a table nor batches
        return InputSource({name: X})
    X = open_chunked_table(X, engine.parameters) or X
    X = engine.parameters.aligned(name, X)
    table = open_table(X, name)
    if table is not None:
        return InputSource(table=table)
    if isinstance(X, ArrayDataset) or (isinstance(X, ArrayLoader) and not X.shuffle):
        # The arrays are in memory, so no batch needs to be made.
        return InputSource(engine.parameters.by_parameter((X if isinstance(X, ArrayDataset) else X.dataset).labelled))
    if not is_batches(X):
        return InputSource({name: X})
    shuffled = is_shuffled(X)
    if shuffled:
        warn(
            "The loader shuffles its rows; results are in the loader's order, not in that of its data set.",
            OutputWarning,
        )
    reader = BatchReader(X, with_categories(X, engine.parameters))
    # Reading as many rows as a block may have tells whether there are fewer: blocks are then the same as for arrays.
    known = X.n_obs if isinstance(X, ChunkedTable) else len(X.dataset) if isinstance(X, ArrayLoader) else None
    known = reader.length_up_to(_BLOCK) if known is None else known
    by_row = (v for name, v in kwargs.items() if is_array(v) and np.ndim(v) and name not in engine.whole)
    aligned = next((value.shape[0] for value in by_row), None)
    n_obs = known or aligned or expected or len(next(iter((reader.first or {}).values())))
    seekable = isinstance(X, ChunkedTable) and X.same_order and X.n_obs is not None
    return InputSource(
        reader.fields(n_obs),
        reader=reader,
        n_obs_known=known is not None,
        shuffled=shuffled,
        chunked_table=X if seekable else None,
    )


_BLOCK = 1024
"""Largest number of rows of a block; with more rows, blocks do not depend on the number of rows."""

_GIVEN_TWICE = "`{}` must be given once; it comes with the batches and as an argument. Leave one out."


def check_order(source: InputSource, prepared: PreparedCall) -> None:
    """Raise if rows come in shuffled order and another array or site has one value per row."""
    if not source.shuffled:
        return
    aligned = list(prepared.substitution.by_source[ValueSource.POSTERIOR_ROWS])
    axes = {name: axis for name, axis in prepared.plan.row_axes.items() if name in prepared.values}
    aligned += [name for name, axis in axes.items() if not open_rows(prepared.values[name], axis).is_constant]
    aligned += [name for name, rows in prepared.call.rows.items() if rows.n_rows is not None]
    if aligned:
        msg = (
            f"`{aligned[0]}` has one value per row, but the loader shuffles its rows, so they cannot be aligned. Pass "
            "arrays, a loader that does not shuffle, or one that yields all of them."
        )
        raise ValueError(msg)


def _split_fields(
    fields: Mapping[str, Any], names: tuple[str, str], y: Any, *, scored: bool
) -> tuple[Any, dict[str, Any], Any]:
    """Return input, further fields and output; an output that the method does not take is dropped."""
    rest = dict(fields)
    param_input, param_output = names
    if param_input not in rest:
        msg = f"Batches must have a field `{param_input}`, the input; got {sorted(rest)}. Rename the field."
        raise ValueError(msg)
    X, output = rest.pop(param_input), rest.pop(param_output, None)
    if scored and y is not None and output is not None:
        raise TypeError(_GIVEN_TWICE.format(param_output))
    return X, rest, (y if output is None else output) if scored else None
