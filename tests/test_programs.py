"""The example and the benchmark run, at a small size; what they say at full size is read by people."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from slow_cases import slow_except

ROOT = Path(__file__).parents[1]
CAMPAIGNS = sorted((ROOT / "tests" / "campaigns").glob("[a-z]*.py"))


def run(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        # A fit of the small sizes used here ends before its loss has settled.
        [sys.executable, "-W", "error", "-W", "ignore:The draws are not from the posterior yet", *arguments],
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
    answer, report = printed.index("In words:"), printed.index("Report.")
    assert printed.index("RAND") < answer < printed.index("Figure: out/health_insurance.png") < report
    assert "Posterior predictive check" in printed[report:]
    assert "R-hat" in printed[report:]
    assert (tmp_path / "out" / "health_insurance.png").stat().st_size > 10_000


@pytest.mark.timeout(300)
@pytest.mark.parametrize("cluster", slow_except([(), ("--workers", "1")], ()))
def test_score_parquet(cluster, tmp_path):
    program = str(ROOT / "examples" / "score_parquet.py")
    printed = run(program, "--rows", "5000", "--folder", "out", *cluster, cwd=tmp_path)
    assert "File: 5,000 rows" in printed
    assert "For region west" in printed
    assert (tmp_path / "out" / "customers.parquet").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_latency(tmp_path):
    benchmark = str(ROOT / "benchmarks" / "latency.py")
    printed = run(benchmark, "--rows", "5", "--draws", "5", "--repeats", "1", cwd=tmp_path)
    assert "predict_on_batch" in printed
    assert "import aimz" in printed


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_coverage(tmp_path):
    printed = run(str(ROOT / "benchmarks" / "coverage.py"), "--quick", cwd=tmp_path)
    assert "all rows" in printed
    assert "3 replications" in printed.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_counterfactuals(tmp_path):
    printed = run(str(ROOT / "benchmarks" / "counterfactuals.py"), "--quick", cwd=tmp_path)
    assert "20,000 rows x 50 draws: counterfactual" in printed


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_slopes(tmp_path):
    printed = run(str(ROOT / "benchmarks" / "slopes.py"), "--quick", cwd=tmp_path)
    assert "20,000 rows x 50 draws: two scenarios 1.00" in printed
    assert "slopes against one scenario" in printed


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_effects(tmp_path):
    benchmark = str(ROOT / "benchmarks" / "effects.py")
    printed = run(benchmark, "--quick", "--only", "growth,scenarios", cwd=tmp_path)
    assert "average effect, 30,000 rows" in printed
    assert "a sweep of 50 doses" in printed
    assert "failed" not in printed


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("program", CAMPAIGNS, ids=lambda path: path.stem)
def test_campaign_loses_nothing(program, tmp_path):
    done = subprocess.run(
        [sys.executable, str(program), "--minutes", "1", "--seed", "0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=580,
    )
    last = done.stdout.strip().rpartition("\n")[2]
    assert re.fullmatch(r"tried [1-9]\d*, detected \d+, lost 0", last), done.stdout + done.stderr
    assert done.returncode == 0
