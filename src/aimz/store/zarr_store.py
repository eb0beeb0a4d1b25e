"""Store of persistent results: one Zarr v3 hierarchy for each call, complete or unreadable.

Without a ``zarr.json`` at the root, a directory is no Zarr hierarchy and cannot be opened.  This file is written last,
atomically; until then a journal identifies the call that the arrays belong to.
"""

__all__ = ["ZarrStore"]

import errno
import json
import os
from collections.abc import Iterator, Mapping
from itertools import product
from math import ceil, prod
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import zarr

from aimz.store.base import Group, ResultStore, Variable
from aimz.store.chunk_writer import ChunkWriter
from aimz.store.journal import Journal
from aimz.store.location import OWNER, Directory, Location, as_location
from aimz.store.stored_array import STATE, StoredArray
from aimz.store.temporary_directory import TemporaryDirectory
from aimz.store.zarr_metadata import new_array, put_whole, zarr_settings


class ZarrStore(ResultStore):
    """Streams one group into ``<location>/<name>``, in addition to groups that are written as a whole.

    Parameters
    ----------
    location
        Location of the call, which exists and is not used by another call.
    name
        Name of the streamed group.
    root_attrs
        Attributes of the root group.
    journal
        Journal of a call that can be resumed; None in a temporary directory.
    home
        Temporary directory that contains the location; readers of the result keep it from being removed.
    """

    whole_chunks = True

    def __init__(
        self,
        location: Location | Path,
        name: str,
        *,
        root_attrs: Mapping[str, Any],
        journal: Journal | None = None,
        home: TemporaryDirectory | None = None,
    ) -> None:
        self.location = as_location(location)
        self._name = name
        self._root_attrs = root_attrs
        self._journal = journal
        self._temporary = home
        self._variables: dict[str, Variable] = {}
        self._chunks: dict[str, int] = {}
        self._resumed = False
        self._part: ChunkWriter | None = None
        self._nodes: dict[str, Any] = {}
        """Metadata of the groups and arrays written by this run, by path."""
        self._writer = ChunkWriter(self.location, name, {})

    def open(self, group: Group) -> None:
        """Create the arrays, or open the arrays of an interrupted call."""
        self._variables = dict(group.variables)
        self._writer = ChunkWriter(self.location, self._name, self._variables)
        grows = any(None in variable.shape for variable in self._variables.values())
        self.max_writers = 1 if grows else self.location.max_writers
        resumed = self._resumed = self.location.has(f"{self._name}/zarr.json")
        self._put_group(self._name, group)
        for name, variable in group.variables.items():
            path = f"{self._name}/{name}"
            if resumed and self.location.has(f"{path}/zarr.json"):
                with zarr_settings():
                    array = zarr.open_array(self.location.store_path(path), mode="r+")
            else:
                array, self._nodes[path] = new_array(self.location, path, variable)
            self._writer.set_array(name, array)

    def write_group(self, name: str, group: Group, data: Mapping[str, Any]) -> None:
        """Write another group as a whole."""
        self._put_group(name, group)
        for array, variable in group.variables.items():
            path, values = f"{name}/{array}", np.asarray(data[array]).astype(variable.dtype, copy=False)
            self._nodes[path], self._chunks[path] = put_whole(self.location, path, variable, values, {})

    def _put_group(self, name: str, group: Group) -> None:
        """Write the metadata and the labels of a group, also those that an interrupted call has written."""
        # By the CF conventions, labels that are not dimensions are distinguished from variables by this attribute.
        labels = " ".join(label for label, (dims, _, _) in group.coords.items() if dims != (label,))
        attributes = {**group.attrs, **({"coordinates": labels} if labels else {})}
        node = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        self._nodes[name] = node
        self.location.put(f"{name}/zarr.json", json.dumps(node, indent=2).encode())
        for label, (dims, given, attrs) in group.coords.items():
            values = np.asarray(given)
            if values.dtype.kind in "OUT":
                values = values.astype(str).astype(object)
            variable, path = Variable(dims, values.shape, values.dtype, values.shape), f"{name}/{label}"
            self._nodes[path], self._chunks[path] = put_whole(self.location, path, variable, values, attrs)

    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Write a piece that covers whole chunks; each chunk is written atomically."""
        self._writer.write(name, array, start)

    def length(self, name: str) -> int:
        """Return the current length of the streamed axis of a variable."""
        return self._writer.length(name)

    def missing(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, ...]]:
        """Yield the grid positions of missing or damaged chunks; see :meth:`ChunkWriter.missing`."""
        return self._writer.missing(name, start, stop)

    def part(self, _start: int, _stop: int, /) -> ChunkWriter:
        """Return a writer for other processes, the same for all rows; it may write until the result is complete.

        Raises
        ------
        ValueError
            If the number of rows is not known: arrays that grow can have only one writer.
        """
        if self._part is None:
            if any(None in variable.shape for variable in self._variables.values()):
                msg = (
                    "The number of rows is not known, and only one process can write arrays that grow. Pass an array, "
                    "or a source that knows its length."
                )
                raise ValueError(msg)
            owner = uuid4().hex
            self.location.put(OWNER, owner.encode())
            self._part = ChunkWriter(self.location, self._name, self._variables, owner)
        return self._part

    def add(self, payload: Any) -> None:
        """Return at once: parts write into the same location."""

    def finish(self, length: int) -> None:
        """Check that every chunk is stored, then write the root group."""
        for name, variable in self._variables.items():
            self._finish_array(name, variable, length)
        several = self._resumed or self._part is not None
        if several and isinstance(self.location, Directory):  # a process that was killed leaves drafts
            for draft in self.location.path.rglob("*.partial"):
                draft.unlink(missing_ok=True)
        self._check_counts()
        self._nodes |= self._read_nodes()
        root = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {**self._root_attrs, STATE: json.dumps(self._state())},
            "consolidated_metadata": {
                "kind": "inline",
                "must_understand": False,
                "metadata": dict(sorted(self._nodes.items())),
            },
        }
        content = json.dumps(root, indent=2).encode()
        if self._journal is None:  # a result in a temporary directory does not survive the process
            self.location.put("zarr.json", content)
        else:
            self.location.put_durably("zarr.json", content)
            self._journal.end()
        if several or not self.location.local:
            self.location.delete(OWNER)

    def _finish_array(self, name: str, variable: Variable, length: int) -> None:
        """Resize an array to its final length, count its chunks, and check their sizes in a directory."""
        shape, stored, path = variable.ending_at(length).shape, self._writer.array(name), f"{self._name}/{name}"
        if stored.shape != shape:
            stored.resize(shape)
            self._writer.mark_missing(name)
        if None in variable.shape or variable.may_be_missing:  # a writer may have marked missing integers
            self._nodes.pop(path, None)
        grid = [range(ceil(s / c)) for s, c in zip(stored.shape, stored.chunks, strict=True)]
        self._chunks[path] = prod(map(len, grid))
        if not isinstance(self.location, Directory):  # a value of an object store is whole if it exists
            return
        # The size of an uncompressed chunk is known: its numbers and their checksum.
        size = prod(stored.chunks) * stored.dtype.itemsize + 4 if stored.dtype.kind in "fc" else None
        for position in product(*grid):
            file = self.location.path.joinpath(path, "c", *map(str, position))
            actual = file.stat().st_size if file.is_file() else 0
            if actual == 0 or (size is not None and actual != size):
                msg = (
                    f"Chunk {file} is missing or truncated, although all chunks were written. Check that nothing else "
                    "writes there, and call again."
                )
                raise OSError(msg)

    def _read_nodes(self) -> dict[str, Any]:
        """Return the metadata of arrays that were resized, or were created by an earlier run."""
        names = [self._name, *(f"{self._name}/{child}" for child in self.location.list_dir(self._name))]
        found = {name: self.location.get(f"{name}/zarr.json") for name in names if name not in self._nodes}
        return {name: json.loads(content) for name, content in found.items() if content is not None}

    def _check_counts(self) -> None:
        """Raise if chunks that were written are missing."""
        found = self.location.count_chunks(self._chunks)
        for name, count in self._chunks.items():
            if found[name] != count:
                msg = (
                    f"Array `{name}` of {self.location} is missing chunks, although all were written: it has "
                    f"{found[name]} of {count}. Check that nothing else writes there, and call again."
                )
                raise OSError(msg)

    def _state(self) -> dict[str, Any]:
        journal = self._journal or Journal(self.location, {})
        return {
            "complete": True,
            "created_at": journal.created_at,
            "chunks": dict(sorted(self._chunks.items())),
            "fingerprint": dict(journal.fingerprint),
            "rows": journal.digest,
        }

    def fail(self, error: BaseException) -> BaseException:
        """Return the error with advice on how to resume; the chunks are kept, except in a temporary directory."""
        advice = self.location.resume_advice
        if self._journal is None:
            advice = (
                "The result was stored in the temporary directory, so nothing of it is kept. Pass an `output_dir` with "
                "enough space; a call with one can be resumed."
            )
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return OSError(error.errno, f"{os.strerror(error.errno)}. {advice}", str(self.location))
        if self._journal is not None:
            error.add_note(advice)
        return error

    def read(self, name: str) -> StoredArray:
        """Return a reader that raises for missing or damaged chunks."""
        array = self._writer.opened(name) if name in self._variables else None
        return StoredArray(self.location, f"{self._name}/{name}", self._temporary, array)
