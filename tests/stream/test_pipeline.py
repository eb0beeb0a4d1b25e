"""Streams of numbers into a store that records them.

Pieces are written once, in order, with bounded memory; errors are raised unchanged, and threads end.
"""

import _thread
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tqdm.std import tqdm

from aimz.store import Group, ResultStore
from aimz.stream import Plan, StreamRequest, plan_draws, run
from aimz.stream.rechunking import Chunker

N_DRAWS = 3
MIB = 2**20


class Watcher(ResultStore):
    """Store that records every piece, with its name and start, in order."""

    def __init__(self, *, whole_chunks: bool = True, before: Callable[[int], None] = lambda _: None) -> None:
        self.whole_chunks = whole_chunks
        self.pieces: list[tuple[str, int, np.ndarray]] = []
        self.threads: set[str] = set()
        self.calls = 0
        self._before = before
        """Called with the number of earlier calls, before a piece is recorded."""

    def open(self, group: Group) -> None: ...

    def write(self, name: str, array: np.ndarray, start: int) -> None:
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        self._before(self.calls - 1)
        self.pieces.append((name, start, array))

    def finish(self, length: int) -> None: ...

    def fail(self, error: BaseException) -> BaseException:
        return error

    def read(self, name: str) -> Any: ...

    def of(self, name: str) -> list[tuple[int, np.ndarray]]:
        return [(start, array) for found, start, array in self.pieces if found == name]


class Compute:
    """Row ``i`` of draw ``d`` of `y` is ``i + d / 8``, of `z` its negative, in three columns; records every call."""

    def __init__(self, n_obs: int, *, n_parts: int = 1) -> None:
        self.n_obs = n_obs
        self._n_parts = n_parts
        self.begun: list[tuple[int, int]] = []
        self.skipped: list[tuple[int, int]] = []
        self.fetched = 0
        self.most_in_flight = 0

    def read(self, start: int, stop: int) -> tuple[int, int] | None:
        if start >= self.n_obs:
            return None
        self.begun.append((start, min(stop, self.n_obs)))
        self.most_in_flight = max(self.most_in_flight, len(self.begun) - self.fetched)
        return self.begun[-1]

    def fetch(self, handle: tuple[int, int]) -> Iterator[tuple[int, int, Mapping[str, np.ndarray]]]:
        assert handle == self.begun[self.fetched]
        self.fetched += 1
        cuts = np.linspace(*handle, self._n_parts + 1).astype(int).tolist()
        for start, stop in pairwise(cuts):
            if start < stop:
                y = self.whole()["y"][:, start:stop]
                yield start, stop, {"y": y, "z": self.whole()["z"][:, :, start:stop]}

    def whole(self) -> dict[str, np.ndarray]:
        y = np.arange(self.n_obs) + np.arange(N_DRAWS)[:, None] / 8
        return {"y": y, "z": -np.stack([y] * 3, axis=1)}

    def once(self, handle: Any) -> dict[str, np.ndarray]:
        assert handle == self.begun[0]
        return {"w": np.arange(N_DRAWS)}

    def request(self, plan: Plan, **given: Any) -> StreamRequest:
        functions = {"fetch": self.fetch, "once": self.once, "skip": self.skip, **given}
        functions = {"read": self.read, "begin": lambda inputs: inputs, **functions}
        return StreamRequest(plan=plan, axes={"y": 1, "z": 2, "w": 0}, **functions)

    def skip(self, start: int, stop: int) -> None:
        self.skipped.append((start, stop))


def stream(plan: Plan, **given: Any) -> StreamRequest:
    """Return a request of one array, whose steps are their own inputs and handles."""
    functions = {"read": lambda *step: step, "begin": lambda step: step, "once": lambda _: {}, **given}
    return StreamRequest(plan=plan, axes={"y": 1}, **functions)


def row_plan(n_obs: int | None, *, step: int, chunk: int) -> Plan:
    return Plan("obs", n_obs, N_DRAWS, 1, 1, step, chunk)


