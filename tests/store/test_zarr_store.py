"""Zarr results: format, completeness, damage, resuming, and the journal."""

import copy
import io
import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.errors import GroupNotFoundError

from aimz.errors import IncompleteResultError, StaleResultError
from aimz.output import as_group
from aimz.store import (
    JOURNAL,
    Directory,
    Group,
    Journal,
    TemporaryDirectory,
    Variable,
    ZarrStore,
    check_result,
)
from slow_cases import slow_except

GROUP = "posterior_predictive"
N_ROWS, CHUNK = 10, 4
WHOLE = {
    "mu": np.linspace(-1, 1, 2 * 3 * N_ROWS, dtype=np.float32).reshape(2, 3, N_ROWS),
    "y": (np.arange(2 * 3 * N_ROWS, dtype=np.int32) * 7 % 13).reshape(2, 3, N_ROWS),
}


def variable(dtype: Any, shape: tuple[int | None, ...] = (2, 3, N_ROWS)) -> Variable:
    return Variable(("chain", "draw", "obs"), shape, np.dtype(dtype), (2, 3, CHUNK), 2)


def posterior() -> xr.Dataset:
    """Return a group that is written as a whole, with labels of several types."""
    days = np.array(["2024-02-28", "2024-02-29", "2024-03-01"], "datetime64[ns]")
    return xr.Dataset(
        {
            "beta": (("chain", "draw", "feature"), np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)),
            "level": (("chain", "draw", "day"), np.zeros((2, 3, 3), np.float32)),
            "late": (("chain", "draw", "span", "dose"), np.ones((2, 3, 3, 2), bool)),
        },
        coords={
            "chain": range(2),
            "draw": range(3),
            "feature": ["age", "größe", "", "Δ"],
            "day": days,
            "span": np.array([0, 1, 3], "timedelta64[D]").astype("timedelta64[ns]"),
            "dose": [0.5, 0.0],
        },
        attrs={"created_at": "2024-01-01", "sample_dims": ["chain", "draw"], "intervention": "{}", "note": "naïve"},
    )


def new_store(directory: Path, *, journal: bool = False, temporary: TemporaryDirectory | None = None) -> ZarrStore:
    directory.mkdir(parents=True, exist_ok=True)
    kept = None
    if journal:
        kept = Journal.read(Directory(directory))
        if kept is None:
            kept = Journal(Directory(directory), {"kernel": "k", "rng_key": "1"}, "2024-01-01")
            (directory / JOURNAL).write_bytes(kept.head)
    return ZarrStore(directory, GROUP, root_attrs={"output_dir": "there"}, journal=kept, home=temporary)


def start(store: ZarrStore, shape: tuple[int | None, ...] = (2, 3, N_ROWS)) -> None:
    coords = {"chain": (("chain",), np.arange(2), {}), "draw": (("draw",), np.arange(3), {"axis": "sampling"})}
    variables = {name: variable(whole.dtype, shape) for name, whole in WHOLE.items()}
    store.open(Group(variables, coords, {"rng_key": "1", "sample_dims": ["chain", "draw"]}))
    store.write_group("posterior", *as_group(posterior()))


def fill(store: ZarrStore, names: tuple[str, ...] = ("mu", "y"), chunks: tuple[int, ...] = (0, 1, 2)) -> None:
    for chunk in chunks:
        for name in names:
            part = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
            store.write(name, WHOLE[name].reshape(6, N_ROWS)[:, part], chunk * CHUNK)


@pytest.fixture
def result(tmp_path):
    """Complete result."""
    store = new_store(tmp_path / "call")
    start(store)
    fill(store)
    store.finish(N_ROWS)
    return store


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


# ---------------------------------------------------------------------------------------------------- format


def metadata(store: ZarrStore, name: str) -> dict[str, Any]:
    return json.loads((store.location.path / name / "zarr.json").read_text())


def codecs(store: ZarrStore, name: str) -> list[str]:
    return [codec["name"] for codec in metadata(store, name)["codecs"]]


