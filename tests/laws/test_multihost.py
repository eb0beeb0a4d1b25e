"""Law 1 and law 9 over several processes: one result, the same in all and as from one; or an error in all.

Real processes on this machine; what they do is in ``multihost_calls.py``.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import aimz
import multihost_calls
from aimz.errors import IncompleteResultError
from stream_helpers import assert_equal

SCRIPT = Path(multihost_calls.__file__)
MODEL = multihost_calls.new_model()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def run(part: str, n_processes: int, directory: Path) -> list[int]:
    """Let processes run the script; return how they ended."""
    port = free_port()
    source = str(Path(aimz.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "JAX_PLATFORMS": "cpu"}
    processes = []
    for number in range(n_processes):
        command = [sys.executable, str(SCRIPT), part, *map(str, (port, n_processes, number, directory))]
        with (directory / f"output-{number}").open("w") as output:
            processes.append(subprocess.Popen(command, stdout=output, stderr=output, env=environment))
    try:
        return [process.wait(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()


def printed(directory: Path) -> str:
    return "\n".join(path.read_text()[-3000:] for path in sorted(directory.glob("output-*")))


def said(directory: Path, number: int) -> dict[str, str]:
    lines = (directory / f"said-{number}").read_text().splitlines()
    return dict(line.split("\t", 1) for line in lines)


def found(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


def chunk_files(directory: Path) -> dict[str, bytes]:
    """All chunks of streamed groups below a directory, by their place in the call."""
    (call,) = directory.iterdir()
    files = [path for path in call.glob("p*dict*/*/c/**/*") if path.is_file()]
    return {str(path.relative_to(call)): path.read_bytes() for path in files}


def left_over(directory: Path) -> list[Path]:
    """Files that only an unfinished result has."""
    return [path for path in directory.rglob("*") if path.name.startswith(".aimz") or path.suffix == ".partial"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What this process finds without any other."""
    directory = tmp_path_factory.mktemp("alone")
    multihost_calls.keep(multihost_calls.everything(directory, MODEL), directory / "found.npz")
    return directory


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    directory = tmp_path_factory.mktemp("two")
    assert run("two", 2, directory) == [0, 0], printed(directory)
    return directory


@pytest.fixture(scope="module", params=[3, pytest.param(4, marks=pytest.mark.slow)])
def several(tmp_path_factory, request):
    """Processes of which the second one is killed in the end: their directory, and the numbers of the others."""
    directory, n_processes = tmp_path_factory.mktemp("several"), request.param
    assert run("several", n_processes, directory) == [7, -9, *[7] * (n_processes - 2)], printed(directory)
    return directory, [number for number in range(n_processes) if number != 1]


def test_two_processes_find_what_one_does(alone, two):
    theirs = found(alone / "found.npz")
    for number in range(2):
        ours = found(two / f"found-{number}.npz")
        sums = {name for name in theirs if name.startswith("averages")}
        assert len(sums) == 16
        assert_equal(
            {name: array for name, array in ours.items() if name not in sums},
            {name: array for name, array in theirs.items() if name not in sums},
            f"in process {number}",
        )
        for name in sums:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-12, atol=1e-12, err_msg=name)
    first, second = (found(two / f"found-{number}.npz") for number in range(2))
    assert_equal(first, second)


@pytest.mark.parametrize("call", ["draws", "statistics", "mixing"])
def test_a_stored_result_has_the_same_chunks(alone, two, call):
    assert chunk_files(two / call) == chunk_files(alone / call)
    assert chunk_files(two / call)
    assert not left_over(two / call)
    (path,) = (two / call).iterdir()
    assert "posterior" in aimz.open_result(path).children


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("posterior", "posterior differ"),
        ("data", "data of `X` differ"),
        ("data of a comparison", "data of `X` (a), data of `X` (b) differ"),
        ("rows", "number of rows: 12293 and 12292"),
        ("key", "rng_key differ"),
        ("batches", "first batch differ"),
        ("versions", "versions: aimz 0.0.0 and aimz 0.0.1"),
        ("other call", "method: predict and log_likelihood"),
    ],
)
def test_processes_that_make_another_call_are_refused_in_all(two, call, text):
    for number in range(2):
        what = said(two, number)[call]
        assert what.startswith("ClusterError: Process 1 does not make the call of process 0: ")
        assert text in what


@pytest.mark.parametrize(
    ("call", "text"),
    [
        ("temporary", "ValueError: The result would be in a temporary directory, and each of the 2 processes"),
        ("client", "ValueError: `client` sends rows to a Dask cluster"),
        ("unknown length", "TypeError: 2 processes share the rows, and this iterable has no known length"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_in_all(two, call, text):
    assert said(two, 0)[call] == said(two, 1)[call]
    assert said(two, 0)[call].startswith(text)


def test_missing_values_in_rows_of_any_process_are_counted_in_all(two):
    """Warnings are errors there."""
    for number in range(2):
        assert said(two, number)["missing"].startswith(
            "OutputWarning: Arguments have NaN (column 'x1' of `X`: 2 row(s), the first row 5)"
        )


@pytest.mark.parametrize(
    ("call", "failed", "own"),
    [
        ("argument of one", 1, "ValueError: `statistics` must be known; got 'bogus'"),
        ("disk full", 1, "OSError: [Errno 28] No space left on device"),
        ("other data resumed", 0, "ValueError: The call in"),
        ("other data of a complete result", 0, "ValueError: The call in"),
    ],
)
def test_an_error_of_one_process_ends_the_call_in_all(two, call, failed, own):
    assert said(two, failed)[call].startswith(own)
    assert said(two, 1 - failed)[call].startswith(f"ClusterError: Process {failed} of 2 has failed")
    assert own in said(two, 1 - failed)[call]


def test_a_result_of_which_a_part_is_missing_can_be_resumed_by_all(alone, two):
    assert all("is incomplete" in said(two, number)["disk full"] for number in range(2))
    assert said(two, 0)["incomplete"].startswith("IncompleteResultError")
    theirs = {name: array for name, array in found(alone / "found.npz").items() if name.startswith("stored draws")}
    assert_equal(found(two / "resumed-0.npz"), theirs)
    assert_equal(found(two / "resumed-1.npz"), theirs)
    assert chunk_files(two / "interrupted") == chunk_files(alone / "draws")
    assert not left_over(two / "interrupted")
    assert {said(two, number)["complete"] for number in range(2)} == {"nothing was raised"}


def test_several_processes_find_what_one_does(several):
    directory, others = several
    theirs = {f"{call}: {name}": a for call, arrays in multihost_calls.few(MODEL) for name, a in arrays.items()}
    for number in (1, *others):
        assert_equal(found(directory / f"found-{number}.npz"), theirs, f"in process {number}")


def test_a_process_that_is_killed_ends_the_call_and_one_alone_finishes_it(alone, several):
    directory, others = several
    for number in others:
        text = (directory / f"said-{number}").read_text()
        assert text.startswith("ClusterError: The connection to another process is lost")
        assert "is incomplete. Finished parts are kept" in text
    place = directory / "killed"
    (path,) = place.iterdir()
    with pytest.raises(IncompleteResultError):
        aimz.open_result(path)
    kept = chunk_files(place)
    assert 3 <= len(kept) < len(chunk_files(alone / "draws"))
    MODEL.predict(multihost_calls.rows(), **multihost_calls.on_disk(place, resume=path))
    assert chunk_files(place) == chunk_files(alone / "draws")
    assert not left_over(place)
