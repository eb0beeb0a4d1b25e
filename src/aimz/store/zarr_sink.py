"""Results on disk: one Zarr v3 directory for each call, complete or not at all.

A directory without a ``zarr.json`` at its root is no Zarr hierarchy, and whatever opens it refuses.  That file is
written last, in one atomic step; until then a journal beside the arrays says which call they belong to.
"""

__all__ = ["ZarrSink"]

import errno
import json
import os
from collections.abc import Iterator, Mapping
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore

from aimz.store.journal import Journal
from aimz.store.location import Home
from aimz.store.reading import STATE, StoredArray, count_chunks
from aimz.store.sink import Group, Sink, SinkPart, Variable
from aimz.store.zarr_files import new_array, put, put_whole, zarr_settings


class ZarrSink(Sink):
    """Streams one group into ``<directory>/<name>``, beside groups that are written at once.

    Parameters
    ----------
    directory
        Directory of the call, which exists.
    name
        Name of the streamed group.
    beside
        Groups with all their data, by name, and the attributes of the root.
    journal
        What to know the call by, if it can be resumed; None in a temporary directory.
    home
        The temporary directory around, which readers of the result hold.
    """

    aligned = True

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        root_attrs: Mapping[str, Any],
        journal: Journal | None = None,
        home: Home | None = None,
    ) -> None:
        self.directory = directory
        self._name = name
        self._root_attrs = root_attrs
        self._journal = journal
        self._home = home
        self._variables: dict[str, Variable] = {}
        self._arrays: dict[str, Any] = {}
        self._chunks: dict[str, int] = {}
        self._resumed = False
        self._nodes: dict[str, Any] = {}
        """Metadata of everything written, by path."""

    def open(self, group: Group) -> None:
        """Make the arrays, or take up those of an interrupted call."""
        self._variables = dict(group.variables)
        resumed = self._resumed = (self.directory / self._name / "zarr.json").is_file()
        self._put_group(self._name, group)
        for name, variable in group.variables.items():
            path = self.directory / self._name / name
            if resumed and (path / "zarr.json").is_file():
                with zarr_settings():
                    self._arrays[name] = zarr.open_array(LocalStore(path), mode="r+")
            else:
                self._arrays[name], self._nodes[f"{self._name}/{name}"] = new_array(path, variable)

    def beside(self, name: str, group: Group, data: Mapping[str, Any]) -> None:
        """Write a whole group beside the streamed one."""
        self._put_group(name, group)
        for array, variable in group.variables.items():
            path, values = self.directory / name / array, np.asarray(data[array])
            meta, count = put_whole(path, variable, values.astype(variable.dtype, copy=False), {})
            self._nodes[f"{name}/{array}"] = meta
            self._chunks[f"{name}/{array}"] = count

    def _put_group(self, name: str, group: Group) -> None:
        """Write a group with its labels; an interrupted call may have left out some."""
        # Labels that are no dimensions have to be told from variables, by the attribute that CF has for it.
        beside = " ".join(label for label, (dims, _, _) in group.coords.items() if dims != (label,))
        attributes = {**group.attrs, **({"coordinates": beside} if beside else {})}
        node = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
        self._nodes[name] = node
        put(self.directory / name / "zarr.json", json.dumps(node, indent=2).encode())
        for label, (dims, given, attrs) in group.coords.items():
            values = np.asarray(given)
            if values.dtype.kind in "OUT":
                values = values.astype(str).astype(object)
            variable, path = Variable(dims, values.shape, values.dtype, values.shape), f"{name}/{label}"
            self._nodes[path], self._chunks[path] = put_whole(self.directory / path, variable, values, attrs)

    def write(self, name: str, array: np.ndarray, start: int) -> None:
        """Write a piece that covers whole chunks; each appears under its name only when whole."""
        stored, variable = self._arrays[name], self._variables[name]
        where, piece = variable.place(array, start)
        if variable.axis is not None and variable.shape[variable.axis] is None:
            end = start + piece.shape[variable.axis]
            if end > stored.shape[variable.axis]:
                stored.resize((*stored.shape[: variable.axis], end, *stored.shape[variable.axis + 1 :]))
        stored[where] = piece.astype(variable.dtype, copy=False)

    def length(self, name: str) -> int:
        """Return how far the streamed axis of a variable reaches so far."""
        axis = self._variables[name].axis
        return 0 if axis is None else int(self._arrays[name].shape[axis])

    def missing(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, ...]]:
        """Yield the grid positions of chunks that are not there or not whole."""
        stored = self._arrays[name]
        for position in product(*(range(ceil(s / c)) for s, c in zip(stored.shape, stored.chunks, strict=True))):
            part = tuple(slice(p * c, (p + 1) * c) for p, c in zip(position, stored.chunks, strict=True))
            try:
                stored[part]
            except (ValueError, OSError, RuntimeError):  # missing, truncated, or its checksum does not fit
                yield position

    def finish(self, length: int) -> None:
        """Check that everything is there, then say so."""
        for name, variable in self._variables.items():
            ended, stored = variable.ending_at(length), self._arrays[name]
            if stored.shape != ended.shape:
                stored.resize(ended.shape)
            if None in variable.shape:
                self._nodes.pop(f"{self._name}/{name}", None)
            self._chunks[f"{self._name}/{name}"] = _count(self.directory / self._name / name, stored)
        if self._resumed:  # a process that was killed cannot tidy up; one that goes on does
            for partial in self.directory.rglob("*.partial"):
                partial.unlink()
        _check_counts(self.directory, self._chunks)
        self._nodes |= _read_nodes(self.directory, self._name, known=self._nodes)
        # In a temporary directory nothing outlives the process, let alone a power cut.
        lasting = self._journal is not None
        _write_root(
            self.directory, self._nodes, {**self._root_attrs, STATE: json.dumps(self._state())}, lasting=lasting
        )
        if self._journal is not None:
            self._journal.path.unlink(missing_ok=True)

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
            advice = (
                f"The result in {self.directory} is incomplete. What is finished is kept: make the same call again "
                f"with `resume={str(self.directory)!r}`."
            )
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return OSError(error.errno, f"{os.strerror(error.errno)}. {advice}", str(self.directory))
        if self._journal is not None:
            error.add_note(advice)
        return error

    def part(self, start: int, stop: int) -> SinkPart:
        raise NotImplementedError

    def add(self, parcel: Any) -> None:
        """Do nothing."""

    def read(self, name: str) -> StoredArray:
        """Return a reader that raises where something is missing."""
        return StoredArray(self.directory, f"{self._name}/{name}", self._home, self._arrays.get(name))


