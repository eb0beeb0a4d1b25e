"""Callable interventions on arguments, with errors for results that cannot replace the argument."""

__all__ = ["checked_callable"]

from collections.abc import Callable
from typing import Any

_NOTE = "This was raised by the function in `intervention[{!r}]`, called with the argument."


def checked_callable(function: Callable[[Any], Any], name: str) -> Callable[[Any], Any]:
    """Return a function that raises an explanatory error where ``function`` fails or returns None."""

    def call(array: Any) -> Any:
        try:
            found = function(array)
        except AttributeError as error:
            if "numpy.ndarray" not in str(error):
                error.add_note(_NOTE.format(name))
                raise
            msg = (
                f"`intervention[{name!r}]` receives the argument as a NumPy array, as a call on rows from files does; "
                f"got a function that needs a JAX array ({error}). Use NumPy's functions, such as `numpy.where`, or "
                "convert the argument with `jax.numpy.asarray` first."
            )
            raise TypeError(msg) from error
        except Exception as error:
            error.add_note(_NOTE.format(name))
            raise
        if found is None:
            msg = (
                f"`intervention[{name!r}]` must return an array; its function returned None. Return the changed array, "
                "not only change it in place."
            )
            raise TypeError(msg)
        return found

    return call
