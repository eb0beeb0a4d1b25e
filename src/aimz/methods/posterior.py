"""Methods of ``ImpactModel`` that sample, set, thin and diagnose the posterior."""

__all__ = ["PosteriorMethods"]

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np
from numpyro.infer import MCMC

import aimz
from aimz.data import check_count, check_flag, read_draws
from aimz.engine import with_outcome
from aimz.inference import PosteriorOnly, SVIFit, check_chains, check_variational
from aimz.kernel import check_draws
from aimz.methods.base import on_snapshot, optional_key
from aimz.methods.fitted_rows import FittedRows
from aimz.methods.requests import RequestMethods

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


class PosteriorMethods(RequestMethods):
    """Access to the posterior, and its diagnostics."""

    @on_snapshot
    def sample(
        self,
        *,
        num_samples: int = 1000,
        rng_key: jax.Array | None = None,
        return_sites: str | Iterable[str] | None = None,
        return_datatree: bool = True,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> "xr.DataTree | dict[str, jax.Array]":
        """Return new draws from the fitted posterior approximation; :attr:`posterior` does not change.

        SVI samples from the guide. MCMC continues its chains from their last states, without another warm-up.

        Parameters
        ----------
        num_samples : int
            Number of draws; for MCMC, number of draws per chain.
        rng_key : jax.Array, optional
            Key for this call; the model's own key then does not change.
        return_sites : str or iterable of str, optional
            Latent sites to return. The default is all of them.
        return_datatree : bool
            Whether to return a tree with the group ``posterior``, or a dictionary.
        args : mapping of str to object, optional
            Further arguments of the kernel by name, as ``**kwargs``; needed for names of parameters of this method.
        **kwargs
            Data by name (``X=``, ``y=``, further arguments of the kernel). MCMC needs them, and so do guides that read
            the data.

        Returns
        -------
        xarray.DataTree or dict of str to jax.Array
            Draws of shape ``(chain, draw, ...)``, or ``(n_draws, ...)`` in a dictionary.

        Raises
        ------
        NotFittedError
            If the model has not been fitted.
        """
        rng_key = optional_key(rng_key)
        check_count(num_samples, "num_samples")
        check_flag(return_datatree, "return_datatree")
        data = self._merged(kwargs, args)
        given = bool(data)
        X, y = data.pop(self.param_input, None), data.pop(self.param_output, None)
        with_output = y is not None or isinstance(self.inference, MCMC)
        call = self._engine.read_call(X, data, **({"output": y} if with_output else {})) if given else None
        self._fit.check_sample(call)
        spec = self.kernel_spec if call is None else self._engine.read_spec(call)
        names = self._engine.read_latents(spec, return_sites)
        with self._key(rng_key) as key:
            drawn = self._fit.sample(call, spec, key, num_samples=num_samples, return_sites=names)
        if not return_datatree:
            return dict(drawn.draws)
        return aimz.output.make_tree(self._groups_of(drawn, spec))

    def set_posterior_sample(self, samples: Any = None, *, num_chains: int = 1, posterior_sample: Any = None) -> Self:
        """Set the posterior to given draws; the model then counts as fitted.

        Parameters
        ----------
        samples : mapping of str to array_like, xarray.DataTree, xarray.Dataset or path-like
            Site name to draws of shape ``(n_draws, ...)``, with one leading axis for all chains, chain after chain. Or
            a posterior of ArviZ, with dimensions ``(chain, draw, ...)``: a tree with a group ``posterior``, a dataset,
            or the path of a netCDF file. If the draws do not fit the kernel, as far as it is known from earlier calls,
            an error is raised. Draws of the output are dropped with a warning. Draws of deterministic sites are kept,
            but predictions recompute these sites. A contiguous array that is mapped to memory read-only
            (``numpy.load(path, mmap_mode="r")``) is not copied on the CPU: its file must not change.
        num_chains : int
            Number of chains in the leading axis of plain arrays. Arrays whose first axis has this length,
            and whose second axes have one length, are read as ``(chain, draw, ...)``.
        posterior_sample : optional
            Another name of ``samples``.

        Returns
        -------
        ImpactModel
            The model itself.

        Raises
        ------
        TypeError, ValueError
            If ``samples`` is neither a posterior of ArviZ nor a mapping of arrays, is empty, or the numbers of draws
            differ; or if it is passed by both names or by none.
        """
        if (samples is None) == (posterior_sample is None):
            how = "neither" if samples is None else "both"
            msg = f"Exactly one of `samples` and `posterior_sample` must be passed; got {how}. Pass `samples`."
            raise TypeError(msg)
        given = posterior_sample if samples is None else samples
        posterior = read_draws(given, num_chains=num_chains, param_output=self.param_output)
        if self.kernel_spec is not None:
            check_draws(self.kernel_spec, posterior.shapes)
        with self._shared.fitting:
            rows = FittedRows(missing="its posterior was set with `set_posterior_sample`")
            self._set_fit(self._engine, self._fit, replace(posterior, params=self._fit.params), None, rows)
        return self

    @on_snapshot
    def posterior_tree(self) -> "xr.DataTree":
        """Return the posterior as a tree that ArviZ reads.

        Returns
        -------
        xarray.DataTree
            Group ``posterior``, with dimensions ``(chain, draw, ...)`` and the labels of the fitted data; and group
            ``sample_stats`` (divergences, step sizes, ...) if the draws are from MCMC.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        """
        return aimz.output.make_tree(self._groups_of(self._fitted("posterior_tree"), self.kernel_spec))

    def thin_posterior(self, num_draws: int) -> Self:
        """Return a copy of the model with ``num_draws`` of its posterior draws, evenly spaced.

        Predictions of the copy take less time and memory.  The model itself does not change; both share the kernel,
        the inference and the labels.

        Parameters
        ----------
        num_draws : int
            Number of draws to keep, at most as many as there are.  They count as one chain, without statistics of
            the sampler.

        Returns
        -------
        ImpactModel
            The copy.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        TypeError, ValueError
            If ``num_draws`` is not a whole number from 1 to the number of draws.
        """
        posterior = self._fitted("thin_posterior")
        if check_count(num_draws, "num_draws") > posterior.n_draws:
            msg = (
                f"`num_draws` must be at most the number of posterior draws, {posterior.n_draws}; got {num_draws}. "
                "Call `fit_on_batch` or `sample` with more `num_samples` for more draws."
            )
            raise ValueError(msg)
        chosen = np.linspace(0, posterior.n_draws - 1, num_draws).round().astype(int)
        draws = {name: array[chosen] for name, array in posterior.draws.items()}
        model = copy.copy(self)
        model._posterior = replace(posterior, draws=draws, num_chains=1, sample_stats=None)
        return model

    @on_snapshot
    def diagnose(
        self,
        X: Any = None,
        y: Any = None,
        *,
        rng_key: jax.Array | None = None,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> "pd.DataFrame":
        """Return a table of checks whether the inference has converged, with a verdict for each check.

        For MCMC, and for draws set by the user, the checks are the largest R-hat and the smallest bulk and tail
        effective sample sizes (ESS) over all sites [1]_, and the number of divergent transitions. For SVI they are the
        trend of the ELBO, and for the guide the Pareto k and effective share of its importance weights [2]_, and the
        ratio of standard deviations with and without these weights. The statistics are computed by ArviZ (``pip install
        arviz-base arviz-stats``).

        Parameters
        ----------
        X, y : array_like of shape (n_obs, ...), optional
            Data of the fit, for the checks of the guide. The default is the data of the last :meth:`fit` or
            :meth:`fit_on_batch`. They must be passed if they came in batches or from files, or if the model has since
            been trained by :meth:`train_on_batch` or unpickled. All rows are processed at once.
        rng_key : jax.Array, optional
            Key of the guide's draws. By default it is derived from the model's own key, which does not change, so that
            repeated calls return the same table.
        args : mapping of str to object, optional
            Further arguments of the kernel by name, as ``**kwargs``; needed for names of parameters of this method.
        **kwargs
            Further arguments of the kernel, with ``X`` and ``y``.

        Returns
        -------
        pandas.DataFrame
            One row for each check, with columns ``value``, ``threshold`` (what the value should be), ``site`` (the site
            with the worst value) and ``verdict``: "ok", "bad: ..." or "not checked: ...".

        Raises
        ------
        NotFittedError
            If there is no posterior, or SVI has not run.
        ImportError
            If ArviZ is not installed.
        TypeError, ValueError
            If data or arguments are invalid, or are known to differ from the data of the fit.

        Notes
        -----
        *Chains.* R-hat should be below 1.01, and both ESS at least 100 for each chain. Values that are constant have
        neither statistic and are left out. For a site with more than 1,000 values, 1,000 evenly spaced ones are
        checked. Values of ``y_unobserved`` (``obs_mask``), which are predictions or have no density, are left out.

        *ELBO trend.* The difference in nats between the mean ELBO of the last tenth of all steps and that of the tenth
        before. It counts as a trend if it exceeds two standard errors (the Monte Carlo error of both means around a
        straight line, including autocorrelation) and 0.1 nat, which is the cost of one mean that is off by 0.45 of its
        standard deviation. One converged fit in twenty exceeds two standard errors slightly. If the standard error
        exceeds one nat and a twentieth of the total progress since the start, the losses are too noisy for a verdict.
        After a fit in minibatches with enough epochs, means of epochs are compared, which do not contain the noise of
        batches.

        *Pareto k.* Shape of the tail of the importance ratios ``p(theta, y) / q(theta)`` of draws from the guide ``q``:
        16,000, or fewer, but at least 1,000, if there are more than 16,384 rows. Below ``min(1 - 1 / log10(n_draws),
        0.7)`` [3]_ means and intervals of the guide can be corrected by importance weights. The threshold is two
        standard errors above this limit, so that verdicts for different keys agree. Ratios that agree within one per
        cent count as 0. A low k cannot reveal a mode that the guide misses.

        *Effective share.* The share of the draws that count: ``(sum w)**2 / sum w**2 / n_draws`` of the smoothed
        importance weights ``w``. It must be at least 0.1, and the ELBO at most 2 nats below the evidence that the
        weights give.

        *Ratio of standard deviations.* The standard deviation of each latent under the importance weights, over that of
        the guide; for positive latents, of their logarithm. The table has the ratio that is farthest from 1, of up to
        2,000 values of all sites. A guide that is too wide, as long as its scales still shrink or if the learning rate
        decayed before they had shrunk, has a low ratio; one that is too narrow in a few directions has a high one.
        Ratios of 0.75 to 1.6 count as sound: a large ratio is underestimated, since no draws are where the guide has no
        mass. Standard deviations of 0.4 times the truth are bad with nearly all keys, 0.6 with about half of them; 0.7
        passes. Directions that run across several latents (a correlation that the guide lacks) change these standard
        deviations less, and are detected by k, the share and the ELBO.

        All three lines are bad if one is.

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
        >>> svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(lambda step: 0.005 * 0.9995**step), Trace_ELBO())
        >>> model = ImpactModel(kernel, random.key(0), svi)
        >>> X = jnp.linspace(-1.0, 1.0, 100)
        >>> y = 2.0 * X + random.normal(random.key(1), X.shape)
        >>> model.fit_on_batch(X, y, num_steps=200, progress=False).diagnose()["verdict"].tolist()[:2]
        ['bad: still rising; take more steps', 'bad: the fit has to settle first']
        >>> model.fit_on_batch(X, y, num_steps=3000, progress=False).diagnose()["verdict"]["ELBO trend"]
        'ok'
        """
        rng_key, kwargs = optional_key(rng_key), self._merged(kwargs, args)
        call = None
        if isinstance(self._fit, PosteriorOnly) and self._fit.kind == "SVI":
            self._fit.require_inference("`diagnose`")
        if X is not None or y is not None or kwargs:
            self._engine, _, y = with_outcome(self._engine, X, y)  # of a snapshot of the model
            call = self._engine.read_call(X, kwargs, output=y)
        if not isinstance(self._fit, SVIFit):
            posterior = self._fitted("diagnose")
            return check_chains(posterior, self._auxiliary_groups()["posterior"], f"{self.param_output}_unobserved")
        if call is not None:
            self._engine.read_fit(call)
        key = jax.random.fold_in(self.rng_key, 0) if rng_key is None else rng_key
        return check_variational(self._fit, call, self._observed, self._local_rows(), key)
