"""Results on disk: one Zarr v3 directory for each call, complete or not at all.

A directory without a ``zarr.json`` at its root is no Zarr hierarchy, and whatever opens it refuses.  That file is
written last, in one atomic step; until then a journal beside the arrays says which call they belong to.
"""

__all__ = ["ZarrSink", "write_group"]

import json
import os
from collections.abc import Iterator, Mapping
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from aimz.store.journal import Journal
from aimz.store.location import Home
from aimz.store.reading import STATE, StoredArray, zarr_settings
from aimz.store.sink import Group, Sink, Variable


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

    def open(self, group: Group) -> None:
        """Make the arrays, or take up those of an interrupted call."""
        self._variables = dict(group.variables)
        resumed = (self.directory / self._name / "zarr.json").is_file()
        with zarr_settings():
            store = zarr.storage.LocalStore(self.directory / self._name)
            node = zarr.open_group(store, mode="r+") if resumed else _new_group(store, group)
            for name, variable in group.variables.items():
                ready = resumed and name in node
                self._arrays[name] = node[name] if ready else _new_array(node, name, variable)

    def beside(self, name: str, group: Group, data: Mapping[str, Any]) -> None:
        """Write a whole group beside the streamed one."""
        with zarr_settings():
            self._chunks |= write_group(self.directory / name, group, data, prefix=name)

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

    def missing(self, name: str) -> Iterator[tuple[int, ...]]:
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
            self._chunks[f"{self._name}/{name}"] = _count(self.directory / self._name / name, stored)
        for partial in self.directory.rglob("*.partial"):
            partial.unlink()
        write_root(self.directory, {**self._root_attrs, STATE: json.dumps(self._state())})
        if self._journal is not None:
            self._journal.path.unlink(missing_ok=True)

    def _state(self) -> dict[str, Any]:
        fingerprint = {} if self._journal is None else dict(self._journal.fingerprint)
        return {"complete": True, "chunks": dict(sorted(self._chunks.items())), "fingerprint": fingerprint}

    def fail(self, error: BaseException) -> BaseException:
        """Keep what is whole, and say how to go on; in a temporary directory there is nothing to go on with."""
        if self._journal is None:
            return error
        advice = (
            f"The result in {self.directory} is incomplete. What is finished is kept: make the same call again with "
            f"`resume={str(self.directory)!r}`."
        )
        if isinstance(error, OSError) and error.errno is not None:
            return OSError(error.errno, f"{os.strerror(error.errno)}. {advice}", str(self.directory))
        error.add_note(advice)
        return error

    def read(self, name: str) -> StoredArray:
        """Return a reader that raises where something is missing."""
        return StoredArray(self.directory, f"{self._name}/{name}", self._home)


def write_group(path: Path, group: Group, data: Mapping[str, Any], *, prefix: str) -> dict[str, int]:
    """Write a group with all its data; return the number of chunks of each array."""
    node = _new_group(zarr.storage.LocalStore(path), group)
    for name, variable in group.variables.items():
        _new_array(node, name, variable)[...] = np.asarray(data[name]).astype(variable.dtype, copy=False)
    return {f"{prefix}/{name}": _count(path / name, node[name]) for name in group.variables}


def write_root(directory: Path, attrs: Mapping[str, Any]) -> None:
    """Write the root, with the metadata of everything below it, in one atomic step."""
    files = sorted([*directory.glob("*/zarr.json"), *directory.glob("*/*/zarr.json")])
    nodes = {str(file.parent.relative_to(directory)): json.loads(file.read_text()) for file in files}
    root = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": dict(attrs),
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": nodes},
    }
    draft = directory / "zarr.json.partial"
    with draft.open("w") as file:
        json.dump(root, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(directory / "zarr.json")
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _new_group(store: zarr.storage.LocalStore, group: Group) -> zarr.Group:
    node = zarr.create_group(store, attributes=dict(group.attrs), overwrite=True)
    for name, (dims, labels, attrs) in group.coords.items():
        values = np.asarray(labels)
        text = values.dtype.kind in "OUT"
        variable = Variable(dims, values.shape, np.dtype("O") if text else values.dtype, values.shape)
        _new_array(node, name, variable, attrs)[...] = values.astype(str).astype(object) if text else values
    return node


def _new_array(node: zarr.Group, name: str, variable: Variable, attrs: Mapping[str, Any] | None = None) -> Any:
    """Make an array: floats as they are, whole numbers packed, and a checksum on every chunk.

    Noise does not compress; the counts and flags of a likelihood do.  The fill value is one that no result has by
    chance, and chunks equal to it are written all the same, so that a missing chunk is known for what it is.
    """
    kind = variable.dtype.kind
    text = kind == "O"
    packed = [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")] if kind in "iub" else []
    fill: Any = np.nan if kind in "fc" else np.iinfo(variable.dtype).min if kind in "iu" else "" if text else False
    shape = tuple(0 if size is None else size for size in variable.shape)
    return node.create_array(
        name,
        shape=shape,
        chunks=tuple(max(1, c) for c in variable.chunks),
        dtype=str if text else variable.dtype,
        compressors=[*packed, Crc32cCodec()],
        fill_value=fill,
        dimension_names=variable.dims,
        attributes=dict(attrs or {}),
        overwrite=True,
    )


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
