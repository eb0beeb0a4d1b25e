"""The method of ``ImpactModel`` that compares an effect with hidden common causes."""

__all__ = ["SensitivityMethods", "check_outcome"]

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from aimz.data import KernelArguments, open_chunked_table
from aimz.distributed import collective_call
from aimz.engine import InputSource, StreamingOptions, add_one, read_options
from aimz.forward import PassSpec
from aimz.kernel import EXPECTED, OBSERVED, RESIDUALS, KernelSpec, outcome_site, residual_kernel
from aimz.methods import EffectResult, MediationMethods, on_snapshot, optional_key
from aimz.statistics import Moments, ResidualSums, partial_strengths
from aimz.validation.covariates import ColumnRows, Covariates, read_covariates
from aimz.validation.sensitivity_result import SensitivityResult

if TYPE_CHECKING:
    from distributed import Client

    from aimz.types import Intervention

_REAL = {"Normal", "StudentT", "Laplace", "Logistic", "AsymmetricLaplace", "SkewNormal", "Gumbel"}
"""Distributions on the real line, for which a difference is on the scale of a linear model."""


@dataclass(frozen=True)
class _Sums:
    """Results of the pass over the rows."""

    moments: Moments
    """Moments of the treatment, the covariates and the outcome."""
    sums: ResidualSums
    before: np.ndarray
    """Average expected outcome at the lower value of the treatment, draw by draw."""
    after: np.ndarray
    """Average expected outcome at the higher value."""


