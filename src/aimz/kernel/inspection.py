"""Inspection of a kernel: a :class:`KernelSpec` for the arguments of a call, cached by shapes."""

__all__ = ["InputColumns", "KernelReader", "read_kernel"]

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax

from aimz.errors import KernelValidationError
from aimz.kernel.caching import LRUCache, freeze
from aimz.kernel.column_use import columns_of_sites
from aimz.kernel.handler_stack import isolated
from aimz.kernel.signature import KernelSignature, kernel_name
from aimz.kernel.site_names import name_faults
from aimz.kernel.spec import KernelSpec, Role, Site, merge_specs
from aimz.kernel.tracing import Abstract, AbstractKernel, KernelTrace
from aimz.types import Arrays, Kernel


class InputColumns(NamedTuple):
    """The columns of an input with named columns, and the site axes along them."""

    names: tuple[str, ...]
    """Names of the columns."""
    axes: Mapping[str, tuple[int, ...]]
    """Axes, by site name, that grow with the number of columns, counted from the last, -1."""


class KernelReader:
    """Reads the structure of one kernel, once for each kind of call, and merges the results of all calls."""

    def __init__(self, kernel: Kernel, signature: KernelSignature) -> None:
        self.kernel = kernel
        self.signature = signature
        self.spec: KernelSpec | None = None
        """Structure merged over all calls; None before the first call."""
        self._specs = LRUCache[KernelSpec]()
        self._columns = LRUCache[InputColumns]()
        self._column_uses = LRUCache[dict[str, frozenset[int]]]()

    def read(self, arrays: Arrays, static: Mapping[str, object]) -> KernelSpec:
        """Return the structure of the kernel in a call with these arguments."""
        return self._specs.get(_call_key(arrays, static), lambda: self._read_uncached(arrays, static))

    def columns(self, names: tuple[str, ...], arrays: Arrays, static: Mapping[str, object]) -> InputColumns:
        """Return the site axes along the columns of the input: the axes that change if a column is added."""

        def read() -> InputColumns:
            return InputColumns(names, self._column_axes(arrays, static))

        return self._columns.get((names, _call_key(arrays, static)), read)

    def columns_of_sites(self, arrays: Arrays, static: Mapping[str, object]) -> dict[str, frozenset[int]]:
        """Return the columns of a two-dimensional input that each site depends on directly."""

        def read() -> dict[str, frozenset[int]]:
            spec, run = self.read(arrays, static), AbstractKernel(self.kernel, self.signature, static)
            return isolated(columns_of_sites)(run, _abstract(arrays), spec.row_plates)

        return self._column_uses.get(_call_key(arrays, static), read)

    def categories(
        self, name: str, labels: tuple[Any, ...], count: str | None, arrays: Arrays, static: Mapping[str, object]
    ) -> InputColumns:
        """Return the site axes along the categories of argument ``name``, whose number is the argument ``count``.

        Without it they are the axes along a plate with the name of the argument, or its plural.
        """

        def read() -> InputColumns:
            spec = self.read(arrays, static)
            if count is not None:
                more = {**static, count: len(labels) + 1}
                return InputColumns(labels, self._growing_axes(spec, _abstract(arrays), more, len(labels)))
            plates = {name, f"{name}s", f"{name}es", f"{name[:-1]}ies"}
            axes = {
                site.name: tuple(axis - len(site.traced_shape) for plate, axis in site.plates if plate in plates)
                for site in spec.sites
            }
            sizes = {site.name: site.traced_shape for site in spec.sites}
            axes = {site: tuple(i for i in own if sizes[site][i] == len(labels)) for site, own in axes.items()}
            return InputColumns(labels, {site: own for site, own in axes.items() if own})

        return self._columns.get((name, labels, count, _call_key(arrays, static)), read)

    def growing_axes(
        self, arrays: Arrays, static: Mapping[str, object], names: Sequence[str], axis: int
    ) -> dict[str, int]:
        """Return the axis of each site that is longer by one if the arguments ``names`` are, along ``axis``."""
        spec, abstract = self.read(arrays, static), _abstract(arrays)
        for name in names:
            longer = list(abstract[name].shape)
            longer[axis] += 1
            abstract[name] = jax.ShapeDtypeStruct(tuple(longer), abstract[name].dtype)
        found = self._growing_axes(spec, abstract, static)
        return {name: len(spec[name].traced_shape) + own[0] for name, own in found.items() if len(own) == 1}

    def _column_axes(self, arrays: Arrays, static: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
        spec, param_input = self.read(arrays, static), self.signature.param_input
        abstract = _abstract(arrays)
        n_rows, n_columns = abstract[param_input].shape
        abstract[param_input] = jax.ShapeDtypeStruct((n_rows, n_columns + 1), abstract[param_input].dtype)
        return self._growing_axes(spec, abstract, static, n_columns)

    def _growing_axes(
        self,
        spec: KernelSpec,
        abstract: dict[str, jax.ShapeDtypeStruct],
        static: Mapping[str, object],
        size: int | None = None,
    ) -> dict[str, tuple[int, ...]]:
        """Return the axes of length ``size``, by default of any, that are longer by one with other arguments."""
        try:
            found, _ = AbstractKernel(self.kernel, self.signature, static).shapes(abstract, spec.row_plates)
        except Exception:  # noqa: BLE001, RUF100 (a kernel may be written for one size)
            return {}
        axes: dict[str, tuple[int, ...]] = {}
        for site in spec.sites:
            shape = getattr(found.get(site.name), "shape", ())
            pairs = list(zip(site.traced_shape, shape, strict=False)) if len(shape) == len(site.traced_shape) else []
            grown = [i - len(pairs) for i, (here, there) in enumerate(pairs) if there == here + 1]
            along = tuple(i for i in grown if size in (None, site.traced_shape[i]))
            if along:
                axes[site.name] = along
        return axes

    def param_shapes(self, arrays: Abstract, static: Mapping[str, object], spec: KernelSpec) -> dict[str, Any]:
        """Return the tree of shapes of each parameter and module by name."""
        shapes, _ = AbstractKernel(self.kernel, self.signature, static).shapes(arrays, spec.row_plates)
        return {name: shapes[name] for name in spec.param_sites if name in shapes}

    @isolated  # so that the structures of concurrent calls are merged one after another
    def _read_uncached(self, arrays: Arrays, static: Mapping[str, object]) -> KernelSpec:
        try:
            spec = read_kernel(self.kernel, self.signature, arrays, static)
        except Exception as error:
            if self.spec is not None and self.spec.fixed_size:
                error.add_note(
                    "The kernel accepted one number of rows before and no other; it may close over arrays as long as "
                    "those data. Pass them as arguments instead."
                )
            raise
        self.spec = merge_specs(self.spec, spec)
        return spec


def _call_key(arrays: Arrays, static: Mapping[str, object]) -> Hashable:
    """Return a key that two calls of equal shapes, dtypes and other arguments share."""
    shapes = tuple((name, array.shape, str(array.dtype)) for name, array in sorted(arrays.items()))
    return shapes, freeze(static)


def _abstract(arrays: Arrays) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}


