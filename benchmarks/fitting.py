"""Compare minibatch fits with the published package of the same name, and with a hand-written scan.

All results are ratios within one run: new processes alternate (`fit_worker.py`), and medians are compared.

    python benchmarks/fitting.py --rival ENVIRONMENT/bin/python [--only small,network]

Create the rival's environment as described in `streaming.py`.  The full run takes about ten minutes, 4 GiB of free disk
space, and 10 GiB of memory for the file.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streaming import ADVICE, NOT_SLOWER, Contender, Line

WORKER = Path(__file__).with_name("fit_worker.py")
GOALS = {"small": 4.0, "large": 3.0, "network": 1.5}


def contenders(args: argparse.Namespace, work: str, repeat: int, *, hand: bool = False) -> dict[str, Contender]:
    options: dict[str, Any] = {"work": work, "repeat": repeat}
    # Only our package reads the file; the rival has the same data in memory.
    found = {"ours": Contender(args.ours, options | {"in-file": int(work == "file")}, worker=WORKER)}
    if args.rival:
        found["rival"] = Contender(args.rival, options, worker=WORKER)
    if hand:
        found["hand"] = Contender(args.ours, options | {"by": "hand"}, worker=WORKER)
    return found


def lines(args: argparse.Namespace, directory: str) -> Iterator[Line]:
    works = args.only.split(",") if args.only else ["small", "large", "network", "first", "file"]
    for work in works:
        repeat = {"first": 0, "file": 0}.get(work, args.repeat)
        found = contenders(args, work, repeat, hand=work == "small")
        for _ in range(1 if work == "file" else args.rounds):
            for contender in found.values():
                contender.run(directory)

        def of(name: str, found: dict[str, Contender] = found, work: str = work) -> list[float]:
            contender = found[name]
            if work == "first":
                return contender.all("from_start")
            if work == "file":
                return [run["first"]["call"] for run in contender.runs]
            return contender.seconds("call")

        for other in [name for name in found if name != "ours"]:
            goal = 1 / 1.3 if other == "hand" else GOALS.get(work, NOT_SLOWER)
            yield Line(f"{work}", of("ours"), of(other), other, goal)
        if work == "file":
            yield Line("file, extra memory", found["ours"].all("peak_mib"), [1024.0], "a GiB", 1.0, "MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", default=sys.executable)
    parser.add_argument("--rival", help="Python interpreter with the published package")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", help="small, large, network, first, file")
    parser.add_argument("--dir", help="directory for temporary files; default: the system's temporary directory")
    args = parser.parse_args()
    if not args.rival:
        print(ADVICE)
    with tempfile.TemporaryDirectory(dir=args.dir) as directory:
        for line in lines(args, directory):
            print(line.text(judged=True), flush=True)


if __name__ == "__main__":
    main()
