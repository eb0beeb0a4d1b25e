"""From computed arrays to the trees users get."""

__all__ = ["Observed", "Results"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aimz.inference import Posterior
from aimz.kernel import KernelSpec
from aimz.model.engine import Prepared
from aimz.utils.data import Call, fingerprint

if TYPE_CHECKING:
    import jax
    import xarray as xr


@dataclass(frozen=True)
class Observed:
    """The output's data of the last fit, and which inputs they belong to."""

    digests: Mapping[str, str]
    """Argument name to the fingerprint of the array it had."""
    output: Any

    @staticmethod
    def of(call: Call, param_output: str) -> "Observed":
        """Remember the data of a fit; nothing is copied."""
        inputs = {name: array for name, array in call.arrays.items() if name != param_output}
        return Observed({name: fingerprint(array) for name, array in inputs.items()}, call.arrays[param_output])

    def changed(self, call: Call) -> frozenset[str]:
        """Return the arguments whose arrays are not those of the fit."""
        given = {name: fingerprint(array) for name, array in call.arrays.items()}
        return frozenset(name for name in {*given, *self.digests} if given.get(name) != self.digests.get(name))


class Results:
    """Makes trees, with the user's labels.

    The room :mod:`aimz.output` is imported when the first result is made: it brings xarray, and with it pandas.
    """

    def __init__(self, dims: Mapping[str, Sequence[str]] | None, coords: Mapping[str, Any] | None) -> None:
        self._given = (dims, coords)
        if dims is not None or coords is not None:
            self._labels()

    def _labels(self) -> Any:
        from aimz.output import Labels

        return Labels.check(*self._given)

    def check(self, prepared: Prepared) -> None:
        """Refuse labels that do not fit the sites of a call, before it is computed."""
        if self._given[0]:
            labels = self._labels()
            for name in prepared.plan.return_sites:
                labels.axes(prepared.spec, name, prepared.spec[name].traced_shape, prepared.call.n_obs)

    def posterior(self, posterior: Posterior, spec: KernelSpec | None) -> "dict[str, xr.Dataset]":
        """Return the group ``posterior``, and ``sample_stats`` where chains made it."""
        from aimz.output import Draws, draws_dataset, stats_dataset

        spec = spec or KernelSpec(sites=(), param_input="X", param_output="y")
        rows = [
            posterior.draws[name].shape[1 + spec[name].row_axes[0]]
            for name in spec.local_sites
            if name in posterior.draws
        ]
        draws = Draws(posterior.draws, spec, n_obs=rows[0] if rows else 0, num_chains=posterior.num_chains)
        groups = {"posterior": draws_dataset(draws, self._labels())}
        if posterior.sample_stats:
            groups["sample_stats"] = stats_dataset(posterior.sample_stats)
        return groups

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
        from aimz.output import Draws, draws_dataset, make_tree, observed_dataset

        labels = self._labels()
        draws = Draws(
            arrays,
            prepared.spec,
            prepared.call.n_obs,
            num_chains=1 if prepared.posterior is None else prepared.posterior.num_chains,
            known_rows=prepared.in_sample and prepared.spec.param_input not in prepared.changed,
            attrs={**prepared.attrs, **({} if key is None else {"rng_key": key})},
        )
        groups = {**beside, group: draws_dataset(draws, labels)}
        if observed is not None:
            output = prepared.spec.param_output
            groups["observed_data"] = observed_dataset(output, observed, prepared.spec, labels)
        return make_tree(groups)
