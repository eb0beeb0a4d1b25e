"""The format on disk: what is written and how, complete or not at all, and never read wrong afterwards."""

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
    StoredArray,
    TemporaryDirectory,
    Variable,
    ZarrStore,
    check_result,
)

GROUP = "posterior_predictive"
N_ROWS, CHUNK = 10, 4
WHOLE = {
    "mu": np.linspace(-1, 1, 2 * 3 * N_ROWS, dtype=np.float32).reshape(2, 3, N_ROWS),
    "y": (np.arange(2 * 3 * N_ROWS, dtype=np.int32) * 7 % 13).reshape(2, 3, N_ROWS),
}


def variable(dtype: Any, shape: tuple[int | None, ...] = (2, 3, N_ROWS)) -> Variable:
    return Variable(("chain", "draw", "obs"), shape, np.dtype(dtype), (2, 3, CHUNK), 2)


def posterior() -> xr.Dataset:
    """A group that is written at once, with labels of several kinds."""
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


def new_sink(directory: Path, *, journal: bool = False, temporary: TemporaryDirectory | None = None) -> ZarrStore:
    directory.mkdir(parents=True, exist_ok=True)
    kept = None
    if journal:
        kept = Journal.read(Directory(directory))
        if kept is None:
            kept = Journal(Directory(directory), {"kernel": "k", "rng_key": "1"}, "2024-01-01")
            kept.begin()
    return ZarrStore(directory, GROUP, root_attrs={"output_dir": "there"}, journal=kept, temporary=temporary)


def start(sink: ZarrStore, shape: tuple[int | None, ...] = (2, 3, N_ROWS)) -> None:
    coords = {"chain": (("chain",), np.arange(2), {}), "draw": (("draw",), np.arange(3), {"axis": "sampling"})}
    variables = {name: variable(whole.dtype, shape) for name, whole in WHOLE.items()}
    sink.open(Group(variables, coords, {"rng_key": "1", "sample_dims": ["chain", "draw"]}))
    sink.write_group("posterior", *as_group(posterior()))


def fill(sink: ZarrStore, names: tuple[str, ...] = ("mu", "y"), chunks: tuple[int, ...] = (0, 1, 2)) -> None:
    for chunk in chunks:
        for name in names:
            part = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
            sink.write(name, WHOLE[name].reshape(6, N_ROWS)[:, part], chunk * CHUNK)


@pytest.fixture
def result(tmp_path):
    """A complete result."""
    sink = new_sink(tmp_path / "call")
    start(sink)
    fill(sink)
    sink.finish(N_ROWS)
    return sink


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


# ---------------------------------------------------------------------------------------------------- format


def metadata(sink: ZarrStore, name: str) -> dict[str, Any]:
    return json.loads((sink.location.path / name / "zarr.json").read_text())


def codecs(sink: ZarrStore, name: str) -> list[str]:
    return [codec["name"] for codec in metadata(sink, name)["codecs"]]


def test_floats_lie_as_they_are(result):
    assert codecs(result, f"{GROUP}/mu") == ["bytes", "crc32c"]
    assert codecs(result, "posterior/beta") == ["bytes", "crc32c"]
    raw = (result.location.path / GROUP / "mu" / "c" / "0" / "0" / "1").read_bytes()
    np.testing.assert_array_equal(np.frombuffer(raw[:-4], "<f4").reshape(2, 3, CHUNK), WHOLE["mu"][..., 4:8])


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint16", "bool"])
def test_whole_numbers_are_packed(tmp_path, dtype):
    sink = new_sink(tmp_path)
    sink.open(Group({"y": variable(dtype)}))
    found = metadata(sink, f"{GROUP}/y")["codecs"]
    assert [codec["name"] for codec in found] == ["bytes", "blosc", "crc32c"]
    settings = found[1]["configuration"]
    assert (settings["cname"], settings["clevel"], settings["shuffle"]) == ("lz4", 5, "bitshuffle")
    assert settings["typesize"] == np.dtype(dtype).itemsize


def test_counts_take_less_room_than_their_type(tmp_path):
    sink = new_sink(tmp_path)
    sink.open(Group({"y": Variable(("chain", "draw", "obs"), (1, 1, 2**16), np.dtype("int32"), (1, 1, 2**16), 2)}))
    sink.write("y", np.random.default_rng(0).poisson(2, (1, 2**16)).astype(np.int32), 0)
    assert (tmp_path / GROUP / "y" / "c" / "0" / "0" / "0").stat().st_size < 2**18 / 4


