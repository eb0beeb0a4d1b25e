"""Run a kernel once: the one place where a kernel of the user's is called to predict.

Three things differ from NumPyro's ``seed`` and ``substitute``, and each keeps a promise:

* The key of a site is made from the site's *name*, not from how many sites were drawn before it.  Two worlds
  (a baseline and an intervention in which other sites are drawn anew) therefore share their noise site by
  site, and the difference between them is the effect.
* A subsampled plate yields the rows at hand, in order: nothing is permuted when predicting.
* Rows may come in blocks.  What has a row axis is then drawn with the key of the block; what has none keeps the
  key of the draw, so that it is the same in every block.
* What the kernel closes over stays untouched: the dictionary of a ``mutable`` site is copied.
"""

__all__ = ["Message", "PredictiveHandler"]

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax import random
from numpyro.primitives import Messenger

from aimz.errors import KernelValidationError
from aimz.types import Kernel

type Message = dict[str, Any]


@lru_cache(maxsize=4096)
def _name_words(name: str) -> tuple[int, int]:
    """Return 64 bits that stand for a name, the same in every process."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4]), int.from_bytes(digest[4:])


def site_key(key: jax.Array, name: str) -> jax.Array:
    """Return the key of the site ``name`` in a run with key ``key``."""
    first, second = _name_words(name)
    return random.fold_in(random.fold_in(key, first), second)


class PredictiveHandler(Messenger):
    """One run of a kernel, with every site's message kept in ``sites``.

    Parameters
    ----------
    kernel
        The NumPyro model to run.
    rng_key
        Key of this run; each site folds its own name into it.
    n_obs
        Number of rows of the input.
    values
        Site name to the value it takes: posterior draws, fitted parameters, interventions.
    transforms
        Site name to a function of the value the site would have had (a callable intervention).
    unobserve
        Names of observed sites that are drawn although the kernel has data for them.
    row_plates
        Subsampled plates whose subsample is the rows at hand; None to go by its length, which is how they are found.
    block_key
        Key of what has a row axis, where the rows are one block of many.
    row_sites
        Names of the sites that have one.
    rows
        Numbers of the rows at hand among all rows; counted from 0 if None.
    """

    def __init__(
        self,
        kernel: Kernel,
        rng_key: jax.Array,
        *,
        n_obs: int,
        values: Mapping[str, Any] | None = None,
        transforms: Mapping[str, Callable[[Any], Any]] | None = None,
        unobserve: frozenset[str] = frozenset(),
        row_plates: frozenset[str] | None = None,
        block_key: jax.Array | None = None,
        row_sites: frozenset[str] = frozenset(),
        rows: jax.Array | None = None,
    ) -> None:
        super().__init__(kernel)
        self.sites: dict[str, Message] = {}
        self._rng_key = rng_key
        self._n_obs = n_obs
        self._values = dict(values or {})
        self._transforms = dict(transforms or {})
        self._unobserve = unobserve
        self._row_plates = row_plates
        self._block_key = rng_key if block_key is None else block_key
        self._row_sites = row_sites
        self._rows = rows
        self.anonymous_noise = False
        """Whether the kernel drew with a key of its own (``numpyro.prng_key``), which belongs to no site."""
        self.long_as_rows: set[str] = set()
        """Subsampled plates whose subsample is as long as the rows."""
        self._n_unnamed = 0
        self._scan = 0

    def process_message(self, msg: Message) -> None:
        """Give the site its value, or the key to draw it with."""
        kind, name = msg["type"], msg.get("name")
        if msg.get("_control_flow_done", False):
            msg["_scan"] = self._scan
            return
        if kind == "plate":
            self._whole_plate(msg)
            return
        if kind == "control_flow":
            self._scan += 1
            msg["kwargs"]["substitute_stack"].append(("substitute", self._values))
        elif kind in ("sample", "deterministic", "param", "mutable"):
            if name in self._unobserve:
                msg["value"], msg["is_observed"] = None, False
            if name in self._values:
                msg["value"] = self._values[name]
            if kind == "mutable":
                msg["value"] = jax.tree.map(lambda leaf: leaf, msg["value"])
        if kind in ("sample", "prng_key", "control_flow") and msg["value"] is None:
            self.anonymous_noise |= kind == "prng_key"
            by_row = kind == "control_flow" or name in self._row_sites
            if name is None:
                self._n_unnamed += 1
                name = f"{kind}:{self._n_unnamed}"
            if msg["kwargs"].get("rng_key") is None:
                msg["kwargs"]["rng_key"] = site_key(self._block_key if by_row else self._rng_key, name)
            if kind == "sample":
                self.draw(msg)

    def draw(self, msg: Message) -> None:
        """Leave the draw to NumPyro; a subclass may supply a value where there is no sampler."""

    def postprocess_message(self, msg: Message) -> None:
        """Apply a callable intervention and keep the message."""
        name = msg.get("name")
        if name is None or msg["type"] == "plate":
            return
        if name in self.sites and msg["type"] in ("sample", "deterministic"):
            # A module asks for its parameters twice, so `param` and `mutable` names may recur.
            text = f"Two sites of the kernel are named `{name}`. Give each site a name of its own."
            raise KernelValidationError(text)
        if name in self._transforms:
            msg["value"] = self._transforms[name](msg["value"])
        self.sites[name] = dict(msg)

    def _whole_plate(self, msg: Message) -> None:
        """Make a subsampled plate yield every row at hand, in order."""
        size, subsample_size = msg["args"]
        if msg["value"] is not None:
            return
        if subsample_size == self._n_obs:
            self.long_as_rows.add(msg["name"])
        if msg["name"] in (self.long_as_rows if self._row_plates is None else self._row_plates):
            # The batch is the subsample; `size` is that of the whole data set.
            msg["value"] = jnp.arange(subsample_size) if self._rows is None else self._rows
        else:
            msg["args"] = (size, size)
            msg["value"] = jnp.arange(size)

    def run(self, arguments: Mapping[str, Any]) -> dict[str, Message]:
        """Call the kernel with ``arguments`` and return the messages of its sites."""
        self(**arguments)
        return self.sites
