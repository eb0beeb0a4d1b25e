"""Methods of ``ImpactModel`` for custom training loops, and the common start of all fits."""

__all__ = ["TrainingMethods"]

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax

from aimz.data import check_count
from aimz.engine import KernelEngine, with_outcome
from aimz.inference import (
    DeferredFit,
    PosteriorOnly,
    SVIFit,
    fit_for_data,
)
from aimz.methods.base import ModelBase, optional_key
from aimz.methods.fitted_rows import FittedRows
from aimz.methods.minibatch_checks import batch_scale

if TYPE_CHECKING:
    from numpyro.infer.svi import SVIState


class TrainingMethods(ModelBase):
    """Single steps of SVI."""

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
        >>> svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(lambda step: 0.1 * 0.99**step), Trace_ELBO())
        >>> model = ImpactModel(kernel, random.key(0), svi)
        >>> X = jnp.ones(10)
        >>> for _ in range(3):
        ...     state, loss = model.train_on_batch(X, 2 * X, total_size=1_000)
        >>> len(model.vi_result.losses)
        3
        """
        rng_key, kwargs = optional_key(rng_key), self._merged(kwargs, args)
        self._require_svi("`train_on_batch`")
        with self._refit() as (engine, fit):
            engine, _, y = with_outcome(engine, X, y)
            call = engine.read_call(X, kwargs, output=y)
            spec = engine.read_fit(call)
            engine.check_data(call, spec)
            fit = fit_for_data(fit, call, spec, in_batches=True)
            assert isinstance(fit, SVIFit)
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
            self._fit.require_inference(method)
        deferred = isinstance(self._fit, DeferredFit) and self._fit.requested != "nuts"
        if not (deferred or isinstance(self._fit, SVIFit)):
            msg = (
                f"{method} requires SVI, but this model is fitted by MCMC, which needs all rows at once. Call "
                "`fit` with arrays and without options of batches."
            )
            raise TypeError(msg)
