"""Private methods of a model that average scenarios over rows."""

__all__ = ["ComparingMethods"]

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import jax

import aimz
from aimz.data import KernelArguments
from aimz.engine import (
    InputSource,
    Panel,
    StreamingOptions,
    check_same_rows,
    omit_rows_with_nan,
    open_arguments,
    read_groups_of,
    share_rows,
)
from aimz.kernel import KernelSpec
from aimz.methods.evidence import Evidence, EvidenceMethods
from aimz.methods.results import dims_without_rows
from aimz.types import EffectKind

if TYPE_CHECKING:
    import xarray as xr

    from aimz.output import Contrast


class ComparingMethods(EvidenceMethods):
    """Methods that average scenarios over rows."""

    def _open_scenarios(
        self, requested: Mapping[Any, dict[str, Any]], evidence: Evidence | None, shared: Mapping[str, Any]
    ) -> tuple[dict[Any, InputSource], dict[Any, KernelArguments]]:
        """Return the source of the rows and the arguments of each scenario."""
        if evidence is not None:
            return self._open_given(requested, evidence, shared)
        share_rows(requested, self._engine.parameters)
        return open_arguments(self._engine, requested, self._local_rows())

    def _panel_of(self, call: KernelArguments, spec: KernelSpec) -> Panel:
        """Return the axes of the output, with the labels that the user and the arguments give them."""
        labels = {dim: names for axes in call.axes.values() for dim, names in axes if names is not None}
        labels.update(self._results.dims_and_coords[1] or {})
        return Panel.of(spec, self._results.site_dims(spec), labels)

    def _compare(
        self,
        requested: Mapping[Any, Mapping[str, Any]],
        sources: Mapping[Any, InputSource],
        calls: Mapping[Any, KernelArguments],
        table: Any,
        *,
        baseline: Any,
        by: Any,
        weights: Any,
        contrast: "Contrast",
        kind: EffectKind,
        nan_policy: Literal["propagate", "omit"],
        return_sites: str | Iterable[str] | None,
        key: jax.Array | None,
        options: StreamingOptions,
        evidence: Evidence | None = None,
    ) -> "xr.DataTree":
        """Return the tree of a comparison of scenarios whose arguments have been opened."""
        spec = self._engine.read_spec(calls[baseline])
        panel = self._panel_of(calls[baseline], spec)
        groups = read_groups_of(by, weights, table, calls[baseline], sources[baseline], panel)
        fitted = {name: one["in_sample"] for name, one in requested.items()}
        check_same_rows([calls[baseline], *calls.values()], [fitted[baseline], *fitted.values()])
        sites = self._engine.read_return_sites(spec, return_sites)
        requested = {name: {**one, "return_sites": sites} for name, one in requested.items()}
        if evidence is None:
            calls, prepared = self._prepare_scenarios(requested, sources, calls, kind=kind)
            again = None
        else:
            again = self._counterfactuals(sources[baseline], requested[baseline], requested, evidence)
            prepared = again(calls)
        if nan_policy == "omit":
            groups = omit_rows_with_nan(groups, prepared.values())
        axes = self._results.axes_of(prepared[baseline])
        panel_axes = panel.site_axes(prepared[baseline].spec, axes, groups.panel)
        dims = dims_without_rows(prepared[baseline], axes, panel_axes)
        aimz.output.check_by(groups.labels, dims)
        aimz.output.check_contrast(contrast, dims, groups.labels)
        request = self._request("compare_scenarios", sources[baseline], calls, prepared, options, groups)
        with self._key(key) as key:
            request = replace(request, baseline=baseline, panel_axes=panel_axes, key=key, prepare_again=again)
            return self._results.averages(self._sum_over_rows(request), request, contrast)
