"""The NumPyro handler that runs a kernel for prediction.

It differs from NumPyro's ``seed`` and ``substitute`` in four ways:

* The key of a site is derived from the site's *name*, not from the number of sites drawn before it.  A baseline and an
  intervention, in which other sites are resampled, therefore share their noise site by site, and their difference is
  the effect.
* A subsampled plate yields the rows of the input in order: prediction permutes nothing.
* Rows may be computed in blocks.  A site with a row axis is drawn with the key of the block; a site without one with
  the key of the draw, so that it is the same in every block.
* Objects that the kernel closes over stay unchanged: the dictionary of a ``mutable`` site is copied.
"""

__all__ = ["Message", "PredictiveHandler"]

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import random
from numpyro.primitives import Messenger

from aimz.errors import KernelValidationError
from aimz.kernel.continuation import continued
from aimz.kernel.handler_stack import isolated
from aimz.kernel.plate_growth import with_new_entries
from aimz.samplers import draw
from aimz.types import Kernel

type Message = dict[str, Any]


@lru_cache(maxsize=4096)
def _name_words(name: str) -> tuple[int, int]:
    """Return a 64-bit hash of a name that is the same in every process."""
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4]), int.from_bytes(digest[4:])


def site_key(key: jax.Array, name: str) -> jax.Array:
    """Return the key of the site ``name`` in a run with key ``key``."""
    first, second = _name_words(name)
    return random.fold_in(random.fold_in(key, first), second)


class PredictiveHandler(Messenger):
    """Run a kernel once and keep the message of every site in ``sites``.

    Parameters
    ----------
    kernel
        The NumPyro model to run.
    rng_key
        Key of this run; each site folds its own name into it.
    n_obs
        Number of rows of the input.
    values
        Values by site name: posterior draws, fitted parameters, interventions.
    transforms
        Callable interventions by site name: functions of the value that the site would otherwise have.
    unobserve
        Names of observed sites to draw although the kernel has data for them.
    row_plates
        Names of the plates whose subsample is the rows of the input. None selects plates by their length, which is
        how these plates are found.
    block_key
        Key for sites with a row axis, if the rows are one block of several.
    row_sites
        Names of the sites with a row axis.
    rows
        Indices of the rows in the whole data set; counted from 0 if None.
    grown
        Names of the sites in plates with more entries than their value; the others are drawn.
    prefixes
        Axis, by site, along which its value has the first entries only; the later ones are drawn given these.
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
        grown: frozenset[str] = frozenset(),
        prefixes: Mapping[str, int] | None = None,
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
        self._grown = grown
        self._prefixes = dict(prefixes or {})
        self.anonymous_noise = False
        """Whether the kernel drew with ``numpyro.prng_key``, whose noise belongs to no site."""
        self.long_as_rows: set[str] = set()
        """Names of the plates whose subsample is as long as the rows."""
        self._n_unnamed = 0
        self._scan = 0

    @isolated
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the kernel under this handler alone."""
        return super().__call__(*args, **kwargs)

    def process_message(self, msg: Message) -> None:
        """Set the value of a site, or the key to draw it with."""
        kind, name = msg["type"], msg.get("name")
        if msg.get("_control_flow_done", False):
            msg["_scan"] = self._scan
            return
        if kind == "plate":
            self._fill_plate(msg)
            return
        if kind == "control_flow":
            self._scan += 1
            msg["kwargs"]["substitute_stack"].append(("substitute", self._values))
        elif kind in ("sample", "deterministic", "param", "mutable"):
            if name in self._unobserve:
                msg["value"], msg["is_observed"] = None, False
            if name in self._values:
                msg["value"] = self._values[name]
                if name in self._grown:
                    key = site_key(self._rng_key, name)
                    msg["value"] = with_new_entries(name, msg["fn"], msg["value"], key)
                if name in self._prefixes:
                    key = site_key(self._block_key if name in self._row_sites else self._rng_key, name)
                    msg["value"] = continued(name, msg["fn"], msg["value"], self._prefixes[name], key)
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
        """Draw the value of a site; NumPyro calls the function of a site that is no distribution."""
        if isinstance(msg["fn"], dist.Distribution):
            shape = msg["kwargs"].get("sample_shape", ()) + msg["fn"].batch_shape
            msg["value"] = draw(msg["fn"], msg["kwargs"]["rng_key"], shape)

    def postprocess_message(self, msg: Message) -> None:
        """Apply a callable intervention and store the message."""
        name = msg.get("name")
        if name is None or msg["type"] == "plate":
            return
        if name in self.sites and msg["type"] in ("sample", "deterministic"):
            # A module reads its parameters twice, so `param` and `mutable` names may recur.
            text = f"Two sites of the kernel are named `{name}`. Give each site its own name."
            raise KernelValidationError(text)
        if name in self._transforms:
            msg["value"] = self._transforms[name](msg["value"])
        self.sites[name] = dict(msg)

    def _fill_plate(self, msg: Message) -> None:
        """Set the indices of a subsampled plate to every row of the input, in order."""
        size, subsample_size = msg["args"]
        if msg["value"] is not None:
            return
        if subsample_size == self._n_obs:
            self.long_as_rows.add(msg["name"])
        if msg["name"] in (self.long_as_rows if self._row_plates is None else self._row_plates):
            # The batch is the subsample; `size` is the size of the whole data set.
            msg["value"] = jnp.arange(subsample_size) if self._rows is None else self._rows
        else:
            msg["args"] = (size, size)
            msg["value"] = jnp.arange(size)

    def run(self, arguments: Mapping[str, Any]) -> dict[str, Message]:
        """Call the kernel with ``arguments`` and return the messages of its sites."""
        self(**arguments)
        return self.sites
