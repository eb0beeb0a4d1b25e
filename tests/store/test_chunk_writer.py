"""Several writers of one result: each writes its own chunks, and none writes after the call has ended."""

import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.storage import ManagedMemoryStore, MemoryStore

from aimz.errors import IncompleteResultError
from aimz.store import Directory, Group, Location, ObjectStoreLocation, Variable, ZarrStore, check_result

N_ROWS, CHUNK = 22, 4
Y = (np.arange(2 * 3 * N_ROWS, dtype=np.float32) * 7 % 13).reshape(6, N_ROWS)
TOTAL = np.arange(6.0, dtype=np.float32)
VARIABLES = {
    "y": Variable(("chain", "draw", "obs"), (2, 3, N_ROWS), np.dtype("f4"), (2, 3, CHUNK), 2),
    "total": Variable(("chain", "draw"), (2, 3), np.dtype("f4"), (2, 3)),
}


@pytest.fixture(params=["directory", "store"])
def place(request, tmp_path) -> Location:
    if request.param == "store":
        return ObjectStoreLocation(MemoryStore(), "call")
    (tmp_path / "call").mkdir()
    return Directory(tmp_path / "call")


def new_result(place: Location, variables: dict[str, Variable] = VARIABLES) -> ZarrStore:
    result = ZarrStore(place, "group", root_attrs={})
    result.open(Group(variables))
    return result


def put(writer, *chunks: int) -> None:
    for chunk in chunks:
        writer.write("y", Y[:, chunk * CHUNK : (chunk + 1) * CHUNK], chunk * CHUNK)


def positions(found) -> list[int]:
    return [position[-1] for position in found]


def test_writers_in_several_threads_write_one_result(place):
    result = new_result(place)
    writers = [result.part(0, N_ROWS), result]
    threads = [
        threading.Thread(target=put, args=(writer, *chunks))
        for writer, chunks in zip(writers, ((0, 2, 4), (1, 3, 5)), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result.write("total", TOTAL, 0)
    result.finish(N_ROWS)
    np.testing.assert_array_equal(result.read("y")[...].reshape(6, -1), Y)
    assert check_result(place).checksums
    assert not place.has(".aimz-owner")


IN_ANOTHER_PROCESS = """
import pickle, sys
import numpy as np
writer, piece = pickle.load(sys.stdin.buffer)
writer.write("y", piece, 4)
print([position[-1] for position in writer.missing("y")], [p[-1] for p in writer.missing("y", 4, 12)])
"""


def test_writer_in_another_process_writes_and_lists_missing_chunks(tmp_path):
    result = new_result(Directory(tmp_path))
    put(result, 3)
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS],
        input=pickle.dumps((result.part(0, N_ROWS), Y[:, 4:8])),
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.decode().split("\n")[0] == "[0, 2, 4, 5] [2]"
    put(result, 0, 2, 4, 5)
    result.write("total", TOTAL, 0)
    drafts = [tmp_path / "group" / "y" / "c" / "0" / "0" / "1.abc.partial", tmp_path / "group" / "zarr.json.partial"]
    for draft in drafts:
        draft.write_bytes(b"torn")  # as left by a writer that was killed
    result.finish(N_ROWS)
    assert not any(draft.exists() for draft in drafts)
    np.testing.assert_array_equal(result.read("y")[...].reshape(6, -1), Y)


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0, None, [0, 2, 5]),
        (4, 12, [2]),
        (7, 9, [2]),
        (4, 8, []),
        (8, 9, [2]),
        (19, 22, [5]),
        (20, None, [5]),
        (3, 100, [0, 2, 5]),
    ],
)
def test_missing_lists_chunks_of_a_row_range(place, start, stop, expected):
    result = new_result(place)
    put(result, 1, 3, 4)
    for writer in (result, result.part(0, N_ROWS)):
        assert positions(writer.missing("y", start, stop)) == expected
        assert positions(writer.missing("total", start, stop)) == ([0] if start == 0 else [])


def test_missing_lists_chunks_of_a_draw_range_across_chains():
    variable = Variable(("chain", "draw", "obs"), (2, 10, 5), np.dtype("f4"), (1, 4, 5), 1)
    writer = new_result(ObjectStoreLocation(MemoryStore()), {"y": variable}).part(0, N_ROWS)
    writer.write("y", np.zeros((4, 5), np.float32), 0)  # draws 0 to 3 of the first chain
    writer.write("y", np.zeros((2, 5), np.float32), 18)  # the last two draws of the second chain
    assert list(writer.missing("y")) == [(0, 1, 0), (0, 2, 0), (1, 0, 0), (1, 1, 0)]
    assert list(writer.missing("y", 0, 8)) == [(0, 1, 0)]
    assert list(writer.missing("y", 9, 11)) == [(0, 2, 0), (1, 0, 0)]
    assert list(writer.missing("y", 10, None)) == [(1, 0, 0), (1, 1, 0)]


def test_missing_lists_chunks_of_statistics_with_rows_as_second_axis():
    variable = Variable(("statistic", "obs"), (3, N_ROWS), np.dtype("f8"), (3, CHUNK), 1)
    writer = new_result(ObjectStoreLocation(MemoryStore()), {"y": variable}).part(0, N_ROWS)
    writer.write("y", np.zeros((3, CHUNK)), 8)
    assert list(writer.missing("y", 5, 14)) == [(0, 1), (0, 3)]


def test_missing_lists_damaged_chunks(place):
    result = new_result(place)
    put(result, 0, 1)
    name = "group/y/c/0/0/1"
    place.put(name, b"x" + place.get(name)[1:])
    assert positions(result.part(0, N_ROWS).missing("y", 0, 8)) == [1]


# ------------------------------------------------------------------------------------------------- errors


