"""Compare average effects, row statistics and leave-one-out scores with the published package of the same name.

All results are ratios within one run: new processes alternate (`effects_worker.py`), and medians are compared.  This
package does each task in one call that stores no draws; the other package samples, stores, and then sums or sorts.

    python benchmarks/effects.py --rival ENVIRONMENT/bin/python [--quick] [--only average,loo] [--rows 100000]

Create the rival's environment as described in `streaming.py`; scores also need `arviz-stats[xarray]` in it.  Without a
rival, only this package is measured.  The full run takes about twenty minutes, mostly for ArviZ's scores of all rows
(proportional to `--rows`), and 2 GB of free disk space.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from streaming import Bench, Contender, Line, main

WORKER = Path(__file__).with_name("effects_worker.py")
MEMORY = 300e6 / 2**20


class Effects(Bench):
    """The same contenders with different tasks."""

    def ours_alone(self, work: str, **options: Any) -> Contender:
        return Contender(self.ours, self.options(work, **options), worker=WORKER)

    def all(self, work: str, kernel: str = "treated", **rivals: dict[str, Any]) -> dict[str, Contender]:
        """Run our package, and the rival with each set of options."""
        found = {"ours": self.ours_alone(work, kernel=kernel)}
        if "rival" in self.pythons:
            for way, options in rivals.items():
                python, name = self.pythons["rival"], f"rival, {way.replace('_', ' ')}"
                found[name] = Contender(python, self.options(work, kernel=kernel, **options), worker=WORKER)
        return self.alternate(found)


def times(contender: Contender) -> list[float]:
    """Return seconds of later calls, or of the first if there was only one."""
    if contender.options["repeat"]:
        return contender.seconds("call")
    return [run["first"]["call"] for run in contender.runs]


def beside(title: str, found: dict[str, Contender], *goals: float) -> Iterator[Line]:
    """Compare time and memory with each variant of the rival; goals apply to the first variants."""
    for i, (name, contender) in enumerate((n, c) for n, c in found.items() if n != "ours"):
        yield Line(title, times(found["ours"]), times(contender), name, goals[i] if i < len(goals) else None)
    for name, contender in found.items():
        if name != "ours":
            yield Line("  peak memory", found["ours"].all("peak_mib"), contender.all("peak_mib"), name, unit="MiB")


def average(bench: Effects) -> Iterator[Line]:
    found = bench.all("average", persistent={}, memory={"store": "memory"})
    yield from beside("average effect, two scenarios", found, 10.0, 10.0)
    peak = found["ours"].all("peak_mib")
    yield Line("  peak memory", peak, [MEMORY] * len(peak), "300 MB", 1.0, "MiB")


def counts(bench: Effects) -> Iterator[Line]:
    found = bench.all("average", "counts", memory={"store": "memory"})
    yield from beside("average effect, negative binomial", found, 15.0)


def growth(bench: Effects) -> Iterator[Line]:
    rows = bench.rows, 10 * bench.rows
    small, large = (bench.ours_alone("average", rows=n, repeat=1) for n in rows)
    bench.alternate({"small": small, "large": large})
    yield Line(f"average effect, {rows[0]:,} rows", times(small), times(large), f"ours, {rows[1]:,} rows")
    twelve = [12 * seconds for seconds in times(small)]
    yield Line(f"average effect, {rows[1]:,} rows", times(large), twelve, "12 x a tenth of it", 1.0)
    yield Line("  peak memory", large.all("peak_mib"), small.all("peak_mib"), "a tenth of the rows", 1 / 1.1, "MiB")


def statistics(bench: Effects) -> Iterator[Line]:
    """Compare with xarray's default, and with its fastest options: no NaN check, nothing stored."""
    fast = {"skipna": 0}
    found = bench.all("statistics", persistent={}, skipna_False=fast, memory_too=fast | {"store": "memory"})
    yield from beside("mean, sd, three quantiles of rows", found, 6.0)


def loo(bench: Effects) -> Iterator[Line]:
    """Time the first call only, including compilation, which is negligible next to the minutes ArviZ needs."""
    found = {"ours": bench.ours_alone("loo", repeat=0)}
    if "rival" in bench.pythons:
        options = bench.options("loo", repeat=0)
        found["rival + ArviZ"] = Contender(bench.pythons["rival"], options, worker=WORKER)
    bench.alternate(found, 1)
    yield from beside(f"leave-one-out, {bench.rows:,} rows", found, 3.0)
    large = bench.ours_alone("loo", rows=3 * bench.rows, repeat=0)
    bench.alternate({"large": large}, 1)
    three = [3 * seconds for seconds in times(found["ours"])]
    yield Line("  three times the rows", times(large), three, "3 x ours", None)
    peaks = large.all("peak_mib"), found["ours"].all("peak_mib")
    yield Line("  peak memory", *peaks, "a third of the rows", 1 / 1.1, "MiB")


def scenarios(bench: Effects) -> Iterator[Line]:
    found = bench.alternate(
        {
            "mean": bench.ours_alone("mean", store="memory"),
            "two": bench.ours_alone("average"),
            "sweep": bench.ours_alone("average", levels=50, repeat=1),
        }
    )
    one, two, sweep = (times(found[name]) for name in ("mean", "two", "sweep"))
    yield Line("two scenarios", two, one, "one, mean of rows")
    yield Line("a sweep of 50 doses", sweep, [50 * seconds for seconds in one], "50 x one")
    yield Line(
        "  peak memory", *(found[name].all("peak_mib") for name in ("sweep", "two")), "two scenarios", unit="MiB"
    )


BENCHMARKS: dict[str, Callable[[Any], Iterator[Line]]] = {
    "average": average,
    "counts": counts,
    "growth": growth,
    "statistics": statistics,
    "loo": loo,
    "scenarios": scenarios,
}


if __name__ == "__main__":
    sys.exit(main(__doc__, BENCHMARKS, Effects))
