"""Private methods of a model that check calls, prepare them as requests, and execute requests."""

__all__ = ["RequestMethods"]

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax

import aimz
from aimz.data import KernelArguments, check_count, check_flag, key_to_text
from aimz.distributed import check_executable, choose_executor
from aimz.engine import (
    InputSource,
    PredictionRequest,
    PredictionSettings,
    PreparedCall,
    SharedResampling,
    StreamingOptions,
    check_known,
    check_linked,
    check_order,
    check_support,
    link_scenarios,
    open_source,
    plan_request,
    record_support,
    warn_about_missing,
    warn_about_new_rows,
    warn_about_substitution,
    with_identification,
    with_outcome,
    with_support,
)
from aimz.errors import SupportWarning, warn
from aimz.kernel import Scored
from aimz.methods.averages import sum_over_rows
from aimz.methods.base import ModelBase
from aimz.methods.execution import Execution, output_of
from aimz.methods.results import ScenarioSums
from aimz.statistics import Groups
from aimz.types import Intervention

if TYPE_CHECKING:
    import xarray as xr

    from aimz.store import TemporaryDirectory


_FORECAST = "inputs of later steps"
"""Reason that stands for all reasons why forecasts extrapolate, which differ between horizons."""


class RequestMethods(ModelBase):
    """Methods that prepare and execute requests."""

    def _prepare_prediction(
        self,
        X: Any,
        intervention: Intervention | None,
        kwargs: Mapping[str, Any],
        *,
        condition: Mapping[str, Any] | None = None,
        in_sample: bool | None = True,
        return_sites: str | Iterable[str] | None = None,
        options: StreamingOptions | None = None,
        method: str = "predict",
    ) -> PredictionRequest:
        """Check a prediction; nothing is computed and no key is used.  Without options it is one pass in memory."""
        self._fitted(method if options else f"{method}_on_batch")
        source, call = self._read_arguments(X, kwargs, options, in_sample=in_sample)
        call, settings = self._settings(
            source,
            call,
            intervention=intervention,
            condition=condition,
            in_sample=in_sample,
            return_sites=return_sites,
        )
        prepared = self._engine.prepare(call, settings)
        warn_about_substitution(prepared, self.kernel_spec)
        self._check_prepared(source, prepared)
        return self._request(method, source, {None: call}, {None: prepared}, options)

    def _prepare_prior(
        self,
        X: Any,
        intervention: Intervention | None,
        kwargs: Mapping[str, Any],
        *,
        num_samples: int,
        condition: Mapping[str, Any] | None,
        return_sites: str | Iterable[str] | None,
        options: StreamingOptions | None = None,
    ) -> PredictionRequest:
        """Check a prediction from the prior."""
        settings = PredictionSettings(
            n_draws=check_count(num_samples, "num_samples"),
            params=self._fit.params,
            return_sites=return_sites,
            intervention=intervention,
            condition=condition,
        )
        method = "sample_prior_predictive"
        source, call = self._read_arguments(X, kwargs, options, in_sample=False)
        prepared = self._engine.prepare(call, settings)
        self._results.check(prepared)
        request = self._request(method, source, {None: call}, {None: prepared}, options)
        return replace(request, group="prior_predictive")

    def _prepare_scores(
        self, X: Any, y: Any, kwargs: Mapping[str, Any], options: StreamingOptions, method: str
    ) -> PredictionRequest:
        """Check a call that scores the output."""
        posterior = self._fitted(method)
        self._engine, X, y = with_outcome(self._engine, X, y)  # of a snapshot of the model
        source = open_source(self._engine, X, kwargs, self._local_rows())
        call = source.arguments(self._engine, kwargs, y, scored=True)
        check_known(call, self._engine.parameters.categories)
        site = self._engine.read_scored(call, one_by_one=method == "loo")
        if not call.rows[self.param_output].is_lazy:  # else while rows are read
            self._engine.check_output(call, self._engine.read_spec(call), allow_nan=method != "loo")
        # Other observations have other local latents; without data of a fit, these count as the fitted observations.
        known = self._observed
        fitted = known is None or not (known.changed(call.without(self.param_output)) or known.has_other_index(call))
        settings = PredictionSettings(
            n_draws=posterior.n_draws,
            params=posterior.params,
            posterior=posterior,
            return_sites=site,
            in_sample=fitted,
            scored=Scored.ALL if method == "loo" else Scored.NEW,
        )
        prepared = self._engine.prepare(call, settings)
        warn_about_substitution(prepared, self.kernel_spec)
        check_order(source, prepared)
        request = self._request(method, source, {None: call}, {None: prepared}, options)
        return replace(request, group="log_likelihood", scored=site)

    def _prepare_scenarios(
        self,
        scenarios: Mapping[Any, Mapping[str, Any]],
        sources: Mapping[Any, InputSource],
        calls: Mapping[Any, KernelArguments],
        *,
        resampled: frozenset[str] = frozenset(),
        kind: str | None = None,
        with_result: bool = False,
    ) -> tuple[dict[Any, KernelArguments], dict[Any, PreparedCall]]:
        """Prepare scenarios so that a site resampled in any scenario is resampled in all; warn once about each.

        ``resampled`` are sites that a stored result to compare with records as resampled, and ``kind`` is whether
        drawn sites have their expected value.
        """
        fitted = self._shared_rows(scenarios, sources, calls, with_result=with_result)
        given: dict[Any, KernelArguments] = {}
        prepared: dict[Any, PreparedCall] = {}
        for name, arguments in scenarios.items():
            options = {key: arguments[key] for key in ("intervention", "condition", "in_sample", "return_sites")}
            given[name], settings = self._settings(sources[name], calls[name], fitted=fitted, **options)
            settings = replace(settings, kind=kind)
            prepared[name] = self._engine.prepare(given[name], settings)
        shared = SharedResampling.of(prepared.values(), resampled)
        warned = set()
        for name, alone in list(prepared.items()):
            one = alone
            if SharedResampling.of([alone]) != shared:
                one = prepared[name] = self._engine.prepare(given[name], replace(alone.settings, shared=shared))
            self._check_prepared(sources[name], one)
            about = one.substitution, one.intervened_arguments
            if about not in warned:
                warned.add(about)
                warn_about_substitution(one, self.kernel_spec)
        return given, link_scenarios(self._engine, prepared, given)

    def _read_arguments(
        self, X: Any, kwargs: Mapping[str, Any], options: StreamingOptions | None, *, in_sample: bool | None
    ) -> tuple[InputSource, KernelArguments]:
        """Return the source of the rows and the checked arguments of a prediction."""
        if options is None:
            return InputSource(), self._engine.read_call(X, kwargs)
        source = open_source(self._engine, X, kwargs, None if in_sample is False else self._local_rows())
        return source, source.arguments(self._engine, kwargs, scored=False)

    def _settings(
        self,
        source: InputSource,
        call: KernelArguments,
        *,
        intervention: Intervention | None,
        condition: Mapping[str, Any] | None,
        in_sample: bool | None,
        return_sites: str | Iterable[str] | None,
        fitted: bool | None = None,
    ) -> tuple[KernelArguments, PredictionSettings]:
        """Return the settings of a prediction, and its arguments with the fit's row labels if they are its rows.

        ``fitted`` is whether they are, if ``in_sample`` is None; by default it is found by comparing data.
        """
        named_new = in_sample is not None and not check_flag(in_sample, "in_sample")
        if in_sample is None:
            in_sample = self._has_fitted_rows(source, call) if fitted is None else fitted
        posterior = self._posterior
        assert posterior is not None
        check_known(call, self._engine.parameters.categories)
        known = self._observed if in_sample else None
        changed = frozenset[str]() if known is None else known.changed(call)
        has_other_index = known is not None and known.has_other_index(call)
        if has_other_index:
            changed |= {self.param_input}
        elif known is not None and not changed and source.reader is None and call.index is None:
            call = replace(call, index=known.index)
        settings = PredictionSettings(
            n_draws=posterior.n_draws,
            params=posterior.params,
            posterior=posterior,
            return_sites=return_sites,
            intervention=intervention,
            condition=condition,
            in_sample=in_sample,
            named_new=named_new,
            changed=changed,
            has_other_index=has_other_index,
        )
        return call, settings

    def _has_fitted_rows(self, source: InputSource, call: KernelArguments) -> bool:
        """Return whether the rows of a call are the fitted ones; without data of a fit, as many rows are."""
        n_obs = call.n_obs if source.n_obs_known else None
        if self._observed is not None:
            return self._observed.has_rows_of(call, n_obs)
        return n_obs is None or self._local_rows() in (None, n_obs)

    def _shared_rows(
        self,
        scenarios: Mapping[Any, Mapping[str, Any]],
        sources: Mapping[Any, InputSource],
        calls: Mapping[Any, KernelArguments],
        *,
        with_result: bool,
    ) -> bool | None:
        """Return whether scenarios have the fitted rows: all have if one of them has; None if each of them is explicit.

        ``with_result`` is whether they are compared with a result, whose rows are assumed to be the fitted ones if
        their number is the same.
        """
        given = [arguments["in_sample"] for arguments in scenarios.values()]
        if None not in given:
            return None
        if with_result:
            local = self._local_rows()
            return all(local in (None, call.n_obs) for call in calls.values())
        return any(given) or any(self._has_fitted_rows(sources[name], call) for name, call in calls.items())

    def _check_prepared(self, source: InputSource, prepared: PreparedCall) -> None:
        """Check the user's labels and the order of rows against a prepared call."""
        self._results.check(prepared)
        check_order(source, prepared)

    def _request(
        self,
        method: str,
        source: InputSource,
        calls: Mapping[Any, KernelArguments],
        prepared: Mapping[Any, PreparedCall],
        options: StreamingOptions | None,
        groups: Groups | None = None,
    ) -> PredictionRequest:
        """Return the request of a prediction, after warnings about NaN and about new rows that depend on others."""
        check_linked(prepared.values())
        warn_about_missing(prepared.values())
        n_obs = next(iter(prepared.values())).call.n_obs if source.n_obs_known else None
        warn_about_new_rows(self._engine, prepared.values(), n_obs)
        prepared = with_identification(self._engine, self._graph, calls, self._check_support(calls, prepared, groups))
        named_new = any(one.settings.named_new for one in prepared.values())
        return PredictionRequest(
            method=method,
            group="predictions" if named_new else "posterior_predictive",
            scenarios=prepared,
            arguments=calls,
            source=source,
            options=options or StreamingOptions(),
            groups=groups,
        )

    def _check_support(
        self, calls: Mapping[Any, KernelArguments], prepared: Mapping[Any, PreparedCall], groups: Groups | None
    ) -> dict[Any, PreparedCall]:
        """Return calls with the verdict on their rows in their attributes; warn once about each reason."""
        first = next(iter(prepared.values())).settings
        if first.posterior is None or first.scored is not None:
            return dict(prepared)
        support = first.posterior.support
        reports = [check_support(support, one, calls[name], groups) for name, one in prepared.items()]
        found = [one.reasons for one in reports if one.verdict == "extrapolates"]
        is_plain_forecast = first.follows_fit and not first.intervention
        self._warn_about_support((reason for own in found for reason in own), is_plain_forecast=is_plain_forecast)
        return with_support(prepared, reports)

    def _warn_about_support(self, reasons: Iterable[str], *, is_plain_forecast: bool = False) -> None:
        """Warn about each reason why an answer extrapolates that has not been named before; once about forecasts."""
        warned = self._shared.warned
        new = [reason for reason in dict.fromkeys(reasons) if reason not in warned]
        if not new or (is_plain_forecast and _FORECAST in warned):
            return
        warned.update([_FORECAST] if is_plain_forecast else new)
        meaning = (
            "There it assumes that the fitted relation goes on, as any forecast from inputs with a trend does; "
            "intervals do not contain the error if it does not. Compare the later inputs with the fitted ones, or use "
            "changes of the inputs instead of levels."
            if is_plain_forecast
            else "There it rests on the form of the kernel, not on data. Ask about values that occur, or see "
            "`model.support(...)` for the rows."
        )
        what = "forecast" if is_plain_forecast else "answer"
        warn(f"The {what} extrapolates: {'; '.join(new)}. {meaning}", SupportWarning)

    def _execute(self, request: PredictionRequest, key: jax.Array | None) -> "xr.DataTree":
        """Stream a request and return its result; ``key`` is None if nothing is drawn."""
        options = request.options
        check_executable(request)
        planned, runner = plan_request(self._engine, replace(request, key=key))
        auxiliary = self._auxiliary_groups()
        if len(request.scenarios) == 1:
            auxiliary |= self._results.observed(request.first, self._observed_output(request))
        home = self._temporary_directory() if options.store == "persistent" and options.output_dir is None else None
        executor = choose_executor(self._engine, planned, runner, output_of(planned, runner))
        tree = Execution(self._results, planned, runner, executor).run(auxiliary, home)
        self._warn_about_support(record_support(planned, runner.support))
        return tree

    def _execute_on_batch(self, request: PredictionRequest, key: jax.Array) -> "xr.DataTree":
        """Compute a request in one pass in memory and return its result."""
        prepared = request.first
        arrays = self._engine.run("predictive", prepared, key)
        auxiliary, observed = self._auxiliary_groups(), self._observed_output(request)
        return self._results.tree(
            request.group, arrays, prepared, auxiliary=auxiliary, key=key_to_text(key), observed=observed
        )

    def _sum_over_rows(self, request: PredictionRequest) -> ScenarioSums:
        """Compute the sums over rows of a comparison."""
        check_executable(request)
        planned, runner = plan_request(self._engine, request)
        sums = sum_over_rows(self._engine, planned, runner)
        self._warn_about_support(record_support(request, runner.support))
        return sums

    def _observed_output(self, request: PredictionRequest) -> Any:
        """Return the output's data that belong to a result; None if there are none in memory."""
        if request.source.reader is not None:  # the data were streamed and are no longer in memory
            return None
        if request.scored is not None or request.first.settings.with_output:
            return request.first.call.arrays[self.param_output]
        settings = request.first.settings
        same_rows = settings.in_sample and self.param_input not in settings.changed
        if request.group == "posterior_predictive" and same_rows and self._observed is not None:
            return self._observed.output
        return None

    def _temporary_directory(self) -> "TemporaryDirectory":
        """Return the temporary directory of the model, created if there is none."""
        with self._shared.lock:
            if self._shared.home is None or self._shared.home.closed:
                self._shared.home = aimz.store.TemporaryDirectory()
            return self._shared.home

    def _local_rows(self) -> int | None:
        """Return the number of rows of the local latents in the posterior; None without local latents."""
        spec, posterior = self.kernel_spec, self._posterior
        if spec is None or posterior is None:
            return None
        axes = {name: spec[name].row_axes[0] for name in spec.local_sites if name in posterior.draws}
        # A site may have another number of values than rows, such as one more.
        return next((posterior.draws[n].shape[1 + i] for n, i in axes.items() if spec[n].shape[i] == "n_obs"), None)

    def _auxiliary_groups(self) -> "dict[str, xr.Dataset]":
        """Return the groups of every result next to its own: posterior and sampler statistics."""
        return {} if self._posterior is None else self._groups_of(self._posterior, self.kernel_spec)
