"""The method of ``ImpactModel`` that measures how much an answer depends on the priors."""

__all__ = ["PriorSensitivityMethod", "PriorSensitivityResult"]

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import aimz
from aimz.errors import OutputWarning, warn
from aimz.methods import EffectResult, FittedRows, ScoringMethods, on_snapshot, optional_key
from aimz.validation.quantities import effect_draws, parameter_draws, read_effect, read_parameters

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_MAX_VALUES = 2**26
"""Number of log densities that are kept in memory; more are stored in a temporary directory."""
_PIECE = 2**24
"""Number of log densities that are added up together."""


@dataclass(frozen=True, repr=False)
class PriorSensitivityResult:
    """Sensitivity of effects and parameters to priors and data, as :meth:`ImpactModel.prior_sensitivity` returns it.

    Attributes
    ----------
    tree : xarray.DataTree
        Groups ``posterior`` (draws of the quantities), ``log_prior`` (of each prior) and ``log_likelihood`` (sum over
        rows), which ``arviz_stats.psense`` and ArviZ's plots read.
    components : pandas.DataFrame
        Sensitivity of each quantity to each prior.
    threshold : float
        Sensitivity that matters.
    """

    tree: "xr.DataTree"
    components: "pd.DataFrame"
    threshold: float
    _table: "pd.DataFrame"
    _n_effects: int

    def summary(self) -> "pd.DataFrame":
        """Return a table with a line for each quantity.

        Returns
        -------
        pandas.DataFrame
            Sensitivity to all priors together (``prior``) and to the data (``likelihood``), the largest ``pareto_k``
            of the importance weights, the prior that the quantity is ``most_sensitive_to``, and the ``diagnosis``.
        """
        return self._table.copy()

    def to_pandas(self) -> "pd.DataFrame":
        """Return the table of :meth:`summary`."""
        return self.summary()

    def __repr__(self) -> str:
        """Return sentences and a table."""
        return aimz.output.power_scaling_text(self._table, self._n_effects, self.threshold)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