def test_every_array_has_a_checksum_and_names_its_axes(result):
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


def test_chunks_are_as_they_were_asked_for(result):
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
def test_fill_values_are_none_that_a_result_has_by_chance(tmp_path, dtype, fill_value):
    sink = new_sink(tmp_path)
    sink.open(Group({"y": variable(dtype)}))
    found = metadata(sink, f"{GROUP}/y")["fill_value"]
    assert found == fill_value or (fill_value == ["NaN", "NaN"] and found[0] == "NaN")


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint16", "bool"])
@pytest.mark.parametrize("what", ["zero", "fill"])
def test_chunks_of_nothing_but_zeros_or_fill_are_written(tmp_path, dtype, what):
    kind = np.dtype(dtype).kind
    fill_value = np.nan if kind == "f" else np.iinfo(dtype).min if kind in "iu" else False
    value = 0 if what == "zero" else fill_value
    sink = new_sink(tmp_path)
    sink.open(Group({"y": variable(dtype)}))
    for at in (0, 4, 8):
        sink.write("y", np.full((6, min(CHUNK, N_ROWS - at)), value, dtype), at)
    assert len([p for p in (tmp_path / GROUP / "y" / "c").rglob("*") if p.is_file()]) == 3
    sink.finish(N_ROWS)
    np.testing.assert_array_equal(sink.read("y")[...], np.full((2, 3, N_ROWS), value, dtype))


def test_no_labels_are_needed_for_a_variable_of_one_number(tmp_path):
    """A 0-d array has one chunk, which is the file `c` itself."""
    sink = new_sink(tmp_path)
    sink.open(Group({"y": variable("float32")}))
    sink.write_group("constant", *as_group(xr.Dataset({"pi": ((), np.float32(3.14))})))
    for at in (0, 4, 8):
        sink.write("y", WHOLE["mu"].reshape(6, -1)[:, at : at + 4], at)
    sink.finish(N_ROWS)
    check_result(tmp_path)
    with xr.open_datatree(tmp_path, engine="zarr") as tree:
        assert float(tree["constant"]["pi"]) == np.float32(3.14)


# ---------------------------------------------------------------------------------- complete or not at all

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
        warnings.simplefilter("ignore")  # xarray says that it looks for metadata elsewhere
        with pytest.raises((FileNotFoundError, GroupNotFoundError, KeyError, ValueError)):
            open_it(path)


@pytest.mark.parametrize("name", OPENERS)
def test_nothing_opens_what_is_not_finished(tmp_path, name):
    sink = new_sink(tmp_path)
    refuses(OPENERS[name], tmp_path)
    start(sink)
    refuses(OPENERS[name], tmp_path)
    fill(sink, chunks=(0, 1))
    refuses(OPENERS[name], tmp_path)
    fill(sink, chunks=(2,))
    refuses(OPENERS[name], tmp_path)
    assert not (tmp_path / "zarr.json").exists()
    sink.finish(N_ROWS)
    OPENERS[name](tmp_path)


def test_our_own_check_refuses_it_and_says_how_to_go_on(tmp_path):
    sink = new_sink(tmp_path)
    start(sink)
    fill(sink)
    with pytest.raises(IncompleteResultError, match=f"did not finish.*resume='{tmp_path}'"):
        check_result(tmp_path)
    sink.finish(N_ROWS)
    assert check_result(tmp_path)["complete"]


@pytest.mark.parametrize("chunks", [(), (0,), (0, 2), (1, 2)])
@pytest.mark.parametrize("shape", [(2, 3, N_ROWS), (2, 3, None)])
def test_finish_refuses_where_a_chunk_is_missing(tmp_path, chunks, shape):
    sink = new_sink(tmp_path)
    start(sink, shape)
    fill(sink, ("mu",))
    fill(sink, ("y",), chunks)
    with pytest.raises(OSError, match="is missing"):
        sink.finish(N_ROWS)
    assert not (tmp_path / "zarr.json").exists()


@pytest.mark.parametrize("length", [0, 10, 100])
def test_finish_refuses_where_a_chunk_is_not_whole(tmp_path, length):
    sink = new_sink(tmp_path)
    start(sink)
    fill(sink)
    damaged = tmp_path / GROUP / "mu" / "c" / "0" / "0" / "1"
    assert damaged.stat().st_size == 2 * 3 * CHUNK * 4 + 4
    damaged.write_bytes(damaged.read_bytes().ljust(200, b"x")[:length])
    if length == 100:
        sink.finish(N_ROWS)  # it has just the right length
        return
    with pytest.raises(OSError, match="is missing"):
        sink.finish(N_ROWS)


