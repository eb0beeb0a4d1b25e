"""Results that last: one Zarr v3 hierarchy for each call, complete or not at all.

Files without a ``zarr.json`` at their root are no Zarr hierarchy, and whatever opens them refuses.  That file is
written last, in one atomic step; until then a journal beside the arrays says which call they belong to.
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
from aimz.store.location import OWNER, Location, as_location
from aimz.store.stored_array import STATE, StoredArray
from aimz.store.temporary_directory import TemporaryDirectory
from aimz.store.zarr_metadata import new_array, put_whole, zarr_settings


class ZarrStore(ResultStore):
    """Streams one group into ``<location>/<name>``, beside groups that are written at once.

    Parameters
    ----------
    location
        Where the call lies, which is there and its own.
    name
        Name of the streamed group.
    root_attrs
        Attributes of the root.
    journal
        What to know the call by, if it can be resumed; None in a temporary directory.
    home
        The temporary directory around, which readers of the result hold.
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
        self._home = home
        self._variables: dict[str, Variable] = {}
        self._chunks: dict[str, int] = {}
        self._resumed = False
        self._shared = False
        self._part: ChunkWriter | None = None
        self._nodes: dict[str, Any] = {}
        """Metadata of everything written, by path."""
        self._writer = ChunkWriter(self.location, name, {})

    def open(self, group: Group) -> None:
        """Make the arrays, or take up those of an interrupted call."""
        self._variables = dict(group.variables)
        self._writer = ChunkWriter(self.location, self._name, self._variables)
        grows = any(None in variable.shape for variable in self._variables.values())
        self.writers = 1 if grows else self.location.writers
        resumed = self._resumed = self.location.has(f"{self._name}/zarr.json")
        self._put_group(self._name, group)
        for name, variable in group.variables.items():
            path = f"{self._name}/{name}"
            if resumed and self.location.has(f"{path}/zarr.json"):
                with zarr_settings():
                    array = zarr.open_array(self.location.store_path(path), mode="r+")
            else:
                array, self._nodes[path] = new_array(self.location, path, variable)
            self._writer.take(name, array)

    def writer(self) -> ChunkWriter:
        """Return what writes chunks in other processes, from now on and until the result is complete.

        Raises
        ------
        ValueError
            If the length is not known: arrays that grow can have one writer only.
        """
        if any(None in variable.shape for variable in self._variables.values()):
            msg = (
                "The number of rows is not known, and only one process can write arrays that grow. Pass an array, or "
                "a source that knows its length."
            )
            raise ValueError(msg)
        self._shared = True
        owner = uuid4().hex
        self.location.put(OWNER, owner.encode())
        return ChunkWriter(self.location, self._name, self._variables, owner)

    def write_group(self, name: str, group: Group, data: Mapping[str, Any]) -> None:
        """Write a whole group beside the streamed one."""
        self._put_group(name, group)
        for array, variable in group.variables.items():
            path, values = f"{name}/{array}", np.asarray(data[array]).astype(variable.dtype, copy=False)
            self._nodes[path], self._chunks[path] = put_whole(self.location, path, variable, values, {})

    def _put_group(self, name: str, group: Group) -> None:
        """Write a group with its labels; an interrupted call may have left out some."""
        # Labels that are no dimensions have to be told from variables, by the attribute that CF has for it.
        beside = " ".join(label for label, (dims, _, _) in group.coords.items() if dims != (label,))
        attributes = {**group.attrs, **({"coordinates": beside} if beside else {})}
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
        """Write a piece that covers whole chunks; each appears under its name only when whole."""
        self._writer.write(name, array, start)

    def length(self, name: str) -> int:
        """Return how far the streamed axis of a variable reaches so far."""
        return self._writer.length(name)

    def missing(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, ...]]:
        """Yield the grid positions of chunks, of a stretch of the streamed axis, that are not there or not whole."""
        return self._writer.missing(name, start, stop)

    def finish(self, length: int) -> None:
        """Check that everything is there, then say so."""
        for name, variable in self._variables.items():
            ended, stored, path = variable.ending_at(length), self._writer.array(name), f"{self._name}/{name}"
            if stored.shape != ended.shape:
                stored.resize(ended.shape)
            if None in variable.shape:
                self._nodes.pop(path, None)
            grid = [range(ceil(s / c)) for s, c in zip(stored.shape, stored.chunks, strict=True)]
            # The size of a chunk is known where nothing is packed: its numbers and their checksum.
            size = prod(stored.chunks) * stored.dtype.itemsize + 4 if stored.dtype.kind in "fc" else None
            self.location.check_sizes(path, product(*grid), size)
            self._chunks[path] = prod(map(len, grid))
        if self._resumed or self._shared:  # a process that was killed cannot tidy up; one that goes on does
            self.location.sweep()
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
        # In a temporary directory nothing outlives the process, let alone a power cut.
        lasting = self._journal is not None
        self.location.put("zarr.json", json.dumps(root, indent=2).encode(), lasting=lasting)
        if self._journal is not None:
            self._journal.end()
        if self._resumed or self._shared or not self.location.local:
            self.location.delete(OWNER)

    def _read_nodes(self) -> dict[str, Any]:
        """Return the metadata of what is in the streamed group and was changed, or was written by an earlier run."""
        names = [self._name, *(f"{self._name}/{child}" for child in self.location.children(self._name))]
        found = {name: self.location.get(f"{name}/zarr.json") for name in names if name not in self._nodes}
        return {name: json.loads(content) for name, content in found.items() if content is not None}

    def _check_counts(self) -> None:
        """Refuse a result of which something that was written is gone."""
        found = self.location.count_chunks(self._chunks)
        for name, count in self._chunks.items():
            if found[name] != count:
                msg = (
                    f"Array `{name}` of {self.location} was written and is not there any more: it has {found[name]} "
                    f"of its {count} chunks. Is something else writing there?"
                )
                raise OSError(msg)

    def _state(self) -> dict[str, Any]:
        fingerprint = {} if self._journal is None else dict(self._journal.fingerprint)
        created_at = "" if self._journal is None else self._journal.created_at
        chunks = dict(sorted(self._chunks.items()))
        rows = "" if self._journal is None else self._journal.digest
        return {"complete": True, "created_at": created_at, "chunks": chunks, "fingerprint": fingerprint, "rows": rows}

    def fail(self, error: BaseException) -> BaseException:
        """Keep what is whole, and say how to go on; in a temporary directory there is nothing to go on with."""
        if self._journal is None:
            advice = (
                "The result lay in the temporary directory, so nothing of it is kept. Pass an `output_dir` where there "
                "is room; what is finished can then be resumed."
            )
        else:
            advice = self.location.resume_advice
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return OSError(error.errno, f"{os.strerror(error.errno)}. {advice}", str(self.location))
        if self._journal is not None:
            error.add_note(advice)
        return error

    def part(self, start: int, stop: int) -> ChunkWriter:  # noqa: ARG002 (it writes whatever comes)
        """Return what writes chunks in other processes, the same for all rows."""
        self._part = self._part or self.writer()
        return self._part

    def add(self, payload: Any) -> None:
        """Do nothing."""

    def read(self, name: str) -> StoredArray:
        """Return a reader that raises where something is missing."""
        array = self._writer.array(name) if name in self._variables else None
        return StoredArray(self.location, f"{self._name}/{name}", self._home, array)
