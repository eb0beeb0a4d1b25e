"""The example and the benchmark run, at a small size; what they say at full size is read by people."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(300)
def test_health_insurance(tmp_path):
    printed = run(str(ROOT / "examples" / "health_insurance.py"), "--rows", "60", "--steps", "200", cwd=tmp_path)
    assert "In words:" in printed.strip().splitlines()[-1]
    assert (tmp_path / "out" / "health_insurance.png").stat().st_size > 10_000


@pytest.mark.timeout(300)
def test_latency(tmp_path):
    benchmark = str(ROOT / "benchmarks" / "latency.py")
    printed = run(benchmark, "--rows", "5", "--draws", "5", "--repeats", "1", cwd=tmp_path)
    assert "predict_on_batch" in printed
    assert "import aimz" in printed
