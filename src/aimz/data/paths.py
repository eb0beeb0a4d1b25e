"""Checks of directories that are passed as arguments."""

__all__ = ["read_input_dir", "read_output_dir"]

import os
import re
from pathlib import Path
from typing import Any

_LOST_A_SLASH = re.compile(r"[a-z][a-z0-9+.-]+:/[^/]", re.IGNORECASE)


def read_output_dir(output_dir: Any, name: str = "output_dir") -> Path:
    """Return the directory for results, after checking that it can be written; nothing is created.

    Raises
    ------
    TypeError, ValueError
        As :func:`read_input_dir`.
    OSError
        If the path is a file or a broken link, or cannot be written.
    """
    path = read_input_dir(output_dir, name)
    parent = next(p for p in (path, *path.parents) if os.path.lexists(p))
    if not parent.exists():
        msg = (
            f"`{name}` must be a directory; got {path}, and {parent} is a link to {parent.readlink()}, which does not "
            "exist. Create the target of the link, or choose another directory."
        )
        raise FileNotFoundError(msg)
    if not parent.is_dir():
        msg = f"`{name}` must be a directory; got {path}, and {parent} is a file. Choose another."
        raise NotADirectoryError(msg)
    if not os.access(parent, os.W_OK | os.X_OK):
        msg = f"`{name}` must be a directory that can be written; got {path}. Choose another, or change its mode."
        raise PermissionError(msg)
    return path


def read_input_dir(given: Any, name: str) -> Path:
    """Return a local path, whether it exists or not.

    Raises
    ------
    TypeError
        If ``given`` is not a path.
    ValueError
        If ``given`` is a URL.
    """
    if not isinstance(given, str | os.PathLike):
        msg = f"`{name}` must be a path; got {given!r}. Pass a string or a `pathlib.Path`."
        raise TypeError(msg)
    if given == "":
        msg = f"`{name}` must be a path; got an empty string. Pass `'.'` for the current directory."
        raise ValueError(msg)
    if "\0" in str(given):
        msg = f"`{name}` must be a path; got {given!r}, which has a null character. Remove it."
        raise ValueError(msg)
    if not isinstance(given, str) and _LOST_A_SLASH.match(str(given)):
        msg = f"`{name}` is {given!r}, a URL in a `pathlib.Path`, which drops a slash. Pass the URL as a string."
        raise ValueError(msg)
    if "://" in str(given):
        msg = f"`{name}` must be a local path; got {given!r}. Use a local directory, and copy from or to it."
        raise ValueError(msg)
    return Path(given).expanduser().absolute()
