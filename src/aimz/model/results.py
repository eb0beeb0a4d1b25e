"""From computed arrays to the trees users get."""

__all__ = ["Observed", "Results"]

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from aimz.data import Call, Field, is_plain_range
from aimz.inference import Posterior
from aimz.kernel import Columns, KernelSpec, freeze
from aimz.model.comparing import Compared
from aimz.model.engine import Prepared
from aimz.model.worlds import Comparison
from aimz.persistence import is_plain
from aimz.statistics import Reduction

if TYPE_CHECKING:
    import jax
    import xarray as xr

    from aimz.output import Contrast, Draws, Frame


@dataclass(frozen=True)
class Observed:
    """The output's data of the last fit, and which inputs they belong to."""

    digests: Mapping[str, tuple[tuple[int, ...], str]]
    """Argument name to the shape and the fingerprint of the array it had."""
    output: Any
    call: Call | None = None
    """The data themselves, as long as they are in memory and nothing but they has moved the fit."""
    static: Mapping[str, object] = field(default_factory=dict)
    """Further arguments that are no arrays."""
    index: Any = None
    """Labels of the rows, where the input had some."""
    moved: bool = False
    """Whether other data have moved the fit since."""

    @staticmethod
    def of(call: Call, param_output: str) -> "Observed":
        """Remember the data of a fit; nothing is copied."""
        inputs = {name: array for name, array in call.arrays.items() if name != param_output}
        digests = {name: (tuple(array.shape), call.fingerprint(name)) for name, array in inputs.items()}
        lazy = any(getattr(array, "lazy", False) for array in call.arrays.values())
        return Observed(digests, call.arrays[param_output], None if lazy else call, call.static, call.index)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the data out of a pickle; their fingerprints stay, and arguments that are plain values."""
        static = {name: value for name, value in self.static.items() if is_plain(value)}
        return {**self.__dict__, "call": None, "static": static}

    def changed(self, call: Call) -> frozenset[str]:
        """Return the arguments whose arrays are not those of the fit; rows of an iterable are taken to be."""
        return frozenset(name for name in {*call.arrays, *self.digests} if self._differs(call, name))

    def relabelled(self, call: Call) -> bool:
        """Return whether the labels of the rows say that these are other observations, or in another order."""
        here, there = call.index, self.index
        if here is None or there is None or here.equals(there) or _texts(here).equals(there):
            return False
        # One that only counts the rows says nothing about them, unless there are more or fewer.
        counted = is_plain_range(here) or is_plain_range(there)
        return not counted or len(here) != len(there)

    def other_static(self, call: Call) -> str | None:
        """Return the name of an argument that is no array and not what it was in the fit, as far as can be told."""
        for name in sorted(call.static.keys() & self.static.keys()):
            here, there = freeze(call.static[name]), freeze(self.static[name])
            if here != there and here == freeze(call.static[name]) and there == freeze(self.static[name]):
                return name
        return None

    def other_data(self, call: Call) -> str | None:
        """Return the name of an array that is not that of the fit, the output among them, or None."""
        inputs = sorted(name for name in self.digests if name not in call.arrays or self._differs(call, name))
        output = [name for name in call.arrays if name not in self.digests and self.is_other_output(call, name)]
        return next(iter([*inputs, *output]), None)

    def is_other_output(self, call: Call, name: str) -> bool:
        """Return whether the output's data are not those of the fit, as far as they are at hand."""
        array = call.arrays[name]
        if self.output is None or isinstance(array, Field):
            return False
        fitted = Call({name: self.output})
        return tuple(array.shape) != tuple(self.output.shape) or call.fingerprint(name) != fitted.fingerprint(name)

    def _differs(self, call: Call, name: str) -> bool:
        array, (shape, digest) = call.arrays.get(name), self.digests.get(name, ((), ""))
        if array is None or name not in self.digests:
            return True
        # Most other data have another shape, and need not be read.
        return not isinstance(array, Field) and (tuple(array.shape) != shape or call.fingerprint(name) != digest)


def _texts(index: Any) -> Any:
    """Return labels of a kind that no file holds as their texts, which stand for them in a model that was loaded."""
    return index if index.dtype != object else index.map(str)