def check_rows(store: Watcher, compute: Compute, chunk: int | None) -> None:
    """Check that all rows were written once and in order; in whole chunks if ``chunk`` is given."""
    assert [start for start, _ in store.of("w")] == [0]
    np.testing.assert_array_equal(store.of("w")[0][1], np.arange(N_DRAWS))
    for name, axis in (("y", 1), ("z", 2)):
        found = store.of(name)
        at = 0
        for start, array in found:
            assert start == at
            at += array.shape[axis]
            if chunk is not None:
                assert start % chunk == 0
                assert array.shape[axis] == chunk or at == compute.n_obs
        np.testing.assert_array_equal(np.concatenate([array for _, array in found], axis), compute.whole()[name])


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


# ------------------------------------------------------------------------------------------- complete streams


@given(
    n_obs=st.integers(1, 120),
    step=st.integers(1, 50),
    chunk=st.integers(1, 70),
    n_parts=st.integers(1, 4),
    whole_chunks=st.booleans(),
    known=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_pieces_are_written_once_and_in_order(n_obs, step, chunk, n_parts, whole_chunks, known):
    compute, store = Compute(n_obs, n_parts=n_parts), Watcher(whole_chunks=whole_chunks)
    plan = row_plan(n_obs if known else None, step=step, chunk=chunk)
    assert run(compute.request(plan), store) == n_obs
    check_rows(store, compute, chunk if whole_chunks else None)
    assert store.threads == {"aimz-writer"}
    assert compute.skipped == []


@pytest.mark.parametrize("n_obs", [20, 23])
def test_unknown_length_that_ends_with_a_step(n_obs):
    compute, store = Compute(n_obs), Watcher()
    assert run(compute.request(row_plan(None, step=5, chunk=10)), store) == n_obs
    check_rows(store, compute, 10)


def test_pieces_are_not_copied_without_chunks():
    fetched: list[np.ndarray] = []
    compute, store = Compute(20), Watcher(whole_chunks=False)

    def fetch(handle):
        for start, stop, arrays in compute.fetch(handle):
            fetched.append(arrays["y"])
            yield start, stop, arrays

    run(compute.request(row_plan(20, step=5, chunk=20), fetch=fetch), store)
    assert [id(array) for _, array in store.of("y")] == [id(array) for array in fetched]


@pytest.mark.parametrize("n_chains", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 10, 100])
@pytest.mark.parametrize("whole_chunks", [True, False])
def test_no_piece_has_draws_of_two_chains(n_chains, batch_size, whole_chunks):
    per_chain, n_rows = 10, 2
    n_draws = n_chains * per_chain
    plan = plan_draws(
        block=None,
        n_obs=n_rows,
        n_draws=n_draws,
        n_chains=n_chains,
        group=2,
        draw_bytes=8,
        n_devices=1,
        batch_size=batch_size,
    )
    whole = np.arange(n_draws * n_rows).reshape(n_draws, n_rows)
    request = StreamRequest(
        plan=plan,
        axes={"y": 0},
        read=lambda *step: step,
        begin=lambda step: step,
        fetch=lambda handle: [(*handle, {"y": whole[slice(*handle)]})],
        once=lambda _: {},
    )
    store = Watcher(whole_chunks=whole_chunks)
    assert run(request, store) == n_draws
    at = 0
    for start, array in store.of("y"):
        stop = start + len(array)
        assert start == at
        assert start // per_chain == (stop - 1) // per_chain
        if whole_chunks:
            assert start % per_chain % plan.chunk == 0
        np.testing.assert_array_equal(array, whole[start:stop])
        at = stop
    assert at == n_draws


def test_slow_store_keeps_pieces_and_order():
    compute, store = Compute(40), Watcher(before=lambda _: time.sleep(0.002))
    run(compute.request(row_plan(40, step=4, chunk=2)), store)
    check_rows(store, compute, 2)