def test_finish_refuses_where_labels_or_a_group_beside_are_gone(tmp_path):
    for i, name in enumerate([f"{GROUP}/draw/c/0", "posterior/beta/c/0/0/0", "posterior/feature/c/0"]):
        sink = new_sink(tmp_path / str(i))
        start(sink)
        fill(sink)
        (sink.location.path / name).unlink()
        with pytest.raises(OSError, match="is missing"):
            sink.finish(N_ROWS)


def test_the_root_appears_in_one_step_and_last(tmp_path, monkeypatch):
    """When its name is there, everything it speaks of is."""
    sink = new_sink(tmp_path, journal=True)
    start(sink)
    fill(sink)
    seen = []

    def replace(source: Any, target: Any, *args: Any, **kwargs: Any) -> None:
        if Path(target) == tmp_path / "zarr.json":
            seen.append(files(tmp_path))
            json.loads(Path(source).read_text())  # whole before it gets its name
        os_replace(source, target, *args, **kwargs)

    os_replace = os.replace
    monkeypatch.setattr(os, "replace", replace)
    sink.finish(N_ROWS)
    (before,) = seen
    after = files(tmp_path)
    assert "zarr.json" not in before
    assert {name for name in before if not name.endswith(".partial")} - {JOURNAL} == set(after) - {"zarr.json"}
    assert JOURNAL in before
    assert JOURNAL not in after


def test_partial_files_of_a_process_that_was_killed_are_swept(tmp_path):
    sink = new_sink(tmp_path, journal=True)
    start(sink)
    fill(sink, chunks=(0, 1))
    for name in (f"{GROUP}/mu/c/0/0/2.abc.partial", f"{GROUP}/y/zarr.def.partial", "zarr.json.partial"):
        (tmp_path / name).write_bytes(b"torn")
    again = new_sink(tmp_path, journal=True)
    start(again)
    fill(again, chunks=(2,))
    again.finish(N_ROWS)
    assert not list(tmp_path.rglob("*.partial"))
    check_result(tmp_path)


# --------------------------------------------------------------------------------- any reader gets all of it


def test_xarray_alone_gives_it_back_without_a_warning(result):
    """Warnings are errors in these tests."""
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


def test_xarray_reads_the_metadata_once(result, monkeypatch):
    """Consolidated: nothing but the root's metadata is opened."""
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


def test_zarr_alone_reads_the_arrays(result):
    root = zarr.open_group(result.location.path, mode="r")
    assert sorted(root.group_keys()) == ["posterior", GROUP]
    for name, whole in WHOLE.items():
        np.testing.assert_array_equal(root[GROUP][name][...], whole)
    assert root["posterior/feature"][...].tolist() == ["age", "größe", "", "Δ"]


def test_length_that_is_known_at_the_end(tmp_path):
    sink = new_sink(tmp_path)
    start(sink, (2, 3, None))
    fill(sink)
    sink.finish(N_ROWS)
    with xr.open_datatree(tmp_path, engine="zarr") as tree:
        for name, whole in WHOLE.items():
            np.testing.assert_array_equal(tree[GROUP][name].values, whole)
    assert check_result(tmp_path)["chunks"][f"{GROUP}/y"] == 3


def test_a_result_may_be_moved(result, tmp_path):
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
def test_a_damaged_chunk_raises_when_it_is_read(result, damage, name, reopened):
    live = StoredArray(result.location.path, f"{GROUP}/{name}") if reopened else result.read(name)
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
    # What is whole is read as before.
    np.testing.assert_array_equal(live[:, :, :4], WHOLE[name][:, :, :4])


@pytest.mark.parametrize(
    "gone", [f"{GROUP}/mu/c/0/0/2", f"{GROUP}/y/c", f"{GROUP}/y", "posterior/beta/c/0/0/0", "posterior", "zarr.json"]
)
def test_a_result_with_something_gone_does_not_open(result, gone):
    check_result(result.location.path)
    path = result.location.path / gone
    path.unlink() if path.is_file() else shutil.rmtree(path)
    with pytest.raises(IncompleteResultError):
        check_result(result.location.path)


def test_what_is_no_result_does_not_open(tmp_path):
    zarr.create_group(tmp_path / "other")
    with pytest.raises(IncompleteResultError, match="is no result"):
        check_result(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="There is no result"):
        check_result(tmp_path / "nothing")


