"""A directory of one JSON file and one file of arrays, written as a whole or not at all, and read with distrust."""

__all__ = ["check_target", "damaged", "put_file", "read_bundle", "write_bundle"]

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax  # noqa: F401 (gives NumPy the types that it has not itself: bfloat16)
import numpy as np

from aimz.errors import SavedModelError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

FORMAT = "aimz-model"
VERSION = 1
"""Of the format.  A change that older code would misread raises it."""
READABLE_SINCE = "0.1.0"
"""The first version of aimz that reads this format."""

INDEX = "model.json"
_ARRAYS = re.compile(r"arrays-[0-9a-f]{16}\.safetensors")
_OURS = re.compile(rf"{_ARRAYS.pattern}|{re.escape(INDEX)}")
_DRAFT = re.compile(r"\.draft-[0-9a-f]{16}")
_TRIES = 5
"""Times that a model is read which another takes the place of meanwhile."""
_MOST_JSON = 2**26
"""Bytes of JSON that are read: all that is long is in the arrays."""
_NATIVE = frozenset(
    ["bool", *(f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64)), "float16", "float32", "float64"]
)


def put_file(path: Path, content: bytes) -> None:
    """Write a file that appears under its name only when whole, and stays there when the power fails."""
    draft = path.with_name(f"{path.name}.partial")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _sha256(path: Path) -> str:
    """Return the digest of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a directory that has anything but models.

    Raises
    ------
    FileExistsError
        If there is something else, or a model and not ``overwrite``.
    """
    found = sorted(path.iterdir()) if path.is_dir() else []
    foreign = [entry.name for entry in found if not (_DRAFT if entry.is_dir() else _OURS).fullmatch(entry.name)]
    if foreign or (path.exists() and not path.is_dir()):
        what = f"{foreign[0]!r}, which is no part of a model" if foreign else "a file"
        msg = f"`path` must be a new directory, or one of a saved model; {path} has {what}. Pass another path."
        raise FileExistsError(msg)
    if not overwrite and any(entry.name == INDEX for entry in found):
        msg = f"`path` must be a new directory; {path} has a model. Pass another path, or `overwrite=True`."
        raise FileExistsError(msg)