class _Resized(NamedTuple):
    """The shapes of a kernel's sites at another number of rows."""

    n_rows: int
    shapes: dict[str, Any]
    plates: frozenset[str]
    """Names of the plates that are as long as the rows."""


def read_kernel(
    kernel: Kernel,
    signature: KernelSignature,
    arrays: Arrays,
    static: Mapping[str, object],
    faults: list[str] | None = None,
) -> KernelSpec:
    """Trace ``kernel`` abstractly at two numbers of rows and return its structure.

    An exception of the kernel is raised unchanged, with a note about the call. A site or plate name that cannot be
    stored raises an error, or is added to ``faults`` if that is given.
    """
    run = AbstractKernel(kernel, signature, static)
    n_obs, abstract = run.n_rows(arrays), _abstract(arrays)
    try:
        row_plates, shapes, resized = _two_sizes(run, abstract, n_obs)
        trace = run.trace(abstract, row_plates, shapes)
    except KernelValidationError:
        raise
    except (jax.errors.ConcretizationTypeError, jax.errors.NonConcreteBooleanIndexError) as error:
        msg = (
            f"Kernel `{kernel_name(kernel)}` depends on the values of its arrays, not only on their shapes and "
            "types, so it cannot be compiled. Compute such values beforehand (the number of groups, for example) and "
            "pass them as plain Python numbers."
        )
        raise KernelValidationError(msg) from error
    except Exception as error:
        given = ", ".join(f"{name}: {a.dtype}{list(a.shape)}" for name, a in abstract.items())
        error.add_note(f"This was raised by kernel `{kernel_name(kernel)}`, called with {given}.")
        raise
    for fault in name_faults(trace, signature):
        if faults is None:
            raise KernelValidationError(fault)
        faults.append(fault)
    if faults is None and trace.is_multinomial:
        msg = (
            f"The output `{signature.param_output}` of kernel `{kernel_name(kernel)}` is a multinomial whose number of "
            "trials is an array, so it cannot be drawn in a compiled program. Pass `total_count_max=`, the largest "
            "number of trials, to `Multinomial`."
        )
        raise KernelValidationError(msg)
    if faults is None:
        _check_broadcast_data(run, abstract, row_plates, trace)
    if resized is not None and set(resized.shapes) != {site.name for site in trace.sites}:
        resized = None  # the kernel makes a site for each row, so there is no shape to compare
    output = signature.param_output
    if resized is None:
        sites = _sites_of_fixed_size(trace.sites, output, n_obs)
    else:
        sites = tuple(_with_row_axes(site, n_obs, resized) for site in trace.sites)
    return KernelSpec(
        sites=sites,
        param_input=signature.param_input,
        param_output=output,
        output_observed=any(output in s.data for s in sites if s.name in (output, f"{output}_observed")),
        output_scored=any(
            output in (s.parents if s.role is Role.FACTOR else s.data) for s in sites if output in arrays
        ),
        fixed_size=resized is None,
        row_dim=_row_dim(sites, output),
        row_plates=row_plates,
        arguments_by_row=frozenset(name for name, array in arrays.items() if array.ndim),
        output_support=trace.support,
    )


