"""Methods that predict."""

__all__ = ["PredictionMethods"]

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax

from aimz.data import read_count
from aimz.distributed import collective_call
from aimz.engine import Asked, Given, read_given, read_streaming
from aimz.model.base import given_key
from aimz.model.requests import RequestMethods
from aimz.types import Intervention, StatisticsLike

if TYPE_CHECKING:
    import os

    import xarray as xr
    from zarr.abc.store import Store
    from zarr.storage import StorePath

    from distributed import Client


class PredictionMethods(RequestMethods):
    """Methods that predict."""

    @collective_call
    def predict(
        self,
        X: Any,
        *,
        intervention: Intervention | None = None,
        rng_key: jax.Array | None = None,
        in_sample: bool = True,
        return_sites: str | Iterable[str] | None = None,
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
        """Predict any number of rows, under an intervention if one is given.

        What :meth:`predict_on_batch` does, block by block: memory does not grow with the number of rows, all devices
        are used, and the result lies on disk unless told otherwise.  The numbers depend on the key and the data alone.

        Parameters
        ----------
        X : array_like of shape (n_obs, ...) or iterable of batches
            Input; also a :class:`numpy.memmap`, a Zarr or Dask array, or an :class:`~aimz.utils.data.ArrayLoader`.
        intervention, rng_key, in_sample, return_sites, **kwargs
            As in :meth:`predict_on_batch`.
        statistics, shard_axis, batch_size, store, output_dir, resume, progress, client
            See "Streaming" in :class:`ImpactModel`.

        Returns
        -------
        xarray.DataTree
            Group ``posterior_predictive``, or ``predictions`` where ``in_sample=False``; sites have shape
            ``(chain, draw, n_obs, ...)``.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        TypeError, ValueError
            If arguments do not fit; nothing has then been computed or written.
        OSError
            If the result cannot be written; the error says how to go on.

        Warns
        -----
        UserWarning
            If the kernel's rows depend on one another, so that all are computed together.
        """
        key = given_key(rng_key)
        options = read_streaming(shard_axis, batch_size, store, output_dir, resume, progress, statistics, client)
        asked = self._ask(
            X, intervention, kwargs, in_sample=in_sample, return_sites=return_sites, streaming=options, method="predict"
        )
        return self._answer(asked, self._key(key, options))

    @collective_call
    def sample_posterior_predictive(
        self,
        X: Any,
        *,
        intervention: Intervention | None = None,
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
        **kwargs: Any,
    ) -> "xr.DataTree":
        """Predict for the fitted observations: :meth:`predict` with ``in_sample=True``.

        Parameters
        ----------
        X, intervention, rng_key, return_sites, **kwargs
            As in :meth:`predict`.
        statistics, shard_axis, batch_size, store, output_dir, resume, progress, client
            See "Streaming" in :class:`ImpactModel`.

        Returns
        -------
        xarray.DataTree
            Group ``posterior_predictive``.
        """
        key = given_key(rng_key)
        options = read_streaming(shard_axis, batch_size, store, output_dir, resume, progress, statistics, client)
        method = "sample_posterior_predictive"
        asked = self._ask(X, intervention, kwargs, return_sites=return_sites, streaming=options, method=method)
        return self._answer(asked, self._key(key, options))

    @collective_call
    def sample_prior_predictive(
        self,
        X: Any,
        *,
        num_samples: int = 1000,
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
        **kwargs: Any,
    ) -> "xr.DataTree":
        """Predict any number of rows from the priors; needs no posterior.

        Parameters
        ----------
        X : array_like of shape (n_obs, ...) or iterable of batches
            Input.
        num_samples : int
            Number of draws.
        rng_key, return_sites, **kwargs
            As in :meth:`predict_on_batch`.
        statistics, shard_axis, batch_size, store, output_dir, resume, progress, client
            See "Streaming" in :class:`ImpactModel`.

        Returns
        -------
        xarray.DataTree
            Group ``prior_predictive``.
        """
        key = given_key(rng_key)
        options = read_streaming(shard_axis, batch_size, store, output_dir, resume, progress, statistics, client)
        n_draws = read_count(num_samples, "num_samples")
        given = read_given(self._engine, X, kwargs, scored=False, expected=None)

        prepare = partial(
            self._engine.prepare,
            posterior=None,
            params=self._fit.params,
            n_draws=n_draws,
            return_sites=return_sites,
        )
        asked = Asked("sample_prior_predictive", "prior_predictive", given, prepare(given.call), prepare, options)
        self._results.check(asked.prepared)
        return self._answer(asked, self._key(key, options))

    def predict_on_batch(
        self,
        X: Any,
        *,
        intervention: Intervention | None = None,
        rng_key: jax.Array | None = None,
        in_sample: bool = True,
        return_sites: str | Iterable[str] | None = None,
        return_datatree: bool = True,
        **kwargs: Any,
    ) -> "xr.DataTree | dict[str, jax.Array]":
        """Predict in one pass in memory, under an intervention if one is given.

        Equals NumPyro's :class:`~numpyro.infer.Predictive` in distribution, with what that leaves to the user
        done: fitted parameters, interventions that reach every descendant, rows of local latents.

        Parameters
        ----------
        X : array_like of shape (n_obs, ...)
            Input.
        intervention : mapping, optional
            Name of a site, of a kernel argument, or of a column where ``X`` is a data frame, to a value: a scalar, an
            array that broadcasts, or a callable on the factual value.  Latent sites that descend from it are drawn
            anew.
        rng_key : jax.Array, optional
            Key for this call; the model's own is then left alone.
        in_sample : bool
            Whether the rows are the fitted observations.  Local latents then keep their posterior draws if
            there are as many rows, and the group is ``posterior_predictive``; else ``predictions``.
        return_sites : str or iterable of str, optional
            Sites to return; by default the output and the deterministic sites.
        return_datatree : bool
            Whether to return a tree, or a dictionary of arrays of shape ``(n_draws, ...)``.
        **kwargs
            Further arguments of the kernel.

        Returns
        -------
        xarray.DataTree or dict of str to jax.Array
            Each site has shape ``(chain, draw, ...)``; a site without a row axis has none here either.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        ValueError
            If a name is unknown or a shape does not fit; nothing has then been computed.

        Warns
        -----
        UserWarning
            If local latents are kept or drawn anew, or something is missing from the posterior.
        """
        given = given_key(rng_key)
        asked = self._ask(X, intervention, kwargs, in_sample=in_sample, return_sites=return_sites)
        key = self._key(given)
        return self._answer(asked, key) if return_datatree else self._engine.run("predictive", asked.prepared, key)

    def sample_posterior_predictive_on_batch(
        self,
        X: Any,
        *,
        intervention: Intervention | None = None,
        rng_key: jax.Array | None = None,
        return_sites: str | Iterable[str] | None = None,
        return_datatree: bool = True,
        **kwargs: Any,
    ) -> "xr.DataTree | dict[str, jax.Array]":
        """Predict for the fitted observations: :meth:`predict_on_batch` with ``in_sample=True``.

        Parameters
        ----------
        X, intervention, rng_key, return_sites, return_datatree, **kwargs
            As in :meth:`predict_on_batch`.

        Returns
        -------
        xarray.DataTree or dict of str to jax.Array
            Group ``posterior_predictive``.
        """
        given = given_key(rng_key)
        asked = self._ask(X, intervention, kwargs, return_sites=return_sites)
        key = self._key(given)
        return self._answer(asked, key) if return_datatree else self._engine.run("predictive", asked.prepared, key)

    def sample_prior_predictive_on_batch(
        self,
        X: Any,
        *,
        num_samples: int = 1000,
        rng_key: jax.Array | None = None,
        return_sites: str | Iterable[str] | None = None,
        return_datatree: bool = True,
        **kwargs: Any,
    ) -> "xr.DataTree | dict[str, jax.Array]":
        """Predict from the priors; needs no posterior.  Parameters take their fitted values if there are any.

        Parameters
        ----------
        X : array_like of shape (n_obs, ...)
            Input.
        num_samples : int
            Number of draws.
        rng_key, return_sites, return_datatree, **kwargs
            As in :meth:`predict_on_batch`.

        Returns
        -------
        xarray.DataTree or dict of str to jax.Array
            Group ``prior_predictive``.

        Raises
        ------
        ValueError
            If a prior is improper, so that it cannot be drawn from.
        """
        given = given_key(rng_key)
        n_draws = read_count(num_samples, "num_samples")
        call = self._engine.read_call(X, kwargs)
        prepare = partial(
            self._engine.prepare, posterior=None, params=self._fit.params, n_draws=n_draws, return_sites=return_sites
        )
        asked = Asked("sample_prior_predictive_on_batch", "prior_predictive", Given(call), prepare(call), prepare)
        self._results.check(asked.prepared)
        key = self._key(given)
        return self._answer(asked, key) if return_datatree else self._engine.run("predictive", asked.prepared, key)
