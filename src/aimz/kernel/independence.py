"""May the rows of a kernel be computed in blocks?  Only if no row sees another, or how many there are.

Three tests, and a kernel must pass them all.  None alone is enough: a Gaussian process shows in the structure of its
sites, a number of rows that enters the arithmetic (``sigma / X.shape[0]``, ``jnp.arange(X.shape[0])``) in two traces
at two sizes, and a cumulative sum only in the numbers.  The first two are here; the third is
:func:`aimz.forward.rows_apart`, which runs the compiled program.
"""

__all__ = ["RowUse", "site_obstacle", "size_obstacle"]

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.extend import core

from aimz.kernel.spec import KernelSpec, Role, Site


def site_obstacle(spec: KernelSpec, *, drawn: frozenset[str], returned: Iterable[str], scored: bool) -> str | None:
    """Return why the sites of a kernel do not allow it to be cut into rows, or None.

    ``drawn`` are the sites whose value is drawn in this call; ``scored`` says that ``returned`` are scored instead.
    """
    if spec.fixed_size:
        return "it takes one number of rows only"
    returned = frozenset(returned)
    with_rows = {site.name for site in spec.sites if site.row_axes} | spec.arguments_by_row
    for site in spec.sites:
        if site.role in (Role.FACTOR, Role.MUTABLE) or (site.role is Role.DETERMINISTIC and site.name not in returned):
            continue
        reason = _of_site(site, drawn=site.name in drawn, returned=site.name in returned, scored=scored)
        if reason is None and not site.row_axes and site.parents & with_rows and site.name in (drawn | returned):
            reason = f"site `{site.name}`, which has no row axis, is computed from the rows"
        if reason is not None:
            return reason
    return None


def _of_site(site: Site, *, drawn: bool, returned: bool, scored: bool) -> str | None:
    if not site.row_axes:
        inside = drawn and site.in_control_flow
        return f"site `{site.name}`, which has no row axis, is drawn inside a `scan` or `cond`" if inside else None
    if len(site.row_axes) > 1 or site.shape[site.row_axes[0]] != "n_obs":
        return f"site `{site.name}` has shape {site.shape}"
    event_dim = site.event_dim if scored and returned else site.core_event_dim if drawn else 0
    if site.row_axes[0] >= len(site.shape) - event_dim:
        return f"the rows of site `{site.name}` have one joint distribution"
    return None


@dataclass(frozen=True)
class RowUse:
    """What two traces at two numbers of rows say of a program."""

    obstacle: str | None = None
    """Why the program depends on how many rows there are, or None."""
    local: bool = False
    """Whether row numbers are used to look into arrays of the rows at hand, so that they must count from 0."""
    beyond: bool = False
    """Whether they are used for anything else, so that they must be those of the data set."""


def size_obstacle(small: Any, large: Any, rows: int | None) -> RowUse:
    """Compare one program traced at two numbers of rows.

    Nothing but shapes may differ.  ``rows`` is the place of the row numbers among the inputs, if there are any.
    """
    walk = _Walk()
    if rows is not None:
        walk.kinds[small.jaxpr.invars[rows]] = "number"
    walk.constants(small.consts, large.consts)
    walk.jaxpr(small.jaxpr, large.jaxpr)
    if walk.obstacle is None and walk.local and walk.beyond:
        walk.obstacle = "it uses row numbers both within the rows at hand and beyond them"
    return RowUse(walk.obstacle, walk.local, walk.beyond)


_INDEXING = frozenset({"lt", "add", "select_n", "clamp", "gather", "dynamic_slice"})
"""Where the number of rows may stand: jnp wraps negative indices with it."""
_CARRIES_INDEX = frozenset(
    {"lt", "add", "select_n", "clamp", "convert_element_type", "broadcast_in_dim", "reshape", "squeeze", "concatenate"}
)
"""What leaves row numbers row numbers, on their way to an index."""