class Results:
    """Makes trees, with the user's labels.

    The room :mod:`aimz.output` is imported when the first result is made: it brings xarray, and with it pandas.
    """

    def __init__(self, dims: Mapping[str, Sequence[str]] | None, coords: Mapping[str, Any] | None) -> None:
        self.given = (dims, coords)
        if dims is not None or coords is not None:
            self._labels()

    def _labels(self, columns: Columns | None = None, index: Any = None) -> Any:
        from aimz.output import Labels

        return replace(Labels.check(*self.given), columns=columns, index=index)

    def _labels_of(self, prepared: Prepared) -> Any:
        """Return the labels of a call, those of its rows and columns among them."""
        return self._labels(prepared.columns, prepared.call.index)

    def check(self, prepared: Prepared) -> None:
        """Refuse labels that do not fit the sites of a call, before it is computed."""
        if self.given[0]:
            self._axes_of(prepared)

    def posterior(
        self, posterior: Posterior, spec: KernelSpec | None, columns: Columns | None, index: Any
    ) -> "dict[str, xr.Dataset]":
        """Return the group ``posterior``, and ``sample_stats`` where chains made it.

        ``columns`` and ``index`` label the input of the fit.
        """
        from aimz.output import Draws, draws_dataset, stats_dataset

        spec = spec or KernelSpec(sites=(), param_input="X", param_output="y")
        rows = [
            posterior.draws[name].shape[1 + spec[name].row_axes[0]]
            for name in spec.local_sites
            if name in posterior.draws
        ]
        draws = Draws(posterior.draws, spec, n_obs=rows[0] if rows else 0, num_chains=posterior.num_chains)
        groups = {"posterior": draws_dataset(draws, self._labels(columns, index))}
        if posterior.sample_stats:
            groups["sample_stats"] = stats_dataset(posterior.sample_stats)
        return groups

    def row_dim(self, prepared: Prepared) -> str:
        """Return the name of the dimension along the rows."""
        return str(self._labels().row_dim(prepared.spec))

    def frame(
        self,
        prepared: Prepared,
        shapes: Mapping[str, tuple[int, ...]],
        *,
        key: str | None,
        row_block: int,
        statistics: Reduction | None = None,
        **attrs: Any,
    ) -> "Frame":
        """Return the group of a call without its arrays; ``row_block`` says how many rows were drawn together."""
        from aimz.output import frame

        draws = self._draws({}, prepared, key, row_block=row_block, **attrs)
        return frame(draws, shapes, self._labels_of(prepared), statistics)

    def averages(self, compared: Compared, comparison: Comparison, contrast: "Contrast", key: str) -> "xr.DataTree":
        """Return the tree of a comparison."""
        from aimz.output import Averages, compared_tree

        groups, prepared = comparison.groups, comparison.first
        assert groups is not None
        anew = {name for one in comparison.prepared.values() for name in one.attrs.get("drawn_anew", ())}
        interventions = {str(name): json.loads(one.attrs["intervention"]) for name, one in comparison.prepared.items()}
        averages = Averages(
            sums=compared.sums,
            dims=self.dims_beside_rows(prepared),
            with_rows=compared.with_rows,
            scenarios=tuple(comparison.prepared),
            baseline=comparison.baseline,
            num_chains=1 if prepared.posterior is None else prepared.posterior.num_chains,
            labels=groups.labels,
            rows=groups.rows(compared.n_obs),
            weight=groups.weight(compared.n_obs),
            weight_scale=groups.scale,
            coords=self._coords_of(prepared),
            attrs={
                "interventions": json.dumps(interventions),
                "in_sample": int(prepared.in_sample),
                "n_obs": compared.n_obs,
                "weights": "equal" if groups.weights is None else "given",
                "rng_key": key,
                "row_block": compared.row_block,
                **({"drawn_anew": sorted(anew)} if anew else {}),
                **{name: value for name, value in prepared.attrs.items() if name == "local_latents"},
            },
        )
        return compared_tree(averages, contrast)

    def _axes_of(self, prepared: Prepared) -> dict[str, tuple[str, ...]]:
        """Return the names of the axes of one draw of each return site."""
        labels, call = self._labels_of(prepared), prepared.call
        return {
            name: labels.axes(prepared.spec, name, prepared.spec[name].traced_shape, call.n_obs)
            for name in prepared.plan.return_sites
        }

    def _coords_of(self, prepared: Prepared) -> dict[str, Any]:
        """Return the labels of dimensions: the user's, and those of the columns."""
        labels = self._labels_of(prepared)
        names = () if prepared.columns is None else prepared.columns.names
        along = labels.along_columns(self._axes_of(prepared))
        return {**{dim: np.asarray(names) for dim in along}, **labels.coords}

    def dims_beside_rows(self, prepared: Prepared) -> dict[str, tuple[str, ...]]:
        """Return the names of the axes of each return site, that of the rows left out."""
        rows = prepared.plan.row_axes
        return {
            name: tuple(axis for i, axis in enumerate(axes) if i != rows.get(name))
            for name, axes in self._axes_of(prepared).items()
        }

    def observed(self, prepared: Prepared, observed: Any) -> "dict[str, xr.Dataset]":
        """Return the group ``observed_data``, where there are any."""
        from aimz.output import observed_dataset

        if observed is None:
            return {}
        labels = self._labels_of(prepared)
        dataset = observed_dataset(prepared.spec.param_output, np.asarray(observed), prepared.spec, labels)
        return {"observed_data": dataset}

    def _draws(
        self,
        arrays: "Mapping[str, jax.Array]",
        prepared: Prepared,
        key: str | None,
        *,
        row_block: int = 0,
        **attrs: Any,
    ) -> "Draws":
        from aimz.output import Draws

        return Draws(
            arrays,
            prepared.spec,
            prepared.call.n_obs,
            num_chains=1 if prepared.posterior is None else prepared.posterior.num_chains,
            known_rows=prepared.in_sample and prepared.spec.param_input not in prepared.changed,
            attrs={**prepared.attrs, **({} if key is None else {"rng_key": key}), "row_block": row_block, **attrs},
        )

    def tree(
        self,
        group: str,
        arrays: "Mapping[str, jax.Array]",
        prepared: Prepared,
        *,
        beside: "Mapping[str, xr.Dataset]",
        key: str | None,
        observed: Any = None,
    ) -> "xr.DataTree":
        """Return a tree with ``group``, the groups ``beside`` it, and ``observed_data`` where there are any."""
        from aimz.output import draws_dataset, make_tree

        group_of_draws = draws_dataset(self._draws(arrays, prepared, key), self._labels_of(prepared))
        return make_tree({**beside, group: group_of_draws, **self.observed(prepared, observed)})
