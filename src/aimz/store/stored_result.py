"""Root of a complete result: written last, checked when the result is opened."""

__all__ = ["STATE", "StoredResult", "check_result", "is_unfinished", "reporting_damage"]

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zarr.storage import StorePath

from aimz.errors import IncompleteResultError
from aimz.store.checksums import ChunkChecksums, ChunkStore, grid_of
from aimz.store.journal import Journal
from aimz.store.location import Location, as_location
from aimz.store.stored_array import StoredArray
from aimz.store.temporary_directory import TemporaryDirectory
from aimz.store.zarr_metadata import UNFINISHED, encode_document, group_document

STATE = "aimz_store"
"""Attribute of the root group that lists the contents of a complete result."""
FORMAT = 2
"""Format of results; format 1 has no checksums of metadata and of positions of chunks."""

_TYPE = ("node_type", "shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs")
"""Fields of the metadata that the values of an array depend on."""


@dataclass(frozen=True)
class StoredResult:
    """Contents of a complete result."""

    location: Location
    attrs: Mapping[str, Any] = field(repr=False)
    """Attributes of the root."""
    nodes: Mapping[str, Mapping[str, Any]] = field(repr=False)
    """Path of each group and array to its metadata."""
    chunks: Mapping[str, int]
    """Path of each array to its number of chunks."""
    checksums: Mapping[str, ChunkChecksums] | None = field(repr=False)
    """Path of each array to the checksums of its chunks; None in format 1."""
    fingerprint: Mapping[str, str] = field(repr=False)
    """Identity of the call."""
    created_at: str
    rows: str
    """Digest of the rows, if they were digested while they were streamed."""

    def encode(self) -> bytes:
        """Return the content of the file of the root."""
        assert self.checksums is not None
        state = {
            "format": FORMAT,
            "complete": True,
            "created_at": self.created_at,
            "chunks": dict(sorted(self.chunks.items())),
            "checksums": {name: checksums.encode() for name, checksums in sorted(self.checksums.items())},
            "fingerprint": dict(self.fingerprint),
            "rows": self.rows,
        }
        root = {
            **group_document(self.attrs),
            "consolidated_metadata": {
                "kind": "inline",
                "must_understand": False,
                "metadata": dict(sorted(self.nodes.items())),
            },
        }
        state["checksum"] = _checksum(root, state)
        return encode_document({**root, "attributes": {**self.attrs, STATE: json.dumps(state)}})

    @staticmethod
    def decode(location: Location, content: bytes) -> "StoredResult":
        """Return the result whose root has this content.

        Raises
        ------
        IncompleteResultError
            If the root is damaged, or was not written by this package, or by a newer version.
        """
        with reporting_damage(location):
            root = json.loads(content)
            attrs = dict(root["attributes"])
            if STATE not in attrs:
                msg = (
                    f"The Zarr store in {location} is no result of this package: its root has no attribute `{STATE}`. "
                    "Pass the `artifact_path` of a result."
                )
                raise IncompleteResultError(msg)
            state = json.loads(attrs.pop(STATE))
            version = state.get("format", 1)
            if version > FORMAT:
                msg = (
                    f"The result in {location} has format {version}; this version of aimz reads up to {FORMAT}. "
                    "Install a newer version."
                )
                raise IncompleteResultError(msg)
            is_checked = "checksum" in state or version != 1
            if is_checked and state.pop("checksum", None) != _checksum({**root, "attributes": attrs}, state):
                msg = "The content has changed since it was written."
                raise ValueError(msg)
            if state["complete"] is not True:
                msg = "The entry `complete` is not true."
                raise ValueError(msg)
            checksums = None
            if version > 1:
                checksums = {name: ChunkChecksums.decode(text) for name, text in state["checksums"].items()}
            return StoredResult(
                location,
                attrs,
                dict(root["consolidated_metadata"]["metadata"]),
                {str(name): int(count) for name, count in state["chunks"].items()},
                checksums,
                dict(state["fingerprint"]),
                str(state["created_at"]),
                str(state["rows"]),
            )

    def array(self, name: str, temporary: TemporaryDirectory | None = None) -> StoredArray:
        """Return a reader of an array."""
        return StoredArray(
            self.location, name, self.nodes[name], None if self.checksums is None else self.checksums[name], temporary
        )

    def check_files(self) -> None:
        """Check that every chunk is there, and that the root has the same metadata.

        Raises
        ------
        IncompleteResultError
            Naming the first difference.
        """
        found = self.location.count_chunks(self.chunks)
        for name, count in self.chunks.items():
            if found[name] != count:
                msg = (
                    f"Array `{name}` of the result in {self.location} has {found[name]} of its {count} chunks. "
                    "Predict again."
                )
                raise IncompleteResultError(msg)
        for name, content in self.location.get_all(f"{name}/zarr.json" for name in self.nodes).items():
            with reporting_damage(self.location, name):
                stored, node = json.loads(content or b"null"), self.nodes[name.removesuffix("/zarr.json")]
                # Attributes could be changed in format 1.
                keys = _TYPE if self.checksums is None else {*stored, *node}
                if any(stored.get(key) != node.get(key) for key in keys):
                    msg = "The file is not the one that was written there."
                    raise ValueError(msg)

    def open_store(self) -> StorePath:
        """Return the result as a store for xarray, which compares the chunks that are read with their checksums."""
        root = self.location.store_path("", read_only=True)
        grids = {name: grid_of(node) for name, node in self.nodes.items() if node["node_type"] == "array"}

        def compare(name: str, number: int, checksum: int) -> None:
            self.array(name).compare(name, number, checksum)

        store = ChunkStore(root.store, root.path, grids, on_write=lambda *_: None, on_read=compare)
        return StorePath(store, root.path)


@contextmanager
def reporting_damage(location: Location, file: str = "zarr.json") -> Iterator[None]:
    """Raise ``IncompleteResultError`` for any error that the content of a file causes; errors of the storage pass."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError) as error:
        msg = (
            f"The result in {location} is damaged: {file}: {_describe(error)}. Nothing of it should be "
            "used; predict again."
        )
        raise IncompleteResultError(msg) from error


def _describe(error: Exception) -> str:
    """Return the text of an error without its full stop."""
    return f"{type(error).__name__}: {error}".rstrip(".")


def _checksum(root: Mapping[str, Any], state: Mapping[str, Any]) -> str:
    """Return the digest of the root and of the list of its contents."""
    return hashlib.sha256(json.dumps([root, state], sort_keys=True).encode()).hexdigest()


def is_unfinished(location: Location, root: bytes | None) -> bool:
    """Return whether the call that writes a result has not finished; other programs may have written its root."""
    if root is None:
        return True
    try:
        document = json.loads(root)
        if UNFINISHED in document or STATE in document["attributes"]:
            return UNFINISHED in document
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    return Journal.exists(location)


def check_result(place: Location | Path) -> StoredResult:
    """Check that a result is complete, and return its contents.

    Raises
    ------
    IncompleteResultError
        If the call did not finish, or files are missing or damaged.
    FileNotFoundError
        If the location does not exist.
    """
    location = as_location(place)
    root = location.get("zarr.json")
    if root is None and not location.exists():
        msg = f"There is no result in {location}: pass the directory of one call, the `artifact_path` of its result."
        raise FileNotFoundError(msg)
    if root is None or is_unfinished(location, root):
        msg = (
            f"The result in {location} is incomplete: the call that was writing it did not finish. Finish it with the "
            f"same call and {location.resume}."
        )
        raise IncompleteResultError(msg)
    result = StoredResult.decode(location, root)
    result.check_files()
    return result