def test_floats_are_stored_uncompressed(result):
    assert codecs(result, f"{GROUP}/mu") == ["bytes", "crc32c"]
    assert codecs(result, "posterior/beta") == ["bytes", "crc32c"]
    raw = (result.location.path / GROUP / "mu" / "c" / "0" / "0" / "1").read_bytes()
    np.testing.assert_array_equal(np.frombuffer(raw[:-4], "<f4").reshape(2, 3, CHUNK), WHOLE["mu"][..., 4:8])


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint16", "bool"])
def test_integers_are_compressed(tmp_path, dtype):
    store = new_store(tmp_path)
    store.open(Group({"y": variable(dtype)}))
    found = metadata(store, f"{GROUP}/y")["codecs"]
    assert [codec["name"] for codec in found] == ["bytes", "blosc", "crc32c"]
    settings = found[1]["configuration"]
    assert (settings["cname"], settings["clevel"], settings["shuffle"]) == ("lz4", 5, "bitshuffle")
    assert settings["typesize"] == np.dtype(dtype).itemsize


def test_compressed_counts_are_smaller_than_their_dtype(tmp_path):
    store = new_store(tmp_path)
    store.open(Group({"y": Variable(("chain", "draw", "obs"), (1, 1, 2**16), np.dtype("int32"), (1, 1, 2**16), 2)}))
    store.write("y", np.random.default_rng(0).poisson(2, (1, 2**16)).astype(np.int32), 0)
    assert (tmp_path / GROUP / "y" / "c" / "0" / "0" / "0").stat().st_size < 2**18 / 4


def test_arrays_have_checksums_and_dimension_names(result):
    arrays = sorted(
        path.parent.relative_to(result.location.path) for path in result.location.path.glob("*/*/zarr.json")
    )
    assert len(arrays) == 2 + 3 + 2 + 6  # sites and labels of both groups
    for name in arrays:
        assert codecs(result, str(name))[-1] == "crc32c", name
        found = metadata(result, str(name))
        assert found["node_type"] == "array"
        assert len(found["dimension_names"]) == len(found["shape"])
    assert metadata(result, f"{GROUP}/mu")["dimension_names"] == ["chain", "draw", "obs"]


def test_chunk_shapes(result):
    assert metadata(result, f"{GROUP}/mu")["chunk_grid"]["configuration"]["chunk_shape"] == [2, 3, CHUNK]
    chunks = {path.name for path in (result.location.path / GROUP / "mu" / "c" / "0" / "0").iterdir()}
    assert chunks == {"0", "1", "2"}


@pytest.mark.parametrize(
    ("dtype", "fill_value"),
    [
        ("float32", "NaN"),
        ("float64", "NaN"),
        ("complex64", ["NaN", "NaN"]),
        ("int8", -128),
        ("int32", -(2**31)),
        ("int64", -(2**63)),
        ("uint16", 0),
        ("bool", False),
    ],
)
def test_fill_values_do_not_occur_in_results(tmp_path, dtype, fill_value):
    store = new_store(tmp_path)
    store.open(Group({"y": variable(dtype)}))
    found = metadata(store, f"{GROUP}/y")["fill_value"]
    assert found == fill_value or (fill_value == ["NaN", "NaN"] and found[0] == "NaN")


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint16", "bool"])
@pytest.mark.parametrize("what", ["zero", "fill"])
def test_chunks_of_zeros_or_fill_values_are_written(tmp_path, dtype, what):
    kind = np.dtype(dtype).kind
    fill_value = np.nan if kind == "f" else np.iinfo(dtype).min if kind in "iu" else False
    value = 0 if what == "zero" else fill_value
    store = new_store(tmp_path)
    store.open(Group({"y": variable(dtype)}))
    for at in (0, 4, 8):
        store.write("y", np.full((6, min(CHUNK, N_ROWS - at)), value, dtype), at)
    assert len([p for p in (tmp_path / GROUP / "y" / "c").rglob("*") if p.is_file()]) == 3
    store.finish(N_ROWS)
    np.testing.assert_array_equal(store.read("y")[...], np.full((2, 3, N_ROWS), value, dtype))


def test_0d_variable_needs_no_labels(tmp_path):
    """A 0-d array has one chunk, which is the file `c` itself."""
    store = new_store(tmp_path)
    store.open(Group({"y": variable("float32")}))
    store.write_group("constant", *as_group(xr.Dataset({"pi": ((), np.float32(3.14))})))
    for at in (0, 4, 8):
        store.write("y", WHOLE["mu"].reshape(6, -1)[:, at : at + 4], at)
    store.finish(N_ROWS)
    check_result(tmp_path)
    with xr.open_datatree(tmp_path, engine="zarr") as tree:
        assert float(tree["constant"]["pi"]) == np.float32(3.14)


