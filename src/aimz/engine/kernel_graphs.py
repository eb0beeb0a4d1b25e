"""The graph of a kernel for the arguments of a call, and the verdict on the effect that a request computes."""

__all__ = ["kernel_graph_of", "with_identification"]

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from aimz.causal_graph import CausalGraph, KernelGraph, read_kernel_graph, verdict_on
from aimz.data import KernelArguments
from aimz.engine.kernel_engine import KernelEngine
from aimz.engine.prepared_call import PreparedCall
from aimz.kernel import AbstractCall, KernelSpec
from aimz.persistence import is_plain

_FEW = 200
"""Largest number of columns of a matrix that are variables of their own."""


def kernel_graph_of(engine: KernelEngine, call: KernelArguments | None = None) -> KernelGraph:
    """Return the graph of the kernel for a call, or for the last fit, else the first call.

    Raises
    ------
    TypeError
        If there was no call yet.
    """
    example = engine.example
    if call is not None:
        example = AbstractCall.of(call.arrays, call.static, engine.read_spec(call), is_plain)
    if example is None or engine.reader.spec is None:
        msg = (
            "The graph of the kernel is read from a call, and there was none yet. Pass the input as `X`, with the "
            "further arguments of the kernel, or fit the model first."
        )
        raise TypeError(msg)
    spec = _with_data(engine.reader.spec, example.spec)
    columns = _columns(engine, example, call)
    reaching: Mapping[str, frozenset[int]] = {}
    if len(columns) > 1 and (call is not None or not example.left_out):
        static = example.static if call is None else call.static
        reaching = engine.reader.columns_of_sites(example.arrays, static)  # type: ignore[arg-type]
    numbers = [*example.static, *example.left_out]
    return read_kernel_graph(spec, list(example.arrays), numbers, columns, reaching, engine.parameters.outcome)


def _with_data(spec: KernelSpec, example: KernelSpec) -> KernelSpec:
    """Return the structure over all calls, with the arguments that contain data of sites in one of them."""
    data = {site.name: site.data for site in example.sites}
    sites = tuple(replace(site, data=site.data | data.get(site.name, frozenset())) for site in spec.sites)
    return replace(spec, sites=sites)


def _columns(engine: KernelEngine, example: AbstractCall, call: KernelArguments | None) -> tuple[str, ...]:
    """Return the names of the columns of a two-dimensional input; empty if it is one variable."""
    name = engine.signature.param_input
    shape: tuple[int, ...] = example.arrays[name].shape if name in example.arrays else ()
    if len(shape) != 2:
        return ()
    names = call.columns if call is not None and call.columns else engine.parameters.known.get(name, ())
    if len(names) == shape[1]:
        return tuple(names)
    return tuple(f"{name}[:, {i}]" for i in range(shape[1])) if shape[1] <= _FEW else ()


def with_identification(
    engine: KernelEngine,
    graph: CausalGraph | None,
    calls: Mapping[Any, KernelArguments],
    prepared: Mapping[Any, PreparedCall],
) -> dict[Any, PreparedCall]:
    """Return calls whose attributes have the verdict whether an effect between them is identified by the graph."""
    acts = [one.settings.intervention or {} for one in prepared.values()]
    changed = list(dict.fromkeys(str(name) for one in acts for name in one))
    if graph is None or not changed:
        return dict(prepared)
    if any(one.acts.taken for one in prepared.values()):
        verdict = "not checked: values are taken from another scenario"
    else:
        verdict = verdict_on(
            kernel_graph_of(engine, next(iter(calls.values()))), graph, changed, engine.signature.param_output
        )
    return {name: replace(one, attrs={**one.attrs, "identified": verdict}) for name, one in prepared.items()}
