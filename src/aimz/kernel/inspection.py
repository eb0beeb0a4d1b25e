"""From a kernel and the arguments of a call to a :class:`KernelSpec`."""

__all__ = ["InputColumns", "KernelReader", "is_storable", "read_kernel"]

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from aimz.errors import KernelValidationError
from aimz.kernel.caching import LRUCache, freeze
from aimz.kernel.signature import KernelSignature, kernel_name
from aimz.kernel.spec import KernelSpec, Role, Site, merge_specs
from aimz.kernel.tracing import Abstract, TracedSite, n_rows, trace_kernel, traced_shapes
from aimz.types import Arrays, Kernel


class InputColumns(NamedTuple):
    """The columns of an input with names, and what runs along them."""

    names: tuple[str, ...]
    axes: Mapping[str, tuple[int, ...]]
    """Site name to the axes that grow with the number of columns, counted from the last, -1."""


class KernelReader:
    """Reads one kernel, once for each kind of call, and remembers what all calls said together."""

    def __init__(self, kernel: Kernel, signature: KernelSignature) -> None:
        self.kernel = kernel
        self.signature = signature
        self.spec: KernelSpec | None = None
        """What every call so far said together; None before the first."""
        self._read = LRUCache[KernelSpec]()
        self._columns = LRUCache[InputColumns]()

    def read(self, arrays: Arrays, static: Mapping[str, object]) -> KernelSpec:
        """Return the structure of the kernel in a call with these arguments."""
        shapes = tuple((name, array.shape, str(array.dtype)) for name, array in sorted(arrays.items()))
        return self._read.get((shapes, freeze(static)), lambda: self._read_anew(arrays, static))

    def columns(self, names: tuple[str, ...], arrays: Arrays, static: Mapping[str, object]) -> InputColumns:
        """Return which axes of which sites run along the columns: those that change when there is one more."""
        shapes = tuple((name, array.shape, str(array.dtype)) for name, array in sorted(arrays.items()))

        def read() -> InputColumns:
            return InputColumns(names, self._column_axes(arrays, static))

        return self._columns.get((names, shapes, freeze(static)), read)

    def _column_axes(self, arrays: Arrays, static: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
        spec, given = self.read(arrays, static), self.signature.param_input
        abstract = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()}
        n_rows, n_columns = abstract[given].shape
        wider = {**abstract, given: jax.ShapeDtypeStruct((n_rows, n_columns + 1), abstract[given].dtype)}
        try:
            found, _ = traced_shapes(self.kernel, wider, static, given, spec.row_plates)
        except Exception:  # noqa: BLE001, RUF100 (a kernel may be written for this number of columns)
            return {}
        axes: dict[str, tuple[int, ...]] = {}
        for site in spec.sites:
            shape = getattr(found.get(site.name), "shape", ())
            pairs = list(zip(site.traced_shape, shape, strict=False)) if len(shape) == len(site.traced_shape) else []
            along = tuple(i - len(pairs) for i, pair in enumerate(pairs) if pair == (n_columns, n_columns + 1))
            if along:
                axes[site.name] = along
        return axes

    def param_shapes(self, arrays: Abstract, static: Mapping[str, object], spec: KernelSpec) -> dict[str, Any]:
        """Return name to the tree of shapes of each parameter and module."""
        shapes, _ = traced_shapes(self.kernel, arrays, static, self.signature.param_input, spec.row_plates)
        return {name: shapes[name] for name in spec.param_sites if name in shapes}

    def _read_anew(self, arrays: Arrays, static: Mapping[str, object]) -> KernelSpec:
        try:
            spec = read_kernel(self.kernel, self.signature, arrays, static)
        except Exception as error:
            if self.spec is not None and self.spec.fixed_size:
                error.add_note(
                    "The kernel took one number of rows before and no other; it may close over arrays as long as "
                    "those data. Pass them as arguments instead."
                )
            raise
        self.spec = merge_specs(self.spec, spec)
        return spec


type _Resized = tuple[int, dict[str, Any], frozenset[str]]
"""Another number of rows, the shapes at it, and the plates as long as those rows."""

