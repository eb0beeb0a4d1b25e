"""Score a large Parquet file and compare two prices, within 1 GiB of memory.

    python examples/score_parquet.py [--rows 10000000] [--folder DIRECTORY] [--workers 2 | --scheduler tcp://HOST:8786]

Customers have an age, an income and a price they are offered; whether they buy depends on all three.  The script
writes the file in pieces, fits a model to it in minibatches, computes a purchase probability with an interval for each
customer, which it stores next to the file, and compares two prices by region.  No step holds all rows in memory.  With
`--workers` or `--scheduler`, the workers of a Dask cluster score and compare: each reads its own rows and writes its
own part of the result, so all of them need access to the folder.
"""

import argparse
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal

import aimz

if TYPE_CHECKING:
    from distributed import Client

PIECE = 250_000
REGIONS = np.array(["north", "south", "west"])
TRUTH = {"age": 0.3, "income": 0.8, "price": -1.2}


def write(path: Path, n_rows: int) -> None:
    """Write the given number of customers in pieces."""
    rng = np.random.default_rng(0)
    writer = None
    for start in range(0, n_rows, PIECE):
        n = min(PIECE, n_rows - start)
        columns = {name: rng.normal(size=n).astype(np.float32) for name in TRUTH}
        logit = 0.5 + sum(slope * columns[name] for name, slope in TRUTH.items())
        bought = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int8)
        region = pa.array(REGIONS[rng.integers(0, 3, n)]).dictionary_encode()
        table = pa.table({"customer": np.arange(start, start + n), "region": region, **columns, "bought": bought})
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()


def kernel(X: jax.Array, bought: jax.Array | None = None) -> None:
    """Define a logistic regression on the columns of the file."""
    level = numpyro.sample("level", dist.Normal(0, 2))
    slopes = numpyro.sample("slopes", dist.Normal(0, 2).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("customer", X.shape[0]):
        p = numpyro.deterministic("p", jax.nn.sigmoid(level + X @ slopes))
        numpyro.sample("bought", dist.Bernoulli(p), obs=bought)


def peak() -> float:
    """Return the peak memory of the process in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@contextmanager
def cluster(workers: int | None, scheduler: str | None) -> Iterator["Client | None"]:
    """Yield a client of a local or remote cluster, or None if neither is requested."""
    if workers is None and scheduler is None:
        yield None
        return
    from distributed import Client, LocalCluster

    with ExitStack() as stack:
        address = scheduler or stack.enter_context(
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0")
        )
        yield stack.enter_context(Client(address))


def main(n_rows: int, folder: Path, client: "Client | None" = None) -> None:
    """Write, fit, score and compare."""
    file = folder / "customers.parquet"
    write(file, n_rows)
    print(f"File: {n_rows:,} rows, {file.stat().st_size / 2**20:,.0f} MiB")

    svi = SVI(kernel, AutoMultivariateNormal(kernel), numpyro.optim.Adam(lambda step: 0.03 * 0.999**step), Trace_ELBO())
    model = aimz.ImpactModel(kernel, random.key(0), svi, param_output="bought", dims={"slopes": ["feature"]})
    epochs = 1 if n_rows > 2_000_000 else 5
    customers = pyarrow.dataset.dataset(file)
    # Exclude the customer number and the region from the fit.
    columns = customers.replace_schema(pa.schema([customers.schema.field(name) for name in (*TRUTH, "bought")]))
    model.fit(columns, batch_size=4096, epochs=epochs, num_samples=100, progress=False)
    print(f"Fitted; peak so far {peak():,.0f} MiB")

    scores = model.predict(
        customers,
        in_sample=False,
        return_sites="p",
        statistics=("mean", 0.05, 0.95),
        output_dir=folder,
        progress=False,
        client=client,
    )
    stored = Path(scores.attrs["artifact_path"])
    size = sum(path.stat().st_size for path in stored.rglob("*") if path.is_file()) / 2**20
    first = scores["predictions"]["p"].isel(customer=0)
    low, high = (float(first.sel(statistic=name)) for name in ("0.05", "0.95"))
    print(f"Scored; peak so far {peak():,.0f} MiB, result {size:,.0f} MiB in {stored.name}")
    print(
        f"The first customer buys with probability {float(first.sel(statistic='mean')):.2f} ({low:.2f} to {high:.2f})"
    )
    slopes = scores["posterior"]["slopes"].mean(("chain", "draw"))
    print("Slopes:", ", ".join(f"{n} {float(slopes.sel(feature=n)):.2f} (truth {t})" for n, t in TRUTH.items()))

    found = model.compare_scenarios(
        {"as it is": {}, "half a unit dearer": {"intervention": {"price": lambda price: price + 0.5}}},
        baseline="as it is",
        by="region",
        X=customers,
        in_sample=False,
        return_sites="p",
        progress=False,
        client=client,
    )
    print(*aimz.in_words(found), sep="\n")
    print(f"Overall peak: {peak():,.0f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--scheduler")
    given = parser.parse_args()
    with ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        main(given.rows, folder.absolute(), stack.enter_context(cluster(given.workers, given.scheduler)))
