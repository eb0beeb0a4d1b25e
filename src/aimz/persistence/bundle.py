"""Directory of one JSON file and one safetensors file: written atomically, validated when read."""

__all__ = ["check_target", "damaged", "read_bundle", "write_bundle"]

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax  # noqa: F401 (registers bfloat16 and other dtypes with NumPy)
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from aimz.errors import SavedModelError
from aimz.persistence.files import locked_directory, name_path, put_file, sync

FORMAT = "aimz-model"
VERSION = 1
"""Version of the format; increased by a change that older code would misread."""
READABLE_SINCE = "0.1.0"
"""First version of aimz that reads this format."""

INDEX = "model.json"
_ARRAYS = re.compile(r"arrays-[0-9a-f]{16}\.safetensors")
_OURS = re.compile(rf"{_ARRAYS.pattern}|{re.escape(INDEX)}")
_DRAFT = re.compile(r"\.draft-[0-9a-f]{16}")
_MAX_READS = 5
"""Number of attempts to read a model that other processes keep replacing."""
_MAX_JSON_BYTES = 2**26
"""Largest JSON file; long content is in the arrays."""
_NATIVE = frozenset(
    ["bool", *(f"{sign}int{n}" for sign in ("", "u") for n in (8, 16, 32, 64)), "float16", "float32", "float64"]
)


def _sha256(path: Path) -> str:
    """Return the SHA-256 digest of a file without reading it at once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise if a model cannot be written to ``path``.

    Raises
    ------
    FileExistsError
        If the directory has other files, or a model and ``overwrite`` is False.
    """
    found = sorted(path.iterdir()) if path.is_dir() else []
    foreign = [entry.name for entry in found if not (_DRAFT if entry.is_dir() else _OURS).fullmatch(entry.name)]
    if foreign or (path.exists() and not path.is_dir()):
        what = f"contains {foreign[0]!r}, which is not part of a model" if foreign else "is a file"
        msg = f"`path` must be a new directory or that of a saved model; {path} {what}. Pass another path."
        raise FileExistsError(msg)
    if not overwrite and any(entry.name == INDEX for entry in found):
        msg = f"`path` must be a new directory; {path} has a model. Pass another path, or `overwrite=True`."
        raise FileExistsError(msg)


def write_bundle(path: Path, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, overwrite: bool) -> None:
    """Write a model atomically: until the last rename, ``path`` holds the previous model.

    Both files are written to a draft directory. The file of arrays, named by its digest, is moved first; then the JSON
    file, which refers to it, replaces the previous JSON file.

    Raises
    ------
    FileExistsError
        If the directory has other files, or a model and ``overwrite`` is False.
    BlockingIOError
        If another process is saving a model to ``path``.
    OSError
        If the disk is full, or a file cannot be written.
    """
    advice = "Free some space and save again, or pass another path; a model saved there before has not changed"
    taken = BlockingIOError(
        f"`path` must be a directory that no other process writes to; a model is being saved to {path}. Pass another "
        "path."
    )
    with name_path(path, advice):
        path.mkdir(parents=True, exist_ok=True)
    with locked_directory(path, taken), name_path(path, advice):
        check_target(path, overwrite=overwrite)
        for leftover in path.glob(".draft-*"):
            shutil.rmtree(leftover)  # from a process that was killed
        draft = path / f".draft-{secrets.token_hex(8)}"
        try:
            draft.mkdir()
            name = _write_draft(draft, content, arrays)
            (draft / name).replace(path / name)
            sync(path)
            (draft / INDEX).replace(path / INDEX)
            sync(path)
            sync(path.parent)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        for old in path.iterdir():
            if old.name not in (name, INDEX):
                old.unlink(missing_ok=True)


