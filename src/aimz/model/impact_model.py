"""The ``ImpactModel`` class: documentation, saving, loading and representations."""

__all__ = ["ImpactModel"]

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from numpyro.infer import MCMC, SVI

from aimz.data import check_flag, read_input_dir, read_output_dir
from aimz.engine import with_outcome
from aimz.inference import make_fit
from aimz.kernel import with_shapes
from aimz.methods import (
    LIVE_MODELS,
    CheckingMethods,
    CounterfactualMethods,
    DecisionMethod,
    FittingMethods,
    ModelState,
    ModelSummary,
    ScoringMethods,
    describe,
    description,
    html,
    on_snapshot,
    read_model,
    summary,
    write_model,
)
from aimz.timeseries import BacktestMethods, ForecastMethods, ImpactMethods
from aimz.types import Kernel
from aimz.validation import (
    AssuranceMethod,
    ConfoundingMethods,
    FalsificationMethod,
    PriorSensitivityMethod,
    ReportMethods,
)

if TYPE_CHECKING:
    import os


class ImpactModel(
    ImpactMethods,
    BacktestMethods,
    ReportMethods,
    PriorSensitivityMethod,
    FittingMethods,
    CheckingMethods,
    ScoringMethods,
    DecisionMethod,
    ConfoundingMethods,
    CounterfactualMethods,
    ForecastMethods,
    FalsificationMethod,
    AssuranceMethod,
):
    """A NumPyro model with its inference and its posterior, for predictions and answers to "what if" questions.

    Parameters
    ----------
    kernel : callable
        NumPyro model. It has a parameter for the input (without default), a parameter for the output (default None) and
        any number of further parameters, but neither ``*args`` nor ``**kwargs``.
    rng_key : int or jax.Array
        Seed, or typed PRNG key (:func:`jax.random.key`). Each call that needs randomness and has no ``rng_key`` of its
        own splits this key once.
    inference : {"nuts", "svi"}, numpyro.infer.SVI or numpyro.infer.MCMC, optional
        Inference that fits the kernel. By default it is chosen at the first fit; see "Inference" in the notes.
    svi : numpyro.infer.SVI
        Alternative name of ``inference``.
    param_input, param_output : str
        Names of the input and the output among the kernel's parameters.
    coords, dims : mapping, optional
        Labels in ArviZ's form: ``dims={"beta": ["feature"]}, coords={"feature": ["age", "income"]}``.

    Raises
    ------
    KernelValidationError
        If the kernel's signature is not supported; also a :class:`ValueError`.
    TypeError
        If ``rng_key`` is neither a seed nor a typed key, if both ``inference`` and ``svi`` are passed, or if
        ``inference`` is neither a name nor an object of NumPyro.

    Notes
    -----
    *Inference.* Without ``inference``, the first fit chooses NUTS with four vectorized chains of 500 draws if all rows
    are in memory, one evaluation of the log density takes at most a million operations, and there are at most 500
    latent values, no sites to optimize (``param``, modules, mutable state), and no noise in the kernel (subsampled
    plates, dropout). Otherwise it chooses SVI with a normal guide (full rank up to 500 latent values, else rank 20).
    Both start from a normal approximation of the posterior, which gives the sampler its metric and the optimizer its
    units, so that covariates may have any scale. The learning rate decays in cycles, until neither the loss nor the
    mean or the standard deviation of any latent value changes between two of them. The choice and its reason are in the
    text of the model and in :meth:`describe`, and are saved with it.

    *Arrays.* The first axis of the input, the output and every further array is the row axis, of length ``n_obs``.
    Lists of strings, and lists and tuples of numbers, with one entry for each row are arrays, too. Arguments that are
    not arrays (numbers, strings, other lists and tuples) are passed to the kernel unchanged. ``args={"store": store}``
    has arguments whose names are parameters of the method.

    *Categories.* Text and categorical arguments are encoded by the categories of the fit, which label the axes of sites
    along them. A kernel parameter ``num_shop``, ``n_shop`` or ``num_shops`` receives the number of categories of the
    argument ``shop``; categories that the fit did not have are then new groups. ``coords={"shop": [...]}`` declares
    categories and their order.

    *Randomness.* Draw ``i`` of a site depends only on the key of the call, on ``i`` and on the name of the site. Two
    calls with the same key therefore share their noise, whatever else differs between them.

    *Results.* Trees in ArviZ's schema, with dimensions ``(chain, draw, ...)``. All rows share one dimension, named
    after the plate over the rows.

    *Streaming.* Methods without ``_on_batch`` process any number of rows in blocks, and share these options:

    - ``store``: ``"persistent"`` writes a Zarr directory and returns a tree that reads it lazily; ``"memory"`` keeps
      the whole result in host memory and writes nothing.
    - ``output_dir``: directory in which the call creates its own, ``<UTC time>_<method>``. A path, a URL such as
      ``"s3://bucket/results"`` (``pip install obstore``; also ``gs://``, ``az://``, ``memory://``), or a Zarr
      store. The default is a temporary directory (:attr:`temp_dir`), which is removed when neither the model nor any
      result stored in it exists any more.
    - ``batch_size``: number of rows (or draws) that are stored together, rounded up to whole blocks. The numbers do not
      depend on it.
    - ``shard_axis``: axis that is divided among several devices: ``"obs"`` (each device computes all draws of some
      rows) or ``"draw"`` (each device computes some draws of all rows, which must then fit in memory).
    - ``resume``: directory or URL of a call that was interrupted; with a Zarr store, a ``StorePath``, or the name of
      the interrupted call together with the same ``output_dir``. The same call then completes the result and computes
      only the missing blocks. It raises if the kernel, posterior, data, key or batching differ.
    - ``progress``: whether to show a progress bar.
    - ``client``: a :class:`distributed.Client`. The workers of this Dask cluster compute the rows and write their own
      chunks; the result is identical to a local one. By default, the active client is used if an input is a Dask array,
      and no cluster otherwise; ``False`` never uses a cluster. Under :func:`jax.distributed.initialize`, the processes
      share the rows without a client: every process makes the same call and gets the same result, and ``output_dir``
      must be a location that all of them can access.
    - ``statistics``: statistics over the draws to return instead of the draws, such as
      ``("mean", "sd", 0.05, 0.5, 0.95)``. Each site then has a leading dimension ``statistic`` in place of ``chain``
      and ``draw``, and neither the memory nor the result grows with the number of draws (if all rows must be computed
      together, the draws are kept in a temporary file). The values equal the statistics that NumPy computes from the
      draws in double precision: ``"mean"``; ``"sd"`` (divided by the number of draws); a number between 0 and 1 for a
      quantile;
      ``("exceeds", c)`` for the share of draws above ``c``, that is P(> c); ``("eti", 0.9)`` and ``("hdi", 0.9)`` for
      an equal-tailed and a highest-density interval, two numbers each; ``"interval"`` for ArviZ's default kind of
      interval and level (``arviz_base.rcParams``). Attributes of the group record the kind and the level.

    ``X`` may also be an :class:`~aimz.utils.data.ArrayLoader` or any iterable of batches. A batch is a mapping of field
    name to array, a pair of such a mapping and the number of padded rows, a data frame, or a tuple ``(X, y)``.

    *Tables.* ``X`` may be a data frame (pandas, Polars, PyArrow), an xarray array or data set, or a Zarr group.
    Streaming methods also accept a PyArrow data set (Parquet), a lazy Polars frame and a Hugging Face data set, and
    read them in chunks. A column with the name of a kernel parameter becomes that argument, unless the argument is
    passed. ``y="sales"`` names the column of the output; later calls use the same column. The other columns must be
    numeric and form the input; after a fit they are matched by name, so their order
    does not matter and additional columns are ignored. The index of a frame, or the coordinate of an array, labels the
    rows of the result. The column names label those axes of sites whose length is the number of columns.

    *Compiled programs* are cached. Do not modify in place, between calls, any object that the kernel or an intervention
    function closes over.

    Examples
    --------
    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> from jax import random
    >>> from aimz import ImpactModel
    >>> def kernel(X, y=None):
    ...     a = numpyro.sample("a", dist.Normal(0.0, 5.0))
    ...     b = numpyro.sample("b", dist.Normal(0.0, 5.0))
    ...     with numpyro.plate("obs", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(a + b * X, 1.0), obs=y)
    >>> X = jnp.linspace(-1.0, 1.0, 100)
    >>> y = 1.0 + 2.0 * X + random.normal(random.key(1), X.shape)
    >>> model = ImpactModel(kernel, rng_key=0, inference="svi")
    >>> _ = model.fit(X, y, progress=False)
    >>> effect = model.estimate_effect(
    ...     args_baseline={"X": X}, args_intervention={"X": X, "intervention": {"X": X + 1.0}}
    ... )
    >>> bool(abs(effect["posterior_predictive"]["y"].mean() - 2.0) < 0.5)
    True
    """

    @staticmethod
    def cleanup_models() -> None:
        """Call :meth:`cleanup` for every model that exists."""
        for model in list(LIVE_MODELS):
            model.cleanup()

    def describe(
        self,
        X: Any = None,
        y: Any = None,
        *,
        as_dict: bool = False,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> str | dict[str, Any]:
        """Return a text that describes the kernel's sites, their roles and shapes, and what each method returns.

        Parameters
        ----------
        X, y : array_like of shape (n_obs, ...), optional
            Data to trace the kernel with, if no call has done so yet. Nothing is computed with them.
        args : mapping of str to object, optional
            Further arguments of the kernel by name, as ``**kwargs``; needed for names of parameters of this method.
        **kwargs
            Further arguments of the kernel.
        as_dict : bool
            Whether to return a dictionary of plain values instead of a text.

        Returns
        -------
        str or dict
            Text of lines of at most 80 characters; or a dictionary of kernel, input, output, ``arguments`` (with a row
            axis or without), ``sites`` (``role``, ``shape``, ``dims``, ``dtype``, ``distribution``, ``plates``,
            ``depends_on``, ``abduction``), ``return_sites``, ``row_dim``, inference, ``chains`` and ``draws`` of each
            chain. Entries are None as long as they are unknown.
        """
        kwargs = self._merged(kwargs, args)
        if X is None and (y is not None or kwargs):
            msg = (
                "`describe` traces the kernel with the data of a call; got `X=None` with other arguments. Pass `X`, "
                "too, or nothing for the kernel as it is known."
            )
            raise TypeError(msg)
        if X is not None:
            engine, _, values = with_outcome(self._engine, X, y)
            engine.read_spec(engine.read_call(X, kwargs))
            if y is not None:
                engine.read_spec(engine.read_call(X, kwargs, output=values))
        if not check_flag(as_dict, "as_dict"):
            return describe(self._summary())
        spec = self.kernel_spec
        return description(self._summary(), {} if spec is None else self._results.site_dims(spec))

    @on_snapshot
    def save(self, path: "str | os.PathLike[str]", *, overwrite: bool = False) -> None:
        """Write the model to a directory without code: arrays as safetensors, everything else as JSON.

        The directory contains the posterior with its chains, the state of the fit (parameters, mutable state, optimizer
        state, losses, last states of the chains), the key, the structure of the kernel, the causal graph that
        :meth:`identify` was given, and the labels. Of the data it contains the output, the row labels and fingerprints
        of the other arrays. Kernel and inference object are code and are not written.

        Parameters
        ----------
        path : path-like
            Directory that is empty or does not exist yet.
        overwrite : bool
            Whether to replace a model stored at ``path``. The replacement is atomic: it happens after the new model has
            been written completely.

        Raises
        ------
        FileExistsError
            If ``path`` contains a model and ``overwrite`` is False, or anything other than a model.
        ValueError, TypeError
            If a parameter cannot be written as an array.

        Warns
        -----
        AimzWarning
            If chains cannot be continued after a load, or if labels are objects that can only be stored as text.

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
        parts = ModelState(
            self.rng_key, self._engine, self._fit, self._results, self._posterior, self._observed, self._graph
        )
        write_model(place, parts, overwrite=check_flag(overwrite, "overwrite"))

    @classmethod
    def load(
        cls,
        path: "str | os.PathLike[str]",
        kernel: Kernel,
        inference: SVI | MCMC | None = None,
        *,
        arguments: Mapping[str, Any] | None = None,
    ) -> Self:
        """Read a model that :meth:`save` wrote. No code in the files is executed.

        The kernel is traced without computing with data and compared with the saved structure, and so are guide and
        optimizer. The loaded model makes bitwise identical predictions with the same key, and a fit continues as if it
        had not been interrupted.

        Parameters
        ----------
        path : path-like
            Directory of the saved model.
        kernel : callable
            Kernel that was fitted.
        inference : numpyro.infer.SVI or numpyro.infer.MCMC, optional
            Inference object constructed as for the fit. An SVI object that has run is copied, because it is initialized
            for other data. A chosen inference is restored without it. A model that was fitted with an object and is
            loaded without can predict, compare and score, but not be fitted.
        arguments : mapping of str to object, optional
            Arguments with which the kernel was called and which are neither arrays nor plain values, such as functions.

        Returns
        -------
        ImpactModel
            Model in the state in which it was saved.

        Raises
        ------
        FileNotFoundError
            If ``path`` contains no model.
        SavedModelError
            If a file is damaged, modified or of a newer format; if kernel, guide, optimizer or sampler differ from
            those that were saved; or if JAX has another precision (``jax_enable_x64``).
        TypeError
            If a required entry of ``arguments`` is missing, or an unknown one is passed.

        Warns
        -----
        AimzWarning
            If the kernel has the same sites but computes something else; or if bounds of parameters or latent sites may
            depend on the data, in which case they are set by the first data that the loaded model is fitted to.
        """
        model = cls.__new__(cls)
        fit = None if inference is None else make_fit(kernel, inference, None)
        model._set_state(read_model(read_input_dir(path, "path"), kernel, fit, arguments or {}))
        return model

    def __repr__(self) -> str:
        """Return a short text: kernel, inference, number of draws, temporary directory and sites."""
        return summary(self._summary())

    def _repr_html_(self) -> str:
        return html(self._summary())

    def _summary(self) -> ModelSummary:
        """Return the facts that the representations show, with the shapes of the fit."""
        spec, posterior = self.kernel_spec, self._posterior
        if spec is not None and posterior is not None:
            spec = with_shapes(spec, {name: draws.shape[1:] for name, draws in posterior.draws.items()})
        return ModelSummary(self._engine.signature, self._fit, posterior, spec, self.temp_dir)