def _write_root(directory: Path, nodes: Mapping[str, Any], attrs: Mapping[str, Any], *, lasting: bool) -> None:
    """Write the root, with the metadata of everything below it, in one atomic step."""
    root = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": dict(attrs),
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": dict(sorted(nodes.items()))},
    }
    draft = directory / "zarr.json.partial"
    with draft.open("w") as file:
        file.write(json.dumps(root, indent=2))
        if lasting:
            file.flush()
            os.fsync(file.fileno())
    draft.replace(directory / "zarr.json")
    if lasting:
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _read_nodes(directory: Path, name: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of a group and what is in it, where they were changed or an earlier run wrote them."""
    paths = [directory / name, *(file.parent for file in (directory / name).glob("*/zarr.json"))]
    names = {str(path.relative_to(directory)): path for path in paths}
    return {n: json.loads((path / "zarr.json").read_text()) for n, path in names.items() if n not in known}


def _check_counts(directory: Path, counts: Mapping[str, int]) -> None:
    """Refuse a result of which something that was written is gone."""
    for name, count in counts.items():
        if count_chunks(directory / name) != count:
            msg = (
                f"Array `{name}` of {directory} was written and is not there any more. Is something else writing there?"
            )
            raise OSError(msg)


def _count(path: Path, stored: Any) -> int:
    """Return the number of chunks of an array, and refuse a result that lacks one.

    Their sizes are known where nothing is packed.
    """
    grid = [range(ceil(s / c)) for s, c in zip(stored.shape, stored.chunks, strict=True)]
    size = None
    if stored.dtype.kind in "fc":
        size = int(np.prod(stored.chunks)) * stored.dtype.itemsize + 4
    count = 0
    for position in product(*grid):
        file = path.joinpath("c", *map(str, position))
        actual = file.stat().st_size if file.is_file() else 0
        if actual == 0 or (size is not None and actual != size):
            msg = f"Chunk {file} was written and is not there any more, or not whole. Is something else writing there?"
            raise OSError(msg)
        count += 1
    return count
