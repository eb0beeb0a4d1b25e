"""Tables read in chunks from any row: the same rows, without reading earlier ones."""

import multiprocessing
import os
from pathlib import Path

import cloudpickle
import datasets
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.feather
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from aimz.data import BatchReader, KernelParameters, open_chunked_table

N = 95
PARAMETERS = KernelParameters("X", "y", known={"X": ("a", "b")})
TABLE = pd.DataFrame({"b": np.arange(N) * 0.5, "other": "x", "a": np.arange(N, dtype=float), "y": np.arange(N) % 7})


def files(folder):
    for i, start in enumerate(range(0, N, 30)):
        part = pa.Table.from_pandas(TABLE[start : start + 30], preserve_index=False)
        pq.write_table(part, folder / f"{i}.parquet", row_group_size=8)
    return folder


def one_file(folder):
    pq.write_table(pa.Table.from_pandas(TABLE, preserve_index=False), folder / "all.parquet", row_group_size=8)
    return folder / "all.parquet"


def feather(folder):
    for i, start in enumerate(range(0, N, 30)):
        pyarrow.feather.write_feather(TABLE[start : start + 30], folder / f"{i}.feather")
    return ds.dataset(folder, format="feather")


def in_part(folder):
    """Return a data set of some row groups of one file; Arrow counts the rows of the whole file."""
    whole = pa.Table.from_pandas(TABLE, preserve_index=False)
    pq.write_table(pa.concat_tables([whole.slice(0, 16), whole]), folder / "more.parquet", row_group_size=16)
    found = ds.dataset(folder / "more.parquet")
    (fragment,) = found.get_fragments()
    parts = [fragment.subset(row_group_ids=list(range(1, fragment.num_row_groups)))]
    return ds.FileSystemDataset(parts, found.schema, found.format, found.filesystem)


def empty():
    return ds.dataset(pa.Table.from_pandas(TABLE[:0], schema=pa.Schema.from_pandas(TABLE), preserve_index=False))


def hundred(folder):
    """Return a file with one row, which a filter drops."""
    (folder / "more").mkdir()
    pq.write_table(pa.Table.from_pandas(TABLE[:1].assign(a=100.0), preserve_index=False), folder / "more/100.parquet")
    return ds.dataset(folder / "more" / "100.parquet")


def hugging_face(table, folder):
    """Return a memory-mapped data set."""
    datasets.Dataset.from_pandas(table, preserve_index=False).save_to_disk(folder / "saved")
    return datasets.load_from_disk(folder / "saved")


SOURCES = {
    "Parquet": lambda folder: ds.dataset(files(folder)),
    "groups of rows": in_part,
    "Feather": feather,
    "one file": lambda folder: pq.ParquetFile(one_file(folder)),
    "scanner": lambda folder: ds.dataset(files(folder)).scanner(batch_size=11),
    "filtered": lambda folder: ds.dataset(files(folder)).filter(ds.field("a") >= 0),
    "several, filtered": lambda folder: ds.dataset([ds.dataset(files(folder)), hundred(folder)]).filter(
        ds.field("a") < N
    ),
    "several": lambda folder: ds.dataset([ds.dataset(files(folder))]),
    "in memory": lambda _: ds.dataset(pa.Table.from_pandas(TABLE, preserve_index=False)),
    "several in memory": lambda folder: ds.dataset([ds.dataset(files(folder)), empty(), ds.dataset([empty()])]),
    "Hugging Face": lambda _: datasets.Dataset.from_pandas(TABLE, preserve_index=False),
    "Hugging Face on disk": lambda folder: hugging_face(TABLE, folder),
    "Hugging Face, some on disk": lambda folder: datasets.concatenate_datasets(
        [hugging_face(TABLE[:40], folder), datasets.Dataset.from_pandas(TABLE[40:], preserve_index=False)]
    ),
}
SHARED = ("Parquet", "groups of rows", "Feather", "several", "Hugging Face on disk")
STAYING = (
    "scanner",
    "filtered",
    "several, filtered",
    "one file",
    "in memory",
    "several in memory",
    "Hugging Face",
    "Hugging Face, some on disk",
)


def read(pieces, start, stop):
    reader = BatchReader(pieces, PARAMETERS, first_row=start)
    return reader.read(start, stop)


def assert_rows(got, start, stop):
    np.testing.assert_array_equal(got["X"], TABLE[["a", "b"]].to_numpy(np.float32)[start:stop])
    np.testing.assert_array_equal(got["y"], TABLE["y"].to_numpy(np.int32)[start:stop])


