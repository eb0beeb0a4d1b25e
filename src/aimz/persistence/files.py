"""Files that are written durably, and locks on the directories that contain them."""

__all__ = ["locked_directory", "name_path", "put_file", "sync"]

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def put_file(path: Path, content: bytes) -> None:
    """Write a file atomically and durably: to a draft, then fsync and rename."""
    draft = path.with_name(f"{path.name}.partial")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a directory, to the disk (POSIX only)."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def name_path(path: Path, advice: str) -> Iterator[None]:
    """Add ``path`` and advice to an error of the file system, such as a full disk, which names neither."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
            raise
        raise OSError(error.errno, f"{error.strerror}. {advice}", str(path)) from error


@contextmanager
def locked_directory(path: Path, taken: Exception) -> Iterator[None]:
    """Lock a directory exclusively while the context is open; raise ``taken`` if it is locked.

    The operating system releases the lock of a process that ends. Without file locks (Windows, some network file
    systems) the directory is not locked.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise taken from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
        yield
    finally:
        os.close(descriptor)
