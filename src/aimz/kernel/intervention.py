"""Resolve ``intervention={name: value}`` to values, transforms, arguments and descendants."""

__all__ = ["ResolvedIntervention", "read_intervention"]

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aimz.kernel.as_in import AsIn
from aimz.kernel.draw_values import DrawnArgument, DrawValues
from aimz.kernel.signature import KernelSignature
from aimz.kernel.spec import KernelSpec, Role, Site
from aimz.kernel.tracing import AbstractKernel
from aimz.types import Arrays, Intervention, Kernel


@dataclass(frozen=True)
class ResolvedIntervention:
    """An intervention, sorted into sites and arguments."""

    values: dict[str, Any] = field(default_factory=dict)
    """Values that sites are set to, in the shape of the site."""
    transforms: dict[str, Callable[[Any], Any]] = field(default_factory=dict)
    """Functions of the value that a site would otherwise have."""
    arrays: dict[str, Any] = field(default_factory=dict)
    """New values of array arguments."""
    static: dict[str, Any] = field(default_factory=dict)
    """New values of other arguments."""
    downstream: frozenset[str] = frozenset()
    """Sites that descend from a site or argument of the intervention."""
    draws: dict[str, np.ndarray] = field(default_factory=dict)
    """Values ``(n_draws, ...)`` that differ between draws, by site or key of a drawn argument.

    ``values``, ``arrays`` and ``static`` hold the value of one draw."""
    taken: dict[str, AsIn] = field(default_factory=dict)
    """Sites that take the value that they have in another scenario."""
    drawn: list[DrawnArgument] = field(default_factory=list)
    """Arguments and columns whose values differ between draws."""

    @cached_property
    def set_sites(self) -> frozenset[str]:
        """Sites that take a value of the intervention."""
        return frozenset({*self.values, *self.taken})

    @property
    def row_axes(self) -> dict[str, int]:
        """Row axis of one draw of each value by draw of an argument, if it has one."""
        by_row = (one.key for one in self.drawn if one.argument in self.arrays)
        return {key: 0 for key in by_row if self.draws[key].shape[1] > 1}

    def keep_draws(self, argument: str, given: DrawValues, fitted: Any, column: tuple[int, str] | None = None) -> None:
        """Record values of an argument, or of a column given by its position and name, that differ between draws."""
        key = f"argument {argument}" if column is None else f"argument {argument}[{column[1]}]"
        self.draws[key] = given.aligned(fitted)
        self.drawn.append(DrawnArgument(key, argument, None if column is None else column[0]))


def read_intervention(
    intervention: Intervention | None,
    *,
    kernel: Kernel,
    signature: KernelSignature,
    spec: KernelSpec,
    arrays: Arrays,
    static: Mapping[str, object],
    columns: Sequence[str] = (),
) -> ResolvedIntervention:
    """Sort an intervention into sites, arguments and columns of the input, and find its descendants.

    Raises
    ------
    TypeError
        If ``intervention`` is not a mapping.
    ValueError
        If a name is neither a site nor an argument nor a column, or a value does not fit.
    """
    if intervention is None:
        return ResolvedIntervention()
    if not isinstance(intervention, Mapping):
        msg = (
            "`intervention` must be a mapping from the name of a site, an argument or a column to a value; got "
            f"{type(intervention).__name__}. Write `intervention={{'name': value}}`."
        )
        raise TypeError(msg)
    settable = {s.name: s for s in spec.sites if s.is_sample or s.role is Role.DETERMINISTIC}
    arguments = {signature.param_input, *signature.extra}
    read = ResolvedIntervention()
    names: set[str] = set()
    hit: set[str] = set()
    by_column: dict[str, Any] = {}
    for name, value in intervention.items():
        if isinstance(value, AsIn):
            _take_site(read, name, value, settable, arguments)
        elif name in settable:
            _set_site(read, settable[name], value)
        elif name in arguments:
            hit |= _set_argument(read, name, value, kernel, signature, spec, arrays, static)
        elif str(name) in columns:
            by_column[str(name)] = value
            if columns.count(str(name)) > 1:
                msg = f"Cannot intervene on column {name!r}: several columns have this name. Rename them."
                raise ValueError(msg)
        else:
            known = f" Columns: {', '.join(columns)}." if columns else ""
            msg = (
                f"Cannot intervene on {name!r}: it is neither a site nor an argument of kernel "
                f"`{signature.kernel}`{', nor a column' if columns else ''}. Sites: {', '.join(settable) or 'none'}. "
                f"Arguments: {', '.join(sorted(arguments))}.{known}"
            )
            raise ValueError(msg)
        names.add(name)
    if by_column:
        given = signature.param_input
        if given in names:
            msg = (
                f"Cannot intervene on `{given}` and on its column {next(iter(by_column))!r} together. Set the column "
                f"in the new `{given}`."
            )
            raise ValueError(msg)
        names.add(given)
        table = _set_columns(read, given, arrays[given], columns, by_column)
        hit |= _set_argument(read, given, table, kernel, signature, spec, arrays, static)
    # A site that is set no longer depends on anything; a site that is transformed is still drawn or computed first.
    return replace(read, downstream=(spec.descendants(names | hit) | hit) - read.set_sites)


