"""Prediction requests of a model: checked, then computed."""

__all__ = ["RequestMethods"]

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax

from aimz.data import key_to_text
from aimz.engine import (
    Asked,
    Given,
    Order,
    Scenario,
    SharedResampling,
    StreamingOptions,
    check_alike,
    check_order,
    check_same_sites,
    check_sites,
    open_sources,
    read_given,
    read_pair,
    share_rows,
)
from aimz.kernel import Scored
from aimz.model.base import ModelBase
from aimz.model.execution import stream, stream_effect
from aimz.statistics import read_statistics
from aimz.types import Intervention, StatisticsLike

if TYPE_CHECKING:
    import xarray as xr

    from aimz.store import TemporaryDirectory


class RequestMethods(ModelBase):
    """Private methods that check and answer requests."""

    def _ask(
        self,
        X: Any,
        intervention: Intervention | None,
        kwargs: Mapping[str, Any],
        *,
        in_sample: bool = True,
        return_sites: str | Iterable[str] | None = None,
        alike: SharedResampling | None = None,
        quiet: bool = False,
        streaming: StreamingOptions | None = None,
        method: str = "predict",
        given: Given | None = None,
    ) -> Asked:
        """Check a prediction and decide how it is made; nothing is computed, and no key is used."""
        posterior = self._fitted(method if streaming else f"{method}_on_batch")
        if given is not None:
            pass  # read before
        elif streaming is None:
            given = Given(self._engine.read_call(X, kwargs))
        else:
            given = read_given(
                self._engine, X, kwargs, scored=False, expected=self._local_rows() if in_sample else None
            )
        known = self._observed if in_sample else None
        changed = frozenset[str]() if known is None else known.changed(given.call)
        has_other_index = known is not None and known.has_other_index(given.call)
        if has_other_index:
            changed |= {self.param_input}
        elif known is not None and not changed and given.reader is None and given.call.index is None:
            given = replace(given, call=replace(given.call, index=known.index))  # the rows are those of the fit
        prepare = partial(
            self._engine.prepare,
            posterior=posterior,
            params=self._fit.params,
            n_draws=posterior.n_draws,
            return_sites=return_sites,
            intervention=intervention,
            in_sample=in_sample,
            has_other_index=has_other_index,
            changed=changed,
            alike=alike,
        )
        prepared = prepare(given.call, quiet=quiet)
        self._results.check(prepared)
        check_order(given, prepared)
        group = "posterior_predictive" if in_sample else "predictions"
        return Asked(method, group, given, prepared, prepare, streaming)

    def _ask_alike(
        self,
        requests: Mapping[Any, dict[str, Any]],
        givens: Mapping[Any, Given],
        baseline: Any,
        return_sites: Any,
        options: StreamingOptions,
    ) -> dict[Any, Asked]:
        """Check scenarios to compare; what one of them draws anew all do, and what is to be said is said once."""

        def ask(name: Any, sites: Any, **more: Any) -> Asked:
            request = {**requests[name], "return_sites": sites, "streaming": options, "method": "compare_scenarios"}
            return self._ask(**request, given=givens[name], **more)

        sites = ask(baseline, return_sites, quiet=True).prepared.plan.return_sites
        alone = {name: ask(name, sites, quiet=True).prepared for name in requests}
        alike = SharedResampling.of([one.substitution for one in alone.values()], frozenset())
        asked = {name: ask(name, sites, quiet=True, alike=alike) for name in requests}
        said = set()
        for name, one in asked.items():
            check_alike(asked[baseline].prepared, one.prepared)
            about = (one.prepared.substitution, frozenset(requests[name]["intervention"] or ()))
            if about not in said:
                said.add(about)
                ask(name, sites, alike=alike)
        return asked

    def _effect_on_rows(self, sides: Sequence[Scenario], statistics: StatisticsLike) -> "xr.DataTree":
        """Return statistics over draws of what a scenario changes, computed in one pass over the rows."""
        requests, streaming = read_pair(sides)
        options = replace(streaming, statistics=read_statistics(statistics))
        self._fitted("estimate_effect")
        share_rows(requests, self.param_input)
        givens = open_sources(self._engine, requests, self._local_rows())

        def ask(name: str, **more: Any) -> Asked:
            return self._ask(**requests[name], given=givens[name], streaming=options, method="estimate_effect", **more)

        alone = {name: ask(name, quiet=True).prepared for name in requests}
        check_alike(alone["baseline"], alone["intervention"])
        alike = SharedResampling.of([one.substitution for one in alone.values()], frozenset())
        before, after = (ask(name, alike=alike) for name in ("baseline", "intervention"))
        check_same_sites(before.prepared, after.prepared)
        check_sites(before.prepared.plan.return_sites)
        given: Any = next((side.key for side in sides if side.key is not None), None)
        key = self._key(given, options)
        order = Order(after, key, key_to_text(key), self._beside, self._at_home, before)
        return stream_effect(self._engine, self._results, order)

    def _ask_scores(self, X: Any, y: Any, kwargs: Mapping[str, Any], options: StreamingOptions, method: str) -> Asked:
        """Check a call that scores the output, as :meth:`_ask` does one that draws it."""
        posterior = self._fitted(method)
        given = read_given(self._engine, X, kwargs, y=y, scored=True, expected=self._local_rows())
        site = self._engine.read_scored(given.call, one_by_one=method == "loo")
        # Other observations have other local latents; where no data were fitted, these are taken to be the ones.
        known = self._observed
        fitted = known is None or not (
            known.changed(given.call.without(self.param_output)) or known.has_other_index(given.call)
        )
        prepare = partial(
            self._engine.prepare,
            posterior=posterior,
            params=self._fit.params,
            n_draws=posterior.n_draws,
            return_sites=site,
            in_sample=fitted,
            scored=Scored.ALL if method == "loo" else Scored.NEW,
        )
        asked = Asked(method, "log_likelihood", given, prepare(given.call), prepare, options, scored=site)
        check_order(given, asked.prepared)
        return asked

    def _answer(self, asked: Asked, key: jax.Array | None) -> "xr.DataTree":
        """Compute what was asked; without a key where nothing is drawn."""
        prepared, output = asked.prepared, self.param_output
        observed = None
        if asked.scored is not None:
            observed = prepared.call.arrays[output]
        elif asked.group == "posterior_predictive" and self.param_input not in prepared.changed and self._observed:
            observed = self._observed.output
        if asked.given.reader is not None:
            observed = None  # it came by, and is gone
        described = None if key is None else key_to_text(key)
        if asked.streaming is None:
            assert key is not None
            arrays = self._engine.run("predictive", prepared, key)
            tree = self._results.tree
            return tree(asked.group, arrays, prepared, beside=self._beside(), key=described, observed=observed)

        def beside() -> "dict[str, xr.Dataset]":
            return {**self._beside(), **self._results.observed(prepared, observed)}

        return stream(self._engine, self._results, Order(asked, key, described, beside, self._at_home))

    def _at_home(self) -> "TemporaryDirectory":
        """Return the temporary directory, made now if there is none."""
        from aimz.store import TemporaryDirectory

        if self._home is None or self._home.closed:
            self._home = TemporaryDirectory()
        return self._home

    def _local_rows(self) -> int | None:
        """Return for how many rows the posterior has local latents, if it has any."""
        spec, posterior = self.kernel_spec, self._posterior
        if spec is None or posterior is None:
            return None
        return next(
            (posterior.draws[n].shape[1 + spec[n].row_axes[0]] for n in spec.local_sites if n in posterior.draws), None
        )

    def _beside(self) -> "dict[str, xr.Dataset]":
        """Return the groups that stand beside every result: the posterior and what the sampler says of it."""
        return {} if self._posterior is None else self._groups_of(self._posterior, self.kernel_spec)
