"""Methods of ``ImpactModel`` that compare observed rows with their predictions in one pass."""

__all__ = ["CheckedRows", "PredictiveCheckMethods"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

import aimz
from aimz.data import KernelArguments
from aimz.distributed import check_executable, choose_executor
from aimz.engine import (
    InputSource,
    KernelEngine,
    OutputSpec,
    Panel,
    PredictionRequest,
    PredictionSettings,
    PreparedCall,
    RunOptions,
    StepRunner,
    link_scored,
    open_source,
    output_variables,
    plan_request,
    read_groups_of,
    read_options,
    warn_about_substitution,
    with_outcome,
)
from aimz.errors import KernelValidationError
from aimz.forward import DENSITY, OBSERVED_VALUE
from aimz.kernel import Scored
from aimz.methods.requests import RequestMethods
from aimz.statistics import Groups, PredictiveChecks

_KEPT_ROWS = 2000
"""Number of rows whose values are kept for statistics of whole data sets."""
_PROBE_ROWS = 64
_LOO_DRAWS = 100
"""Least number of draws for weights that leave out a row."""


@dataclass(frozen=True)
class CheckedRows:
    """Comparison of rows with their predictions, and what it was computed from."""

    checks: PredictiveChecks
    groups: Groups
    data_statistics: Mapping[str, Callable[[np.ndarray], Any]]
    """Statistics of the user that are computed from whole data sets."""
    n_obs: int
    in_sample: bool
    why_not_loo: str
    """Reason why predictions of rows do not leave them out; empty if they do."""


class PredictiveCheckMethods(RequestMethods):
    """Private methods that compare data with predictions while rows are streamed."""

    def _compare_rows(
        self,
        X: Any,
        y: Any,
        kwargs: Mapping[str, Any],
        *,
        by: Any,
        statistics: Mapping[str, Callable[[np.ndarray], Any]],
        in_sample: bool | None,
        key: jax.Array,
        client: Any = None,
    ) -> CheckedRows:
        """Return the comparison of observed rows with their predictions, computed in one pass."""
        self._engine, X, y = with_outcome(self._engine, X, y)  # of a snapshot of the model
        source = open_source(self._engine, X, kwargs, None if in_sample is False else self._local_rows())
        call = source.arguments(self._engine, kwargs, y, scored=True)
        groups = read_groups_of(by, None, X, call, source, Panel(self.param_output))
        by_value, of_data = _split_statistics(statistics, _first_values(source, call, self.param_output))
        if of_data and not source.n_obs_known:
            msg = (
                f"Statistics of whole data sets need a known number of rows, and this iterable has none; got "
                f"{next(iter(of_data))!r}. Return a number for each value, which is averaged over the rows."
            )
            raise ValueError(msg)
        prepare = self._preparation(source, in_sample=in_sample)
        prepared, why_not = prepare(call)
        options = read_options(store="memory", progress=False, client=client)
        request = self._request("check", source, {None: call}, {None: prepared}, options)
        request = replace(request, key=key, prepare_again=lambda calls: {None: prepare(calls[None])[0]})
        check_executable(request)
        request, runner = plan_request(self._engine, request)
        kept = np.unique(np.linspace(0, call.n_obs - 1, min(_KEPT_ROWS, call.n_obs)).astype(np.int64))
        site = prepared.spec[self.param_output]
        checks = PredictiveChecks(
            n_draws=prepared.settings.n_draws,
            n_groups=groups.n_cells,
            r_eff=None if why_not else self._relative_ess(),
            has_probabilities=str(site.distribution).startswith("Bernoulli") and not prepared.spec.row_factors,
            row_statistics=by_value,
            kept=kept if of_data else kept[:0],
        )
        n_obs = _run(self._engine, request, runner, checks, groups.codes)
        return CheckedRows(checks, groups, of_data, n_obs, prepared.settings.in_sample, why_not)

    def _preparation(
        self, source: InputSource, *, in_sample: bool | None
    ) -> Callable[[KernelArguments], tuple[PreparedCall, str]]:
        """Return a function that prepares predictions of rows with the log densities of their data.

        It also returns the reason why predictions do not leave out the row, which is empty if they do.
        """
        output = self.param_output

        def prepare(call: KernelArguments) -> tuple[PreparedCall, str]:
            spec = self._engine.read_fit(call)
            if not call.rows[output].is_lazy:  # else while rows are read
                self._engine.check_output(call, spec, allow_nan=True)
            other = self._observed is not None and self._observed.is_other_output(call, output)
            labelled, settings = self._settings(
                source,
                call.without(output),
                intervention=None,
                condition=None,
                in_sample=False if other else in_sample,
                return_sites=output,
            )
            settings = replace(settings, named_new=False)
            prediction = self._engine.prepare(labelled, settings)
            warn_about_substitution(prediction, self.kernel_spec)
            self._check_prepared(source, prediction)
            site, why_not = None, ""
            try:
                site = self._engine.read_scored(call, one_by_one=True)
            except KernelValidationError as error:
                why_not = str(error)
            if not settings.in_sample:
                why_not = "the rows are not the rows of the fit"
            elif settings.n_draws < _LOO_DRAWS:
                why_not = f"there are fewer than {_LOO_DRAWS} draws"
            scored = self._engine.prepare(replace(call, index=labelled.index), _scores(settings, site))
            return link_scored(prediction, scored, site), why_not

        return prepare

    def _relative_ess(self) -> float:
        """Return the relative effective sample size of the posterior; 1 if ArviZ is not installed."""
        try:
            return aimz.output.relative_ess(self._auxiliary_groups()["posterior"])
        except ImportError:
            return 1.0


def _scores(settings: PredictionSettings, site: str | None) -> PredictionSettings:
    """Return the settings of the pass that scores the data."""
    if site is None:
        return replace(settings, with_output=True)
    return replace(settings, return_sites=site, scored=Scored.ALL)


def _first_values(source: InputSource, call: KernelArguments, output: str) -> np.ndarray:
    """Return the output of the first rows."""
    if source.reader is not None and call.rows[output].from_batches:
        return np.asarray((source.reader.first or {})[output][:_PROBE_ROWS])
    return np.asarray(call.rows[output].read(0, min(call.n_obs, _PROBE_ROWS)))


def _split_statistics(
    given: Mapping[str, Callable[[np.ndarray], Any]], values: np.ndarray
) -> tuple[dict[str, Callable[[np.ndarray], Any]], dict[str, Callable[[np.ndarray], Any]]]:
    """Return the statistics that have a number for each value, and those that have one for a data set.

    Raises
    ------
    TypeError, ValueError
        If they are not functions by name, or return neither.
    """
    if not isinstance(given, Mapping) or not all(isinstance(n, str) and callable(f) for n, f in given.items()):
        msg = (
            f"`statistics` must map names to functions of the values; got {given!r}. Pass, for example, "
            "`{'zeros': lambda y: y == 0}`."
        )
        raise TypeError(msg)
    by_value, of_data = {}, {}
    for name, function in given.items():
        found, flat = np.asarray(function(values)), values.reshape(-1)
        if found.ndim == 0 and found.dtype.kind in "biuf":
            of_data[name] = function
            continue
        half = flat.size // 2
        same = found.shape == values.shape and found.dtype.kind in "biuf"
        if same and half:
            parts = np.concatenate([np.asarray(function(flat[:half])), np.asarray(function(flat[half:]))])
            same = np.array_equal(parts, found.reshape(-1), equal_nan=True)
        if not same:
            msg = (
                f"`statistics[{name!r}]` must return one number for a data set, or a number for each value, which "
                f"depends on no other value; got shape {found.shape} of {found.dtype} for {values.shape} values. "
                "Return a mean, or a comparison such as `y == 0`."
            )
            raise ValueError(msg)
        by_value[name] = function
    return by_value, of_data


def _run(
    engine: KernelEngine,
    request: PredictionRequest,
    runner: StepRunner,
    checks: PredictiveChecks,
    codes: np.ndarray | None,
) -> int:
    """Compute a planned comparison and return the number of rows."""
    prepared, by_draws = request.first, runner.plan.axis == "draw"
    output, axes = prepared.spec.param_output, prepared.plan.row_axes
    names = [
        output,
        OBSERVED_VALUE + output,
        *([DENSITY + output] if DENSITY + output in prepared.plan.outputs else []),
    ]
    store = aimz.store.CheckAccumulator(
        checks=checks,
        names=tuple(names),
        row_axes=tuple(axes[name] for name in names),
        may_be_missing=output in prepared.plan.discrete_sources,
        codes=codes,
    )
    spec = OutputSpec(dict(zip(names, names, strict=True)), {n: 0 if by_draws else 1 + axes[n] for n in names})
    executor = choose_executor(engine, request, runner, spec)
    if not by_draws:
        return executor.run(store, RunOptions())
    dims = dict.fromkeys(names, ())
    with aimz.store.TemporaryFileStore() as spill:
        spill.open(aimz.store.Group(output_variables(prepared, spec.names, runner.plan, runner.step, dims, None)))
        executor.run(spill, RunOptions())
        n_obs, each = prepared.call.n_obs, max(1, 2**22 // runner.plan.n_draws)
        for start in range(0, n_obs, each):
            for name, axis in zip(names, store.row_axes, strict=True):
                draws = spill.read(name)
                draws = draws.reshape(-1, *draws.shape[2:])
                store.write(name, draws[(slice(None),) * (1 + axis) + (slice(start, start + each),)], start)
    return n_obs
