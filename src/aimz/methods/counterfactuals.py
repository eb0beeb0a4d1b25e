"""Method of ``ImpactModel`` that computes unit-level counterfactuals."""

__all__ = ["CounterfactualMethods"]

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import jax

from aimz.distributed import collective_call
from aimz.engine import read_options
from aimz.methods.base import on_snapshot, optional_key
from aimz.methods.evidence import Evidence, EvidenceMethods, check_coupling
from aimz.types import Intervention, StatisticsLike

if TYPE_CHECKING:
    import os

    import xarray as xr
    from distributed import Client
    from zarr.abc.store import Store
    from zarr.storage import StorePath


class CounterfactualMethods(EvidenceMethods):
    """Counterfactual outcomes of observed rows."""

    @collective_call
    @on_snapshot
    def counterfactual(
        self,
        X: Any,
        y: Any = None,
        *,
        intervention: Intervention,
        coupling: Literal["monotone"] | None = None,
        condition: Mapping[str, Any] | None = None,
        rng_key: jax.Array | None = None,
        in_sample: bool | None = None,
        return_sites: str | Iterable[str] | None = None,
        statistics: StatisticsLike | None = None,
        shard_axis: str = "obs",
        batch_size: int | None = None,
        store: str = "persistent",
        output_dir: "str | os.PathLike[str] | Store | StorePath | None" = None,
        resume: "str | os.PathLike[str] | Store | StorePath | None" = None,
        progress: bool = True,
        client: "Client | Literal[False] | None" = None,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> "xr.DataTree":
        """Return the outcome that each observed row would have had under an intervention.

        A prediction under an intervention is about rows in general: its outcomes have new noise. A counterfactual is
        about the row that was observed, with the noise that the row had. For each posterior draw (Pearl 2009, section
        7.1): the noise of every site that descends from the intervention is inferred from its data, or from its
        posterior draw if it is latent; the intervention is applied; and these sites are computed again from the same
        noise, mediators included. Sites that do not descend from the intervention keep their values.

        Parameters
        ----------
        X : array_like of shape (n_obs, ...) or iterable of batches
            Input of the observed rows.
        y : array_like of shape (n_obs, ...), optional
            Observed output; omit it if the batches or the table contain it.
        intervention : mapping
            As in :meth:`predict`; it cannot set the outcome.
        coupling : {"monotone"}, optional
            Assumption about discrete sites, whose noise is determined up to an interval only. "monotone" takes them to
            be quantiles of one uniform variate, drawn in this interval, so that the order of units is the same in all
            worlds. Without it, a discrete site that descends from the intervention is an error.
        condition : mapping of str to array_like, optional
            Observed values of further sites that have no argument of the kernel for their data.
        rng_key : jax.Array, optional
            Key for this call, used for discrete sites only.
        in_sample, return_sites, args, **kwargs
            As in :meth:`predict`. The arguments of the kernel have their observed values. Local latents need the
            fitted rows.
        statistics, shard_axis, batch_size, store, output_dir, resume, progress, client
            See "Streaming" in :class:`ImpactModel`.

        Returns
        -------
        xarray.DataTree
            Groups ``counterfactual`` and ``effect``, the counterfactual minus the observed value, for the same sites.
            The attribute ``abducted`` lists the sites that were computed again, and ``coupling`` has the assumption.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        ValueError
            If the noise of a site cannot be inferred: rows depend on one another, or the site is inside a ``scan``, has
            a distribution without distribution function or several variables, neither data nor posterior draws, or an
            observed value of density 0. No site is resampled instead.

        See Also
        --------
        predict : Outcomes of rows in general, with ``intervention``.
        compare_scenarios : Averages of counterfactuals over groups of rows, with ``given``.

        References
        ----------
        .. [1] Pearl (2009), Causality, 2nd edition, section 7.1.

        Examples
        --------
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from jax import random
        >>> from numpyro.infer import MCMC, NUTS
        >>> import aimz
        >>> def kernel(X, y=None):
        ...     slope = numpyro.sample("slope", dist.Normal(0.0, 5.0))
        ...     with numpyro.plate("student", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(slope * X, 1.0), obs=y)
        >>> model = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=10, num_samples=10))
        >>> _ = model.set_posterior_sample({"slope": np.full(4, 2.0)})
        >>> had = model.counterfactual(
        ...     np.array([1.0, 2.0]), np.array([5.0, 3.0]), intervention={"X": 2.0}, store="memory", progress=False
        ... )
        >>> had["counterfactual"]["y"].mean(("chain", "draw")).values.tolist()
        [7.0, 3.0]
        """
        key = optional_key(rng_key)
        options = read_options(
            shard_axis=shard_axis,
            batch_size=batch_size,
            store=store,
            output_dir=output_dir,
            resume=resume,
            progress=progress,
            statistics=statistics,
            client=client,
        )
        self._engine.signature.check_unambiguous({"coupling": coupling}, args or (), "counterfactual")
        evidence = Evidence(y, check_coupling(coupling))
        _check_intervention(intervention)
        self._fitted("counterfactual")
        source, call = self._open_evidence(X, y, self._merged(kwargs, args))
        shared = {"condition": condition, "in_sample": in_sample, "return_sites": return_sites}
        again = self._counterfactuals(
            source, shared, {None: {"intervention": intervention}}, evidence, with_effects=True
        )
        request = self._request("counterfactual", source, {None: call}, again({None: call}), options)
        with self._key(key, request) as key:
            return self._execute(replace(request, group="counterfactual", prepare_again=again), key)


def _check_intervention(intervention: Any) -> None:
    """Raise if there is nothing that would have been different."""
    if isinstance(intervention, Mapping) and not intervention:
        msg = (
            "`intervention` must name what would have been different; got an empty mapping. Pass "
            "`intervention={'price': 0.0}`, say."
        )
        raise ValueError(msg)