class SensitivityMethods(MediationMethods):
    """Sensitivity of an effect to hidden common causes."""

    @collective_call
    @on_snapshot
    def sensitivity(
        self,
        effect: EffectResult | None = None,
        *,
        treatment: str,
        outcome: str | None = None,
        benchmark: str | Iterable[str | tuple[str, ...]] = (),
        covariates: Iterable[str] | None = None,
        scale: Literal["difference", "ratio"] | None = None,
        X: Any = None,
        y: Any = None,
        args: Mapping[str, Any] | None = None,
        rng_key: jax.Array | None = None,
        batch_size: int | None = None,
        progress: bool = True,
        client: "Client | Literal[False] | None" = None,
        **kwargs: Any,
    ) -> SensitivityResult:
        r"""Return how strong a hidden common cause of treatment and outcome would have to be to change an answer.

        A hidden cause is described by its partial R² with the treatment, given the covariates, and with the outcome,
        given the treatment and the covariates [1]_. In each posterior draw, the bias of the effect of one unit is

        .. math:: \sqrt{R^2_Y R^2_T / (1 - R^2_T)}\; \mathrm{sd}(Y^\perp) / \mathrm{sd}(T^\perp)

        with the standard deviation of the outcome's residuals under the draw, and of what a linear regression on the
        covariates leaves of the treatment. The effect of a unit is the average effect over the rows, also if it differs
        between them. On the scale of ratios, the strength of a cause is its risk ratio with both [2]_.

        Parameters
        ----------
        effect : EffectResult, optional
            The effect in question, of two numbers of ``treatment``; by default that of 1 against 0 if all values are 0
            or 1, else of one more unit.
        treatment : str
            Name of a column, an argument, or a site with data, with one number for each row.
        outcome : str, optional
            Name of the outcome, the output of the kernel.
        benchmark : str or list of str, optional
            Observed covariates to compare a hidden cause with; a tuple of names is compared as a whole.
        covariates : list of str, optional
            Covariates that the treatment is regressed on; by default all columns and arguments that the outcome depends
            on and that do not descend from the treatment. Categories, and integers that the kernel uses as indices,
            have a column for each category.
        scale : {"difference", "ratio"}, optional
            Scale of the effect. Needed for outcomes that are not real numbers: "difference" treats these as numbers in
            a linear regression, "ratio" gives E-values.
        X, y : array_like of shape (n_obs, ...), data frame or another source of rows, optional
            Rows with their outcome; by default the rows of the fit.
        args, **kwargs
            Further arguments of the kernel.
        rng_key : jax.Array, optional
            Key for this call.
        batch_size : int, optional
            Maximum number of rows that are computed together. The numbers do not depend on it.
        progress : bool
            Whether to show a progress bar.
        client : distributed.Client, optional
            Dask cluster; see "Streaming" in :class:`ImpactModel`.

        Returns
        -------
        SensitivityResult
            Result that prints what a hidden cause would have to be, with ``robustness``, ``table``, ``summary`` and
            ``plot``.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        TypeError, ValueError
            If the treatment is unknown or does not vary given the covariates; if a benchmark is no covariate or
            descends from the treatment; if a site between treatment and outcome is passed as data; or if the outcome
            is not real and no ``scale`` is named.

        Notes
        -----
        Sums over rows are all that is kept: of residuals for each draw, and of products of columns.

        References
        ----------
        .. [1] Cinelli and Hazlett (2020), Making sense of sensitivity: extending omitted variable bias, Journal of the
           Royal Statistical Society B 82.
        .. [2] VanderWeele and Ding (2017), Sensitivity analysis in observational research: introducing the E-value,
           Annals of Internal Medicine 167.

        Examples
        --------
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from jax import random
        >>> from numpyro.infer import MCMC, NUTS
        >>> import aimz
        >>> def kernel(X, mail, y=None):
        ...     gain = numpyro.sample("gain", dist.Normal(0.0, 1.0))
        ...     with numpyro.plate("customer", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(X + gain * mail, 1.0), obs=y)
        >>> model = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=10, num_samples=10))
        >>> _ = model.set_posterior_sample({"gain": np.linspace(0.9, 1.1, 500)})
        >>> noise = np.random.default_rng(0)
        >>> X, mail = noise.normal(size=800), noise.binomial(1, 0.5, 800)
        >>> y = X + mail + noise.normal(size=800)
        >>> found = model.sensitivity(treatment="mail", benchmark="X", X=X, y=y, mail=mail, progress=False)
        >>> round(found.robustness_value(), 1)
        0.4
        """
        key = optional_key(rng_key)
        options = read_options(batch_size=batch_size, store="memory", progress=progress, client=client)
        options_given: dict[str, object] = {
            "effect": effect,
            "treatment": treatment,
            "outcome": outcome,
            "scale": scale,
        }
        options_given |= {"benchmark": tuple(benchmark) or None, "covariates": covariates}
        self._engine.signature.check_unambiguous(options_given, args or (), "sensitivity")
        posterior = self._fitted("sensitivity")
        check_outcome(outcome, self.param_output)
        table, source, call = self._open_observed(X, y, self._merged(kwargs, args), "sensitivity")
        spec = self._engine.read_spec(call)
        on = _read_scale(scale, spec, benchmark)
        columns = read_covariates(
            self._engine,
            spec,
            call,
            treatment=treatment,
            covariates=covariates,
            benchmark=benchmark,
            lookups=self._lookups(spec, call),
        )
        draws, unit = None if effect is None else _draws_of(effect, self.param_output, on, posterior.n_draws), 1.0
        if effect is not None and on == "difference":
            unit = _unit_of(effect, treatment)
        in_sample = True if X is None else None
        found = self._residual_sums(columns, call, source, table, in_sample=in_sample, key=key, options=options)
        about = (treatment, self.param_output, on, columns.names, found.sums.n, posterior.num_chains)
        if on == "ratio":
            ratio = draws if draws is not None else _check_draws(found.after / found.before, posterior.n_draws)
            return SensitivityResult(*about, ratio=ratio)
        draws = draws if draws is not None else _check_draws(found.after - found.before, posterior.n_draws)
        bias = partial_strengths(found.moments, found.sums, draws / unit, columns.benchmarks)
        return SensitivityResult(*about, unit=unit, strengths=bias)

    def _open_observed(
        self, X: Any, y: Any, given: dict[str, Any], method: str
    ) -> tuple[Any, InputSource, KernelArguments]:
        """Return the rows with their outcome as a table, as a source and as arguments; by default of the fit."""
        fitted, now = X is None, set(given)
        if fitted:
            rows = self._rows.require(method)
            X, y, given = rows.X, rows.y if y is None else y, {**rows.arguments, **given}
        table = open_chunked_table(X, self._engine.parameters) or X
        source, call = self._open_evidence(table, y, given)
        if fitted:
            self._rows.check_unchanged(self._observed, call.without(self.param_output), now)
        return table, source, call

    def _lookups(self, spec: KernelSpec, call: KernelArguments) -> dict[str, dict[int | None, int]]:
        """Return the largest index of each column of an argument that the kernel uses as an index."""
        plan = PassSpec(n_obs=call.n_obs, n_draws=1, static=call.static, row_plates=spec.row_plates)
        checks = self._engine.programs.index_checks(plan, call.without(self.param_output).arrays, {}, call.n_obs)
        found: dict[str, dict[int | None, int]] = {}
        for check in () if checks is None else checks.checks:
            for name, column in check.sources:
                if np.dtype(call.arrays[name].dtype).kind in "iu":
                    found.setdefault(name, {})[column] = max(check.last, found.get(name, {}).get(column, 0))
        return found

    def _residual_sums(
        self,
        columns: Covariates,
        call: KernelArguments,
        source: InputSource,
        table: Any,
        *,
        in_sample: bool | None,
        key: jax.Array | None,
        options: StreamingOptions,
    ) -> _Sums:
        """Compute sums of residuals and the average outcome at two values of the treatment, in one pass."""
        rows = ColumnRows(columns, call, self.param_output)
        if rows.from_batches:
            first = rows.first(source)
            source, binary = rows.observed(source), bool(np.isin(first[:, 0], (0, 1)).all())
            centers, weights = first.mean(axis=0), np.eye(first.shape[1] if columns.benchmarks else 0, first.shape[1]).T
        else:
            rows.read_all()
            rows.check()
            binary, centers, weights = rows.binary, rows.moments.mean[:-1], rows.weights()
        kernel = residual_kernel(
            self.kernel, output=self.param_output, columns=columns.all, centers=centers, weights=weights
        )
        name = columns.treatment.name
        after: dict[str, Intervention] = (
            {"before": {name: 0}, "after": {name: 1}} if binary else {"after": {name: add_one}}
        )
        scenarios = {OBSERVED: {}, **after}
        settings = {"condition": None, "in_sample": in_sample, "X": table, "kwargs": {}}
        tree = self._with_kernel(kernel)._compare(
            {scenario: {**settings, "intervention": value} for scenario, value in scenarios.items()},
            dict.fromkeys(scenarios, source),
            dict.fromkeys(scenarios, call),
            table,
            baseline=OBSERVED,
            by=None,
            weights=None,
            contrast="difference",
            kind="expected",
            nan_policy="propagate",
            return_sites=(EXPECTED, RESIDUALS),
            key=key,
            options=options,
        )
        rows.check()
        if rows.binary != binary:
            msg = (
                f"The values of `{name}` are 0 and 1 in the first batch, and others later, so the effect in question "
                "is not known. Pass it as `effect`."
            )
            raise ValueError(msg)
        averages = tree["scenarios"].to_dataset().stack(sample=("chain", "draw"))
        n_obs = int(tree["effect"].attrs["n_obs"])
        products = n_obs * averages[RESIDUALS].sel(scenario=OBSERVED).transpose("sample", ...).values
        sums = rows.residual_sums(products, centers)
        expected = {str(one): averages[EXPECTED].sel(scenario=one).values for one in scenarios}
        return _Sums(rows.moments, sums, expected.get("before", expected[OBSERVED]), expected["after"])


