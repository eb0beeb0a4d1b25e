"""Read a kernel's structure from abstract runs: no arithmetic on data, whatever their size."""

__all__ = [
    "Abstract",
    "AbstractHandler",
    "TracedSite",
    "downstream_of_static",
    "n_rows",
    "trace_kernel",
    "traced_shapes",
]

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax, random
from numpyro.infer import init_to_uniform
from numpyro.ops.provenance import eval_provenance
from numpyro.ops.pytree import PytreeTrace

from aimz.kernel.handlers import Message, PredictiveHandler
from aimz.types import Kernel

type Abstract = Mapping[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class TracedSite:
    """One site of one abstract run."""

    name: str
    kind: str
    """NumPyro's type of the message: sample, deterministic, param, mutable."""
    value: Any
    """The value as a tree of ``ShapeDtypeStruct``."""
    is_observed: bool
    is_factor: bool
    distribution: str | None
    event_dim: int
    core_event_dim: int
    """The same with ``Independent`` taken off: axes along which values are dependent."""
    frames: tuple[tuple[str, int], ...]
    """Enclosing plates: name and (negative) batch dimension."""
    drawable: bool
    """Whether the distribution can be sampled at all; an improper one cannot."""
    scan: int
    """Number of the control flow the site was made in; 0 outside."""
    density_shape: tuple[int, ...] = ()
    """At an observed site, the shape that its data and its distribution make together, event axes included."""
    is_discrete: bool = False
    """Whether the values are separate ones."""
    n_values: int | None = None
    """Number of values 0, 1, ... of a discrete site that can be summed over."""
    parents: frozenset[str] = frozenset()
    """Sites and arguments the site's distribution, or a deterministic site's value, depends on."""
    data: frozenset[str] = frozenset()
    """Sites and arguments the site's value depends on; for an observed site, where its data come from."""


class AbstractHandler(PredictiveHandler):
    """A run in which sites without a sampler get some value of their support."""

    undrawable: frozenset[str] = frozenset()

    def draw(self, msg: Message) -> None:
        """Draw, or take some value of the support where there is no sampler."""
        try:
            msg["value"] = msg["fn"](**msg["kwargs"])
        except NotImplementedError:
            msg["value"] = init_to_uniform(msg)
            self.undrawable |= {msg["name"]}


def _base(fn: Any) -> Any:
    """Strip the wrappers that do not change what kind of distribution this is."""
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn


def _site_inputs(message: Message) -> list[Any]:
    """Return what the site is computed from: its value if deterministic, else its distribution's numbers."""
    if message["type"] != "sample":
        return jax.tree.leaves(message["value"])
    # The log density too: a distribution written by hand may hide parameters from JAX's pytrees.  It is taken
    # at a constant, since data at an observed site say nothing about what its distribution depends on.
    leaves = [leaf for leaf in jax.tree.leaves(message["fn"]) if hasattr(leaf, "dtype")]
    with suppress(NotImplementedError):
        leaves.append(message["fn"].log_prob(jnp.zeros_like(message["value"])))
    return leaves


class ProvenanceHandler(AbstractHandler):
    """A run in which the value of each site also depends on an input of the site's own name.

    Tracking which inputs reach which site then gives the graph of the kernel, arguments included;
    ``numpyro.infer.inspect.get_dependencies`` knows neither arguments nor deterministic sites.
    """

    def __init__(self, *args: Any, marks: Mapping[str, jax.Array], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.inputs: dict[str, dict[str, list[Any]]] = {}
        self._marks = marks

    def postprocess_message(self, msg: Message) -> None:
        super().postprocess_message(msg)
        name = msg.get("name")
        if msg["type"] == "control_flow":
            self._mark_control_flow(msg)
        elif name is not None and msg["type"] in ("sample", "deterministic"):
            self.inputs[name] = {"parents": _site_inputs(msg), "data": jax.tree.leaves(msg["value"])}
            # Data at an observed site keep their source; every other value becomes a source of its own.
            keep = msg.get("is_observed", False)
            value = jax.tree.map(jnp.asarray if keep else jnp.zeros_like, msg["value"])
            msg["value"] = self._marked(value, [name])
        elif name is not None and msg["type"] == "param":
            msg["value"] = self._marked(msg["value"], [name])

    def _mark_control_flow(self, msg: Message) -> None:
        """Let what comes out of a `scan` or `cond` depend on each of the sites inside it."""

        def is_trace(leaf: object) -> bool:
            return isinstance(leaf, PytreeTrace)

        leaves, tree = jax.tree.flatten(msg["value"], is_leaf=is_trace)
        inside = [name for leaf in leaves if is_trace(leaf) for name in leaf.trace]
        marked = [leaf if is_trace(leaf) else self._marked(leaf, inside) for leaf in leaves]
        msg["value"] = jax.tree.unflatten(tree, marked)

    def _marked(self, value: Any, names: Iterable[str]) -> Any:
        marks = [self._marks[name] for name in names if name in self._marks]
        return lax.optimization_barrier((value, marks))[0]


def n_rows(arrays: Mapping[str, Any], param_input: str) -> int:
    """Return the number of rows of the input; 0 if there is none, or it has no rows."""
    shape = arrays[param_input].shape if param_input in arrays else ()
    return int(shape[0]) if shape else 0


def traced_shapes(
    kernel: Kernel,
    arrays: Abstract,
    static: Mapping[str, object],
    param_input: str,
    row_plates: frozenset[str] | None,
) -> tuple[dict[str, Any], frozenset[str]]:
    """Return site name to the tree of ``ShapeDtypeStruct`` of its value, and the plates as long as the rows."""
    found: set[str] = set()

    def run(abstract: Abstract) -> dict[str, Any]:
        execution = AbstractHandler(kernel, random.key(0), n_obs=n_rows(arrays, param_input), row_plates=row_plates)
        sites = execution.run({**static, **abstract})
        found.update(execution.long_as_rows)
        return {name: message["value"] for name, message in sites.items()}

    return dict(jax.eval_shape(run, dict(arrays))), frozenset(found)


def trace_kernel(
    kernel: Kernel,
    arrays: Abstract,
    static: Mapping[str, object],
    param_input: str,
    row_plates: frozenset[str],
    values: Mapping[str, Any],
) -> tuple[TracedSite, ...]:
    """Run ``kernel`` abstractly and return its sites in the order in which they are made; ``values`` are its shapes."""
    marks = {f"site {name}": jax.ShapeDtypeStruct((), "float32") for name in values}
    sites: list[TracedSite] = []

    def run(**inputs: Any) -> dict[str, dict[str, list[Any]]]:
        execution = ProvenanceHandler(
            kernel,
            random.key(0),
            n_obs=n_rows(arrays, param_input),
            row_plates=row_plates,
            marks={name: inputs[f"site {name}"] for name in values},
        )
        messages = execution.run({**static, **{name: inputs[name] for name in arrays}})
        sites.extend(
            _read(message, values[name], drawable=name not in execution.undrawable)
            for name, message in messages.items()
        )
        return execution.inputs

    provenance = eval_provenance(run, **arrays, **marks)
    none = {"parents": frozenset[str](), "data": frozenset[str]()}
    found = {site.name: _sources(provenance.get(site.name, {})) or none for site in sites}
    return tuple(replace(s, parents=found[s.name]["parents"], data=found[s.name]["data"]) for s in sites)


def _sources(provenance: Mapping[str, list[frozenset[str]]]) -> dict[str, frozenset[str]]:
    """Return the names of the sites and arguments that reach a site, by the way they reach it."""
    return {
        kind: frozenset(source.removeprefix("site ") for leaf in leaves for source in leaf)
        for kind, leaves in provenance.items()
    }


def _read(message: Message, value: Any, *, drawable: bool) -> TracedSite:
    """Keep of a message what outlives the trace it was made in."""
    fn = message["fn"] if message["type"] == "sample" else None
    base = _base(fn)
    is_discrete = bool(getattr(getattr(fn, "support", None), "is_discrete", False))
    return TracedSite(
        name=message["name"],
        kind=message["type"],
        value=value,
        is_observed=bool(message.get("is_observed", False)),
        is_factor=isinstance(base, dist.Unit),
        distribution=None if fn is None else type(base).__name__,
        event_dim=0 if fn is None else int(fn.event_dim),
        core_event_dim=0 if base is None else int(base.event_dim),
        frames=tuple((frame.name, frame.dim) for frame in message.get("cond_indep_stack", ())),
        drawable=drawable,
        scan=int(message.get("_scan", 0)),
        density_shape=_density_shape(fn, message) if message.get("is_observed", False) else (),
        is_discrete=is_discrete,
        n_values=_n_values(fn) if is_discrete else None,
    )


def _n_values(fn: Any) -> int | None:
    """Return how many values NumPyro can sum over, or None.

    It takes them to be 0, 1, ... whatever the support is, and those of a vector to be the same throughout.
    """
    if not fn.has_enumerate_support or fn.event_dim:
        return None
    try:
        with jax.ensure_compile_time_eval():
            values = np.asarray(fn.enumerate_support(expand=False)).ravel()
    except (NotImplementedError, jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        return None
    return len(values) if np.array_equal(values, np.arange(len(values))) else None


def _density_shape(fn: Any, message: Message) -> tuple[int, ...]:
    shape = jnp.shape(message["value"])
    try:
        return tuple(jnp.broadcast_shapes(shape, fn.batch_shape + fn.event_shape))
    except ValueError:  # what does not broadcast, the density itself refuses
        return shape


def downstream_of_static(
    kernel: Kernel,
    arrays: Abstract,
    static: Mapping[str, object],
    param_input: str,
    row_plates: frozenset[str],
    name: str,
) -> frozenset[str]:
    """Return the sites that depend directly on the argument ``name``, a plain number.

    Raises
    ------
    Exception
        Whatever the kernel raises when that number is not known in advance.
    """
    number = jax.ShapeDtypeStruct((), jnp.result_type(static[name]))
    rest = {key: value for key, value in static.items() if key != name}
    given = {**arrays, name: number}
    values, _ = traced_shapes(kernel, given, rest, param_input, row_plates)
    sites = trace_kernel(kernel, given, rest, param_input, row_plates, values)
    return frozenset(site.name for site in sites if name in site.parents)