def _take_site(
    read: ResolvedIntervention, name: str, value: AsIn, settable: Mapping[str, Site], arguments: Collection[str]
) -> None:
    """Record a site that takes its value of another scenario."""
    site = settable.get(name)
    if site is None:
        what = (
            "is an argument, and an argument has the same value in every scenario unless an intervention sets it"
            if name in arguments
            else "is not a site"
        )
        msg = (
            f"`as_in({value.scenario!r})` needs a site; got {name!r}, which {what}. Sites: "
            f"{', '.join(settable) or 'none'}. Make it a site of the kernel: `numpyro.sample({name!r}, ...)`."
        )
        raise ValueError(msg)
    if site.in_control_flow:
        msg = (
            f"`as_in({value.scenario!r})` cannot set site `{name}`, which is inside a `scan` or `cond`. Make it a site "
            "outside of it."
        )
        raise ValueError(msg)
    read.taken[name] = value


def _with_columns(table: np.ndarray, columns: Sequence[str], values: Mapping[str, Any]) -> np.ndarray:
    """Return the input with new values in some of its columns."""
    new = {}
    for name, value in values.items():
        place, old = columns.index(name), table[:, columns.index(name)]
        given = np.asarray(value(old)) if callable(value) else value
        new[place] = fit_to_shape(given, old.shape, str(old.dtype), f"column `{name}`")
    # A copy, since the user's data must not change. JAX's promotion keeps int32 and float32 at float32.
    wide = table.astype(reduce(jnp.promote_types, [array.dtype for array in new.values()], table.dtype))
    for place, column in new.items():
        wide[:, place] = column
    return wide


def _set_columns(
    read: ResolvedIntervention, argument: str, table: Any, columns: Sequence[str], given: Mapping[str, Any]
) -> Any:
    """Return the input with new values in some of its columns, in one draw if they differ between draws."""
    values = dict(given)
    for name, value in given.items():
        if isinstance(value, DrawValues):
            values[name] = one = value.first(table.dtype)
            fitted = fit_to_shape(one, (table.shape[0],), str(table.dtype), f"column `{name}`")
            read.keep_draws(argument, value, fitted, (columns.index(name), name))
    if getattr(table, "is_lazy", False) and all(callable(v) or np.ndim(v) == 0 for v in values.values()):
        return table.apply(partial(_with_columns, columns=columns, values=values))
    return _with_columns(np.asarray(table), columns, values)


def _set_site(read: ResolvedIntervention, site: Site, value: Any) -> None:
    if site.in_control_flow and (callable(value) or not site.is_sample):
        how = "by a callable" if callable(value) else "that is computed"
        msg = (
            f"Cannot intervene on site `{site.name}` {how} inside a `scan` or `cond`: NumPyro substitutes only values "
            "of sample sites there. Set a sample site to a value."
        )
        raise ValueError(msg)
    if not callable(value):
        one = value.first(site.dtype) if isinstance(value, DrawValues) else value
        fitted = fit_to_shape(one, site.traced_shape, site.dtype, f"site `{site.name}`")
        read.values[site.name] = fitted
        if isinstance(value, DrawValues):
            # A view with stride 0 along the axes that do not vary takes no memory for them.
            read.draws[site.name] = np.broadcast_to(value.aligned(fitted), (len(value.values), *fitted.shape))
        return
    try:
        result = jax.eval_shape(value, jax.ShapeDtypeStruct(site.traced_shape, site.dtype))
    except jax.errors.TracerArrayConversionError as error:
        msg = (
            f"A callable intervention on site `{site.name}` is compiled, so it must use `jax.numpy`; it uses `numpy`, "
            "which works in callables on arguments only."
        )
        raise TypeError(msg) from error
    except Exception as error:
        error.add_note(f"This was raised by the function in `intervention[{site.name!r}]`, called with the site.")
        raise
    if getattr(result, "shape", None) != site.traced_shape:
        msg = (
            f"A callable intervention on site `{site.name}` must return an array of its shape {site.traced_shape}; it "
            f"returns {getattr(result, 'shape', type(result).__name__)}."
        )
        raise ValueError(msg)
    read.transforms[site.name] = value


