"""An abstract run of a function, with a record of its sites, plates and warnings up to an exception."""

__all__ = ["Recording", "record", "visible_shape"]

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import random
from numpyro.primitives import Messenger

from aimz.kernel import AbstractHandler, Message, is_discrete, isolated, strip_wrappers
from aimz.primitives.result import PlateInfo, SiteInfo
from aimz.types import Kernel, Shape


@dataclass
class Recording:
    """Sites, plates, warnings and the exception of one run."""

    sites: dict[str, SiteInfo] = field(default_factory=dict)
    plates: list[PlateInfo] = field(default_factory=list)
    duplicates: list[str] = field(default_factory=list)
    """Names that several sites have."""
    returned: Any = None
    raised: Exception | None = None
    warned: list[str] = field(default_factory=list)


class _DuplicateRecorder(AbstractHandler):
    """Records a second site of a name instead of raising."""

    def __init__(self, *args: Any, duplicates: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._duplicates = duplicates

    def postprocess_message(self, msg: Message) -> None:
        if msg["type"] in ("sample", "deterministic") and msg.get("name") in self.sites:
            self._duplicates.append(msg["name"])
            return
        super().postprocess_message(msg)


class _PlateRecorder(Messenger):  # type: ignore[misc,unused-ignore]
    """Records the sizes of plates as the kernel writes them."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.found: dict[str, tuple[int, int]] = {}

    def process_message(self, msg: Message) -> None:
        if msg["type"] == "plate":
            size, subsample_size = msg["args"]
            self.found.setdefault(msg["name"], (int(size), int(size if subsample_size is None else subsample_size)))


@isolated  # warnings are recorded for the whole process
def record(kernel: Kernel, arrays: Mapping[str, jax.ShapeDtypeStruct], n_obs: int) -> Recording:
    """Run ``kernel`` abstractly, and record its exception and its warnings instead of raising them."""
    recording = Recording()
    plates = _PlateRecorder(kernel)

    def run(given: Mapping[str, Any]) -> Any:
        handler = _DuplicateRecorder(plates, random.key(0), n_obs=n_obs, duplicates=recording.duplicates)
        try:
            returned = handler(**given)
        finally:
            dims = {frame.name: frame.dim for m in handler.sites.values() for frame in m.get("cond_indep_stack", ())}
            recording.sites = {str(name): _site(message) for name, message in handler.sites.items()}
            recording.plates = [
                PlateInfo(name, size, dims.get(name), subsample_size)
                for name, (size, subsample_size) in plates.found.items()
            ]
        recording.returned = _abstract(returned)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            jax.eval_shape(run, dict(arrays))
        except Exception as error:  # noqa: BLE001, RUF100 (the user's function may raise anything)
            recording.raised = error
    recording.warned = list(dict.fromkeys(str(warning.message) for warning in caught))
    return recording


def _site(message: Message) -> SiteInfo:
    """Return a site from its message, with shapes instead of arrays."""
    fn = message["fn"] if message["type"] == "sample" else None
    base = strip_wrappers(fn)
    value = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) if _is_number(leaf) else leaf,
        message["value"],
    )
    leaves = jax.tree.leaves(value)
    single = len(leaves) == 1 and hasattr(leaves[0], "shape")
    # In NumPyro a factor is an observed site of the unit distribution.
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
        shape=visible_shape(kind, leaves[0].shape) if single else (),
        dtype=str(leaves[0].dtype) if single else "",
        distribution=None if base is None or kind == "factor" else type(base).__name__,
        plates=tuple(str(frame.name) for frame in message.get("cond_indep_stack", ())),
        n_arrays=len(leaves),
        is_discrete=is_discrete(fn),
        can_enumerate=bool(getattr(fn, "has_enumerate_support", False)),
        fn_shape=None if fn is None else tuple(fn.shape(tuple(sample_shape))),
        in_control_flow=bool(message.get("_scan", 0)),
    )


def visible_shape(kind: str, shape: Shape) -> Shape:
    """Return the shape to report: NumPyro's value of a factor is empty, with a last axis of length 0."""
    return tuple(shape[:-1] if kind == "factor" else shape)


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, int | float | complex) or (hasattr(leaf, "shape") and hasattr(leaf, "dtype"))


def _abstract(tree: Any) -> Any:
    """Return a tree with shapes and types instead of arrays."""

    def of(leaf: Any) -> Any:
        if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
            return jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype)
        return leaf

    return jax.tree.map(of, tree)