class PriorSensitivityMethod(ScoringMethods):
    """Sensitivity to priors."""

    @on_snapshot
    def prior_sensitivity(
        self,
        X: Any = None,
        y: Any = None,
        *,
        effect: Any = None,
        baseline: Any = None,
        values: Any = None,
        by: Any = None,
        weights: Any = None,
        contrast: Any = None,
        parameters: str | Iterable[str] | None = None,
        return_sites: str | Iterable[str] | None = None,
        threshold: float = 0.05,
        rng_key: jax.Array | None = None,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> PriorSensitivityResult:
        """Return how much effects and parameters change if priors or likelihood are raised to a power.

        Nothing is fitted: the posterior draws are weighted by importance sampling [1]_, by ArviZ's ``psense``. A prior
        that matters is no error, but an answer that rests on it has to be defended.

        Parameters
        ----------
        X, y : array_like of shape (n_obs, ...), optional
            Data of the fit; by default the rows of the last fit.
        effect : EffectResult, str or mapping, optional
            Effect that was computed from this posterior; or its question, as in :meth:`rehearse`.
        baseline, values, by, weights, contrast : optional
            Options of a question, as in :meth:`effect` or :meth:`compare_scenarios`.
        parameters : str or list of str, optional
            Latent sites to test; by default all without a row axis, up to 20 elements of each.
        return_sites : str or list of str, optional
            Sites whose priors are scaled. The default is the latent sites that depend on no other latent site: in a
            hierarchy only the top level, since scaling the levels below it would change the model.
        threshold : float
            Sensitivity that matters.
        rng_key : int or jax.Array, optional
            Key for this call.
        args : mapping of str to object, optional
            Further arguments of the kernel by name, as ``**kwargs``.
        **kwargs
            Further arguments of the kernel.

        Returns
        -------
        PriorSensitivityResult
            Result that prints sentences and a table, with ``summary``, ``components`` and ``tree``.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        TypeError, ValueError
            If there are no data, a name is unknown, or an effect has draws of another posterior.
        ImportError
            If ArviZ is not installed.

        Warns
        -----
        OutputWarning
            If the weights are not reliable (Pareto k above 0.7), which can hide a sensitivity.

        References
        ----------
        .. [1] Kallioinen, Paananen, Bürkner and Vehtari (2024), Detecting and diagnosing prior and likelihood
           sensitivity with power-scaling, Statistics and Computing 34.
        """
        posterior, key = self._fitted("prior_sensitivity"), optional_key(rng_key)
        options = {"baseline": baseline, "values": values, "by": by, "weights": weights, "contrast": contrast}
        own = {"effect": effect, "parameters": parameters}
        self._engine.signature.check_unambiguous({**options, **own}, args or (), "prior_sensitivity")
        arguments = self._merged(kwargs, args)
        rows = self._rows.require("prior_sensitivity") if X is None else FittedRows(X, y, arguments)
        quantities: dict[str, np.ndarray] = {}
        with self._key(key) as key:
            likelihood = self._joint_likelihood(rows, posterior.n_draws, key)
            assert self.kernel_spec is not None
            if isinstance(effect, EffectResult):
                quantities |= effect_draws(effect.tree)
            elif (question := read_effect(effect, options)) is not None:
                quantities |= question.draws(self, rows.X, rows.arguments, key)
        _check_draws(quantities, posterior.n_draws)
        n_effects, names = len(quantities), read_parameters(self.kernel_spec, parameters)
        quantities |= parameter_draws(posterior.draws, names)
        prior = self.log_prior(rows.X, return_sites=return_sites, args=dict(rows.arguments))["log_prior"].to_dataset()
        tree = aimz.output.sensitivity_tree(quantities, prior, likelihood, self.param_output)
        table, components = aimz.output.power_scaling(tree, threshold)
        if table["diagnosis"].str.startswith("not reliable").any():
            warn(
                f"The sensitivities are not reliable: the importance weights have a Pareto k of "
                f"{table['pareto_k'].max():.2f}, above 0.7, which can hide a sensitivity. Draw more, or fit the model "
                "with other priors.",
                OutputWarning,
            )
        return PriorSensitivityResult(tree, components, threshold, table, n_effects)

    def _joint_likelihood(self, rows: FittedRows, n_draws: int, key: jax.Array) -> np.ndarray:
        """Return the log likelihood of all rows together for each draw, of shape ``(n_chains, n_draws)``."""
        options: dict[str, Any] = {"progress": False, "client": False, "args": dict(rows.arguments), "rng_key": key}
        observed = self._observed
        small = observed is not None and n_draws * len(observed.output) <= _MAX_VALUES
        scores = self.log_likelihood(rows.X, rows.y, store="memory" if small else "persistent", **options)
        found = next(iter(scores["log_likelihood"].to_dataset().data_vars.values()))
        dims = [dim for dim in found.dims if dim not in ("chain", "draw")]
        if not dims:
            return np.asarray(found.transpose("chain", "draw"), np.float64)
        step, total = max(1, _PIECE // n_draws), np.zeros(())
        for start in range(0, found.sizes[dims[0]], step):
            piece = found.isel({dims[0]: slice(start, start + step)})
            total = total + np.asarray(piece.sum(dims, dtype=np.float64).transpose("chain", "draw"))
        return total


def _check_draws(quantities: Mapping[str, np.ndarray], n_draws: int) -> None:
    """Raise if effects have other draws than the posterior."""
    other = next((len(draws) for draws in quantities.values() if len(draws) != n_draws), None)
    if other is not None:
        msg = (
            f"`effect` must have the draws of this posterior, {n_draws:,}; got {other:,}. Compute it from this model, "
            "or pass the question, such as effect='campaign'."
        )
        raise ValueError(msg)
