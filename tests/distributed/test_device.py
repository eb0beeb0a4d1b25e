"""One accelerator for each worker of a host."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from aimz.distributed.device import _take

TAKEN = """
import os, sys
from pathlib import Path
from aimz.distributed.device import _take
lock = _take(["/dev/one", "/dev/two"], Path(sys.argv[1]))
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


@pytest.fixture
def unassigned(monkeypatch):
    """No device is assigned, neither before nor after."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")


def test_without_accelerators_nothing_is_taken(unassigned, tmp_path):
    assert _take([], tmp_path) is None
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("assigned", ["2", "GPU-8a", ""])
def test_what_was_assigned_to_one_process_stays(assigned, monkeypatch, tmp_path):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", assigned)
    assert _take(["/dev/one", "/dev/two"], tmp_path) is None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == assigned
    assert list(tmp_path.iterdir()) == []


def test_of_those_assigned_to_a_whole_job_each_takes_another(monkeypatch, tmp_path):
    """In the order they are given in, which Dask's own cluster of GPUs turns for each worker."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8a")
    with _take(["/dev/one", "/dev/two"], tmp_path):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8a")
        with _take(["/dev/one", "/dev/two"], tmp_path):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-8a"


def test_two_processes_take_two_devices_and_leave_them_when_they_end(unassigned, tmp_path, monkeypatch):
    devices = ["/dev/one", "/dev/two"]
    with subprocess.Popen(
        [sys.executable, "-c", TAKEN, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "0\n"
        with _take(devices, tmp_path):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
            # A third finds none that is free, and sees all of them.
            monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
            assert _take(devices, tmp_path) is None
            assert "CUDA_VISIBLE_DEVICES" not in os.environ
            other.kill()
            other.wait()
            with _take(devices, tmp_path):
                assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_locks_that_another_user_has_made_are_locks_all_the_same(unassigned):
    with tempfile.TemporaryDirectory() as directory:
        lock = Path(directory) / "aimz-device-0.lock"
        lock.touch()
        lock.chmod(0o444)
        Path(directory).chmod(0o755)
        others = os.geteuid() == 0  # whom no mode keeps from writing
        if others:
            os.seteuid(65534)
        try:
            taken = _take(["/dev/one"], Path(directory))
        finally:
            if others:
                os.seteuid(0)
        with taken:
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
            assert _take(["/dev/one"], Path(directory)) is None
