"""Methods that fit a model."""

__all__ = ["FittingMethods"]

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import jax

from aimz.data import key_to_text, read_count
from aimz.inference import FitData, PosteriorOnly, SVIFit
from aimz.model.base import ModelBase, given_key
from aimz.model.minibatch_checks import batch_scale
from aimz.model.minibatch_fit import plan_fit, read_options, read_training

if TYPE_CHECKING:
    import os

    from numpyro.infer.svi import SVIState


class FittingMethods(ModelBase):
    """Methods that fit the model."""

    def fit_on_batch(
        self,
        X: Any,
        y: Any = None,
        *,
        num_steps: int = 10000,
        num_samples: int = 1000,
        rng_key: jax.Array | None = None,
        progress: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Fit to all the data at once, by SVI or MCMC, and draw the posterior.

        SVI continues from the state the model has; a model that is to start afresh is made anew.  MCMC warms up
        and samples as its object says, each time.  Discrete latents that were summed over are drawn afterwards, given
        the data and each draw of the others.

        Parameters
        ----------
        X, y : array_like of shape (n_obs, ...)
            Input and output; see "Tables" in :class:`ImpactModel`.  The output is kept, not copied, as
            ``observed_data`` of later results.
        num_steps : int
            SVI: number of optimisation steps.
        num_samples : int
            SVI: number of posterior draws to take.  MCMC draws as many as its object says.
        rng_key : jax.Array, optional
            Key for this call; the model's own is then left alone.
        progress : bool
            Whether to show a progress bar.
        **kwargs
            Further arguments of the kernel.

        Returns
        -------
        ImpactModel
            The model itself.

        Raises
        ------
        KernelValidationError
            If the kernel does not observe the output, or has a discrete latent that cannot be summed over.
        TypeError, ValueError
            If data or arguments do not fit; nothing has then been changed.
        ImportError
            If the kernel has discrete latents and funsor is not installed.

        Warns
        -----
        RuntimeWarning
            If a loss is not finite: the run stops and the last good state is kept.
        """
        given = given_key(rng_key)
        with self._engine.reading_fit(anew=self._fit.vi_state is None):
            call = self._engine.read_call(X, kwargs, output=y)
            read_count(num_steps, "num_steps")
            read_count(num_samples, "num_samples")
            spec = self._engine.read_fit(call)
            self._fit.check_run(call, spec, num_samples=num_samples)
            self._engine.learn(call)
        self._posterior = self._fit.run(
            call, spec, self._key(given), num_steps=num_steps, num_samples=num_samples, progress=progress
        )
        self._observed = FitData.of(call, self.param_output)
        return self

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        num_samples: int = 1000,
        rng_key: jax.Array | None = None,
        progress: bool = True,
        batch_size: int | None = None,
        epochs: int = 1,
        shuffle: bool = True,
        total_size: int | None = None,
        on_epoch_end: Callable[[int, float], Any] | None = None,
        checkpoint_dir: "str | os.PathLike[str] | None" = None,
        **kwargs: Any,
    ) -> Self:
        """Fit in minibatches by SVI, and draw the posterior: that of the whole data, whatever the ``batch_size``.

        In a step with ``B`` of ``n_obs`` rows, each site with a row axis counts ``n_obs / B`` times, in model and
        guide, so that each loss estimates the negative ELBO of the whole data without bias [1]_.  A plate that knows
        its ``size`` and ``subsample_size`` does so by itself, and is left alone.  What a batch cannot stand for is
        refused before the first step.

        Parameters
        ----------
        X : array_like of shape (n_obs, ...), ArrayDataset, ArrayLoader or iterable of batches
            Input, or a source of batches: mappings of argument to array, pairs of such a mapping and the number of
            padded rows, or tuples ``(X, y)``.  Rows of files (:class:`numpy.memmap`, Zarr, Dask) are read as they are
            needed.
        y : array_like of shape (n_obs, ...), optional
            Output, where it does not come with ``X``.
        num_samples : int
            Number of posterior draws to take.
        rng_key : jax.Array, optional
            Key for this call; the model's own is then left alone.
        progress : bool
            Whether to show a bar for each epoch.
        batch_size : int, optional
            Rows in a batch.  By default that of the loader, the length of the first batch of an iterable, or for
            arrays a hundredth of the rows, as a power of two from 64 to 4,096.  The last batch of an epoch may be
            shorter, and has its own scale.
        epochs : int
            How often to go through the data.
        shuffle : bool
            Whether the rows of arrays come in another order in each epoch.  Loaders and iterables have their own.
        total_size : int, optional
            Rows of the whole data, for an iterable.  Without it a loader is asked (``sampler``, ``dataset``), and any
            other iterable is gone through once to count them; an iterator, which that would use up, needs it.
        on_epoch_end : callable, optional
            Called as ``on_epoch_end(epoch, loss)`` with the number of the epoch, counted from 0, and the mean loss of
            its steps; the fit ends if it returns true.
        checkpoint_dir : path-like, optional
            Where to keep the state after each epoch.  The same call, made again after the process was killed, goes on
            from there and ends in the same bits.
        **kwargs
            Further arguments of the kernel.

        Returns
        -------
        ImpactModel
            The model itself.

        Raises
        ------
        KernelValidationError
            If the kernel does not observe the output.
        CheckpointError
            If the checkpoint is of another kernel, guide, optimizer, key or data size, or damaged.
        TypeError, ValueError
            If the model is fitted by MCMC, data or arguments do not fit, or a batch cannot stand for the whole: rows
            that see one another, a scalar ``factor`` of the rows, a guide with a value for each row.  Nothing has
            then been changed.

        Warns
        -----
        RuntimeWarning
            If a step is not finite: the run stops at the end of its epoch, and the last good state is kept.

        Notes
        -----
        The fit continues from the state the model has.  If it is interrupted, the steps that are done are kept, and
        the posterior is the one before.

        Kernels with mutable state (batch normalisation), which take statistics of each batch on purpose, and those with
        noise of their own (dropout) are not checked for rows that see one another, apart from their sites.

        References
        ----------
        .. [1] Hoffman, Blei, Wang and Paisley (2013), Stochastic Variational Inference, JMLR 14.

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
        >>> X = random.normal(random.key(1), (10_000,))
        >>> y = 2.0 * X + random.normal(random.key(2), X.shape)
        >>> svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.005), Trace_ELBO())
        >>> model = ImpactModel(kernel, random.key(0), svi)
        >>> _ = model.fit(X, y, batch_size=100, epochs=200, progress=False)
        >>> draws = model.posterior["b"]
        >>> bool(abs(draws.mean() - 2.0) < 0.05), bool(0.008 < draws.std() < 0.012)  # of all rows: 1 / sqrt(10,000)
        (True, True)
        """
        given = given_key(rng_key)
        fit = self._by_svi("fit")
        read_count(num_samples, "num_samples")
        options = read_options(
            batch_size=batch_size,
            epochs=epochs,
            shuffle=shuffle,
            total_size=total_size,
            progress=progress,
            on_epoch_end=on_epoch_end,
            checkpoint_dir=checkpoint_dir,
        )
        before = self._rng_key
        key = self._key(given)
        key_steps, key_order, key_draws = jax.random.split(key, 3)
        try:
            with self._engine.reading_fit(anew=fit.vi_state is None):
                training = read_training(self._engine, X, y, kwargs, options, key_order)
                plan, spec = plan_fit(self._engine, fit, training, options, key_to_text(key))
                start = fit.begin_minibatches(plan, key_steps)
                self._engine.learn(plan.first)
        except BaseException:
            self._rng_key = before
            raise
        self._leave_data()
        try:
            fit.run_minibatches(plan, start)
        finally:
            training.end()
        self._posterior = fit.draw_after(
            training.all_rows, plan.first, spec, key_draws, num_samples=num_samples, n_obs=training.n_obs
        )
        self._observed = training.observed(plan.first, self.param_output)
        return self

    def train_on_batch(
        self, X: Any, y: Any, rng_key: jax.Array | None = None, *, total_size: int | None = None, **kwargs: Any
    ) -> "tuple[SVIState, jax.Array]":
        """Take one step of SVI, for a training loop of one's own.

        Parameters
        ----------
        X, y : array_like of shape (n_rows, ...)
            Input and output of the batch.
        rng_key : jax.Array, optional
            Key of the step.  By default that of the state, which each step renews; the first step of all splits the
            model's own.
        total_size : int, optional
            Number of rows of the whole data, if the batch is a part of it: sites with a row axis then count
            ``total_size / n_rows`` times, as in :meth:`fit`.  Without it the batch is the whole data.
        **kwargs
            Further arguments of the kernel.

        Returns
        -------
        state : numpyro.infer.svi.SVIState
            The new state, also :attr:`vi_state`.  If the loss or its gradient is not finite it is the old one.
        loss : jax.Array of shape ()
            Negative ELBO before the step; :attr:`vi_result` collects the losses of all steps.

        Raises
        ------
        KernelValidationError
            If the kernel does not observe the output.
        TypeError, ValueError
            If the model is fitted by MCMC, data or arguments do not fit, or the batch cannot stand for the whole.

        Notes
        -----
        The posterior is left as it is.  When the loop is done, ``model.set_posterior_sample(model.sample(
        return_datatree=False))`` draws it.

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
        >>> svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.1), Trace_ELBO())
        >>> model = ImpactModel(kernel, random.key(0), svi)
        >>> X = jnp.ones(10)
        >>> for _ in range(3):
        ...     state, loss = model.train_on_batch(X, 2 * X, total_size=1_000)
        >>> len(model.vi_result.losses)
        3
        """
        given = given_key(rng_key)
        fit = self._by_svi("train_on_batch")
        with self._engine.reading_fit(anew=fit.vi_state is None):
            call = self._engine.read_call(X, kwargs, output=y)
            spec = self._engine.read_fit(call)
            self._engine.learn(call)
        n_obs = call.n_obs if total_size is None else read_count(total_size, "total_size")
        if n_obs < call.n_obs:
            msg = (
                f"`total_size` must be at least the rows of the batch, {call.n_obs}; got {total_size}. Count all rows."
            )
            raise ValueError(msg)
        names = batch_scale(self._engine, fit, call, spec, n_obs)
        fit.check_run(replace(call, n_obs=n_obs), spec)
        self._leave_data()
        return fit.step(call, names, given, lambda: self._key(None), n_obs / call.n_obs)

    def _by_svi(self, method: str) -> SVIFit:
        """Return the fit, if it takes steps."""
        if isinstance(self._fit, PosteriorOnly):
            self._fit.refuse(f"`{method}`")
        if not isinstance(self._fit, SVIFit):
            msg = (
                f"`{method}` takes steps of SVI; this model is fitted by MCMC, which has none and needs all rows. Call "
                "`fit_on_batch`."
            )
            raise TypeError(msg)
        return self._fit
