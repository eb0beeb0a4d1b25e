"""Results in object stores: a local S3 server, and other zarr stores."""

import asyncio
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import obstore
import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs
import pytest
import xarray as xr
import zarr
from jax import random
from numpyro.infer import MCMC, NUTS
from zarr.errors import GroupNotFoundError
from zarr.storage import LocalStore, MemoryStore, ObjectStore, StorePath, WrapperStore

import aimz
from aimz import ImpactModel
from aimz.errors import IncompleteResultError, StaleResultError
from aimz.store import Group, ObjectStoreLocation, Variable, ZarrStore, check_result, read_location

BLOCK = 1024
N_OBS = 12 * BLOCK + 5
N_CHUNKS = 13
X = np.random.default_rng(1).normal(size=(N_OBS, 3)).astype(np.float32)
OPTIONS = {"batch_size": BLOCK, "progress": False, "rng_key": random.key(5)}


def linear(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    mu = numpyro.deterministic("mu", X @ b)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def new_model() -> ImpactModel:
    model = ImpactModel(linear, random.key(1), MCMC(NUTS(linear), num_warmup=1, num_samples=1, progress_bar=False))
    return model.set_posterior_sample({"b": np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)})


class Slow:
    """Rows that are read slowly; ``before`` is called with the first row of each part that a step reads."""

    chunks = None

    def __init__(self, before: Callable[[int], None]) -> None:
        self._before = before
        self.shape, self.dtype, self.ndim = X.shape, X.dtype, X.ndim

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, rows: slice) -> np.ndarray:
        part = X[rows]
        if 0 < len(part) <= 2 * BLOCK:  # the whole array is read for its fingerprint
            self._before(rows.start)
        return part

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(X, dtype)


class Requests(logging.Handler):
    """Records the requests to a server from its log."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        match = re.search(r'"(\w+) (\S+) HTTP', record.getMessage())
        if match:
            self.seen.append((match[1], match[2]))


@pytest.fixture(scope="module")
def requests() -> Iterator[Requests]:
    log, handler = logging.getLogger("werkzeug"), Requests()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    yield handler
    log.removeHandler(handler)
    log.propagate = True


class Server:
    """Server that can be stopped and restarted at the same address with its contents."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        self._server.stop()
        self._server._server.server_close()


