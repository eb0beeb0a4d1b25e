"""Compare the streaming methods with the published package of the same name, NumPyro's `Predictive`, and a floor.

The floor computes the same draws in hand-written row blocks without keeping them, and writes the same number of bytes.
All results are ratios within one run: new processes alternate (`worker.py`), and medians are compared.

    python benchmarks/streaming.py --rival ENVIRONMENT/bin/python [--quick] [--only linear,small]

The rival needs a separate environment, since both packages are imported as `aimz`:

    python3.13 -m venv ENVIRONMENT && ENVIRONMENT/bin/pip install aimz==0.17.0

Without it, the others are still compared.  The full run takes about half an hour and 8 GB of free disk space.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
# Equal contenders may differ by this much on a machine with other load.
NOT_SLOWER = 0.95
ADVICE = """No --rival was given, so comparisons with it are skipped.  To create its environment:
    python3.13 -m venv ENVIRONMENT && ENVIRONMENT/bin/pip install aimz==0.17.0
"""


@dataclass
class Contender:
    """An interpreter, the options of its worker, and the measurements so far."""

    python: str
    options: dict[str, Any]
    devices: int = 1
    runs: list[dict[str, Any]] = field(default_factory=list)
    worker: Path = WORKER

    def run(self, directory: str) -> None:
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={self.devices}"
        command = [
            self.python,
            str(self.worker),
            f"--dir={directory}",
            *(f"--{k}={v}" for k, v in self.options.items()),
        ]
        environment = os.environ | {"XLA_FLAGS": flags.strip()}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # installed packages are compiled, and so should be a checkout
        if self.python != sys.executable:  # PYTHONPATH would select this package instead of the installed one
            environment.pop("PYTHONPATH", None)
        start = time.time()
        done = subprocess.run(command, env=environment, cwd=directory, capture_output=True, text=True)
        if done.returncode:
            msg = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
            raise RuntimeError(msg)
        result = json.loads(done.stdout.splitlines()[-1])
        self.runs.append(result | {"from_start": result["done"] - start})

    def seconds(self, *parts: str) -> list[float]:
        """Return, for each process, the median of the calls after the first, summed over parts."""
        return [sum(statistics.median(run["seconds"][part]) for part in parts) for run in self.runs]

    def all(self, what: str) -> list[float]:
        return [run[what] for run in self.runs]


@dataclass
class Line:
    """One comparison: medians over processes, and the range of the ratio over pairs of processes."""

    title: str
    ours: list[float]
    other: list[float]
    name: str
    goal: float | None = None
    unit: str = "s"

    def text(self, *, judged: bool) -> str:
        ours, other = statistics.median(self.ours), statistics.median(self.other)
        pairs = [b / a for a, b in zip(self.ours, self.other, strict=True)]
        spread = f"{min(pairs):.2f}-{max(pairs):.2f}" if len(pairs) > 1 else ""
        goal = "" if self.goal is None else f"{self.goal:.2f}"
        verdict = "" if self.goal is None or not judged else "met" if other / ours >= self.goal else "NOT MET"
        amounts = f"{ours:9.3f} {other:9.3f} {self.unit:3s}"
        ratio = f"{other / ours:6.2f} {spread:>11s}"
        return f"{self.title:36s} {amounts} {self.name:23s} {ratio} {goal:>5s} {verdict}".rstrip()


class Bench:
    """Contenders and problem sizes."""

    def __init__(self, args: argparse.Namespace, directory: str) -> None:
        self.ours, self.directory = args.ours, directory
        self.pythons = {"ours": args.ours} | ({"rival": args.rival} if args.rival else {})
        self.rounds, self.repeat = (1, 1) if args.quick else (args.rounds, args.repeat)
        self.rows, self.draws = (3000, 50) if args.quick else (args.rows, 1000)

    def options(self, work: str, **options: Any) -> dict[str, Any]:
        return {"work": work, "rows": self.rows, "draws": self.draws, "repeat": self.repeat} | options

    def packages(self, work: str, **options: Any) -> dict[str, Contender]:
        """Return our package and, if given, the rival."""
        return {name: Contender(python, self.options(work, **options)) for name, python in self.pythons.items()}

    def alone(self, by: str, work: str, **options: Any) -> dict[str, Contender]:
        """Return NumPyro's `Predictive`, NumPy's product or the floor, which import neither package."""
        return {by: Contender(self.ours, self.options(work, by=by, **options))}

    def alternate(self, contenders: dict[str, Contender], rounds: int | None = None) -> dict[str, Contender]:
        for _ in range(rounds or self.rounds):
            for contender in contenders.values():
                contender.run(self.directory)
        return contenders


def compare(title: str, found: dict[str, Contender], goals: dict[str, float | None]) -> Iterator[Line]:
    """Compare our package with each contender; with the floor, both the sum and the maximum of its parts."""
    ours = found["ours"].seconds("call")
    for name in ("rival", "predictive", "numpy"):
        if name in found:
            yield Line(title, ours, found[name].seconds("call"), name, goals.get(name))
    if "floor" in found:
        floor = found["floor"]
        yield Line(title, ours, floor.seconds("program", "write"), "floor, program + write", goals.get("floor"))
        longer = list(map(max, floor.seconds("program"), floor.seconds("write")))
        yield Line(title, ours, longer, "floor, the longer")


def linear(bench: Bench) -> Iterator[Line]:
    found = bench.alternate(bench.packages("linear") | bench.alone("floor", "linear"))
    yield from compare("linear, persistent", found, {"rival": 4.0, "floor": 1 / 1.3})
    if "rival" in found:
        yield Line("  on disk", *(found[name].all("disk_mib") for name in ("ours", "rival")), "rival", unit="MiB")


def memory(bench: Bench) -> Iterator[Line]:
    found = bench.alternate(bench.packages("linear", store="memory") | bench.alone("predictive", "linear"))
    yield from compare("linear, in memory", found, {"rival": 5.0})


def logistic(bench: Bench) -> Iterator[Line]:
    found = bench.alternate(bench.packages("logistic") | bench.alone("floor", "logistic"))
    yield from compare("logistic, persistent", found, {"rival": 1.8})


def checks(bench: Bench) -> Iterator[Line]:
    """Compare calls with the same calls without the time spent in checks of values and in checksums of chunks."""
    for kind, work in product(("values", "checksums"), ("linear", "logistic")):
        contender = Contender(bench.ours, bench.options(work, **{"clock-checks": kind}))
        bench.alternate({"ours": contender})
        calls = contender.seconds("call")
        without = [call - spent for call, spent in zip(calls, contender.seconds("checks"), strict=True)]
        yield Line(f"checks of {kind}, {work}", calls, without, "ours without checks", 0.98)


def loglik(bench: Bench) -> Iterator[Line]:
    found = bench.alternate(bench.packages("loglik") | bench.alone("floor", "loglik"))
    yield from compare("log_likelihood, persistent", found, {"rival": 2.5})


def network(bench: Bench) -> Iterator[Line]:
    options = {"rows": bench.rows // 10, "repeat": 1}
    everyone = bench.packages("network", **options)
    for by in ("predictive", "floor"):
        everyone |= bench.alone(by, "network", **options)
    found = bench.alternate(everyone)
    yield from compare("network in every draw", found, {"rival": NOT_SLOWER, "predictive": NOT_SLOWER})


def hierarchical(bench: Bench) -> Iterator[Line]:
    options = {"rows": bench.rows // 2}
    everyone = bench.packages("hierarchical", **options) | bench.alone("floor", "hierarchical", **options)
    yield from compare("1,000 groups, persistent", bench.alternate(everyone), {"rival": 4.0})


def outputs(bench: Bench) -> Iterator[Line]:
    options = {"rows": bench.rows // 5}
    everyone = bench.packages("outputs", **options) | bench.alone("floor", "outputs", **options)
    yield from compare("10 outputs, persistent", bench.alternate(everyone), {"rival": 4.0})


def wide(bench: Bench) -> Iterator[Line]:
    options = {"rows": bench.rows // 5}
    everyone = bench.packages("wide", **options) | bench.alone("numpy", "wide", **options)
    yield from compare("1,000 columns, persistent", bench.alternate(everyone), {"rival": 6.0, "numpy": 0.5})


def draws(bench: Bench) -> Iterator[Line]:
    options = {"rows": bench.rows // 10, "draws": 10 * bench.draws}
    everyone = bench.packages("linear", **options) | bench.alone("floor", "linear", **options)
    yield from compare("ten times the draws, persistent", bench.alternate(everyone), {"rival": 5.0})


def small(bench: Bench) -> Iterator[Line]:
    options = {"repeat": 10 * bench.repeat}
    found = bench.alternate(bench.packages("small", **options) | bench.alone("predictive", "small", **options))
    yield from compare("100 rows, later calls", found, {"rival": 4.0})
    found = bench.alternate(bench.packages("small", **options, **{"on-batch": 1}))
    yield from compare("100 rows on a batch, later calls", found, {"rival": 5.0})


def first(bench: Bench) -> Iterator[Line]:
    found = bench.alternate(
        bench.packages("small", repeat=0) | bench.alone("predictive", "small", repeat=0), 2 * bench.rounds
    )
    for name, goal in (("rival", 1.0), ("predictive", None)):
        if name in found:
            times = [found[who].all("from_start") for who in ("ours", name)]
            yield Line("100 rows, from start of process", *times, name, goal)


def reading(bench: Bench) -> Iterator[Line]:
    if "rival" not in bench.pythons:
        return
    found = bench.alternate(bench.packages("reading", repeat=1))  # quantiles are slow
    for part in found["ours"].runs[0]["first"]:
        yield Line(f"reading, {part}", *(found[who].seconds(part) for who in ("ours", "rival")), "rival", 2.0)


def peak(bench: Bench) -> Iterator[Line]:
    """Measure each size once: memory varies little, and the larger size takes 4 GB of disk space."""
    sizes = dict(peaks(bench))
    if len(sizes) == 2:
        small, large = (found["ours"].all("peak_mib") for found in sizes.values())
        yield Line("peak memory, ten times the rows", large, small, "ours, fewer rows", 1 / 1.1, "MiB")
    for name, found in sizes.items():
        if "rival" in found:
            amounts = [found[who].all("peak_mib") for who in ("ours", "rival")]
            yield Line(f"peak memory, {name} rows", *amounts, "rival", 1.0, "MiB")
            times = [[run["first"]["call"] for run in found[who].runs] for who in ("ours", "rival")]
            yield Line("  and the first call", *times, "rival")


def peaks(bench: Bench) -> Iterator[tuple[str, dict[str, Contender]]]:
    for rows in (bench.rows, 10 * bench.rows):
        if shutil.disk_usage(bench.directory).free > 2 * 4 * rows * bench.draws:
            yield f"{rows:,}", bench.alternate(bench.packages("linear", rows=rows, repeat=0), 1)
        else:
            print(f"not enough disk space for {rows:,} rows; skipped")


def devices(bench: Bench) -> Iterator[Line]:
    everyone = {}
    for name, python in bench.pythons.items():
        for n in (1, 2):
            everyone[f"{name} {n}"] = Contender(python, bench.options("linear"), n)
    found = bench.alternate(everyone)
    times = {name: contender.seconds("call") for name, contender in found.items()}
    yield Line("linear, 2 devices on one host", times["ours 2"], times["ours 1"], "ours on 1 device", NOT_SLOWER)
    if "rival 2" in times:
        yield Line("linear, 2 devices on one host", times["ours 2"], times["rival 2"], "rival on 2 devices")
        yield Line("  scaling of the rival", times["rival 2"], times["rival 1"], "rival on 1 device")


BENCHMARKS: dict[str, Callable[[Bench], Iterator[Line]]] = {
    "linear": linear,
    "memory": memory,
    "logistic": logistic,
    "checks": checks,
    "loglik": loglik,
    "network": network,
    "hierarchical": hierarchical,
    "outputs": outputs,
    "wide": wide,
    "draws": draws,
    "small": small,
    "first": first,
    "reading": reading,
    "peak": peak,
    "devices": devices,
}


def interpreter(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        msg = f"{name} is not an executable"
        raise argparse.ArgumentTypeError(msg)
    return os.path.abspath(found)  # do not resolve links: the Python of a virtual environment is one


def main(
    description: str | None = __doc__,
    benchmarks: dict[str, Callable[[Any], Iterator[Line]]] = BENCHMARKS,
    make: type[Bench] = Bench,
) -> int:
    """Run the given benchmarks and print a line for each comparison."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rival", type=interpreter, help="Python interpreter with the published package")
    parser.add_argument(
        "--ours", type=interpreter, default=sys.executable, help="Python interpreter to measure; default: this one"
    )
    parser.add_argument("--only", default=",".join(benchmarks), help="comma-separated subset of %(default)s")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, as a smoke test")
    parser.add_argument("--rows", type=int, default=100_000, help="default number of rows")
    parser.add_argument("--rounds", type=int, default=3, help="number of processes per contender")
    parser.add_argument("--repeat", type=int, default=2, help="calls in each process after the first")
    parser.add_argument("--dir", help="directory for temporary results; default: the system's temporary directory")
    args = parser.parse_args()
    chosen = args.only.split(",")
    if unknown := set(chosen) - set(benchmarks):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(benchmarks)}")
    if args.rival is None:
        print(ADVICE)
    if args.quick:
        print("These sizes are too small for conclusions.")
    failed = 0
    with tempfile.TemporaryDirectory(dir=args.dir) as directory:
        bench = make(args, directory)
        print(f"{bench.rows:,} rows x {bench.draws:,} draws by default; ratio: other / ours")
        print(f"{'work':36s} {'ours':>9s} {'other':>9s}     {'other is':23s} {'ratio':>6s} {'range':>11s}  goal")
        for name in chosen:
            try:
                for line in benchmarks[name](bench):
                    print(line.text(judged=not args.quick), flush=True)
            except RuntimeError as error:
                failed += 1
                print(f"{name}: failed: {error}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
