"""Build trees with the user's labels from computed arrays."""

__all__ = ["ResultBuilder", "ScenarioSums", "dims_without_rows"]

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

import aimz
from aimz.data import Posterior
from aimz.engine import PredictionRequest, PreparedCall
from aimz.kernel import InputColumns, KernelSpec, outcome_site
from aimz.statistics import Reduction

if TYPE_CHECKING:
    import jax
    import xarray as xr

    from aimz.output import Contrast, DrawsInfo, GroupTemplate


@dataclass(frozen=True)
class ScenarioSums:
    """Sums of each site over rows, under each scenario."""

    sums: Mapping[str, np.ndarray]
    """Site to ``(n_draws, n_scenarios, ..., n_cells)``; without the last axis for a site without rows."""
    with_rows: frozenset[str]
    """Sites that were summed over rows."""
    n_obs: int
    row_block: int


def _support_of(comparison: PredictionRequest) -> dict[str, str]:
    """Return the verdict on the rows of all scenarios, as an attribute."""
    texts = dict.fromkeys(one.attrs["support"] for one in comparison.scenarios.values() if "support" in one.attrs)
    order = ("extrapolates", "not known", "not checked", "supported")
    ranked = sorted(texts, key=lambda text: order.index(text.partition(":")[0]))
    return {"support": ranked[0]} if ranked else {}


def dims_without_rows(
    prepared: PreparedCall, axes: Mapping[str, tuple[str, ...]], panel_axes: Mapping[str, tuple[int | None, ...]]
) -> dict[str, tuple[str, ...]]:
    """Return the names of the axes of each return site that are not averaged over; ``axes`` are all of them."""
    rows = prepared.plan.row_axes
    return {
        name: tuple(axis for i, axis in enumerate(own) if i not in (rows.get(name), *panel_axes.get(name, ())))
        for name, own in axes.items()
    }


