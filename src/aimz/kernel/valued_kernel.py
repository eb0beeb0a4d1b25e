"""A kernel with one more site: the value of its output under an action."""

__all__ = ["VALUE", "Capture", "valued_kernel"]

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpyro
from numpyro.primitives import Messenger

from aimz.kernel.expectation import expected_value
from aimz.kernel.signature import kernel_name
from aimz.types import Kernel

VALUE = "action_value"
"""Name of the site."""


class Capture(Messenger):
    """Handler that records the messages of the sites of a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: dict[str, dict[str, Any]] = {}

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        """Record a message."""
        if msg.get("name") is not None and msg["type"] in ("sample", "deterministic"):
            self.messages[msg["name"]] = msg


def valued_kernel(
    kernel: Kernel,
    value: Callable[..., Any],
    *,
    output: str,
    argument: str,
    columns: Mapping[str, int],
    extra: Sequence[str],
    names: Sequence[str],
    expected: bool,
) -> Kernel:
    """Return the kernel with the deterministic site ``value(output, **levers)``, by row.

    Parameters
    ----------
    kernel, value
        The kernel, and a function of its output and of the levers ``names``.
    output, argument
        Names of the output and of the input.
    columns
        Column of the input of each lever that is one.
    extra
        Levers that the kernel does not have; they become its arguments.
    names
        Names of the levers that ``value`` takes.
    expected
        Whether to compute the value from the expected output instead of its drawn values.
    """

    def run(**arguments: Any) -> None:
        actions = {name: arguments.pop(name) for name in extra}
        seen = Capture()
        with seen:
            kernel(**arguments)
        message = seen.messages[output]
        found = message["value"]
        mean = expected_value(message["fn"]) if expected and message["type"] == "sample" else None
        if mean is not None:
            found = jnp.broadcast_to(mean, jnp.shape(found))
        given = {}
        for name in names:
            if name in actions:
                given[name] = actions[name]
            elif name in seen.messages:
                given[name] = seen.messages[name]["value"]
            elif name in columns:
                given[name] = arguments[argument][:, columns[name]]
            else:
                given[name] = arguments[name]
        numpyro.deterministic(VALUE, value(found, **given))

    parameters = dict(inspect.signature(kernel).parameters)
    for name in extra:
        parameters[name] = inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY)
    ordered = sorted(parameters.values(), key=lambda one: one.kind)
    run.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    run.__name__ = kernel_name(kernel)
    return run