@pytest.mark.parametrize("kind", SOURCES)
def test_reading_starts_at_any_row(kind, tmp_path):
    pieces = open_chunked_table(SOURCES[kind](tmp_path), PARAMETERS)
    assert pieces.n_obs == N
    assert sum(len(piece) for piece in pieces) == N
    for start, stop in ((0, N), (1, 9), (8, 16), (29, 31), (30, 60), (67, N), (94, N)):
        one = pieces.starting(start)
        assert_rows(read(one, start, stop), start, stop)
        assert one.n_obs == N
        assert_rows(read(one, start, stop), start, stop)  # in a second pass
    np.testing.assert_array_equal(pieces.starting(50).labels("a"), TABLE["a"])  # labels of all rows


@pytest.mark.parametrize("kind", SHARED)
def test_another_process_reads_from_any_row(kind, tmp_path):
    pieces = open_chunked_table(SOURCES[kind](tmp_path), PARAMETERS).starting(50)
    assert_rows(read(cloudpickle.loads(cloudpickle.dumps(pieces)), 50, 70), 50, 70)


def _elsewhere(pickled):
    return read(cloudpickle.loads(pickled), 50, 70)


def test_a_spawned_process_reads_from_any_row(tmp_path):
    pieces = open_chunked_table(ds.dataset(files(tmp_path)), PARAMETERS).starting(50)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert_rows(pool.apply(_elsewhere, (cloudpickle.dumps(pieces),)), 50, 70)


def relative(kind):
    """Return a data set whose files have paths relative to the working directory."""
    if kind == "groups of rows":
        return in_part(Path())
    if kind == "Feather":
        return feather(Path("rows"))
    if kind == "partitions":
        for i, start in enumerate(range(0, N, 30)):
            part = pa.Table.from_pandas(TABLE[start : start + 30], preserve_index=False)
            pq.write_to_dataset(part.append_column("i", pa.array([i] * len(part))), "parts", partition_cols=["i"])
        return ds.dataset("parts", partitioning="hive")
    files(Path("rows"))
    return ds.dataset([ds.dataset("rows")]) if kind == "several" else ds.dataset("rows")