def test_slow_steps_keep_pieces_and_order():
    compute, store = Compute(40), Watcher()

    def fetch(handle):
        time.sleep(0.002)
        return compute.fetch(handle)

    run(compute.request(row_plan(40, step=4, chunk=8), fetch=fetch), store)
    check_rows(store, compute, 8)


# -------------------------------------------------------------------------------------------- skipped steps


@pytest.mark.parametrize("known", [True, False])
def test_finished_steps_are_skipped(known):
    compute, store = Compute(45), Watcher()
    done = {(0, 10), (20, 30)}
    checked: list[tuple[int, int]] = []

    def is_missing(start: int, stop: int) -> bool:
        checked.append((start, stop))
        return (start, stop) not in done

    plan = row_plan(45 if known else None, step=10, chunk=5)
    assert run(compute.request(plan, wanted=is_missing), store) == 45
    assert compute.skipped == sorted(done)
    assert compute.begun == [(10, 20), (30, 40), (40, 45)]
    assert [start for start, _ in store.of("y")] == [10, 15, 30, 35, 40]
    whole = compute.whole()
    for start, array in store.of("y"):
        np.testing.assert_array_equal(array, whole["y"][:, start : start + 5])
    assert len(store.of("w")) == 1
    assert checked == sorted(set(checked))  # each step is checked once, in order


def test_steps_are_skipped_and_begun_in_order():
    """Rows that can be read only once are skipped and read strictly in order."""
    compute = Compute(60)
    order: list[int] = []
    request = compute.request(
        row_plan(60, step=10, chunk=10),
        wanted=lambda start, _: start % 20 == 0,
        read=lambda start, stop: (order.append(start), compute.read(start, stop))[1],
        skip=lambda start, _: order.append(start),
    )
    run(request, Watcher())
    assert order == [0, 10, 20, 30, 40, 50]


def test_chunks_do_not_span_skipped_steps():
    """An incomplete chunk is written before a gap, also if steps and chunks have different lengths."""
    compute, store = Compute(48), Watcher()
    request = compute.request(row_plan(48, step=12, chunk=8), wanted=lambda start, _: start in (0, 36))
    assert run(request, store) == 48
    assert [start for start, _ in store.of("y")] == [0, 8, 36, 40]
    for start, array in store.of("y"):
        np.testing.assert_array_equal(array, compute.whole()["y"][:, start : start + array.shape[1]])


def test_all_steps_skipped():
    compute, store = Compute(30), Watcher()
    assert run(compute.request(row_plan(30, step=10, chunk=10), wanted=lambda *_: False), store) == 30
    assert store.pieces == []
    assert compute.begun == []


# -------------------------------------------------------------------------------------------------- bounds


def test_steps_in_flight_are_bounded():
    compute = Compute(200)
    run(compute.request(row_plan(200, step=2, chunk=10)), Watcher())
    assert compute.fetched == 100
    assert 2 <= compute.most_in_flight <= 3


@pytest.mark.parametrize("whole_chunks", [True, False])
def test_queued_bytes_are_bounded(whole_chunks):
    """A stream of 400 MiB keeps only a small part in memory."""
    n_steps, width = 100, MIB  # 4 MiB per step, broadcast from one number
    fetched, most, store = 0, 0, Watcher(whole_chunks=whole_chunks)
    stalled = threading.Event()

    def before(_: int) -> None:
        nonlocal most
        if store.calls == 1:
            stalled.wait(0.3)  # long enough for the stream to run ahead
        store.pieces.clear()
        most = max(most, fetched - store.calls + 1)

    def fetch(handle):
        nonlocal fetched
        fetched += 1
        return [(*handle, {"y": np.broadcast_to(np.float32(1), (1, width))})]

    store._before = before
    plan = Plan("obs", n_steps * width, 1, 1, width, width, width)
    request = stream(plan, fetch=fetch)
    run(request, store)
    assert store.calls == n_steps
    assert 2 <= most <= 16  # it runs ahead, by at most 64 MiB


