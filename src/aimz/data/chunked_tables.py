"""Tables larger than memory, piece by piece: Parquet and Arrow data sets, lazy frames, Hugging Face data sets."""

__all__ = ["ChunkedTable", "open_pieces"]

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aimz.data.tables import KernelParameters, open_table

_ROWS = 2**16
"""Rows in a piece: enough for whole blocks, and few enough to hold some of them."""


class TableReader(ABC):
    """Where pieces come from.  It can be pickled if another process can read there."""

    known: tuple[str, ...]
    """All columns that there are."""
    n_obs: int | None
    same_order = True
    """Whether rows come in one order each time."""

    @abstractmethod
    def read(self, columns: Sequence[str], first: int = 0) -> Iterable[Any]:
        """Read some columns, from row ``first`` on, as frames."""


@dataclass(frozen=True)
class ChunkedTable:
    """A table that is read anew each time it is iterated; yields data frames."""

    source: TableReader
    names: tuple[str, ...]
    """Columns to read."""
    first: int = 0
    """The row to begin with."""

    @property
    def known(self) -> tuple[str, ...]:
        """All columns that there are."""
        return self.source.known

    @property
    def n_obs(self) -> int | None:
        """Number of rows of the whole table, if it is known."""
        return self.source.n_obs

    @property
    def same_order(self) -> bool:
        """Whether rows come in one order each time."""
        return self.source.same_order

    def __iter__(self) -> Iterator[Any]:
        """Read it from its first row on."""
        try:
            yield from self.source.read(self.names, self.first)
        except FileNotFoundError as error:
            msg = (
                f"This process cannot find a file of the table that the call was given ({error}). Put it where every "
                "process reaches it by that name (a shared file system, an object store)."
            )
            raise FileNotFoundError(msg) from error

    def starting(self, row: int) -> "ChunkedTable":
        """Return the same table from a row on; what lies before is passed over unread where the source can do so.

        Raises
        ------
        ValueError
            If rows may come in another order each time.
        """
        if not self.same_order:
            msg = (
                "A table that may come in another order each time it is read (a lazy frame, a stream) cannot be read "
                "from the middle. Write it to Parquet, and pass `pyarrow.dataset.dataset(path)`."
            )
            raise ValueError(msg)
        return replace(self, first=row)

    def labels(self, name: str) -> Any:
        """Return one column, to tell groups by, read in a pass of its own; of each text that recurs one is kept."""
        import pandas as pd

        if not self.same_order:
            msg = (
                f"`by` names the column {name!r} of a table that may come in another order each time it is read (a "
                "lazy frame, a stream), so that its labels cannot be matched with the rows. Write it to Parquet, and "
                "pass `pyarrow.dataset.dataset(path)`."
            )
            raise ValueError(msg)
        known: dict[Any, int] = {}
        codes: list[np.ndarray] = []
        for piece in self.source.read((name,)):
            table = open_table(piece, "X")
            assert table is not None
            found, labels = pd.factorize(np.asarray(table.labels(name)))
            places = np.array([known.setdefault(label, len(known)) for label in labels] + [-1], np.int32)
            codes.append(places[found])  # missing ones have the code -1, here as there
        names = list(known)
        order = sorted(range(len(names)), key=names.__getitem__) if _alike(names) else list(range(len(names)))
        rank = np.empty(len(names) + 1, np.int32)
        rank[order], rank[-1] = np.arange(len(names)), -1
        return pd.Categorical.from_codes(rank[np.concatenate(codes)], categories=[names[i] for i in order])


def open_pieces(value: Any, parameters: KernelParameters) -> ChunkedTable | None:
    """Return a table larger than memory, of which only the columns that are needed are read; None for anything else.

    Raises
    ------
    TypeError
        If the library that made it cannot read it in pieces.
    """
    if isinstance(value, ChunkedTable):
        return value
    source = _source(value)
    if source is None:
        return None
    wanted = source.known
    if parameters.input in parameters.known:
        # What is missing is named when the first piece is looked at.
        needed = {*parameters.known[parameters.input], *parameters.further, parameters.output}
        wanted = tuple(name for name in source.known if name in needed) or source.known
    return ChunkedTable(source, wanted)


def _alike(labels: Sequence[Any]) -> bool:
    """Whether labels can be sorted."""
    return all(isinstance(label, str) for label in labels) or not any(isinstance(label, str) for label in labels)