def _check_broadcast_data(
    run: AbstractKernel, arrays: Abstract, row_plates: frozenset[str], trace: KernelTrace
) -> None:
    """Raise if data broadcast against the rows of their distribution, so that all rows are compared with all."""
    suspects = [s for s in trace.sites if s.data and trace.density_shapes[s.name] != s.traced_shape]
    if not suspects:
        return
    n_obs = run.n_rows(arrays)
    grown = {n: jax.ShapeDtypeStruct((n_obs + 1, *a.shape[1:]) if a.shape else (), a.dtype) for n, a in arrays.items()}
    try:
        shapes, _ = run.shapes(grown, row_plates)
        larger = run.trace(grown, row_plates, shapes)
    except Exception:  # noqa: BLE001, RUF100 (a kernel that accepts one number of rows only cannot be compared)
        return
    for site in suspects:
        if site.name not in larger.density_shapes:
            continue
        here, there = trace.density_shapes[site.name], larger.density_shapes[site.name]
        density = sum(a != b for a, b in zip(here, there, strict=False))
        data = sum(a != b for a, b in zip(site.traced_shape, shapes[site.name].shape, strict=False))
        if density > data > 0:
            msg = (
                f"Site `{site.name}` of kernel `{kernel_name(run.kernel)}` has data of shape {site.traced_shape}, "
                f"which broadcast with the distribution to {here}: each observation would be compared with all "
                "others. Give both the same shape: for a column, input or output, pass `y[:, 0]` instead of shape "
                "(n_obs, 1)."
            )
            raise KernelValidationError(msg)


def _two_sizes(
    run: AbstractKernel, arrays: Abstract, n_obs: int
) -> tuple[frozenset[str], dict[str, Any], _Resized | None]:
    """Return the plates along the rows, and the shapes of all sites at two numbers of rows.

    A plate runs along the rows if it is as long as the rows at both.
    """
    shapes, plates = run.shapes(arrays, None)
    resized = _shapes_resized(run, arrays, n_obs, None)
    row_plates = plates if resized is None else plates & resized.plates
    # A plate that is by coincidence as long as the rows at one size was treated as a row plate: trace again.
    if row_plates != plates:
        shapes, _ = run.shapes(arrays, row_plates)
    if resized is None or row_plates != resized.plates:
        resized = _shapes_resized(run, arrays, n_obs, row_plates)
    return row_plates, shapes, resized


