"""One call, from what was asked to what a stream is to do."""

__all__ = ["Asked", "Order"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import jax

from aimz.data import BatchReader
from aimz.engine.inputs import Given
from aimz.engine.kernel_engine import PreparedCall
from aimz.engine.options import StreamingOptions

if TYPE_CHECKING:
    import xarray as xr

    from aimz.store import TemporaryDirectory


@dataclass(frozen=True)
class Asked:
    """A call that was checked and prepared; nothing has been computed, and no key was used."""

    method: str
    group: str
    """Name of the group in the tree."""
    given: Given
    prepared: PreparedCall
    prepare: Callable[..., PreparedCall]
    """Prepares the same with other arrays."""
    streaming: StreamingOptions | None = None
    """None for one pass in memory."""
    scored: str | None = None
    """The site that is scored, where it is not drawn."""


@dataclass(frozen=True)
class Order:
    """What was asked, with what it takes to compute it as a stream."""

    asked: Asked
    key: jax.Array | None
    """None where nothing is drawn."""
    key_text: str | None
    beside: "Callable[[], Mapping[str, xr.Dataset]]"
    """Makes the groups that stand beside it."""
    home: "Callable[[], TemporaryDirectory]"
    """Makes the temporary directory, if there is none; asked for only where no other was named."""
    against: Asked | None = None
    """The baseline that is subtracted row by row, where there is one."""

    @property
    def prepared(self) -> PreparedCall:
        """The call as the engine sees it."""
        return self.asked.prepared

    @property
    def streaming(self) -> StreamingOptions:
        """How to stream it."""
        assert self.asked.streaming is not None
        return self.asked.streaming

    @property
    def kind(self) -> str:
        """Which program computes it."""
        return "predictive" if self.asked.scored is None else "log_density"

    @property
    def reader(self) -> BatchReader | None:
        """Where the rows come from, if not from arrays."""
        return self.asked.given.reader

    @property
    def n_obs_known(self) -> bool:
        """Whether the number of rows is known before they have ended."""
        return self.asked.given.n_obs_known

    @property
    def names(self) -> dict[str, str]:
        """Return site to its name in the result; scores are those of the output, whatever its site is called."""
        output = self.prepared.spec.param_output
        return {site: output if site == self.asked.scored else site for site in self.prepared.plan.return_sites}

    def with_all_rows(self) -> "Order":
        """Return the same with every row in memory."""
        given = Given(self.asked.given.all_rows())
        return replace(
            self, asked=replace(self.asked, given=given, prepared=self.asked.prepare(given.call, quiet=True))
        )