@pytest.fixture(scope="module")
def server(requests) -> Iterator[Server]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from packages of the server
        made = Server()
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{made.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        yield made
    made.stop()


@pytest.fixture
def bucket(server, request) -> str:
    """New bucket of one test."""
    name = f"bucket-{abs(hash(request.node.nodeid)) % 10**12}"
    filesystem(server).create_dir(name)
    return f"s3://{name}"


def filesystem(server: Server) -> pa.fs.S3FileSystem:
    """Client of the server from another package."""
    return pa.fs.S3FileSystem(
        access_key="someone",
        secret_key="secret",
        region="us-east-1",
        scheme="http",
        endpoint_override=f"127.0.0.1:{server.port}",
        allow_bucket_creation=True,
        allow_bucket_deletion=True,
    )


def objects(server: Server, url: str) -> dict[str, bytes]:
    """Return all objects under a URL, read by another client."""
    fs, root = filesystem(server), url.removeprefix("s3://").rstrip("/")
    found = fs.get_file_info(pa.fs.FileSelector(root, recursive=True, allow_not_found=True))
    return {f.path.removeprefix(f"{root}/"): fs.open_input_stream(f.path).read() for f in found if f.is_file}


def names(server: Server, url: str) -> list[str]:
    root = url.removeprefix("s3://").rstrip("/")
    found = filesystem(server).get_file_info(pa.fs.FileSelector(root, recursive=True, allow_not_found=True))
    return [f.path.removeprefix(f"{root}/") for f in found if f.is_file]


def files(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def numbers(content: dict[str, bytes]) -> dict[str, bytes]:
    """Return the chunks only."""
    return {name: value for name, value in content.items() if re.search(r"/c(/\d+)*$", name)}


def draws_of(tree: xr.DataTree, name: str = "y") -> np.ndarray:
    return tree["posterior_predictive"][name].values


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def no_thread_of_ours_is_left():
    yield
    ours = ("aimz-writer", "aimz-reader")
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith(ours)] == []


@pytest.fixture(scope="module")
def model():
    return new_model()


@pytest.fixture(scope="module")
def local(model, tmp_path_factory) -> Path:
    """Reference call."""
    return Path(model.predict(X, output_dir=tmp_path_factory.mktemp("local"), **OPTIONS).attrs["artifact_path"])


@pytest.fixture(scope="module")
def expected(local) -> np.ndarray:
    return draws_of(aimz.open_result(local))


# ------------------------------------------------------------------------------------------- S3 server


def test_result_in_a_bucket_equals_result_in_a_directory(server, bucket, model, local, expected, requests):
    del requests.seen[:]
    tree = model.predict(X, output_dir=f"{bucket}/some/results/", **OPTIONS)
    asked = list(requests.seen)
    url = tree.attrs["artifact_path"]
    assert re.fullmatch(rf"{bucket}/some/results/\d{{8}}T\d{{6}}\.\d{{6}}Z_predict", url)
    assert tree.attrs["output_dir"] == f"{bucket}/some/results"
    ours, theirs = objects(server, url), files(local)
    assert ours.keys() == theirs.keys()  # journal and owner are deleted
    assert numbers(ours) == numbers(theirs)
    assert len(numbers(ours)) > 2 * N_CHUNKS
    np.testing.assert_array_equal(draws_of(tree), expected)
    # Each chunk is one request, and completing the result does not request each chunk.
    chunks = [method for method, path in asked if "/posterior_predictive/y/c/" in path]
    assert chunks == ["PUT"] * N_CHUNKS
    assert sum("list-type=2" in path for _, path in asked) <= 4
    assert [method for method, path in asked if path.endswith("_predict/zarr.json")][-1:] == ["PUT"]


def test_result_is_readable_by_zarr_and_xarray(server, bucket, model, expected):
    url = model.predict(X, output_dir=bucket, **OPTIONS).attrs["artifact_path"]
    store = ObjectStore(obstore.store.from_url(url), read_only=True)
    with xr.open_datatree(store, engine="zarr") as theirs:
        opened = aimz.open_result(url)
        for ours in (opened, aimz.open_result(store), pickle.loads(pickle.dumps(opened))):
            np.testing.assert_array_equal(draws_of(ours), expected)
            for group in ("posterior", "posterior_predictive"):
                for name, array in theirs[group].data_vars.items():
                    np.testing.assert_array_equal(ours[group][name].values, array.values)
            assert ours.attrs["artifact_path"] == url
    assert check_result(read_location(url, "path", call=True)).checksums


def test_statistics_and_other_methods(server, bucket, model, tmp_path):
    given = {"statistics": ("mean", 0.5), **OPTIONS}
    tree = model.predict(X, output_dir=bucket, **given)
    theirs = model.predict(X, output_dir=tmp_path, **given)
    ours = numbers(objects(server, tree.attrs["artifact_path"]))
    assert ours == numbers(files(Path(theirs.attrs["artifact_path"])))
    scores = model.log_likelihood(X, X[:, 0] + 1, output_dir=bucket, **OPTIONS)
    witness = model.log_likelihood(X, X[:, 0] + 1, store="memory", **OPTIONS)
    np.testing.assert_array_equal(scores["log_likelihood"]["y"].values, witness["log_likelihood"]["y"].values)
    assert scores.attrs["artifact_path"].endswith("_log_likelihood")


def test_unpickled_writer_writes_chunks(server, bucket):
    place = read_location(f"{bucket}/call", "output_dir")
    result = ZarrStore(place, "group", root_attrs={})
    result.open(Group({"y": Variable(("draw", "obs"), (2, 12), np.dtype("f4"), (2, 4), 1)}))
    here = result.part(0, 12)
    there = pickle.loads(pickle.dumps(here))
    rows = np.arange(24, dtype=np.float32).reshape(2, 12)
    for start in (0, 8):
        there.write("y", rows[:, start : start + 4], start)
    assert list(here.missing("y")) == [(0, 1)]
    assert list(there.missing("y", 8)) == []
    result.write("y", rows[:, 4:8], 4)
    result.finish(12)
    np.testing.assert_array_equal(result.read("y")[...], rows)
    with pytest.raises(IncompleteResultError, match=rf"that call has ended.*`resume='{bucket}/call'`"):
        pickle.loads(pickle.dumps(here)).write("y", rows[:, :4], 0)


def refused(url: str) -> None:
    """Check that opening an unfinished result raises."""
    store = ObjectStore(obstore.store.from_url(url), read_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # xarray warns that it falls back to other metadata
        for open_it in (
            lambda: zarr.open_group(store, mode="r"),
            lambda: xr.open_datatree(store, engine="zarr"),
            lambda: xr.open_zarr(store),
            lambda: xr.open_dataset(store, engine="zarr", group="posterior_predictive", consolidated=True),
        ):
            with pytest.raises((FileNotFoundError, GroupNotFoundError, KeyError, ValueError)):
                open_it()
    with pytest.raises(IncompleteResultError, match=rf"did not finish.*resume='{url}'"):
        aimz.open_result(url)


def work(top: str) -> None:
    """Predict slowly in another process."""
    new_model().predict(Slow(lambda _: time.sleep(0.2)), output_dir=top, **OPTIONS)


def test_call_of_a_killed_process_is_resumed_by_another(server, bucket, model, local):
    code = "import sys; sys.path[:0] = sys.argv[2:]; import test_object_stores as t; t.work(sys.argv[1])"
    here = Path(__file__).parent
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, bucket, str(here), str(here.parent)])
    try:
        until(lambda: process.poll() is not None or sum("/y/c/" in n for n in names(server, bucket)) >= 4)
        process.send_signal(signal.SIGKILL)
    finally:
        assert process.wait(30) == -signal.SIGKILL
    (name,) = {name.partition("/")[0] for name in names(server, bucket)}
    url = f"{bucket}/{name}"
    done = {n for n in names(server, url) if "/y/c/" in n or "/mu/c/" in n}
    assert 4 <= len(done) < 2 * N_CHUNKS
    refused(url)
    with pytest.raises(ValueError, match=r"cannot be resumed by this one: .*rng_key.* differ"):
        model.predict(X, resume=url, **{**OPTIONS, "rng_key": random.key(6)})
    read: list[int] = []
    tree = model.predict(Slow(read.append), resume=url, **OPTIONS)
    assert tree.attrs["artifact_path"] == url
    ours = objects(server, url)
    assert ours.keys() == files(local).keys()
    assert numbers(ours) == numbers(files(local))
    whole = {n.rpartition("/")[2] for n in done if "/y/" in n} & {n.rpartition("/")[2] for n in done if "/mu/" in n}
    assert {start // BLOCK for start in read} - {0} == {n for n in range(1, N_CHUNKS) if str(n) not in whole}
    again = model.predict(X, resume=url, output_dir=bucket, **OPTIONS)  # the result is complete and is returned
    np.testing.assert_array_equal(draws_of(again), draws_of(tree))


def test_call_is_resumed_after_the_server_was_down(server, bucket, model, expected):
    store = ObjectStore(obstore.store.from_url(bucket, retry_config={"max_retries": 1}))

    def before(start: int) -> None:
        if start == 6 * BLOCK:
            until(lambda: sum("/y/c/" in n for n in names(server, bucket)) >= 3)
            server.stop()

    try:
        with pytest.raises(obstore.exceptions.GenericError) as caught:
            model.predict(Slow(before), output_dir=store, **OPTIONS)
        with pytest.raises(OSError, match="`output_dir` must be a place that can be listed"):
            model.predict(X, output_dir=store, **OPTIONS)
    finally:
        server.start()
    (name,) = {name.partition("/")[0] for name in names(server, bucket)}
    assert f"the same `output_dir` and `resume='{name}'`" in "".join(caught.value.__notes__)
    tree = model.predict(X, output_dir=store, resume=name, **OPTIONS)
    np.testing.assert_array_equal(draws_of(tree), expected)


def test_reading_missing_or_altered_chunks_raises(server, bucket, model, expected):
    tree = model.predict(X, output_dir=bucket, **OPTIONS)
    url = tree.attrs["artifact_path"]
    place, chunk = read_location(url, "path", call=True), "posterior_predictive/y/c/0/0/1"
    reopened, whole = aimz.open_result(url), place.get(chunk)
    for content in (None, whole[:100], whole[:50] + b"x" + whole[51:]):
        place.delete(chunk) if content is None else place.put(chunk, content)
        for found in (tree, reopened):
            with pytest.raises(IncompleteResultError, match="missing data, or they were altered"):
                draws_of(found)
            np.testing.assert_array_equal(
                found["posterior_predictive"]["y"][:, :, :BLOCK].values, expected[:, :, :BLOCK]
            )
        if content is None:
            with pytest.raises(IncompleteResultError, match="12 of its 13 chunks"):
                aimz.open_result(url)
    place.remove()
    with pytest.raises(StaleResultError, match="no longer exists"):
        draws_of(tree)
    with pytest.raises(FileNotFoundError, match="There is no result in"):
        aimz.open_result(url)


def test_inputs_are_read_from_a_bucket(server, bucket, model, expected):
    store = ObjectStore(obstore.store.from_url(f"{bucket}/rows.zarr"))
    rows = zarr.create_array(store, shape=X.shape, chunks=(5000, 3), dtype="f4")
    rows[...] = X
    tree = model.predict(zarr.open_array(store, mode="r"), output_dir=f"{bucket}/results", **OPTIONS)
    np.testing.assert_array_equal(draws_of(tree), expected)

    table = pa.table({name: X[:, i] for i, name in enumerate("abc")})
    path = f"{bucket.removeprefix('s3://')}/rows"
    pa.dataset.write_dataset(
        table, path, filesystem=filesystem(server), format="parquet", max_rows_per_file=5000, max_rows_per_group=2500
    )
    source = pa.dataset.dataset(path, filesystem=filesystem(server))
    tree = model.predict(source, output_dir=f"{bucket}/results", **OPTIONS)
    np.testing.assert_array_equal(draws_of(tree), expected)


# -------------------------------------------------------------------------------------- other zarr stores


def test_memory_url_as_output_dir(model, expected, local):
    tree = model.predict(X, output_dir="memory://aimz-tests/results", **OPTIONS)
    url = tree.attrs["artifact_path"]
    assert url.startswith("memory://aimz-tests/results/")
    for found in (tree, aimz.open_result(url), model.predict(X, resume=url, **OPTIONS)):
        np.testing.assert_array_equal(draws_of(found), expected)
    with xr.open_datatree(url, engine="zarr") as theirs:
        np.testing.assert_array_equal(draws_of(theirs), expected)


def test_store_and_store_path_as_output_dir(model, expected, local):
    store = MemoryStore()
    for given, top in ((store, ""), (StorePath(store, "some/where"), "some/where/")):
        tree = model.predict(X, output_dir=given, **OPTIONS)
        np.testing.assert_array_equal(draws_of(tree), expected)
        assert tree.attrs["output_dir"] == str(StorePath(store, top.rstrip("/")))
        name = tree.attrs["artifact_path"].rpartition("/")[2]
        call = StorePath(store, f"{top}{name}")
        content = {
            key.removeprefix(f"{call.path}/"): value.to_bytes()
            for key, value in store._store_dict.items()
            if key.startswith(f"{call.path}/")
        }
        assert content.keys() == files(local).keys()
        assert numbers(content) == numbers(files(local))
        for again in (
            aimz.open_result(call),
            model.predict(X, resume=call, **OPTIONS),
            model.predict(X, output_dir=given, resume=name, **OPTIONS),
        ):
            np.testing.assert_array_equal(draws_of(again), expected)


def test_local_store_is_treated_as_a_directory(model, tmp_path, expected):
    for given in (LocalStore(tmp_path), tmp_path.as_uri()):
        tree = model.predict(X, output_dir=given, **OPTIONS)
        assert Path(tree.attrs["artifact_path"]).parent == tmp_path
        np.testing.assert_array_equal(draws_of(aimz.open_result(tree.attrs["artifact_path"])), expected)


class Watched(WrapperStore[MemoryStore]):
    """Store with slow writes that counts concurrent writes and fails at one of them."""

    def __init__(self, store: MemoryStore | None = None, fails: Exception | None = None) -> None:
        super().__init__(MemoryStore() if store is None else store)
        self.fails, self.at = fails, 7
        self.now, self.most, self.chunks = 0, 0, 0

    async def set(self, key: str, value: Any) -> None:
        if "/y/c/" in key or "/mu/c/" in key:
            self.chunks += 1
            if self.fails is not None and self.chunks > self.at:
                raise self.fails
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.02)
            self.now -= 1
        await super().set(key, value)


