"""Kills at random times in every method that writes: nothing unfinished is read, and every call can be finished.

After each kill, every opener of zarr and xarray is tried on the unfinished result, which must raise and change nothing;
then the call is repeated, and its files are compared with the files of a call that was not killed.

Run as ``python tests/campaigns/kills.py --minutes 15 --seed 0``.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from _calls import STORED, Tally, X, chunks, differences, fit, load, options, posed_model, read

import aimz
from aimz.errors import IncompleteResultError
from zarr_openers import OPENERS

SERVER = """
import os, sys
sys.path.insert(0, sys.argv[1])
import aimz.output, aimz.store, aimz.stream, dask.array, safetensors.flax, safetensors.numpy
import kills
print("ready", flush=True)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            kills.work(*line.split("\\t"))
        finally:
            os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
PAUSE = 0.02
"""Seconds between two reads of rows, or between two epochs."""


def work(kind: str, directory: str, key: str, resume: str) -> None:
    """Write something in a process that may be killed."""
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (progress and warnings)
    path, number = Path(directory), int(key)
    if kind == "fit":
        fit(path, PAUSE, number)
    elif kind == "save":
        model = posed_model()
        model.predict_on_batch(X[:20])
        while True:  # the moment of a save is short
            save(model, path, number)
            number = 11 - number
    else:
        location = {"resume": resume.strip()} if resume.strip() else {"output_dir": path}
        STORED[kind](posed_model(), PAUSE, number, **location)


def save(model: Any, path: Path, key: int) -> None:
    """Save a model whose draws are those of a key."""
    draws = {"b": np.full((8, 2), key, np.float32)}
    model.set_posterior_sample(draws).save(path, overwrite=True)


class Server:
    """A process that imports everything and starts one worker at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER, str(Path(__file__).parent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._line()

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def run(self, *order: str, until: Callable[[], bool], delay: float) -> bool:
        """Start a worker, and kill it a while after a condition holds; return whether it was killed."""
        assert self.process.stdin is not None
        self.process.stdin.write("\t".join(order) + "\n")
        self.process.stdin.flush()
        pid, end = int(self._line()), time.monotonic() + 120
        while not until() and Path(f"/proc/{pid}").exists() and time.monotonic() < end:
            time.sleep(0.001)
        time.sleep(delay)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return int(self._line()) == -signal.SIGKILL

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def contents(path: Path) -> dict[str, bytes]:
    """Return all files of a directory."""
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def is_complete(path: Path) -> bool:
    """Return whether the final root was written."""
    return b"aimz_unfinished" not in (path / "zarr.json").read_bytes()


def try_openers(tally: Tally, path: Path, what: str) -> None:
    """Try all openers on an unfinished result, on its groups and on its streamed arrays."""
    streamed = [path / "posterior_predictive" / name for name in ("rate", "y")]
    nodes = [path, *(file.parent for file in path.glob("*/zarr.json")), *(node for node in streamed if node.exists())]
    before = contents(path)
    for node in nodes:
        if not (node / "zarr.json").exists():  # its writer was killed before
            continue
        for name, opener in (OPENERS | ({"aimz.open_result": aimz.open_result} if node == path else {})).items():
            tally.tried += 1
            try:
                opened = opener(node)
            except (ValueError, OSError, KeyError):
                tally.detected += 1
            else:
                tally.lose(f"{what}: {name} opened {node.relative_to(path.parent)}: {opened}")
    if contents(path) != before:
        tally.lose(f"{what}: an opener has changed {path}")


def kill_stored(tally: Tally, rng: Random, server: Server, top: Path, kind: str, expected: dict[str, Any]) -> None:
    """Kill a stored call, and perhaps its resumption, and finish it."""
    resume, path = "", top
    for attempt in range(rng.choice([1, 1, 2, 3])):
        appears = (lambda: any(not p.name.startswith(".") for p in top.iterdir())) if attempt == 0 else (lambda: True)
        top.mkdir(exist_ok=True)
        delay = rng.choice([0, 0, rng.uniform(0, 0.02), rng.uniform(0, 0.6)]) + (0 if attempt == 0 else rng.random())
        killed = server.run(kind, str(top), "5", resume, until=appears, delay=delay)
        found = [place for place in top.iterdir() if not place.name.startswith(".")]
        if not found:
            return
        (path,) = found
        resume = str(path)
        what = f"{kind}, killed after {delay:.4f} s" if killed else kind
        if is_complete(path):
            break
        try_openers(tally, path, what)
    tally.tried += 1
    STORED[kind](posed_model(), 0, 5, resume=path)
    unlike = differences({**read(path), **chunks(path)}, expected)
    hidden = [str(file) for file in path.rglob("*") if file.name.startswith(".") or file.suffix == ".partial"]
    if unlike or hidden:
        tally.lose(f"{kind}: after it was finished, {unlike[:3]} differ and {hidden[:3]} are left")
    else:
        tally.detected += 1


def kill_fit(tally: Tally, rng: Random, server: Server, top: Path, expected: dict[str, Any]) -> None:
    """Kill a fit with checkpoints, and finish it."""
    for _ in range(rng.choice([1, 2])):
        server.run("fit", str(top), "5", "", until=(top / "checkpoint.json").exists, delay=rng.uniform(0, 0.2))
    tally.tried += 1
    unlike = differences(fit(top, 0, 5), expected)
    if unlike:
        tally.lose(f"fit: after it was finished, {unlike} differ")
    else:
        tally.detected += 1


def kill_save(tally: Tally, rng: Random, server: Server, top: Path) -> None:
    """Kill a process that saves, and load one of its models."""
    server.run("save", str(top), "5", "", until=top.exists, delay=rng.choice([0, 1e-3, rng.uniform(0, 0.1)]))
    tally.tried += 1
    try:
        found = load(top)
    except FileNotFoundError:  # killed in the first save
        if (top / "model.json").exists():
            tally.lose("save: there is a model, and it was not found")
    else:
        if np.unique(found["b"]).tolist() not in ([5.0], [6.0]):
            tally.lose(f"save: loaded {found['b']}")
    save(posed_model(), top, 9)
    if np.unique(load(top)["b"]).tolist() != [9.0] or len(list(top.iterdir())) != 2:
        tally.lose("save: after a kill, the next save is incomplete")
    else:
        tally.detected += 1


def main() -> int:
    """Kill processes until the time is over."""
    given = options(__doc__)
    rng, end, tally = Random(given.seed), time.monotonic() + 60 * given.minutes, Tally()
    warnings.simplefilter("ignore")
    server = Server()
    with tempfile.TemporaryDirectory() as directory:
        top = Path(directory)
        expected: dict[str, dict[str, Any]] = {"fit": fit(top / "whole", 0, 5)}
        while not tally.tried or time.monotonic() < end:
            kind = rng.choice([*STORED, "fit", "save"])
            there = top / "killed"
            try:
                if kind == "fit":
                    kill_fit(tally, rng, server, there, expected["fit"])
                elif kind == "save":
                    kill_save(tally, rng, server, there)
                else:
                    if kind not in expected:
                        tree = STORED[kind](posed_model(), 0, 5, output_dir=top / kind)
                        path = Path(tree.attrs["artifact_path"])
                        expected[kind] = {**read(path), **chunks(path)}
                    kill_stored(tally, rng, server, there, kind, expected[kind])
            except IncompleteResultError as error:
                tally.lose(f"{kind}: {error}")
            shutil.rmtree(there, ignore_errors=True)
        server.close()
    return tally.end()


if __name__ == "__main__":
    sys.exit(main())
