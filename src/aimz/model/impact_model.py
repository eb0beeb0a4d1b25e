"""The class the user holds.

One class is one file, and most of it is what users read in :func:`help`: hence its length.
"""

__all__ = ["ImpactModel"]

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import jax
from numpyro.infer import MCMC, SVI
from numpyro.infer.svi import SVIState

from aimz.errors import NotFittedError
from aimz.inference import Posterior, VIResult, make_fit, read_draws
from aimz.kernel import KernelSpec, read_signature
from aimz.model.describe import Portrait, describe, html, summary
from aimz.model.engine import Alike, Engine, Prepared
from aimz.model.keys import describe_key, read_key
from aimz.model.results import Observed, Results
from aimz.model.scenarios import check_alike, read_scenario
from aimz.types import Intervention, Kernel
from aimz.utils.data import read_count

if TYPE_CHECKING:
    import xarray as xr


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

    *Compiled programs* are kept: what the kernel closes over must not be changed in place between calls.

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
        self._rng_key = read_key(rng_key)
        self._fit = make_fit(kernel, inference, svi)
        self._engine = Engine(kernel, signature)
        self._results = Results(dims, coords)
        self._posterior: Posterior | None = None
        self._observed: Observed | None = None

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
    def inference(self) -> SVI | MCMC:
        """The inference object the model was made with."""
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
    def temp_dir(self) -> None:
        """Directory of the results that were given none; None, since all results are in memory so far."""
        return None

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
        self._fit.vi_result = result

    def is_fitted(self) -> bool:
        """Whether there is a posterior, fitted or set."""
        return self._posterior is not None

    # --------------------------------------------------------------------------------------------- fitting

    def fit_on_batch(
        self,
        X: Any,
        y: Any,
        *,
        num_steps: int = 10000,
        num_samples: int = 1000,
        rng_key: jax.Array | None = None,
        progress: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Fit to all the data at once, by SVI or MCMC, and draw the posterior.

        SVI continues from the state the model has; a model that is to start afresh is made anew.  MCMC warms up
        and samples as its object says, each time.

        Parameters
        ----------
        X, y : array_like of shape (n_obs, ...)
            Input and output.  The output is kept, not copied, as ``observed_data`` of later results.
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
            If the kernel does not observe the output.
        TypeError, ValueError
            If data or arguments do not fit; nothing has then been changed.

        Warns
        -----
        RuntimeWarning
            If a loss is not finite: the run stops and the last good state is kept.
        """
        given = _given(rng_key)
        call = self._engine.read_call(X, kwargs, output=y)
        read_count(num_steps, "num_steps")
        read_count(num_samples, "num_samples")
        spec = self._engine.read_fit(call)
        self._fit.check_run(call, spec, num_samples=num_samples)
        self._posterior = self._fit.run(
            call, spec, self._key(given), num_steps=num_steps, num_samples=num_samples, progress=progress
        )
        self._observed = Observed.of(call, self.param_output)
        return self

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

        return make_tree(self._results.posterior(drawn, spec))

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
            Name of a site or of a kernel argument to a value: a scalar, an array that broadcasts, or a
            callable on the factual value.  Latent sites that descend from it are drawn anew.
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
        prepared = self._prepare(X, intervention, kwargs, in_sample=in_sample, return_sites=return_sites)
        key = self._key(given)
        return self._predict(prepared, key) if return_datatree else self._engine.run("predictive", prepared, key)

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
        prepared = self._prepare(X, intervention, kwargs, return_sites=return_sites)
        key = self._key(given)
        return self._predict(prepared, key) if return_datatree else self._engine.run("predictive", prepared, key)

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
        prepared = self._engine.prepare(
            call, posterior=None, params=self._fit.params, n_draws=n_draws, return_sites=return_sites
        )
        key = self._key(given)
        arrays = self._engine.run("predictive", prepared, key)
        if not return_datatree:
            return arrays
        return self._results.tree("prior_predictive", arrays, prepared, beside=self._beside(), key=describe_key(key))

    def log_likelihood(
        self,
        X: Any,
        y: Any = None,
        *,
        rng_key: jax.Array | None = None,
        **kwargs: Any,
    ) -> "xr.DataTree":
        """Return the log density of each observation under each posterior draw, never scaled.

        Equals :func:`numpyro.infer.log_likelihood` at the output, and is what ``arviz_stats.loo`` reads.

        Parameters
        ----------
        X, y : array_like of shape (n_obs, ...)
            Input and output.
        rng_key : jax.Array, optional
            Key for this call; used only if local latents have to be drawn anew.
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
        given = _given(rng_key)
        posterior = self._fitted("log_likelihood")
        call = self._engine.read_call(X, kwargs, output=y)
        site = self._engine.read_scored(call)
        # Other observations have other local latents; where no data were fitted, these are taken to be the ones.
        fitted = self._observed is None or not self._observed.changed(call.without(self.param_output))
        prepared = self._engine.prepare(
            call,
            posterior=posterior,
            params=self._fit.params,
            n_draws=posterior.n_draws,
            return_sites=site,
            in_sample=fitted,
        )
        key = self._key(given) if prepared.needs_key else self._rng_key
        scores = self._engine.run("log_density", prepared, key)[site]
        return self._results.tree(
            "log_likelihood",
            {self.param_output: scores},
            prepared,
            beside=self._beside(),
            key=describe_key(key) if prepared.needs_key else None,
            observed=call.arrays[self.param_output],
        )

    def estimate_effect(
        self,
        output_baseline: "xr.DataTree | None" = None,
        output_intervention: "xr.DataTree | None" = None,
        args_baseline: Mapping[str, Any] | None = None,
        args_intervention: Mapping[str, Any] | None = None,
        *,
        on_batch: bool = False,  # noqa: ARG002 (every prediction is made in one pass, until there are others)
    ) -> "xr.DataTree":
        """Return what an intervention changes: intervention minus baseline, draw by draw and row by row.

        Each scenario is a tree, or the keyword arguments of :meth:`predict_on_batch` to make one.  Scenarios
        made here share their key, so their noise is common and the difference is the effect alone.

        Parameters
        ----------
        output_baseline, output_intervention : xarray.DataTree, optional
            Results of a predictive method.
        args_baseline, args_intervention : mapping, optional
            Keyword arguments of :meth:`predict_on_batch`, the input among them.
        on_batch : bool
            Whether to predict in one pass in memory, as is done either way.

        Returns
        -------
        xarray.DataTree
            The differences in the group the scenarios share, all sampling dimensions kept.

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

        sides = [
            read_scenario("baseline", output_baseline, args_baseline, self.param_input),
            read_scenario("intervention", output_intervention, args_intervention, self.param_input),
        ]
        # Both are checked before either is computed or a key is split; and what one of them draws anew both draw
        # anew, or the difference would be between fitted rows and others.
        alone = [None if side.request is None else self._prepare(**side.request, quiet=True) for side in sides]
        check_alike(*alone)
        alike = Alike.of(
            [prepared.substitution for prepared in alone if prepared is not None], sides[0].anew | sides[1].anew
        )
        ready = [None if side.request is None else self._prepare(**side.request, alike=alike) for side in sides]
        common: Any = next((side.key for side in sides if side.key is not None), None)
        if common is None and any(side.request is not None for side in sides):
            common = self._key(None)
        trees = [
            side.tree if prepared is None else self._predict(prepared, common if side.key is None else side.key)
            for side, prepared in zip(sides, ready, strict=True)
        ]
        return difference(*trees)

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

    def __repr__(self) -> str:
        """Return a short text: kernel, inference, sites, fitted or not."""
        return summary(self._portrait())

    def _repr_html_(self) -> str:
        return html(self._portrait())

    # ------------------------------------------------------------------------------------------- internals

    def _portrait(self) -> Portrait:
        """Return what there is to say of the model."""
        return Portrait(self._engine.signature, self.inference, self._posterior, self.kernel_spec)

    def _key(self, given: jax.Array | None) -> jax.Array:
        """Return the key of a call: the one given, else one split off the model's own."""
        if given is not None:
            return given
        self._rng_key, key = jax.random.split(self._rng_key)
        return key

    def _prepare(
        self,
        X: Any,
        intervention: Intervention | None,
        kwargs: Mapping[str, Any],
        *,
        in_sample: bool = True,
        return_sites: str | Iterable[str] | None = None,
        alike: Alike | None = None,
        quiet: bool = False,
    ) -> Prepared:
        """Check a prediction and decide how it is made; nothing is computed, and no key is used."""
        posterior = self._fitted("predict_on_batch")
        call = self._engine.read_call(X, kwargs)
        changed = self._observed.changed(call) if in_sample and self._observed is not None else frozenset[str]()
        prepared = self._engine.prepare(
            call,
            posterior=posterior,
            params=self._fit.params,
            n_draws=posterior.n_draws,
            return_sites=return_sites,
            intervention=intervention,
            in_sample=in_sample,
            changed=changed,
            alike=alike,
            quiet=quiet,
        )
        self._results.check(prepared)
        return prepared

    def _predict(self, prepared: Prepared, key: jax.Array) -> "xr.DataTree":
        """Compute a prepared prediction."""
        fitted_input = self.param_input not in prepared.changed
        known = self._observed if prepared.in_sample and fitted_input else None
        return self._results.tree(
            "posterior_predictive" if prepared.in_sample else "predictions",
            self._engine.run("predictive", prepared, key),
            prepared,
            beside=self._beside(),
            key=describe_key(key),
            observed=None if known is None else known.output,
        )

    def _beside(self) -> "dict[str, xr.Dataset]":
        """Return the groups that stand beside every result: the posterior and what the sampler says of it."""
        return {} if self._posterior is None else self._results.posterior(self._posterior, self.kernel_spec)

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
