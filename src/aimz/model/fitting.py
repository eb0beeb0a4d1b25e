"""Methods of ``ImpactModel`` that fit it."""

__all__ = ["FittingMethods"]

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import jax

from aimz.data import check_count, check_flag, key_to_text
from aimz.engine import KernelEngine, fit_support, with_outcome
from aimz.errors import FitWarning, warn
from aimz.inference import FitData, PosteriorOnly, SVIFit
from aimz.model.base import ModelBase, optional_key
from aimz.model.fitted_rows import FittedRows
from aimz.model.fitted_support import with_support_of_fit
from aimz.model.minibatch_checks import batch_scale
from aimz.model.minibatch_fit import plan_fit, read_options, read_training

if TYPE_CHECKING:
    import os

    from numpyro.infer.svi import SVIState


class FittingMethods(ModelBase):
    """Fitting by SVI or MCMC, at once, in minibatches or step by step."""

    def fit_on_batch(
        self,
        X: Any,
        y: Any = None,
        *,
        num_steps: int = 10000,
        num_samples: int = 1000,
        rng_key: jax.Array | None = None,
        progress: bool = True,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Fit to all rows at once by SVI or MCMC, and draw from the posterior.

        SVI continues from the model's current state; make a new model to start over. MCMC runs warm-up and sampling as
        configured in its object, in every call. Discrete latent sites that were enumerated are sampled afterwards,
        given the data and each draw of the other sites.

        Parameters
        ----------
        X, y : array_like of shape (n_obs, ...)
            Input and output; see "Tables" in :class:`ImpactModel`. ``y="sales"`` names the column of ``X`` with the
            output, which is then not part of the input, in later calls either. The model keeps a reference to the
            output, without copying it, as ``observed_data`` of later results.
        num_steps : int
            SVI: number of optimization steps.
        num_samples : int
            SVI: number of posterior draws. MCMC uses the number configured in its object.
        rng_key : jax.Array, optional
            Key for this call; the model's own key then does not change.
        progress : bool
            Whether to show a progress bar.
        args : mapping of str to object, optional
            Further arguments of the kernel by name, as ``**kwargs``; needed for names of parameters of this method.
        **kwargs
            Further arguments of the kernel.

        Returns
        -------
        ImpactModel
            The model itself.

        Raises
        ------
        KernelValidationError
            If the kernel does not observe the output, or has a discrete latent site that cannot be enumerated.
        TypeError, ValueError
            If data or arguments are invalid. The model has then not changed.
        ImportError
            If the kernel has discrete latent sites and funsor is not installed.

        Warns
        -----
        FitWarning
            If a loss is not finite. The run then stops and keeps the last finite state. Also if SVI ends before its
            loss has settled: the loss falls during the last fifth of all steps, by more than two nats and more than one
            settled fit in 10,000 shows by chance.
        """
        rng_key, kwargs = optional_key(rng_key), self._merged(kwargs, args)
        check_count(num_steps, "num_steps")
        check_count(num_samples, "num_samples")
        check_flag(progress, "progress")
        with self._refit() as (engine, fit):
            engine, _, y = with_outcome(engine, X, y)
            call = engine.read_call(X, kwargs, output=y)
            spec = engine.read_fit(call)
            engine.check_data(call, spec)
            fit.check_run(call, spec, num_samples=num_samples)
            engine.remember_fit_data(call)
            with self._key(rng_key) as key:
                posterior = fit.run(call, spec, key, num_steps=num_steps, num_samples=num_samples, progress=progress)
                posterior = with_support_of_fit(posterior, fit_support(call, self.param_output, engine.tables))
                rows = FittedRows.of(X, y, kwargs, engine.parameters)
                self._set_fit(engine, fit, posterior, FitData.of(call, self.param_output), rows)
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
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Fit in minibatches by SVI, and draw from the posterior of the whole data.

        In a step with ``B`` of ``n_obs`` rows, the log density of each site with a row axis is multiplied by
        ``n_obs / B``, in model and guide, so that each loss is an unbiased estimate of the negative ELBO of the whole
        data [1]_. A plate with a ``size`` and a ``subsample_size`` scales its sites itself and is left unchanged. If
        minibatches would give another posterior than all rows, the method raises before the first step.

        Parameters
        ----------
        X : array_like of shape (n_obs, ...), ArrayDataset, ArrayLoader or iterable of batches
            Input, or a source of batches. A batch is a mapping of argument name to array, a pair of such a mapping and
            the number of padded rows, or a tuple ``(X, y)``. Rows in files (:class:`numpy.memmap`, Zarr, Dask) are read
            when they are needed.
        y : array_like of shape (n_obs, ...), optional
            Output, or the name of its column, if ``X`` does not have it under the name of the kernel's parameter.
        num_samples : int
            Number of posterior draws.
        rng_key : jax.Array, optional
            Key for this call; the model's own key then does not change.
        progress : bool
            Whether to show a progress bar.
        batch_size : int, optional
            Number of rows in a batch. The default is the batch size of a loader, the length of the first batch of an
            iterable, or, for arrays, the power of two between 64 and 4,096 that is closest to a hundredth of the rows.
            The last batch of an epoch may be shorter; its scale is then larger.
        epochs : int
            Number of passes over the data.
        shuffle : bool
            Whether to shuffle the rows of arrays in each epoch. Loaders and iterables determine their own order.
        total_size : int, optional
            Number of rows of the whole data, for an iterable. By default it is read from a loader (``sampler``,
            ``dataset``), and other iterables are iterated over once to count their rows. It is required for an
            iterator, which counting would exhaust.
        on_epoch_end : callable, optional
            Called as ``on_epoch_end(epoch, loss)`` with the number of the epoch, starting at 0, and the mean loss of
            its steps. The fit ends if it returns a true value.
        checkpoint_dir : path-like, optional
            Directory in which the state is saved after each epoch. If the process is killed, the same call continues
            from there and gives bitwise the same result.
        args : mapping of str to object, optional
            Further arguments of the kernel by name, as ``**kwargs``; needed for names of parameters of this method.
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
            If the checkpoint is damaged, or was written with another kernel, guide, optimizer, key or data size.
        TypeError, ValueError
            If the model is fitted by MCMC, data or arguments are invalid, or minibatches are not possible: the kernel
            combines values of several rows, has a scalar ``factor`` of the rows, or the guide has a value for each row.
            The model has then not changed.

        Warns
        -----
        FitWarning
            If a step is not finite. The run then stops at the end of its epoch and keeps the last finite state. If
            a row of the data is not finite, another warning names it, and the model has no posterior. Also if the loss
            has not settled, as in :meth:`fit_on_batch`.

        Notes
        -----
        The fit continues from the model's current state. If it is interrupted, the completed steps are kept, and the
        model has no posterior until :meth:`sample` or another fit draws from the new parameters. If no step was
        completed, the model has not changed.

        Only the sites are checked in kernels with mutable state (batch normalization, which computes statistics of each
        batch on purpose) and in kernels with noise of their own (dropout): other operations that combine rows are
        allowed there.

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
        rng_key, kwargs = optional_key(rng_key), self._merged(kwargs, args)
        self._require_svi("fit")
        check_count(num_samples, "num_samples")
        options = read_options(
            batch_size=batch_size,
            epochs=epochs,
            shuffle=shuffle,
            total_size=total_size,
            progress=progress,
            on_epoch_end=on_epoch_end,
            checkpoint_dir=checkpoint_dir,
        )
        with self._refit() as (engine, fit), self._key(rng_key) as key:
            key_steps, key_order, key_draws = jax.random.split(key, 3)
            training = read_training(engine, X, y, kwargs, options, key_order)
            plan, spec = plan_fit(engine, fit, training, options, key_to_text(key))
            engine.remember_fit_data(plan.first)
            posterior = observed = None
            try:
                with fit.begin_minibatches(plan, key_steps) as start:
                    try:
                        fit.run_minibatches(plan, start)
                    finally:
                        training.advance_loader()
                where = training.first_not_finite() if fit.stopped else None
                if where is None:
                    draws = fit.draw_after(
                        training.all_rows, plan.first, spec, key_draws, num_samples=num_samples, n_obs=training.n_obs
                    )
                    posterior, observed = training.described(draws), training.observed(plan.first, self.param_output)
            finally:
                # Also after an interruption, so that completed steps are kept, without the draws of other parameters.
                if posterior is not None or fit.vi_state is not self._fit.vi_state:
                    rows = FittedRows.of(X, y, kwargs, engine.parameters, interrupted=posterior is None)
                    self._set_fit(engine, fit, posterior, self._stale_data() if posterior is None else observed, rows)
            training.batches.rounding.warn(training.tables)
            if where is not None:
                warn(
                    f"The fit stopped at data that are not finite, {where}, so the model is not fitted. Drop or "
                    "repair such rows, and fit a new model.",
                    FitWarning,
                )
        return self

    def train_on_batch(
        self,
        X: Any,
        y: Any,
        rng_key: jax.Array | None = None,
        *,
        total_size: int | None = None,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> "tuple[SVIState, jax.Array]":
        """Run one step of SVI, for a custom training loop.

        Parameters
        ----------
        X, y : array_like of shape (n_rows, ...)
            Input and output of the batch.
        rng_key : jax.Array, optional
            Key of the step. The default is the key in the state, which each step renews; the very first step splits the
            model's own key.
        total_size : int, optional
            Number of rows of the whole data, if the batch is a part of it. The log density of sites with a row axis is
            then multiplied by ``total_size / n_rows``, as in :meth:`fit`. By default the batch is the whole data.
        args : mapping of str to object, optional
            Further arguments of the kernel by name, as ``**kwargs``; needed for names of parameters of this method.
        **kwargs
            Further arguments of the kernel.

        Returns
        -------
        state : numpyro.infer.svi.SVIState
            New state, also available as :attr:`vi_state`. It is the previous state if the loss or its gradient is not
            finite.
        loss : jax.Array of shape ()
            Negative ELBO before the step. :attr:`vi_result` contains the losses of all steps.

        Raises
        ------
        KernelValidationError
            If the kernel does not observe the output.
        TypeError, ValueError
            If the model is fitted by MCMC, data or arguments are invalid, or minibatches are not possible.

        Notes
        -----
        A step drops the posterior, whose draws belong to the previous parameters: predictions raise ``NotFittedError``
        until ``model.set_posterior_sample(model.sample(return_datatree=False))`` sets it to draws from the guide.

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
        rng_key, kwargs = optional_key(rng_key), self._merged(kwargs, args)
        self._require_svi("train_on_batch")
        with self._refit() as (engine, fit):
            engine, _, y = with_outcome(engine, X, y)
            call = engine.read_call(X, kwargs, output=y)
            spec = engine.read_fit(call)
            engine.check_data(call, spec)
            engine.remember_fit_data(call)
            n_obs = call.n_obs if total_size is None else check_count(total_size, "total_size", 2**63 - 1)
            if n_obs < call.n_obs:
                msg = (
                    f"`total_size` must be at least the rows of the batch, {call.n_obs}; got {total_size}. Pass the "
                    "number of rows of the whole data."
                )
                raise ValueError(msg)
            names = batch_scale(engine, fit, call, spec, n_obs)
            fit.check_run(replace(call, n_obs=n_obs), spec)
            with self._key(rng_key) if fit.vi_state is None else nullcontext(rng_key) as key:
                state, loss = fit.step(call, names, key, n_obs / call.n_obs)
                rows = FittedRows(missing="its last step was `train_on_batch`, whose batch is not kept")
                self._set_fit(engine, fit, None, self._stale_data(), rows)
        return state, loss

    @contextmanager
    def _refit(self) -> Iterator[tuple[KernelEngine, Any]]:
        """Yield copies of engine and fit for a further fit, which replace the model's when the posterior is set.

        If the fit is not replaced, the inference object is restored. Fits of a model run one after another.
        """
        with self._shared.fitting:
            fit, restore = self._fit.copy(), self._fit.restorer()
            try:
                yield self._engine.for_fit(restart=fit.vi_state is None), fit
            finally:
                if self._fit is not fit:
                    restore()

    def _require_svi(self, method: str) -> None:
        """Raise if the fit is not by SVI."""
        if isinstance(self._fit, PosteriorOnly):
            self._fit.require_inference(f"`{method}`")
        if not isinstance(self._fit, SVIFit):
            msg = (
                f"`{method}` requires SVI, but this model is fitted by MCMC, which needs all rows at once. Call "
                "`fit_on_batch`."
            )
            raise TypeError(msg)