def test_chunks_are_written_concurrently(model, expected):
    store = Watched()
    tree = model.predict(X, output_dir=store, **OPTIONS)
    np.testing.assert_array_equal(draws_of(tree), expected)
    assert store.chunks == 2 * N_CHUNKS
    assert 2 <= store.most <= ObjectStoreLocation.max_writers


def batches(array: np.ndarray = X) -> Iterator[dict[str, np.ndarray]]:
    for start in range(0, len(array), 1000):
        yield {"X": array[start : start + 1000]}


@pytest.mark.parametrize("source", ["array", "iterable"])
def test_failed_write_stops_the_call_and_resume_finishes_it(model, expected, local, source):
    error = PermissionError("the key has expired")
    store = Watched(fails=error)
    with pytest.raises(PermissionError) as caught:
        model.predict(X if source == "array" else batches(), output_dir=store, **OPTIONS)
    assert caught.value is error
    (name,) = {key.partition("/")[0] for key in store._store._store_dict}
    assert f"the same `output_dir` and `resume='{name}'`" in "".join(error.__notes__)
    call, store.fails = StorePath(store, name), None
    with pytest.raises(IncompleteResultError, match="did not finish"):
        aimz.open_result(call)
    if source == "iterable":
        assert store.most == 1  # arrays that grow have one writer
        with pytest.raises(ValueError, match=r"data from row 0 on differ from the data of the interrupted run"):
            model.predict(batches(X + 1), resume=call, **OPTIONS)
    tree = model.predict(X if source == "array" else batches(), resume=call, **OPTIONS)
    np.testing.assert_array_equal(draws_of(tree), expected)
    left = {key.removeprefix(f"{name}/") for key in store._store._store_dict}
    assert left == files(local).keys()
    if source == "iterable":
        with pytest.raises(ValueError, match="is complete, and its data were others"):
            model.predict(batches(X + 1), resume=call, **OPTIONS)


