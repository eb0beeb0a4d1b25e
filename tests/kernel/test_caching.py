"""The LRU cache: its bound, several threads, and the traces of JAX."""

import threading

import jax
import jax.numpy as jnp
from jax._src.interpreters import partial_eval

from aimz.kernel import LRUCache


def test_least_recently_used_entry_is_evicted():
    cache = LRUCache[int](2)
    for key in "aba":
        cache.get(key, lambda: 1)
    cache.get("c", lambda: 1)
    assert [key in cache for key in "abc"] == [True, False, True]


def test_threads_share_the_first_entry():
    cache, barrier, found = LRUCache[object](), threading.Barrier(8), []

    def make():
        barrier.wait()
        return object()

    threads = [threading.Thread(target=lambda: found.append(cache.get("key", make))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1


def test_traces_of_evicted_programs_are_cleared(compilations):
    """JAX keeps the trace of each function for each shape; programs that are compiled remain compiled."""
    jax.clear_caches()  # of traces of other tests
    cache, traced = LRUCache[object](1), []

    @jax.jit
    def program(x):
        traced.append(x.shape)
        return jnp.where(x > 0, x, 0)

    program(jnp.ones(3))
    traced.clear()
    compilations.clear()
    sizes = []
    for n in range(200):
        cache.get(n, lambda n=n: jax.eval_shape(jnp.nanmean, jax.ShapeDtypeStruct((n + 1,), "float32")))
        sizes.append(partial_eval.trace_to_jaxpr.cache_info().currsize)
    assert max(sizes) < 64 * 20
    assert min(sizes[-64:]) < max(sizes) / 4
    program(jnp.ones(3))
    assert not traced
    assert not compilations
