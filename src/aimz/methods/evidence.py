"""Private methods of a model that prepare scenarios whose noise is inferred from observed rows."""

__all__ = ["Evidence", "EvidenceMethods", "check_coupling", "read_given"]

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aimz.data import KernelArguments
from aimz.engine import (
    InputSource,
    PreparedCall,
    check_outcome_kept,
    link_factual,
    link_scenarios,
    open_source,
    warn_about_priors,
    warn_about_substitution,
    with_outcome,
)
from aimz.methods.requests import RequestMethods


@dataclass(frozen=True)
class Evidence:
    """The observed output, and the coupling of discrete sites."""

    output: Any
    coupling: str | None


def check_coupling(coupling: Any) -> str | None:
    """Return the coupling of discrete sites.

    Raises
    ------
    ValueError
        If it is unknown.
    """
    if coupling in (None, "monotone"):
        return None if coupling is None else "monotone"
    msg = f"`coupling` must be 'monotone' or None; got {coupling!r}. Omit it unless a discrete site needs it."
    raise ValueError(msg)


def read_given(given: Any, coupling: Any, kind: Any) -> Evidence | None:
    """Return the evidence of a comparison; None if it is about rows in general.

    Raises
    ------
    ValueError
        If a coupling is passed without evidence, or expected values are asked for.
    """
    coupling = check_coupling(coupling)
    if given is None and coupling is not None:
        msg = "`coupling` needs observed outcomes; got none. Pass them as `given`, or omit `coupling`."
        raise ValueError(msg)
    if given is not None and kind == "expected":
        msg = (
            "With `given`, each row has its own noise, so its outcome is computed, not its expected value; got "
            "`kind='expected'`. Omit `kind`, or compare rows in general without `given`."
        )
        raise ValueError(msg)
    return None if given is None else Evidence(given, coupling)


class EvidenceMethods(RequestMethods):
    """Methods that prepare counterfactuals."""

    def _open_evidence(self, X: Any, y: Any, kwargs: Mapping[str, Any]) -> tuple[InputSource, KernelArguments]:
        """Return the source of observed rows, and their arguments with the output."""
        self._engine, X, y = with_outcome(self._engine, X, y)  # of a snapshot of the model
        source = open_source(self._engine, X, kwargs, self._local_rows())
        call = source.arguments(self._engine, kwargs, y, scored=True)
        self._engine.read_scored(call)
        if not call.rows[self.param_output].is_lazy:  # else while rows are read
            self._engine.check_output(call, self._engine.read_spec(call), allow_nan=True)
        return source, call

    def _open_given(
        self, requested: Mapping[Any, Mapping[str, Any]], evidence: Evidence, shared: Mapping[str, Any]
    ) -> tuple[dict[Any, InputSource], dict[Any, KernelArguments]]:
        """Return the source and the arguments of scenarios for the observed rows, which all scenarios share.

        Raises
        ------
        TypeError, ValueError
            If a scenario has arguments of its own, or the output of the fit is not in memory.
        """
        output = evidence.output
        if isinstance(output, str):
            fitted = self._observed
            if output != "observed" or fitted is None or fitted.output is None:
                why = "the output of a fit is not in memory" if output == "observed" else f"got {output!r}"
                msg = f"`given` must be the observed output, or 'observed' after a fit; {why}. Pass the array `y`."
                raise ValueError(msg)
            output = fitted.output
        for name, one in requested.items():
            own = [key for key, value in one["kwargs"].items() if shared.get(key) is not value]
            own += ["X"] if one["X"] is not shared.get(self.param_input) else []
            own += [key for key in ("condition", "in_sample") if one[key] is not shared.get(key)]
            if own:
                msg = (
                    f"With `given`, all scenarios are about the same observed rows, but scenario {name!r} sets "
                    f"`{own[0]}`. Set it with `intervention` if it is what would have been different, else pass it to "
                    "`compare_scenarios` itself."
                )
                raise ValueError(msg)
        source, call = self._open_evidence(
            shared[self.param_input], output, dict(next(iter(requested.values()))["kwargs"])
        )
        return dict.fromkeys(requested, source), dict.fromkeys(requested, call)

    def _counterfactuals(
        self,
        source: InputSource,
        options: Mapping[str, Any],
        scenarios: Mapping[Any, Mapping[str, Any]],
        evidence: Evidence,
        *,
        with_effects: bool = False,
    ) -> Callable[[Mapping[Any, KernelArguments]], dict[Any, PreparedCall]]:
        """Return a function that prepares scenarios with the noise of observed rows, given their arguments.

        ``options`` are ``condition``, ``in_sample`` and ``return_sites``, which all scenarios share.
        """
        output = self.param_output
        for one in scenarios.values():
            check_outcome_kept(one["intervention"], output)

        def prepare(calls: Mapping[Any, KernelArguments]) -> dict[Any, PreparedCall]:
            call = next(iter(calls.values()))
            shared = {key: options[key] for key in ("condition", "in_sample", "return_sites")}
            labelled, settings = self._settings(source, call.without(output), intervention=None, **shared)
            call, known = replace(call, index=labelled.index), self._observed
            other = settings.in_sample and known is not None and known.is_other_output(call, output)
            # Local latents have been inferred from the output of the fit.
            settings = replace(
                settings,
                with_output=True,
                kind="counterfactual",
                has_other_index=settings.has_other_index or other,
            )
            factual = self._engine.prepare(call, settings)
            prepared = {}
            for name, one in scenarios.items():
                alone = self._engine.prepare(call, replace(settings, intervention=one["intervention"]))
                prepared[name] = link_factual(factual, alone, evidence.coupling, with_effects=with_effects)
                self._check_prepared(source, prepared[name])
                assert settings.posterior is not None
                warn_about_priors(alone, settings.posterior)
            warn_about_substitution(factual, self.kernel_spec)
            return link_scenarios(self._engine, prepared, calls)

        return prepare