# ---------------------------------------------------------------------------------- completeness

OPENERS: dict[str, Callable[[Path], Any]] = {
    "zarr.open": lambda path: zarr.open(path, mode="r"),
    "zarr.open_group": lambda path: zarr.open_group(path, mode="r"),
    "zarr.open_consolidated": lambda path: zarr.open_consolidated(path, mode="r"),
    "xarray.open_datatree": lambda path: xr.open_datatree(path, engine="zarr"),
    "xarray.open_dataset": lambda path: xr.open_dataset(path, engine="zarr"),
    "xarray.open_zarr": lambda path: xr.open_zarr(path),
    "xarray.open_zarr of the group": lambda path: xr.open_zarr(path, group=f"/{GROUP}", consolidated=True),
}


def refuses(open_it: Callable[[Path], Any], path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # xarray warns that it falls back to other metadata
        with pytest.raises((FileNotFoundError, GroupNotFoundError, KeyError, ValueError)):
            open_it(path)


@pytest.mark.parametrize("name", OPENERS)
def test_unfinished_result_cannot_be_opened(tmp_path, name):
    store = new_store(tmp_path)
    refuses(OPENERS[name], tmp_path)
    start(store)
    refuses(OPENERS[name], tmp_path)
    fill(store, chunks=(0, 1))
    refuses(OPENERS[name], tmp_path)
    fill(store, chunks=(2,))
    refuses(OPENERS[name], tmp_path)
    assert b"aimz_unfinished" in (tmp_path / "zarr.json").read_bytes()
    store.finish(N_ROWS)
    OPENERS[name](tmp_path)


def test_check_result_raises_with_advice_for_an_unfinished_result(tmp_path):
    store = new_store(tmp_path)
    start(store)
    fill(store)
    with pytest.raises(IncompleteResultError, match=f"did not finish.*resume='{tmp_path}'"):
        check_result(tmp_path)
    store.finish(N_ROWS)
    assert check_result(tmp_path).checksums is not None


@pytest.mark.parametrize("chunks", [(), (0,), (0, 2), (1, 2)])
@pytest.mark.parametrize("shape", [(2, 3, N_ROWS), (2, 3, None)])
def test_finish_raises_for_missing_chunks(tmp_path, chunks, shape):
    store = new_store(tmp_path)
    start(store, shape)
    fill(store, ("mu",))
    fill(store, ("y",), chunks)
    with pytest.raises(OSError, match="is missing"):
        store.finish(N_ROWS)
    assert b"aimz_unfinished" in (tmp_path / "zarr.json").read_bytes()


@pytest.mark.parametrize("length", [0, 10, 100])
def test_finish_raises_for_truncated_chunks(tmp_path, length):
    store = new_store(tmp_path)
    start(store)
    fill(store)
    damaged = tmp_path / GROUP / "mu" / "c" / "0" / "0" / "1"
    assert damaged.stat().st_size == 2 * 3 * CHUNK * 4 + 4
    damaged.write_bytes(damaged.read_bytes().ljust(200, b"x")[:length])
    if length == 100:
        store.finish(N_ROWS)  # the chunk has the right length
        return
    with pytest.raises(OSError, match="is missing"):
        store.finish(N_ROWS)


def test_finish_raises_for_missing_labels_or_groups(tmp_path):
    for i, name in enumerate([f"{GROUP}/draw/c/0", "posterior/beta/c/0/0/0", "posterior/feature/c/0"]):
        store = new_store(tmp_path / str(i))
        start(store)
        fill(store)
        (store.location.path / name).unlink()
        with pytest.raises(OSError, match="is missing"):
            store.finish(N_ROWS)


def test_root_metadata_are_written_atomically_and_last(tmp_path, monkeypatch):
    """Once the root exists, everything it refers to exists."""
    store = new_store(tmp_path, journal=True)
    start(store)
    fill(store)
    seen = []

    def replace(source: Any, target: Any, *args: Any, **kwargs: Any) -> None:
        if Path(target) == tmp_path / "zarr.json" and "aimz_unfinished" not in Path(source).read_text():
            seen.append(files(tmp_path))
            json.loads(Path(source).read_text())  # the draft is complete before it is renamed
        os_replace(source, target, *args, **kwargs)

    os_replace = os.replace
    monkeypatch.setattr(os, "replace", replace)
    store.finish(N_ROWS)
    (before,) = seen
    after = files(tmp_path)
    assert b"aimz_unfinished" in before["zarr.json"]
    assert {name for name in before if not name.endswith(".partial")} - {JOURNAL} == set(after)
    assert [name for name, content in after.items() if name != "zarr.json" and content != before[name]] == []
    assert JOURNAL in before
    assert JOURNAL not in after


def test_resume_removes_drafts_of_a_killed_process(tmp_path):
    store = new_store(tmp_path, journal=True)
    start(store)
    fill(store, chunks=(0, 1))
    for name in (f"{GROUP}/mu/c/0/0/2.abc.partial", f"{GROUP}/y/zarr.def.partial", "zarr.json.partial"):
        (tmp_path / name).write_bytes(b"torn")
    again = new_store(tmp_path, journal=True)
    start(again)
    fill(again, chunks=(2,))
    again.finish(N_ROWS)
    assert not list(tmp_path.rglob("*.partial"))
    check_result(tmp_path)


# --------------------------------------------------------------------------------- other readers


def test_xarray_opens_the_result_without_warnings(result):
    """Warnings are errors in this test suite."""
    with xr.open_datatree(result.location.path, engine="zarr") as tree:
        assert set(tree.children) == {GROUP, "posterior"}
        assert tree.attrs["output_dir"] == "there"
        group = tree[GROUP].to_dataset()
        for name, whole in WHOLE.items():
            assert group[name].dims == ("chain", "draw", "obs")
            assert group[name].dtype == whole.dtype
            np.testing.assert_array_equal(group[name].values, whole)
            assert "_FillValue" not in group[name].attrs
        assert group.attrs == {"rng_key": "1", "sample_dims": ["chain", "draw"]}
        np.testing.assert_array_equal(group["draw"], range(3))
        assert group["draw"].dtype == np.int64
        assert group["draw"].attrs == {"axis": "sampling"}
        expected = posterior()
        found = tree["posterior"].to_dataset().load()
        xr.testing.assert_equal(found, expected)
        assert found.attrs == expected.attrs
        for name, coord in expected.coords.items():
            assert found[name].dims == coord.dims
            if coord.dtype.kind in "US":
                assert found[name].values.tolist() == coord.values.tolist()
            else:
                np.testing.assert_array_equal(found[name].values, coord.values)
        assert found["day"].dtype.kind == "M"
        assert found["span"].dtype.kind == "m"
        assert list(found["feature"].to_index()) == ["age", "größe", "", "Δ"]
        assert float(found["beta"].sel(feature="größe")[0, 0]) == 1.0


def test_xarray_uses_consolidated_metadata(result, monkeypatch):
    """Only the metadata of the root are read."""
    opened = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (opened.append(str(path)), original(path))[1])
    with xr.open_datatree(result.location.path, engine="zarr") as tree:
        assert list(tree[GROUP].data_vars) == ["mu", "y"]
    inner = [path for path in opened if path.endswith("zarr.json") and Path(path).parent != result.location.path]
    assert inner == []
    root = json.loads((result.location.path / "zarr.json").read_text())["consolidated_metadata"]
    assert root["kind"] == "inline"
    for name, node in root["metadata"].items():
        assert node == {**node, **json.loads((result.location.path / name / "zarr.json").read_text())}, name


