"""Methods that score data."""

__all__ = ["ScoringMethods"]

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import jax

from aimz.distributed import collective_call
from aimz.engine import read_streaming
from aimz.model.base import given_key
from aimz.model.requests import RequestMethods
from aimz.statistics import LeaveOneOut
from aimz.types import StatisticsLike

if TYPE_CHECKING:
    import os

    import xarray as xr
    from zarr.abc.store import Store
    from zarr.storage import StorePath

    from distributed import Client


class ScoringMethods(RequestMethods):
    """Methods that score data."""

    @collective_call
    def log_likelihood(
        self,
        X: Any,
        y: Any = None,
        *,
        rng_key: jax.Array | None = None,
        statistics: StatisticsLike | None = None,
        shard_axis: str = "obs",
        batch_size: int | None = None,
        store: str = "persistent",
        output_dir: "str | os.PathLike[str] | Store | StorePath | None" = None,
        resume: "str | os.PathLike[str] | Store | StorePath | None" = None,
        progress: bool = True,
        client: "Client | Literal[False] | None" = None,
        **kwargs: Any,
    ) -> "xr.DataTree":
        """Return the log density of each observation under each posterior draw, never scaled.

        Equals :func:`numpyro.infer.log_likelihood` at the output, for any number of rows.  ``arviz_stats.loo`` reads
        it once it is in memory: pass ``store="memory"``, or call ``.load()`` on the tree.  Discrete local latents that
        would be drawn (those of other rows than the fitted ones, or without posterior draws) are summed over instead.

        Parameters
        ----------
        X : array_like of shape (n_obs, ...) or iterable of batches
            Input.
        y : array_like of shape (n_obs, ...), optional
            Output; left out where it comes with the batches.
        rng_key : jax.Array, optional
            Key for this call; used only if local latents have to be drawn anew.
        statistics, shard_axis, batch_size, store, output_dir, resume, progress, client
            See "Streaming" in :class:`ImpactModel`.
        **kwargs
            Further arguments of the kernel.

        Returns
        -------
        xarray.DataTree
            Groups ``log_likelihood`` and ``observed_data``, beside the posterior.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        KernelValidationError
            If the output is not an observed ``sample`` site, so that it has no density.
        """
        key = given_key(rng_key)
        options = read_streaming(shard_axis, batch_size, store, output_dir, resume, progress, statistics, client)
        asked = self._ask_scores(X, y, kwargs, options, "log_likelihood")
        return self._answer(asked, self._key(key, options) if asked.prepared.needs_key else None)

    @collective_call
    def loo(
        self,
        X: Any,
        y: Any = None,
        *,
        rng_key: jax.Array | None = None,
        batch_size: int | None = None,
        progress: bool = True,
        client: "Client | Literal[False] | None" = None,
        **kwargs: Any,
    ) -> Any:
        """Score the model by leave-one-out cross-validation, block by block; no draw is kept.

        Pareto-smoothed importance sampling (Vehtari, Gelman and Gabry 2017; Vehtari et al. 2024) needs all draws of a
        row, but one row only, so it is done while the rows stream by: memory grows with neither.  The numbers are those
        of :func:`arviz_stats.loo` for :meth:`log_likelihood`, with ``elpd_i`` and ``pareto_k`` for each row; the result
        prints, and goes into :func:`arviz_stats.compare`, as ArviZ's own.  Discrete local latents are summed over: with
        its class known, an observation that is left out would still be told by it.

        Parameters
        ----------
        X : array_like of shape (n_obs, ...) or iterable of batches
            Input; the data the model was fitted on.
        y : array_like of shape (n_obs, ...), optional
            Output; left out where it comes with the batches.
        rng_key : jax.Array, optional
            Key for this call; used only if local latents have to be drawn anew.
        batch_size : int, optional
            Rows that are computed together at most; the numbers do not depend on it.
        progress : bool
            Whether to show a bar.
        client : distributed.Client, optional
            Cluster to compute on; see "Streaming" in :class:`ImpactModel`.
        **kwargs
            Further arguments of the kernel.

        Returns
        -------
        arviz_stats.ELPDData
            ``elpd`` and its standard error ``se``, ``p`` (effective number of parameters), ``elpd_i``, ``pareto_k``.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        KernelValidationError
            If the output is not an observed ``sample`` site, so that it has no density.
        ValueError
            If these are not the data of the fit, so that there is nothing to leave out, or there are too few draws.
        ImportError
            If ArviZ is not installed.

        Warns
        -----
        UserWarning
            If importance sampling is not to be relied on for some rows (``pareto_k`` above ``good_k``).

        Examples
        --------
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from jax import random
        >>> from numpyro.infer import SVI, Trace_ELBO
        >>> from numpyro.infer.autoguide import AutoNormal
        >>> from aimz import ImpactModel
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 5.0))
        ...     with numpyro.plate("obs", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)
        >>> X = jnp.linspace(-1.0, 1.0, 100)
        >>> y = 2.0 * X + random.normal(random.key(1), X.shape)
        >>> svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.05), Trace_ELBO())
        >>> model = ImpactModel(kernel, random.key(0), svi).fit_on_batch(X, y, num_steps=1000, progress=False)
        >>> scores = model.loo(X, y, progress=False)
        >>> bool(0.5 < scores.p < 2.0)
        True
        """
        from aimz.output import leave_one_out, relative_ess

        key = given_key(rng_key)
        options = read_streaming("obs", batch_size, "memory", None, None, progress, client=client)
        asked = self._ask_scores(X, y, kwargs, options, "loo")
        known, call = self._observed, asked.given.call
        if known is not None and (
            not asked.prepared.in_sample or known.is_other_output(call, self.param_output) or known.other_static(call)
        ):
            msg = (
                "`loo` leaves each observation out of the fit in turn, and these are not the data of the fit. Pass "
                "those, or score other data by `log_likelihood`."
            )
            raise ValueError(msg)
        reduction = LeaveOneOut(relative_ess(self._beside()["posterior"]))
        asked = replace(asked, streaming=replace(options, statistics=reduction))
        tree = self._answer(asked, self._key(key, options) if asked.prepared.needs_key else None)
        scores = tree["log_likelihood"].to_dataset()[self.param_output]
        return leave_one_out(scores, asked.prepared.plan.n_draws)
