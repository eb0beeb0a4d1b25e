"""The NumPyro handler that recomputes sites with the noise that they had in another run."""

__all__ = ["CounterfactualHandler"]

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aimz.kernel.abduction import recompute
from aimz.kernel.handlers import Message, PredictiveHandler

if TYPE_CHECKING:
    import jax


class CounterfactualHandler(PredictiveHandler):
    """Run a kernel in which some sites have the noise of the factual run instead of noise of their own.

    Parameters
    ----------
    *args, **kwargs
        As for :class:`PredictiveHandler`.
    factual
        Messages of the sites in the factual run.
    abducted
        Names of the sites that are recomputed, and whether the parameters of their distributions other than location
        and scale are known to be equal in both runs.
    """

    def __init__(self, *args: Any, factual: Mapping[str, Message], abducted: Mapping[str, bool], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._factual = factual
        self._abducted = abducted
        self.possible: dict[str, jax.Array] = {}
        """Whether the noise of each value could be inferred, by recomputed site."""

    def draw(self, msg: Message) -> None:
        """Compute a site again from its factual value, or draw it."""
        name = msg["name"]
        if name not in self._abducted:
            super().draw(msg)
            return
        before, key = self._factual[name], msg["kwargs"]["rng_key"]
        found = recompute(before["fn"], before["value"], msg["fn"], key, same_shape=self._abducted[name])
        msg["value"], self.possible[name] = found