class _Walk:
    """Two programs, walked side by side."""

    def __init__(self) -> None:
        self.obstacle: str | None = None
        self.local = False
        self.beyond = False
        self.kinds: dict[Any, str] = {}
        """Variables that hold row numbers: "number" of the data set, or "count" made by the kernel itself."""

    def constants(self, small: Iterable[Any], large: Iterable[Any]) -> None:
        for here, there in zip(small, large, strict=False):
            if here is not there and not _same(here, there):
                self.obstacle = (
                    self.obstacle or "it makes an array as long as the rows, or a number of how many they are"
                )

    def jaxpr(self, small: core.Jaxpr, large: core.Jaxpr, *, in_while: bool = False) -> None:
        pairs = list(_paired(small, large))
        if any(here is None or there is None for here, there in pairs):
            self.obstacle = self.obstacle or "its steps depend on how many rows there are"
            return
        for here, there in pairs:
            self.equation(here, there, in_while=in_while)

    def equation(self, here: Any, there: Any, *, in_while: bool) -> None:
        name = here.primitive.name
        self._numbers(here, there, in_while=in_while)
        if name == "scan" and here.params["length"] != there.params["length"]:
            self.obstacle = self.obstacle or "it loops over the rows"
        if here.params.get("y") != there.params.get("y"):
            self.obstacle = self.obstacle or "the number of rows enters its arithmetic"
        if name == "iota" and here.outvars[0].aval.shape != there.outvars[0].aval.shape:
            self.kinds[here.outvars[0]] = "count"
        kinds = [self.kinds.get(v) for v in here.invars if not isinstance(v, core.Literal)]
        kind = next((k for k in kinds if k is not None), None)
        inner, outer = _inlined(here.params), _inlined(there.params)
        if inner is not None and outer is not None and len(inner.invars) == len(here.invars):
            for var, atom in zip(inner.invars, here.invars, strict=True):
                if not isinstance(atom, core.Literal) and atom in self.kinds:
                    self.kinds[var] = self.kinds[atom]
            self.jaxpr(inner, outer, in_while=in_while)
            for var, atom in zip(here.outvars, inner.outvars, strict=True):
                if not isinstance(atom, core.Literal) and atom in self.kinds:
                    self.kinds[var] = self.kinds[atom]
            return
        if kind is not None:
            self._used(here, there, kind)
        for small, large in zip(_within(here), _within(there), strict=False):
            self.jaxpr(small, large, in_while=in_while or name == "while")

    def _numbers(self, here: Any, there: Any, *, in_while: bool) -> None:
        for one, other in zip(here.invars, there.invars, strict=False):
            if isinstance(one, core.Literal) and isinstance(other, core.Literal) and not _same(one.val, other.val):
                whole = np.asarray(one.val).dtype.kind in "iu"
                if not whole or in_while or here.primitive.name not in _INDEXING:
                    self.obstacle = self.obstacle or "the number of rows enters its arithmetic"

    def _used(self, here: Any, there: Any, kind: str) -> None:
        """Follow row numbers to where they are used."""
        name = here.primitive.name
        if name == "gather" and self.kinds.get(here.invars[0]) is None:
            if here.invars[0].aval.shape != there.invars[0].aval.shape:
                self.local = True
                return
        elif name in _CARRIES_INDEX:
            self.kinds |= dict.fromkeys(here.outvars, kind)
            return
        self.beyond = True
        if kind == "count":
            self.obstacle = self.obstacle or "it counts the rows (`jnp.arange(X.shape[0])`, for one)"


def _paired(small: core.Jaxpr, large: core.Jaxpr) -> Iterator[tuple[Any, Any]]:
    """Yield the equations that matter to the outputs, pair by pair; None stands where there is no partner."""
    ours, theirs = list(_live(small)), list(_live(large))
    for here, there in zip(ours, theirs, strict=False):
        yield (here, there) if here.primitive is there.primitive else (here, None)
    if len(ours) != len(theirs):
        yield None, None


def _live(jaxpr: core.Jaxpr) -> Iterator[Any]:
    needed = {v for v in jaxpr.outvars if not isinstance(v, core.Literal)}
    kept = []
    for equation in reversed(jaxpr.eqns):
        if needed.intersection(equation.outvars):
            kept.append(equation)
            needed.update(v for v in equation.invars if not isinstance(v, core.Literal))
    return reversed(kept)


def _inlined(params: Mapping[str, Any]) -> core.Jaxpr | None:
    """Return the one program an equation merely calls, if it does."""
    inner = params.get("jaxpr", params.get("call_jaxpr"))
    inner = getattr(inner, "jaxpr", inner)  # closed or open
    return inner if isinstance(inner, core.Jaxpr) and "length" not in params else None


def _within(equation: Any) -> Iterator[core.Jaxpr]:
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)
            if isinstance(inner, core.Jaxpr):
                yield inner


def _same(one: Any, other: Any) -> bool:
    if np.shape(one) != np.shape(other):
        return False
    try:
        return bool(np.array_equal(np.asarray(one), np.asarray(other), equal_nan=np.asarray(one).dtype.kind in "fc"))
    except TypeError:  # a key, say
        return one is other or repr(one) == repr(other)