def test_zarr_reads_the_arrays(result):
    root = zarr.open_group(result.location.path, mode="r")
    assert sorted(root.group_keys()) == ["posterior", GROUP]
    for name, whole in WHOLE.items():
        np.testing.assert_array_equal(root[GROUP][name][...], whole)
    assert root["posterior/feature"][...].tolist() == ["age", "größe", "", "Δ"]


def test_unknown_length(tmp_path):
    store = new_store(tmp_path)
    start(store, (2, 3, None))
    fill(store)
    store.finish(N_ROWS)
    with xr.open_datatree(tmp_path, engine="zarr") as tree:
        for name, whole in WHOLE.items():
            np.testing.assert_array_equal(tree[GROUP][name].values, whole)
    assert check_result(tmp_path).chunks[f"{GROUP}/y"] == 3


def test_moved_result_is_readable(result, tmp_path):
    shutil.move(result.location.path, tmp_path / "elsewhere")
    with xr.open_datatree(tmp_path / "elsewhere", engine="zarr") as tree:
        np.testing.assert_array_equal(tree[GROUP]["y"].values, WHOLE["y"])
    check_result(tmp_path / "elsewhere")


# ---------------------------------------------------------------------------------------------------- damage


def truncated(content: bytes, keep: float) -> bytes:
    return content[: int(len(content) * keep)]