def check_outcome(outcome: Any, output: str) -> None:
    """Raise if the outcome is not the output of the kernel."""
    if outcome not in (None, output):
        msg = (
            f"`outcome` must be the output of the kernel, `{output}`, whose values are compared with the model's; got "
            f"{outcome!r}. Leave it out."
        )
        raise ValueError(msg)


def _read_scale(scale: Any, spec: KernelSpec, benchmark: Any) -> str:
    """Return the scale of the effect.

    Raises
    ------
    ValueError
        If the outcome needs a scale that is not named, or the scale does not fit the outcome or the benchmarks.
    """
    site = spec[outcome_site(spec.param_output, spec)]
    if scale not in (None, "difference", "ratio"):
        msg = f"`scale` must be 'difference' or 'ratio'; got {scale!r}. Leave it out for outcomes on the real line."
        raise ValueError(msg)
    if site.shape != ("n_obs",) or not site.has_mean:
        what = f"shape {site.shape}" if site.has_mean else f"the distribution {site.distribution}, without known mean"
        msg = (
            f"Sensitivity needs an outcome with one number and an expected value for each row; `{site.name}` has "
            f"{what}. Use a kernel of one number, such as a total."
        )
        raise ValueError(msg)
    if scale is None and site.distribution not in _REAL:
        msg = (
            f"`{site.name}` is {site.distribution}, not a real number with constant variance, so partial R² depends on "
            "a scale; none is named. Pass `scale='ratio'` for E-values of risks or rates, or `scale='difference'` for "
            "partial R² in a linear regression of the outcome as a number."
        )
        raise ValueError(msg)
    if scale == "ratio" and tuple(benchmark):
        msg = (
            f"`benchmark` compares partial R², which ratios do not have; got {benchmark!r} with `scale='ratio'`. Leave "
            "it out, or pass `scale='difference'`."
        )
        raise ValueError(msg)
    return str(scale or "difference")


