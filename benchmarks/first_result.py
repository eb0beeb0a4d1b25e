"""Compare the time from the start of a process to its first results: fit, two predictions and an effect.

    python benchmarks/first_result.py --rival ENVIRONMENT/bin/python [--rounds 5]

Create the rival's environment as described in `streaming.py`.  "First start" compiles everything, and "second start"
has the compiled programs of an earlier process on disk.  On a machine with other load, compare the processor times.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from streaming import Bench, Contender, Line, main

WORKER = Path(__file__).with_name("first_result_worker.py")


def contenders(bench: Bench, work: str) -> dict[str, Contender]:
    warm = Contender(bench.ours, {"work": work, "cache": os.path.join(bench.directory, "programs")}, worker=WORKER)
    warm.run(bench.directory)
    warm.runs.clear()
    return {"first": Contender(bench.ours, {"work": work}, worker=WORKER), "second": warm}


def lines(title: str, ours: Contender, other: Contender, name: str, goal: float) -> Iterator[Line]:
    yield Line(title, ours.all("from_start"), other.all("from_start"), name, goal)
    yield Line("  processor time", ours.all("cpu"), other.all("cpu"), name, goal)
    for part in ours.runs[0]["first"]:
        pair = [[run["first"].get(part, 0.0) for run in contender.runs] for contender in (ours, other)]
        yield Line(f"  {part}", *pair, name)


def variational(bench: Bench) -> Iterator[Line]:
    found = contenders(bench, "svi")
    if "rival" in bench.pythons:
        found["rival"] = Contender(bench.pythons["rival"], {"work": "svi"}, worker=WORKER)
    bench.alternate(found)
    if "rival" in found:
        yield from lines("svi, first start", found["first"], found["rival"], "rival", 2.5)
        yield from lines("svi, second start", found["second"], found["rival"], "rival", 5.0)
    yield from lines("svi, second start", found["second"], found["first"], "ours, first start", 3.0)


def chains(bench: Bench) -> Iterator[Line]:
    found = contenders(bench, "nuts")
    plain = Contender(bench.ours, {"work": "nuts", "by": "numpyro"}, worker=WORKER)
    bench.alternate(found | {"numpyro": plain})
    for name in ("first", "second"):
        fits = [[run["first"]["fit"] for run in contender.runs] for contender in (found[name], plain)]
        yield Line(f"nuts, fit, {name} start", *fits, "NumPyro", 1.5)
        cpu = [contender.all("cpu") for contender in (found[name], plain)]
        yield Line("  processor time of the process", *cpu, "NumPyro")


BENCHMARKS = {"svi": variational, "nuts": chains}


if __name__ == "__main__":
    sys.exit(main(__doc__, BENCHMARKS))
