"""Tables larger than memory, read in chunks: Parquet and Arrow data sets, lazy frames, Hugging Face data sets."""

__all__ = ["ChunkedTable", "column_names", "open_chunked_table"]

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np

from aimz._imports import pandas as pd
from aimz.data.tables import KernelParameters, open_table

_ROWS = 2**16
"""Number of rows of a chunk: several row blocks, of which memory holds a few."""


class TableReader(ABC):
    """Reader of a table in chunks, which can be pickled if another process can read the table."""

    known: tuple[str, ...]
    """Names of all columns."""
    n_obs: int | None
    """Number of rows; None if it is unknown."""
    same_order = True
    """Whether rows have the same order in each pass."""
    bound: str | None = None
    """Description of a table that only this process can read."""

    def __getstate__(self) -> dict[str, Any]:
        """Raise ``TypeError`` if another process cannot read the table."""
        if self.bound is not None:
            msg = (
                f"{self.bound} cannot be read by another process. Write its rows to Parquet files that every process "
                "can open, and pass `pyarrow.dataset.dataset(path)`."
            )
            raise TypeError(msg)
        return self.__dict__

    @abstractmethod
    def read(self, columns: Sequence[str], first: int = 0) -> Iterable[Any]:
        """Yield some columns in chunks, as data frames, from row ``first`` on."""


@dataclass(frozen=True)
class ChunkedTable:
    """A table that is read each time it is iterated, and yields data frames."""

    reader: TableReader
    names: tuple[str, ...]
    """Names of the columns to read."""
    first: int = 0
    """First row to read."""

    @property
    def known(self) -> tuple[str, ...]:
        """Names of all columns."""
        return self.reader.known

    @property
    def n_obs(self) -> int | None:
        """Number of rows of the whole table; None if it is unknown."""
        return self.reader.n_obs

    @property
    def same_order(self) -> bool:
        """Whether rows have the same order in each pass."""
        return self.reader.same_order

    def __iter__(self) -> Iterator[Any]:
        """Yield chunks from row ``first`` on."""
        try:
            yield from self.reader.read(self.names, self.first)
        except FileNotFoundError as error:
            msg = (
                f"This process cannot find a file of the table that was passed to the call ({error}). Store it under a "
                "name that every process can open (a shared file system, an object store)."
            )
            raise FileNotFoundError(msg) from error

    def starting(self, row: int) -> "ChunkedTable":
        """Return the table from a row on; earlier rows are skipped without reading them if the format allows it.

        Raises
        ------
        ValueError
            If the order of the rows may differ between passes.
        """
        if not self.same_order:
            msg = (
                "A table whose order of rows may differ between passes (a lazy frame, a stream) cannot be read from "
                "the middle. Write it to Parquet, and pass `pyarrow.dataset.dataset(path)`."
            )
            raise ValueError(msg)
        return replace(self, first=row)

    def labels(self, name: str) -> Any:
        """Read one column as categorical labels of groups, in a separate pass."""
        if not self.same_order:
            msg = (
                f"`by` names the column {name!r} of a table whose order of rows may differ between passes (a lazy "
                "frame, a stream), so that its labels cannot be matched with the rows. Write it to Parquet, and pass "
                "`pyarrow.dataset.dataset(path)`."
            )
            raise ValueError(msg)
        known: dict[Any, int] = {}
        codes: list[np.ndarray] = []
        for chunk in self.reader.read((name,)):
            table = open_table(chunk, "X")
            assert table is not None
            found, labels = pd.factorize(np.asarray(table.labels(name)))
            places = np.array([known.setdefault(label, len(known)) for label in labels] + [-1], np.int32)
            codes.append(places[found])  # the code of missing labels is -1 in both
        names = list(known)
        order = sorted(range(len(names)), key=names.__getitem__) if _are_sortable(names) else list(range(len(names)))
        rank = np.empty(len(names) + 1, np.int32)
        rank[order], rank[-1] = np.arange(len(names)), -1
        return pd.Categorical.from_codes(rank[np.concatenate(codes)], categories=[names[i] for i in order])


def open_chunked_table(value: Any, parameters: KernelParameters) -> ChunkedTable | None:
    """Return a table that is read in chunks, restricted to the columns that are used; None for anything else.

    Raises
    ------
    TypeError
        If the library of the table cannot read it in chunks.
    """
    if isinstance(value, ChunkedTable):
        return value
    reader = _reader(value)
    if reader is None:
        return None
    columns = reader.known
    if parameters.input in parameters.known:
        # A missing column raises when the first chunk is read.
        needed = {*parameters.known[parameters.input], *parameters.column_names.values()}
        columns = tuple(name for name in reader.known if name in needed) or reader.known
    return ChunkedTable(reader, columns)


def column_names(value: Any, name: str) -> tuple[str, ...] | None:
    """Return the names of the columns of a table, or of the fields of a data set; None for anything else."""
    if isinstance(value, ChunkedTable):
        return value.known or None  # a stream may not know its columns
    table = open_table(value, name)
    if table is not None:
        return table.names
    fields = getattr(getattr(value, "dataset", value), "labelled", None)
    return None if fields is None else tuple(fields)