_RESERVED_DIMS = frozenset({"chain", "draw", "sample", "pred_id"})


def read_kernel(
    kernel: Kernel,
    signature: KernelSignature,
    arrays: Arrays,
    static: Mapping[str, object],
    faults: list[str] | None = None,
) -> KernelSpec:
    """Trace ``kernel`` abstractly at two numbers of rows and return its structure.

    Whatever the kernel raises is raised as itself, with a note that says what was being done.  Names that cannot stand
    in a result are refused, or added to ``faults`` if it is given.
    """
    n_obs = n_rows(arrays, signature.param_input)
    abstract = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in arrays.items()}
    try:
        row_plates, shapes, resized = _two_sizes(kernel, abstract, static, signature.param_input, n_obs)
        sites = trace_kernel(kernel, abstract, static, signature.param_input, row_plates, shapes)
    except KernelValidationError:
        raise
    except (jax.errors.ConcretizationTypeError, jax.errors.NonConcreteBooleanIndexError) as error:
        msg = (
            f"Kernel `{kernel_name(kernel)}` depends on the values of its arrays, not only on their shapes and "
            "types, so it cannot be compiled. Compute such values beforehand (a number of groups, say) and pass "
            "them as plain Python numbers."
        )
        raise KernelValidationError(msg) from error
    except Exception as error:
        given = ", ".join(f"{name}: {a.dtype}{list(a.shape)}" for name, a in abstract.items())
        error.add_note(f"This was raised by kernel `{kernel_name(kernel)}`, called with {given}.")
        raise
    for fault in _faulty_names(sites, signature):
        if faults is None:
            raise KernelValidationError(fault)
        faults.append(fault)
    if faults is None:
        _check_repeated(kernel, abstract, static, signature.param_input, row_plates, sites)
    if resized is not None and set(resized[1]) != {site.name for site in sites}:
        resized = None  # a site for each row: there is no shape to compare
    read = tuple(_site(site, signature.param_output, n_obs, resized, sites) for site in sites)
    output = signature.param_output
    return KernelSpec(
        sites=read,
        param_input=signature.param_input,
        param_output=output,
        output_observed=any(output in s.data for s in read if s.name in (output, f"{output}_observed")),
        output_scored=any(output in (s.parents if s.role is Role.FACTOR else s.data) for s in read if output in arrays),
        fixed_size=resized is None,
        row_dim=_row_dim(read, output),
        row_plates=row_plates,
        arguments_by_row=frozenset(name for name, array in arrays.items() if array.ndim),
    )


def _check_repeated(
    kernel: Kernel,
    arrays: Mapping[str, jax.ShapeDtypeStruct],
    static: Mapping[str, object],
    param_input: str,
    row_plates: frozenset[str],
    sites: Sequence[TracedSite],
) -> None:
    """Refuse data that broadcast against the rows of their distribution: all would be compared with all."""
    suspects = [s for s in sites if s.data and s.density_shape != s.value.shape]
    if not suspects:
        return
    n_obs = int(arrays[param_input].shape[0])
    grown = {n: jax.ShapeDtypeStruct((n_obs + 1, *a.shape[1:]) if a.shape else (), a.dtype) for n, a in arrays.items()}
    try:
        values, _ = traced_shapes(kernel, grown, static, param_input, row_plates)
        found = {s.name: s for s in trace_kernel(kernel, grown, static, param_input, row_plates, values)}
    except Exception:  # noqa: BLE001, RUF100 (a kernel may take one number of rows only, and then says nothing)
        return
    for site in suspects:
        other = found.get(site.name)
        if other is None:
            continue
        density = sum(a != b for a, b in zip(site.density_shape, other.density_shape, strict=False))
        data = sum(a != b for a, b in zip(site.value.shape, other.value.shape, strict=False))
        if density > data > 0:
            msg = (
                f"Site `{site.name}` of kernel `{kernel_name(kernel)}` has data of shape {site.value.shape} and a "
                f"distribution with which they make {site.density_shape}: each observation would be compared with all "
                "others. Give both one shape: of a column, input or output, pass `y[:, 0]` and not shape (n_obs, 1)."
            )
            raise KernelValidationError(msg)


