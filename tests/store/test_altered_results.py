"""Unfinished results that other programs open, and results whose files were swapped or edited."""

import json
import pickle
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import MemoryStore, StorePath

import aimz
from aimz.errors import IncompleteResultError
from aimz.output import as_group
from aimz.store import (
    JOURNAL,
    Directory,
    Group,
    Journal,
    Location,
    ObjectStoreLocation,
    Variable,
    ZarrStore,
    check_result,
    new_call_location,
)
from zarr_openers import OPENERS

GROUP = "posterior_predictive"
N_ROWS, CHUNK = 10, 4
Y = np.linspace(-1, 1, 6 * N_ROWS, dtype=np.float32).reshape(6, N_ROWS)
VARIABLE = Variable(("chain", "draw", "obs"), (2, 3, N_ROWS), np.dtype("f4"), (2, 3, CHUNK), 2)
STATISTIC = Variable(("statistic", "obs"), (6, N_ROWS), np.dtype("f4"), (6, CHUNK), 1)


def new_store(top: Location, variable: Variable = VARIABLE, *, journal: bool = True) -> ZarrStore:
    """Return an open store in a new location."""
    made = Journal(top, {"kernel": "k"}, "2024-01-01") if journal else None
    location = new_call_location(top, "predict", None if made is None else made.head)
    return resumed(location, variable, journal=journal)


def resumed(location: Location, variable: Variable = VARIABLE, *, journal: bool = True) -> ZarrStore:
    store = ZarrStore(location, GROUP, root_attrs={}, journal=Journal.read(location) if journal else None)
    store.open(Group({"y": variable}, {"draw": (("draw",), np.arange(3), {})}))
    store.write_group("posterior", *as_group(xr.Dataset({"beta": (("chain", "draw"), np.ones((2, 3), np.float32))})))
    return store


def fill(store: ZarrStore, *chunks: int, values: np.ndarray = Y) -> None:
    for chunk in chunks:
        store.write("y", values[:, chunk * CHUNK : (chunk + 1) * CHUNK], chunk * CHUNK)


def finished(top: Location, values: np.ndarray = Y) -> Path:
    store = new_store(top)
    fill(store, 0, 1, 2, values=values)
    store.finish(N_ROWS)
    return store.location.path


def contents(location: Location) -> dict[str, bytes]:
    """Return all files of a location."""
    if isinstance(location, Directory):
        return {str(p.relative_to(location.path)): p.read_bytes() for p in location.path.rglob("*") if p.is_file()}
    return {key: value.to_bytes() for key, value in location.store._store_dict.items()}


# ------------------------------------------------------------------------------------------------ openers