def test_write_raises_if_the_location_is_not_accessible(tmp_path):
    """Otherwise it would silently write to its own disk."""
    (tmp_path / "here").mkdir()
    writer = new_result(Directory(tmp_path / "here")).part(0, N_ROWS)
    (tmp_path / "here").rename(tmp_path / "there")
    with pytest.raises(
        IncompleteResultError, match=r"does not exist for this process.*`output_dir` on a shared disk.*s3://"
    ):
        put(writer, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("moment", ["another call", "after the end"])
def test_write_raises_if_another_run_owns_the_result(place, moment):
    result = new_result(place)
    old = result.part(0, N_ROWS)
    if moment == "another call":
        put(new_result(place).part(0, N_ROWS), 0)
    else:
        put(result, *range(6))
        result.write("total", TOTAL, 0)
        result.finish(N_ROWS)
    with pytest.raises(IncompleteResultError, match=r"that call has ended, or another run has resumed it.*resume="):
        put(old, 1)


def test_part_raises_for_arrays_of_unknown_length():
    variable = Variable(("chain", "draw", "obs"), (2, 3, None), np.dtype("f4"), (2, 3, CHUNK), 2)
    result = new_result(ObjectStoreLocation(MemoryStore()), {"y": variable})
    with pytest.raises(ValueError, match=r"only one process can write arrays that grow. Pass an array"):
        result.part(0, N_ROWS)


def test_pickling_a_private_memory_store_raises():
    """The other process would write to a copy of the store."""
    writer = new_result(ObjectStoreLocation(MemoryStore(), "call")).part(0, N_ROWS)
    with pytest.raises(TypeError, match=r"memory of this process.*s3://bucket/results"):
        pickle.dumps(writer)
    named = ObjectStoreLocation(ManagedMemoryStore("ours"), "call")
    assert pickle.loads(pickle.dumps(named)) == named


def test_pickled_writer_has_no_open_arrays(tmp_path):
    result = new_result(Directory(tmp_path))
    writer = result.part(0, N_ROWS)
    put(writer, 0)
    copy = pickle.loads(pickle.dumps(writer))
    put(copy, 1)
    assert positions(copy.missing("y")) == [2, 3, 4, 5]
    assert len(pickle.dumps(copy)) < 2000


def test_unpickled_writer_reads_the_result_and_explains_a_failure(tmp_path):
    result = new_result(Directory(tmp_path))
    copy = pickle.loads(pickle.dumps(result.part(0, N_ROWS)))
    put(copy, *range(6))
    result.write("total", TOTAL, 0)
    result.finish(N_ROWS)
    for name, expected in (("y", Y.reshape(2, 3, -1)), ("total", TOTAL.reshape(2, 3))):
        np.testing.assert_array_equal(copy.read(name)[...], expected)
    error = copy.fail(KeyError("rows"))
    assert error.__notes__ == [Directory(tmp_path).resume_advice]
    assert f"with `resume='{tmp_path}'`" in Directory(tmp_path).resume_advice


def test_locations_as_text(tmp_path):
    store = MemoryStore()
    assert str(Directory(tmp_path)) == str(tmp_path)
    assert str(ObjectStoreLocation(store, "a") / "b") == f"{store}/a/b"
    assert str(ObjectStoreLocation(store, "a", "s3://bucket/a") / "b") == "s3://bucket/a/b"
    assert (ObjectStoreLocation(store, "a") / "b").resume == "the same `output_dir` and `resume='b'`"
    assert (ObjectStoreLocation(store, "a", "s3://bucket/a") / "b").resume == "`resume='s3://bucket/a/b'`"
    assert (Directory(tmp_path) / "b").resume == f"`resume='{Path(tmp_path, 'b')}'`"


def test_zarr_opens_a_complete_result_in_a_store():
    store = MemoryStore()
    result = new_result(ObjectStoreLocation(store, "a/call"))
    put(result, *range(6))
    result.write("total", TOTAL, 0)
    with pytest.raises(ValueError, match="aimz_unfinished"):
        zarr.open_group(store, path="a/call", mode="r")
    result.finish(N_ROWS)
    np.testing.assert_array_equal(zarr.open_group(store, path="a/call", mode="r")["group/y"][...].reshape(6, -1), Y)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c8"])
@pytest.mark.parametrize("axis", [1, 2])
def test_chunks_of_a_directory_are_those_of_zarr(tmp_path, dtype, axis):
    """Chunks are written without zarr's copies of them, several chunks in one piece and a shorter one at the end."""
    chunks = (1, 2, 3) if axis == 1 else (2, 4, 3)
    variable = Variable(("chain", "draw", "obs"), (2, 4, 11), np.dtype(dtype), chunks, axis)
    values = np.random.default_rng(0).standard_normal((2, 4, 11)).astype(dtype)
    stored = {}
    for name, location in (
        ("ours", Directory(tmp_path / "ours")),
        ("zarr", ObjectStoreLocation(zarr.storage.LocalStore(tmp_path / "zarr"), "")),
    ):
        (tmp_path / name).mkdir()
        result = new_result(location, {"y": variable})
        pieces = values.reshape(8, 11)
        if axis == 1:
            for start in (0, 2, 4, 6):
                result.write("y", pieces[start : start + 2], start)
        else:
            result.write("y", pieces[:, :6], 0)
            result.write("y", pieces[:, 6:], 6)
        result.finish(11 if axis == 2 else 8)
        np.testing.assert_array_equal(result.read("y")[...], values)
        files = (tmp_path / name / "group" / "y" / "c").rglob("*")
        root = tmp_path / name
        stored[name] = {str(p.relative_to(root)): p.read_bytes() for p in files if p.is_file()}
    assert len(stored["ours"]) == (16 if axis == 1 else 4)
    assert stored["ours"] == stored["zarr"]
