"""Temporary directories of processes that are ended by a signal."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import signal, sys
from aimz.store import TemporaryDirectory

before = signal.getsignal(signal.SIGTERM)
homes = [TemporaryDirectory() for _ in range(3)]
homes[0].close()
for home in homes[1:]:
    (home.path / "chunk").write_text("data")
assert signal.getsignal(signal.SIGTERM) is before
print(*(home.path for home in homes), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_directories_are_removed_after_a_signal(number, tmp_path):
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        paths = [Path(word) for word in process.stdout.readline().split()]
        assert [path.exists() for path in paths] == [False, True, True]
        process.send_signal(number)
    assert process.returncode == -number
    end = time.monotonic() + 20
    while any(path.exists() for path in paths) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(path.exists() for path in paths)