@pytest.mark.parametrize("node", ["", GROUP, "posterior", f"{GROUP}/y"])
@pytest.mark.parametrize("kind", ["directory", "temporary", "statistics", "object store"])
def test_unfinished_result_cannot_be_opened_and_is_not_changed(tmp_path, kind, node):
    top = ObjectStoreLocation(MemoryStore(), "calls") if kind == "object store" else Directory(tmp_path)
    variable = STATISTIC if kind == "statistics" else VARIABLE
    store = new_store(top, variable, journal=kind != "temporary")
    fill(store, 0, 1)
    before = contents(store.location)
    place: Any = f"{store.location.path}/{node}".rstrip("/")
    if kind == "object store":
        place = StorePath(store.location.store, place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, opener in OPENERS.items():
            with pytest.raises((ValueError, OSError)):  # zarr's errors are among these
                pytest.fail(f"{name} opened {opener(place)}")
    assert contents(store.location) == before
    fill(store, 2)
    store.finish(N_ROWS)
    np.testing.assert_array_equal(np.asarray(zarr.open(place)["y"] if node == GROUP else Y).ravel(), Y.ravel())


def test_new_location_appears_with_its_root_and_its_journal(tmp_path, monkeypatch):
    seen = []
    rename = Path.rename
    monkeypatch.setattr(
        Path, "rename", lambda draft, to: (seen.append(sorted(p.name for p in draft.iterdir())), rename(draft, to))[1]
    )
    store = new_store(Directory(tmp_path))
    assert seen == [[JOURNAL, "zarr.json"]]
    assert not store.location.claim()
    assert [path.name for path in tmp_path.iterdir()] == [store.location.path.name]


@pytest.mark.parametrize("name", [".zgroup", ".DS_Store", f"{GROUP}/y/notes.txt", "posterior/zarr.json"])
def test_resume_tolerates_files_of_others(tmp_path, name):
    store = new_store(Directory(tmp_path))
    fill(store, 0)
    (store.location.path / name).write_bytes(b'{"zarr_format": 2}')
    again = resumed(store.location)
    assert [position[2] for position in again.missing("y")] == [1, 2]
    fill(again, 1, 2)
    again.finish(N_ROWS)
    np.testing.assert_array_equal(aimz.open_result(store.location.path)[GROUP]["y"].values.reshape(6, -1), Y)


# ------------------------------------------------------------------------------------------------ alterations


def chunk(path: Path, number: int) -> Path:
    return path / GROUP / "y" / "c" / "0" / "0" / str(number)


def swap(path: Path) -> None:
    """Exchange two chunks."""
    first, second = chunk(path, 0).read_bytes(), chunk(path, 1).read_bytes()
    chunk(path, 0).write_bytes(second)
    chunk(path, 1).write_bytes(first)


def test_swapped_chunks_raise(tmp_path):
    path = finished(Directory(tmp_path))
    swap(path)
    opened = aimz.open_result(path)[GROUP]["y"]
    with pytest.raises(IncompleteResultError, match=r"Chunk 0 is not the chunk that was written there"):
        opened[:, :, :1].values  # noqa: B018
    np.testing.assert_array_equal(opened[:, :, 8:].values.reshape(6, -1), Y[:, 8:])


def test_live_result_checks_positions_of_chunks(tmp_path):
    store = new_store(Directory(tmp_path), journal=False)
    fill(store, 0, 1, 2)
    store.finish(N_ROWS)
    swap(store.location.path)
    with pytest.raises(IncompleteResultError, match="is not the chunk"):
        store.read("y")[...]


def test_chunk_of_another_call_raises(tmp_path):
    path, other = finished(Directory(tmp_path)), finished(Directory(tmp_path), Y + 1)
    shutil.copy(chunk(other, 1), chunk(path, 1))
    with pytest.raises(IncompleteResultError, match="Chunk 1 is not the chunk"):
        aimz.open_result(path)[GROUP]["y"].values  # noqa: B018


def test_swapped_labels_raise(tmp_path):
    path = finished(Directory(tmp_path))
    labels = path / GROUP / "draw" / "c" / "0"
    other = ZarrStore(Directory(tmp_path / "other"), GROUP, root_attrs={})
    other.open(Group({}, {"draw": (("draw",), np.arange(3) + 1, {})}))
    shutil.copy(tmp_path / "other" / GROUP / "draw" / "c" / "0", labels)
    with pytest.raises(IncompleteResultError, match="is not the chunk"):
        aimz.open_result(path)


@pytest.mark.parametrize("name", [f"{GROUP}/y", f"{GROUP}/draw", GROUP, "posterior/beta"])
def test_edited_metadata_of_a_child_raise(tmp_path, name):
    path = finished(Directory(tmp_path))
    file = path / name / "zarr.json"
    document = json.loads(file.read_text())
    for key in document:
        file.write_text(json.dumps({**document, key: "int8"}))
        with pytest.raises(IncompleteResultError, match=f"{name}/zarr.json: .*not the one that was written"):
            aimz.open_result(path)
        file.write_text(json.dumps({k: v for k, v in document.items() if k != key}))
        with pytest.raises(IncompleteResultError, match=f"{name}/zarr.json"):
            aimz.open_result(path)


def leaves(node: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a JSON document."""
    inner = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else []
    return [way, *(found for key, value in inner for found in leaves(value, (*way, key)))]


def test_edited_root_raises_wherever_it_is_edited(tmp_path):
    path = finished(Directory(tmp_path))
    text = (path / "zarr.json").read_text()
    for within in (False, True):
        root = json.loads(text)
        root["attributes"]["extra"] = 1 if within else root["attributes"].get("extra")
        document = json.loads(root["attributes"]["aimz_store"]) if within else json.loads(text)
        for way in leaves(document)[1:]:
            for value in (None, 3, False, "x", [], {}):
                edited = json.loads(json.dumps(document))
                node = edited
                for key in way[:-1]:
                    node = node[key]
                if node[way[-1]] == value and type(node[way[-1]]) is type(value):
                    continue
                node[way[-1]] = value
                if within:
                    edited = {**json.loads(text), "attributes": {"aimz_store": json.dumps(edited)}}
                (path / "zarr.json").write_text(json.dumps(edited))
                with pytest.raises(IncompleteResultError):
                    check_result(path)
    (path / "zarr.json").write_text(text)
    check_result(path)


def test_swapped_chunks_of_an_interrupted_result_are_computed_again(tmp_path):
    store = new_store(Directory(tmp_path))
    fill(store, 0, 1)
    swap(store.location.path)
    shutil.copy(chunk(store.location.path, 0), chunk(store.location.path, 2))  # a chunk that the call did not write
    again = resumed(store.location)
    assert [position[2] for position in again.missing("y")] == [0, 1, 2]
    fill(again, 0, 1, 2)
    again.finish(N_ROWS)
    assert contents(again.location).keys() == contents(Directory(finished(Directory(tmp_path)))).keys()
    np.testing.assert_array_equal(again.read("y")[...].reshape(6, -1), Y)


def test_damaged_journal_never_gives_another_result(tmp_path):
    for bit in range(0, 3000, 37):
        store = new_store(Directory(tmp_path))
        fill(store, 0, 1)
        file = store.location.path / JOURNAL
        content = bytearray(file.read_bytes())
        content[bit // 8 % len(content)] ^= 1 << bit % 8
        file.write_bytes(content)
        journal = Journal.read(store.location)
        if journal is None:  # the first line is damaged
            continue
        assert journal.fingerprint == {"kernel": "k"}
        again = resumed(store.location)
        missing = [position[2] for position in again.missing("y")]
        assert 2 in missing
        fill(again, *missing)
        again.finish(N_ROWS)
        np.testing.assert_array_equal(again.read("y")[...].reshape(6, -1), Y)


def test_other_process_records_its_chunks_in_a_file_of_its_own(tmp_path):
    store = new_store(Directory(tmp_path))
    fill(store, 0)
    part = pickle.loads(pickle.dumps(store.part(0, N_ROWS)))
    part.write("y", Y[:, 4:8], 4)
    payload = part.payload()
    assert payload == ([("y", 1, payload[0][0][2])], set())
    files = sorted(path.name for path in store.location.path.glob(".aimz-journal*"))
    assert len(files) == 2
    again = resumed(store.location)
    assert [position[2] for position in again.missing("y")] == [2]
    copy = pickle.loads(pickle.dumps(again.part(4, 8)))
    assert list(copy.missing("y", 4, 8)) == []
    fill(again, 2)
    again.finish(N_ROWS)
    assert not list(store.location.path.glob(".aimz*"))