def flipped(content: bytes, at: float) -> bytes:
    altered = bytearray(content)
    altered[min(int(len(content) * at), len(content) - 1)] ^= 1
    return bytes(altered)


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "deleted": lambda _: None,
    "empty": lambda _: b"",
    "one byte": lambda content: content[:1],
    "as long as its checksum": lambda content: content[:4],
    "half": lambda content: truncated(content, 0.5),
    "a byte short": lambda content: content[:-1],
    "its checksum cut off": lambda content: content[:-4],
    "a byte more": lambda content: content + b"\0",
    "twice": lambda content: content * 2,
    "first bit flipped": lambda content: flipped(content, 0),
    "a bit in the middle": lambda content: flipped(content, 0.5),
    "a bit of the checksum": lambda content: flipped(content, 1),
    "zeros": lambda content: bytes(len(content)),
    "a page of zeros": lambda content: content[: len(content) // 2] + bytes(len(content) - len(content) // 2),
    "all ones": lambda content: b"\xff" * len(content),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["mu", "y"])
@pytest.mark.parametrize("reopened", [False, True])
def test_reading_a_damaged_chunk_raises(result, damage, name, reopened):
    live = check_result(result.location.path).array(f"{GROUP}/{name}") if reopened else result.read(name)
    np.testing.assert_array_equal(live[...], WHOLE[name])
    chunk = result.location.path / GROUP / name / "c" / "0" / "0" / "1"
    content = DAMAGE[damage](chunk.read_bytes())
    if content is None:
        chunk.unlink()
    else:
        chunk.write_bytes(content)
    for read in (
        lambda: live[...],
        lambda: live[:, :, 5],
        lambda: live[0, 1, 3:5],
        lambda: da.from_array(live, chunks=live.chunks).mean().compute(),
    ):
        with pytest.raises(IncompleteResultError, match=f"`{GROUP}/{name}`.*missing data, or they were altered"):
            read()
    # Undamaged chunks are still readable.
    np.testing.assert_array_equal(live[:, :, :4], WHOLE[name][:, :, :4])


@pytest.mark.parametrize(
    "gone", [f"{GROUP}/mu/c/0/0/2", f"{GROUP}/y/c", f"{GROUP}/y", "posterior/beta/c/0/0/0", "posterior", "zarr.json"]
)
def test_check_result_raises_for_missing_files(result, gone):
    check_result(result.location.path)
    path = result.location.path / gone
    path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(IncompleteResultError):
        check_result(result.location.path)


def test_check_result_raises_for_other_directories(tmp_path):
    zarr.create_group(tmp_path / "other")
    with pytest.raises(IncompleteResultError, match="is no result"):
        check_result(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="There is no result"):
        check_result(tmp_path / "nothing")


@pytest.mark.parametrize("reopened", [False, True])
def test_reading_a_removed_result_raises_stale_result_error(result, reopened):
    live = check_result(result.location.path).array(f"{GROUP}/mu") if reopened else result.read("mu")
    shutil.rmtree(result.location.path)
    with pytest.raises(StaleResultError, match="no longer exists"):
        live[...]


def test_opening_a_removed_array_raises_stale_result_error(result):
    opened = check_result(result.location.path)
    shutil.rmtree(result.location.path)
    with pytest.raises(StaleResultError):
        opened.array(f"{GROUP}/mu")[...]
    with pytest.raises(FileNotFoundError, match="There is no result"):
        check_result(result.location.path)


def test_temporary_result_is_stale_once_its_directory_is_closed():
    home = TemporaryDirectory()
    store = new_store(home.path / "call", temporary=home)
    start(store)
    fill(store)
    store.finish(N_ROWS)
    live = store.read("mu")
    np.testing.assert_array_equal(live[...], WHOLE["mu"])
    home.close()
    assert not home.path.exists()
    with pytest.raises(StaleResultError, match="cleaned up"):
        live[...]


# ----------------------------------------------------------------------------------------------------- resume


class Killed(BaseException):
    """Simulates a killed process; must not be caught."""