class ResultBuilder:
    """Builder of datasets and trees with the user's ``dims`` and ``coords``.

    :mod:`aimz.output` is imported with the first result, because it imports xarray and pandas.
    """

    def __init__(self, dims: Mapping[str, Sequence[str]] | None, coords: Mapping[str, Any] | None) -> None:
        self.dims_and_coords = deepcopy((dims, coords))
        """``dims`` and ``coords`` of the user, who may change the originals."""
        if dims is not None or coords is not None:
            _ = self._labels  # raises if they are wrong

    @cached_property
    def _labels(self) -> Any:
        """The user's labels, checked."""
        return aimz.output.Labels.check(*self.dims_and_coords)

    def _labels_of(self, prepared: PreparedCall) -> Any:
        """Return the labels of a call, including its row and column labels."""
        labels = replace(
            self._labels,
            coords={**self._labels.coords, **prepared.step_labels},
            columns=prepared.columns,
            index=prepared.call.index,
            groups=prepared.groups,
        )
        plates = {plate for entries in prepared.new_entries.values() for plate in entries}
        return labels.with_new_entries(prepared.spec, plates, prepared.call.n_obs) if plates else labels

    def check(self, prepared: PreparedCall) -> None:
        """Raise if the labels do not fit the sites of a call, before it is computed."""
        if self.dims_and_coords[0]:
            self.axes_of(prepared)

    def posterior(
        self,
        posterior: Posterior,
        spec: KernelSpec | None,
        columns: InputColumns | None,
        index: Any,
        groups: Mapping[str, InputColumns],
    ) -> "dict[str, xr.Dataset]":
        """Return the group ``posterior``, and ``sample_stats`` of MCMC, with the labels of the input."""
        spec = spec or KernelSpec(sites=(), param_input="X", param_output="y")
        rows = [
            posterior.draws[name].shape[1 + spec[name].row_axes[0]]
            for name in spec.local_sites
            if name in posterior.draws
        ]
        info = aimz.output.DrawsInfo(spec, n_obs=rows[0] if rows else 0, num_chains=posterior.num_chains)
        labels = replace(self._labels, columns=columns, index=index, groups=groups)
        found = {"posterior": aimz.output.draws_dataset(posterior.draws, info, labels)}
        if posterior.sample_stats:
            found["sample_stats"] = aimz.output.stats_dataset(posterior.sample_stats)
        return found

    def row_dim(self, prepared: PreparedCall) -> str:
        """Return the name of the dimension along the rows."""
        return str(self._labels.row_dim(prepared.spec))

    def frame(
        self,
        prepared: PreparedCall,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        key: str | None,
        row_block: int,
        statistics: Reduction | None = None,
        **attrs: Any,
    ) -> "GroupTemplate":
        """Return the group of a call without its arrays; ``row_block`` is the number of rows of a block."""
        info = self._info(prepared, key, row_block=row_block, **attrs)
        return aimz.output.group_template(info, shapes, self._labels_of(prepared), statistics)

    def averages(self, compared: ScenarioSums, comparison: PredictionRequest, contrast: "Contrast") -> "xr.DataTree":
        """Return the tree of a comparison of scenarios."""
        groups, prepared = comparison.groups, comparison.first
        assert groups is not None
        labels, axes = self._labels_of(prepared), self.axes_of(prepared)
        along = {dim: np.asarray(names) for dim, names in labels.along_input(axes).items()}
        anew = {name for one in comparison.scenarios.values() for name in one.attrs.get("drawn_anew", ())}
        interventions = {str(name): json.loads(one.attrs["intervention"]) for name, one in comparison.scenarios.items()}
        drawn = {name for one in comparison.scenarios.values() for name in one.attrs.get("drawn_outcomes", ())}
        expected = {name for one in comparison.scenarios.values() for name in one.plan.expected}
        given = prepared.settings.with_output
        about_noise = {
            name: value
            for one in comparison.scenarios.values()
            for name, value in one.attrs.items()
            if name in ("abducted", "coupling")
        }
        averages = aimz.output.Averages(
            sums=compared.sums,
            dims=dims_without_rows(prepared, axes, comparison.panel_axes),
            with_rows=compared.with_rows,
            scenarios=tuple(comparison.scenarios),
            baseline=comparison.baseline,
            num_chains=prepared.n_chains,
            labels=groups.labels,
            rows=groups.rows(compared.n_obs),
            weight=groups.weight(compared.n_obs),
            weight_scale=groups.scale,
            averaged_over=(self.row_dim(prepared), *groups.panel) if groups.panel else (),
            coords={**labels.coords, **along},
            kinds={
                **dict.fromkeys(expected, "expected"),
                **dict.fromkeys(drawn, "outcome"),
                **dict.fromkeys(prepared.plan.return_sites if given else (), "counterfactual"),
            },
            probabilities=frozenset(
                name for name in {*expected, *drawn} if prepared.spec[outcome_site(name, prepared.spec)].n_values == 2
            ),
            attrs={
                "kind": prepared.settings.kind,
                **({"drawn_outcomes": sorted(drawn)} if drawn else {}),
                "interventions": json.dumps(interventions),
                "in_sample": int(prepared.settings.in_sample),
                "n_obs": compared.n_obs,
                "weights": "given" if groups.are_given else "equal",
                **({"rows_omitted": groups.n_omitted} if groups.n_omitted else {}),
                "rng_key": comparison.key_text,
                "row_block": compared.row_block,
                **({"drawn_anew": sorted(anew)} if anew else {}),
                **about_noise,
                **{name: value for name, value in prepared.attrs.items() if name in ("local_latents", "identified")},
                **_support_of(comparison),
            },
        )
        return aimz.output.scenario_tree(averages, contrast)

    def axes_of(self, prepared: PreparedCall) -> dict[str, tuple[str, ...]]:
        """Return the axis names of one draw of each return site."""
        labels, call = self._labels_of(prepared), prepared.call
        return {
            name: labels.axes(prepared.spec, name, prepared.spec[name].traced_shape, call.n_obs)
            for name in prepared.plan.return_sites
        }

    def site_dims(self, spec: KernelSpec) -> dict[str, tuple[str, ...]]:
        """Return the names of the axes of one draw of each site."""
        found = {}
        for site in spec.sites:
            pairs = zip(site.shape, site.traced_shape, strict=False)
            n_obs = next((size for axis, size in pairs if axis == "n_obs"), 0)
            found[site.name] = self._labels.axes(spec, site.name, site.traced_shape, n_obs)
        return found

    def observed(self, prepared: PreparedCall, observed: Any) -> "dict[str, xr.Dataset]":
        """Return the group ``observed_data``, if there are observed data."""
        if observed is None:
            return {}
        labels = self._labels_of(prepared)
        dataset = aimz.output.observed_dataset(prepared.spec.param_output, np.asarray(observed), prepared.spec, labels)
        return {"observed_data": dataset}

    def _info(self, prepared: PreparedCall, key: str | None, *, row_block: int = 0, **attrs: Any) -> "DrawsInfo":
        """Return the kernel, rows, chains and attributes that describe the draws of a call."""
        return aimz.output.DrawsInfo(
            prepared.spec,
            prepared.call.n_obs,
            num_chains=prepared.n_chains,
            known_rows=prepared.settings.in_sample and prepared.spec.param_input not in prepared.settings.changed,
            attrs={**prepared.attrs, **({} if key is None else {"rng_key": key}), "row_block": row_block, **attrs},
        )

    def tree(
        self,
        group: str,
        arrays: "Mapping[str, jax.Array]",
        prepared: PreparedCall,
        *,
        auxiliary: "Mapping[str, xr.Dataset]",
        key: str | None,
        observed: Any = None,
    ) -> "xr.DataTree":
        """Return a tree with ``group``, the ``auxiliary`` groups, and ``observed_data`` if there are observed data."""
        group_of_draws = aimz.output.draws_dataset(arrays, self._info(prepared, key), self._labels_of(prepared))
        return aimz.output.make_tree({**auxiliary, group: group_of_draws, **self.observed(prepared, observed)})
