"""Forecasts: predictions of the steps after the fitted ones."""

__all__ = ["ForecastMethods"]

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax

from aimz.data import KernelArguments
from aimz.distributed import collective_call
from aimz.engine import (
    FittedSteps,
    PredictionRequest,
    PredictionSettings,
    PreparedCall,
    StreamingOptions,
    check_continued,
    check_known,
    depends_on_rows,
    open_source,
    read_kind,
    read_options,
    warn_about_substitution,
    with_outcome,
)
from aimz.methods import RequestMethods, on_snapshot, optional_key
from aimz.timeseries.rows import is_wide
from aimz.timeseries.steps import (
    check_follows,
    fitted_arguments,
    index_of_steps,
    later_labels,
    step_axis,
    with_fitted,
    without_steps,
)
from aimz.types import EffectKind, Intervention, StatisticsLike

if TYPE_CHECKING:
    import os
    from typing import Literal

    import xarray as xr
    from distributed import Client
    from zarr.abc.store import Store
    from zarr.storage import StorePath


class ForecastMethods(RequestMethods):
    """Forecasts of series that were fitted."""

    @collective_call
    @on_snapshot
    def forecast(
        self,
        X: Any,
        *,
        history: Mapping[str, Any] | None = None,
        kind: EffectKind | None = None,
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
        """Predict the steps that follow the fitted ones: each series continues from its last state.

        The kernel is run over the fitted and the later steps together. Latents along time (states in a ``scan``,
        innovations of a cumulative sum, random walks, Gaussian processes) keep their posterior draws in the fitted
        steps, and the kernel's own transition draws their later values. The outcome has its observed values in the
        fitted steps, so that autoregressive terms use them.

        Parameters
        ----------
        X : array_like of shape (n_steps, ...) or (n_obs, n_steps, ...)
            Input of the steps after the fitted ones. Rows are steps if the input of the fit has one row for each step;
            if a row of the fit is a series, with time as its second axis, these are the later steps of the same series.
        history : mapping of str to array_like, optional
            Arguments of the kernel in the fitted steps by name, with the outcome: ``{"X": X, "y": y}``. The default is
            the data of the fit, which a loaded model, and one with posterior draws from another source, do not have.
        kind : {"outcome", "expected"}, optional
            Whether drawn outcomes are returned, the default, or their expected values given the states of each draw.
            Both have the same states for the same key.
        intervention : mapping, optional
            As in :meth:`predict_on_batch`, for the later steps only. Its consequences reach all steps after them.
        condition : mapping of str to array_like, optional
            As in :meth:`predict_on_batch`: values of the later steps that are known already.
        rng_key, return_sites, args, **kwargs
            As in :meth:`predict_on_batch`. Arguments that are not passed and have no axis along time have their values
            of the fit.
        statistics, shard_axis, batch_size, store, output_dir, resume, progress, client
            See "Streaming" in :class:`ImpactModel`.

        Returns
        -------
        xarray.DataTree
            Group ``predictions`` with the later steps only.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        TypeError, ValueError
            If there are no fitted rows in memory and no ``history``, if the steps do not follow the fitted ones, or if
            a site cannot be continued. The message shows how to write it.

        Examples
        --------
        >>> import jax.numpy as jnp, numpy as np, numpyro, numpyro.distributions as dist
        >>> from jax import random
        >>> from numpyro.infer import MCMC, NUTS
        >>> from aimz import ImpactModel
        >>> def kernel(X, y=None):
        ...     walk = dist.GaussianRandomWalk(1.0, num_steps=X.shape[0])
        ...     level = numpyro.sample("level", walk)
        ...     numpyro.sample("y", dist.Normal(level, 0.5), obs=y)
        >>> model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
        >>> _ = model.set_posterior_sample({"level": np.full((1000, 3), [60.0, 65.0, 70.0])})
        >>> found = model.forecast(np.zeros(2), history={"X": np.zeros(3), "y": [60.0, 65.0, 70.0]}, progress=False)
        >>> found["predictions"]["y"].std(("chain", "draw")).round(0).values  # sqrt(1 + 0.25), sqrt(2 + 0.25)
        array([1., 2.], dtype=float32)
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
        self._engine.signature.check_unambiguous({"history": history, "kind": kind}, args or (), "forecast")
        request = self._prepare_forecast(
            X,
            self._merged(kwargs, args),
            options,
            history=history,
            kind=read_kind(kind or "outcome"),
            intervention=intervention,
            condition=condition,
            return_sites=return_sites,
        )
        with self._key(key, request) as key:
            return self._execute(request, key)

    def _prepare_forecast(
        self,
        X: Any,
        kwargs: Mapping[str, Any],
        options: StreamingOptions | None,
        *,
        history: Mapping[str, Any] | None = None,
        kind: EffectKind = "outcome",
        intervention: Intervention | None = None,
        condition: Mapping[str, Any] | None = None,
        return_sites: str | Iterable[str] | None = None,
        axis: int | None = None,
    ) -> PredictionRequest:
        """Check a forecast; nothing is computed and no key is used. ``axis`` is along the steps, if it is known."""
        posterior = self._fitted("forecast")
        fitted = self._fitted_steps(history)
        found = step_axis(self._engine, fitted, X)
        axis = found if axis is None else axis
        self._engine = without_steps(self._engine) if axis else self._engine  # of a snapshot of the model
        kwargs = with_fitted(self._engine, fitted, kwargs, X, axis)
        source, call = self._read_arguments(X, kwargs, options, in_sample=False)
        check_known(call, self._engine.parameters.categories)
        call, n_steps = check_follows(fitted, call, axis, self.param_input)
        settings = PredictionSettings(
            n_draws=posterior.n_draws,
            params=posterior.params,
            posterior=posterior,
            return_sites=return_sites,
            intervention=intervention,
            condition=condition,
            in_sample=axis == 1,
            named_new=True,
            follows_fit=True,
            kind=kind,
        )
        alone = None if axis or self._local_rows() is not None else self._engine.prepare(call, settings)
        if alone is not None and not depends_on_rows(self._engine, alone, call.n_obs):
            prepared = alone
        else:
            settings = replace(settings, fitted_steps=FittedSteps(axis, n_steps, fitted))
            prepared = self._engine.prepare(call, settings)
            check_continued(self._engine, prepared)
        prepared = self._with_step_labels(prepared, X)
        if axis == 0:  # later steps of the fitted series are about these series by definition
            warn_about_substitution(prepared, self.kernel_spec)
        self._check_prepared(source, prepared)
        return self._request("forecast", source, {None: call}, {None: prepared}, options)

    def _with_step_labels(self, prepared: PreparedCall, X: Any) -> PreparedCall:
        """Label the later steps of series: with the labels of the input, or as the user's labels go on."""
        history = prepared.plan.history
        if history is None or history.axis == 0:
            return prepared
        own = index_of_steps(X)
        coords, labels = self._results.dims_and_coords[1] or {}, {}
        for name, dims in self._results.axes_of(prepared).items():
            if name in history.sites:
                axis, size = history.sites[name]
                if own is None or len(own) != size:
                    labels[dims[axis]] = later_labels(coords.get(dims[axis]), history.n_steps, size)
                else:
                    labels[dims[axis]] = own.astype(str) if own.dtype == object else own
        return replace(prepared, step_labels=labels)

    def _fitted_steps(self, history: Mapping[str, Any] | None) -> KernelArguments:
        """Return the arguments of the fitted steps, with the outcome if it is known."""
        if history is None:
            rows = self._rows
            if rows.missing:
                msg = (
                    f"`forecast` continues the rows of the fit, and the model has none in memory: {rows.missing}. Pass "
                    f"`history={{{self.param_input!r}: X, {self.param_output!r}: y}}` with the rows of the fit."
                )
                raise TypeError(msg)
            X, y, arguments = rows.X, rows.y, dict(rows.arguments)
        else:
            X, y, arguments = fitted_arguments(history, self.param_input, self.param_output)
        wide = history is not None and is_wide(X, y)  # which may have other steps than the fit, without latent states
        engine, X, y = with_outcome(without_steps(self._engine) if wide else self._engine, X, y)
        source = open_source(engine, X, arguments, None)
        scored = history is None or y is not None or engine.parameters.outcome is not None
        call = source.arguments(engine, arguments, y, scored=scored)
        if history is None:
            self._rows.check_unchanged(self._observed, call.without(self.param_output))
        return call
