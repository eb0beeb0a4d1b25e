"""The class the user holds.

One class is one file, and most of it is what users read in :func:`help`: hence its length.
"""

__all__ = ["ImpactModel"]

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

import jax
from numpyro.infer import MCMC, SVI
from numpyro.infer.svi import SVIState

from aimz.data import (
    Posterior,
    key_from_text,
    key_to_text,
    open_pieces,
    read_count,
    read_draws,
    read_input_dir,
    read_key,
    read_output_dir,
)
from aimz.distributed import collective_call
from aimz.engine import (
    Asked,
    Given,
    KernelEngine,
    Order,
    Scenario,
    ScenarioRequest,
    SharedResampling,
    StreamingOptions,
    check_alike,
    check_columns,
    check_inputs,
    check_order,
    check_same_sites,
    check_sites,
    open_sources,
    read_given,
    read_groups_of,
    read_pair,
    read_requests,
    read_scenario,
    read_streaming,
    share_labels,
    share_rows,
)
from aimz.errors import NotFittedError
from aimz.inference import (
    FitData,
    PosteriorOnly,
    SVIFit,
    VIResult,
    check_chains,
    check_variational,
    data_of_fit,
    make_fit,
)
from aimz.kernel import KernelSpec, Scored, read_signature
from aimz.model.averages import compare
from aimz.model.execution import stream, stream_effect
from aimz.model.minibatch_checks import batch_scale
from aimz.model.minibatch_fit import plan_fit, read_options, read_training
from aimz.model.representation import ModelSummary, describe, html, summary
from aimz.model.results import ResultBuilder
from aimz.model.saving import ModelState, read_model, write_model
from aimz.statistics import LeaveOneOut, read_statistics
from aimz.types import Intervention, Kernel, StatisticsLike

if TYPE_CHECKING:
    import os

    import pandas as pd
    import xarray as xr
    from zarr.abc.store import Store
    from zarr.storage import StorePath

    from aimz.output import Contrast
    from aimz.store import TemporaryDirectory
    from distributed import Client


_MODELS: "weakref.WeakSet[ImpactModel]" = weakref.WeakSet()
"""Models that are alive, for :meth:`ImpactModel.cleanup_models`."""


