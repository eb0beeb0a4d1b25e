"""Methods of ``ImpactModel`` that predict."""

__all__ = ["PredictionMethods"]

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import jax

from aimz.data import check_flag
from aimz.distributed import collective_call
from aimz.engine import PredictionRequest, read_options
from aimz.methods.base import on_snapshot, optional_key
from aimz.methods.requests import RequestMethods
from aimz.types import Intervention, StatisticsLike

if TYPE_CHECKING:
    import os

    import xarray as xr
    from distributed import Client
    from zarr.abc.store import Store
    from zarr.storage import StorePath


class PredictionMethods(RequestMethods):
    """Predictions from the posterior or the prior, in memory or streamed."""

    @collective_call
    @on_snapshot
    def predict(
        self,
        X: Any,
        *,
        intervention: Intervention | None = None,
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
        """Predict any number of rows, optionally under an intervention.

        Like :meth:`predict_on_batch`, but computed in blocks of rows: memory does not grow with the number of rows, all
        devices are used, and the result is stored on disk by default. The numbers depend only on the key and the data.

        Parameters
        ----------
        X : array_like of shape (n_obs, ...) or iterable of batches
            Input; also a :class:`numpy.memmap`, a Zarr or Dask array, or an :class:`~aimz.utils.data.ArrayLoader`.
        intervention, condition, rng_key, in_sample, return_sites, args, **kwargs
            As in :meth:`predict_on_batch`.
        statistics, shard_axis, batch_size, store, output_dir, resume, progress, client
            See "Streaming" in :class:`ImpactModel`.

        Returns
        -------
        xarray.DataTree
            Group ``posterior_predictive``, or ``predictions`` if ``in_sample=False``. Sites have shape
            ``(chain, draw, n_obs, ...)``.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        TypeError, ValueError
            If arguments are invalid. Nothing has then been computed or written.
        OSError
            If the result cannot be written. The error message shows how to continue.

        Warns
        -----
        PerformanceWarning
            If rows depend on one another in the kernel, so that all rows are computed together.
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
        request = self._prepare_prediction(
            X,
            intervention,
            self._merged(kwargs, args),
            condition=condition,
            in_sample=in_sample,
            return_sites=return_sites,
            options=options,
        )
        with self._key(key, request) as key:
            return self._execute(request, key)

    @collective_call
    @on_snapshot
    def sample_posterior_predictive(
        self,
        X: Any,
        *,
        intervention: Intervention | None = None,
        condition: Mapping[str, Any] | None = None,
        rng_key: jax.Array | None = None,
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
        """Predict for the fitted observations: :meth:`predict` with ``in_sample=True``.

        Parameters
        ----------
        X, intervention, condition, rng_key, return_sites, args, **kwargs
            As in :meth:`predict`.
        statistics, shard_axis, batch_size, store, output_dir, resume, progress, client
            See "Streaming" in :class:`ImpactModel`.

        Returns
        -------
        xarray.DataTree
            Group ``posterior_predictive``.
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
        method = "sample_posterior_predictive"
        request = self._prepare_prediction(
            X,
            intervention,
            self._merged(kwargs, args),
            condition=condition,
            return_sites=return_sites,
            options=options,
            method=method,
        )
        with self._key(key, request) as key:
            return self._execute(request, key)

    @collective_call
    @on_snapshot
    def sample_prior_predictive(
        self,
        X: Any,
        *,
        num_samples: int = 1000,
        intervention: Intervention | None = None,
        condition: Mapping[str, Any] | None = None,
        rng_key: jax.Array | None = None,
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
        """Predict any number of rows from the priors, optionally under an intervention. No posterior is needed.

        Calls with the same key have common noise, so :meth:`estimate_effect` of two results is the effect under the
        priors.

        Parameters
        ----------
        X : array_like of shape (n_obs, ...) or iterable of batches
            Input.
        num_samples : int
            Number of draws.
        intervention, condition, rng_key, return_sites, args, **kwargs
            As in :meth:`predict_on_batch`.
        statistics, shard_axis, batch_size, store, output_dir, resume, progress, client
            See "Streaming" in :class:`ImpactModel`.

        Returns
        -------
        xarray.DataTree
            Group ``prior_predictive``.
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
        request = self._prepare_prior(
            X,
            intervention,
            self._merged(kwargs, args),
            num_samples=num_samples,
            condition=condition,
            return_sites=return_sites,
            options=options,
        )
        with self._key(key, request) as key:
            return self._execute(request, key)

    @on_snapshot
    def predict_on_batch(
        self,
        X: Any,
        *,
        intervention: Intervention | None = None,
        condition: Mapping[str, Any] | None = None,
        rng_key: jax.Array | None = None,
        in_sample: bool | None = None,
        return_sites: str | Iterable[str] | None = None,
        return_datatree: bool = True,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> "xr.DataTree | dict[str, jax.Array]":
        """Predict in one pass in memory, optionally under an intervention.

        The result is distributed as that of :class:`~numpyro.infer.Predictive`. In addition, fitted parameters are
        substituted, interventions propagate to all descendants, and local latent sites are matched with their rows.

        Parameters
        ----------
        X : array_like of shape (n_obs, ...)
            Input.
        intervention : mapping, optional
            Name of a site, of a kernel argument, or of a column if ``X`` is a data frame, to a value: a scalar, an
            array that broadcasts, or a function of the factual value. An ``xarray.DataArray`` with dimensions ``(chain,
            draw, ...)`` has a value for each draw. Latent sites that descend from the intervention are resampled.
        condition : mapping of str to array_like, optional
            Values of ``sample`` sites that are known and are not the effect of an action, such as an observed mediator
            or the outcome itself. Sites that depend on them use these values; nothing else is resampled, and nothing is
            inferred from them. An array that is shorter than its site along one axis has the first entries; later ones
            are drawn given them, also inside a ``scan``, and latents keep their posterior draws of the fitted steps. A
            site that has posterior draws, or one that depends on a latent that would be drawn, raises an error.
        rng_key : jax.Array, optional
            Key for this call; the model's own key then does not change.
        in_sample : bool, optional
            Whether the rows are the fitted observations. By default, they are if they have the data of the fit, or its
            row labels; all others are new observations, whose local latent sites are resampled. If True, local latent
            sites keep their posterior draws unless they depend on data that differ from the fit. The group of the
            result is ``predictions`` if False is passed, and ``posterior_predictive`` otherwise.
        return_sites : str or iterable of str, optional
            Sites to return. The default is the output and the deterministic sites.
        return_datatree : bool
            Whether to return a tree, or a dictionary of arrays of shape ``(n_draws, ...)``.
        args : mapping of str to object, optional
            Further arguments of the kernel by name, as ``**kwargs``; needed for names of parameters of this method.
        **kwargs
            Further arguments of the kernel.

        Returns
        -------
        xarray.DataTree or dict of str to jax.Array
            Sites with shape ``(chain, draw, ...)``. A site without row axis in the kernel has none in the result.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        ValueError
            If a name is unknown or a shape does not match. Nothing has then been computed.

        Warns
        -----
        OutputWarning
            If local latent sites are kept or resampled, or if a site is missing from the posterior.
        """
        given = optional_key(rng_key)
        request = self._prepare_prediction(
            X,
            intervention,
            self._merged(kwargs, args),
            condition=condition,
            in_sample=in_sample,
            return_sites=return_sites,
        )
        return self._draw_on_batch(request, given, return_datatree=return_datatree)

    @on_snapshot
    def sample_posterior_predictive_on_batch(
        self,
        X: Any,
        *,
        intervention: Intervention | None = None,
        condition: Mapping[str, Any] | None = None,
        rng_key: jax.Array | None = None,
        return_sites: str | Iterable[str] | None = None,
        return_datatree: bool = True,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> "xr.DataTree | dict[str, jax.Array]":
        """Predict for the fitted observations: :meth:`predict_on_batch` with ``in_sample=True``.

        Parameters
        ----------
        X, intervention, condition, rng_key, return_sites, return_datatree, args, **kwargs
            As in :meth:`predict_on_batch`.

        Returns
        -------
        xarray.DataTree or dict of str to jax.Array
            Group ``posterior_predictive``.
        """
        given = optional_key(rng_key)
        request = self._prepare_prediction(
            X, intervention, self._merged(kwargs, args), condition=condition, return_sites=return_sites
        )
        return self._draw_on_batch(request, given, return_datatree=return_datatree)

    @on_snapshot
    def sample_prior_predictive_on_batch(
        self,
        X: Any,
        *,
        num_samples: int = 1000,
        intervention: Intervention | None = None,
        condition: Mapping[str, Any] | None = None,
        rng_key: jax.Array | None = None,
        return_sites: str | Iterable[str] | None = None,
        return_datatree: bool = True,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> "xr.DataTree | dict[str, jax.Array]":
        """Predict from the priors, in one pass in memory. No posterior is needed.

        Parameters of the kernel take their fitted values if there are any.

        Parameters
        ----------
        X : array_like of shape (n_obs, ...)
            Input.
        num_samples : int
            Number of draws.
        intervention, condition, rng_key, return_sites, return_datatree, args, **kwargs
            As in :meth:`predict_on_batch`.

        Returns
        -------
        xarray.DataTree or dict of str to jax.Array
            Group ``prior_predictive``.

        Raises
        ------
        ValueError
            If a prior is improper and cannot be sampled.
        """
        given = optional_key(rng_key)
        request = self._prepare_prior(
            X,
            intervention,
            self._merged(kwargs, args),
            num_samples=num_samples,
            condition=condition,
            return_sites=return_sites,
        )
        return self._draw_on_batch(request, given, return_datatree=return_datatree)

    def _draw_on_batch(
        self, request: PredictionRequest, given: jax.Array | None, *, return_datatree: bool
    ) -> "xr.DataTree | dict[str, jax.Array]":
        """Compute a request in one pass; return a tree or a dictionary of arrays."""
        check_flag(return_datatree, "return_datatree")
        with self._key(given) as key:
            if return_datatree:
                return self._execute_on_batch(request, key)
            return self._engine.run("predictive", request.first, key)