def _are_sortable(labels: Sequence[Any]) -> bool:
    """Return whether all labels, or none of them, are text."""
    return all(isinstance(label, str) for label in labels) or not any(isinstance(label, str) for label in labels)


def _reader(value: Any) -> TableReader | None:
    library = type(value).__module__.partition(".")[0]
    if library == "pyarrow" and hasattr(value, "count_rows") and hasattr(value, "to_batches"):
        if hasattr(value, "projected_schema"):
            return _ArrowScanner(value)
        in_files = hasattr(value, "format") and not getattr(value, "_scan_options", None)
        return _ArrowFiles(value) if in_files else _ArrowDataSet(value)
    if library == "pyarrow" and hasattr(value, "iter_batches"):
        return _ParquetFile(value)
    if library == "polars" and hasattr(value, "collect_schema") and not hasattr(value, "to_numpy"):
        return _Polars(value)
    if library == "datasets" and hasattr(value, "with_format") and hasattr(value, "select_columns"):
        return _HuggingFace(value)
    return None


def _skip_rows(chunks: Iterable[Any], count: int) -> Iterator[Any]:
    """Yield Arrow chunks without the first ``count`` rows."""
    for chunk in chunks:
        if count < chunk.num_rows:
            yield chunk.slice(count) if count else chunk
        count = max(0, count - chunk.num_rows)


class _ArrowFiles(TableReader):
    """An Arrow data set in files."""

    def __init__(self, value: Any) -> None:
        self._value = value = _with_absolute_paths(value)
        self.known = tuple(value.schema.names)
        with ThreadPoolExecutor(_THREADS) as pool:
            # Size and time are read before the rows are counted, so that a write in between is detected.
            found = tuple(pool.map(lambda part: (_stamp(part), _length(part)), value.get_fragments()))
        self._stamps = tuple(stamp for stamp, _ in found)
        self._lengths = tuple(length for _, length in found)
        self.n_obs = sum(self._lengths)

    def read(self, columns: Sequence[str], first: int = 0) -> Iterator[Any]:
        """Read row groups one by one, since a scan of all of them reads up to a GiB ahead of a slow consumer."""
        options: dict[str, Any] = {"columns": list(columns), "batch_size": _ROWS, "schema": self._value.schema}
        for i, fragment in enumerate(self._value.get_fragments()):
            if first >= self._lengths[i]:
                first -= self._lengths[i]
                continue
            if not self._is_same(i, fragment) or _length_now(fragment) != self._lengths[i]:
                self._raise_changed(i, fragment)
            for part in fragment.split_by_row_group() if hasattr(fragment, "split_by_row_group") else (fragment,):
                rows = _length(part)
                if first < rows:
                    if not self._is_same(i, fragment):
                        self._raise_changed(i, fragment)
                    yield from _skip_rows(part.to_batches(**options), first)
                first = max(0, first - rows)

    def __getstate__(self) -> dict[str, Any]:
        # Another machine may have its own copy of the files, written at another time.
        return {**self.__dict__, "_stamps": tuple(stamp and (stamp[0], None) for stamp in self._stamps)}

    def _is_same(self, i: int, fragment: Any) -> bool:
        """Return whether a file has the size and time it had when the call began, as far as they are known."""
        known, stamp = self._stamps[i], _stamp(fragment)
        return known is None or (stamp is not None and stamp[0] == known[0] and known[1] in (None, stamp[1]))

    def _raise_changed(self, i: int, fragment: Any) -> None:
        """Raise ``ValueError`` for a file that has changed, since it would shift the numbers of later rows."""
        # The fragment caches metadata of the file as it was.
        rows = int(fragment.format.make_fragment(fragment.path, fragment.filesystem).count_rows())
        before = self._lengths[i]
        now = "has been written to since" if rows == before else f"had {before} rows and now has {rows}"
        msg = (
            f"The table must have the rows it had when the call began; file {fragment.path!r} {now}. Call again when "
            "no other process writes to it."
        )
        raise ValueError(msg)


_THREADS = 16
"""Number of files whose rows are counted at the same time."""


def _with_absolute_paths(value: Any) -> Any:
    """Return an Arrow data set with absolute paths of its local files, for processes in other directories."""
    import pyarrow.dataset as ds

    if getattr(value, "_scan_options", None):  # only this process can read it
        return value
    if isinstance(value, ds.UnionDataset):
        return ds.UnionDataset(value.schema, [_with_absolute_paths(child) for child in value.children])
    local = isinstance(value, ds.FileSystemDataset) and getattr(value.filesystem, "type_name", None) == "local"
    if not local or all(Path(path).is_absolute() for path in value.files):
        return value

    def moved(part: Any) -> Any:
        if part.buffer is not None:
            return part
        # A Parquet fragment may be some row groups of its file.
        groups = {"row_groups": [group.id for group in part.row_groups]} if hasattr(part, "row_groups") else {}
        path = Path(part.path).absolute().as_posix()
        return part.format.make_fragment(path, part.filesystem, part.partition_expression, **groups)

    with ThreadPoolExecutor(_THREADS) as pool:
        fragments = list(pool.map(moved, value.get_fragments()))
    return ds.FileSystemDataset(fragments, value.schema, value.format, value.filesystem, value.partition_expression)