def test_piece_larger_than_the_queue_is_written():
    big = np.broadcast_to(np.float32(1), (1, 100 * MIB))
    plan = Plan("obs", 3 * big.shape[1], 1, 1, 1, big.shape[1], big.shape[1])
    store = Watcher()
    request = stream(plan, fetch=lambda handle: [(*handle, {"y": big})])
    run(request, store)
    assert [start for start, _ in store.of("y")] == [0, big.shape[1], 2 * big.shape[1]]


# ------------------------------------------------------------------------------------------------- threads


def rows_of(step: tuple[int, int]) -> list[tuple[int, int, dict[str, np.ndarray]]]:
    return [(*step, {"y": np.arange(*step)[None]})]


@pytest.mark.parametrize("n_threads", [2, 3])
def test_steps_are_computed_at_the_same_time_and_written_in_order(n_threads):
    together = threading.Barrier(n_threads)
    threads, store = set(), Watcher()

    def begin(step):
        threads.add(threading.current_thread().name)
        together.wait(60)  # ends only if as many threads are here
        time.sleep(0.02 if step[0] % 20 == 0 else 0)  # a later step is ready first
        return step

    n_obs = 20 * n_threads
    request = stream(row_plan(n_obs, step=10, chunk=10), begin=begin, fetch=rows_of, n_threads=n_threads)
    assert run(request, store) == n_obs
    assert len(threads) == n_threads
    assert all(name.startswith("aimz-step") for name in threads)
    assert [start for start, _ in store.of("y")] == list(range(0, n_obs, 10))
    np.testing.assert_array_equal(np.concatenate([array for _, array in store.of("y")], 1)[0], np.arange(n_obs))


@pytest.mark.parametrize("stage", ["begin", "fetch", "once", "select"])
def test_error_in_a_thread_is_raised(stage):
    def fails(_):
        raise error

    error = Trouble()
    functions = {"fetch": rows_of} | {stage: fails}
    with pytest.raises(Trouble) as caught:
        run(stream(row_plan(1000, step=10, chunk=10), n_threads=2, **functions), Watcher())
    assert caught.value is error


def test_steps_read_ahead_of_the_threads_are_bounded():
    """While the threads are busy, only as many steps as threads and one more are read."""
    n_read, most, ended, count = 0, 0, 0, threading.Lock()

    def read(start, stop):
        nonlocal n_read, most
        n_read += 1
        most = max(most, n_read - ended)
        return start, stop

    def fetch(step):
        nonlocal ended
        time.sleep(0.002)
        with count:
            ended += 1
        return rows_of(step)

    run(stream(row_plan(200, step=2, chunk=2), read=read, fetch=fetch, n_threads=3), Watcher())
    assert 2 <= most <= 4


@pytest.mark.parametrize("name", ["enable_x64", "debug_nans", "default_device"])
def test_settings_of_the_calling_thread_hold_for_every_step(name):
    """Settings of JAX that are made in a context hold in one thread only."""
    threads = set()

    def begin(step):
        threads.add(threading.current_thread())
        return step

    request = stream(row_plan(40, step=10, chunk=10), begin=begin, fetch=rows_of, n_threads=2)
    with getattr(jax, name)(jax.devices()[0] if name == "default_device" else True):
        run(request, Watcher())
    assert threads == {threading.current_thread()}


# ------------------------------------------------------------------------------------------------- errors


class Trouble(Exception):
    pass


class Worse(BaseException):
    pass


ERRORS = [Trouble("once"), OSError(28, "No space left on device"), KeyboardInterrupt(), Worse(), SystemExit(3)]


def raising(error: BaseException, at: int) -> Callable[..., Any]:
    """Return a function that raises at its call number ``at``."""
    calls = iter(range(1 << 30))

    def act(*_: Any) -> None:
        if next(calls) == at:
            raise error

    return act


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("at", [0, 7, 29])
def test_store_error_stops_the_stream(at, error):
    compute, store = Compute(100), Watcher(before=raising(error, at))
    with pytest.raises(type(error)) as caught:
        run(compute.request(row_plan(100, step=10, chunk=7)), store)
    assert caught.value is error
    assert store.calls == at + 1  # nothing is written after the error
    assert len(store.pieces) == at