def test_location_can_be_claimed_once():
    store = MemoryStore()
    place = ObjectStoreLocation(store, "call")
    assert place.claim()
    assert not place.claim()
    assert (ObjectStoreLocation(store) / "other").claim()


# ------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("argument", ["output_dir", "resume"])
@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        (3, TypeError, "must be a path, a URL or a zarr store; got 3. Pass a string"),
        ("nowhere://a/b", ValueError, "must be a URL that obstore or fsspec can open; got .*Pass a local dir"),
        (Path("s3://bucket/results"), ValueError, "a URL in a `pathlib.Path`, which drops a slash. Pass the URL as"),
    ],
    ids=["number", "scheme", "path"],
)
def test_invalid_locations_raise(model, argument, given, error, said):
    with pytest.raises(error, match=f"`{argument}` .*{said}"):
        model.predict(X, **{argument: given}, **OPTIONS)


def test_resume_of_a_missing_call_raises(model):
    for given in (StorePath(MemoryStore(), "call"), "memory://aimz-tests/nothing/call"):
        with pytest.raises(FileNotFoundError, match=r"`resume` must be .* of an interrupted call; there is no"):
            model.predict(X, resume=given, **OPTIONS)


def test_missing_bucket_raises_before_any_work(server, model):
    def never(start: int) -> None:
        raise AssertionError

    for argument in ("output_dir", "resume"):
        with pytest.raises(
            OSError,
            match=rf"`{argument}` must be a place that can be listed.*s3://not-there.*NoSuchBucket.*Make the bucket",
        ):
            model.predict(Slow(never), **{argument: "s3://not-there/results"}, **OPTIONS)
    with pytest.raises(Exception, match="NoSuchBucket"):
        aimz.open_result("s3://not-there/results")