def _draws_of(effect: Any, output: str, scale: str, n_draws: int) -> np.ndarray:
    """Return the draws of the effect in question.

    Raises
    ------
    TypeError, ValueError
        If it is no result of ``effect``, or not a single effect on the outcome, on this scale.
    """
    if not isinstance(effect, EffectResult):
        msg = f"`effect` must be a result of `model.effect(...)`; got {type(effect).__name__}. Leave it out."
        raise TypeError(msg)
    group = effect.tree["effect"].to_dataset()
    array = group.get(output)
    contrast = group.attrs.get("contrast")
    if array is None or array.size != array.sizes["chain"] * array.sizes["draw"] or contrast != scale:
        what = f"no effect on `{output}`" if array is None else f"a {contrast} of shape {dict(array.sizes)}"
        msg = (
            f"`effect` must be a single {scale} of `{output}`, over all rows; got {what}. Call "
            f"`model.effect(..., values=[0, 1], contrast={scale!r})` without `by`."
        )
        raise ValueError(msg)
    return _check_draws(array.transpose("chain", "draw", ...).values.ravel(), n_draws)


def _unit_of(effect: EffectResult, treatment: str) -> float:
    """Return by how many units an effect changes the treatment.

    Raises
    ------
    ValueError
        If it changes something else, or not by a known number.
    """
    attrs = effect.tree["effect"].attrs
    scenarios: dict[str, dict[str, Any]] = json.loads(attrs["interventions"])
    before = scenarios.pop(attrs["baseline"], {})
    after: dict[str, Any] = next(iter(scenarios.values()), {})
    if set(before) | set(after) == {treatment}:
        if not before and after[treatment] == f"callable {add_one.__name__}":
            return 1.0
        change: list[Any] = [one.get(treatment) for one in (after, before)]
        if all(isinstance(one, Real) for one in change) and change[0] != change[1]:
            return float(change[0]) - float(change[1])
    msg = (
        f"`effect` must change `{treatment}` alone, from one number to another; got {after} against {before}. Pass "
        f"`model.effect({treatment!r}, values=[0, 1])`, or leave `effect` out."
    )
    raise ValueError(msg)


def _check_draws(draws: np.ndarray, n_draws: int) -> np.ndarray:
    """Return the draws of an effect after a check of their number and values."""
    if len(draws) != n_draws or not np.isfinite(draws).all():
        what = f"{len(draws):,} draws" if len(draws) != n_draws else "draws that are NaN or infinite"
        msg = (
            f"The effect must have a finite value in each of the {n_draws:,} draws of the posterior; got {what}. "
            "Compute it with this model, for rows without NaN."
        )
        raise ValueError(msg)
    return draws
