"""Law 1 on a Dask cluster: its workers compute the one-machine result, and nothing of its size passes the client."""

import asyncio
import warnings
from typing import Any

import dask.array as da
import dask.dataframe as dd
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import xarray as xr
import zarr
from distributed import Client, get_client
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.optim import Adam
from tornado.iostream import IOStream
from tqdm.std import tqdm

from aimz import ImpactModel, OutputWarning, progress
from aimz.statistics import FitSupport
from dask_clusters import BLOCK, OPTIONS, assert_same_files, groups, line_model, new_cluster
from kernels import BY_NAME, long, long_draws
from slow_cases import slow_except
from stream_helpers import KEY, D, N, arrays, new_model, shared

pytestmark = pytest.mark.usefixtures("quiet_local_latents")

HERE = {"batch_size": BLOCK, "progress": False, "rng_key": KEY}
MEMORY = {**HERE, "store": "memory"}
STATISTICS = ("mean", "sd", 0.1, ("hdi", 0.9))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with new_cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture
def client(cluster):
    return cluster.client


@pytest.fixture
def active(client):
    """The client is the active one."""
    with client.as_current():
        yield client


def of(tree: xr.DataTree) -> dict[str, xr.Dataset]:
    """Return all groups of a tree, without what depends on the moment and the place."""
    own = {"created_at", "artifact_path", "output_dir"}
    found = {name: tree[name].to_dataset() for name in tree.children}
    return {name: one.assign_attrs(dict.fromkeys(own & one.attrs.keys(), "")) for name, one in found.items()}


def assert_same(ours: xr.DataTree, theirs: xr.DataTree) -> None:
    mine, other = of(ours), of(theirs)
    assert mine.keys() == other.keys()
    for name, group in other.items():
        xr.testing.assert_identical(mine[name], group)


# ---------------------------------------------------------------------------------------- every method, any kernel


@pytest.mark.parametrize(
    "name",
    slow_except(
        ["linear", "local_latents", "hierarchical", "subsampled", "flax_net", "multi_output", "image"],
        *("linear", "local_latents", "hierarchical", "flax_net", "multi_output"),
    ),
)
def test_predictions_are_the_same_files(client, tmp_path, name):
    case, model = shared(name)
    here = model.predict(**case.arguments(), **HERE, output_dir=tmp_path / "here")
    for place in ({"output_dir": tmp_path / "there"}, {}):
        there = model.predict(**case.arguments(), **HERE, **place, client=client)
        assert_same_files(there.attrs["artifact_path"], here.attrs["artifact_path"])
        assert_same(there, here)


def test_several_chains(client, tmp_path):
    case = long(BY_NAME["linear"], N)
    model = new_model(case.kernel, long_draws(case, N, 6), num_chains=2)
    trees = [model.predict(case.X, **HERE, output_dir=tmp_path, client=one) for one in (None, client)]
    assert trees[1]["posterior_predictive"]["y"].shape == (2, 3, N)
    assert_same_files(*(tree.attrs["artifact_path"] for tree in trees))


@pytest.mark.parametrize("name", ["linear", "local_latents"])
def test_predictions_in_memory_and_as_statistics(client, tmp_path, name):
    case, model = shared(name)
    for options in (MEMORY, {**MEMORY, "statistics": STATISTICS}, {**HERE, "statistics": STATISTICS}):
        here, there = (model.predict(**case.arguments(), **options, client=one) for one in (None, client))
        assert_same(there, here)
    assert_same_files(there.attrs["artifact_path"], here.attrs["artifact_path"])


@pytest.mark.parametrize("name", ["linear", "local_latents"])
def test_log_likelihood(client, tmp_path, name):
    case, model = shared(name)
    options = {**HERE, "output_dir": tmp_path, "y": case.y}
    here, there = (model.log_likelihood(**case.arguments(), **options, client=one) for one in (None, client))
    assert_same_files(there.attrs["artifact_path"], here.attrs["artifact_path"])
    assert_same(there, here)