class Disk:
    """Counts operations that change files below a directory, and simulates a kill at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.at: int | None = None
        self.torn = False
        open_file, replace = io.open, os.replace

        def opening(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if any(letter in mode for letter in "wax"):
                self._one(lambda: open_file(file, mode, *args, **kwargs).close())
            return open_file(file, mode, *args, **kwargs)

        def replacing(*args: Any, **kwargs: Any) -> None:
            self._one(lambda: replace(*args, **kwargs))
            replace(*args, **kwargs)

        monkeypatch.setattr(io, "open", opening)
        monkeypatch.setattr(os, "replace", replacing)

    def _one(self, act: Callable[[], None]) -> None:
        self.count += 1
        if self.at is not None and self.count == self.at:
            if self.torn:
                with suppress(FileNotFoundError):  # the operation was an attempt without effect
                    act()  # the file was opened, but not written
            raise Killed


def whole_call(directory: Path, shape: tuple[int | None, ...]) -> None:
    """Write a result, or the missing parts of an interrupted run."""
    store = new_store(directory, journal=True)
    start(store, shape)
    missing = {position[2] for name in WHOLE for position in store.missing(name)}
    if shape[2] is None:
        missing |= set(range(min(store.length(name) for name in WHOLE) // CHUNK, 3))
    fill(store, chunks=tuple(sorted(missing)))
    store.finish(N_ROWS)


@pytest.mark.parametrize("torn", slow_except([False, True], True))
@pytest.mark.parametrize("shape", [(2, 3, N_ROWS), (2, 3, None)])
def test_resumed_run_writes_the_same_files_wherever_it_was_killed(tmp_path, monkeypatch, shape, torn):
    """The kill is between two file operations, or between opening a file and writing to it."""
    disk = Disk(monkeypatch)
    whole_call(tmp_path / "uninterrupted", shape)
    expected, n_operations = files(tmp_path / "uninterrupted"), disk.count
    assert n_operations > 20
    disk.torn = torn
    failures = {}
    # The first operation is that of the journal.  One of the four cases tests all operations, the others a sample.
    for at in range(2, n_operations + 1, 1 if shape[2] and torn else 3):
        directory = tmp_path / str(at)
        disk.count, disk.at = 0, at
        with pytest.raises(Killed):
            whole_call(directory, shape)
        disk.at = None
        left = sorted(files(directory))
        if "zarr.json" in left and b"aimz_unfinished" not in (directory / "zarr.json").read_bytes():
            check_result(directory)
            continue
        for name in ("zarr.open_group", "xarray.open_datatree"):
            refuses(OPENERS[name], directory)
        try:
            whole_call(directory, shape)
            found = files(directory)
            unlike = [name for name in sorted({*expected, *found}) if expected.get(name) != found.get(name)]
            if unlike:
                failures[at] = unlike
        except Exception as error:
            failures[at] = repr(error)
    assert failures == {}


def test_resume_does_not_rewrite_whole_chunks(tmp_path):
    store = new_store(tmp_path, journal=True)
    start(store)
    fill(store, chunks=(0, 2))
    (tmp_path / GROUP / "y" / "c" / "0" / "0" / "2").unlink()
    damaged = tmp_path / GROUP / "mu" / "c" / "0" / "0" / "0"
    damaged.write_bytes(flipped(damaged.read_bytes(), 0.3))
    again = new_store(tmp_path, journal=True)
    start(again)
    assert list(again.missing("mu")) == [(0, 0, 0), (0, 0, 1)]
    assert list(again.missing("y")) == [(0, 0, 1), (0, 0, 2)]


@pytest.mark.parametrize("damage", [damage for damage in DAMAGE if damage != "deleted"])
@pytest.mark.parametrize("name", ["mu", "y"])
def test_damaged_chunks_count_as_missing(tmp_path, damage, name):
    store = new_store(tmp_path, journal=True)
    start(store)
    fill(store)
    chunk = tmp_path / GROUP / name / "c" / "0" / "0" / "1"
    chunk.write_bytes(DAMAGE[damage](chunk.read_bytes()))
    again = new_store(tmp_path, journal=True)
    start(again)
    assert list(again.missing(name)) == [(0, 0, 1)]


# ------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), RuntimeError("device")])
def test_fail_returns_the_error_with_a_note(tmp_path, error):
    store = new_store(tmp_path, journal=True)
    start(store)
    assert store.fail(error) is error
    assert f"resume='{tmp_path}'" in "".join(error.__notes__)


def test_full_disk_error_has_path_and_advice(tmp_path):
    store = new_store(tmp_path, journal=True)
    start(store)
    error = store.fail(OSError(28, "No space left on device"))
    assert isinstance(error, OSError)
    assert error.errno == 28
    said = "".join([str(error), *getattr(error, "__notes__", [])])
    assert str(tmp_path) in said
    assert f"resume='{tmp_path}'" in said
    assert "No space left" in said


# -------------------------------------------------------------------------------------- zarr's configuration


@pytest.fixture
def settings():
    """Return a function that prints zarr's configuration; restore the configuration after the test."""
    before = copy.deepcopy(zarr.config.config)
    yield lambda: json.dumps(zarr.config.config, sort_keys=True, default=str)
    zarr.config.config.clear()
    zarr.config.config.update(before)


