"""Methods of ``ImpactModel`` that estimate effects and compare scenarios."""

__all__ = ["EffectMethods"]

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

import jax

import aimz
from aimz.data import open_chunked_table
from aimz.distributed import collective_call
from aimz.engine import (
    PredictionRequest,
    Scenario,
    check_columns,
    check_inputs,
    check_nan_policy,
    check_return_sites,
    check_same_rows,
    check_same_sites,
    open_arguments,
    read_kind,
    read_options,
    read_pair,
    read_scenario,
    read_scenarios,
    share_labels,
    share_rows,
)
from aimz.methods.base import on_snapshot, optional_key
from aimz.methods.comparing import ComparingMethods
from aimz.methods.evidence import read_given
from aimz.statistics import read_statistics
from aimz.types import EffectKind, StatisticsLike

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

    from aimz.output import Contrast


class EffectMethods(ComparingMethods):
    """Effects of interventions."""

    @overload
    def estimate_effect(
        self, output_baseline: dict[str, Any], output_intervention: dict[str, Any]
    ) -> dict[str, jax.Array]: ...

    @overload
    def estimate_effect(
        self,
        output_baseline: "xr.DataTree | None" = None,
        output_intervention: "xr.DataTree | None" = None,
        args_baseline: Mapping[str, Any] | None = None,
        args_intervention: Mapping[str, Any] | None = None,
        *,
        on_batch: bool = False,
        statistics: StatisticsLike | None = None,
        kind: EffectKind | None = None,
    ) -> "xr.DataTree": ...

    @collective_call
    @on_snapshot
    def estimate_effect(
        self,
        output_baseline: "xr.DataTree | dict[str, Any] | None" = None,
        output_intervention: "xr.DataTree | dict[str, Any] | None" = None,
        args_baseline: Mapping[str, Any] | None = None,
        args_intervention: Mapping[str, Any] | None = None,
        *,
        on_batch: bool = False,
        statistics: StatisticsLike | None = None,
        kind: EffectKind | None = None,
    ) -> "xr.DataTree | dict[str, jax.Array]":
        """Return the effect of an intervention: intervention minus baseline, for each draw and row.

        Each scenario is a tree, or a mapping of keyword arguments with which :meth:`predict` is called. Scenarios that
        are predicted here share their key, so they have common noise and the difference is the effect alone. For
        results on disk, the difference is computed lazily.

        Parameters
        ----------
        output_baseline, output_intervention : xarray.DataTree or dict of str to jax.Array, optional
            Results of a predictive method, from the posterior or from the prior. Dictionaries
            (``return_datatree=False``) must be given for both; they do not record their keys, so pass the same
            ``rng_key`` to both calls.
        args_baseline, args_intervention : mapping, optional
            Keyword arguments of :meth:`predict`, including the input; of :meth:`predict_on_batch` if ``on_batch``.
        on_batch : bool
            Whether to predict in one pass in memory.
        statistics : optional
            Statistics over the draws of the effect to return instead of its draws; see "Streaming" in
            :class:`ImpactModel`. Requires ``args_baseline`` and ``args_intervention``, which are then computed together
            in one pass over the rows. ``args_intervention`` determines where and how the result is stored.
        kind : {"expected", "outcome"}, optional
            Values that statistics of an effect refer to, as in :meth:`compare_scenarios`; "expected" by default.
            Without ``statistics``, effects are differences of drawn outcomes.

        Returns
        -------
        xarray.DataTree or dict of str to jax.Array
            Differences, in the group that both scenarios share, with all sampling dimensions, or with ``statistic`` in
            place of these. Of stored scenarios, the attributes ``artifact_path_baseline`` and
            ``artifact_path_intervention`` name the directories. A dictionary of arrays if dictionaries were given.

        Raises
        ------
        TypeError
            If a scenario is passed twice, or is missing.
        ValueError
            If the scenarios differ in draws or rows, or have no variable in common.

        Warns
        -----
        OutputWarning
            If the trees were computed with different keys, so that they do not have common noise, or if a site was
            resampled in one tree and kept its posterior draws in the other.
        """
        kind = read_kind(kind, of_draws=statistics is None)
        before, after = output_baseline, output_intervention
        if isinstance(before, dict) and isinstance(after, dict) and statistics is None:
            return aimz.output.difference_of_arrays(before, after)
        read = partial(read_scenario, signature=self._engine.signature, on_batch=on_batch)
        sides = [
            read("baseline", before, args_baseline, other=after),
            read("intervention", after, args_intervention, other=before),
        ]
        if statistics is not None:
            return self._effect_on_rows(sides, statistics, kind)
        # Both sides are checked before one is computed or a key is split.
        check_inputs(side.arguments["X"] for side in sides if side.arguments is not None)
        requests = self._prepare_sides(sides)
        common: Any = next((side.key for side in sides if side.key is not None), None)
        trees = []
        with self._key(common) if requests else nullcontext(common) as common:
            for i, side in enumerate(sides):
                key = common if side.key is None else side.key
                if side.arguments is None:
                    trees.append(side.tree)
                elif side.arguments["options"] is None:
                    trees.append(self._execute_on_batch(requests[i], key))
                else:
                    trees.append(self._execute(requests[i], key))
            return aimz.output.difference(*trees)

    def _prepare_sides(self, sides: Sequence[Scenario]) -> dict[int, PredictionRequest]:
        """Return the requests of the sides of an effect that are given by arguments, by number."""
        scenarios, sources, calls = {}, {}, {}
        for i, side in enumerate(sides):
            if side.arguments is not None:
                one = scenarios[i] = side.arguments
                self._fitted("predict" if one["options"] else "predict_on_batch")
                sources[i], calls[i] = self._read_arguments(
                    one["X"], one["kwargs"], one["options"], in_sample=one["in_sample"]
                )
                settings = {name: one[name] for name in ("intervention", "condition", "in_sample", "return_sites")}
                calls[i], _ = self._settings(sources[i], calls[i], **settings)
        check_same_rows(calls.values(), (one["in_sample"] for one in scenarios.values()))
        check_columns(calls.values())
        resampled = frozenset().union(*(side.resampled for side in sides))
        calls, prepared = self._prepare_scenarios(
            scenarios, sources, share_labels(calls), resampled=resampled, with_result=len(scenarios) < len(sides)
        )
        return {
            i: self._request("predict", sources[i], {None: calls[i]}, {None: prepared[i]}, scenarios[i]["options"])
            for i in scenarios
        }

    def _effect_on_rows(self, sides: Sequence[Scenario], statistics: StatisticsLike, kind: EffectKind) -> "xr.DataTree":
        """Return statistics over draws of an effect, row by row, computed in one pass."""
        scenarios, options = read_pair(sides)
        options = replace(options, statistics=read_statistics(statistics))
        self._fitted("estimate_effect")
        share_rows(scenarios, self._engine.parameters)
        sources, calls = open_arguments(self._engine, scenarios, self._local_rows())
        check_same_rows(calls.values(), (one["in_sample"] for one in scenarios.values()))
        calls, prepared = self._prepare_scenarios(scenarios, sources, calls, kind=kind)
        check_same_sites(prepared["baseline"], prepared["intervention"])
        check_return_sites(prepared["baseline"].plan.return_sites)
        request = self._request("estimate_effect", sources["baseline"], calls, prepared, options)
        given: Any = next((side.key for side in sides if side.key is not None), None)
        with self._key(given, request) as key:
            return self._execute(replace(request, baseline="baseline"), key)

    @collective_call
    @on_snapshot
    def compare_scenarios(
        self,
        scenarios: Mapping[Any, Mapping[str, Any]],
        *,
        baseline: Any,
        by: Any = None,
        weights: Any = None,
        contrast: "Contrast" = "difference",
        kind: EffectKind | None = None,
        given: Any = None,
        coupling: Literal["monotone"] | None = None,
        nan_policy: Literal["propagate", "omit"] = "propagate",
        return_sites: str | Iterable[str] | None = None,
        rng_key: jax.Array | None = None,
        batch_size: int | None = None,
        progress: bool = True,
        client: "Client | Literal[False] | None" = None,
        X: Any = None,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> "xr.DataTree":
        """Compare averages over rows under several scenarios, in one pass over the data.

        No draw of any row is stored. The result has one number for each draw, scenario and group, so memory does not
        grow with the number of rows. All scenarios have common noise. Averages are computed for each draw first, and
        contrasts of averages second, so every effect has its own draws, and effects can be added, subtracted and
        compared draw by draw.

        Parameters
        ----------
        scenarios : mapping of name to mapping
            Keyword arguments of :meth:`predict` for each scenario: ``intervention``, ``X``, ``in_sample`` or further
            arguments of the kernel. Scenarios that differ only in the values of arrays are computed together.
        baseline : name
            Scenario that the others are compared with.
        by : array_like of shape (n_obs,) or (n_obs, n_times, ...), str, list of str, or mapping, optional
            Group labels of the rows. A mapping of names to labels gives one dimension for each name. A string is the
            name of a column of the data frame ``X``, or of an argument of the kernel with one value for each row.
            Labels may also vary within a row, along further axes of the output, such as times: pass an array with these
            axes after the first, or an ``xarray.DataArray``, whose dimensions are matched by name. Averages are then
            over rows and these axes.
        weights : array_like of shape (n_obs,) or (n_obs, n_times, ...), or str, optional
            Weights of the rows in the averages, or of each entry of the output, as in ``by``; a string names a column
            or an argument. With weights of 1 for treated rows and 0 for others, effects are average effects on the
            treated.
        contrast : {"difference", "ratio", "lift"} or callable
            Definition of an effect: scenario - baseline, scenario / baseline, scenario / baseline - 1, or a function
            ``(scenario, baseline)`` of averages, which are arrays with dimensions ``(chain, draw, ...)``.
        kind : {"expected", "outcome"}, optional
            Values of the output, and of other observed sites, to average. "expected", the default, averages the
            expected value of each row, the mean of its distribution given the posterior draw (and given the draws of
            local latents), so intervals contain uncertainty about parameters only. "outcome" averages drawn outcomes,
            so intervals also contain the noise of as many outcomes as there are rows. Distributions without a known
            mean are drawn.
        given : array_like of shape (n_obs, ...) or "observed", optional
            Output that was observed for these rows; "observed" is the output of the last fit. Averages are then over
            the counterfactual outcomes of the observed rows, as in :meth:`counterfactual`: each row keeps its own
            noise. Scenarios may then differ in ``intervention`` only.
        coupling : {"monotone"}, optional
            As in :meth:`counterfactual`, for discrete sites; only with ``given``.
        nan_policy : {"propagate", "omit"}
            Treatment of rows with NaN in an argument, in any of the scenarios. By default they are averaged like the
            others, so that an average is NaN if the kernel does not replace them. "omit" leaves them out of all
            averages: ``rows`` and ``weight`` of the group ``groups`` count the remaining rows, and the attribute
            ``rows_omitted`` has the number of omitted rows.
        return_sites : str or iterable of str, optional
            As in :meth:`predict`.
        rng_key : jax.Array, optional
            Key for this call.
        batch_size : int, optional
            Maximum number of rows that are computed together, rounded up to whole blocks. The numbers do not depend on
            it.
        progress : bool
            Whether to show a progress bar.
        client : distributed.Client, optional
            Dask cluster; see "Streaming" in :class:`ImpactModel`.
        X, args, **kwargs
            Arguments that all scenarios share, as in :meth:`predict`. Arguments of a scenario take precedence.

        Returns
        -------
        xarray.DataTree
            Groups ``scenarios`` (averages, with dimensions ``(chain, draw, scenario, <groups>, ...)``), ``effect``
            (contrasts of all scenarios but the baseline) and ``groups`` (``rows`` and ``weight`` of each group; if
            labels or weights vary within a row, ``rows`` counts entries of the output, and its attribute
            ``averaged_over`` names their dimensions). With
            ``by``, the groups ``scenarios_overall`` and ``effect_overall`` contain the averages over all rows; with
            several sets of labels, ``scenarios_by_<name>`` and ``effect_by_<name>`` those for each set alone.
            :func:`aimz.summary` turns the result into a table, :func:`aimz.in_words` into sentences.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        TypeError, ValueError
            If scenarios are not compatible. Nothing has then been computed.

        Warns
        -----
        OutputWarning
            If a ratio has a baseline of 0, or one whose sign is uncertain.

        Examples
        --------
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from jax import random
        >>> from numpyro.infer import MCMC, NUTS
        >>> import aimz
        >>> def kernel(X, dose, y=None):
        ...     slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        ...     with numpyro.plate("obs", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(X + slope * dose, 1.0), obs=y)
        >>> model = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=10, num_samples=10))
        >>> _ = model.set_posterior_sample({"slope": np.linspace(1.9, 2.1, 500)})
        >>> X, dose = np.linspace(0.0, 1.0, 200), np.ones(200)
        >>> found = model.compare_scenarios(
        ...     {"none": {"intervention": {"dose": 0.0}}, "full": {"intervention": {"dose": 1.0}}},
        ...     baseline="none",
        ...     by=np.where(X < 0.5, "low", "high"),
        ...     X=X,
        ...     dose=dose,
        ...     progress=False,
        ... )
        >>> found["effect"]["y"].mean(("chain", "draw")).sel(scenario="full", group="low").round(6).item()
        2.0
        """
        key, contrast = optional_key(rng_key), aimz.output.read_contrast(contrast)
        check_nan_policy(nan_policy)
        options = read_options(batch_size=batch_size, store="memory", progress=progress, client=client)
        shared = {**kwargs, **({} if X is None else {self.param_input: X})}
        policy = None if nan_policy == "propagate" else nan_policy
        self._engine.signature.check_unambiguous(
            {"by": by, "weights": weights, "kind": kind, "given": given, "coupling": coupling, "nan_policy": policy},
            args or (),
        )
        evidence = read_given(given, coupling, kind)
        kind = read_kind(kind)
        requested = read_scenarios(scenarios, baseline, shared, args, self._engine.signature)
        table = open_chunked_table(requested[baseline]["X"], self._engine.parameters) or requested[baseline]["X"]
        self._fitted("compare_scenarios")
        check_return_sites(return_sites)
        return self._compare(
            requested,
            *self._open_scenarios(requested, evidence, shared),
            table,
            baseline=baseline,
            by=by,
            weights=weights,
            contrast=contrast,
            kind=kind,
            nan_policy=nan_policy,
            return_sites=return_sites,
            key=key,
            options=options,
            evidence=evidence,
        )
