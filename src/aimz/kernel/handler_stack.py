"""Exclusive use of NumPyro's handler stack, which is global to the process, by one thread at a time."""

__all__ = ["isolated"]

import threading
from collections.abc import Callable
from functools import wraps

from numpyro.primitives import _PYRO_STACK

_LOCK = threading.RLock()


def isolated[**P, R](function: Callable[P, R]) -> Callable[P, R]:
    """Return ``function`` with exclusive use of an empty handler stack, which is restored afterwards.

    Every function that runs a model or a guide must be isolated, from the outermost handler on. Inside a compiled
    program the function runs only while the program is traced, so that the program itself runs outside of the lock.
    A compiled program must not be called by an isolated function: its trace may wait for the lock.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        # A lock in a `with` statement is released even if Ctrl-C interrupts at any point, unlike one in a generator.
        with _LOCK:
            outer = _PYRO_STACK[:]
            try:
                _PYRO_STACK.clear()
                return function(*args, **kwargs)
            finally:
                _PYRO_STACK[:] = outer

    return run