def _source(value: Any) -> TableReader | None:
    library = type(value).__module__.partition(".")[0]
    if library == "pyarrow" and hasattr(value, "count_rows") and hasattr(value, "to_batches"):
        if hasattr(value, "projected_schema"):
            return _Scan(value)
        return (
            _DataSet(value) if hasattr(value, "format") and not getattr(value, "_scan_options", None) else _Whole(value)
        )
    if library == "pyarrow" and hasattr(value, "iter_batches"):
        return _ParquetFile(value)
    if library == "polars" and hasattr(value, "collect_schema") and not hasattr(value, "to_numpy"):
        return _Polars(value)
    if library == "datasets" and hasattr(value, "with_format") and hasattr(value, "select_columns"):
        return _HuggingFace(value)
    return None


def _from(pieces: Iterable[Any], first: int) -> Iterator[Any]:
    """Yield pieces of Arrow without the first so many rows."""
    for piece in pieces:
        if first < piece.num_rows:
            yield piece.slice(first) if first else piece
        first = max(0, first - piece.num_rows)


class _DataSet(TableReader):
    """Files of Arrow's data sets."""

    def __init__(self, value: Any) -> None:
        self._value = value = _from_the_root(value)
        self.known = tuple(value.schema.names)
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            # What a file looks like is noted before its rows are counted: what is written between the two is seen.
            noted = tuple(pool.map(lambda one: (_stamp(one), _length(one)), value.get_fragments()))
        self._stamps = tuple(stamp for stamp, _ in noted)
        self._lengths = tuple(length for _, length in noted)
        self.n_obs = sum(self._lengths)

    def read(self, columns: Sequence[str], first: int = 0) -> Iterator[Any]:
        """Read one group of rows after the other: a scan of everything reads ahead of a slow reader by up to a GiB."""
        options: dict[str, Any] = {"columns": list(columns), "batch_size": _ROWS, "schema": self._value.schema}
        for i, fragment in enumerate(self._value.get_fragments()):
            if first >= self._lengths[i]:
                first -= self._lengths[i]
                continue
            if not self._is_same(i, fragment) or _length_now(fragment) != self._lengths[i]:
                self._refuse(i, fragment)
            for part in fragment.split_by_row_group() if hasattr(fragment, "split_by_row_group") else (fragment,):
                rows = _length(part)
                if first < rows:
                    if not self._is_same(i, fragment):
                        self._refuse(i, fragment)
                    yield from _from(part.to_batches(**options), first)
                first = max(0, first - rows)

    def __getstate__(self) -> dict[str, Any]:
        # Another machine may have a copy of its own, written at another time.
        return {**self.__dict__, "_stamps": tuple(stamp and (stamp[0], None) for stamp in self._stamps)}

    def _is_same(self, i: int, fragment: Any) -> bool:
        """Whether a file looks as it did when the call began, as far as that was noted."""
        noted, stamp = self._stamps[i], _stamp(fragment)
        return noted is None or (stamp is not None and stamp[0] == noted[0] and noted[1] in (None, stamp[1]))

    def _refuse(self, i: int, fragment: Any) -> None:
        """Refuse a file that has changed: the rows after it would be read under other numbers."""
        # What the fragment remembers of its file is no longer so.
        rows = int(fragment.format.make_fragment(fragment.path, fragment.filesystem).count_rows())
        noted = self._lengths[i]
        now = "has been written to since" if rows == noted else f"had {noted} rows and now has {rows}"
        msg = (
            f"The table must have the rows it had when the call began; file {fragment.path!r} {now}. Call again when "
            "nothing writes to it."
        )
        raise ValueError(msg)


_AT_ONCE = 16
"""Files to ask at once for how many rows they have."""


def _from_the_root(value: Any) -> Any:
    """Return a data set of Arrow with absolute paths of its local files: another process may be at work elsewhere."""
    import pyarrow.dataset as ds

    if getattr(value, "_scan_options", None):  # it stays in this process
        return value
    if isinstance(value, ds.UnionDataset):
        return ds.UnionDataset(value.schema, [_from_the_root(child) for child in value.children])
    local = isinstance(value, ds.FileSystemDataset) and getattr(value.filesystem, "type_name", None) == "local"
    if not local or all(Path(path).is_absolute() for path in value.files):
        return value

    def anew(one: Any) -> Any:
        if one.buffer is not None:
            return one
        # A fragment of Parquet may be some groups of rows of its file.
        groups = {"row_groups": [group.id for group in one.row_groups]} if hasattr(one, "row_groups") else {}
        path = Path(one.path).absolute().as_posix()
        return one.format.make_fragment(path, one.filesystem, one.partition_expression, **groups)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        fragments = list(pool.map(anew, value.get_fragments()))
    return ds.FileSystemDataset(fragments, value.schema, value.format, value.filesystem, value.partition_expression)


