"""The class the user holds."""

__all__ = ["ImpactModel"]

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from numpyro.infer import MCMC, SVI

from aimz.data import read_input_dir, read_output_dir
from aimz.inference import PosteriorOnly, make_fit
from aimz.model.base import LIVING
from aimz.model.effects import EffectMethods
from aimz.model.fitting import FittingMethods
from aimz.model.posterior import PosteriorMethods
from aimz.model.prediction import PredictionMethods
from aimz.model.representation import ModelSummary, describe, html, summary
from aimz.model.saving import ModelState, read_model, write_model
from aimz.model.scoring import ScoringMethods
from aimz.types import Kernel

if TYPE_CHECKING:
    import os


class ImpactModel(FittingMethods, PosteriorMethods, PredictionMethods, ScoringMethods, EffectMethods):
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

    @staticmethod
    def cleanup_models() -> None:
        """Do :meth:`cleanup` for every model that is alive."""
        for model in list(LIVING):
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

    def __repr__(self) -> str:
        """Return a short text: kernel, inference, fitted or not, where results lie, sites."""
        return summary(self._portrait())

    def _repr_html_(self) -> str:
        return html(self._portrait())

    def _portrait(self) -> ModelSummary:
        """Return what there is to say of the model."""
        return ModelSummary(self._engine.signature, self.inference, self._posterior, self.kernel_spec, self.temp_dir)
