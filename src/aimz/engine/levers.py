"""Levers of slopes: sites, arguments and columns along which a kernel can be differentiated."""

__all__ = [
    "check_derivatives",
    "check_lever_values",
    "derivative_of",
    "read_levers",
    "read_slope_kind",
    "sign_error",
    "with_levers",
]

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from aimz.data import KernelArguments
from aimz.engine.joint_inputs import joint_pass_of
from aimz.engine.kernel_engine import KernelEngine
from aimz.engine.prepared_call import PreparedCall
from aimz.engine.request import PredictionRequest
from aimz.forward import Derivative, Lever
from aimz.kernel import DerivativeCut, KernelSpec
from aimz.statistics import Groups
from aimz.types import Intervention, SlopeKind

_KINDS = get_args(SlopeKind.__value__)
_RELATIVE = frozenset({"eyex", "dyex", "total"})
"""Kinds of slopes by the logarithm of the lever."""
_OF_LOG = frozenset({"eyex", "eydx"})
"""Kinds of slopes of the logarithm of the site, row by row."""


def read_slope_kind(kind: Any) -> SlopeKind:
    """Return a checked kind of slopes.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    if not isinstance(kind, str) or kind not in _KINDS:
        msg = (
            f"`kind` must be one of {', '.join(map(repr, _KINDS))}; got {kind!r}. Pass 'dydx' for slopes, 'eyex' "
            "for elasticities."
        )
        raise ValueError(msg)
    return kind  # type: ignore[return-value]


def derivative_of(kind: SlopeKind, levers: Sequence[Lever]) -> Derivative:
    """Return the derivatives that slopes of a kind are computed from."""
    return Derivative(tuple(levers), relative=kind in _RELATIVE, of_log=kind in _OF_LOG)


def read_levers(names: Any, spec: KernelSpec, call: KernelArguments, param_input: str) -> tuple[Lever, ...]:
    """Return the sites, arguments or columns with these names.

    Raises
    ------
    TypeError, ValueError
        If a name is unknown, or its values are discrete.
    """
    given = [names] if isinstance(names, str) else list(names) if isinstance(names, Iterable) else []
    if not given or not all(isinstance(name, str) for name in given):
        msg = (
            f"`slopes` needs the names of a column, an argument or a site, such as 'price'; got {names!r}. Pass one "
            "name or a list of names."
        )
        raise TypeError(msg)
    repeated = next((name for i, name in enumerate(given) if name in given[:i]), None)
    if repeated is not None:
        msg = f"`slopes` must name each lever once; got {repeated!r} twice. Leave one out."
        raise ValueError(msg)
    return tuple(_read_lever(name, spec, call, param_input) for name in given)


def _read_lever(name: str, spec: KernelSpec, call: KernelArguments, param_input: str) -> Lever:
    site = spec.get(name)
    if site is not None and (site.is_sample or name in spec.deterministic_sites):
        if site.is_discrete or np.dtype(site.dtype).kind in "biu":
            raise ValueError(_discrete(name, f"is a site with values of type {site.dtype}"))
        if site.in_control_flow:
            msg = (
                f"`slopes` cannot change site `{name}` inside a `scan` or `cond`, where NumPyro substitutes only "
                "values of sample sites. Use `compare_scenarios` with two values of it."
            )
            raise ValueError(msg)
        return Lever(name)
    given = call.arrays.get(name, call.static.get(name))
    if name != param_input and given is not None:
        kind = np.dtype(getattr(given, "dtype", type(given))).kind
        if kind in "bOUS":
            raise ValueError(_discrete(name, "is not a number" if kind != "b" else "is True or False"))
        return Lever(name, name)
    if name in call.columns:
        return Lever(name, param_input, call.columns.index(name))
    if name == param_input:
        n_columns = int(np.prod(call.arrays[name].shape[1:]))
        if n_columns == 1:
            return Lever(name, name)
        msg = (
            f"`slopes` needs one column of `{name}`, which has {n_columns}. Pass `{name}` as a data frame, and the "
            "name of the column."
        )
        raise ValueError(msg)
    known = [*call.columns, *(n for n in (*call.arrays, *call.static) if n != param_input)]
    sites = [one.name for one in spec.sites if one.is_sample and not one.is_discrete]
    msg = (
        f"`slopes` needs the name of a column, an argument or a site; got {name!r}. Known: "
        f"{', '.join(known) or 'none'}; sites: {', '.join(sites) or 'none'}."
    )
    raise ValueError(msg)


def _discrete(name: str, what: str) -> str:
    """Return the error about a lever that has no derivative."""
    return (
        f"`slopes` needs a lever that changes continuously; `{name}` {what}. Compare its values: "
        f"`model.compare_scenarios({{'a': {{'intervention': {{{name!r}: ...}}}}, 'b': ...}}, baseline='a')`."
    )


def check_lever_values(lever: Lever, prepared: PreparedCall, derivative: Derivative, groups: Groups) -> None:
    """Check the values of a lever that are in memory: they must not be 0 and 1 only, nor change sign if relative.

    Raises
    ------
    ValueError
        If they do, or differ between draws. Values of sites, and values that are stored elsewhere, are checked as they
        are computed.
    """
    if any(one.argument == lever.argument and one.column in (None, lever.column) for one in prepared.plan.drawn):
        msg = (
            f"`slopes` needs one value of `{lever.name}` in all draws; the intervention has one for each draw. Pass "
            "one value for each row, or for all."
        )
        raise ValueError(msg)
    rows = prepared.call.rows.get(lever.argument or "")
    if rows is None or rows.from_batches or rows.is_stored:
        return
    counted = None if groups.weights is None else _positive(groups.weights)
    found = _Signs()
    for start in range(0, prepared.call.n_obs, _ROWS):
        values = rows.read(start, min(start + _ROWS, prepared.call.n_obs))
        values = values if lever.column is None else values[:, lever.column]
        kept = slice(None) if counted is None else counted[start : start + _ROWS]
        found.add(values[kept], np.arange(start, start + len(values))[kept])
    given = prepared.settings.intervention or {}
    if found.binary and found.ones and found.zeros and given.get(lever.name) is _as_is:
        raise ValueError(_discrete(lever.name, f"is 0 or 1 in all {found.n_rows} rows"))
    if derivative.relative and found.below and found.above:
        what = f"is below 0 in {found.below} rows (the first is row {found.first})"
        raise ValueError(sign_error(lever.name, what))


@dataclass
class _Signs:
    """Counts of rows by the sign of a lever."""

    n_rows: int = 0
    below: int = 0
    above: int = 0
    first: int | None = None
    """First row below 0."""
    zeros: bool = False
    ones: bool = False
    binary: bool = True
    """Whether all values are 0 or 1."""

    def add(self, values: np.ndarray, rows: np.ndarray) -> None:
        """Count the values of some rows, whose numbers are ``rows``."""
        flat = values.reshape(len(values), -1)
        below = (flat < 0).any(1)
        if self.first is None and below.any():
            self.first = int(rows[np.argmax(below)])
        self.n_rows += len(flat)
        self.below += int(below.sum())
        self.above += int((flat > 0).any(1).sum())
        zero, one = flat == 0, flat == 1
        self.zeros |= bool(zero.any())
        self.ones |= bool(one.any())
        self.binary &= bool((zero | one).all())


_ROWS = 2**16
"""Number of rows that are read together."""


def _positive(weights: np.ndarray) -> np.ndarray:
    found: np.ndarray = weights.reshape(len(weights), -1).max(axis=1) > 0
    return found


def sign_error(name: str, what: str) -> str:
    """Return the error about an elasticity of or by a number that changes sign."""
    return (
        f"Elasticities need values of one sign, since they are changes in percent; `{name}` {what} and above in "
        "others. Pass kind='dydx', or leave rows out with `where`."
    )


def check_derivatives(engine: KernelEngine, request: PredictionRequest, levers: Sequence[Lever]) -> None:
    """Check that the derivative of each return site is not cut between lever and site.

    Raises
    ------
    ValueError
        If a site is drawn from a discrete distribution, or a value on the way is rounded, compared or an index.
    """
    prepared = request.first
    assert request.derivative is not None
    joint, layout = joint_pass_of(request, prepared.call.n_obs, None)
    plan = joint.scenario_groups[0].plan
    draws, values, arrays, _ = layout.one_pass()
    inputs = [{str(key): value for key, value in one.items()} for one in (draws, values, arrays)]
    for lever in levers:
        try:
            found = engine.programs.derivative_cuts(plan, request.derivative, lever, *inputs)
        except (TypeError, ValueError) as error:
            dtype = _dtype_of(lever, prepared)
            if dtype is None or dtype.kind == "f":
                raise
            what = f"is of type {dtype}, and the kernel uses it as a whole number ({error})"
            raise ValueError(_discrete(lever.name, what)) from error
        for site, cuts in found.items():
            discrete = prepared.spec[site].is_discrete and site not in plan.expected
            if cuts:
                raise ValueError(_cut_error(site, lever.name, cuts, _drawn_between(prepared, site), discrete=discrete))


def _dtype_of(lever: Lever, prepared: PreparedCall) -> np.dtype[Any] | None:
    """Return the type of the argument that a lever is a part of; None for a site."""
    call, name = prepared.call, lever.argument or ""
    given = call.arrays.get(name, call.static.get(name))
    return None if given is None else np.dtype(getattr(given, "dtype", type(given)))


def _drawn_between(prepared: PreparedCall, site: str) -> list[str]:
    """Return the discrete sites that are drawn on the way to a site."""
    sources = prepared.plan.discrete_sources.get(site, ())
    return [name for name in sources if name != site or name not in prepared.plan.expected]


def _cut_error(site: str, lever: str, cuts: frozenset[DerivativeCut], drawn: Sequence[str], *, discrete: bool) -> str:
    """Return the error about a derivative that is 0, or lacks a part, by construction."""
    instead = (
        f"Compare two values instead: `model.compare_scenarios({{'now': {{}}, 'more': {{'intervention': {{{lever!r}: "
        "lambda v: v + 1}}, baseline='now')`."
    )
    if discrete:
        return (
            f"The derivative of `{site}` by `{lever}` is 0 by construction: its values are draws of a discrete "
            f"distribution. Ask for the expected output (leave `return_sites` out). {instead}"
        )
    cut = min(cuts)
    place = f" ({cut.place})" if cut.place else ""
    what = {
        "comparison": f"a comparison{place} jumps, and its derivative is 0. For a kink write `jnp.maximum`, "
        "`jnp.minimum` or `jnp.clip`.",
        "draw": f"a value is drawn{place} by comparing random numbers, so it jumps.",
        "rule": f"a function{place} has no forward derivative. Write `jax.custom_jvp` instead of `jax.custom_vjp`.",
        "look-up": f"it selects an entry of an array{place}, and an index has no derivative. Interpolate "
        "(`jnp.interp`) if the entries are a curve.",
        "rounding": f"it is rounded or cast to whole numbers{place}, whose derivative is 0. Leave the rounding out.",
        "stop_gradient": f"`stop_gradient` cuts it{place}. Leave it out of the kernel, or apply it in the loss only.",
    }[cut.kind]
    if drawn:
        what = f"site `{drawn[0]}` on the way is drawn from a discrete distribution, so its derivative is 0."
    return f"The derivative of `{site}` by `{lever}` would lack a part: {what} {instead}"


def with_levers(intervention: Intervention | None, levers: Sequence[Lever]) -> dict[str, Any]:
    """Return an intervention that also sets each lever to its value, so that its descendants follow it."""
    given: Mapping[str, Any] = intervention or {}
    return {**given, **{lever.name: _as_is for lever in levers if lever.name not in given}}


def _as_is(value: Any) -> Any:
    """Return the value of a lever."""
    return value