def _shapes_resized(
    run: AbstractKernel, arrays: Abstract, n_obs: int, row_plates: frozenset[str] | None
) -> _Resized | None:
    """Return the shapes at another number of rows, or None if the kernel accepts no other.

    One more row is tried first, then twice as many: a kernel may fold its rows into pairs, or close over arrays as long
    as the data. An exception at a size that the user did not pass is not reported.
    """
    for size in (n_obs + 1, 2 * n_obs):
        grown = {
            # In a call of a model all arrays have one length; in `validate_model` they may have others, too.
            name: jax.ShapeDtypeStruct((size, *a.shape[1:]) if a.shape[:1] == (n_obs,) else a.shape, a.dtype)
            for name, a in arrays.items()
        }
        try:
            return _Resized(size, *run.shapes(grown, row_plates))
        except Exception:  # noqa: BLE001, S112, PERF203, RUF100 (a kernel may raise anything)
            continue
    return None


def _with_row_axes(site: Site, n_obs: int, resized: _Resized) -> Site:
    """Return a site with its row axes, the axes that differ between the two numbers of rows."""
    if site.leaves or not site.dtype:  # a tree of parameters
        return site
    pairs = list(zip(site.traced_shape, resized.shapes[site.name].shape, strict=True))
    return replace(
        site,
        shape=tuple(_axis_length(here, there, n_obs, resized.n_rows) for here, there in pairs),
        row_axes=tuple(i for i, (here, there) in enumerate(pairs) if here != there),
    )


def _sites_of_fixed_size(sites: Sequence[Site], output: str, n_obs: int) -> tuple[Site, ...]:
    """Return the sites of a kernel that accepts one number of rows, with the row axes that can be inferred.

    The plates around the output that are as long as the data are the rows; the rows of a computed site are its first
    axis. Nothing is known about a latent outside of those plates: see ``Site.maybe_rows``.
    """
    around = {name for site in sites if site.name in (output, f"{output}_observed") for name, _ in site.plates}

    def with_rows(site: Site) -> Site:
        axes = tuple(axis for name, axis in site.plates if name in around and site.shape[axis] == n_obs)
        computed = site.role is Role.DETERMINISTIC or site.name == output
        if not axes and computed and site.shape[:1] == (n_obs,):
            axes = (0,)
        return replace(
            site,
            shape=tuple("n_obs" if i in axes else size for i, size in enumerate(site.shape)),
            row_axes=axes,
            maybe_rows=not axes and n_obs in site.shape and (site.is_sample or site.role is Role.FACTOR),
        )

    return tuple(map(with_rows, sites))


def _axis_length(here: int, there: int, n_obs: int, n_rows: int) -> int | str:
    """Return the length of an axis in terms of ``n_obs``, from its lengths for ``n_obs`` and ``n_rows`` rows."""
    if here == there:
        return here
    if (here, there) == (n_obs, n_rows):
        return "n_obs"
    slope, rest = divmod(there - here, n_rows - n_obs)
    offset = here - slope * n_obs
    if rest:
        return "f(n_obs)"
    scaled = "n_obs" if slope == 1 else f"{slope} n_obs"
    return scaled if offset == 0 else f"{scaled} {'+' if offset > 0 else '-'} {abs(offset)}"


def _row_dim(sites: Sequence[Site], output: str) -> str:
    """Return the name of the plate along the rows, preferably around the output, or a free default."""
    ordered = sorted(sites, key=lambda site: site.name not in (output, f"{output}_observed"))
    for site in ordered:
        for plate, axis in site.plates:
            if site.shape[axis] == "n_obs":
                return plate
    names = {site.name for site in sites}
    return next(name for name in ("obs", "row", "observation", "obs_id") if name not in names)