def test_store_error_at_the_last_piece_is_raised():
    n_pieces = 1 + 2 * 10  # `w` once, `y` and `z` ten times
    compute, store = Compute(100), Watcher(before=raising(error := Trouble(), n_pieces - 1))
    with pytest.raises(Trouble) as caught:
        run(compute.request(row_plan(100, step=10, chunk=10)), store)
    assert caught.value is error
    assert store.calls == n_pieces


def test_store_error_wakes_the_waiting_stream():
    """The stream waits for a full queue when the error occurs."""
    error = Trouble()

    def before(_: int) -> None:
        time.sleep(0.1)
        raise error

    big = np.broadcast_to(np.float32(1), (1, 40 * MIB))
    plan = Plan("obs", 50 * big.shape[1], 1, 1, 1, big.shape[1], big.shape[1])
    begun: list[tuple[int, int]] = []
    request = stream(
        plan,
        begin=lambda step: (begun.append(step), step)[1],
        fetch=lambda handle: [(*handle, {"y": big})],
    )
    with pytest.raises(Trouble) as caught:
        run(request, Watcher(before=before))
    assert caught.value is error
    assert len(begun) < 10


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("stage", ["read", "begin", "fetch", "once", "wanted", "skip"])
@pytest.mark.parametrize("at", [0, 4])
def test_error_of_any_stage_is_raised(stage, at, error):
    compute, store = Compute(100), Watcher()
    fails = raising(error, 0 if stage == "once" else at)
    given = {
        "read": lambda *step: (fails(), compute.read(*step))[1],
        "begin": lambda step: (fails(), step)[1],
        "fetch": lambda handle: (fails(), compute.fetch(handle))[1],
        "once": fails,
        "wanted": lambda *step: (fails(), True)[1],
        "skip": lambda *step: (fails(), compute.skip(*step))[1],
    }
    functions = {stage: given[stage]}
    if stage == "skip":
        functions["wanted"] = lambda start, _: start % 20 == 0
    with pytest.raises(type(error)) as caught:
        run(compute.request(row_plan(100, step=10, chunk=10), **functions), store)
    assert caught.value is error
    written = [start for start, _ in store.of("y")]
    assert written == sorted(set(written))
    assert len(written) < 10


def test_error_between_parts_is_raised():
    """`fetch` may be a generator that raises after its first part."""
    compute, error = Compute(100), Trouble()

    def fetch(handle):
        start, stop = handle
        middle = (start + stop) // 2
        yield start, middle, {"y": compute.whole()["y"][:, start:middle]}
        raise error

    with pytest.raises(Trouble) as caught:
        run(compute.request(row_plan(100, step=10, chunk=5), fetch=fetch), Watcher())
    assert caught.value is error


def test_queue_is_dropped_on_an_error():
    """After Ctrl-C, no queued piece is written any more."""
    first, interrupted = threading.Event(), threading.Event()
    compute = Compute(1000)

    def before(call: int) -> None:
        first.set()
        assert interrupted.wait(60)
        time.sleep(0.05)  # the stream is ending by now

    def read(start, stop):
        if start == 900:
            assert first.wait(60)
            interrupted.set()
            raise KeyboardInterrupt
        return compute.read(start, stop)

    store = Watcher(before=before)
    with pytest.raises(KeyboardInterrupt):
        run(compute.request(row_plan(1000, step=10, chunk=10), read=read), store)
    assert store.calls <= 3  # the arrays of the piece being written