@pytest.mark.parametrize("options", [{}, {"statistics": STATISTICS}], ids=["draws", "statistics"])
def test_counterfactuals(client, tmp_path, options):
    case, model = shared("local_latents")
    given = {**case.arguments(), **HERE, **options, "y": case.y, "intervention": {"mu": 3.0}, "output_dir": tmp_path}
    here, there = (model.counterfactual(**given, client=one) for one in (None, client))
    assert_same_files(there.attrs["artifact_path"], here.attrs["artifact_path"])
    assert_same(there, here)


def test_forecasts_of_series(client, tmp_path):
    def kernel(X, y=None):
        with numpyro.plate("series", X.shape[0]):
            level = numpyro.sample("level", dist.GaussianRandomWalk(1.0, num_steps=X.shape[1]))
            numpyro.sample("y", dist.Normal(level + X, 0.5).to_event(1), obs=y)

    n = 2 * BLOCK + 5
    model = new_model(kernel, {"level": np.random.default_rng(0).normal(size=(4, n, 3))})
    history = {"X": np.zeros((n, 3)), "y": np.zeros((n, 3))}
    options = {**HERE, "history": history, "output_dir": tmp_path}
    here, there = (model.forecast(np.ones((n, 2)), **options, client=one) for one in (None, client))
    assert_same_files(there.attrs["artifact_path"], here.attrs["artifact_path"])
    assert_same(there, here)


def test_averages_of_counterfactuals(client):
    case, model = shared("local_latents")
    scenarios = {"as is": {}, "other": {"intervention": {"mu": 3.0}}}
    given = {**case.arguments(), "given": case.y, "baseline": "as is", "progress": False}
    here, there = (model.compare_scenarios(scenarios, **given, client=one) for one in (False, client))
    xr.testing.assert_equal(here["effect"].to_dataset(), there["effect"].to_dataset())


def test_decompositions(client):
    case, model = shared("local_latents")
    given = {"kind": "interventional", "X": case.X, "progress": False, "rng_key": random.key(3)}
    here, there = (model.decompose({"mu": (0.0, 1.0)}, "z", **given, client=one) for one in (False, client))
    xr.testing.assert_equal(here["effect"].to_dataset(), there["effect"].to_dataset())
    assert float(abs(here["effect"]["y"].sel(path="indirect")).mean()) > 0


def test_prior_predictive(client, tmp_path):
    case, model = shared("linear")
    options = {**HERE, "output_dir": tmp_path, "num_samples": 4}
    here, there = (model.sample_prior_predictive(case.X, **options, client=one) for one in (None, client))
    assert_same_files(there.attrs["artifact_path"], here.attrs["artifact_path"])
    assert_same(there, here)


@pytest.mark.filterwarnings("ignore:The Pareto k of")
def test_leave_one_out(client):
    case = long(BY_NAME["linear"], N)
    draws = long_draws(case, N, 40)
    model = new_model(case.kernel, {site: value.mean(0) + 0.02 * value for site, value in draws.items()})
    here, there = (model.loo(case.X, case.y, **HERE, client=one) for one in (None, client))
    assert (here.elpd, here.se, here.p) == (there.elpd, there.se, there.p)
    xr.testing.assert_identical(here.elpd_i, there.elpd_i)
    xr.testing.assert_identical(here.pareto_k, there.pareto_k)


def test_checks(client):
    """Groups, statistics of the user and the calibration of leave-one-out predictions; counts, so the same bits."""
    case, model = shared("linear")
    asked = {"by": {"half": np.arange(N) % 2}, "statistics": {"high": lambda y: y > 0}, "max_rows": None}
    here, there = (model.check(case.X, case.y, **asked, rng_key=KEY, client=one) for one in (None, client))
    pd.testing.assert_frame_equal(here.statistics, there.statistics)
    pd.testing.assert_frame_equal(here.to_pandas(), there.to_pandas())