def write_bundle(path: Path, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, overwrite: bool) -> None:
    """Write a model; the directory is what it was before until the last moment, and whole from then on.

    Both files are made in a directory of their own.  That of the arrays is named after its digest; then the JSON file,
    which names it, takes the place of the one before in one atomic step.

    Raises
    ------
    FileExistsError
        As :func:`check_target`.
    BlockingIOError
        If a model is being saved there just now.
    """
    path.mkdir(parents=True, exist_ok=True)
    with _alone(path):
        check_target(path, overwrite=overwrite)
        for left in path.glob(".draft-*"):
            shutil.rmtree(left)  # of a process that was killed
        draft = path / f".draft-{secrets.token_hex(8)}"
        try:
            draft.mkdir()
            name = _write_draft(draft, content, arrays)
            (draft / name).replace(path / name)
            _sync(path)
            (draft / INDEX).replace(path / INDEX)
            _sync(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        for old in path.iterdir():
            if old.name not in (name, INDEX):
                old.unlink(missing_ok=True)


def _write_draft(draft: Path, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Write both files of a model, and return the name of that of the arrays."""
    from safetensors.numpy import save_file

    stored, views = _as_native(arrays)
    made = draft / "arrays"
    made.touch()
    mode = made.stat().st_mode  # safetensors makes files that nobody else may read
    save_file(stored, made)
    made.chmod(mode)
    _sync(made)
    digest = _sha256(made)
    name = f"arrays-{digest[:16]}.safetensors"
    index = {
        "format": FORMAT,
        "format_version": VERSION,
        "readable_since": READABLE_SINCE,
        **content,
        "arrays": {"file": name, "sha256": digest, "bytes": made.stat().st_size, "views": views},
    }
    index["checksum"] = _checksum(index)
    text = json.dumps(index, indent=1, allow_nan=False).encode()
    if len(text) > _MOST_JSON:
        msg = f"A model is described in at most {_MOST_JSON} bytes; got {len(text)}. Name fewer columns or sites."
        raise ValueError(msg)
    put_file(draft / INDEX, text)
    made.replace(draft / name)
    return name


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let nobody else write a model there meanwhile, as far as the system can tell."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            msg = f"`path` must be a directory nobody else writes to; a model is being saved to {path}. Pass another."
            raise BlockingIOError(msg) from error
        yield
    finally:
        os.close(descriptor)


def read_bundle(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return content and arrays of a model that was written by :func:`write_bundle`.

    Raises
    ------
    FileNotFoundError
        If there is no model.
    SavedModelError
        If it is torn, altered, no model, or of a newer format.
    """
    for _ in range(_TRIES):
        index = path / INDEX
        if not index.is_file():
            left = " A save that did not finish left files there." if path.is_dir() and any(path.iterdir()) else ""
            msg = f"`path` must be a directory written by `ImpactModel.save`; {path} has no {INDEX}.{left}"
            raise FileNotFoundError(msg)
        content = _read_index(index)
        try:
            return content, _read_arrays(path, content)
        except SavedModelError:
            if _read_index(index) == content:
                raise
        # Another model took its place meanwhile.
    msg = f"The model in {path} is being replaced again and again; got {_TRIES} in a row. Load it when that is over."
    raise SavedModelError(msg)


def _read_arrays(path: Path, content: Mapping[str, Any]) -> dict[str, np.ndarray]:
    index = path / INDEX
    try:
        described = content["arrays"]
        name, digest, size = described["file"], described["sha256"], described["bytes"]
        views = {view: (kind, tuple(shape)) for view, (kind, shape) in described["views"].items()}
        fine = _ARRAYS.fullmatch(name) is not None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(index, "it does not say where the arrays are") from error
    if not fine:
        raise damaged(index, f"arrays cannot be in {name!r}")
    file = path / name
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        if file.stat().st_size != size or _sha256(file) != digest:
            raise damaged(file, "it is not as it was written")
        return _as_given(load_file(file), views)
    except FileNotFoundError as error:
        raise damaged(file, "it is missing") from error
    except SavedModelError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise damaged(file, f"it cannot be read ({error})") from error


def damaged(file: Path, why: str) -> SavedModelError:
    """Return the error for a file that is not what was written."""
    return SavedModelError(
        f"The model in {file.parent} is damaged: {file.name}: {why}. Take another copy, or fit anew."
    )


def _read_index(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MOST_JSON:
        raise damaged(path, f"it has more than {_MOST_JSON} bytes")
    try:
        content = json.loads(path.read_bytes())
        is_ours = content["format"] == FORMAT
        version = content["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path, "it is not what `ImpactModel.save` writes") from error
    if not is_ours or type(version) is not int or version < 1:
        raise damaged(path, "it is not what `ImpactModel.save` writes")
    if version > VERSION:
        needed = str(content.get("readable_since", "?"))[:32]
        msg = (
            f"The model in {path.parent} has format {version}; this version of aimz reads up to {VERSION}. Install "
            f"aimz {needed} or newer."
        )
        raise SavedModelError(msg)
    if content.pop("checksum", None) != _checksum(content):
        raise damaged(path, "it is not as it was written")
    return dict(content)


def _checksum(index: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _as_native(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return arrays of types that every reader of safetensors knows; the others as bytes, and what they are."""
    stored: dict[str, np.ndarray] = {}
    views: dict[str, Any] = {}
    for name, array in arrays.items():
        dense: np.ndarray = np.ascontiguousarray(array).reshape(
            np.shape(array)
        )  # `ascontiguousarray` makes a number an array
        if dense.dtype.name not in _NATIVE:
            views[name] = [dense.dtype.name, list(dense.shape)]
            dense = np.frombuffer(dense.tobytes(), np.uint8)
        stored[name] = dense
    return stored, views


def _as_given(
    arrays: Mapping[str, np.ndarray], views: Mapping[str, tuple[str, tuple[int, ...]]]
) -> dict[str, np.ndarray]:
    given = dict(arrays)
    for name, (kind, shape) in views.items():
        dtype = np.dtype(kind)
        if dtype.hasobject:
            msg = f"{name!r} has the type {kind!r}"
            raise ValueError(msg)
        given[name] = np.frombuffer(arrays[name].tobytes(), dtype).reshape(shape)
    return given


def _sync(path: Path) -> None:
    """Make a file, or the names in a directory, last when the power fails, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
