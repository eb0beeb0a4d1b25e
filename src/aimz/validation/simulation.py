"""Simulation of data with a known effect, and the answer of a refit to them."""

__all__ = ["PRIOR_DRAWS", "Record", "Simulation"]

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import Distribution

from aimz.data import Posterior, key_from_text
from aimz.errors import AimzWarning
from aimz.inference import Fit, make_refit
from aimz.methods import FittedRows, ModelBase
from aimz.statistics import rank_of
from aimz.validation.fitted_data import FitRows
from aimz.validation.permutation import Permutation
from aimz.validation.quantities import EffectQuestion, parameter_draws

PRIOR_DRAWS = 1000
"""Number of draws from which the standard deviation of the prior of a quantity is found."""
OBSERVED = -1
"""Number of the fit to the observed data, with which placebo runs are compared."""

type Record = dict[str, Any]
"""Names of the quantities, and for each the truth, mean, standard deviation, rank and shares of draws."""


@dataclass(frozen=True)
class Simulation:
    """Inputs of the simulations of a rehearsal; a record depends on them, the key and its number only."""

    model: ModelBase
    """Model that is refitted, with the posterior from which truths are drawn, if any."""
    kind: str
    rows: FitRows
    y: Any
    """Observed output, which placebo runs fit; None if the output is simulated."""
    output: str
    """Site that draws the output."""
    drawn: Mapping[str, str]
    """Further arguments that are observed, and the sites that draw them."""
    from_posterior: bool
    in_sample: bool | None
    """Whether the rows are the fitted rows; None to find out."""
    question: EffectQuestion | None
    parameters: tuple[str, ...]
    truth: Mapping[str, Any]
    """Values or distributions of latent sites that replace their draws."""
    permutation: Permutation | None
    method: str
    """Name of the method that fits."""
    options: Mapping[str, Any]
    """Options of the fit."""
    key: str
    threshold: float
    """Value with which draws of effects are compared."""
    n_draws: int
    """Number of posterior draws among which a truth has its rank."""
    caches: dict[str, Any] = field(default_factory=dict, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, without compiled programs."""
        return {**self.__dict__, "caches": {}}

    def __call__(self, number: int) -> Record:
        """Return the record of a simulation."""
        with warnings.catch_warnings():
            # The result counts refits that have not settled; the first fit to the actual data issued other warnings.
            warnings.simplefilter("ignore", AimzWarning)
            return self._run(number)

    def _run(self, number: int) -> Record:
        key = jax.random.fold_in(key_from_text(self.key), np.uint32(number % 2**32))
        key_data, key_fit, key_effect = jax.random.split(key, 3)
        if self.kind == "placebo":
            rows = self.rows
            if number != OBSERVED:
                assert self.permutation is not None
                words = [int(word) for word in np.asarray(jax.random.key_data(key_data)).ravel()]
                rows = rows.moved(self.permutation.names, self.permutation.order(words))
            model = self._refit(rows, self.y, key_fit)
            return self._record(model, rows, None, key_effect, number)
        truths, y, drawn = self._simulate(key_data)
        rows = replace(self.rows, arguments={**self.rows.arguments, **drawn})
        model = self._refit(rows, y, key_fit)
        return self._record(model, rows, truths, key_effect, number)

    def _simulate(self, key: jax.Array) -> tuple[Posterior, np.ndarray, dict[str, np.ndarray]]:
        """Return true latent values, an output, and further observed arguments, drawn from the model."""
        key_truth, key_draw, key_index = jax.random.split(key, 3)
        spec = self.model.kernel_spec
        assert spec is not None
        sites = [*spec.latent_sites, self.output, *self.drawn.values()]
        given = {name: value for name, value in self.rows.arguments.items() if name not in self.drawn}
        acts = {name: _draw_truth(value, key_truth, i) for i, (name, value) in enumerate(self.truth.items())}
        options: dict[str, Any] = {"intervention": acts or None, "return_sites": sites, "rng_key": key_draw}
        options |= {"store": "memory", "progress": False, "client": False, "args": given}
        model: Any = copy.copy(self.model)
        if self.from_posterior:
            posterior = self.model._posterior
            assert posterior is not None
            index = int(jax.random.randint(key_index, (), 0, posterior.n_draws))
            model._posterior = _one_draw(posterior, index)
            tree = model.predict(self.rows.X, in_sample=self.in_sample, **options)
        else:
            tree = model.sample_prior_predictive(self.rows.X, num_samples=1, **options)
        group = next(name for name in ("predictions", "posterior_predictive", "prior_predictive") if name in tree)
        values = {name: np.asarray(array.values)[0] for name, array in tree[group].data_vars.items()}
        latents = {name: values[name] for name in spec.latent_sites}
        truths = Posterior(latents, params=self.model._fit.params)
        return truths, values[self.output][0], {name: values[site][0] for name, site in self.drawn.items()}

    def _refit(self, rows: FitRows, y: Any, key: jax.Array) -> Any:
        """Return a model that is fitted to an output as the user fits, with shared compiled programs."""
        if "fit" not in self.caches:
            self.caches["fit"] = make_refit(self.model._fit)
        prototype: Fit = self.caches["fit"]
        model: Any = copy.copy(self.model)
        vars(model).update(_fit=prototype.copy(), _posterior=None, _observed=None, _rows=FittedRows())
        fit: Callable[..., Any] = getattr(model, self.method)
        fit(rows.X, y, rng_key=key, progress=False, args=dict(rows.arguments), **self.options)
        return model

    def _record(self, model: Any, rows: FitRows, truths: Posterior | None, key: jax.Array, number: int) -> Record:
        """Return the record of a fitted model; ``truths`` is one draw of the latent sites."""
        known, posterior = {}, model._posterior
        if truths is None:
            found, n_effects = self.draws_of(model, rows, key)
        elif truths.draws.keys() == posterior.draws.keys() and not posterior.params:
            # The truth is one more draw, so that the effect is computed once.
            own = posterior.draws
            both = {name: jnp.concatenate([own[name], truths.draws[name]]) for name in own}
            found, n_effects = self.draws_of(_with_posterior(model, Posterior(both)), rows, key)
            known = {name: draws[-1] for name, draws in found.items()}
            found = {name: draws[:-1] for name, draws in found.items()}
        else:
            found, n_effects = self.draws_of(model, rows, key)
            known = {n: d[0] for n, d in self.draws_of(_with_posterior(model, truths), rows, key)[0].items()}
        rng = np.random.default_rng([*np.asarray(jax.random.key_data(key)).ravel().tolist(), number % 2**32])
        columns: dict[str, list[float]] = {name: [] for name in ("truth", "mean", "sd", "rank", "pit", "above")}
        for i, (name, draws) in enumerate(found.items()):
            truth = float(known.get(name, np.nan))
            if np.isnan(draws).any():
                draws, truth = np.full(1, np.nan), np.nan  # a group without rows
            thinned = draws[np.linspace(0, len(draws) - 1, min(self.n_draws, len(draws))).round().astype(int)]
            is_known = not np.isnan(truth)
            columns["truth"].append(truth)
            columns["mean"].append(float(draws.mean()))
            columns["sd"].append(float(draws.std(ddof=1)) if len(draws) > 1 else np.nan)
            columns["rank"].append(float(rank_of(truth, thinned, rng)) if is_known else np.nan)
            columns["pit"].append(rank_of(truth, draws, rng) / len(draws) if is_known else np.nan)
            columns["above"].append(float((draws > (self.threshold if i < n_effects else 0.0)).mean()))
        settled = model._fit.outcome.settled is not False
        about = {"n_effects": n_effects, "settled": settled, "n_draws": model._posterior.n_draws}
        return {"names": list(found), **columns, **about}

    def draws_of(self, model: Any, rows: FitRows, key: jax.Array) -> tuple[dict[str, np.ndarray], int]:
        """Return the draws of all quantities of a model with a posterior, effects first, and the number of effects."""
        found: dict[str, np.ndarray] = {}
        if self.question is not None:
            found |= self.question.draws(model, rows.X, rows.arguments, key)
        return found | parameter_draws(model._posterior.draws, self.parameters), len(found)


def _with_posterior(model: Any, posterior: Posterior) -> Any:
    """Return a copy of a model with other draws."""
    other = copy.copy(model)
    other._posterior = posterior
    return other


def _one_draw(posterior: Posterior, index: int) -> Posterior:
    """Return a posterior with one of its draws."""
    draws = {name: array[index : index + 1] for name, array in posterior.draws.items()}
    return replace(posterior, draws=draws, num_chains=1, sample_stats=None)


def _draw_truth(value: Any, key: jax.Array, number: int) -> Any:
    """Return a value of a latent site, drawn if its distribution is given."""
    return value.sample(jax.random.fold_in(key, number)) if isinstance(value, Distribution) else value