def test_zarr_configuration_is_unchanged(tmp_path, settings):
    before = settings()
    store = new_store(tmp_path)
    start(store)
    assert settings() == before
    fill(store)
    store.finish(N_ROWS)
    check_result(tmp_path).array(f"{GROUP}/mu")[...]
    assert settings() == before
    with pytest.raises(OSError):
        check_result(tmp_path / "nothing")
    assert settings() == before
    # A user's array with chunks left out on purpose reads as before.
    other = zarr.create_array(tmp_path / "other", shape=(4,), chunks=(2,), dtype="int32", fill_value=7)
    other[:2] = 1
    assert zarr.open_array(tmp_path / "other")[...].tolist() == [1, 1, 7, 7]


def test_zarr_configuration_is_unchanged_by_threads(result, settings):
    """The configuration is global, and threads change it in any order."""
    before = settings()
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait()
        for _ in range(50):
            check_result(result.location.path).array(f"{GROUP}/mu")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert settings() == before


# ---------------------------------------------------------------------------------------------------- journal


@pytest.fixture
def journal(tmp_path):
    made = Journal(Directory(tmp_path), {"kernel": "k", "rng_key": "1"}, "2024-01-01")
    (tmp_path / JOURNAL).write_bytes(made.head)
    return made


def test_journal_round_trip(journal, tmp_path):
    assert journal.record_all([(0, "a")]) is None
    assert journal.record_all([(1024, "b")]) is None
    read = Journal.read(Directory(tmp_path))
    assert read == Journal(Directory(tmp_path), {"kernel": "k", "rng_key": "1"}, "2024-01-01", {0: "a", 1024: "b"})
    assert read.record_all([(0, "a")]) is None
    assert read.record_all([(1024, "other")]) == 1024
    assert read.record_all([(2048, "c")]) is None
    assert Journal.read(Directory(tmp_path)).rows == {0: "a", 1024: "b", 2048: "c"}


@pytest.mark.parametrize("cut", range(1, 15))
def test_torn_last_line_of_a_journal_is_ignored(journal, tmp_path, cut):
    journal.record_all([(0, "a")])
    journal.record_all([(1024, "digest")])
    whole = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(whole[:-cut])
    kept = Journal.read(Directory(tmp_path)).rows
    assert kept == {0: "a"} or (cut == 1 and kept == {0: "a", 1024: "digest"})


@pytest.mark.parametrize("cut", range(1, 15))
def test_journal_is_appended_after_a_torn_line(journal, tmp_path, cut):
    journal.record_all([(0, "a")])
    journal.record_all([(1024, "digest")])
    (tmp_path / JOURNAL).write_bytes((tmp_path / JOURNAL).read_bytes()[:-cut])
    again = Journal.read(Directory(tmp_path))
    assert again.record_all([(1024, "digest")]) is None
    assert again.record_all([(2048, "c")]) is None
    assert Journal.read(Directory(tmp_path)).rows == {0: "a", 1024: "digest", 2048: "c"}


def test_journal_without_a_whole_first_line_is_none(journal, tmp_path):
    (tmp_path / JOURNAL).write_bytes((tmp_path / JOURNAL).read_bytes()[:20])
    assert Journal.read(Directory(tmp_path)) is None
    (tmp_path / JOURNAL).write_bytes(b"")
    assert Journal.read(Directory(tmp_path)) is None
    (tmp_path / JOURNAL).unlink()
    assert Journal.read(Directory(tmp_path)) is None


def test_trailing_zeros_of_a_journal_are_ignored(journal, tmp_path):
    """A power failure may leave a file that was extended but not written."""
    journal.record_all([(0, "a")])
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(bytes(4096))
    assert Journal.read(Directory(tmp_path)).rows == {0: "a"}