@pytest.mark.parametrize("reopened", [False, True])
def test_a_result_whose_directory_is_gone_is_stale(result, reopened):
    live = StoredArray(result.location.path, f"{GROUP}/mu") if reopened else result.read("mu")
    shutil.rmtree(result.location.path)
    with pytest.raises(StaleResultError, match="no longer exists"):
        live[...]


def test_opening_an_array_whose_directory_is_gone_is_stale_too(result):
    shutil.rmtree(result.location.path)
    with pytest.raises(StaleResultError):
        StoredArray(result.location.path, f"{GROUP}/mu")


def test_a_temporary_result_is_stale_once_its_home_is_closed():
    home = TemporaryDirectory()
    sink = new_sink(home.path / "call", temporary=home)
    start(sink)
    fill(sink)
    sink.finish(N_ROWS)
    live = sink.read("mu")
    np.testing.assert_array_equal(live[...], WHOLE["mu"])
    home.close()
    assert not home.path.exists()
    with pytest.raises(StaleResultError, match="cleaned up"):
        live[...]


# ----------------------------------------------------------------------------------------------------- resume


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it to tidy up."""


class Disk:
    """Counts the operations that change files below a directory, and ends the process at one of them."""

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
                with suppress(FileNotFoundError):  # then it was an attempt, and nothing took place
                    act()  # the operation took place; what was to be written did not
            raise Killed


def whole_call(directory: Path, shape: tuple[int | None, ...]) -> None:
    """Write a result, or what an interrupted run left to be written."""
    sink = new_sink(directory, journal=True)
    start(sink, shape)
    missing = {position[2] for name in WHOLE for position in sink.missing(name)}
    if shape[2] is None:
        missing |= set(range(min(sink.length(name) for name in WHOLE) // CHUNK, 3))
    fill(sink, chunks=tuple(sorted(missing)))
    sink.finish(N_ROWS)


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, N_ROWS), (2, 3, None)])
def test_whenever_it_is_killed_the_next_run_makes_the_same_files(tmp_path, monkeypatch, shape, torn):
    """Between any two operations on files, and between opening a file and writing to it."""
    disk = Disk(monkeypatch)
    whole_call(tmp_path / "uninterrupted", shape)
    expected, n_operations = files(tmp_path / "uninterrupted"), disk.count
    assert n_operations > 20
    disk.torn = torn
    failures = {}
    # The first is the journal's own.  All of them, for one of the four cases; samples for the others.
    for at in range(2, n_operations + 1, 1 if shape[2] and torn else 3):
        directory = tmp_path / str(at)
        disk.count, disk.at = 0, at
        with pytest.raises(Killed):
            whole_call(directory, shape)
        disk.at = None
        left = sorted(files(directory))
        if "zarr.json" in left:
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


def test_what_is_whole_is_not_written_again(tmp_path):
    sink = new_sink(tmp_path, journal=True)
    start(sink)
    fill(sink, chunks=(0, 2))
    (tmp_path / GROUP / "y" / "c" / "0" / "0" / "2").unlink()
    damaged = tmp_path / GROUP / "mu" / "c" / "0" / "0" / "0"
    damaged.write_bytes(flipped(damaged.read_bytes(), 0.3))
    again = new_sink(tmp_path, journal=True)
    start(again)
    assert list(again.missing("mu")) == [(0, 0, 0), (0, 0, 1)]
    assert list(again.missing("y")) == [(0, 0, 1), (0, 0, 2)]


@pytest.mark.parametrize("damage", [damage for damage in DAMAGE if damage != "deleted"])
@pytest.mark.parametrize("name", ["mu", "y"])
def test_a_damaged_chunk_counts_as_missing(tmp_path, damage, name):
    sink = new_sink(tmp_path, journal=True)
    start(sink)
    fill(sink)
    chunk = tmp_path / GROUP / name / "c" / "0" / "0" / "1"
    chunk.write_bytes(DAMAGE[damage](chunk.read_bytes()))
    again = new_sink(tmp_path, journal=True)
    start(again)
    assert list(again.missing(name)) == [(0, 0, 1)]


# ------------------------------------------------------------------------------------- failing, and advising


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), RuntimeError("device")])
def test_an_error_comes_back_as_itself_with_a_note(tmp_path, error):
    sink = new_sink(tmp_path, journal=True)
    start(sink)
    assert sink.fail(error) is error
    assert f"resume='{tmp_path}'" in "".join(error.__notes__)


def test_a_full_disk_names_the_path_and_how_to_go_on(tmp_path):
    sink = new_sink(tmp_path, journal=True)
    start(sink)
    error = sink.fail(OSError(28, "No space left on device"))
    assert isinstance(error, OSError)
    assert error.errno == 28
    said = "".join([str(error), *getattr(error, "__notes__", [])])
    assert str(tmp_path) in said
    assert f"resume='{tmp_path}'" in said
    assert "No space left" in said


# -------------------------------------------------------------------------------------- zarr's own settings


@pytest.fixture
def settings():
    """Return zarr's settings as a text, whenever it is called; puts them back in the end."""
    before = copy.deepcopy(zarr.config.config)
    yield lambda: json.dumps(zarr.config.config, sort_keys=True, default=str)
    zarr.config.config.clear()
    zarr.config.config.update(before)


