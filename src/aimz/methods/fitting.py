"""Methods of ``ImpactModel`` that fit it."""

__all__ = ["FittingMethods"]

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import jax

from aimz.data import check_count, check_flag, key_to_text
from aimz.engine import KernelEngine, fit_support, with_outcome
from aimz.errors import FitWarning, warn
from aimz.inference import (
    CYCLE,
    Fit,
    FitData,
    PosteriorOnly,
    SVIFit,
    check_chains,
    fit_for_data,
    judge_chains,
    judge_guide,
)
from aimz.methods.base import optional_key
from aimz.methods.fit_options import FitOptions, read_options
from aimz.methods.fitted_rows import FittedRows
from aimz.methods.fitted_support import with_support_of_fit
from aimz.methods.minibatch_fit import fits_at_once, plan_fit, read_training
from aimz.methods.training import TrainingMethods

if TYPE_CHECKING:
    import os


_NUM_STEPS = 10000


class FittingMethods(TrainingMethods):
    """Fitting by SVI or MCMC, at once or in minibatches."""

    def fit_on_batch(
        self,
        X: Any,
        y: Any = None,
        *,
        num_steps: int = _NUM_STEPS,
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
            SVI: number of posterior draws. A chosen NUTS draws 500 in each of its 4 chains by default; an MCMC object
            draws the number configured in it.
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
        with self._refit() as (engine, fit), self._key(rng_key) as key:
            self._fit_at_once(
                engine, fit, X, y, kwargs, key, num_steps=num_steps, num_samples=num_samples, progress=progress
            )
            options = {"num_steps": num_steps, "num_samples": num_samples}
            self._rows = replace(self._rows, method="fit_on_batch", options=options)
        return self

    def _fit_at_once(
        self,
        engine: KernelEngine,
        fit: Any,
        X: Any,
        y: Any,
        kwargs: Mapping[str, Any],
        key: jax.Array,
        *,
        num_steps: int | None,
        num_samples: int,
        progress: bool,
    ) -> None:
        """Fit to all rows at once; without ``num_steps``, SVI runs until it has settled."""
        started = time.perf_counter()
        engine, _, y = with_outcome(engine, X, y)
        call = engine.read_call(X, kwargs, output=y)
        spec = engine.read_fit(call)
        engine.check_data(call, spec)
        cycle = num_steps if num_steps is not None and num_steps % CYCLE else CYCLE
        fit = fit_for_data(fit, call, spec, in_batches=False, cycle=cycle)
        fit.check_run(call, spec, num_samples=num_samples)
        if num_steps not in (None, _NUM_STEPS) and not isinstance(fit, SVIFit):
            warn(
                f"The fit does not depend on `num_steps={num_steps}`, which is for SVI: MCMC draws as many times as "
                "its object says. Pass `num_samples` to a chosen NUTS, or set it in the object.",
                FitWarning,
            )
        engine.remember_fit_data(call)
        posterior = fit.run(call, spec, key, num_steps=num_steps, num_samples=num_samples, progress=progress)
        posterior = with_support_of_fit(posterior, fit_support(call, self.param_output, engine.parameters.known))
        rows = FittedRows.of(X, y, kwargs, engine.parameters)
        self._set_fit(engine, fit, posterior, FitData.of(call, self.param_output), rows)
        if isinstance(fit, SVIFit):
            if fit.choice is not None and fit.shared_programs is None:
                fit.outcome = judge_guide(fit, call, jax.random.fold_in(key, 3))
        elif num_steps is None or fit.choice is not None:
            dataset = self._groups_of(posterior, spec)["posterior"]
            table = check_chains(posterior, dataset, f"{self.param_output}_unobserved")
            fit.outcome = judge_chains(posterior, table)
        report(fit, started, progress=progress)

    def fit(
        self,
        X: Any,
        y: Any = None,
        *,
        num_samples: int = 1000,
        rng_key: jax.Array | None = None,
        progress: bool = True,
        batch_size: int | None = None,
        epochs: int | None = None,
        shuffle: bool = True,
        total_size: int | None = None,
        on_epoch_end: Callable[[int, float], Any] | None = None,
        checkpoint_dir: "str | os.PathLike[str] | None" = None,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Fit by SVI or MCMC until the fit has settled, and draw from the posterior of the whole data.

        A chosen inference starts with its choice; see "Inference" in :class:`ImpactModel`. MCMC runs as in
        :meth:`fit_on_batch`. Without ``epochs`` and ``batch_size``, SVI runs in rounds of 1,000 steps (of at least an
        epoch in minibatches) until it has settled, for 20 rounds at most: an optimizer of the user until its loss no
        longer falls; a chosen one until neither the loss nor the mean or standard deviation of any latent value
        changes between two rounds. Steps use all rows if these are in memory and have at most two million values, or
        if the kernel cannot be fitted in minibatches.

        One line at the end reports whether the fit has settled, unless ``progress=False``.

        In a minibatch of ``B`` of ``n_obs`` rows, the log density of each site with a row axis is multiplied by
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
            Number of posterior draws. A chosen NUTS draws 500 in each of its 4 chains by default; MCMC objects draw the
            number configured in them.
        rng_key : jax.Array, optional
            Key for this call; the model's own key then does not change.
        progress : bool
            Whether to show a progress bar.
        batch_size : int, optional
            Number of rows in a batch. The default is the batch size of a loader, the length of the first batch of an
            iterable, or, for arrays, the power of two between 64 and 4,096 that is closest to a hundredth of the rows.
            The last batch of an epoch may be shorter; its scale is then larger.
        epochs : int, optional
            Number of passes over the data, in minibatches. By default, as many as the loss needs to settle.
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
            If options of minibatches are passed to a model fitted by MCMC, data or arguments are invalid, or
            minibatches are requested and not possible: the kernel combines values of several rows, has a scalar
            ``factor`` of the rows, or the guide has a value for each row.
            The model has then not changed.

        Warns
        -----
        FitWarning
            If the fit has not settled: SVI within its rounds, or chains by R-hat, effective sample size and
            divergences, or if the normal guide of a chosen SVI differs from the posterior by importance weights. If a
            step is not finite. The run then stops at the end of its epoch and keeps the last finite state. If
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
        >>> svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(lambda step: 0.02 * 0.9998**step), Trace_ELBO())
        >>> model = ImpactModel(kernel, random.key(0), svi)
        >>> _ = model.fit(X, y, batch_size=100, epochs=200, progress=False)
        >>> draws = model.posterior["b"]
        >>> bool(abs(draws.mean() - 2.0) < 0.05), bool(0.008 < draws.std() < 0.012)  # of all rows: 1 / sqrt(10,000)
        (True, True)
        """
        rng_key, kwargs = optional_key(rng_key), self._merged(kwargs, args)
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
        if isinstance(self._fit, PosteriorOnly):
            self._fit.require_inference("`fit`")
        if options.in_batches:
            self._require_svi("`fit` in batches")
        with self._refit() as (engine, fit), self._key(rng_key) as key:
            if fits_at_once(engine, fit, X, y, kwargs, options):
                self._fit_at_once(
                    engine, fit, X, y, kwargs, key, num_steps=None, num_samples=num_samples, progress=progress
                )
            else:
                self._fit_in_batches(engine, fit, X, y, kwargs, key, options, num_samples)
            self._rows = replace(self._rows, options=options.repeated(X, num_samples))
        return self

    def _fit_in_batches(
        self,
        engine: KernelEngine,
        fit: Any,
        X: Any,
        y: Any,
        kwargs: Mapping[str, Any],
        key: jax.Array,
        options: FitOptions,
        num_samples: int,
    ) -> None:
        """Fit in minibatches by SVI."""
        started = time.perf_counter()
        key_steps, key_order, key_draws = jax.random.split(key, 3)
        training = read_training(engine, X, y, kwargs, options, key_order)
        fit, plan, spec = plan_fit(engine, fit, training, options, key_to_text(key))
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
        report(fit, started, progress=options.progress)


def report(fit: Fit, started: float, *, progress: bool) -> None:
    """Print one line about a fit that has ended, where the progress bar was."""
    if progress and fit.outcome.settled is not None:
        settled = "The fit has settled" if fit.outcome.settled else "The fit has NOT settled"
        method = fit.kind if fit.choice is None else fit.choice.method.upper()
        sys.stderr.write(f"{settled}: {method}, {fit.outcome.text}, {time.perf_counter() - started:.1f} s.\n")
