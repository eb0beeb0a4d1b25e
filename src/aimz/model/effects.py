"""Methods of ``ImpactModel`` that estimate effects and compare scenarios."""

__all__ = ["EffectMethods"]

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax

from aimz.data import key_to_text, open_chunked_table
from aimz.distributed import collective_call
from aimz.engine import (
    ScenarioRequest,
    SharedResampling,
    check_alike,
    check_columns,
    check_inputs,
    check_sites,
    open_sources,
    read_groups_of,
    read_requests,
    read_scenario,
    read_streaming,
    share_labels,
    share_rows,
)
from aimz.model.averages import compare
from aimz.model.base import optional_key
from aimz.model.requests import RequestMethods
from aimz.types import StatisticsLike

if TYPE_CHECKING:
    import xarray as xr

    from aimz.output import Contrast
    from distributed import Client


class EffectMethods(RequestMethods):
    """Effects of interventions."""

    @collective_call
    def estimate_effect(
        self,
        output_baseline: "xr.DataTree | None" = None,
        output_intervention: "xr.DataTree | None" = None,
        args_baseline: Mapping[str, Any] | None = None,
        args_intervention: Mapping[str, Any] | None = None,
        *,
        on_batch: bool = False,
        statistics: StatisticsLike | None = None,
    ) -> "xr.DataTree":
        """Return the effect of an intervention: intervention minus baseline, for each draw and row.

        Each scenario is a tree, or a mapping of keyword arguments with which :meth:`predict` is called. Scenarios that
        are predicted here share their key, so they have common noise and the difference is the effect alone. For
        results on disk, the difference is computed lazily.

        Parameters
        ----------
        output_baseline, output_intervention : xarray.DataTree, optional
            Results of a predictive method.
        args_baseline, args_intervention : mapping, optional
            Keyword arguments of :meth:`predict`, including the input; of :meth:`predict_on_batch` if ``on_batch``.
        on_batch : bool
            Whether to predict in one pass in memory.
        statistics : optional
            Statistics over the draws of the effect to return instead of its draws; see "Streaming" in
            :class:`ImpactModel`. Requires ``args_baseline`` and ``args_intervention``, which are then computed together
            in one pass over the rows. ``args_intervention`` determines where and how the result is stored.

        Returns
        -------
        xarray.DataTree
            Differences, in the group that both scenarios share, with all sampling dimensions, or with ``statistic`` in
            place of these.

        Raises
        ------
        TypeError
            If a scenario is passed twice, or is missing.
        ValueError
            If the scenarios differ in draws or rows, or have no variable in common.

        Warns
        -----
        UserWarning
            If the trees were computed with different keys, so that they do not have common noise, or if a site was
            resampled in one tree and kept its posterior draws in the other.
        """
        from aimz.output import difference

        before, after = output_baseline, output_intervention
        read = partial(read_scenario, param_input=self.param_input, on_batch=on_batch)
        sides = [
            read("baseline", before, args_baseline, beside=after),
            read("intervention", after, args_intervention, beside=before),
        ]
        if statistics is not None:
            return self._effect_on_rows(sides, statistics)
        # Both scenarios are checked before either is computed or a key is split. A site that is resampled in one is
        # resampled in both: otherwise the difference would be between fitted rows and new ones.
        check_inputs(side.request["X"] for side in sides if side.request is not None)
        alone = [None if side.request is None else self._ask(**side.request, quiet=True) for side in sides]
        check_alike(*(None if asked is None else asked.prepared for asked in alone))
        check_columns(asked.given.call for asked in alone if asked is not None)
        givens = share_labels({i: asked.given for i, asked in enumerate(alone) if asked is not None})
        alike = SharedResampling.of(
            [asked.prepared.substitution for asked in alone if asked is not None], sides[0].anew | sides[1].anew
        )
        # An iterable can be read only once, so the second check uses the inputs opened by the first.
        ready = [
            None if side.request is None else self._ask(**side.request, alike=alike, given=givens[i])
            for i, side in enumerate(sides)
        ]
        common: Any = next((side.key for side in sides if side.key is not None), None)
        if common is None and any(side.request is not None for side in sides):
            common = self._key(None)
        trees = [
            side.tree if asked is None else self._answer(asked, common if side.key is None else side.key)
            for side, asked in zip(sides, ready, strict=True)
        ]
        return difference(*trees)

    @collective_call
    def compare_scenarios(
        self,
        scenarios: Mapping[Any, Mapping[str, Any]],
        *,
        baseline: Any,
        by: Any = None,
        weights: Any = None,
        contrast: "Contrast" = "difference",
        return_sites: str | Iterable[str] | None = None,
        rng_key: jax.Array | None = None,
        batch_size: int | None = None,
        progress: bool = True,
        client: "Client | Literal[False] | None" = None,
        X: Any = None,
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
        by : array_like of shape (n_obs,), str, list of str, or mapping, optional
            Group labels of the rows. A mapping of names to labels gives one dimension for each name. A string is the
            name of a column of the data frame ``X``, or of an argument of the kernel with one value for each row.
        weights : array_like of shape (n_obs,), or str, optional
            Weights of the rows in the averages; a string names a column or an argument, as in ``by``. With weights of 1
            for treated rows and 0 for others, effects are average effects on the treated.
        contrast : {"difference", "ratio", "lift"} or callable
            Definition of an effect: scenario - baseline, scenario / baseline, scenario / baseline - 1, or a function
            ``(scenario, baseline)`` of averages, which are arrays with dimensions ``(chain, draw, ...)``.
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
        X, **kwargs
            Arguments that all scenarios share. Arguments of a scenario take precedence.

        Returns
        -------
        xarray.DataTree
            Groups ``scenarios`` (averages, with dimensions ``(chain, draw, scenario, <groups>, ...)``), ``effect``
            (contrasts of all scenarios but the baseline) and ``groups`` (``rows`` and ``weight`` of each group). With
            ``by``, the groups ``scenarios_overall`` and ``effect_overall`` contain the averages over all rows.
            :func:`aimz.summary` turns the result into a table, :func:`aimz.in_words` into sentences.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        TypeError, ValueError
            If scenarios are not compatible. Nothing has then been computed.

        Warns
        -----
        UserWarning
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
        from aimz.output import check_by, check_contrast, read_contrast

        key, contrast = optional_key(rng_key), read_contrast(contrast)
        options = read_streaming("obs", batch_size, "memory", None, None, progress, client=client)
        shared = {**kwargs, **({} if X is None else {self.param_input: X})}
        self._engine.signature.check_apart({"by": by, "weights": weights})
        requests = read_requests(scenarios, baseline, shared, self.param_input)
        table = open_chunked_table(requests[baseline]["X"], self._engine.parameters) or requests[baseline]["X"]
        self._fitted("compare_scenarios")
        check_sites(return_sites)
        share_rows(requests, self.param_input)
        givens = open_sources(self._engine, requests, self._local_rows())
        groups = read_groups_of(by, weights, table, givens[baseline])

        asked = self._ask_alike(requests, givens, baseline, return_sites, options)
        prepared = {name: one.prepared for name, one in asked.items()}
        dims = self._results.dims_beside_rows(prepared[baseline])
        check_by(groups.labels, dims)
        check_contrast(contrast, dims, groups.labels)
        given = givens[baseline]
        comparison = ScenarioRequest(
            prepared=prepared,
            baseline=baseline,
            groups=groups,
            reader=given.reader,
            n_obs=given.call.n_obs if given.n_obs_known else None,
            batch_size=options.batch_size,
            progress=options.progress,
            client=options.client,
            given=givens,
            prepare={name: one.prepare for name, one in asked.items()},
        )
        key = self._key(key)
        compared = compare(self._engine, comparison, key)
        return self._results.averages(compared, comparison, contrast, key_to_text(key))
