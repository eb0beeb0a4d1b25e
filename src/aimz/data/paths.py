"""Directories as arguments; checked without any package that writes there."""

__all__ = ["read_output_dir"]

import os
from pathlib import Path
from typing import Any


def read_output_dir(output_dir: Any, name: str = "output_dir") -> Path:
    """Return the directory results are to go to, and refuse one that cannot be written; nothing is made.

    Raises
    ------
    TypeError
        If it is no path.
    ValueError
        If it is a URL.
    OSError
        If it is a file, or may not be written.
    """
    if not isinstance(output_dir, str | os.PathLike):
        msg = f"`{name}` must be a path; got {output_dir!r}. Pass a string or a `pathlib.Path`."
        raise TypeError(msg)
    if "://" in str(output_dir):
        msg = f"`{name}` must be a local path; got {output_dir!r}. Write to a local directory and copy it there."
        raise ValueError(msg)
    path = Path(output_dir).expanduser().absolute()
    parent = next(p for p in (path, *path.parents) if p.exists())
    if not parent.is_dir():
        msg = f"`{name}` must be a directory; got {path}, and {parent} is a file. Choose another."
        raise NotADirectoryError(msg)
    if not os.access(parent, os.W_OK | os.X_OK):
        msg = f"`{name}` must be a directory that can be written; got {path}. Choose another, or change its mode."
        raise PermissionError(msg)
    return path
