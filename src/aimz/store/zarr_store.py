"""Store of persistent results: one Zarr v3 hierarchy for each call, complete or unreadable.

Until the result is complete, the metadata of the root, the groups and the streamed arrays have a field that keeps every
reader from opening them, and a journal identifies the call that the arrays belong to.  The root is written last,
atomically.
"""

__all__ = ["ZarrStore"]

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import product
from math import prod
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from zarr.storage import StorePath

from aimz.statistics import missing_code
from aimz.store.base import Group, ResultStore, Variable
from aimz.store.checksums import TAIL, ChunkChecksums, ChunkStore, chunk_number, grid_of, tail_checksum
from aimz.store.chunk_writer import ChunkWriter, Payload
from aimz.store.journal import Journal
from aimz.store.location import OWNER, Directory, Location, as_location
from aimz.store.stored_array import FILL_VALUE, StoredArray
from aimz.store.stored_result import StoredResult, check_result, reporting_damage
from aimz.store.temporary_directory import TemporaryDirectory
from aimz.store.zarr_metadata import (
    SMALL_BYTES,
    array_document,
    encode_document,
    group_document,
    open_chunks,
    small_files,
)


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
        self._resumed = False
        self._owner = ""
        """Identifier of this run, once other processes write."""
        self._nodes: dict[str, Any] = {}
        """Metadata of the groups and arrays, by path."""
        self._checksums: dict[str, ChunkChecksums] = {}
        """Checksums of the chunks of each array, by path."""
        self._chunks: dict[str, int] = {}
        """Number of chunks of each array, by path."""
        self._writer: ChunkWriter
        self._result: StoredResult | None = None

    def open(self, group: Group) -> None:
        """Create the arrays, or continue the arrays of an interrupted call."""
        self._variables = dict(group.variables)
        grows = any(None in variable.shape for variable in self._variables.values())
        self.max_writers = 1 if grows else self.location.max_writers
        known = None if self._journal is None else self._journal.chunks
        self._resumed = self.location.has(f"{self._name}/zarr.json")
        self._writer = ChunkWriter(self.location, self._name, self._variables, known=known, journal=self._journal)
        nodes = {"": group_document({})}  # other programs may have written the root of an interrupted call
        for name, variable in self._variables.items():
            path = self._writer.paths[name]
            if None in variable.shape:
                self._writer.resize(name, self._interrupted_length(path, variable.axis or 0))
            nodes[path] = self._writer.documents[name]
        self.write_group(self._name, group, {}, nodes)

    def _interrupted_length(self, path: str, axis: int) -> int:
        """Return the length of an array of an interrupted call; 0 in a new call."""
        if self._journal is not None and self._journal.chunks is not None:
            return self._journal.lengths.get(path, 0)
        with reporting_damage(self.location):  # format 1
            document = json.loads(self.location.get(f"{path}/zarr.json") or b"null")
            return 0 if document is None else int(document["shape"][axis])

    def write_group(
        self,
        name: str,
        group: Group,
        data: Mapping[str, Any],
        unfinished: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        """Write a group with its labels and arrays, also if an interrupted call has written them.

        ``data`` are the arrays that are written as a whole, and ``unfinished`` the metadata of further nodes, by path.
        """
        # By the CF conventions, labels that are not dimensions are distinguished from variables by this attribute.
        labels = " ".join(label for label, (dims, _, _) in group.coords.items() if dims != (label,))
        node = self._nodes[name] = group_document({**group.attrs, **({"coordinates": labels} if labels else {})})
        files: dict[str, tuple[bytes]] = {}
        for path, document in {**(unfinished or {}), name: node}.items():
            files[f"{path}/zarr.json".lstrip("/")] = (encode_document(document, finished=False),)
        whole: dict[str, tuple[Variable, np.ndarray, Mapping[str, Any]]] = {}
        for variable, array in data.items():
            kind = group.variables[variable]
            whole[f"{name}/{variable}"] = kind, np.asarray(array).astype(kind.dtype, copy=False), {}
        for label, (dims, given, attrs) in group.coords.items():
            values = np.asarray(given)
            if values.dtype.kind in "OUT":
                values = values.astype(object).astype(str).astype(object)
            whole[f"{name}/{label}"] = Variable(dims, values.shape, values.dtype, values.shape), values, attrs
        large = {}
        for path, (kind, values, attrs) in whole.items():
            encoded = json.dumps(dict(attrs))
            if values.dtype.kind == "O" or values.nbytes > SMALL_BYTES:
                large[path] = kind, values, encoded
                continue
            small, self._checksums[path], self._chunks[path] = small_files(
                values.tobytes(), kind.shape, kind.chunks, kind.dtype, kind.dims, encoded
            )
            self._nodes[path] = json.loads(small["zarr.json"])
            files |= {f"{path}/{file}": (content,) for file, content in small.items()}
        self.location.put_all(files)
        for path, array in large.items():
            self._put_large(path, *array)

    def _put_large(self, path: str, variable: Variable, values: np.ndarray, attrs: str) -> None:
        """Write a whole array through zarr, its metadata last."""
        document, root, checksums = array_document(variable, attrs), self.location.store_path(""), ChunkChecksums()
        grid = grid_of(document)
        store = ChunkStore(
            root.store,
            root.path,
            {path: grid},
            on_write=lambda _, number, checksum: checksums.set(number, checksum),
            on_read=lambda *_: None,
        )
        open_chunks(StorePath(store, root.path) / path, document)[...] = values
        self.location.put(f"{path}/zarr.json", encode_document(document))
        self._nodes[path], self._checksums[path], self._chunks[path] = document, checksums, prod(grid)

    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Write a piece that covers whole chunks; each chunk is written atomically."""
        self._writer.write(name, array, start)

    def length(self, name: str) -> int:
        """Return the current length of the streamed axis of a variable."""
        return self._writer.length(name)

    def missing(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, ...]]:
        """Yield the grid positions of missing or damaged chunks; see :meth:`ChunkWriter.missing`."""
        return self._writer.missing(name, start, stop)

    def part(self, start: int, stop: int, /) -> ChunkWriter:
        """Return a writer for other processes, which may write until the result is complete.

        Raises
        ------
        ValueError
            If the number of rows is not known: arrays that grow can have only one writer.
        """
        if any(None in variable.shape for variable in self._variables.values()):
            msg = (
                "The number of rows is not known, and only one process can write arrays that grow. Pass an array, "
                "or a source that knows its length."
            )
            raise ValueError(msg)
        if not self._owner:
            self._owner = uuid4().hex
            self.location.put(OWNER, self._owner.encode())
        known = self._writer.known_between(start, stop)
        return ChunkWriter(self.location, self._name, self._variables, self._owner, known, self._journal)

    def add(self, payload: Payload) -> None:
        """Add the checksums of the chunks that a part has written into the same location."""
        self._writer.add(payload)

    def update_attrs(self, attrs: Mapping[str, Any]) -> None:
        """Update attributes of the group, whose metadata are written when the result is complete."""
        self._nodes[self._name]["attributes"].update(attrs)

    def finish(self, length: int) -> None:
        """Check that every chunk is stored, then write the final metadata, the root last."""
        for name, variable in self._variables.items():
            self._finish_array(name, variable, length)
        several = self._resumed or bool(self._owner)
        if several and isinstance(self.location, Directory):  # a process that was killed leaves drafts
            for draft in self.location.path.rglob("*.partial"):
                draft.unlink(missing_ok=True)
        journal = self._journal or Journal(self.location, {})
        result = StoredResult(
            self.location,
            self._root_attrs,
            self._nodes,
            self._chunks,
            self._checksums,
            journal.fingerprint,
            journal.created_at,
            journal.digest,
        )
        self._check_counts(result.chunks)
        streamed = set(self._writer.paths.values())
        ended = {name: node for name, node in self._nodes.items() if node["node_type"] == "group" or name in streamed}
        self.location.put_all({f"{name}/zarr.json": (encode_document(node),) for name, node in ended.items()})
        if self._journal is None:  # a result in a temporary directory does not survive the process
            self.location.put("zarr.json", result.encode())
        else:
            self.location.put_durably("zarr.json", result.encode())
            self._journal.end()
        if several:
            self.location.delete(OWNER)
        self._result = result

    def _finish_array(self, name: str, variable: Variable, length: int) -> None:
        """Complete the metadata and the checksums of an array, and check the sizes of its chunks in a directory."""
        if None in variable.shape:
            self._writer.resize(name, length)
        document, path = self._writer.documents[name], self._writer.paths[name]
        if name in self._writer.with_missing:  # xarray then reads these integers as NaN
            document["attributes"] = {**document["attributes"], FILL_VALUE: missing_code(variable.dtype)}
        checksums, grid = self._writer.checksums[name], grid_of(document)
        # The size of an uncompressed chunk is known: its numbers and their checksum.
        chunk = document["chunk_grid"]["configuration"]["chunk_shape"]
        size = prod(chunk) * variable.dtype.itemsize + TAIL if variable.dtype.kind in "fc" else None
        for position in product(*map(range, grid)):
            file, number = "/".join([path, "c", *map(str, position)]), chunk_number(position, grid)
            if isinstance(self.location, Directory):
                chunk_file = self.location.path / file
                actual = chunk_file.stat().st_size if chunk_file.is_file() else 0
                if actual == 0 or (size is not None and actual != size):
                    msg = (
                        f"Chunk {chunk_file} is missing or truncated, although all chunks were written. "
                        "Check that nothing else writes there, and call again."
                    )
                    raise OSError(msg)
            if checksums.get(number) < 0:  # written by a part whose process did not return
                checksums.set(number, tail_checksum(self.location.tail(file, TAIL)))
        n_chunks = self._chunks[path] = prod(grid)
        self._nodes[path], self._checksums[path] = document, checksums.first(n_chunks)

    def _check_counts(self, chunks: Mapping[str, int]) -> None:
        """Raise if chunks that were written are missing."""
        found = self.location.count_chunks(chunks)
        for name, count in chunks.items():
            if found[name] != count:
                msg = (
                    f"Array `{name}` of {self.location} is missing chunks, although all were written: it has "
                    f"{found[name]} of {count}. Check that nothing else writes there, and call again."
                )
                raise OSError(msg)

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
            with suppress(Exception):  # chunks that are not recorded are computed again
                self._journal.flush(1)
        return error

    def read(self, name: str) -> StoredArray:
        """Return a reader that raises for missing or damaged chunks."""
        if self._result is None:  # the call was complete before
            self._result = check_result(self.location)
        path = f"{self._name}/{name}"
        return self._result.array(path if path in self._result.nodes else name, self._temporary)