def _write_draft(draft: Path, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> str:
    """Write both files of a model to a draft directory and return the name of the file of arrays."""
    stored, views = _as_native(arrays)
    file = draft / "arrays"
    file.touch()
    mode = file.stat().st_mode  # safetensors makes files that only their owner may read
    try:
        safetensors.numpy.save_file(stored, file)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
    file.chmod(mode)
    sync(file)
    digest = _sha256(file)
    name = f"arrays-{digest[:16]}.safetensors"
    index = {
        "format": FORMAT,
        "format_version": VERSION,
        "readable_since": READABLE_SINCE,
        **content,
        "arrays": {"file": name, "sha256": digest, "bytes": file.stat().st_size, "views": views},
    }
    index["checksum"] = _checksum(index)
    text = json.dumps(index, indent=1, allow_nan=False).encode()
    if len(text) > _MAX_JSON_BYTES:
        msg = f"A model is described in at most {_MAX_JSON_BYTES} bytes; got {len(text)}. Use fewer columns or sites."
        raise ValueError(msg)
    put_file(draft / INDEX, text)
    file.replace(draft / name)
    return name


def read_bundle(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the content and arrays of a model written by :func:`write_bundle`.

    Raises
    ------
    FileNotFoundError
        If there is no model.
    SavedModelError
        If a file is truncated, altered, not a model, or of a newer format.
    """
    for _ in range(_MAX_READS):
        index = path / INDEX
        if not index.is_file():
            hint = " It has files of an unfinished save." if path.is_dir() and any(path.iterdir()) else ""
            msg = f"`path` must be a directory written by `ImpactModel.save`; {path} has no {INDEX}.{hint}"
            raise FileNotFoundError(msg)
        content = _read_index(index)
        try:
            return content, _read_arrays(path, content)
        except SavedModelError:
            if _read_index(index) == content:
                raise
        # Another process replaced the model between the two reads.
    msg = f"The model in {path} was replaced {_MAX_READS} times while it was read. Load it when no process saves there."
    raise SavedModelError(msg)


def _read_arrays(path: Path, content: Mapping[str, Any]) -> dict[str, np.ndarray]:
    index = path / INDEX
    try:
        described = content["arrays"]
        name, digest, size = described["file"], described["sha256"], described["bytes"]
        views = {view: (kind, tuple(shape)) for view, (kind, shape) in described["views"].items()}
        is_valid = _ARRAYS.fullmatch(name) is not None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(index, "its entry for the arrays is invalid") from error
    if not is_valid:
        raise damaged(index, f"{name!r} is not a valid name of the file of arrays")
    file = path / name
    try:
        if file.stat().st_size != size or _sha256(file) != digest:
            raise damaged(file, "its content has changed since it was written")
        return _from_native(safetensors.numpy.load_file(file), views)
    except FileNotFoundError as error:
        raise damaged(file, "it is missing") from error
    except SavedModelError:
        raise
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise damaged(file, f"it cannot be read ({error})") from error


def damaged(file: Path, why: str) -> SavedModelError:
    """Return the error for a damaged file."""
    return SavedModelError(
        f"The model in {file.parent} is damaged: {file.name}: {why}. Use another copy, or fit the model again."
    )


def _read_index(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_JSON_BYTES:
        raise damaged(path, f"it has more than {_MAX_JSON_BYTES} bytes")
    try:
        content = json.loads(path.read_bytes())
        is_model = content["format"] == FORMAT
        version = content["format_version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(path, "it was not written by `ImpactModel.save`") from error
    if not is_model or type(version) is not int or version < 1:
        raise damaged(path, "it was not written by `ImpactModel.save`")
    if version > VERSION:
        needed = str(content.get("readable_since", "?"))[:32]
        msg = (
            f"The model in {path.parent} has format {version}; this version of aimz reads up to {VERSION}. Install "
            f"aimz {needed} or newer."
        )
        raise SavedModelError(msg)
    if content.pop("checksum", None) != _checksum(content):
        raise damaged(path, "its content has changed since it was written")
    return dict(content)


def _checksum(index: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _as_native(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return arrays, as bytes if safetensors lacks their dtype, and dtype and shape of the latter."""
    stored: dict[str, np.ndarray] = {}
    views: dict[str, Any] = {}
    for name, array in arrays.items():
        # `ascontiguousarray` gives scalars an axis.
        dense: np.ndarray = np.ascontiguousarray(array).reshape(np.shape(array))
        if dense.dtype.name not in _NATIVE:
            views[name] = [dense.dtype.name, list(dense.shape)]
            dense = np.frombuffer(dense.tobytes(), np.uint8)
        stored[name] = dense
    return stored, views


def _from_native(
    arrays: Mapping[str, np.ndarray], views: Mapping[str, tuple[str, tuple[int, ...]]]
) -> dict[str, np.ndarray]:
    result = dict(arrays)
    for name, (kind, shape) in views.items():
        dtype = np.dtype(kind)
        if dtype.hasobject:
            msg = f"{name!r} has the dtype {kind!r}"
            raise ValueError(msg)
        result[name] = np.frombuffer(arrays[name].tobytes(), dtype).reshape(shape)
    return result
