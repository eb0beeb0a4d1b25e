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
    """The output's data of the last fit, and which input they belong to."""

    digest: str
    """Fingerprint of the input."""
    output: Any

    @staticmethod
    def of(call: Call, param_input: str, param_output: str) -> "Observed":
        """Remember the data of a fit; nothing is copied."""
        return Observed(fingerprint(call.arrays[param_input]), call.arrays[param_output])

    def matches(self, array: Any) -> bool:
        """Whether ``array`` is the input the data belong to."""
        return array.shape[0] == self.output.shape[0] and fingerprint(array) == self.digest


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
        num_chains: int,
        beside: "Mapping[str, xr.Dataset]",
        key: str | None,
        in_sample: bool,
        observed: Any = None,
    ) -> "xr.DataTree":
        """Return a tree with ``group``, the groups ``beside`` it, and ``observed_data`` where there are any."""
        from aimz.output import Draws, draws_dataset, make_tree, observed_dataset

        labels = self._labels()
        draws = Draws(
            arrays,
            prepared.spec,
            prepared.call.n_obs,
            num_chains=num_chains,
            known_rows=in_sample,
            attrs={**prepared.attrs, **({} if key is None else {"rng_key": key})},
        )
        groups = {**beside, group: draws_dataset(draws, labels)}
        if observed is not None:
            output = prepared.spec.param_output
            groups["observed_data"] = observed_dataset(output, observed, prepared.spec, labels)
        return make_tree(groups)
