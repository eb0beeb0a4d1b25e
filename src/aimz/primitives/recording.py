"""One abstract run of a function, and all that its primitives said, up to where it raised."""

__all__ = ["Recorded", "record"]

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import random
from numpyro.primitives import Messenger

from aimz.kernel import AbstractHandler, Message
from aimz.primitives.result import PlateInfo, SiteInfo
from aimz.types import Kernel


@dataclass
class Recorded:
    """What one run said."""

    sites: dict[str, SiteInfo] = field(default_factory=dict)
    plates: list[PlateInfo] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    """Names of two sites."""
    undrawable: frozenset[str] = frozenset()
    """Sites whose distribution has no sampler."""
    returned: Any = None
    raised: Exception | None = None
    warned: list[str] = field(default_factory=list)


class _Tolerant(AbstractHandler):
    """A run in which a second site of a name is taken note of rather than refused."""

    def __init__(self, *args: Any, twice: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._twice = twice

    def postprocess_message(self, msg: Message) -> None:
        if msg["type"] in ("sample", "deterministic") and msg.get("name") in self.sites:
            self._twice.append(msg["name"])
            return
        super().postprocess_message(msg)


class _Plates(Messenger):  # type: ignore[misc,unused-ignore]
    """Notes plates as they are written."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.found: dict[str, tuple[int, int]] = {}

    def process_message(self, msg: Message) -> None:
        if msg["type"] == "plate":
            size, subsample_size = msg["args"]
            self.found.setdefault(msg["name"], (int(size), int(size if subsample_size is None else subsample_size)))


def record(
    kernel: Kernel, arrays: Mapping[str, jax.ShapeDtypeStruct], n_obs: int, row_plates: frozenset[str] | None = None
) -> Recorded:
    """Run ``kernel`` abstractly; what it raises is recorded, not raised, and what it warns of as well."""
    recorded = Recorded()
    plates = _Plates(kernel)

    def run(given: Mapping[str, Any]) -> Any:
        execution = _Tolerant(plates, random.key(0), n_obs=n_obs, row_plates=row_plates, twice=recorded.twice)
        try:
            returned = execution(**given)
        finally:
            dims = {frame.name: frame.dim for m in execution.sites.values() for frame in m.get("cond_indep_stack", ())}
            recorded.sites = {str(name): _site(message) for name, message in execution.sites.items()}
            recorded.plates = [
                PlateInfo(name, size, dims.get(name), subsample_size)
                for name, (size, subsample_size) in plates.found.items()
            ]
            recorded.undrawable = execution.undrawable
        recorded.returned = _abstract(returned)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            jax.eval_shape(run, dict(arrays))
        except Exception as error:  # noqa: BLE001, RUF100 (a function of the user's may raise anything)
            recorded.raised = error
    recorded.warned = list(dict.fromkeys(str(warning.message) for warning in caught))
    return recorded


def _site(message: Message) -> SiteInfo:
    """Keep of a message what outlives the trace it was made in."""
    fn = message["fn"] if message["type"] == "sample" else None
    base = fn
    while isinstance(base, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        base = base.base_dist
    value = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) if _is_number(leaf) else leaf,
        message["value"],
    )
    leaves = jax.tree.leaves(value)
    single = len(leaves) == 1 and hasattr(leaves[0], "shape")
    # NumPyro has no site type of its own for a factor: it is an observed site of the unit distribution.
    kind = "factor" if isinstance(base, dist.Unit) and message.get("is_observed") else message["type"]
    sample_shape = message.get("kwargs", {}).get("sample_shape", ())
    return SiteInfo(
        name=str(message["name"]),
        type=kind,
        fn=_abstract(fn),
        args=_abstract(tuple(message.get("args", ()))),
        kwargs=_abstract(dict(message.get("kwargs", {}))),
        value=value,
        is_observed=bool(message.get("is_observed", False)),
        infer=_abstract(dict(message.get("infer") or {})),
        scale=_abstract(message.get("scale")),
        role="latent" if kind == "sample" else kind,
        shape=_shape(kind, tuple(leaves[0].shape)) if single else (),
        dtype=str(leaves[0].dtype) if single else "",
        distribution=None if base is None or kind == "factor" else type(base).__name__,
        plates=tuple(str(frame.name) for frame in message.get("cond_indep_stack", ())),
        n_arrays=len(leaves),
        is_discrete=_is_discrete(fn),
        can_enumerate=bool(getattr(fn, "has_enumerate_support", False)),
        fn_shape=None if fn is None else tuple(fn.shape(tuple(sample_shape))),
        in_control_flow=bool(message.get("_scan", 0)),
    )


def _shape(kind: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape to show: the value of a factor is empty, and NumPyro gives it an axis of length 0."""
    return shape[:-1] if kind == "factor" else shape


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, int | float | complex) or (hasattr(leaf, "shape") and hasattr(leaf, "dtype"))


def _is_discrete(fn: Any) -> bool:
    """Whether a distribution has discrete support; one that does not say has not."""
    try:
        return bool(fn.support.is_discrete)
    except (AttributeError, NotImplementedError):
        return False


def _abstract(tree: Any) -> Any:
    """Return a tree with shapes and types in place of arrays."""

    def of(leaf: Any) -> Any:
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
            return jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype)
        return leaf

    return jax.tree.map(of, tree)
