"""Methods of ``ImpactModel`` that summarize the posterior and check the model."""

__all__ = ["CheckingMethods"]

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

import aimz.output
from aimz.data import check_count
from aimz.inference import SVIFit
from aimz.methods.base import on_snapshot, optional_key
from aimz.methods.check_result import CheckResult, Finding
from aimz.methods.fitted_rows import FittedRows
from aimz.methods.posterior import PosteriorMethods
from aimz.methods.prediction import PredictionMethods
from aimz.methods.predictive_checks import compare_with_predictions

if TYPE_CHECKING:
    import pandas as pd

_MAX_LINES = 1000
"""Number of values of a site with a row axis above which it is left out of a summary, unless it is named."""


class CheckingMethods(PosteriorMethods, PredictionMethods):
    """Summaries of the posterior, and checks of fit, draws and predictions."""

    @on_snapshot
    def summary(
        self,
        var_names: str | Iterable[str] | None = None,
        *,
        ci_prob: float | None = None,
        ci_kind: str | None = None,
        kind: str | None = None,
        round_to: int | str | None = "auto",
        filter_vars: str | None = None,
        coords: Mapping[str, Any] | None = None,
    ) -> "pd.DataFrame":
        """Return ArviZ's table of the posterior, with the labels of ``coords`` and ``dims``.

        Draws of SVI are independent draws of a guide: R-hat and effective sample sizes compare chains and would be
        perfect whatever the guide is. The table then has no diagnostics; call :meth:`check`.

        Parameters
        ----------
        var_names : str or iterable of str, optional
            Sites. The default is all latent sites, except those with a value for each of more than 1,000 rows.
        ci_prob, ci_kind : optional
            Probability and kind of the interval; by default ArviZ's, 0.89 and "eti" unless they were changed.
        kind : str, optional
            Columns, as in :func:`arviz_stats.summary`. The default is "all" for chains, and "stats" for SVI and draws
            in a single chain.
        round_to, filter_vars, coords
            As in :func:`arviz_stats.summary`.

        Returns
        -------
        pandas.DataFrame
            A line for each value, such as ``beta[age]``.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        ImportError
            If ArviZ is not installed.

        Examples
        --------
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from jax import random
        >>> from aimz import ImpactModel
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 5.0))
        ...     with numpyro.plate("obs", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)
        >>> X = jnp.linspace(-1.0, 1.0, 100)
        >>> model = ImpactModel(kernel, 0, "svi").fit(X, 2.0 * X, progress=False)
        >>> table = model.summary(ci_prob=0.9, round_to="none")
        >>> table.index.tolist(), table.columns.tolist()
        (['b'], ['mean', 'sd', 'eti90_lb', 'eti90_ub'])
        """
        posterior, spec = self._fitted("summary"), self.kernel_spec
        if kind is None:
            kind = "all" if posterior.num_chains > 1 and not isinstance(self._fit, SVIFit) else "stats"
        tree = {name: group for name, group in self._auxiliary_groups().items() if name == "posterior"}
        if var_names is None and spec is not None:
            sizes = {name: int(np.prod(draws.shape[1:])) for name, draws in posterior.draws.items()}
            var_names = [n for n in sizes if not (n in spec.local_sites and sizes[n] > _MAX_LINES)]
        names = [var_names] if isinstance(var_names, str) else var_names
        table: pd.DataFrame = aimz.output.import_arviz_stats("summary").summary(
            tree["posterior"],
            var_names=None if names is None else list(names),
            filter_vars=filter_vars,
            coords=None if coords is None else dict(coords),
            kind=kind,
            ci_prob=ci_prob,
            ci_kind=ci_kind,
            round_to=round_to,
        )
        return table

    @on_snapshot
    def check(
        self,
        X: Any = None,
        y: Any = None,
        *,
        args: Mapping[str, Any] | None = None,
        max_rows: int = 2000,
        rng_key: jax.Array | None = None,
    ) -> CheckResult:
        """Check whether the fit has settled, its draws are reliable, and the model predicts the data.

        - *fit*: whether the loss and the guide have settled, or the chains agree.
        - *draws*: R-hat, effective sample sizes and divergences of chains; trend of the loss and importance weights of
          a guide, as in :meth:`diagnose`.
        - *data*: posterior predictive checks [1]_ of mean, standard deviation, share of zeros, smallest and largest
          value, and the coverage of 90 % intervals of single rows.

        Parameters
        ----------
        X, y : array_like of shape (n_obs, ...), optional
            Data to predict; by default the rows of the fit.
        args : mapping, optional
            Further arguments of the kernel, with ``X``.
        max_rows : int
            Number of rows, evenly spaced, that are predicted if there are more.
        rng_key : jax.Array, optional
            Key for this call. By default the key is derived from that of the model, which does not change.

        Returns
        -------
        CheckResult
            Verdicts, with what to do.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        TypeError
            If neither data nor rows of the fit are in memory.

        References
        ----------
        .. [1] Gelman, Meng and Stern (1996), Posterior predictive assessment of model fitness, Statistica Sinica 6.

        Examples
        --------
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from jax import random
        >>> from aimz import ImpactModel
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 5.0))
        ...     with numpyro.plate("obs", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)
        >>> X = jnp.linspace(-1.0, 1.0, 100)
        >>> y = 2.0 * X + random.normal(random.key(1), X.shape)
        >>> model = ImpactModel(kernel, 0, "svi").fit(X, y, progress=False)
        >>> model.check().ok
        True
        """
        self._fitted("check")
        check_count(max_rows, "max_rows")
        kwargs = dict(args or {})
        key = jax.random.fold_in(self.rng_key, 1) if rng_key is None else optional_key(rng_key)
        rows = self._rows.require("check") if X is None else FittedRows(X, y, kwargs)
        findings = [*self._check_fit(), *self._check_draws(X, y, kwargs)]
        try:
            findings += self._check_data(rows, max_rows, key, fitted=X is None)
        except (TypeError, ValueError) as error:
            if X is not None:
                raise
            findings.append(Finding("data", "predictions", np.nan, "", "not checked", str(error)))
        return CheckResult(tuple(findings))

    def _check_fit(self) -> list[Finding]:
        """Return whether the fit has settled."""
        settled, text = self._fit.outcome.settled, self._fit.outcome.text
        if settled is None:
            return []
        advice = "" if settled else f"the fit has not settled ({text}): fit again to continue, or pass inference='nuts'"
        return [Finding("fit", "settled", float(settled), "1", "ok" if settled else "bad", advice)]

    def _check_draws(self, X: Any, y: Any, kwargs: Mapping[str, Any]) -> list[Finding]:
        """Return the lines of ``diagnose``."""
        try:
            table = self.diagnose(X, y, **kwargs) if isinstance(self._fit, SVIFit) else self.diagnose()
        except (TypeError, ValueError) as error:
            return [Finding("draws", "diagnose", np.nan, "", "not checked", str(error))]
        findings = []
        for check, line in table.iterrows():
            verdict, _, why = str(line["verdict"]).partition(": ")
            site = f" ({line['site']})" if line["site"] else ""
            advice = f"{check}: {why}" if why else ""
            verdict = "ok" if verdict.startswith("ok") else verdict
            findings.append(
                Finding("draws", f"{check}{site}", float(line["value"]), str(line["threshold"]), verdict, advice)
            )
        return findings

    def _check_data(self, rows: FittedRows, max_rows: int, key: jax.Array | None, *, fitted: bool) -> list[Finding]:
        """Return posterior predictive checks."""
        call = self._engine.read_call(rows.X, rows.arguments, output=rows.y)
        observed = np.asarray(call.arrays[self.param_output])
        chosen = np.unique(np.linspace(0, call.n_obs - 1, min(max_rows, call.n_obs)).astype(int))
        whole = len(chosen) == call.n_obs
        X = rows.X if whole else _take(rows.X, chosen)
        arguments = {name: v if whole else _take(v, chosen, call.n_obs) for name, v in rows.arguments.items()}
        predicted: Any = self.predict_on_batch(
            X,
            rng_key=key,
            in_sample=fitted and whole,
            return_sites=self.param_output,
            return_datatree=False,
            **arguments,
        )
        return compare_with_predictions(observed[chosen], np.asarray(predicted[self.param_output]))


def _take(value: Any, rows: np.ndarray, n_obs: int | None = None) -> Any:
    """Return some rows of a table or array; other values are returned unchanged.

    Raises
    ------
    TypeError
        If rows of the input cannot be selected.
    """
    if hasattr(value, "iloc"):
        return value.iloc[rows]
    if hasattr(value, "shape") and len(value.shape) and (n_obs is None or value.shape[0] == n_obs):
        return value[rows]
    if n_obs is None:
        msg = (
            f"Rows can be selected from arrays and pandas frames; got {type(value).__name__}. Pass `check(X, y)` with "
            "some of the rows."
        )
        raise TypeError(msg)
    return [value[i] for i in rows] if isinstance(value, list | tuple) and len(value) == n_obs else value
