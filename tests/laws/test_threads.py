"""Threads: calls at the same time give the bits of one thread, and NumPyro's handler stack is restored."""

import threading

import jax
import numpy as np
import numpyro
import pytest
from numpyro.primitives import _PYRO_STACK

from aimz.primitives import validate_model
from campaigns.threads import DRAWS, METHODS, N_THREADS, Call, by_svi, data, faulty, new_kernel, run_round

KEY = jax.random.key(7)


def predict(kernel, n=5):
    X, _ = data(n)
    return by_svi(kernel).set_posterior_sample(DRAWS).predict_on_batch(X, rng_key=KEY, return_datatree=False)["y"]


@pytest.mark.filterwarnings("ignore:The draws are not from the posterior yet")
def test_threads_give_the_bits_of_one_thread():
    """Threads trace new and known shapes of one model for all and of one for each, and one of them fits."""
    methods = ["predict_on_batch"] * (N_THREADS - 3) + ["log_likelihood", "faulty kernel", "train_on_batch"]
    calls = [
        [Call(method, 5 + i % 3, shares_model=True), Call("predict_on_batch", 6, shares_model=i % 2 == 0)]
        for i, method in enumerate(methods)
    ]
    outcome = run_round(calls)
    assert outcome.lost == ()
    assert outcome.tried == 2 * N_THREADS


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("shares_model", [True, False])
def test_every_method_gives_the_bits_of_one_thread(shares_model):
    names = sorted(METHODS)
    calls = [
        [Call(names[(i + step) % len(names)], 6 + step, shares_model) for step in range(0, len(names), 4)]
        for i in range(N_THREADS)
    ]
    assert run_round(calls).lost == ()


def test_handlers_of_the_caller_do_not_act_on_a_call_and_are_kept():
    kernel = new_kernel()
    expected = predict(new_kernel())
    with numpyro.handlers.substitute(data={"a": 100.0}):
        np.testing.assert_array_equal(predict(kernel), expected)
        assert validate_model(kernel, *data(5)).is_valid
        assert len(_PYRO_STACK) == 1
    assert not _PYRO_STACK


def test_handler_left_by_a_kernel_is_removed():
    with pytest.raises(ArithmeticError, match="by the kernel"):
        predict(faulty)
    assert not _PYRO_STACK
    np.testing.assert_array_equal(predict(new_kernel()), predict(new_kernel()))


def test_call_within_a_kernel_has_its_own_handlers():
    """A kernel that is traced may call another model: its sites are not sites of the kernel."""
    inner = new_kernel()

    def outer(X, y=None):
        predict(inner)
        new_kernel()(X, y)

    np.testing.assert_array_equal(predict(outer), predict(inner))


def test_interrupt_in_one_thread_releases_the_others():
    """Threads that wait for a trace continue after an exception that is not an `Exception`."""
    entered, leave, found = threading.Event(), threading.Event(), []

    def interrupted(X, y=None):
        entered.set()
        leave.wait(10)
        raise KeyboardInterrupt

    def work():
        with pytest.raises(KeyboardInterrupt):
            predict(interrupted)

    first = threading.Thread(target=work)
    second = threading.Thread(target=lambda: found.append(predict(new_kernel())))
    first.start()
    assert entered.wait(10)
    second.start()
    leave.set()
    first.join(60)
    second.join(60)
    np.testing.assert_array_equal(found[0], predict(new_kernel()))