def test_read_only_store_raises(model):
    with pytest.raises(ValueError, match=r"`output_dir` must be a store that can be listed, written.*not read-only"):
        model.predict(X, output_dir=MemoryStore(read_only=True), **OPTIONS)


def test_missing_package_is_named_in_the_error(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    for ask in (
        lambda: model.predict(X, output_dir="s3://bucket/results", **OPTIONS),
        lambda: aimz.open_result("s3://bucket/results/call"),
    ):
        with pytest.raises(ImportError, match=r"s3://bucket.*needs obstore.*Run `pip install obstore`"):
            ask()
    # For a scheme that needs another package, the error has fsspec's message.
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ImportError, match=r"`output_dir` is 'gcs://bucket/results'.*gcsfs"):
        model.predict(X, output_dir="gcs://bucket/results", **OPTIONS)


def test_resume_outside_output_dir_raises(model):
    tree = model.predict(X[:5], output_dir="memory://aimz-tests/one", **OPTIONS)
    url = tree.attrs["artifact_path"]
    with pytest.raises(ValueError, match=r"`resume` must be inside `output_dir`; got .* Leave `output_dir` out"):
        model.predict(X[:5], output_dir="memory://aimz-tests/other", resume=url, **OPTIONS)
    name = url.rpartition("/")[2]
    again = model.predict(X[:5], output_dir="memory://aimz-tests/one/", resume=name, **OPTIONS)
    assert again.attrs == tree.attrs