@pytest.mark.parametrize("kind", ["Parquet", "groups of rows", "Feather", "partitions", "several"])
def test_relative_paths_resolve_in_another_directory(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("rows").mkdir()
    pieces = open_chunked_table(relative(kind), PARAMETERS).starting(50)
    sent = cloudpickle.dumps(pieces)
    monkeypatch.chdir("/")
    assert_rows(read(cloudpickle.loads(sent), 50, 70), 50, 70)
    if kind == "partitions":
        np.testing.assert_array_equal(cloudpickle.loads(sent).labels("i"), np.arange(N) // 30)


@pytest.mark.parametrize("kind", ["Parquet", "Feather", "several"])
def test_missing_file_is_named_in_the_error(kind, tmp_path):
    sent = cloudpickle.dumps(open_chunked_table(SOURCES[kind](tmp_path), PARAMETERS).starting(50))
    (found,) = tmp_path.glob("1.*")
    found.rename(tmp_path / "elsewhere")
    with pytest.raises(
        FileNotFoundError, match=r"(?s)cannot find a file of the table .*1\..* Store it under a name that every process"
    ):
        read(cloudpickle.loads(sent), 50, 70)


@pytest.mark.parametrize("kind", STAYING)
def test_tables_bound_to_a_process_raise_when_pickled(kind, tmp_path):
    pieces = open_chunked_table(SOURCES[kind](tmp_path), PARAMETERS)
    with pytest.raises(TypeError, match=r"cannot be read by another process\. Write .* `pyarrow\.dataset\.dataset"):
        cloudpickle.dumps(pieces)


@pytest.mark.parametrize("kind", ["data set", "one file"])
def test_earlier_row_groups_are_not_read(kind, tmp_path):
    path = one_file(tmp_path)
    group = pq.ParquetFile(path).metadata.row_group(5)  # rows 40 to 48
    begins = min(group.column(i).dictionary_page_offset or group.column(i).data_page_offset for i in range(4))
    with path.open("r+b") as file:  # a corrupted group cannot be read
        file.seek(4)
        file.write(b"\xff" * (begins - 4))
    pieces = open_chunked_table(ds.dataset(path) if kind == "data set" else pq.ParquetFile(path), PARAMETERS)
    assert_rows(read(pieces.starting(43), 43, 80), 43, 80)
    with pytest.raises(OSError):
        read(pieces.starting(39), 39, 80)


def test_earlier_files_are_not_opened(tmp_path):
    pieces = open_chunked_table(ds.dataset(files(tmp_path)), PARAMETERS).starting(61)
    sent = cloudpickle.dumps(pieces)
    (tmp_path / "0.parquet").unlink()
    (tmp_path / "1.parquet").unlink()
    assert_rows(read(cloudpickle.loads(sent), 61, 95), 61, 95)


def rewrite(path, rows, size):
    pq.write_table(pa.Table.from_pandas(TABLE[:rows], preserve_index=False), path, row_group_size=size)


@pytest.mark.parametrize("where", ["here", "elsewhere", "elsewhere, nothing recorded"])
@pytest.mark.parametrize(("rows", "size"), [(25, 8), (20, 8), (31, 8), (33, 8), (30, 5)])
def test_file_changed_during_a_call_raises(where, rows, size, tmp_path):
    """The row groups of 8, 8, 8 and 6 rows become shorter, fewer, longer, more, or are split differently."""
    files(tmp_path)
    within = pa.fs.SubTreeFileSystem(str(tmp_path), pa.fs.LocalFileSystem())  # its sizes and times are not recorded
    pieces = open_chunked_table(
        ds.dataset("", filesystem=within) if "recorded" in where else ds.dataset(tmp_path), PARAMETERS
    )
    if where != "here":
        pieces = cloudpickle.loads(cloudpickle.dumps(pieces))
    other = pa.Table.from_pandas(TABLE[:rows], preserve_index=False)
    pq.write_table(other, tmp_path / "1.parquet", row_group_size=size)
    assert_rows(read(pieces, 0, 29), 0, 29)  # these files did not change
    assert_rows(read(pieces.starting(60), 60, N), 60, N)
    now = "has been written to since" if rows == 30 else f"had 30 rows and now has {rows}"
    expected = rf"when the call began; file '.*1\.parquet' {now}\. Call again when no other process"
    with pytest.raises(ValueError, match=expected):
        read(pieces.starting(40), 40, 50)


def test_file_written_while_it_is_read_raises(tmp_path):
    pieces = open_chunked_table(ds.dataset(files(tmp_path)), PARAMETERS)
    sent, rows = cloudpickle.dumps(pieces), iter(pieces)
    next(rows)
    os.utime(tmp_path / "0.parquet", ns=(0, 0))
    with pytest.raises(ValueError, match=r"file '.*0\.parquet' has been written to since\. Call again"):
        next(rows)
    assert_rows(read(cloudpickle.loads(sent), 0, N), 0, N)  # a copy on another machine has another time


@pytest.mark.parametrize("kind", ["lazy frame", "stream"])
def test_unordered_table_cannot_start_at_a_row(kind):
    given = pl.from_pandas(TABLE).lazy() if kind == "lazy frame" else datasets.Dataset.from_pandas(TABLE)
    pieces = open_chunked_table(given if kind == "lazy frame" else given.to_iterable_dataset(), PARAMETERS)
    with pytest.raises(ValueError, match=r"cannot be read from the middle\. Write it to Parquet"):
        pieces.starting(10)
    assert_rows(read(pieces, 0, N), 0, N)


# ------------------------------------------------------------------------------------- readers from any row


def test_reader_counts_rows_from_its_first_row():
    rows = np.arange(N, dtype=np.float32)
    reader = BatchReader([rows[40:45], rows[45:60], rows[60:]], PARAMETERS, first_row=40)
    assert reader.length_up_to(N) == N
    np.testing.assert_array_equal(reader.read(42, 50)["X"], rows[42:50])
    reader.rewind()
    np.testing.assert_array_equal(reader.read(42, 44)["X"], rows[42:44])
    np.testing.assert_array_equal(reader.read(70, 90)["X"], rows[70:90])
    with pytest.raises(IndexError, match="Row 39 was requested"):
        reader.read(39, 50)


def test_dtypes_are_those_of_the_whole_table():
    """A column of integers may begin with missing values in another chunk."""
    whole = BatchReader([pd.DataFrame({"a": [1, 2], "b": [0.5, 1.0], "y": [1, 2]})], KernelParameters("X", "y"))
    assert whole.types == {"X": np.float32, "y": np.int32}
    assert whole.parameters.known == {"X": ("a", "b")}
    swapped = pd.DataFrame({"b": [1, 0], "y": [3, 4], "a": [2, 3]})
    got = BatchReader([swapped], whole.parameters, first_row=2, types=whole.types).read(2, 4)
    np.testing.assert_array_equal(got["X"], np.array([[2, 1], [3, 0]], np.float32))
    assert {name: array.dtype for name, array in got.items()} == whole.types
    with pytest.raises(ValueError, match=r"`y` is float32 in a batch and int32 in the first"):
        BatchReader([swapped.assign(y=[1.0, np.nan])], whole.parameters, first_row=2, types=whole.types)