def _two_sizes(
    kernel: Kernel,
    arrays: Mapping[str, jax.ShapeDtypeStruct],
    static: Mapping[str, object],
    param_input: str,
    n_obs: int,
) -> tuple[frozenset[str], dict[str, Any], _Resized | None]:
    """Return the plates along the rows, and the shapes of all sites at two numbers of rows.

    A plate runs along the rows if it is as long as they are at both.
    """
    shapes, here = traced_shapes(kernel, arrays, static, param_input, None)
    resized = _trace_resized(kernel, arrays, static, param_input, n_obs, None)
    row_plates = here if resized is None else here & resized[2]
    # A plate that happens to be as long as the rows at one of them was taken for one; not so when told.
    if row_plates != here:
        shapes, _ = traced_shapes(kernel, arrays, static, param_input, row_plates)
    if resized is None or row_plates != resized[2]:
        resized = _trace_resized(kernel, arrays, static, param_input, n_obs, row_plates)
    return row_plates, shapes, resized


def _trace_resized(
    kernel: Kernel,
    arrays: Mapping[str, jax.ShapeDtypeStruct],
    static: Mapping[str, object],
    param_input: str,
    n_obs: int,
    row_plates: frozenset[str] | None,
) -> _Resized | None:
    """Return another number of rows and the shapes at it, or None if the kernel takes no other.

    One row more, else twice as many: a kernel may fold its rows into pairs, or close over arrays as long as
    the data.  What it raises then is no news to the user, who did not ask for that size.
    """
    for size in (n_obs + 1, 2 * n_obs):
        grown = {
            # A call of a model has arrays of one length only; what is merely looked at may have others, too.
            name: jax.ShapeDtypeStruct((size, *a.shape[1:]) if a.shape[:1] == (n_obs,) else a.shape, a.dtype)
            for name, a in arrays.items()
        }
        try:
            return size, *traced_shapes(kernel, grown, static, param_input, row_plates)
        except Exception:  # noqa: BLE001, S112, PERF203, RUF100 (a user's kernel may raise anything here)
            continue
    return None


def _site(
    traced: TracedSite,
    output: str,
    n_obs: int,
    resized: _Resized | None,
    sites: Sequence[TracedSite],
) -> Site:
    """Turn a traced site into what the house keeps of it."""
    leaves = jax.tree_util.tree_flatten_with_path(traced.value)[0]
    is_tree = not isinstance(traced.value, jax.ShapeDtypeStruct)
    shape = () if is_tree else tuple(traced.value.shape)
    axes: tuple[int, ...] = ()
    named: tuple[int | str, ...] = shape
    if resized is not None and not is_tree:
        size, shapes, _ = resized
        pairs = list(zip(shape, shapes[traced.name].shape, strict=True))
        axes = tuple(i for i, (here, there) in enumerate(pairs) if here != there)
        named = tuple(_symbol(here, there, n_obs, size) for here, there in pairs)
    elif not is_tree:
        axes = _fixed_rows(traced, output, n_obs, sites)
        named = tuple("n_obs" if i in axes else size for i, size in enumerate(shape))
    # The sites of one `scan` are taken to depend on one another: the graph inside it is not seen.
    siblings = {s.name for s in sites if traced.scan and s.scan == traced.scan}
    n_batch = len(shape) - traced.event_dim
    return Site(
        name=traced.name,
        role=_role(traced, output),
        shape=named,
        traced_shape=shape,
        row_axes=axes,
        maybe_rows=resized is None and not axes and n_obs in shape and traced.kind == "sample",
        in_control_flow=traced.scan > 0,
        dtype=str(leaves[0][1].dtype) if leaves else "",
        distribution=traced.distribution,
        event_dim=traced.event_dim,
        core_event_dim=traced.core_event_dim,
        plates=tuple((name, n_batch + dim) for name, dim in traced.frames if n_batch + dim >= 0),
        parents=(traced.parents | siblings) - {traced.name},
        data=traced.data if traced.is_observed and not traced.is_factor else frozenset(),
        drawable=traced.drawable,
        is_discrete=traced.is_discrete,
        n_values=traced.n_values,
        leaves=tuple((jax.tree_util.keystr(p), tuple(x.shape)) for p, x in leaves) if is_tree else (),
    )