def _length(fragment: Any) -> int:
    """Return the number of rows of a fragment; that of Parquet counts all of the file, whatever part of it it is."""
    groups = getattr(fragment, "row_groups", None)
    return int(fragment.count_rows()) if groups is None else sum(int(group.num_rows) for group in groups)


def _length_now(fragment: Any) -> int | None:
    """Return the number of rows of a fragment; None if groups of them are gone."""
    try:
        return _length(fragment)
    except IndexError:
        return None


def _stamp(fragment: Any) -> tuple[int, int | None] | None:
    """Return the size of a local file and when it was written last; None if there is none, or it lies elsewhere."""
    if getattr(getattr(fragment, "filesystem", None), "type_name", None) != "local" or fragment.buffer is not None:
        return None
    found = fragment.filesystem.get_file_info(fragment.path)
    return None if found.size is None else (int(found.size), found.mtime_ns)


class _Whole(TableReader):
    """A data set of Arrow that is in memory, filtered, or several in one."""

    def __init__(self, value: Any) -> None:
        self._value = value = _from_the_root(value)
        self.known = tuple(value.schema.names)
        self.n_obs = int(value.count_rows())

    def read(self, columns: Sequence[str], first: int = 0) -> Iterator[Any]:
        return _from(self._value.to_batches(columns=list(columns), batch_size=_ROWS), first)

    def __getstate__(self) -> dict[str, Any]:
        if getattr(self._value, "_scan_options", None) or _in_memory(self._value):
            raise TypeError(_stays("A data set that is filtered or in memory"))
        return self.__dict__


def _in_memory(value: Any) -> bool:
    """Whether a data set of Arrow, or one of those it is made of, is in memory."""
    return type(value).__name__ == "InMemoryDataset" or any(map(_in_memory, getattr(value, "children", ())))


class _Scan(TableReader):
    """A scanner, which has chosen its columns and the size of its pieces."""

    def __init__(self, value: Any) -> None:
        self._value = value
        self.known = tuple(value.projected_schema.names)
        self.n_obs = int(value.count_rows())

    def read(self, columns: Sequence[str], first: int = 0) -> Iterator[Any]:
        return _from((piece.select(list(columns)) for piece in self._value.to_batches()), first)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(_stays("A scanner"))


class _ParquetFile(TableReader):
    """One file, which is open."""

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
        return _from(self._value.iter_batches(_ROWS, row_groups=groups, columns=list(columns)), first)

    def __getstate__(self) -> dict[str, Any]:
        raise TypeError(_stays("An open `ParquetFile`"))


def _stays(what: str) -> str:
    return (
        f"{what} cannot be read by another process. Write the rows that are wanted to Parquet files that every process "
        "reaches, and pass `pyarrow.dataset.dataset(path)`."
    )


class _HuggingFace(TableReader):
    """A data set of Hugging Face; a stream has no length."""

    def __init__(self, value: Any) -> None:
        self._arrow = value.with_format("arrow")
        self.known = tuple(value.column_names or ())
        self.same_order = hasattr(value, "__len__")
        self.n_obs = len(value) if self.same_order else None

    def read(self, columns: Sequence[str], first: int = 0) -> Iterator[Any]:
        # Of a stream from a generator the columns are not known before it is read.
        chosen = self._arrow.select_columns(list(columns)) if columns else self._arrow
        yield from (chosen.skip(first) if first else chosen).iter(_ROWS)

    def __getstate__(self) -> dict[str, Any]:
        table = getattr(self._arrow, "data", None)
        blocks = [block for row in getattr(table, "blocks", [[table]]) for block in row]
        if any(type(block).__name__ == "InMemoryTable" for block in blocks):
            raise TypeError(_stays("A data set of Hugging Face that is in memory"))
        return self.__dict__


class _Polars(TableReader):
    """A lazy frame of Polars, whose rows have an order only if they are all sorted."""

    same_order = False

    def __init__(self, value: Any) -> None:
        if not hasattr(value, "collect_batches"):
            msg = (
                "A lazy frame must be one that can be collected in batches; this version of Polars cannot. Update it, "
                "or pass `frame.collect()`."
            )
            raise TypeError(msg)
        import polars as pl

        self._value = value
        self.known = tuple(value.collect_schema().names())
        # A scan of files knows it without reading them.
        self.n_obs = int(value.select(pl.len()).collect().item())

    def read(self, columns: Sequence[str], first: int = 0) -> Iterator[Any]:
        assert not first
        yield from self._value.select(columns).collect_batches(chunk_size=_ROWS, maintain_order=True)
