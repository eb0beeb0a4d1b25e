"""Compiled programs on disk, so that a new process need not compile what an earlier one has compiled."""

__all__ = ["VARIABLE", "ProgramCache", "begin_caching", "choose_directory"]

import hashlib
import os
import platform
import sys
import tempfile
import time
import zlib
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import jax

VARIABLE = "AIMZ_COMPILATION_CACHE"
"""Environment variable with the directory of the cache, or with ``0`` to turn it off."""
_OFF = ("", "0", "false", "no", "off")
_MAX_BYTES = 256 * 2**20
"""Size of all programs above which the least recently used ones are removed."""
_CHECKSUM_BYTES = 4
_TEMPORARY = ".tmp-"
"""Beginning of the names of files that are being written."""
_ABANDONED_SECONDS = 3600
"""Age of a temporary file above which the process that wrote it has ended."""
_DEFAULT_MIN_SECONDS = 1.0
"""JAX's default compile time below which a program is not stored."""


@cache
def begin_caching() -> None:
    """Store compiled programs in the user's cache directory, unless the user has configured JAX's own cache."""
    directory = choose_directory()
    if directory is None or _user_has_chosen():
        return
    with suppress(ImportError, AttributeError):  # JAX has changed: without a cache
        jax_cache: Any = import_module("jax._src.compilation_cache")
        if jax_cache._cache is None:
            # JAX's cache of a directory can read entries that are only half written, warns for each entry that it
            # cannot write, and needs another package to bound its size.
            jax_cache._cache, jax_cache._cache_initialized = ProgramCache(directory, _machine()), True
            if jax.config.jax_persistent_cache_min_compile_time_secs == _DEFAULT_MIN_SECONDS:
                # A fit runs hundreds of small programs.
                jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def choose_directory() -> Path | None:
    """Return the directory of the cache, or None if there is none."""
    setting = os.environ.get(VARIABLE)
    if setting is not None:
        return None if setting.strip().lower() in _OFF else Path(setting).absolute()
    try:
        directory = _user_cache() / "aimz" / "programs"
        status = directory.stat()
    except FileNotFoundError:
        return directory
    except (OSError, RuntimeError):  # it cannot be read, or the user has no home
        return None
    # Programs are executed, so another user must not be able to write them.
    private = os.name == "nt" or (status.st_uid == os.geteuid() and not status.st_mode & 0o022)
    return directory if private else None


def _user_cache() -> Path:
    """Return the directory of the user's caches on this platform."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _user_has_chosen() -> bool:
    """Return whether the user has set the directory of JAX's cache, or disabled it."""
    return bool(jax.config.jax_compilation_cache_dir) or not jax.config.jax_enable_compilation_cache


def _machine() -> str:
    """Return a description of versions and processor, since a home directory can be shared by different machines."""
    processor = platform.processor()
    with suppress(OSError):
        first = Path("/proc/cpuinfo").read_text().split("\n\n", 1)[0].splitlines()
        names = ("vendor_id", "cpu family", "model", "flags", "CPU", "Features")
        processor = "\n".join(line for line in first if line.startswith(names))
    return "\n".join([jax.__version__, platform.machine(), str(os.cpu_count()), processor])


class ProgramCache:
    """Directory of compiled programs with a bounded size, in place of JAX's, for several processes and machines.

    An entry is a checksum and the program, and is replaced atomically. A directory that cannot be read or written is
    an empty cache: it never raises or warns.
    """

    def __init__(self, directory: Path, machine: str, max_bytes: int = _MAX_BYTES) -> None:
        self._path = directory
        self._machine = machine
        self._max_bytes = max_bytes
        self._unchecked_bytes = max_bytes
        """Number of bytes written since old programs were last removed; at first, others may have filled it."""
        self._can_write = True

    def get(self, key: str) -> bytes | None:
        """Return the program of a key, or None."""
        if _user_has_chosen():
            self._end()
            return None
        path = self._entry(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        checksum, value = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
        if checksum != _checksum(value):
            return None
        with suppress(OSError):
            os.utime(path)
        return value

    def put(self, key: str, value: bytes) -> None:
        """Store the program of a key; after an error, such as a full disk, none is stored any more."""
        if not self._can_write or len(value) > self._max_bytes // 4:
            return
        try:
            self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._unchecked_bytes += len(value)
            if self._unchecked_bytes > self._max_bytes // 8:
                self._remove_old()
            self._write(self._entry(key), _checksum(value) + value)
        except OSError:
            self._can_write = False

    def _entry(self, key: str) -> Path:
        return self._path / hashlib.sha256(f"{self._machine}\n{key}".encode()).hexdigest()

    def _write(self, path: Path, content: bytes) -> None:
        number, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=self._path)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(content)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def _remove_old(self) -> None:
        """Remove the least recently used programs if the directory is too large, and abandoned temporary files."""
        self._unchecked_bytes = 0
        entries = []
        with os.scandir(self._path) as files:
            for file in files:
                with suppress(OSError):  # another process may have removed it
                    status = file.stat()
                    entries.append((status.st_mtime, status.st_size, Path(file.path)))
        entries.sort()
        excess = sum(size for _, size, _ in entries) - self._max_bytes * 3 // 4
        too_large = excess > self._max_bytes // 4
        oldest = time.time() - _ABANDONED_SECONDS
        for used, size, path in entries:
            abandoned = path.name.startswith(_TEMPORARY) and used < oldest
            if abandoned or (too_large and excess > 0):
                excess -= size
                with suppress(OSError):
                    path.unlink()

    def _end(self) -> None:
        """Replace this cache by JAX's own, which the user has configured since."""
        import_module("jax._src.compilation_cache").reset_cache()


def _checksum(value: bytes) -> bytes:
    return zlib.crc32(value).to_bytes(_CHECKSUM_BYTES, "big")