def test_an_effect_on_each_row(client):
    case, model = shared("hierarchical")
    sides = {"args_baseline": case.arguments(), "statistics": STATISTICS}
    here, there = (
        model.estimate_effect(
            **sides,
            args_intervention={**case.arguments(), **MEMORY, "client": one, "intervention": case.intervention},
        )
        for one in (None, client)
    )
    assert_same(there, here)


SCENARIOS = {
    "as is": {},
    "first": {"intervention": {"group": 0}},
    "more": {"intervention": {"X": lambda X: X + 1}},
}
ROW = np.arange(N)


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"by": ROW % 3, "weights": (ROW % 5).astype(float)},
        {"by": {"many": ROW // 2 * 7 % (N // 2)}},  # More than a tile has rows.
        {"by": {"many": ROW // 2 * 7 % (N // 2)}, "weights": 1.0 + ROW % 2},
    ],
    ids=["all", "few", "many", "many, weighted"],
)
def test_scenarios(client, asked):
    """Sums come in another order, so that their last bits differ."""
    case, model = shared("hierarchical")
    asked = {"scenarios": SCENARIOS, "baseline": "as is", **case.arguments(), **HERE, **asked}
    here, there = (model.compare_scenarios(**asked, client=one) for one in (None, client))
    assert of(here).keys() == of(there).keys()
    for name, group in of(here).items():
        other = there[name].to_dataset()
        assert group.sizes == other.sizes
        for site, values in group.items():
            # Averages of numbers of both signs, and differences of averages, are as exact as what they are made of.
            np.testing.assert_allclose(other[site], values, rtol=1e-12, atol=1e-12, err_msg=f"{name} {site}")


def test_slopes(client):
    case, model = shared("hierarchical")
    asked = {"levers": "alpha", **case.arguments(), **HERE, "by": ROW % 3}
    here, there = (model.slopes(**asked, client=one) for one in (None, client))
    for name, group in of(here).items():
        for site, values in group.items():
            np.testing.assert_allclose(there[name][site], values, rtol=1e-12, atol=1e-12, err_msg=f"{name} {site}")


def test_choices(client):
    case, model = shared("hierarchical")
    asked = {"levers": {"alpha": [0.0, 1.0]}, "X": case.X}
    asked |= {"args": case.extra, "rng_key": KEY, "utility": ("cvar", 0.5)}
    here, there = (model.optimize(**asked, client=one) for one in (False, client))
    assert here.action["alpha"].tolist() == there.action["alpha"].tolist()
    np.testing.assert_allclose(here.value, there.value, rtol=1e-12)
    np.testing.assert_allclose(here.regret, there.regret, rtol=1e-9, atol=1e-12)


@pytest.mark.filterwarnings("ignore::aimz.FitWarning", "ignore::aimz.SupportWarning")
def test_rows_read_by_workers_are_checked_against_the_data_of_the_fit(client):
    """Each worker counts the rows that it reads, with their weights; the verdict is that of rows in memory."""
    case = long(BY_NAME["linear"], N)
    svi = SVI(case.kernel, AutoNormal(case.kernel), Adam(0.01), Trace_ELBO())
    model = ImpactModel(case.kernel, KEY, svi)
    model.fit(da.from_array(X, chunks=(700, 2)), Y, batch_size=1000, epochs=1, num_samples=3, progress=False)
    known, here = model._posterior.support, fit_of_rows(X)
    np.testing.assert_allclose(known.moments.products, here.moments.products, rtol=1e-9)
    np.testing.assert_array_equal(known.low, here.low)
    scenarios = {"now": {}, "more": {"intervention": {"X": lambda rows: rows + 3 * (rows > 0)}}}
    rows, weights = X[:1000], np.where(np.arange(1000) % 2, 3.0, 1.0)
    given = {"scenarios": scenarios, "baseline": "now", "in_sample": False, "weights": weights, **HERE}
    alone = model.compare_scenarios(X=rows, client=False, **given)["effect"].attrs["support"]
    lazy = da.from_array(rows, chunks=(300, 2))
    there = model.compare_scenarios(X=lazy, client=client, **given)["effect"].attrs["support"]
    assert alone.startswith("extrapolates")
    assert there == alone


def fit_of_rows(rows: np.ndarray) -> FitSupport:
    """Return the description of rows in memory."""
    found = FitSupport.of({"X": rows}, {})
    found.add({"X": rows})
    return found.finished()


def test_scenarios_of_a_panel(client):
    """Labels and weights that vary within a row; there are more groups than entries in a tile."""
    case, model = shared("multi_output")
    entry = np.arange(2 * len(case.X)).reshape(-1, 2)
    asked = {"scenarios": {"as is": {}, "other": {"intervention": case.intervention}}, "baseline": "as is", **HERE}
    asked |= {**case.arguments(), "by": {"entry": entry // 3, "column": entry % 2}, "weights": 1.0 + entry % 4}
    here, there = (model.compare_scenarios(**asked, client=one) for one in (None, client))
    for name, group in of(here).items():
        for site, values in group.items():
            np.testing.assert_allclose(there[name][site], values, rtol=1e-12, atol=1e-12, err_msg=f"{name} {site}")
    weights = here["groups"]["weight"]
    np.testing.assert_allclose(weights.sum(), asked["weights"].sum())
    mu = np.einsum("np,spk->snk", case.X.astype(float), np.asarray(model.posterior["W"], float))
    own = np.einsum("snk,nk->sk", mu, asked["weights"]) / asked["weights"].sum(0)
    found = here["scenarios_by_column"]["mu"].sel(scenario="as is").values[0]
    np.testing.assert_allclose(found, own, rtol=1e-5, atol=1e-5)


def test_interventions_by_draw(client):
    case, model = shared("hierarchical")
    group = xr.DataArray(np.arange(D) % 4, dims="draw")
    options = {
        **MEMORY,
        **case.arguments(),
        "intervention": {"group": group, "X": xr.DataArray(group / 8, dims="draw")},
    }
    here, there = (model.predict(**options, client=one) for one in (None, client))
    assert_same(there, here)


# -------------------------------------------------------------------------------------------------- any input

X, Y = (np.asarray(array) for array in (long(BY_NAME["linear"], N).X, long(BY_NAME["linear"], N).y))


@pytest.fixture(scope="module")
def expected():
    """What all of the inputs below give."""
    _, model = shared("linear")
    return model.predict(X, **MEMORY, in_sample=False)


def stored(path: Any) -> Any:
    return zarr.create_array(path / "x.zarr", data=X, chunks=(600, 2))


def in_dask(_: Any) -> Any:
    return da.from_array(X, chunks=(700, 2))


def framed(_: Any) -> Any:
    return dd.from_pandas(pd.DataFrame(X, columns=list("abc")), npartitions=4).to_dask_array(lengths=True)


def labelled(_: Any) -> Any:
    return xr.Dataset({name: ("row", da.from_array(X[:, i], chunks=900)) for i, name in enumerate("abc")})


def parquet(path: Any) -> Any:
    for i, start in enumerate((0, 1000, 1400)):
        rows = X[start : (1000, 1400, N)[i]]
        pq.write_table(pa.table(dict(zip("abc", rows.T, strict=True))), path / f"{i}.parquet", row_group_size=300)
    return pads.dataset(path)


@pytest.mark.parametrize("make", [stored, in_dask, framed, labelled, parquet])
def test_rows_that_workers_look_up(cluster, client, tmp_path, expected, make):
    _, model = shared("linear")
    cluster.watch.forget()
    tree = model.predict(make(tmp_path), **MEMORY, in_sample=False, client=client)
    np.testing.assert_array_equal(tree["predictions"]["y"], expected["predictions"]["y"])
    np.testing.assert_array_equal(tree["predictions"]["mu"], expected["predictions"]["mu"])
    found = sorted({(one.start, one.stop) for one in cluster.watch.events("range")})
    assert [start for start, _ in found] == [0, *(stop for _, stop in found[:-1])]
    assert found[-1][1] == N


@pytest.mark.parametrize("make", [in_dask, framed, labelled])
def test_dask_arrays_go_to_the_active_cluster(cluster, active, expected, make):
    _, model = shared("linear")
    cluster.watch.forget()
    tree = model.predict(make(None), **MEMORY, in_sample=False)
    np.testing.assert_array_equal(tree["predictions"]["y"], expected["predictions"]["y"])
    assert cluster.watch.events("range")


def test_dask_arrays_without_a_cluster_are_streamed_here(cluster, expected):
    _, model = shared("linear")
    cluster.watch.forget()
    for make in (in_dask, framed, labelled):
        tree = model.predict(make(None), **MEMORY, in_sample=False)
        np.testing.assert_array_equal(tree["predictions"]["y"], expected["predictions"]["y"])
    assert cluster.watch.events("range") == []


def test_plain_arrays_stay_here_also_with_an_active_cluster(cluster, active, expected):
    _, model = shared("linear")
    cluster.watch.forget()
    tree = model.predict(X, **MEMORY, in_sample=False)
    np.testing.assert_array_equal(tree["predictions"]["y"], expected["predictions"]["y"])
    assert cluster.watch.events("range") == []


def test_input_and_output_in_chunks_of_their_own(active, tmp_path):
    _, model = shared("linear")
    here = model.log_likelihood(X, Y, **MEMORY)
    there = model.log_likelihood(da.from_array(X, chunks=(700, 3)), da.from_array(Y, chunks=450), **MEMORY)
    assert_same(there, here)


def test_scenarios_of_dask_arrays(active):
    case, model = shared("hierarchical")
    asked = {"scenarios": SCENARIOS, "baseline": "as is", "n_groups": 4, **HERE}
    here = model.compare_scenarios(**asked, X=case.X, group=case.extra["group"], by=ROW % 3)
    lazy = {"X": da.from_array(case.X, chunks=(700, 3)), "group": da.from_array(case.extra["group"], chunks=1111)}
    there = model.compare_scenarios(**asked, **lazy, by=ROW % 3)
    np.testing.assert_allclose(there["scenarios"]["y"], here["scenarios"]["y"], rtol=1e-12)


# ---------------------------------------------------------------------------------------------- what is refused


def test_an_iterable_is_refused(client, tmp_path):
    _, model = shared("linear")
    batches = ({"X": X[start : start + 500]} for start in range(0, N, 500))
    with pytest.raises(TypeError, match=r"`client` needs rows that workers can read by number; got an iterable"):
        model.predict(batches, client=client, in_sample=False, output_dir=tmp_path / "results", **HERE)
    assert not (tmp_path / "results").exists()


def test_what_is_no_client_is_refused(client, tmp_path):
    _, model = shared("linear")
    with pytest.raises(TypeError, match=r"`client` must be a `distributed.Client`, or False for none; got str"):
        model.predict(X, client="tcp://127.0.0.1:8786", output_dir=tmp_path / "results", **HERE)
    with pytest.raises(
        TypeError, match=r"`client` must be a `distributed.Client`, or False for none; got LocalCluster"
    ):
        model.loo(X, Y, client=client.cluster)
    with pytest.raises(ValueError, match="`client` distributes rows, so it excludes `shard_axis='draw'`"):
        model.predict(X, client=client, shard_axis="draw", output_dir=tmp_path / "results", **HERE)
    assert not (tmp_path / "results").exists()


def test_an_asynchronous_client_is_refused(client):
    _, model = shared("linear")

    async def ask() -> None:
        async with Client(client.scheduler.address, asynchronous=True, set_as_default=False) as other:
            with pytest.raises(TypeError, match="`client` must be synchronous"):
                model.predict(X, client=other, **MEMORY)

    asyncio.run(ask())


def test_rows_that_see_one_another_are_computed_here(cluster, client):
    case, model = shared("gaussian_process")
    here = model.predict(case.X, **MEMORY)
    cluster.watch.forget()
    with pytest.warns(UserWarning, match="the workers of `client` are not used"):
        there = model.predict(case.X, **MEMORY, client=client)
    assert_same(there, here)
    assert cluster.watch.events("range") == []


# ------------------------------------------------------------------------------------- what passes the client


@pytest.fixture
def passed(monkeypatch):
    """Count the bytes that this process, in which the scheduler is as well, reads and writes."""
    found = [0]

    def counted(function: Any) -> Any:
        def count(stream: IOStream, data: Any) -> Any:
            n_bytes = function(stream, data)
            found[0] += n_bytes or 0
            return n_bytes

        return count

    for name in ("read_from_fd", "write_to_fd"):
        monkeypatch.setattr(IOStream, name, counted(getattr(IOStream, name)))
    return found


def test_neither_rows_nor_draws_pass_the_client(cluster, active, passed, tmp_path):
    """The posterior goes out once to each worker; rows come from where workers make them, and stay there."""
    n_obs, n_columns, n_groups = 48 * BLOCK, 64, 30_000
    draws = {"alpha": np.random.default_rng(0).normal(size=(8, n_groups)).astype(np.float32)}
    mcmc = MCMC(NUTS(groups), num_warmup=1, num_samples=1, progress_bar=False)
    model = ImpactModel(groups, random.key(0), mcmc).set_posterior_sample(draws)

    def rows(block_info: Any) -> np.ndarray:
        (first, last), _ = block_info[None]["array-location"]
        return np.sin(np.arange(first, last)[:, None] + np.arange(n_columns)).astype(np.float32)

    n_rows = 1500
    lengths = tuple(min(n_rows, n_obs - start) for start in range(0, n_obs, n_rows))
    lazy = da.map_blocks(rows, chunks=(lengths, (n_columns,)), dtype=np.float32, meta=np.empty((0, 0), np.float32))
    group = da.arange(n_obs, chunks=n_rows) * 7 % n_groups
    cluster.watch.forget()
    passed[0] = 0
    tree = model.predict(lazy, group=group, n_groups=n_groups, output_dir=tmp_path, **OPTIONS)
    n_bytes, posterior = passed[0], draws["alpha"].nbytes
    ranges, jobs = cluster.watch.events("range"), cluster.watch.events("job")
    assert len(ranges) >= 8
    assert len(jobs) == len({one.pid for one in jobs}) == 2
    assert min(one.stop for one in jobs) >= posterior
    # The client writes the posterior, the scheduler reads it and writes it to two workers.  The first chunk, which is
    # looked at, comes by way of the scheduler.  The rest are messages.
    known = 4 * posterior + 3 * n_rows * (lazy[0].nbytes + group[0].nbytes)
    assert known < n_bytes < known + 100_000 * len(ranges)
    data = lazy.nbytes + tree["posterior_predictive"]["y"].nbytes
    assert known + 100_000 * len(ranges) < data / 2


def test_workers_check_the_indices_of_rows_that_they_read(client):
    """Rows in memory are checked by the client, rows that workers read by the workers, in the same words."""
    mcmc = MCMC(NUTS(groups), num_warmup=1, num_samples=1, progress_bar=False)
    model = ImpactModel(groups, random.key(0), mcmc).set_posterior_sample({"alpha": np.ones((8, 5), np.float32)})
    n_obs = 6 * BLOCK
    X, group = np.zeros((n_obs, 1), np.float32), np.arange(n_obs, dtype=np.int32) % 5
    group[4 * BLOCK + 3 : 4 * BLOCK + 5] = -1
    said = f"site `alpha`, which has 5 entries along plate `groups`; the first is row {4 * BLOCK + 3:,} with -1"
    for given in (group, da.from_array(group, chunks=BLOCK)):
        with pytest.raises(ValueError, match=f"^2 of .*{said}, computed from `group`"):
            model.predict(X, group=given, n_groups=5, client=client, **OPTIONS)


@pytest.mark.parametrize("source", ["dask", "data set"])
def test_values_found_by_workers_warn_once_in_words_of_one_process(client, source, tmp_path):
    """NaN are counted over all workers, and a column of Unix seconds collapses over all rows."""
    n_obs = 6 * BLOCK
    X = np.column_stack([np.zeros(n_obs), 1.7e9 + np.arange(n_obs) % 10, np.zeros(n_obs)])
    X[[7, 9, n_obs - 1], 0] = np.nan
    pq.write_table(pa.table(pd.DataFrame(X, columns=list("abc"))), tmp_path / "rows.parquet", row_group_size=BLOCK)
    given = {"dask": da.from_array(X, chunks=(BLOCK, 3)), "data set": pads.dataset(tmp_path)}[source]
    texts = []
    for one in (None, client):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            line_model().predict(given, client=one or False, **MEMORY)
        texts.append(sorted(str(w.message) for w in caught if issubclass(w.category, OutputWarning)))
    here, there = texts
    assert there == here
    missing, collapsed = here
    column = {"dask": "column 0 of `X`", "data set": "column 'a' of `X`"}[source]
    assert missing.startswith(f"Arguments have NaN ({column}: 3 row(s), the first row 7)")
    assert "has 10 distinct values, of which 1 remain in float32" in collapsed


def test_workers_check_the_output_of_rows_that_they_read(client):
    n_obs = 6 * BLOCK
    y = np.zeros(n_obs, np.float32)
    y[4 * BLOCK + 3] = np.inf
    given = da.zeros((n_obs, 3), chunks=(BLOCK, 3), dtype="float32"), da.from_array(y, chunks=BLOCK)
    with pytest.raises(ValueError, match=f"^1 of .* are not finite numbers; got inf, first in row {4 * BLOCK + 3:,}"):
        line_model().log_likelihood(*given, client=client, **MEMORY)


# -------------------------------------------------------------------------------------------------- progress


def test_progress_counts_the_rows_of_all_workers(cluster, client, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_DELAY", 0.0)
    model = line_model()
    many = np.tile(X, (4, 1))
    with cluster.watch.delayed(0.15):
        model.predict(many, client=client, **{**OPTIONS, "progress": True})
    said = capsys.readouterr().err
    assert f"predict: 100%|██████████| {len(many)}/{len(many)}" in said
    assert said.endswith("\n")
    shown = [part.split("|")[2].split("/")[0].strip() for part in said.split("\r") if "|" in part]
    counts = [int(one) for one in shown]
    assert counts == sorted(counts)
    # How often the bar is drawn, and so how many counts it shows, depends on the load of the machine.
    assert any(0 < count < len(many) for count in counts)
    assert not tqdm._instances
    assert {one.pid for one in cluster.watch.events("range")} == set(cluster.pids().values())


def test_in_a_task_the_call_does_not_stand_in_its_own_way():
    """A cluster of one thread, which the task has; in this process, where nothing has to be loaded."""
    asked = {"X": X, "store": "memory", **HERE}

    def inside() -> np.ndarray:
        _, model = shared("linear")
        return arrays(model.predict(client=get_client(), **asked))["y"]

    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=":0") as own:
        found = own.submit(inside, pure=False).result(timeout=100)
    np.testing.assert_array_equal(found, arrays(shared("linear")[1].predict(**asked))["y"])
