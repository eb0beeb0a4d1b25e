"""Compare stored predictions of outcomes of several families with the published package of the same name.

    python benchmarks/families.py --rival ENVIRONMENT/bin/python [--quick] [--only Poisson,gamma] [--rows 50000]

Create the rival's environment as described in `streaming.py`.  Each family is also compared with the Gaussian one,
whose draws need one normal variate.  The full run takes about twenty minutes, nearly all of it in the rival.
"""

import sys
from collections.abc import Callable, Iterator

from streaming import Bench, Line, main
from worker import FAMILIES

# Other / ours.
GOALS = {
    "Poisson": 8.0,
    "negative-binomial": 10.0,
    "Student-t": 6.0,
    "gamma": 8.0,
    "beta": 12.0,
    "binomial": 12.0,
    "categorical": 8.0,
}


def compare_family(bench: Bench, name: str) -> Iterator[Line]:
    gaussian = bench.packages("Gaussian")["ours"]
    contenders = bench.packages(name)
    bench.alternate({"Gaussian": gaussian, **contenders})
    ours = contenders["ours"].seconds("call")
    if "rival" in contenders:
        yield Line(f"{name}, persistent", ours, contenders["rival"].seconds("call"), "rival", GOALS.get(name))
    yield Line(f"{name}, persistent", ours, gaussian.seconds("call"), "ours, Gaussian", 1 / 5)
    firsts = [[run["first"]["call"] for run in contender.runs] for contender in (contenders["ours"], gaussian)]
    yield Line("  first call, with compilation", *firsts, "ours, Gaussian", 1 / 2)


def benchmark(name: str) -> Callable[[Bench], Iterator[Line]]:
    return lambda bench: compare_family(bench, name)


BENCHMARKS = {name: benchmark(name) for name in FAMILIES if name != "Gaussian"}


if __name__ == "__main__":
    sys.exit(main(__doc__, BENCHMARKS))
