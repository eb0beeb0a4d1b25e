"""Tables larger than memory, piece by piece: Parquet and Arrow data sets, lazy frames, Hugging Face data sets."""

__all__ = ["Pieces", "open_pieces"]

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimz.data.tables import Parameters, open_table

_ROWS = 2**16
"""Rows in a piece: enough for whole blocks, and few enough to hold some of them."""


@dataclass(frozen=True)
class Pieces:
    """A table that is read from the start each time it is iterated; yields data frames."""

    read: Callable[[Sequence[str]], Iterable[Any]]
    """Names of columns to an iterable of frames."""
    names: tuple[str, ...]
    """Columns to read."""
    known: tuple[str, ...]
    """All columns that there are."""
    n_obs: int | None = None
    same_order: bool = True
    """Whether rows come in one order each time."""

    def __iter__(self) -> Iterator[Any]:
        """Read it from the start."""
        return iter(self.read(self.names))

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
        for piece in self.read((name,)):
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


def open_pieces(value: Any, parameters: Parameters) -> Pieces | None:
    """Return a table larger than memory, of which only the columns that are needed are read; None for anything else.

    Raises
    ------
    TypeError
        If the library that made it cannot read it in pieces.
    """
    if isinstance(value, Pieces):
        return value
    found = _reader(value)
    if found is None:
        return None
    read, names, n_obs, same_order = found
    wanted = names
    if parameters.input in parameters.known:
        # What is missing is named when the first piece is looked at.
        needed = {*parameters.known[parameters.input], *parameters.further, parameters.output}
        wanted = tuple(name for name in names if name in needed) or names
    return Pieces(read, wanted, names, n_obs, same_order)


def _alike(labels: Sequence[Any]) -> bool:
    """Whether labels can be sorted."""
    return all(isinstance(label, str) for label in labels) or not any(isinstance(label, str) for label in labels)


type _Reader = tuple[Callable[[Sequence[str]], Iterable[Any]], tuple[str, ...], int | None, bool]
"""How to read columns, which there are, the number of rows, and whether they come in one order each time."""


def _reader(value: Any) -> _Reader | None:
    library = type(value).__module__.partition(".")[0]
    if library == "pyarrow" and hasattr(value, "count_rows") and hasattr(value, "to_batches"):
        return _arrow(value)
    if library == "pyarrow" and hasattr(value, "iter_batches"):  # one Parquet file
        names = tuple(value.schema_arrow.names)
        rows = int(value.metadata.num_rows)
        return lambda columns: value.iter_batches(_ROWS, columns=list(columns)), names, rows, True
    if library == "polars" and hasattr(value, "collect_schema") and not hasattr(value, "to_numpy"):
        return _polars(value)
    if library == "datasets" and hasattr(value, "with_format") and hasattr(value, "select_columns"):
        return _hugging_face(value)
    return None


def _arrow(value: Any) -> _Reader:
    if hasattr(value, "projected_schema"):  # a scanner, which has chosen its columns and the size of its pieces
        chosen = tuple(value.projected_schema.names)
        return (
            lambda columns: (p.select(list(columns)) for p in value.to_batches()),
            chosen,
            int(value.count_rows()),
            True,
        )

    def read(columns: Sequence[str]) -> Iterable[Any]:
        options: dict[str, Any] = {"columns": list(columns), "batch_size": _ROWS}
        if not hasattr(value, "format") or getattr(value, "_scan_options", None):  # in memory, or filtered
            yield from value.to_batches(**options)
            return
        # One group of rows after the other: a scan of everything reads ahead of a slow reader by up to a GiB.
        for fragment in value.get_fragments():
            for part in fragment.split_by_row_group() if hasattr(fragment, "split_by_row_group") else (fragment,):
                yield from part.to_batches(schema=value.schema, **options)

    return read, tuple(value.schema.names), int(value.count_rows()), True


def _hugging_face(value: Any) -> _Reader:
    arrow, counted = value.with_format("arrow"), hasattr(value, "__len__")

    def read(columns: Sequence[str]) -> Iterable[Any]:
        # Of a stream from a generator the columns are not known before it is read.
        yield from (arrow.select_columns(list(columns)) if columns else arrow).iter(_ROWS)

    return read, tuple(value.column_names or ()), len(value) if counted else None, counted


def _polars(value: Any) -> _Reader:
    if not hasattr(value, "collect_batches"):
        msg = (
            "A lazy frame must be one that can be collected in batches; this version of Polars cannot. Update it, or "
            "pass `frame.collect()`."
        )
        raise TypeError(msg)

    def read(columns: Sequence[str]) -> Iterable[Any]:
        yield from value.select(columns).collect_batches(chunk_size=_ROWS, maintain_order=True)

    return read, tuple(value.collect_schema().names()), _polars_rows(value), False


def _polars_rows(value: Any) -> int:
    """Return the number of rows, which a scan of files knows without reading them."""
    import polars as pl

    return int(value.select(pl.len()).collect().item())
