"""Cache of compiled programs on disk."""

import errno
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from aimz import compilation_cache
from aimz.compilation_cache import VARIABLE, ProgramCache, choose_directory

MEBIBYTE = 2**20


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "some" / "programs"


@pytest.fixture
def cache(directory, monkeypatch):
    monkeypatch.setattr(compilation_cache, "_user_has_chosen", lambda: False)  # the tests set JAX's own directory
    return ProgramCache(directory, "this machine", max_bytes=MEBIBYTE)


def entries(directory: Path) -> list[Path]:
    return [path for path in directory.iterdir() if not path.name.startswith(".")]


def test_entry_is_returned_until_it_is_damaged(cache, directory):
    assert cache.get("a") is None
    assert not directory.exists()
    cache.put("a", b"program")
    assert cache.get("a") == ProgramCache(directory, "this machine").get("a") == b"program"
    assert cache.get("b") is None
    (path,) = entries(directory)
    content = path.read_bytes()
    for damaged in (b"", content[:-1], content[:-1] + b"?"):
        path.write_bytes(damaged)
        assert cache.get("a") is None
    cache.put("a", b"program")  # compiled again
    assert cache.get("a") == b"program"


def test_entry_of_another_machine_is_not_returned(cache, directory):
    cache.put("a", b"program")
    assert ProgramCache(directory, "another machine").get("a") is None


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
def test_directory_is_private(cache, directory):
    cache.put("a", b"program")
    assert directory.stat().st_mode & 0o077 == 0


def test_least_recently_used_entries_are_removed(cache, directory):
    program = bytes(MEBIBYTE // 10)
    for i in range(8):
        cache.put(str(i), program)
    for age, path in enumerate(sorted(entries(directory), key=lambda path: path.stat().st_mtime_ns)):
        os.utime(path, (1000.0 + age, 1000.0 + age))
    assert cache.get("0") == program  # used now
    for i in range(8, 30):
        cache.put(str(i), program)
        assert cache.get("0") == program
        assert sum(path.stat().st_size for path in entries(directory)) < 1.2 * MEBIBYTE
    assert cache.get("1") is None
    assert cache.get("29") == program


def test_entry_that_would_fill_the_cache_is_not_stored(cache):
    cache.put("a", bytes(MEBIBYTE // 2))
    assert cache.get("a") is None


def test_temporary_files_of_ended_processes_are_removed(cache, directory):
    directory.mkdir(parents=True)
    ours, abandoned = directory / ".tmp-new", directory / ".tmp-old"
    for path, age in ((ours, 0), (abandoned, 7200)):
        path.write_bytes(b"half")
        os.utime(path, (time.time() - age,) * 2)
    cache.put("a", b"program")
    assert ours.exists()
    assert not abandoned.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_cache_that_cannot_be_written_is_silent(cache, directory, monkeypatch, number):
    attempts = []

    def fail(*_args: object, **_kwargs: object) -> None:
        attempts.append(number)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*((os, "fdopen") if number == errno.ENOSPC else (tempfile, "mkstemp")), fail)
    cache.put("a", b"program")
    cache.put("b", b"program")
    assert attempts == [number]  # later programs are not tried
    assert cache.get("a") is None
    assert list(directory.iterdir()) == []


def test_path_that_is_a_file_is_silent(cache, directory):
    directory.parent.mkdir()
    directory.write_text("")
    cache.put("a", b"program")
    assert cache.get("a") is None


@pytest.mark.parametrize("setting", ["0", "off", "False", ""])
def test_variable_turns_the_cache_off(monkeypatch, setting):
    monkeypatch.setenv(VARIABLE, setting)
    assert choose_directory() is None


def test_variable_is_the_directory(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert choose_directory() == tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="directories of Linux")
def test_default_directory_is_in_the_users_cache_and_private(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    chosen = choose_directory()
    assert chosen == tmp_path / "aimz" / "programs"
    chosen.mkdir(parents=True)
    assert choose_directory() == chosen
    chosen.chmod(0o777)
    assert choose_directory() is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert choose_directory() is None


def test_setting_of_the_user_is_left_alone():
    from jax._src import compilation_cache as jax_cache

    compilation_cache.begin_caching()
    assert not isinstance(jax_cache._cache, ProgramCache)


SCRIPT = """
import sys, jax, numpy as np
from aimz.compilation_cache import begin_caching

events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event.rsplit("/", 1)[-1]))

def compile_again():
    jax.clear_caches()
    jax.jit(lambda x: x + 1)(np.ones(3))
    found = [event for event in events if event in ("cache_hits", "cache_misses")]
    events.clear()
    return ",".join(found)

before = compile_again()
begin_caching()
print(before or "-", compile_again(), compile_again())
jax.config.update("jax_compilation_cache_dir", sys.argv[1])
print(compile_again(), compile_again(), compile_again())
"""


def test_programs_are_read_by_jax_until_the_user_sets_another_cache(tmp_path):
    ours, users = tmp_path / "ours", tmp_path / "users"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(users)],
        env=environment | {VARIABLE: str(ours)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert done.stdout.split() == ["-", *2 * ["cache_misses", "cache_hits"], "cache_hits"]
    assert len(entries(ours)) == 1
    assert len(list(users.iterdir())) == 1
