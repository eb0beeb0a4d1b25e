"""Abstract runs of a kernel: its sites, their shapes, and their dependencies."""

__all__ = [
    "Abstract",
    "AbstractHandler",
    "AbstractKernel",
    "KernelTrace",
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

from aimz.kernel.abduction import abduction_of, shape_parameters
from aimz.kernel.expectation import expected_value
from aimz.kernel.handlers import Message, PredictiveHandler
from aimz.kernel.masks import is_discrete, strip_wrappers
from aimz.kernel.output_support import OutputSupport, find_support, unbounded_multinomial, within_support
from aimz.kernel.signature import KernelSignature
from aimz.kernel.spec import Role, Site
from aimz.types import Kernel

type Abstract = Mapping[str, jax.ShapeDtypeStruct]


class AbstractHandler(PredictiveHandler):
    """Run a kernel in which a site without a sampler takes some value of its support."""

    undrawable: frozenset[str] = frozenset()

    def draw(self, msg: Message) -> None:
        """Draw, or take some value of the support if there is no sampler."""
        try:
            super().draw(msg)
        except NotImplementedError:
            msg["value"] = init_to_uniform(msg)
            self.undrawable |= {msg["name"]}


class ProvenanceHandler(AbstractHandler):
    """Run a kernel in which the value of each site also depends on an input named after the site.

    Tracking which inputs reach which site then gives the graph of the kernel, arguments included;
    ``numpyro.infer.inspect.get_dependencies`` covers neither arguments nor deterministic sites.
    """

    def __init__(self, *args: Any, marks: Mapping[str, jax.Array], output: tuple[str, Any], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.support: OutputSupport | None = None
        """Support of the output's distribution, if its data are observed."""
        self.is_multinomial = False
        """Whether the output is a multinomial that cannot be drawn."""
        self._output, self._data = output
        self.inputs: dict[str, dict[str, list[Any]]] = {}
        self._marks = marks

    def postprocess_message(self, msg: Message) -> None:
        super().postprocess_message(msg)
        name = msg.get("name")
        if msg["type"] == "control_flow":
            self._mark_control_flow(msg)
        elif name is not None and msg["type"] in ("sample", "deterministic"):
            shape = shape_parameters(msg["fn"]) if msg["type"] == "sample" else []
            self.inputs[name] = {
                "parents": _site_inputs(msg),
                "data": jax.tree.leaves(msg["value"]),
                "shape": [leaf for leaf in shape if hasattr(leaf, "dtype")],
            }
            if msg.get("is_observed", False) and name in (self._output, f"{self._output}_observed"):
                self._read_support(msg)
            # Data at an observed site keep their source; every other value becomes a source of its own. So does the
            # output, which has the name of its data, so that other uses of these data are found.
            keep = msg.get("is_observed", False) and name != self._output
            value = jax.tree.map(jnp.asarray if keep else jnp.zeros_like, msg["value"])
            msg["value"] = self._marked(value, [name])
        elif name is not None and msg["type"] == "param":
            msg["value"] = self._marked(msg["value"], [name])

    def _read_support(self, msg: Message) -> None:
        """Record the support of the output's distribution, and the inputs that decide whether data are in it."""
        self.is_multinomial = unbounded_multinomial(msg["fn"])
        self.support = find_support(msg, self._data)
        if self.support is not None:
            self.inputs[msg["name"]]["valid"] = [within_support(msg)]

    def _mark_control_flow(self, msg: Message) -> None:
        """Add to the results of a `scan` or `cond` a dependence on each of the sites inside it."""

        def is_trace(leaf: object) -> bool:
            return isinstance(leaf, PytreeTrace)

        leaves, tree = jax.tree.flatten(msg["value"], is_leaf=is_trace)
        inside = [name for leaf in leaves if is_trace(leaf) for name in leaf.trace]
        marked = [leaf if is_trace(leaf) else self._marked(leaf, inside) for leaf in leaves]
        msg["value"] = jax.tree.unflatten(tree, marked)

    def _marked(self, value: Any, names: Iterable[str]) -> Any:
        marks = [self._marks[name] for name in names if name in self._marks]
        return lax.optimization_barrier((value, marks))[0]


def _site_inputs(message: Message) -> list[Any]:
    """Return the value of a deterministic site, or the parameters of a sample site's distribution."""
    if message["type"] != "sample":
        return jax.tree.leaves(message["value"])
    # The log density is included because a user's distribution may hide parameters from JAX's pytrees. It is taken at
    # a constant, since the data of an observed site do not affect what its distribution depends on.
    leaves = [leaf for leaf in jax.tree.leaves(message["fn"]) if hasattr(leaf, "dtype")]
    with suppress(NotImplementedError):
        leaves.append(message["fn"].log_prob(jnp.zeros_like(message["value"])))
    return leaves


@dataclass(frozen=True)
class KernelTrace:
    """The sites of one abstract run, at one number of rows."""

    sites: tuple[Site, ...]
    """Sites in the order in which the kernel makes them, without row axes."""
    plates: frozenset[str]
    """Names of all plates around sites."""
    density_shapes: Mapping[str, tuple[int, ...]]
    """Shape to which the data and the distribution of each observed site broadcast, event axes included."""
    support: OutputSupport | None = None
    """Support of the output's distribution; None without data, or if latent sites affect it."""
    is_multinomial: bool = False
    """Whether the output is a multinomial that cannot be drawn in a compiled program."""


@dataclass(frozen=True)
class AbstractKernel:
    """A kernel and its arguments that are not arrays; its methods run it on shapes instead of data."""

    kernel: Kernel
    signature: KernelSignature
    static: Mapping[str, object]

    def n_rows(self, arrays: Mapping[str, Any]) -> int:
        """Return the number of rows of the input; 0 if there is no input or it has no rows."""
        param_input = self.signature.param_input
        shape = arrays[param_input].shape if param_input in arrays else ()
        return int(shape[0]) if shape else 0

    def shapes(self, arrays: Abstract, row_plates: frozenset[str] | None) -> tuple[dict[str, Any], frozenset[str]]:
        """Return the tree of ``ShapeDtypeStruct`` of each site's value, and the plates that are as long as the rows."""
        found: set[str] = set()

        def run(abstract: Abstract) -> dict[str, Any]:
            handler = AbstractHandler(self.kernel, random.key(0), n_obs=self.n_rows(arrays), row_plates=row_plates)
            sites = handler.run({**self.static, **abstract})
            found.update(handler.long_as_rows)
            return {name: message["value"] for name, message in sites.items()}

        return dict(jax.eval_shape(run, dict(arrays))), frozenset(found)

    def trace(self, arrays: Abstract, row_plates: frozenset[str], shapes: Mapping[str, Any]) -> KernelTrace:
        """Return the sites and their dependencies; ``shapes`` are the shapes that :meth:`shapes` returns."""
        marks = {f"site {name}": jax.ShapeDtypeStruct((), "float32") for name in shapes}
        sites: list[Site] = []
        plates: set[str] = set()
        scans: dict[str, int] = {}
        density_shapes: dict[str, tuple[int, ...]] = {}
        outputs: list[tuple[OutputSupport | None, bool]] = []  # not the handler, which holds tracers
        output = self.signature.param_output

        def run(**inputs: Any) -> dict[str, dict[str, list[Any]]]:
            handler = ProvenanceHandler(
                self.kernel,
                random.key(0),
                n_obs=self.n_rows(arrays),
                row_plates=row_plates,
                marks={name: inputs[f"site {name}"] for name in shapes},
                output=(output, inputs.get(output)),
            )
            messages = handler.run({**self.static, **{name: inputs[name] for name in arrays}})
            outputs.append((handler.support, handler.is_multinomial))
            for name, message in messages.items():
                drawable = name not in handler.undrawable
                sites.append(_site(message, shapes[name], self.signature.param_output, drawable=drawable))
                plates.update(frame.name for frame in message.get("cond_indep_stack", ()))
                scans[name] = int(message.get("_scan", 0))
                if message.get("is_observed", False):
                    density_shapes[name] = _density_shape(message)
            return handler.inputs

        provenance = eval_provenance(run, **arrays, **marks)

        def linked(site: Site) -> Site:
            sources = _sources(provenance.get(site.name, {}))
            # Sites of one `scan` count as dependent on one another: the graph inside it is not known.
            siblings = {name for name, scan in scans.items() if scan and scan == scans[site.name]}
            parents = (sources.get("parents", frozenset()) | siblings) - {site.name}
            has_data = site.role is Role.OBSERVED and site.name in density_shapes
            data = sources.get("data", frozenset()) if has_data else frozenset()
            read = {s for leaf in provenance.get(site.name, {}).get("parents", ()) for s in leaf}
            arguments = frozenset(source for source in read if not source.startswith("site "))
            shape = sources.get("shape", frozenset())
            return replace(site, parents=parents, data=data, arguments=arguments, shape_parents=shape)

        support, is_multinomial = outputs[-1]
        deciding = [] if support is None else provenance[support.site]["valid"]
        if support is not None and any(source.startswith("site ") for leaf in deciding for source in leaf):
            support = None
        linked_sites = tuple(map(linked, sites))
        return KernelTrace(linked_sites, frozenset(plates), density_shapes, support, is_multinomial)

    def sites_reached_by(self, name: str, arrays: Abstract, row_plates: frozenset[str]) -> frozenset[str]:
        """Return the sites that depend directly on the argument ``name``, a number or an array without a row axis.

        Raises
        ------
        Exception
            Whatever the kernel raises if that value is abstract.
        """
        value: Any = self.static[name]
        number = jax.ShapeDtypeStruct(jnp.shape(value), jnp.result_type(value))
        other = replace(self, static={key: value for key, value in self.static.items() if key != name})
        given = {**arrays, name: number}
        shapes, _ = other.shapes(given, row_plates)
        return frozenset(site.name for site in other.trace(given, row_plates, shapes).sites if name in site.parents)


def _sources(provenance: Mapping[str, list[frozenset[str]]]) -> dict[str, frozenset[str]]:
    """Return the names of the sites and arguments that reach a site as its parents or its data."""
    return {
        kind: frozenset(source.removeprefix("site ") for leaf in leaves for source in leaf)
        for kind, leaves in provenance.items()
    }


def _site(message: Message, value: Any, output: str, *, drawable: bool) -> Site:
    """Return a site from its message, with ``value`` as a tree of ``ShapeDtypeStruct``."""
    fn = message["fn"] if message["type"] == "sample" else None
    base = strip_wrappers(fn)
    discrete = is_discrete(fn)
    leaves = jax.tree_util.tree_flatten_with_path(value)[0]
    is_tree = not isinstance(value, jax.ShapeDtypeStruct)
    shape = () if is_tree else tuple(value.shape)
    event_dim = 0 if fn is None else int(fn.event_dim)
    frames = [(frame.name, len(shape) - event_dim + frame.dim) for frame in message.get("cond_indep_stack", ())]
    return Site(
        name=message["name"],
        role=_role(message, base, output),
        shape=shape,
        traced_shape=shape,
        in_control_flow=message.get("_scan", 0) > 0,
        dtype=str(leaves[0][1].dtype) if leaves else "",
        distribution=None if fn is None else type(base).__name__,
        event_dim=event_dim,
        core_event_dim=0 if base is None else int(base.event_dim),
        plates=tuple((name, axis) for name, axis in frames if axis >= 0),
        drawable=drawable,
        is_discrete=discrete,
        n_values=_n_values(fn) if discrete else None,
        has_mean=fn is not None and expected_value(fn) is not None,
        abduction=None if fn is None else abduction_of(fn),
        leaves=tuple((jax.tree_util.keystr(p), tuple(x.shape)) for p, x in leaves) if is_tree else (),
    )


def _role(message: Message, base: Any, output: str) -> Role:
    """Return the role of a site; the output counts as observed with or without data."""
    if message["type"] != "sample":
        return Role(message["type"])
    is_observed, name = bool(message.get("is_observed", False)), message["name"]
    if is_observed and isinstance(base, dist.Unit):
        return Role.FACTOR
    # NumPyro splits `sample(output, ..., obs_mask=)` in two; the `_observed` half has the data.
    return Role.OBSERVED if is_observed or name in (output, f"{output}_observed") else Role.LATENT


def _n_values(fn: Any) -> int | None:
    """Return the number of values that NumPyro can sum over, or None.

    NumPyro takes the values to be 0, 1, ... whatever the support is, and the values of a vector to be equal.
    """
    if not fn.has_enumerate_support or fn.event_dim:
        return None
    try:
        with jax.ensure_compile_time_eval():
            values = np.asarray(fn.enumerate_support(expand=False)).ravel()
    except (NotImplementedError, jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
        return None
    return len(values) if np.array_equal(values, np.arange(len(values))) else None


def _density_shape(message: Message) -> tuple[int, ...]:
    """Return the shape to which the data and the distribution of an observed site broadcast."""
    shape, fn = jnp.shape(message["value"]), message["fn"]
    try:
        return tuple(jnp.broadcast_shapes(shape, fn.batch_shape + fn.event_shape))
    except ValueError:  # the log density raises for shapes that do not broadcast
        return shape
