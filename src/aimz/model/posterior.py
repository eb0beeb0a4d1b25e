"""Methods that draw, set and diagnose the posterior."""

__all__ = ["PosteriorMethods"]

import copy
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np
from numpyro.infer import MCMC

from aimz.data import read_count, read_draws
from aimz.inference import PosteriorOnly, SVIFit, check_chains, check_variational, data_of_fit
from aimz.model.base import given_key
from aimz.model.requests import RequestMethods

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


class PosteriorMethods(RequestMethods):
    """Methods on the posterior."""

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
        given = given_key(rng_key)
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
        from aimz.output import make_tree

        return make_tree(self._groups_of(self._fitted("posterior_tree"), self.kernel_spec))

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
        if read_count(num_draws, "num_draws") > posterior.n_draws:
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
        given = given_key(rng_key)
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