def test_keyboard_interrupt_while_waiting_for_the_store():
    """A signal interrupts the main thread while it waits for the queue."""
    big = np.broadcast_to(np.float32(1), (1, 40 * MIB))

    def before(_: int) -> None:
        time.sleep(0.1)  # the stream waits for its queue
        _thread.interrupt_main()
        time.sleep(0.1)

    plan = Plan("obs", 50 * big.shape[1], 1, 1, 1, big.shape[1], big.shape[1])
    request = stream(plan, fetch=lambda handle: [(*handle, {"y": big})])
    store = Watcher(before=before)
    with pytest.raises(KeyboardInterrupt):
        run(request, store)
    assert store.calls == 1


# ------------------------------------------------------------------------------------------------- progress


@pytest.fixture
def closed(monkeypatch):
    """State of each progress bar when it was closed; a short stream prints nothing."""
    found: list[dict[str, Any]] = []
    close = tqdm.close

    def closing(bar: tqdm) -> None:
        if not bar.disable:
            found.append({"n": bar.n, "total": bar.total, "title": bar.desc, "unit": bar.unit.strip()})
        close(bar)

    monkeypatch.setattr(tqdm, "close", closing)
    return found


@pytest.mark.parametrize("known", [True, False])
def test_progress_bar_counts_skipped_rows(closed, known):
    compute = Compute(45)
    plan = row_plan(45 if known else None, step=10, chunk=5)
    run(compute.request(plan, wanted=lambda start, _: start != 10, progress="predict"), Watcher())
    (bar,) = closed
    assert bar.pop("title").startswith("predict")
    assert bar == {"n": 45, "total": 45 if known else None, "unit": "rows"}


def test_progress_bar_is_closed_on_an_error(closed):
    compute = Compute(45)
    with pytest.raises(Trouble) as caught:
        run(compute.request(row_plan(45, step=10, chunk=5), progress="p"), Watcher(before=raising(Trouble(), 3)))
    assert len(closed) == 1, caught.traceback


def test_no_progress_bar_by_default(closed, capsys):
    compute = Compute(45)
    run(compute.request(row_plan(45, step=10, chunk=5)), Watcher(before=lambda _: time.sleep(0.05)))
    assert closed == []
    assert capsys.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------------- chunking


@st.composite
def cuttings(draw):
    """Boundaries of consecutive pieces of a range."""
    start = draw(st.integers(0, 30))
    stop = start + draw(st.integers(1, 120))
    inner = draw(st.lists(st.integers(start + 1, stop - 1), unique=True)) if stop - start > 1 else []
    return [start, *sorted(inner), stop]


@given(cuts=cuttings(), chunk=st.integers(1, 50))
@settings(max_examples=300, deadline=None)
def test_chunks_do_not_depend_on_piece_lengths(cuts, chunk):
    start, stop = cuts[0], cuts[-1]
    axes = {"a": 0, "b": 2}
    whole = {"a": np.arange(stop * 2).reshape(stop, 2), "b": np.arange(stop * 6).reshape(2, 3, stop)}
    chunker = Chunker(chunk, axes)
    pieces = []
    for at, end in pairwise(cuts):
        pieces += chunker.add(at, end, {"a": whole["a"][at:end], "b": whole["b"][:, :, at:end]})
    pieces += chunker.end()
    assert list(chunker.end()) == []  # the last chunk was yielded before

    borders = [start, *(n for n in range(start + 1, stop) if n % chunk == 0), stop]
    assert [(piece.start, piece.stop) for piece in pieces] == list(pairwise(borders))
    for piece in pieces:
        np.testing.assert_array_equal(piece.joined("a"), whole["a"][piece.start : piece.stop])
        np.testing.assert_array_equal(piece.joined("b"), whole["b"][:, :, piece.start : piece.stop])
        assert piece.nbytes == piece.joined("a").nbytes + piece.joined("b").nbytes


def test_single_part_is_not_copied():
    chunker, given = Chunker(4, {"a": 0}), np.arange(8)
    (one,) = chunker.add(0, 4, {"a": given[:4]})
    assert np.shares_memory(one.joined("a"), given)
    two, three = chunker.add(4, 12, {"a": np.arange(8)})
    assert (two.start, three.stop) == (4, 12)
