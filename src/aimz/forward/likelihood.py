"""The log density of the data, pointwise, under each posterior draw."""

__all__ = ["log_density"]

from typing import Any

from aimz.forward.predictive import Pass, Program, per_draw
from aimz.kernel import Message
from aimz.types import Kernel


def log_density(kernel: Kernel, plan: Pass) -> Program:
    """Return a program that scores the return sites of ``plan``, which are observed.

    Never scaled: neither by a subsampled plate nor by ``numpyro.handlers.scale``, as in
    :func:`numpyro.infer.log_likelihood`; masks count.
    """
    return per_draw(kernel, plan, _score)


def _score(message: Message) -> Any:
    # Transformed distributions want their intermediate results back, where there are any.
    extra = (message["intermediates"],) if message["intermediates"] else ()
    return message["fn"].log_prob(message["value"], *extra)