def _set_argument(
    read: ResolvedIntervention,
    name: str,
    value: Any,
    kernel: Kernel,
    signature: KernelSignature,
    spec: KernelSpec,
    arrays: Arrays,
    static: Mapping[str, object],
) -> set[str]:
    """Record the new value of an argument; return the sites that depend on it directly, unless the spec has them."""
    if name in arrays:
        new = value(arrays[name]) if callable(value) else value
        if isinstance(value, DrawValues):
            new = value.first(arrays[name].dtype)
        if hasattr(new, "is_lazy") and new.shape[:1] == arrays[name].shape[:1]:
            read.arrays[name] = new  # rows that are read in parts
            return set()
        fitted = fit_to_shape(new, arrays[name].shape, str(arrays[name].dtype), f"argument `{name}`")
        read.arrays[name] = fitted
        if isinstance(value, DrawValues):
            read.keep_draws(name, value, fitted)
        return set()
    if name not in static:
        msg = (
            f"Cannot intervene on argument `{name}`: the call does not pass it, so there is no factual value. "
            f"Pass `{name}=` as well."
        )
        raise ValueError(msg)
    old = static[name]
    new = value(old) if callable(value) else value
    if isinstance(value, DrawValues):
        if not isinstance(old, jax.Array):
            msg = (
                f"An intervention on argument `{name}` with one value for each draw needs an array; the call passes "
                f"{old!r}, which the kernel may use when it is traced. Pass `{name}=jnp.asarray({old!r})`."
            )
            raise TypeError(msg)
        new = value.first(old.dtype)
    if isinstance(old, jax.Array):  # an array without a row axis
        new = jnp.asarray(fit_to_shape(new, old.shape, str(old.dtype), f"argument `{name}`"))
    if isinstance(value, DrawValues):
        read.keep_draws(name, value, new)
    read.static[name] = new
    try:
        abstract = {key: jax.ShapeDtypeStruct(a.shape, a.dtype) for key, a in arrays.items()}
        return set(AbstractKernel(kernel, signature, static).sites_reached_by(name, abstract, spec.row_plates))
    except Exception as error:
        msg = (
            f"Cannot determine the sites that descend from argument `{name}`, which is not an array: the kernel needs "
            f"its value when it is traced. Pass the new value itself, `{name}={read.static[name]!r}`, without an "
            "intervention; all latent sites then keep their posterior draws."
        )
        raise ValueError(msg) from error


def fit_to_shape(
    value: Any, shape: tuple[int, ...], dtype: str, what: str, option: str = "An intervention on"
) -> np.ndarray | jax.Array:
    """Broadcast a given value to ``shape``; a vector with one value per row is allowed, too."""
    array = _cast(value if isinstance(value, jax.Array) else np.asarray(value), np.dtype(dtype))
    padded = array.shape + (1,) * (len(shape) - array.ndim)
    trailing = _broadcasts(array.shape, shape)
    by_row = 0 < array.ndim < len(shape) and array.shape[0] == shape[0] and _broadcasts(padded, shape)
    if trailing and by_row and shape[0] != 1:
        reversed_padding = (1,) * (len(shape) - array.ndim) + array.shape
        msg = (
            f"{option} {what} of shape {array.shape} could run along the first or the last axes of "
            f"{shape}. Reshape it to {padded} or {reversed_padding}."
        )
        raise ValueError(msg)
    if not trailing and not by_row:
        msg = f"{option} {what} must broadcast to its shape {shape}; got shape {array.shape}."
        if option.startswith("An intervention"):
            msg += " For one value for each draw, pass an xarray.DataArray with dimensions ('chain', 'draw')."
        raise ValueError(msg)
    aligned = array if trailing else array.reshape(padded)
    # A NumPy view with stride 0 marks rows that are all the same, and takes no memory for them.
    return aligned if aligned.shape == shape else np.broadcast_to(np.asarray(aligned), shape)


def _cast(array: np.ndarray | jax.Array, dtype: np.dtype) -> np.ndarray | jax.Array:
    """Cast a value to the dtype of the value it replaces, unless that would change it: 0.5 stays 0.5."""
    wide = jnp.promote_types(dtype, array.dtype)
    with np.errstate(invalid="ignore"):  # NaN cannot be cast to an integer, and stays a float
        same = wide == dtype or bool((array == array.astype(dtype)).all())
    return array.astype(dtype if same else wide)


def _broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Return whether an array of ``shape`` broadcasts to exactly ``target``."""
    try:
        return np.broadcast_shapes(shape, target) == target
    except ValueError:
        return False