def _length(fragment: Any) -> int:
    """Return the number of rows of a fragment."""
    # `count_rows` of a Parquet fragment counts its whole file.
    groups = getattr(fragment, "row_groups", None)
    return int(fragment.count_rows()) if groups is None else sum(int(group.num_rows) for group in groups)


def _length_now(fragment: Any) -> int | None:
    """Return the number of rows of a fragment; None if row groups are missing from its file."""
    try:
        return _length(fragment)
    except IndexError:
        return None


def _stamp(fragment: Any) -> tuple[int, int | None] | None:
    """Return size and modification time of a local file; None for other files, or if it is missing."""
    if getattr(getattr(fragment, "filesystem", None), "type_name", None) != "local" or fragment.buffer is not None:
        return None
    found = fragment.filesystem.get_file_info(fragment.path)
    return None if found.size is None else (int(found.size), found.mtime_ns)


class _ArrowDataSet(TableReader):
    """An Arrow data set in memory, with a filter, or a union of data sets."""

    def __init__(self, value: Any) -> None:
        self._value = value = _with_absolute_paths(value)
        self.known = tuple(value.schema.names)
        self.n_obs = int(value.count_rows())
        if getattr(value, "_scan_options", None) or _in_memory(value):
            self.bound = "A data set that is filtered or in memory"

    def read(self, columns: Sequence[str], first: int = 0) -> Iterator[Any]:
        return _skip_rows(self._value.to_batches(columns=list(columns), batch_size=_ROWS), first)


def _in_memory(value: Any) -> bool:
    """Return whether an Arrow data set or a child of it is in memory."""
    return type(value).__name__ == "InMemoryDataset" or any(map(_in_memory, getattr(value, "children", ())))


class _ArrowScanner(TableReader):
    """An Arrow scanner, which has its own columns and chunk size."""

    bound = "A scanner"

    def __init__(self, value: Any) -> None:
        self._value = value
        self.known = tuple(value.projected_schema.names)
        self.n_obs = int(value.count_rows())

    def read(self, columns: Sequence[str], first: int = 0) -> Iterator[Any]:
        return _skip_rows((chunk.select(list(columns)) for chunk in self._value.to_batches()), first)


class _ParquetFile(TableReader):
    """An open Parquet file."""

    bound = "An open `ParquetFile`"

    def __init__(self, value: Any) -> None:
        self._value = value
        self.known = tuple(value.schema_arrow.names)
        self.n_obs = int(value.metadata.num_rows)

    def read(self, columns: Sequence[str], first: int = 0) -> Iterator[Any]:
        groups: list[int] = []
        for number in range(self._value.num_row_groups):
            rows = self._value.metadata.row_group(number).num_rows
            if groups or first < rows:
                groups.append(number)
            else:
                first -= rows
        return _skip_rows(self._value.iter_batches(_ROWS, row_groups=groups, columns=list(columns)), first)


class _HuggingFace(TableReader):
    """A Hugging Face data set, or a stream, which has no length."""

    def __init__(self, value: Any) -> None:
        self._arrow = value.with_format("arrow")
        self.known = tuple(value.column_names or ())
        self.same_order = hasattr(value, "__len__")
        self.n_obs = len(value) if self.same_order else None
        table = getattr(self._arrow, "data", None)
        blocks = [block for row in getattr(table, "blocks", [[table]]) for block in row]
        if any(type(block).__name__ == "InMemoryTable" for block in blocks):
            self.bound = "A Hugging Face data set in memory"

    def read(self, columns: Sequence[str], first: int = 0) -> Iterator[Any]:
        # The columns of a stream from a generator are unknown until it is read.
        chosen = self._arrow.select_columns(list(columns)) if columns else self._arrow
        yield from (chosen.skip(first) if first else chosen).iter(_ROWS)


class _Polars(TableReader):
    """A lazy Polars frame, whose order of rows is undefined unless they are sorted."""

    same_order = False

    def __init__(self, value: Any) -> None:
        if not hasattr(value, "collect_batches"):
            msg = (
                "A lazy frame must have `collect_batches`, which this version of Polars lacks. Update Polars, or pass "
                "`frame.collect()`."
            )
            raise TypeError(msg)
        self._value = value
        self.known = tuple(value.collect_schema().names())
        # Scans of files count rows without reading them.
        self.n_obs = int(nw.from_native(value).select(nw.len()).collect().item())

    def read(self, columns: Sequence[str], first: int = 0) -> Iterator[Any]:
        assert not first
        yield from self._value.select(columns).collect_batches(chunk_size=_ROWS, maintain_order=True)