def test_zarr_s_own_settings_are_left_alone(tmp_path, settings):
    before = settings()
    sink = new_sink(tmp_path)
    start(sink)
    assert settings() == before
    fill(sink)
    sink.finish(N_ROWS)
    StoredArray(tmp_path, f"{GROUP}/mu")[...]
    assert settings() == before
    with pytest.raises(OSError):
        StoredArray(tmp_path / "nothing", "here")
    assert settings() == before
    # So a store of the user's, with chunks that were left out on purpose, reads as it did.
    other = zarr.create_array(tmp_path / "other", shape=(4,), chunks=(2,), dtype="int32", fill_value=7)
    other[:2] = 1
    assert zarr.open_array(tmp_path / "other")[...].tolist() == [1, 1, 7, 7]


def test_zarr_s_own_settings_are_left_alone_by_threads(result, settings):
    """They are global, and threads come and go in any order."""
    before = settings()
    barrier = threading.Barrier(4)

    def work() -> None:
        barrier.wait()
        for _ in range(50):
            StoredArray(result.location.path, f"{GROUP}/mu")

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
    made.begin()
    return made


def test_a_journal_is_read_as_it_was_written(journal, tmp_path):
    assert journal.record_all([(0, "a")]) is None
    assert journal.record_all([(1024, "b")]) is None
    read = Journal.read(Directory(tmp_path))
    assert read == Journal(Directory(tmp_path), {"kernel": "k", "rng_key": "1"}, "2024-01-01", {0: "a", 1024: "b"})
    assert read.record_all([(0, "a")]) is None
    assert read.record_all([(1024, "other")]) == 1024
    assert read.record_all([(2048, "c")]) is None
    assert Journal.read(Directory(tmp_path)).rows == {0: "a", 1024: "b", 2048: "c"}


@pytest.mark.parametrize("cut", range(1, 15))
def test_a_torn_last_line_is_not_there(journal, tmp_path, cut):
    journal.record_all([(0, "a")])
    journal.record_all([(1024, "digest")])
    whole = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(whole[:-cut])
    kept = Journal.read(Directory(tmp_path)).rows
    assert kept == {0: "a"} or (cut == 1 and kept == {0: "a", 1024: "digest"})


@pytest.mark.parametrize("cut", range(1, 15))
def test_after_a_torn_line_it_goes_on(journal, tmp_path, cut):
    journal.record_all([(0, "a")])
    journal.record_all([(1024, "digest")])
    (tmp_path / JOURNAL).write_bytes((tmp_path / JOURNAL).read_bytes()[:-cut])
    again = Journal.read(Directory(tmp_path))
    assert again.record_all([(1024, "digest")]) is None
    assert again.record_all([(2048, "c")]) is None
    assert Journal.read(Directory(tmp_path)).rows == {0: "a", 1024: "digest", 2048: "c"}


def test_a_torn_or_absent_first_line_is_no_journal(journal, tmp_path):
    (tmp_path / JOURNAL).write_bytes((tmp_path / JOURNAL).read_bytes()[:20])
    assert Journal.read(Directory(tmp_path)) is None
    (tmp_path / JOURNAL).write_bytes(b"")
    assert Journal.read(Directory(tmp_path)) is None
    (tmp_path / JOURNAL).unlink()
    assert Journal.read(Directory(tmp_path)) is None


def test_zeros_where_the_end_was_to_be_are_a_torn_line(journal, tmp_path):
    """What a power cut leaves of a file that was extended and not yet written."""
    journal.record_all([(0, "a")])
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(bytes(4096))
    assert Journal.read(Directory(tmp_path)).rows == {0: "a"}
