"""Contract of all stores: one class of tests, with a subclass for each store."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from aimz.errors import IncompleteResultError
from aimz.store import Group, InMemoryStore, ResultStore, TemporaryFileStore, Variable, ZarrStore, check_result

DTYPES = ["float32", "float64", "int8", "int32", "int64", "uint32", "bool", "complex64"]


def values(*shape: int, dtype: Any = "float32") -> np.ndarray:
    """Return distinct numbers, as far as the dtype allows."""
    count = int(np.prod(shape))
    return (np.arange(count).reshape(shape) * 3 % 127 - 5).astype(dtype)


def rows(*shape: int | None, axis: int = 2, chunk: int = 4, dtype: Any = "float32") -> Variable:
    """Return a variable streamed by rows; ``shape`` begins with chain and draw."""
    chunks = [size or chunk for size in shape]
    chunks[axis] = chunk
    return Variable(tuple(f"dim_{i}" for i in range(len(shape))), shape, np.dtype(dtype), tuple(chunks), axis)


def draws(*shape: int, chunk: int = 4, dtype: Any = "float32") -> Variable:
    """Return a variable streamed by draws, chain after chain."""
    dims = tuple(f"dim_{i}" for i in range(len(shape)))
    return Variable(dims, shape, np.dtype(dtype), (1, chunk, *shape[2:]), 1)


def at_once(*shape: int, dtype: Any = "float32") -> Variable:
    """Return a variable written as a whole."""
    return Variable(tuple(f"dim_{i}" for i in range(len(shape))), shape, np.dtype(dtype), shape)


def flat(whole: np.ndarray) -> np.ndarray:
    """Return an array with the draws of all chains on one axis."""
    return whole.reshape(-1, *whole.shape[2:])


def row_pieces(whole: np.ndarray, axis: int = 2, chunk: int = 4) -> list[tuple[int, np.ndarray]]:
    """Cut an array with chains into pieces along its rows."""
    cuts = range(0, whole.shape[axis], chunk)
    return [(at, np.take(flat(whole), range(at, min(at + chunk, whole.shape[axis])), axis - 1)) for at in cuts]


def draw_pieces(whole: np.ndarray, chunk: int = 4) -> list[tuple[int, np.ndarray]]:
    """Cut an array with chains into pieces along its draws; none has draws of two chains."""
    n_chains, n_draws = whole.shape[:2]
    starts = product(range(n_chains), range(0, n_draws, chunk))
    return [(chain * n_draws + at, whole[chain, at : at + chunk]) for chain, at in starts]


def shuffled(pieces: list[Any], seed: int = 0) -> list[Any]:
    order = np.random.default_rng(seed).permutation(len(pieces))
    return [pieces[i] for i in order]


def same(found: Any, expected: np.ndarray) -> None:
    """Check that dtype, shape and bits are equal, including signs of zeros and kinds of NaN."""
    found = np.asarray(found[...])
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    assert found.tobytes() == np.ascontiguousarray(expected).tobytes()


class StoreTests(ABC):
    """Tests of the contract; ``make`` returns a new store on each call."""

    @pytest.fixture
    @abstractmethod
    def make(self, tmp_path: Path) -> Callable[[], ResultStore]: ...

    @abstractmethod
    def check_incomplete(self, store: ResultStore) -> None:
        """Check that a failed store does not read as complete."""

    def filled(
        self, store: ResultStore, variables: dict[str, Variable], pieces: list[tuple[str, int, Any]], length: int
    ) -> ResultStore:
        store.open(Group(variables))
        for name, start, piece in pieces:
            store.write(name, piece, start)
        store.finish(length)
        return store

    # ------------------------------------------------------------------------------------------------ rows

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("n_chains", [1, 3])
    def test_rows_in_any_order(self, make, dtype, n_chains):
        whole = values(n_chains, 2, 10, dtype=dtype)
        pieces = [("y", *piece) for piece in shuffled(row_pieces(whole))]
        store = self.filled(make(), {"y": rows(n_chains, 2, 10, dtype=dtype)}, pieces, 10)
        same(store.read("y"), whole)

    @pytest.mark.parametrize("axis", [2, 3, 4])
    def test_rows_along_any_axis(self, make, axis):
        whole = values(2, 3, 5, 6, 7)
        variable = rows(*whole.shape, axis=axis)
        pieces = [("y", *piece) for piece in shuffled(row_pieces(whole, axis))]
        same(self.filled(make(), {"y": variable}, pieces, whole.shape[axis]).read("y"), whole)

    def test_variables_of_different_shapes_and_dtypes(self, make):
        wholes = {"y": values(2, 3, 10, dtype="int32"), "mu": values(2, 3, 10), "w": values(2, 3, 2, 10, dtype="bool")}
        variables = {
            "y": rows(2, 3, 10, dtype="int32"),
            "mu": rows(2, 3, 10),
            "w": rows(2, 3, 2, 10, axis=3, dtype="bool"),
            "b": at_once(2, 3, 5),
            "a": at_once(2, 3),
        }
        wholes |= {"b": values(2, 3, 5), "a": values(2, 3)}
        pieces = [(n, *p) for n in ("y", "mu") for p in row_pieces(wholes[n])]
        pieces += [("w", *piece) for piece in row_pieces(wholes["w"], axis=3)]
        pieces += [(name, 0, flat(wholes[name])) for name in ("b", "a")]
        store = self.filled(make(), variables, shuffled(pieces), 10)
        for name, whole in wholes.items():
            same(store.read(name), whole)

    @pytest.mark.parametrize("n_rows", [1, 4, 8, 10])
    @pytest.mark.parametrize("axis", [2, 3])
    def test_unknown_length(self, make, n_rows, axis):
        shape: list[Any] = [2, 3, 5, 5]
        shape[axis] = n_rows
        whole = values(*shape)
        shape[axis] = None
        variables = {"y": rows(*shape, axis=axis), "b": at_once(2, 3, 5)}
        pieces = [("y", *piece) for piece in row_pieces(whole, axis)] + [("b", 0, values(6, 5))]
        store = self.filled(make(), variables, pieces, n_rows)
        same(store.read("y"), whole)
        same(store.read("b"), values(2, 3, 5))

    def test_unknown_length_with_pieces_in_any_order(self, make):
        whole = values(1, 3, 23, dtype="int64")
        pieces = [("y", *piece) for piece in shuffled(row_pieces(whole), seed=1)]
        same(self.filled(make(), {"y": rows(1, 3, None, dtype="int64")}, pieces, 23).read("y"), whole)

    # ----------------------------------------------------------------------------------------------- draws

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize(("n_chains", "n_draws"), [(1, 8), (3, 8), (3, 10), (2, 3)])
    def test_draws_in_any_order(self, make, dtype, n_chains, n_draws):
        whole = values(n_chains, n_draws, 5, dtype=dtype)
        chunk = min(4, n_draws)
        pieces = [("y", *piece) for piece in shuffled(draw_pieces(whole, chunk))]
        variable = draws(*whole.shape, chunk=chunk, dtype=dtype)
        same(self.filled(make(), {"y": variable}, pieces, n_chains * n_draws).read("y"), whole)

    def test_draws_of_sites_with_and_without_rows(self, make):
        wholes = {"y": values(2, 10, 6, 2), "b": values(2, 10, 3), "a": values(2, 10)}
        # A chunk may also be shorter than a piece along axes that are not streamed.
        cut = Variable(("chain", "draw", "obs", "k"), (2, 10, 6, 2), np.dtype("float32"), (1, 4, 4, 2), 1)
        variables = {"y": cut, "b": draws(2, 10, 3), "a": draws(2, 10)}
        pieces = [(n, *piece) for n, whole in wholes.items() for piece in draw_pieces(whole)]
        store = self.filled(make(), variables, shuffled(pieces), 20)
        for name, whole in wholes.items():
            same(store.read(name), whole)

    # ---------------------------------------------------------------------------------------------- values

    def test_zeros_nan_and_fill_values_are_kept(self, make):
        """Zeros, NaN and fill values are kept bit by bit."""
        whole = {
            "float": np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, 3e38, 1.0], np.float32),
            "int": np.array([0, -(2**31), 2**31 - 1, 1, -1, 0, 0, 0], np.int32),
            "long": np.array([0, -(2**63), 2**63 - 1, 1, -1, 0, 0, 0], np.int64),
            "unsigned": np.array([0, 2**32 - 1, 0, 0, 1, 2, 3, 4], np.uint32),
            "flag": np.array([False] * 4 + [True, False, False, True]),
            "complex": np.array([0, np.nan, 1j, -1j, complex(0, np.nan), 0, 0, 0], np.complex64),
        }
        variables = {name: rows(1, 1, 8, dtype=array.dtype) for name, array in whole.items()}
        pieces = [(n, *piece) for n, array in whole.items() for piece in row_pieces(array[None, None])]
        store = self.filled(make(), variables, pieces, 8)
        for name, array in whole.items():
            same(store.read(name), array[None, None])

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("extreme", ["zero", "least", "most"])
    def test_chunks_of_a_constant_are_kept(self, make, dtype, extreme):
        kind = np.dtype(dtype).kind
        info = np.iinfo(dtype) if kind in "iu" else np.finfo(dtype) if kind in "fc" else None
        value = {"zero": 0, "least": 0 if info is None else info.min, "most": 1 if info is None else info.max}[extreme]
        whole = np.full((1, 2, 8), value, dtype)
        pieces = [("y", *piece) for piece in row_pieces(whole)]
        same(self.filled(make(), {"y": rows(1, 2, 8, dtype=dtype)}, pieces, 8).read("y"), whole)

    @pytest.mark.parametrize("given", [np.float16, jnp.bfloat16])
    @pytest.mark.parametrize("length", [10, None])
    def test_pieces_are_cast_to_the_dtype_of_the_variable(self, make, given, length):
        whole = (values(1, 2, 10) / 8).astype(given)
        pieces = [("y", *piece) for piece in row_pieces(whole)]
        store = self.filled(make(), {"y": rows(1, 2, length)}, pieces, 10)
        same(store.read("y"), whole.astype(np.float32))

    @pytest.mark.parametrize("length", [8, None])
    def test_non_contiguous_pieces(self, make, length):
        whole = values(2, 3, 8, 4)
        pieces = [("y", at, np.asfortranarray(piece)[:, ::-1][:, ::-1]) for at, piece in row_pieces(whole)]
        same(self.filled(make(), {"y": rows(2, 3, length, 4)}, pieces, 8).read("y"), whole)

    @pytest.mark.parametrize("length", [8, None])
    def test_memory_of_a_piece_can_be_reused(self, make, length):
        whole, store = values(1, 2, 8), make()
        store.open(Group({"y": rows(1, 2, length)}))
        for at, piece in row_pieces(whole):
            store.write("y", piece, at)
            piece[:] = 99
        store.finish(8)
        same(store.read("y"), whole)

    def test_read_only_pieces(self, make):
        whole = values(1, 2, 8)
        whole.flags.writeable = False
        pieces = [("y", 0, flat(whole)[:, :4]), ("y", 4, flat(whole)[:, 4:])]
        same(self.filled(make(), {"y": rows(1, 2, 8)}, pieces, 8).read("y"), whole)

    # -------------------------------------------------------------------------------------------- failures

    @pytest.mark.parametrize("length", [10, None])
    @pytest.mark.parametrize("left_out", [0, 1, 2])
    def test_finish_raises_if_a_piece_is_missing(self, make, length, left_out):
        """Otherwise the result would contain uninitialised values."""
        store = make()
        store.open(Group({"mu": rows(1, 2, length), "y": rows(1, 2, length)}))
        for i, (at, piece) in enumerate(row_pieces(values(1, 2, 10))):
            store.write("mu", piece, at)
            if i != left_out:
                store.write("y", piece, at)
        with pytest.raises(OSError):
            store.finish(10)
        store.fail(OSError())
        self.check_incomplete(store)

    def test_finish_raises_if_a_variable_is_missing(self, make):
        store = make()
        store.open(Group({"y": rows(1, 2, 4), "b": at_once(1, 2)}))
        store.write("y", values(2, 4), 0)
        with pytest.raises(OSError):
            store.finish(4)

    @pytest.mark.parametrize("n_written", [0, 1, 3])
    @pytest.mark.parametrize("length", [10, None])
    @pytest.mark.parametrize("error", [ValueError("no"), OSError(28, "No space left"), KeyboardInterrupt()])
    def test_failed_result_does_not_read_as_complete(self, make, n_written, length, error):
        store = make()
        store.open(Group({"y": rows(1, 2, length)}))
        for at, piece in row_pieces(values(1, 2, 10))[:n_written]:
            store.write("y", piece, at)
        assert isinstance(store.fail(error), type(error))
        self.check_incomplete(store)

    def test_stores_are_independent(self, make):
        one, other = make(), make()
        for store in (one, other):
            store.open(Group({"y": rows(1, 2, 8)}))
        for at, piece in row_pieces(values(1, 2, 8)):
            one.write("y", piece, at)
            other.write("y", -piece, at)
        one.finish(8)
        other.fail(ValueError())
        same(one.read("y"), values(1, 2, 8))
        self.check_incomplete(other)


class TestInMemoryStore(StoreTests):
    @pytest.fixture
    def make(self):
        return InMemoryStore

    def check_incomplete(self, store):
        with pytest.raises(KeyError):
            store.read("y")

    def test_pieces_of_any_length(self, make):
        assert not make().whole_chunks
        whole = values(2, 3, 11)
        for length in (11, None):
            pieces = [("y", 0, flat(whole)[:, :1]), ("y", 6, flat(whole)[:, 6:]), ("y", 1, flat(whole)[:, 1:6])]
            same(self.filled(make(), {"y": rows(2, 3, length)}, pieces, 11).read("y"), whole)


class TestZarrStore(StoreTests):
    @pytest.fixture
    def make(self, tmp_path):
        made = iter(range(1000))

        def make() -> ZarrStore:
            directory = tmp_path / str(next(made))
            directory.mkdir()
            return ZarrStore(directory, "posterior_predictive", root_attrs={})

        return make

    def check_incomplete(self, store):
        if store.location.path.exists():
            with pytest.raises(IncompleteResultError, match="did not finish"):
                check_result(store.location.path)

    def test_pieces_must_be_whole_chunks(self, make):
        assert make().whole_chunks


def test_full_disk_raises_before_draws_are_written():
    """Writing to a memory map on a full disk would kill the process."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with TemporaryFileStore() as store, pytest.raises(OSError, match="File too large"):
            store.open(
                Group({"y": Variable(("chain", "draw", "row"), (1, 1000, 1000), np.dtype("f4"), (1, 1, 1000), 1)})
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
