"""Methods of ``ImpactModel`` that summarize the posterior and check the model."""

__all__ = ["CheckingMethods"]

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

import aimz
from aimz.data import check_count, check_key
from aimz.inference import SVIFit
from aimz.methods.base import on_snapshot
from aimz.methods.check_findings import data_findings, statistic_lines
from aimz.methods.check_result import CheckResult, Finding
from aimz.methods.fitted_rows import FittedRows
from aimz.methods.posterior import PosteriorMethods
from aimz.methods.prediction import PredictionMethods
from aimz.methods.predictive_checks import PredictiveCheckMethods

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client

_MAX_LINES = 1000
"""Number of values of a site with a row axis above which it is left out of a summary, unless it is named."""


class CheckingMethods(PosteriorMethods, PredictionMethods, PredictiveCheckMethods):
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
        by: Any = None,
        statistics: Mapping[str, Callable[[np.ndarray], Any]] | None = None,
        max_rows: int | None = 2000,
        rng_key: jax.Array | None = None,
        client: "Client | Literal[False] | None" = None,
    ) -> CheckResult:
        """Check whether the fit has settled, its draws are reliable, and the model predicts the data.

        - *fit*: whether the loss and the guide have settled, or the chains agree.
        - *draws*: R-hat, effective sample sizes and divergences of chains; trend of the loss and importance weights of
          a guide, as in :meth:`diagnose`.
        - *data*: posterior predictive checks [1]_ of mean, standard deviation, share of zeros, smallest and largest
          value, and of your ``statistics``, over all rows or in each group of rows; the coverage of 90 % intervals of
          single rows; and the calibration of their predictions, each leaving its row out [2]_: predicted probabilities
          of binary outcomes are compared with observed shares, and other outcomes by the distribution of their PIT
          values, which is uniform if the predictions are calibrated.

        Parameters
        ----------
        X, y : array_like of shape (n_obs, ...), optional
            Data to predict; by default the rows of the fit.
        args : mapping, optional
            Further arguments of the kernel, with ``X``.
        by : array_like, str, list of str, or mapping, optional
            Groups of rows, or the name of a column or an argument, as in :meth:`compare_scenarios`.
        statistics : mapping of str to callable, optional
            Further statistics. A function of the values that returns a number for each value, such as
            ``lambda y: y == 0``, is averaged over all rows as they are streamed. One that returns a single number for a
            data set, such as ``lambda y: np.quantile(y, 0.9)``, gets at most 2,000 evenly spaced rows, of the data and
            of each draw.
        max_rows : int or None
            Number of rows, evenly spaced, that are checked if there are more; None for all rows, which are streamed in
            one pass with memory that does not grow with their number. Rows of data sets that are read in chunks cannot
            be selected, so all are checked.
        rng_key : jax.Array, optional
            Key for this call. By default the key is derived from that of the model, which does not change.
        client : distributed.Client, optional
            Dask cluster; see "Streaming" in :class:`ImpactModel`.

        Returns
        -------
        CheckResult
            Verdicts, with what to do; the predictive checks as a table, and the calibration with its plot.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        TypeError
            If neither data nor rows of the fit are in memory.
        ValueError
            If a statistic returns neither one number nor a number for each value.

        Notes
        -----
        With groups, a predictive check is bad if the observed value is among the 0.5 % most extreme predicted values on
        either side, divided by the number of groups.

        References
        ----------
        .. [1] Gelman, Meng and Stern (1996), Posterior predictive assessment of model fitness, Statistica Sinica 6.
        .. [2] Gelfand, Dey and Chang (1992), Model determination using predictive distributions, Bayesian Statistics 4.

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
        >>> model.check(statistics={"positive": lambda y: y > 0}).ok
        True
        """
        self._fitted("check")
        kwargs = dict(args or {})
        if max_rows is not None:
            check_count(max_rows, "max_rows")
        key = jax.random.fold_in(self.rng_key, 1) if rng_key is None else check_key(rng_key)
        rows = self._rows.require("check") if X is None else FittedRows(X, y, kwargs)
        findings = [*self._check_fit(), *self._check_draws(X, y, kwargs)]
        sampled, by, chosen = self._sample_rows(rows, by, max_rows)
        in_sample = False if chosen else True if X is None else None
        options = {"by": by, "statistics": statistics or {}, "in_sample": in_sample, "key": key, "client": client}
        try:
            found = self._compare_rows(sampled.X, sampled.y, sampled.arguments, **options)
        except (TypeError, ValueError) as error:
            if X is not None or statistics or by is not None:
                raise
            findings.append(Finding("data", "predictions", np.nan, "", "not checked", str(error)))
            return CheckResult(tuple(findings))
        lines = statistic_lines(found)
        findings += data_findings(found, lines)
        return CheckResult(tuple(findings), tuple(lines), found.checks.calibration, found.n_obs, found.why_not_loo)

    def _sample_rows(self, rows: FittedRows, by: Any, max_rows: int | None) -> tuple[FittedRows, Any, bool]:
        """Return at most ``max_rows`` evenly spaced rows with their groups, and whether there are more.

        All rows are returned if single rows cannot be selected.
        """
        X = rows.X
        length = len(X) if hasattr(X, "iloc") else X.shape[0] if hasattr(X, "shape") and len(X.shape) else 0
        if max_rows is None or length <= max_rows or (isinstance(rows.y, str) and not hasattr(X, "iloc")):
            return rows, by, False
        at = np.unique(np.linspace(0, length - 1, max_rows).astype(int))
        y = rows.y if isinstance(rows.y, str) or rows.y is None else _take(rows.y, at, length)
        arguments = {name: _take(value, at, length) for name, value in rows.arguments.items()}
        if isinstance(by, Mapping):
            by = {name: _take(value, at, length) for name, value in by.items()}
        return FittedRows(_take(X, at, length), y, arguments), _take(by, at, length), True

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


def _take(value: Any, rows: np.ndarray, n_obs: int) -> Any:
    """Return some rows of a table, an array or a list with one entry per row; other values are returned unchanged."""
    if hasattr(value, "iloc"):
        return value.iloc[rows]
    if hasattr(value, "shape") and len(value.shape) and value.shape[0] == n_obs:
        return value[rows]
    return [value[i] for i in rows] if isinstance(value, list | tuple) and len(value) == n_obs else value
