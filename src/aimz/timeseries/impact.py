"""Method of ``ImpactModel`` that estimates the effect of an event."""

__all__ = ["ImpactMethods"]

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

import aimz
from aimz.distributed import collective_call
from aimz.engine import PredictionRequest, StreamingOptions, read_options, with_outcome
from aimz.errors import PerformanceWarning, SupportWarning
from aimz.inference import make_refit
from aimz.kernel import name_settings
from aimz.methods import EffectMethod, on_snapshot, optional_key
from aimz.timeseries.design import Design, read_design
from aimz.timeseries.periods import name_of
from aimz.timeseries.placebos import placebo_designs
from aimz.timeseries.refits import RefitMethods
from aimz.timeseries.steps import without_steps
from aimz.types import Intervention

if TYPE_CHECKING:
    import xarray as xr

    from aimz.statistics import Groups


class ImpactMethods(RefitMethods, EffectMethod):
    """The effect of an event on later periods."""

    @collective_call
    def estimate_impact(
        self,
        X: Any,
        y: Any = None,
        *,
        start: Any,
        end: Any = None,
        period: Any = None,
        by: Any = None,
        unit: Any = None,
        treated: Any = None,
        aggregate: Literal["sum", "mean"] = "sum",
        baseline: Intervention | None = None,
        placebo: Literal["time", "space"] | None = None,
        placebos: Sequence[Any] | None = None,
        fit_options: Mapping[str, Any] | None = None,
        rng_key: jax.Array | None = None,
        batch_size: int | None = None,
        progress: bool = True,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> "xr.DataTree":
        """Estimate the effect of an event: the observed outcome minus a prediction without the event.

        The model is fitted to the rows before the event. From then on it predicts the output as it would have been,
        from series that the event did not affect, and the difference to the observed output is the effect. Effects are
        computed in each draw and summed within the draw, so that intervals of totals contain the dependence between
        periods. The observed values are compared with two predictions, the readings of the result:

        - ``"outcome"``: outcomes that would have been seen, with their noise.
        - ``"mean"``: expected values of these outcomes, given the parameters and states of the draw, so that intervals
          do not contain the noise of single outcomes.

        Parameters
        ----------
        X : array_like or table
            Input of all periods, before and after the start of the event, with one or several rows for each period.
            Columns that ``period``, ``by`` or ``unit`` name are not part of the input if they are not numbers. In wide
            form a row is a series, and time is the second axis: ``(n_series, n_steps, ...)``.
        y : array_like of shape (n_obs,) or (n_series, n_steps), or str, optional
            Output of all periods, or the name of its column.
        start, end : label
            First and last period of the event, such as ``"2024-06-01"``; without ``end`` it lasts until the last one.
            Later rows are not used.
        period : array_like of shape (n_obs,) or (n_steps,), or str, optional
            Period of each row, or in wide form of each step, in any order: numbers, dates or texts; the name of a
            column or an argument; by default the labels of ``X`` along this axis.
        by : array_like, str, list of str, or mapping, optional
            Labels of groups of rows, such as series, as in :meth:`compare_scenarios`; in wide form one for each series.
        unit : array_like of shape (n_obs,) or str, optional
            Unit of each row, such as a state or a shop.
        treated : label, list of labels, or array_like of bool, optional
            Units to which the event happened; all by default. The model is also fitted to the later rows of the
            others, and the result has the effects on the treated units. In wide form ``unit`` has the name of each
            series, by default its row label. The model is then fitted to the steps until the end of the event, in which
            the output of treated series is NaN, so the kernel must mask missing outcomes:
            ``numpyro.sample("y", dist.Normal(...).mask(~jnp.isnan(y)).to_event(1), obs=jnp.nan_to_num(y))``.
        aggregate : {"sum", "mean"}
            Whether rows of the same period and group are added or averaged.
        baseline : mapping, optional
            Intervention that describes the absence of the event in its periods, such as ``{"campaign": 0}``; see
            :meth:`predict`. Arguments are otherwise as observed. In wide form with ``treated``, it must be about
            arguments with a value for each step.
        placebo : {"time", "space"}, optional
            Estimate effects of events that did not happen, each with a new fit: "time", of events that start and end
            before the event; "space", of the event in units where it did not happen, without the treated units (in wide
            form, without their outcomes in the event). These units are the others of ``unit``, or the columns of ``X``,
            each predicted from the other columns.
        placebos : list of labels, optional
            Starts of the placebo events in time, or their units. By default earlier events are as long as the event
            and do not overlap, and at least half of the periods before the event remain before each; in space, all
            units.
        fit_options : mapping, optional
            Options of :meth:`fit`, for a model that has not been fitted. A fitted model is used as it is; it must have
            been fitted to the rows before the event, and to all rows of units without it, in the order of their
            periods.
        rng_key : jax.Array, optional
            Key for the predictions.
        batch_size, progress
            As in :meth:`compare_scenarios`.
        args, **kwargs
            Further arguments of the kernel, for the rows of ``X``.

        Returns
        -------
        xarray.DataTree
            Group ``effect`` with dimensions ``(chain, draw, reading, quantity, <groups>)``: "average" per period,
            "cumulative" over all periods, and "relative", the total divided by the total without the event, minus 1.
            Groups ``pointwise`` (of all periods) and ``cumulative`` (from the start on) with the dimension of the
            periods; ``counterfactual``, ``observed_data`` and ``groups``. With ``by``, groups whose names end with
            ``_overall`` are about all rows. With ``placebo``, the group ``placebo`` has the average effect of each
            placebo event, and its error before it. :func:`aimz.summary` and :func:`aimz.in_words` accept it, and
            :func:`aimz.plots.plot_impact` draws it.

        Raises
        ------
        TypeError, ValueError
            If ``start`` or ``end`` is not one of the periods, no row is before or after the start, the output is NaN
            during the event, or the model was fitted to other rows.

        Warns
        -----
        OutputWarning
            If the output without the event is not above zero in total, so that there is no relative effect.

        Examples
        --------
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from jax import random
        >>> from numpyro.infer import MCMC, NUTS
        >>> import aimz
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        ...     with numpyro.plate("week", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)
        >>> model = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=10, num_samples=10))
        >>> _ = model.set_posterior_sample({"b": np.linspace(1.9, 2.1, 500)})
        >>> week = np.arange(20)
        >>> sales = 2.0 + 3.0 * (week >= 15)
        >>> found = model.estimate_impact(np.ones(20), sales, period=week, start=15, progress=False)
        >>> found["effect"]["y"].sel(reading="mean", quantity="cumulative").mean().round(3).item()
        15.0
        """
        key = optional_key(rng_key)
        options = read_options(batch_size=batch_size, store="memory", progress=progress)
        asked = {"start": start, "end": end, "period": period, "by": by, "unit": unit, "treated": treated}
        given = {**asked, "placebo": placebo, "placebos": placebos, "baseline": baseline, "fit_options": fit_options}
        given["aggregate"] = None if aggregate == "sum" else aggregate
        self._engine.signature.check_unambiguous(given, args or (), "estimate_impact")
        design = self._read_design(X, y, self._merged(kwargs, args), asked)
        design.check(average=_check_aggregate(aggregate) == "mean")
        others = self._read_placebos(design, placebo, placebos)
        if self.is_fitted():
            self._check_fitted_before(design)
        else:
            self._fit_before(design, fit_options, progress=progress)
        with self._key(key) as key:
            found = self._impact_of(design, aggregate, baseline, key, options)
            if not others:
                return found
            refit, effects = make_refit(self._fit), {}
            for i, (label, other) in enumerate(others.items()):
                rows = other.known(other.fitted)
                model = self._refitted(refit, rows, jax.random.fold_in(key, i), fit_options)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", SupportWarning)  # issued for the event itself
                    effects[label] = model._impact_of(other, aggregate, None, key, options)
        return aimz.output.with_placebos(found, effects, str(placebo))

    def _read_design(self, X: Any, y: Any, arguments: Mapping[str, Any], asked: Mapping[str, Any]) -> Design:
        """Return the design of a call."""
        engine = self._engine.copy() if self.is_fitted() else self._engine.for_fit(restart=True)
        return read_design(engine, X, y, arguments, method="estimate_impact", **asked)

    def _read_placebos(self, design: Design, kind: Any, labels: Any) -> dict[Any, Design]:
        """Return the designs of placebo events; none without ``kind``."""
        if kind is None:
            if labels is not None:
                msg = f"`placebos` needs `placebo='time'` or 'space'; got {labels!r} without it. Pass both."
                raise ValueError(msg)
            return {}
        found = placebo_designs(design, self._engine, kind, labels)
        for other in found.values():
            other.check(average=False)
        return found

    def _fit_before(self, design: Design, options: Mapping[str, Any] | None, *, progress: bool) -> None:
        """Fit the model to the rows before the event, and to the rows of units without it."""
        rows = design.known(design.fitted)
        try:
            self.fit(rows.X, rows.y, args=rows.arguments, **{"progress": progress, **(options or {})})
        except ValueError as error:
            if design.has_donors:
                error.add_note(_MASKED)
            raise

    def _check_fitted_before(self, design: Design) -> None:
        """Raise if the model was not fitted to exactly the rows before the event; draws set by the user are accepted.

        Raises
        ------
        ValueError
            If the fitted rows are others, for instance rows of the event.
        """
        fitted = self._observed
        if fitted is None:
            return
        rows = design.known(design.fitted)
        engine, X, y = with_outcome(self._engine, rows.X, rows.y)
        engine = without_steps(engine) if rows.axis else engine
        name = fitted.first_difference(engine.read_call(X, rows.arguments, output=y))
        if name is None:
            return
        noun = rows.noun
        n_fitted = None if fitted.output is None else np.shape(fitted.output)[rows.axis]
        has = f"other {noun}" if n_fitted is None else f"{n_fitted:,} {noun}"
        if n_fitted is not None and n_fitted > rows.n_times:
            has += ", among them some of the event"
        which = "before the event" if design.treated.all() else "before the event and to all rows of units without it"
        if design.has_donors:
            which = "until the end of the event, with NaN as the outcomes of treated series in it"
        msg = (
            f"The model must be fitted to the {rows.n_times:,} {noun} {which}, in the order of their "
            f"periods, and to no others; its fit has {has} (`{name}` differs). Pass a model that has not been fitted, "
            "which `estimate_impact` fits, or fit one to these rows."
        )
        raise ValueError(msg)

    @on_snapshot
    def _impact_of(
        self,
        design: Design,
        aggregate: str,
        baseline: Intervention | None,
        key: jax.Array,
        options: StreamingOptions,
    ) -> "xr.DataTree":
        """Return the effect of the event from the posterior."""
        posterior = self._fitted("estimate_impact")
        sums = self._sum_fitted(design, baseline, key, options)
        if not design.has_donors:
            sums = sums + self._sum_without_event(design, baseline, key, options)
        observed, n_rows = design.observed_sums()
        periods, event = design.periods, design.event
        return aimz.output.impact_tree(
            aimz.output.ImpactSums(
                site=self.param_output,
                observed=observed,
                counterfactual=sums.reshape(posterior.num_chains, -1, 2, *design.shape),
                rows=n_rows,
                periods=periods.labels[: event.stop],
                period_dim=periods.name,
                first=event.first,
                labels=design.labels,
                attrs={
                    "period_dim": periods.name,
                    "event_start": name_of(periods.labels[event.first]),
                    "event_end": name_of(periods.labels[event.stop - 1]),
                    "n_periods_before": event.first,
                    "n_periods": event.stop - event.first,
                    "n_rows_fitted": design.n_fitted,
                    "n_rows_event": design.values(design.held).size,
                    "aggregate": aggregate,
                    **({"without": name_settings(baseline)} if baseline else {}),
                },
            )
        )

    def _sum_fitted(
        self, design: Design, act: Intervention | None, key: jax.Array, options: StreamingOptions
    ) -> np.ndarray:
        """Return sums over the fitted rows of each period and group: ``(n_draws, 2, n_cells)``, outcomes and means."""
        rows = design.rows.take(design.fitted)
        source, call = self._read_arguments(rows.X, rows.arguments, options, in_sample=True)
        changed = design.without_event(act, self.param_input) if act and design.has_donors else None
        call, settings = self._settings(
            source, call, intervention=changed, condition=None, in_sample=True, return_sites=(self.param_output,)
        )
        prepared = self._engine.prepare(call, settings)
        self._check_prepared(source, prepared)
        request = self._request("estimate_impact", source, {None: call}, {None: prepared}, options)
        return self._sum_readings(request, design.groups(design.fitted), key, options)

    def _sum_without_event(
        self, design: Design, act: Intervention | None, key: jax.Array, options: StreamingOptions
    ) -> np.ndarray:
        """Return sums over the rows of the event, predicted without it, of each period and group."""
        rows, fitted = design.rows.take(design.held), design.rows.take(design.fitted)
        request = self._prepare_forecast(
            rows.X,
            rows.arguments,
            options,
            history=fitted.history(self.param_input, self.param_output),
            intervention=act,
            return_sites=(self.param_output,),
            axis=design.rows.axis,
        )
        return self._sum_readings(request, design.groups(design.held), key, options)

    def _sum_readings(
        self, request: PredictionRequest, groups: "Groups", key: jax.Array, options: StreamingOptions
    ) -> np.ndarray:
        """Return sums of outcomes and of their expected values, with the same states, over the rows of each cell."""
        outcome, call = request.first, request.arguments[None]
        expected = self._engine.prepare(call, replace(outcome.settings, kind="expected"))
        scenarios, site = {"outcome": outcome, "mean": expected}, self.param_output
        steps = (1 - outcome.spec[site].row_axes[0],) if groups.panel else ()
        request = replace(
            request,
            method="estimate_impact",
            scenarios=scenarios,
            arguments=dict.fromkeys(scenarios, call),
            options=options,
            baseline="outcome",
            groups=groups,
            panel_axes={site: steps} if steps else {},
            key=key,
        )
        with warnings.catch_warnings():
            # Rows are periods, which depend on one another in a kernel of a series.
            warnings.simplefilter("ignore", PerformanceWarning)
            sums: np.ndarray = self._sum_over_rows(request).sums[site]
        return sums


_MASKED = (
    "In the event, the outcomes of treated series are NaN in the fit of `estimate_impact`, and known for other series. "
    'Mask them in the kernel: `numpyro.sample("y", fn.mask(~jnp.isnan(y)).to_event(1), obs=jnp.nan_to_num(y))`.'
)


def _check_aggregate(aggregate: Any) -> str:
    """Return how the rows of a period are combined, checked."""
    if aggregate not in ("sum", "mean"):
        msg = f"`aggregate` must be 'sum' or 'mean'; got {aggregate!r}. Omit it for the sum over the rows of a period."
        raise ValueError(msg)
    return str(aggregate)
