"""Methods of ``ImpactModel`` that score data."""

__all__ = ["ScoringMethods"]

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import jax

import aimz
from aimz.data import GENERATOR
from aimz.distributed import collective_call
from aimz.engine import PredictionSettings, read_options
from aimz.methods.base import on_snapshot, optional_key
from aimz.methods.requests import RequestMethods
from aimz.statistics import LeaveOneOut
from aimz.types import StatisticsLike

if TYPE_CHECKING:
    import os

    import xarray as xr
    from distributed import Client
    from zarr.abc.store import Store
    from zarr.storage import StorePath


class ScoringMethods(RequestMethods):
    """Log likelihood and leave-one-out cross-validation."""

    @collective_call
    @on_snapshot
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
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> "xr.DataTree":
        """Return the log density of each observation under each posterior draw, without any scaling.

        Equals :func:`numpyro.infer.log_likelihood` at the output, for any number of rows, plus the factors
        (:func:`numpyro.factor`) that have a value for each row and depend on data. An observation that is masked has
        0. ``arviz_stats.loo`` needs the
        result in memory: pass ``store="memory"``, or call ``.load()`` on the tree. Discrete local latent sites that
        would have to be sampled (for rows other than the fitted ones, or without posterior draws) are marginalized
        instead.

        Parameters
        ----------
        X : array_like of shape (n_obs, ...) or iterable of batches
            Input.
        y : array_like of shape (n_obs, ...), optional
            Output, or the name of its column; omit it if ``X`` has it under the name of the fit or of the kernel's
            parameter.
        rng_key : jax.Array, optional
            Key for this call, used only if local latent sites must be resampled.
        statistics, shard_axis, batch_size, store, output_dir, resume, progress, client
            See "Streaming" in :class:`ImpactModel`.
        args : mapping of str to object, optional
            Further arguments of the kernel by name, as ``**kwargs``; needed for names of parameters of this method.
        **kwargs
            Further arguments of the kernel.

        Returns
        -------
        xarray.DataTree
            Groups ``log_likelihood``, ``observed_data`` and ``posterior``.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        KernelValidationError
            If the output is not an observed ``sample`` site and therefore has no density.
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
        request = self._prepare_scores(X, y, self._merged(kwargs, args), options, "log_likelihood")
        with self._key(key, request) if request.first.needs_key else nullcontext() as key:
            return self._execute(request, key)

    @on_snapshot
    def log_prior(
        self,
        X: Any = None,
        *,
        return_sites: str | Iterable[str] | None = None,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> "xr.DataTree":
        """Return the log density of the priors at each posterior draw, as ``arviz_stats.psense`` reads it.

        Power-scaling of priors [1]_ changes the priors that are not part of a hierarchy, so the default is the sites
        that depend on no other latent site. Name the sites yourself if some of these are auxiliary, such as the
        standard normal sites of a non-centered parametrization.

        Parameters
        ----------
        X : array_like of shape (n_obs, ...), optional
            Input, on which priors may depend. The default is the input of the last fit, if it is in memory.
        return_sites : str or iterable of str, optional
            Latent sites. The default is all latent sites that have no row axis and depend on no other latent site.
        args : mapping of str to object, optional
            Further arguments of the kernel by name, as ``**kwargs``; needed for names of parameters of this method.
        **kwargs
            Further arguments of the kernel, with ``X``.

        Returns
        -------
        xarray.DataTree
            Groups ``log_prior`` and ``posterior``. Each site of ``log_prior`` is one array with dimensions ``(chain,
            draw, ...)``: the log density of each event, without any scaling.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        ValueError
            If the input is unknown, or a site is not a latent site with posterior draws.

        References
        ----------
        .. [1] Kallioinen, Paananen, Bürkner and Vehtari (2024), Detecting and diagnosing prior and likelihood
           sensitivity with power-scaling, Statistics and Computing 34.
        """
        posterior = self._fitted("log_prior")
        kwargs = self._merged(kwargs, args)
        if X is None and not kwargs and self._observed is not None and self._observed.call is not None:
            call = self._observed.call.without(self.param_output)
        elif X is None:
            msg = "`log_prior` needs the input, and the data of the fit are not in memory. Pass `X` of the fit."
            raise ValueError(msg)
        else:
            call = self._engine.read_call(X, kwargs)
        spec = self._engine.read_spec(call)
        names = self._engine.read_latents(spec, spec.top_level_sites if return_sites is None else return_sites) or ()
        missing = [name for name in names if name not in posterior.draws]
        if missing or not names:
            msg = (
                f"`log_prior` needs posterior draws of latent sites; got {', '.join(missing or names) or 'none'}. "
                f"Sites with draws: {', '.join(posterior.draws)}. Name some of them in `return_sites`."
            )
            raise ValueError(msg)
        settings = PredictionSettings(
            n_draws=posterior.n_draws, params=posterior.params, posterior=posterior, return_sites=names
        )
        prepared = self._engine.prepare(call, settings)
        found = self._engine.run("log_density", prepared, jax.random.key(0, impl=GENERATOR))
        return self._results.tree("log_prior", found, prepared, auxiliary=self._auxiliary_groups(), key=None)

    @collective_call
    @on_snapshot
    def loo(
        self,
        X: Any,
        y: Any = None,
        *,
        rng_key: jax.Array | None = None,
        batch_size: int | None = None,
        progress: bool = True,
        client: "Client | Literal[False] | None" = None,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Score the model by leave-one-out cross-validation, in blocks of rows and without storing draws.

        Pareto-smoothed importance sampling (Vehtari, Gelman and Gabry 2017; Vehtari et al. 2024) needs all draws of a
        row, but only one row at a time. It is computed while the rows are streamed, so memory grows neither with the
        number of rows nor with the number of draws. The values equal the output of :func:`arviz_stats.loo` for
        :meth:`log_likelihood`, with ``elpd_i`` and ``pareto_k`` for each row. Observations without a likelihood, which
        are masked, are not counted in ``n_data_points`` and ``se``; their ``elpd_i`` and ``pareto_k`` are NaN. The
        result prints like ArviZ's own and can be passed to :func:`arviz_stats.compare`. Discrete local latent sites are
        marginalized, because a posterior draw of a row's class carries information about the observation that is left
        out.

        Parameters
        ----------
        X : array_like of shape (n_obs, ...) or iterable of batches
            Input of the fit.
        y : array_like of shape (n_obs, ...), optional
            Output of the fit, or the name of its column; omit it if ``X`` has it under the name of the fit or of the
            kernel's parameter.
        rng_key : jax.Array, optional
            Key for this call, used only if local latent sites must be resampled.
        batch_size : int, optional
            Maximum number of rows that are computed together. The numbers do not depend on it.
        progress : bool
            Whether to show a progress bar.
        client : distributed.Client, optional
            Dask cluster; see "Streaming" in :class:`ImpactModel`.
        args : mapping of str to object, optional
            Further arguments of the kernel by name, as ``**kwargs``; needed for names of parameters of this method.
        **kwargs
            Further arguments of the kernel.

        Returns
        -------
        arviz_stats.ELPDData
            ``elpd`` and its standard error ``se``, ``p`` (effective number of parameters), ``elpd_i`` and ``pareto_k``.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        KernelValidationError
            If the output is not an observed ``sample`` site and therefore has no density.
        ValueError
            If the data differ from the fitted data, or there are too few draws.
        ImportError
            If ArviZ is not installed.

        Warns
        -----
        OutputWarning
            If importance sampling is unreliable for some rows (``pareto_k`` above ``good_k``).

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
        >>> svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(lambda step: 0.1 * 0.995**step), Trace_ELBO())
        >>> model = ImpactModel(kernel, random.key(0), svi).fit_on_batch(X, y, num_steps=1000, progress=False)
        >>> scores = model.loo(X, y, progress=False)
        >>> bool(0.5 < scores.p < 2.0)
        True
        """
        key = optional_key(rng_key)
        options = read_options(batch_size=batch_size, store="memory", progress=progress, client=client)
        request = self._prepare_scores(X, y, self._merged(kwargs, args), options, "loo")
        known, prepared, call = self._observed, request.first, request.arguments[None]
        if known is not None and (
            not prepared.settings.in_sample
            or known.is_other_output(call, self.param_output)
            or known.other_static(call)
        ):
            msg = (
                "`loo` leaves each observation out of the fit in turn, but the data passed are not the data of the "
                "fit. Pass the fitted data, or score other data with `log_likelihood`."
            )
            raise ValueError(msg)
        reduction = LeaveOneOut(aimz.output.relative_ess(self._auxiliary_groups()["posterior"]))
        request = replace(request, options=replace(options, statistics=reduction))
        with self._key(key, request) if prepared.needs_key else nullcontext() as key:
            tree = self._execute(request, key)
        scores = tree["log_likelihood"].to_dataset()[self.param_output]
        return aimz.output.leave_one_out(scores, prepared.plan.n_draws)