def _fixed_rows(traced: TracedSite, output: str, n_obs: int, sites: Sequence[TracedSite]) -> tuple[int, ...]:
    """Return the row axes of a site where the kernel takes one number of rows only.

    The plates around the output that are as long as the data are the rows; a site that is computed has its rows
    first.  Of a latent outside those plates nothing is said: see ``Site.maybe_rows``.
    """
    shape = traced.value.shape
    around = {name for s in sites if s.name in (output, f"{output}_observed") for name, _ in s.frames}
    start = len(shape) - traced.event_dim
    axes = tuple(start + dim for name, dim in traced.frames if name in around and shape[start + dim] == n_obs)
    computed = traced.kind == "deterministic" or traced.name == output
    return axes or ((0,) if computed and shape[:1] == (n_obs,) else ())


def _symbol(here: int, there: int, n_obs: int, size: int) -> int | str:
    """Name an axis that is ``here`` long for ``n_obs`` rows and ``there`` for ``size``."""
    if here == there:
        return here
    if (here, there) == (n_obs, size):
        return "n_obs"
    slope, rest = divmod(there - here, size - n_obs)
    offset = here - slope * n_obs
    if rest:
        return "f(n_obs)"
    scaled = "n_obs" if slope == 1 else f"{slope} n_obs"
    return scaled if offset == 0 else f"{scaled} {'+' if offset > 0 else '-'} {abs(offset)}"


def _role(traced: TracedSite, output: str) -> Role:
    """Return the role of a site; the output is observed by what it is for, with or without data."""
    if traced.kind != "sample":
        return Role(traced.kind)
    if traced.is_factor and traced.is_observed:
        return Role.FACTOR
    # NumPyro splits `sample(output, ..., obs_mask=)` in two; the `_observed` half is where the data go.
    if traced.is_observed or traced.name in (output, f"{output}_observed"):
        return Role.OBSERVED
    return Role.LATENT


def _row_dim(sites: Sequence[Site], output: str) -> str:
    """Name the dimension along the rows after the plate around them, the output's first."""
    ordered = sorted(sites, key=lambda site: site.name not in (output, f"{output}_observed"))
    for site in ordered:
        for plate, axis in site.plates:
            if site.shape[axis] == "n_obs":
                return plate
    names = {site.name for site in sites}
    return next(name for name in ("obs", "row", "observation", "obs_id") if name not in names)


def is_storable(name: object) -> bool:
    """Return whether a site can have this name: results are stored under it, in a directory of its own."""
    return isinstance(name, str) and bool(name) and "/" not in name and not re.fullmatch(r"\.{1,2}|__.*", name)


def _faulty_names(sites: Sequence[TracedSite], signature: KernelSignature) -> Iterator[str]:
    """Yield what is wrong with names that cannot stand in a result."""
    plates = {name for site in sites for name, _ in site.frames}
    for site in sites:
        name = site.name
        if not is_storable(name):
            yield (
                f"Site name {name!r} cannot be stored: a name must not be empty, '.' or '..', begin with '__', "
                "or hold a '/'. Rename the site; `random_nnx_module` and `random_eqx_module` take `scope_divider='.'`."
            )
        elif name in (signature.param_input, *signature.extra):
            yield (
                f"Site `{name}` has the name of a kernel parameter, so an intervention on `{name}` could mean "
                "either. Rename the site or the parameter."
            )
        elif name in plates or name in _RESERVED_DIMS:
            yield (
                f"Site `{name}` has the name of a dimension of the results (a plate, or one of "
                f"{', '.join(sorted(_RESERVED_DIMS))}). Rename the site or the plate."
            )
    reserved = sorted(plates & _RESERVED_DIMS)
    if reserved:
        yield f"Plate name `{reserved[0]}` is taken by the sampling dimensions of every result. Rename the plate."
