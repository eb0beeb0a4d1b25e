"""Panels: outputs with further axes, such as times, along which `by=` and `weights=` may vary within a row."""

__all__ = ["Panel"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np

from aimz.kernel import KernelSpec, outcome_site


@dataclass(frozen=True)
class Panel:
    """Axes of the output, along which labels and weights may vary."""

    output: str
    axes: tuple[str, ...] = ()
    """Names of the axes of one draw of the output, rows included."""
    row_axis: int = 0
    sizes: Mapping[str, int] = field(default_factory=dict)
    """Length of each axis but that of the rows, by its name."""
    labels: Mapping[str, Any] = field(default_factory=dict)
    """Labels of dimensions, as far as they are known."""

    @staticmethod
    def of(spec: KernelSpec, axes: Mapping[str, tuple[str, ...]], labels: Mapping[str, Any]) -> "Panel":
        """Return the panel of an output; ``axes`` are the names of the axes of each site."""
        output = spec.get(spec.param_output) or spec.get(outcome_site(spec.param_output, spec))
        if output is None or not output.row_axes:
            return Panel(spec.param_output)
        names, row_axis = axes[output.name], output.row_axes[0]
        sizes = dict(zip(names, output.traced_shape, strict=True))
        del sizes[names[row_axis]]
        return Panel(output.name, names, row_axis, sizes, labels)

    @property
    def row_dim(self) -> str:
        """Name of the dimension of the rows."""
        return self.axes[self.row_axis] if self.axes else ""

    def read(self, given: Any, option: str, n_obs: int | None) -> Any:
        """Return values as they are, if there is one for each row, else an array ``(n_obs, *sizes)``.

        Axes along which values do not vary have length 1.  ``n_obs`` is None if the number of rows is not known.

        Raises
        ------
        ValueError
            If the axes of the values are not axes of the output, or can be several of them.
        """
        dims = getattr(given, "dims", None)
        if isinstance(dims, tuple):
            if len(dims) == 1 and dims[0] not in self.sizes:
                return given
            return self._read_named(given, option, n_obs)
        if np.ndim(given) == 1 and hasattr(given, "dtype"):
            return given
        array = np.asanyarray(given)
        return array if array.ndim == 1 else self._spread(array, self._match(array.shape, option))

    def _match(self, shape: tuple[int, ...], option: str) -> tuple[str, ...]:
        """Return the dimensions of the output that the axes after the first are."""
        fits = [
            dims
            for dims in combinations(self.sizes, max(0, len(shape) - 1))
            if tuple(self.sizes[dim] for dim in dims) == shape[1:]
        ]
        if len(shape) == 0 or len(fits) != 1:
            reason = "could run along several of its axes" if len(fits) > 1 else "does not fit"
            value = "number" if option == "weights" else "label"
            entry = f", or for each entry of `{self.output}`" if self.sizes else ""
            dims = (self.row_dim, *self.sizes)
            named = f", or an xarray.DataArray with dimensions among {dims}" if self.sizes else ""
            msg = (
                f"`{option}` must have one {value} for each row{entry}; got shape {shape}, which {reason}: "
                f"`{self.output}` has shape {('n_obs', *self.sizes.values())}. Pass an array of n_obs{named}."
            )
            raise ValueError(msg)
        return fits[0]

    def _read_named(self, given: Any, option: str, n_obs: int | None) -> np.ndarray:
        """Return the values of an xarray array whose dimensions are matched by name."""
        rows = [dim for dim in given.dims if dim not in self.sizes]
        if len(rows) > 1 or (rows and self.row_dim in given.dims and rows[0] != self.row_dim):
            msg = (
                f"`{option}` must have the dimension of the rows, and dimensions of `{self.output}`: "
                f"{', '.join(self.sizes) or 'none'}; got {given.dims}. Rename its dimensions, or name the "
                "dimensions of the output by `dims=` of the model."
            )
            raise ValueError(msg)
        dims = tuple(dim for dim in self.sizes if dim in given.dims)
        given = given.transpose(*rows, *dims)
        for dim in dims:
            given = self._aligned(given, dim, option)
        array = np.asanyarray(given.data)
        if not rows:
            if n_obs is None:
                msg = (
                    f"`{option}` with dimensions {given.dims} needs the number of rows, which is known only when all "
                    f"batches have been read. Pass an array with the dimension {self.row_dim!r} as well."
                )
                raise ValueError(msg)
            array = np.broadcast_to(array, (n_obs, *array.shape))
        if array.shape[1:] != tuple(self.sizes[dim] for dim in dims):
            found = dict(zip(given.dims, given.shape, strict=True))
            msg = (
                f"`{option}` must have the lengths of `{self.output}` along its dimensions, {dict(self.sizes)}; got "
                f"{found}. Pass a value for each of them."
            )
            raise ValueError(msg)
        return self._spread(array, dims)

    def _aligned(self, given: Any, dim: str, option: str) -> Any:
        """Return an xarray array with its labels along ``dim`` in the order of the model's labels."""
        index, known = given.indexes.get(dim), self.labels.get(dim)
        if index is None or known is None:
            return given
        here, there = list(map(str, index)), list(map(str, np.asarray(known)))
        if here == there:
            return given
        missing = [label for label in there if label not in here]
        if missing or len(set(here)) < len(here):
            msg = (
                f"`{option}` has {len(here)} labels along `{dim}`, of which {len(missing)} of {len(there)} are missing "
                f"or repeated (the first missing one is {next(iter(missing), None)!r}). Pass a value for each label of "
                f"the model, or drop the labels: `.drop_vars({dim!r})`."
            )
            raise ValueError(msg)
        return given.isel({dim: [here.index(label) for label in there]})

    def _spread(self, array: np.ndarray, dims: tuple[str, ...]) -> np.ndarray:
        """Return an array with an axis of length 1 for each dimension that it does not have."""
        sizes = (size if dim in dims else 1 for dim, size in self.sizes.items())
        return array.reshape(array.shape[0], *sizes)

    def site_axes(
        self, spec: KernelSpec, axes: Mapping[str, tuple[str, ...]], dims: tuple[str, ...]
    ) -> dict[str, tuple[int | None, ...]]:
        """Return the axis of each site with rows along each of ``dims``; None if its value is the same along it.

        Raises
        ------
        ValueError
            If a site has an axis that may be one of these dimensions, but has no name.
        """
        found: dict[str, tuple[int | None, ...]] = {}
        output = spec.get(self.output)
        for name, own in axes.items() if dims else ():
            site, names = spec[name], own
            if not site.row_axes:
                continue
            unnamed = [dim for i, dim in enumerate(own) if dim == f"{name}_dim_{i}" and i not in site.row_axes]
            missing = [dim for dim in dims if dim not in own]
            if missing and unnamed:
                shape = None if output is None else (output.traced_shape, output.row_axes)
                if shape != (site.traced_shape, site.row_axes):
                    msg = (
                        f"Averages over `{missing[0]}` need to know which axis of `{name}` it is; got axes {own} of "
                        f"shape {site.traced_shape}. Name them by `dims={{{name!r}: [...]}}` of the model, or leave "
                        "the site out of `return_sites`."
                    )
                    raise ValueError(msg)
                names = self.axes
            found[name] = tuple(names.index(dim) if dim in names else None for dim in dims)
        return found
