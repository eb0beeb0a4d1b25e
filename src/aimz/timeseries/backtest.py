"""Method of ``ImpactModel`` that tests its forecasts on earlier periods."""

__all__ = ["BacktestMethods"]

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from aimz.data import check_count
from aimz.distributed import collective_call
from aimz.engine import read_options
from aimz.inference import make_refit
from aimz.kernel import ValueSource
from aimz.methods import on_snapshot, optional_key
from aimz.statistics import read_ci
from aimz.timeseries.backtest_result import BacktestResult
from aimz.timeseries.folds import read_folds, score_table
from aimz.timeseries.refits import RefitMethods

if TYPE_CHECKING:
    from aimz.timeseries.rows import Rows


class BacktestMethods(RefitMethods):
    """Tests of forecasts on periods that are known."""

    @collective_call
    def backtest(
        self,
        X: Any,
        y: Any = None,
        *,
        horizon: int,
        period: Any = None,
        unit: Any = None,
        origins: int | Sequence[Any] = 5,
        season: int | None = None,
        refit: bool = True,
        ci_prob: float | None = None,
        ci_kind: str | None = None,
        fit_options: Mapping[str, Any] | None = None,
        rng_key: jax.Array | None = None,
        progress: bool = True,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> BacktestResult:
        """Compare forecasts of earlier periods with the outcomes and with two baselines.

        For each origin a new model with the same kernel and inference is fitted to the rows before it, and forecasts
        the next ``horizon`` periods, given their inputs. The model itself does not change.

        The forecasts are compared with two baselines, whose distributions come from the history of each series alone:
        the last value, and the last value of the same season, plus or minus the past changes over as many periods.

        Parameters
        ----------
        X, y : array_like or table
            Input and output of all periods, as in :meth:`estimate_impact`.
        horizon : int
            Number of periods to forecast from each origin.
        period, unit : array_like of shape (n_obs,) or str, optional
            Period and unit of each row, as in :meth:`estimate_impact`. With several rows in a period, ``unit`` is the
            series of each. In wide form ``period`` has the period of each step, and ``unit`` the name of each series.
        origins : int or list of labels
            First periods that are forecast. A number means so many origins, ``horizon`` periods apart, of which the
            last ends with the data and the first has at least half of all periods before it.
        season : int, optional
            Number of periods in a season, for the seasonal baseline.
        refit : bool
            Whether to fit a model for each origin. Otherwise all origins use the parameters of one fit, to the rows
            before the first origin, with the outcomes up to each origin, from which an autoregression goes on. Latent
            states after the fitted rows are not known, so kernels with states along time need ``refit=True``, or a
            single origin.
        ci_prob, ci_kind : optional
            Probability and kind of the interval whose coverage is measured; by default ArviZ's.
        fit_options : mapping, optional
            Options of :meth:`fit`.
        rng_key : jax.Array, optional
            Key for fits and forecasts.
        progress : bool
            Whether to show progress bars of the forecasts.
        args, **kwargs
            Further arguments of the kernel.

        Returns
        -------
        BacktestResult
            Scores of all forecasts; printed, it is a table. CRPS is the continuous ranked probability score, in units
            of the output: the absolute error of a forecast without spread [1]_.

        Raises
        ------
        TypeError, ValueError
            If there are too few periods, an origin is not one of them, or a period has several rows and there is no
            ``unit``.

        References
        ----------
        .. [1] Gneiting and Raftery (2007), Strictly proper scoring rules, prediction, and estimation, JASA 102.

        Examples
        --------
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from jax import random
        >>> from numpyro.infer import MCMC, NUTS
        >>> import aimz
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 5.0))
        ...     with numpyro.plate("week", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(b * X, 0.1), obs=y)
        >>> mcmc = MCMC(NUTS(kernel), num_warmup=500, num_samples=1000, progress_bar=False)
        >>> X = np.random.default_rng(0).normal(size=24)
        >>> week = np.arange(24)
        >>> model = aimz.ImpactModel(kernel, random.key(0), mcmc)
        >>> found = model.backtest(X, 2.0 * X, period=week, horizon=4, origins=2, progress=False)
        >>> found.summary()["n"].tolist(), bool(found.summary()["skill"]["model"] > 0.9)
        ([8, 8], True)
        """
        key, interval = optional_key(rng_key), read_ci(ci_prob, ci_kind)
        check_count(horizon, "horizon")
        asked = {"period": period, "unit": unit}
        given = {**asked, "horizon": horizon, "season": season, "ci_prob": ci_prob, "ci_kind": ci_kind}
        given |= {"fit_options": fit_options, "refit": None if refit else False}
        given |= {"origins": None if isinstance(origins, int) else origins}
        self._engine.signature.check_unambiguous(given, args or (), "backtest")
        engine = self._engine.copy() if self.is_fitted() else self._engine.for_fit(restart=True)
        folds = read_folds(engine, X, y, self._merged(kwargs, args), asked, horizon, origins, season)
        draws, model, prototype = [], None, make_refit(self._fit)
        with self._key(key) as key:
            for i, fold in enumerate(folds.parts):
                fold_key = jax.random.fold_in(key, i)
                if refit or model is None:
                    model = self._refitted(prototype, folds.rows.take(fold.fitted), fold_key, fit_options)
                parts = folds.rows.take(fold.fitted), folds.rows.take(fold.ahead)
                is_reused = not refit and len(folds.parts) > 1
                draws.append(model._draw_ahead(*parts, fold_key, progress=progress, is_reused=is_reused))
        return BacktestResult(score_table(folds, draws, interval), interval.at)

    @on_snapshot
    def _draw_ahead(
        self, before: "Rows", ahead: "Rows", key: jax.Array, *, progress: bool, is_reused: bool
    ) -> np.ndarray:
        """Return draws of the output ``(n_draws, n)`` after known rows; ``is_reused`` if they need not be fitted ones.

        Raises
        ------
        ValueError
            If the fit is reused, and the kernel has latent states, which are known in the fitted rows only.
        """
        options = read_options(store="memory", progress=progress)
        request = self._prepare_forecast(
            ahead.X,
            ahead.arguments,
            options,
            history=before.history(self.param_input, self.param_output),
            return_sites=(self.param_output,),
            axis=before.axis,
        )
        states = request.first.substitution.sites_from(ValueSource.CONTINUED)
        if is_reused and states:
            msg = (
                "`refit=False` uses the fit before the first origin for all later ones, and the kernel has latent "
                f"states, `{states[0]}` for one: its values from there to a later origin were not fitted. Pass "
                "`refit=True`, or a single origin."
            )
            raise ValueError(msg)
        found = self._execute(request, key)["predictions"].to_dataset()[self.param_output].values
        draws = found.reshape(-1, *found.shape[2:])
        if before.axis:  # of all series in some steps
            draws = np.moveaxis(draws, 1 + request.first.spec[self.param_output].row_axes[0], 1)
        return np.asarray(draws.reshape(len(draws), -1))