class ImpactModel:
    """A NumPyro model with its inference, its posterior, and its answers to "what if".

    Parameters
    ----------
    kernel : callable
        NumPyro model with a parameter for the input (no default), one for the output (default None), and any
        further ones; neither ``*args`` nor ``**kwargs``.
    rng_key : jax.Array
        Typed key (:func:`jax.random.key`).  It is split once by each call that needs randomness and is given
        no key of its own.
    inference : numpyro.infer.SVI or numpyro.infer.MCMC
        How to fit.
    svi : numpyro.infer.SVI
        Another spelling of ``inference``.
    param_input, param_output : str
        Names of the input and the output among the kernel's parameters.
    coords, dims : mapping, optional
        Labels, as ArviZ takes them: ``dims={"beta": ["feature"]}, coords={"feature": ["age", "income"]}``.

    Raises
    ------
    KernelValidationError
        If the kernel's signature does not fit; also a :class:`ValueError`.
    TypeError
        If ``rng_key`` is no key, or not exactly one of ``inference`` and ``svi`` is given.

    Notes
    -----
    *Arrays.*  The first axis of the input, the output and of every further array is the row axis, ``n_obs``
    long.  Arguments that are not arrays (numbers, strings, tuples) reach the kernel as they are.

    *Randomness.*  The draw ``i`` of a site depends on the key of the call, on ``i`` and on the site's name.  Two
    calls with the same key therefore share their noise, whatever else differs between them.

    *Results.*  Trees in ArviZ's schema, with dimensions ``(chain, draw, ...)``.  Rows share one dimension, named
    after the plate around them.

    *Streaming.*  Methods without ``_on_batch`` compute any number of rows, block by block, and share these options:

    - ``store``: ``"persistent"`` writes a Zarr directory and returns a tree that reads it when asked; ``"memory"``
      keeps everything in host memory and writes nothing.
    - ``output_dir``: where to make the directory of the call, ``<UTC time>_<method>``: a path, a URL such as
      ``"s3://bucket/results"`` (``pip install "aimz[cloud]"``; also ``gs://``, ``az://``, ``memory://``), or a store of
      zarr's.  By default that is a temporary directory (:attr:`temp_dir`), which lives as long as the model or a result
      in it.
    - ``batch_size``: rows, or draws, that are stored together; rounded up to whole blocks.  The numbers do not depend
      on it.
    - ``shard_axis``: what several devices share: ``"obs"`` (each has all draws of some rows), or ``"draw"`` (each has
      some draws of all rows, which must then fit in memory).
    - ``resume``: directory or URL of a call that did not finish; in a store of zarr's, a ``StorePath``, or the name of
      the call beside the same ``output_dir``.  The same call then finishes it, computes only what is missing, and
      refuses if kernel, posterior, data, key or batching differ.
    - ``progress``: whether to show a bar.
    - ``client``: a :class:`distributed.Client`.  The workers of that Dask cluster then compute the rows, each writing
      its own chunks, and the result is the one of this machine.  By default that is the active client where an input is
      a Dask array, and no cluster elsewhere; ``False`` is none in any case.
      Under :func:`jax.distributed.initialize` the processes share the rows without any client: each makes the same
      call, and gets the same result; ``output_dir`` must then be a place that all of them reach.
    - ``statistics``: what to keep instead of the draws, such as ``("mean", "sd", 0.05, 0.5, 0.95)``.  Each site then
      has a leading dimension ``statistic`` in place of ``chain`` and ``draw``, and neither memory nor the result grow
      with the number of draws (where all rows have to be seen together, draws wait in a temporary file).  The numbers
      are those NumPy gives for the draws as doubles: ``"mean"``; ``"sd"`` (divided by the number of draws); a number
      between 0 and 1, a quantile; ``("exceeds", c)``, the share of draws above ``c``, that is P(> c); ``("eti", 0.9)``
      and ``("hdi", 0.9)``, equal-tailed and highest-density intervals, two numbers
      each; ``"interval"``, one of these at ArviZ's default level (``arviz_base.rcParams``).  Attributes of the group
      record level and kind.

    ``X`` may also be an :class:`~aimz.utils.data.ArrayLoader` or any iterable of batches: mappings of field to array,
    pairs of such a mapping and the number of padded rows, data frames, or tuples ``(X, y)``.

    *Tables.*  ``X`` may be a data frame (pandas, Polars, PyArrow), an array or data set of xarray, or a group of Zarr;
    in the methods that stream also a PyArrow data set (Parquet), a lazy frame of Polars, or a data set of Hugging
    Face, which are read in pieces.  A column that has the name of a kernel parameter is that argument, unless it is
    passed.  The others, all numeric, are the columns of the input; after a fit they are found by their names, in any
    order and among any others.  The index of a frame, or the coordinate of an array, labels the rows of the result; the
    names of the columns label the axes of sites that are as long because there are as many columns.

    *Compiled programs* are kept: what the kernel, or a function that intervenes on a site, closes over must not be
    changed in place between calls.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> from jax import random
    >>> from numpyro.infer import SVI, Trace_ELBO
    >>> from numpyro.infer.autoguide import AutoNormal
    >>> from aimz import ImpactModel
    >>> def kernel(X, y=None):
    ...     a = numpyro.sample("a", dist.Normal(0.0, 5.0))
    ...     b = numpyro.sample("b", dist.Normal(0.0, 5.0))
    ...     with numpyro.plate("obs", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(a + b * X, 1.0), obs=y)
    >>> X = jnp.linspace(-1.0, 1.0, 100)
    >>> y = 1.0 + 2.0 * X + random.normal(random.key(1), X.shape)
    >>> svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.05), Trace_ELBO())
    >>> model = ImpactModel(kernel, random.key(0), svi)
    >>> _ = model.fit_on_batch(X, y, num_steps=1000, progress=False)
    >>> effect = model.estimate_effect(
    ...     args_baseline={"X": X}, args_intervention={"X": X, "intervention": {"X": X + 1.0}}
    ... )
    >>> bool(abs(effect["posterior_predictive"]["y"].mean() - 2.0) < 0.5)
    True
    """

    def __init__(
        self,
        kernel: Kernel,
        rng_key: jax.Array,
        inference: SVI | MCMC | None = None,
        *,
        svi: SVI | None = None,
        param_input: str = "X",
        param_output: str = "y",
        coords: Mapping[str, Any] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        signature = read_signature(kernel, param_input, param_output)
        key, fit = read_key(rng_key), make_fit(kernel, inference, svi)
        self._begin(ModelState(key, KernelEngine(kernel, signature), fit, ResultBuilder(dims, coords), None, None))

    def _begin(self, parts: ModelState) -> None:
        self._rng_key = parts.key
        self._engine = parts.engine
        self._fit = parts.fit
        self._results = parts.results
        self._posterior = parts.posterior
        self._observed = parts.observed
        self._home: TemporaryDirectory | None = None
        _MODELS.add(self)

    # ------------------------------------------------------------------------------------------ properties

    @property
    def kernel(self) -> Kernel:
        """The NumPyro model."""
        return self._engine.kernel

    @property
    def kernel_spec(self) -> KernelSpec | None:
        """Structure of the kernel as all calls so far showed it; None before the first."""
        return self._engine.reader.spec

    @property
    def inference(self) -> SVI | MCMC | None:
        """The inference object the model was made with; None if it was loaded without one."""
        return self._fit.inference

    @property
    def param_input(self) -> str:
        """Name of the kernel's input."""
        return self._engine.signature.param_input

    @property
    def param_output(self) -> str:
        """Name of the kernel's output."""
        return self._engine.signature.param_output

    @property
    def posterior(self) -> dict[str, jax.Array] | None:
        """Site name to draws of shape ``(n_draws, ...)``, chain after chain; None before there are any."""
        return None if self._posterior is None else dict(self._posterior.draws)

    @property
    def rng_key(self) -> jax.Array:
        """The key the next call that is given none will split."""
        return self._rng_key

    @property
    def temp_dir(self) -> str | None:
        """Directory of the results that were given none; None before there are any."""
        return None if self._home is None or self._home.closed else str(self._home.path)

    @property
    def vi_state(self) -> SVIState | None:
        """State of the optimisation (parameters, optimizer, mutable state); None before SVI has run."""
        return self._fit.vi_state

    @property
    def _vi_state(self) -> SVIState | None:
        """The name under which a loop of one's own may know :attr:`vi_state`."""
        return self._fit.vi_state

    @property
    def vi_result(self) -> VIResult | None:
        """Fitted parameters and the losses of all steps so far; None before SVI has run.

        May be set after a loop of one's own, to anything with ``params`` and ``losses``.
        """
        return self._fit.vi_result

    @vi_result.setter
    def vi_result(self, result: VIResult) -> None:
        if not (hasattr(result, "params") and hasattr(result, "losses")):
            msg = f"`vi_result` must have `params` and `losses`; got {type(result).__name__}."
            raise TypeError(msg)
        if isinstance(self._fit, PosteriorOnly):
            self._fit.refuse("Setting `vi_result`")
        self._fit.vi_result = result
        self._leave_data()

    def is_fitted(self) -> bool:
        """Whether there is a posterior, fitted or set."""
        return self._posterior is not None

    # --------------------------------------------------------------------------------------------- fitting

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
        given = _given(rng_key)
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
        given = _given(rng_key)
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
        given = _given(rng_key)
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

    def sample(
        self,
        *,
        num_samples: int = 1000,
        rng_key: jax.Array | None = None,
        return_sites: str | Iterable[str] | None = None,
        return_datatree: bool = True,
        **kwargs: Any,
    ) -> "xr.DataTree | dict[str, jax.Array]":
        """Draw afresh from the posterior the inference has found; :attr:`posterior` stays as it is.

        SVI draws from the guide.  MCMC continues its chains where they ended, without a new warm-up.

        Parameters
        ----------
        num_samples : int
            Number of draws; for MCMC, per chain.
        rng_key : jax.Array, optional
            Key for this call; the model's own is then left alone.
        return_sites : str or iterable of str, optional
            Latent sites to return; all by default.
        return_datatree : bool
            Whether to return a tree with the group ``posterior``, or a plain dictionary.
        **kwargs
            The data by name (``X=``, ``y=``, further arguments): needed for MCMC, and by guides that read them.

        Returns
        -------
        xarray.DataTree or dict of str to jax.Array
            Draws of shape ``(chain, draw, ...)``, or ``(n_draws, ...)`` in a dictionary.

        Raises
        ------
        NotFittedError
            If nothing has been fitted.
        """
        given = _given(rng_key)
        read_count(num_samples, "num_samples")
        data = dict(kwargs)
        X, y = data.pop(self.param_input, None), data.pop(self.param_output, None)
        with_output = y is not None or isinstance(self.inference, MCMC)
        call = self._engine.read_call(X, data, **({"output": y} if with_output else {})) if kwargs else None
        self._fit.check_sample(call)
        spec = self.kernel_spec if call is None else self._engine.read_spec(call)
        names = self._engine.read_latents(spec, return_sites)
        drawn = self._fit.sample(call, spec, self._key(given), num_samples=num_samples, return_sites=names)
        if not return_datatree:
            return dict(drawn.draws)
        from aimz.output import make_tree

        return make_tree(self._groups_of(drawn, spec))

    def set_posterior_sample(self, samples: Mapping[str, Any], *, num_chains: int = 1) -> Self:
        """Use draws that were made elsewhere; the model then counts as fitted.

        Parameters
        ----------
        samples : mapping of str to array_like of shape (n_draws, ...)
            Draws by site, with one leading axis for all chains, chain after chain.  Draws of the output are
            dropped with a warning; those of deterministic sites are kept, and recomputed all the same.
        num_chains : int
            Number of chains the leading axis is made of.

        Returns
        -------
        ImpactModel
            The model itself.

        Raises
        ------
        TypeError, ValueError
            If it is no mapping of arrays, empty, or lengths differ.
        """
        self._posterior = read_draws(samples, num_chains=num_chains, param_output=self.param_output)
        self._observed = None
        return self

    # ------------------------------------------------------------------------------------------ predicting

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
        given = _given(rng_key)
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
        given = _given(rng_key)
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
        given = _given(rng_key)
        n_draws = read_count(num_samples, "num_samples")
        call = self._engine.read_call(X, kwargs)
        prepare = partial(
            self._engine.prepare, posterior=None, params=self._fit.params, n_draws=n_draws, return_sites=return_sites
        )
        asked = Asked("sample_prior_predictive_on_batch", "prior_predictive", Given(call), prepare(call), prepare)
        self._results.check(asked.prepared)
        key = self._key(given)
        return self._answer(asked, key) if return_datatree else self._engine.run("predictive", asked.prepared, key)

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
        key = _given(rng_key)
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
        key = _given(rng_key)
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
        key = _given(rng_key)
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
        key = _given(rng_key)
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

        key, options = _given(rng_key), read_streaming("obs", batch_size, "memory", None, None, progress, client=client)
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

    @collective_call
    def estimate_effect(
        self,
        output_baseline: "xr.DataTree | None" = None,
        output_intervention: "xr.DataTree | None" = None,
        args_baseline: Mapping[str, Any] | None = None,
        args_intervention: Mapping[str, Any] | None = None,
        *,
        on_batch: bool = False,
        statistics: StatisticsLike | None = None,
    ) -> "xr.DataTree":
        """Return what an intervention changes: intervention minus baseline, draw by draw and row by row.

        Each scenario is a tree, or the keyword arguments of :meth:`predict` to make one.  Scenarios made here share
        their key, so their noise is common and the difference is the effect alone.  Where they lie on disk the
        difference is taken when it is read.

        Parameters
        ----------
        output_baseline, output_intervention : xarray.DataTree, optional
            Results of a predictive method.
        args_baseline, args_intervention : mapping, optional
            Keyword arguments of :meth:`predict`, the input among them; of :meth:`predict_on_batch` if ``on_batch``.
        on_batch : bool
            Whether to predict in one pass in memory.
        statistics : optional
            What to keep of the effect on each row in place of its draws; see "Streaming" in :class:`ImpactModel`.  Both
            scenarios must then be arguments.  They are computed together, in one pass over the rows; where and how to
            store the result is said in ``args_intervention``.

        Returns
        -------
        xarray.DataTree
            The differences in the group the scenarios share, all sampling dimensions kept, or ``statistic`` in their
            place.

        Raises
        ------
        TypeError
            If a scenario is given twice, or not at all.
        ValueError
            If the scenarios differ in draws or rows, or share no variable.

        Warns
        -----
        UserWarning
            If trees were drawn with different keys, so that their noise is not common, or one drew sites anew that
            kept their posterior draws in the other.
        """
        from aimz.output import difference

        before, after = output_baseline, output_intervention
        read = partial(read_scenario, param_input=self.param_input, on_batch=on_batch)
        sides = [
            read("baseline", before, args_baseline, beside=after),
            read("intervention", after, args_intervention, beside=before),
        ]
        if statistics is not None:
            return self._effect_on_rows(sides, statistics)
        # Both are checked before either is computed or a key is split; and what one of them draws anew both draw
        # anew, or the difference would be between fitted rows and others.
        check_inputs(side.request["X"] for side in sides if side.request is not None)
        alone = [None if side.request is None else self._ask(**side.request, quiet=True) for side in sides]
        check_alike(*(None if asked is None else asked.prepared for asked in alone))
        check_columns(asked.given.call for asked in alone if asked is not None)
        givens = share_labels({i: asked.given for i, asked in enumerate(alone) if asked is not None})
        alike = SharedResampling.of(
            [asked.prepared.substitution for asked in alone if asked is not None], sides[0].anew | sides[1].anew
        )
        # What an iterable yields is there once: the second time it is the same that is asked about.
        ready = [
            None if side.request is None else self._ask(**side.request, alike=alike, given=givens[i])
            for i, side in enumerate(sides)
        ]
        common: Any = next((side.key for side in sides if side.key is not None), None)
        if common is None and any(side.request is not None for side in sides):
            common = self._key(None)
        trees = [
            side.tree if asked is None else self._answer(asked, common if side.key is None else side.key)
            for side, asked in zip(sides, ready, strict=True)
        ]
        return difference(*trees)

    @collective_call
    def compare_scenarios(
        self,
        scenarios: Mapping[Any, Mapping[str, Any]],
        *,
        baseline: Any,
        by: Any = None,
        weights: Any = None,
        contrast: "Contrast" = "difference",
        return_sites: str | Iterable[str] | None = None,
        rng_key: jax.Array | None = None,
        batch_size: int | None = None,
        progress: bool = True,
        client: "Client | Literal[False] | None" = None,
        X: Any = None,
        **kwargs: Any,
    ) -> "xr.DataTree":
        """Average each site over rows under many scenarios, and say what each changes, in one pass over the data.

        No draw of any row is stored: what comes back has a number for each draw, scenario and group, so memory grows
        with neither rows nor the length of the pass.  All scenarios share their noise.  Averages are taken inside each
        draw first, then contrasts of averages; so every effect has draws of its own, and effects can be added,
        subtracted and compared draw by draw.

        Parameters
        ----------
        scenarios : mapping of name to mapping
            For each scenario, keyword arguments of :meth:`predict` that are its own: ``intervention``, ``X``,
            ``in_sample`` or further arguments of the kernel.  Scenarios that differ in the values of arrays only are
            computed side by side.
        baseline : name
            The scenario the others are compared with.
        by : array_like of shape (n_obs,), str, list of str, or mapping, optional
            Labels of the rows' groups.  A mapping of names to labels gives one dimension for each; a text names a
            column of a data frame ``X``, or an argument of the kernel that has one value for each row.
        weights : array_like of shape (n_obs,), or str, optional
            What each row counts in the averages; a text names a column or an argument, as in ``by``.  With 1 for the
            treated and 0 for others, effects are those on the treated.
        contrast : {"difference", "ratio", "lift"} or callable
            What an effect is: scenario - baseline, scenario / baseline, scenario / baseline - 1, or a function
            ``(scenario, baseline)`` of averages, arrays with dimensions ``(chain, draw, ...)``.
        return_sites : str or iterable of str, optional
            As in :meth:`predict`.
        rng_key : jax.Array, optional
            Key for this call.
        batch_size : int, optional
            Rows that are computed together at most, rounded up to whole blocks; the numbers do not depend on it.
        progress : bool
            Whether to show a bar.
        client : distributed.Client, optional
            Cluster to compute on; see "Streaming" in :class:`ImpactModel`.
        X, **kwargs
            Arguments that all scenarios share; those of a scenario go first.

        Returns
        -------
        xarray.DataTree
            Groups ``scenarios`` (averages, with dimensions ``(chain, draw, scenario, <groups>, ...)``), ``effect``
            (the same without the baseline) and ``groups`` (``rows`` and ``weight`` of each).  With ``by``, the averages
            over all rows are in ``scenarios_overall`` and ``effect_overall``.  :func:`aimz.summary` makes a table of
            it, :func:`aimz.in_words` sentences.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        TypeError, ValueError
            If scenarios do not fit together; nothing has then been computed.

        Warns
        -----
        UserWarning
            If a ratio is to be taken to a baseline of 0, or one whose sign is not known.

        Examples
        --------
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from jax import random
        >>> from numpyro.infer import MCMC, NUTS
        >>> import aimz
        >>> def kernel(X, dose, y=None):
        ...     slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        ...     with numpyro.plate("obs", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(X + slope * dose, 1.0), obs=y)
        >>> model = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=10, num_samples=10))
        >>> _ = model.set_posterior_sample({"slope": np.linspace(1.9, 2.1, 500)})
        >>> X, dose = np.linspace(0.0, 1.0, 200), np.ones(200)
        >>> found = model.compare_scenarios(
        ...     {"none": {"intervention": {"dose": 0.0}}, "full": {"intervention": {"dose": 1.0}}},
        ...     baseline="none",
        ...     by=np.where(X < 0.5, "low", "high"),
        ...     X=X,
        ...     dose=dose,
        ...     progress=False,
        ... )
        >>> found["effect"]["y"].mean(("chain", "draw")).sel(scenario="full", group="low").round(6).item()
        2.0
        """
        from aimz.output import check_by, check_contrast, read_contrast

        key, contrast = _given(rng_key), read_contrast(contrast)
        options = read_streaming("obs", batch_size, "memory", None, None, progress, client=client)
        shared = {**kwargs, **({} if X is None else {self.param_input: X})}
        self._engine.signature.check_apart({"by": by, "weights": weights})
        requests = read_requests(scenarios, baseline, shared, self.param_input)
        table = open_pieces(requests[baseline]["X"], self._engine.parameters) or requests[baseline]["X"]
        self._fitted("compare_scenarios")
        check_sites(return_sites)
        share_rows(requests, self.param_input)
        givens = open_sources(self._engine, requests, self._local_rows())
        groups = read_groups_of(by, weights, table, givens[baseline])

        asked = self._ask_alike(requests, givens, baseline, return_sites, options)
        prepared = {name: one.prepared for name, one in asked.items()}
        dims = self._results.dims_beside_rows(prepared[baseline])
        check_by(groups.labels, dims)
        check_contrast(contrast, dims, groups.labels)
        given = givens[baseline]
        comparison = ScenarioRequest(
            prepared=prepared,
            baseline=baseline,
            groups=groups,
            reader=given.reader,
            n_obs=given.call.n_obs if given.n_obs_known else None,
            batch_size=options.batch_size,
            progress=options.progress,
            client=options.client,
            given=givens,
            prepare={name: one.prepare for name, one in asked.items()},
        )
        key = self._key(key)
        compared = compare(self._engine, comparison, key)
        return self._results.averages(compared, comparison, contrast, key_to_text(key))

    def cleanup(self) -> None:
        """Remove the temporary directory with the results in it; reading one raises ``StaleResultError`` from then on.

        Results with an ``output_dir`` of their own stay.
        """
        if self._home is not None:
            self._home.close()
            self._home = None

    @staticmethod
    def cleanup_models() -> None:
        """Do :meth:`cleanup` for every model that is alive."""
        for model in list(_MODELS):
            model.cleanup()

    def describe(self, X: Any = None, y: Any = None, **kwargs: Any) -> str:
        """Return a text on the kernel's sites, their roles and shapes, and on what each method returns.

        Parameters
        ----------
        X, y : array_like of shape (n_obs, ...), optional
            Data to read the kernel with, if no call has yet; nothing is computed on them.
        **kwargs
            Further arguments of the kernel.

        Returns
        -------
        str
            At most 80 characters wide.
        """
        if X is not None:
            self._engine.read_spec(self._engine.read_call(X, kwargs))
            if y is not None:
                self._engine.read_spec(self._engine.read_call(X, kwargs, output=y))
        return describe(self._portrait())

    def diagnose(
        self, X: Any = None, y: Any = None, *, rng_key: jax.Array | None = None, **kwargs: Any
    ) -> "pd.DataFrame":
        """Return a small table that says whether the inference has found the posterior, with a verdict per line.

        For MCMC, and for draws that were set: the largest R-hat and the smallest bulk and tail effective sample sizes
        (ESS) of all sites [1]_, and the number of divergent transitions.  For SVI: whether the ELBO still moves, and
        the Pareto k of the guide [2]_.  The statistics are ArviZ's (``pip install "aimz[arviz]"``).

        Parameters
        ----------
        X, y : array_like of shape (n_obs, ...), optional
            The data of the fit, for the Pareto k.  By default those of the last :meth:`fit` or :meth:`fit_on_batch`;
            they have to be passed if they came in batches or from files, or the model was trained step by step or
            unpickled since.  They are computed on all at once.
        rng_key : jax.Array, optional
            Key of the guide's draws.  By default one derived from the model's own, which stays as it is: the same table
            each time.
        **kwargs
            Further arguments of the kernel, with ``X`` and ``y``.

        Returns
        -------
        pandas.DataFrame
            One row a check: ``value``; ``threshold``, what it should be; ``site``, where it is worst; ``verdict``:
            "ok", "bad: ..." or "not checked: ...".

        Raises
        ------
        NotFittedError
            If there is no posterior, or SVI has not run.
        ImportError
            If ArviZ is not installed.
        TypeError, ValueError
            If data or arguments do not fit, or are known not to be those of the fit.

        Notes
        -----
        *Chains.*  R-hat should be below 1.01, and both ESS at least 100 for each chain.  Values that never change have
        neither and are left out; of a site with more than 1,000 values, 1,000 are looked at, evenly spaced.

        *ELBO trend.*  By how many nats the mean ELBO of the last tenth of all steps exceeds that of the tenth before.
        It is a trend if it is more than two standard errors (the Monte Carlo error of both means around a straight
        line, autocorrelation included) and more than 0.1 nat, which is what one mean that is off by 0.45 of its
        standard deviation costs.  One settled fit in twenty exceeds two standard errors, by little.  Where these are
        more than a nat, and more than a twentieth of all progress since the start, nothing can be told.

        *Pareto k.*  Shape of the tail of the importance ratios ``p(theta, y) / q(theta)`` of 1,000 draws of the guide
        ``q``.  Below ``min(1 - 1 / log10(1000), 0.7)``, that is 0.67 [3]_, the guide is near enough to the posterior to
        be corrected by weights; above, its means and intervals may be far off.  Ratios that agree to one per cent count
        as 0.  A low k says nothing of a mode the guide does not know.

        References
        ----------
        .. [1] Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Rank-normalization, folding, and localization,
           Bayesian Analysis 16.
        .. [2] Yao, Vehtari, Simpson and Gelman (2018), Yes, but did it work? Evaluating variational inference, ICML.
        .. [3] Vehtari, Simpson, Gelman, Yao and Gabry (2024), Pareto smoothed importance sampling, JMLR 25.

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
        >>> svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.005), Trace_ELBO())
        >>> model = ImpactModel(kernel, random.key(0), svi)
        >>> X = jnp.linspace(-1.0, 1.0, 100)
        >>> y = 2.0 * X + random.normal(random.key(1), X.shape)
        >>> model.fit_on_batch(X, y, num_steps=200, progress=False).diagnose()["verdict"].to_dict()
        {'ELBO trend': 'bad: still rising; take more steps', 'Pareto k': 'bad: the fit has to settle first'}
        >>> model.fit_on_batch(X, y, num_steps=3000, progress=False).diagnose()["verdict"].to_dict()
        {'ELBO trend': 'ok', 'Pareto k': 'ok'}
        """
        given = _given(rng_key)
        call = None
        if isinstance(self._fit, PosteriorOnly) and self._fit.kind == "SVI":
            self._fit.refuse("`diagnose`")
        if X is not None or y is not None or kwargs:
            call = self._engine.read_call(X, kwargs, output=y)
        if not isinstance(self._fit, SVIFit):
            posterior = self._fitted("diagnose")
            return check_chains(posterior, self._beside()["posterior"])
        if call is not None:
            self._engine.read_fit(call)
        data = data_of_fit(call, self._observed, self._local_rows())
        return check_variational(self._fit, data, jax.random.fold_in(self._rng_key, 0) if given is None else given)

    # ---------------------------------------------------------------------------------------------- saving

    def save(self, path: "str | os.PathLike[str]", *, overwrite: bool = False) -> None:
        """Write the model to a directory that holds no code: arrays as safetensors, all else as JSON.

        Kept are the posterior with its chains, what was fitted (parameters, mutable state, state of the optimizer,
        losses, where chains ended), the key, the structure of the kernel, labels, and of the data the output, labels of
        the rows, and fingerprints of the rest.  Kernel and inference object are code, and are not.

        Parameters
        ----------
        path : path-like
            A directory that does not exist yet, or is empty.
        overwrite : bool
            Whether a model that is there may be replaced; this happens in one atomic step, when the new one is whole.

        Raises
        ------
        FileExistsError
            If there is a model and not ``overwrite``, or anything else.
        ValueError, TypeError
            If a parameter cannot be written as an array.

        Warns
        -----
        UserWarning
            If chains cannot be continued after a load, or labels are objects of which only the text can be written.

        Examples
        --------
        >>> import tempfile, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from jax import random
        >>> from numpyro.infer import MCMC, NUTS
        >>> from aimz import ImpactModel
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 5.0))
        ...     with numpyro.plate("obs", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)
        >>> model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=50, num_samples=50))
        >>> X = jnp.linspace(-1.0, 1.0, 20)
        >>> path = tempfile.mkdtemp()
        >>> model.fit_on_batch(X, 2.0 * X, progress=False).save(path)
        >>> loaded = ImpactModel.load(path, kernel)
        >>> here, there = (m.predict_on_batch(X, return_datatree=False)["y"] for m in (model, loaded))
        >>> bool((here == there).all())
        True
        """
        place = read_output_dir(path, "path")
        parts = ModelState(self._rng_key, self._engine, self._fit, self._results, self._posterior, self._observed)
        write_model(place, parts, overwrite=bool(overwrite))

    @classmethod
    def load(
        cls,
        path: "str | os.PathLike[str]",
        kernel: Kernel,
        inference: SVI | MCMC | None = None,
        *,
        arguments: Mapping[str, Any] | None = None,
    ) -> Self:
        """Read a model that :meth:`save` wrote; nothing in the files is ever executed.

        The kernel is traced, without arithmetic on data, and compared with the structure that was saved; so are guide
        and optimizer.  Afterwards ``predict`` gives the same bits with the same key, and a fit goes on as if it had
        not been interrupted.

        Parameters
        ----------
        path : path-like
            The directory.
        kernel : callable
            The kernel that was fitted.
        inference : numpyro.infer.SVI or numpyro.infer.MCMC, optional
            Inference made as for the fit; an SVI object that has run is copied, since it is set up for data of its own.
            Without it the model predicts, compares and scores, and cannot be fitted.
        arguments : mapping of str to object, optional
            Arguments the kernel was called with that are neither arrays nor plain values, such as functions.

        Returns
        -------
        ImpactModel
            The model as it was saved.

        Raises
        ------
        FileNotFoundError
            If there is no model.
        SavedModelError
            If a file is torn, altered or of a newer format, or kernel, guide, optimizer or sampler are others than
            those that were saved, or JAX computes with other numbers (``jax_enable_x64``).
        TypeError
            If one of ``arguments`` is missing, or not wanted.

        Warns
        -----
        UserWarning
            If the kernel has the same sites, but computes something else; or bounds of parameters or latents may
            depend on the data, and will be those of the first data the loaded model is fitted to.
        """
        make = PosteriorOnly if inference is None else partial(make_fit, kernel, inference, None)
        model = cls.__new__(cls)
        fit = make()
        model._begin(read_model(read_input_dir(path, "path"), kernel, fit, arguments or {}))
        return model

    def __getstate__(self) -> dict[str, Any]:
        """Leave the temporary directory out of a pickle: it belongs to this process."""
        return {**self.__dict__, "_home": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be found by :meth:`cleanup_models` again."""
        self.__dict__ |= state
        _MODELS.add(self)

    def __repr__(self) -> str:
        """Return a short text: kernel, inference, fitted or not, where results lie, sites."""
        return summary(self._portrait())

    def _repr_html_(self) -> str:
        return html(self._portrait())

    # ------------------------------------------------------------------------------------------- internals

    def _leave_data(self) -> None:
        """Forget the data of the last fit, since something else moves the parameters; their fingerprints stay."""
        if self._observed is not None:
            self._observed = replace(self._observed, call=None, moved=True)

    def _portrait(self) -> ModelSummary:
        """Return what there is to say of the model."""
        return ModelSummary(self._engine.signature, self.inference, self._posterior, self.kernel_spec, self.temp_dir)

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

    def _key(self, given: jax.Array | None, streaming: StreamingOptions | None = None) -> jax.Array:
        """Return the key of a call: the one given, that of the call it resumes, or one split off the model's own."""
        if given is not None:
            return given
        if streaming is not None and streaming.journal is not None and streaming.journal.fingerprint["rng_key"]:
            return key_from_text(streaming.journal.fingerprint["rng_key"])
        self._rng_key, key = jax.random.split(self._rng_key)
        return key

    def _ask(
        self,
        X: Any,
        intervention: Intervention | None,
        kwargs: Mapping[str, Any],
        *,
        in_sample: bool = True,
        return_sites: str | Iterable[str] | None = None,
        alike: SharedResampling | None = None,
        quiet: bool = False,
        streaming: StreamingOptions | None = None,
        method: str = "predict",
        given: Given | None = None,
    ) -> Asked:
        """Check a prediction and decide how it is made; nothing is computed, and no key is used."""
        posterior = self._fitted(method if streaming else f"{method}_on_batch")
        if given is not None:
            pass  # read before
        elif streaming is None:
            given = Given(self._engine.read_call(X, kwargs))
        else:
            given = read_given(
                self._engine, X, kwargs, scored=False, expected=self._local_rows() if in_sample else None
            )
        known = self._observed if in_sample else None
        changed = frozenset[str]() if known is None else known.changed(given.call)
        has_other_index = known is not None and known.has_other_index(given.call)
        if has_other_index:
            changed |= {self.param_input}
        elif known is not None and not changed and given.reader is None and given.call.index is None:
            given = replace(given, call=replace(given.call, index=known.index))  # the rows are those of the fit
        prepare = partial(
            self._engine.prepare,
            posterior=posterior,
            params=self._fit.params,
            n_draws=posterior.n_draws,
            return_sites=return_sites,
            intervention=intervention,
            in_sample=in_sample,
            has_other_index=has_other_index,
            changed=changed,
            alike=alike,
        )
        prepared = prepare(given.call, quiet=quiet)
        self._results.check(prepared)
        check_order(given, prepared)
        group = "posterior_predictive" if in_sample else "predictions"
        return Asked(method, group, given, prepared, prepare, streaming)

    def _ask_alike(
        self,
        requests: Mapping[Any, dict[str, Any]],
        givens: Mapping[Any, Given],
        baseline: Any,
        return_sites: Any,
        options: StreamingOptions,
    ) -> dict[Any, Asked]:
        """Check scenarios to compare; what one of them draws anew all do, and what is to be said is said once."""

        def ask(name: Any, sites: Any, **more: Any) -> Asked:
            request = {**requests[name], "return_sites": sites, "streaming": options, "method": "compare_scenarios"}
            return self._ask(**request, given=givens[name], **more)

        sites = ask(baseline, return_sites, quiet=True).prepared.plan.return_sites
        alone = {name: ask(name, sites, quiet=True).prepared for name in requests}
        alike = SharedResampling.of([one.substitution for one in alone.values()], frozenset())
        asked = {name: ask(name, sites, quiet=True, alike=alike) for name in requests}
        said = set()
        for name, one in asked.items():
            check_alike(asked[baseline].prepared, one.prepared)
            about = (one.prepared.substitution, frozenset(requests[name]["intervention"] or ()))
            if about not in said:
                said.add(about)
                ask(name, sites, alike=alike)
        return asked

    def _effect_on_rows(self, sides: Sequence[Scenario], statistics: StatisticsLike) -> "xr.DataTree":
        """Return statistics over draws of what a scenario changes, computed in one pass over the rows."""
        requests, streaming = read_pair(sides)
        options = replace(streaming, statistics=read_statistics(statistics))
        self._fitted("estimate_effect")
        share_rows(requests, self.param_input)
        givens = open_sources(self._engine, requests, self._local_rows())

        def ask(name: str, **more: Any) -> Asked:
            return self._ask(**requests[name], given=givens[name], streaming=options, method="estimate_effect", **more)

        alone = {name: ask(name, quiet=True).prepared for name in requests}
        check_alike(alone["baseline"], alone["intervention"])
        alike = SharedResampling.of([one.substitution for one in alone.values()], frozenset())
        before, after = (ask(name, alike=alike) for name in ("baseline", "intervention"))
        check_same_sites(before.prepared, after.prepared)
        check_sites(before.prepared.plan.return_sites)
        given: Any = next((side.key for side in sides if side.key is not None), None)
        key = self._key(given, options)
        order = Order(after, key, key_to_text(key), self._beside, self._at_home, before)
        return stream_effect(self._engine, self._results, order)

    def _ask_scores(self, X: Any, y: Any, kwargs: Mapping[str, Any], options: StreamingOptions, method: str) -> Asked:
        """Check a call that scores the output, as :meth:`_ask` does one that draws it."""
        posterior = self._fitted(method)
        given = read_given(self._engine, X, kwargs, y=y, scored=True, expected=self._local_rows())
        site = self._engine.read_scored(given.call, one_by_one=method == "loo")
        # Other observations have other local latents; where no data were fitted, these are taken to be the ones.
        known = self._observed
        fitted = known is None or not (
            known.changed(given.call.without(self.param_output)) or known.has_other_index(given.call)
        )
        prepare = partial(
            self._engine.prepare,
            posterior=posterior,
            params=self._fit.params,
            n_draws=posterior.n_draws,
            return_sites=site,
            in_sample=fitted,
            scored=Scored.ALL if method == "loo" else Scored.NEW,
        )
        asked = Asked(method, "log_likelihood", given, prepare(given.call), prepare, options, scored=site)
        check_order(given, asked.prepared)
        return asked

    def _answer(self, asked: Asked, key: jax.Array | None) -> "xr.DataTree":
        """Compute what was asked; without a key where nothing is drawn."""
        prepared, output = asked.prepared, self.param_output
        observed = None
        if asked.scored is not None:
            observed = prepared.call.arrays[output]
        elif asked.group == "posterior_predictive" and self.param_input not in prepared.changed and self._observed:
            observed = self._observed.output
        if asked.given.reader is not None:
            observed = None  # it came by, and is gone
        described = None if key is None else key_to_text(key)
        if asked.streaming is None:
            assert key is not None
            arrays = self._engine.run("predictive", prepared, key)
            tree = self._results.tree
            return tree(asked.group, arrays, prepared, beside=self._beside(), key=described, observed=observed)

        def beside() -> "dict[str, xr.Dataset]":
            return {**self._beside(), **self._results.observed(prepared, observed)}

        return stream(self._engine, self._results, Order(asked, key, described, beside, self._at_home))

    def _at_home(self) -> "TemporaryDirectory":
        """Return the temporary directory, made now if there is none."""
        from aimz.store import TemporaryDirectory

        if self._home is None or self._home.closed:
            self._home = TemporaryDirectory()
        return self._home

    def _local_rows(self) -> int | None:
        """Return for how many rows the posterior has local latents, if it has any."""
        spec, posterior = self.kernel_spec, self._posterior
        if spec is None or posterior is None:
            return None
        return next(
            (posterior.draws[n].shape[1 + spec[n].row_axes[0]] for n in spec.local_sites if n in posterior.draws), None
        )

    def _beside(self) -> "dict[str, xr.Dataset]":
        """Return the groups that stand beside every result: the posterior and what the sampler says of it."""
        return {} if self._posterior is None else self._groups_of(self._posterior, self.kernel_spec)

    def _groups_of(self, posterior: Posterior, spec: KernelSpec | None) -> "dict[str, xr.Dataset]":
        """Return draws as groups of a tree, with the labels of the data they were fitted to."""
        index = None if self._observed is None else self._observed.index
        return self._results.posterior(posterior, spec, self._engine.columns, index)

    def _fitted(self, method: str) -> Posterior:
        """Return the posterior, or say which call makes one."""
        if self._posterior is None:
            msg = (
                f"`{method}` needs a posterior, and this model has none yet. Call `fit_on_batch(X, y)`, or "
                "`set_posterior_sample` with draws made elsewhere."
            )
            raise NotFittedError(msg)
        return self._posterior


def _given(rng_key: Any) -> jax.Array | None:
    """Return the key given to a call, checked, or None."""
    return None if rng_key is None else read_key(rng_key)
