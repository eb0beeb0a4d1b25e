"""Checks that the noise of sites can be inferred from the observed values, before any work."""

__all__ = ["check_abduction", "check_outcome_kept", "have_same_shape"]

from collections.abc import Iterable

from aimz.engine.prepared_call import PreparedCall
from aimz.kernel import Abduction, KernelSpec, ValueSource, quote_list

_NOT_OBSERVED = (
    *(ValueSource.PRIOR, ValueSource.PRIOR_MISSING, ValueSource.RESAMPLED_NEW_ROWS, ValueSource.POSTERIOR_GROWN),
    *(ValueSource.DRAWN, ValueSource.SUMMED),
)


def check_outcome_kept(intervention: object, output: str) -> None:
    """Raise if an intervention sets the outcome, whose counterfactual values would be the values set."""
    names = {output, f"{output}_observed", f"{output}_unobserved"}
    hit = sorted(map(str, names.intersection(intervention))) if isinstance(intervention, Iterable) else []
    if hit:
        msg = (
            f"A counterfactual of `{output}` cannot intervene on `{hit[0]}`, the outcome itself: every row would have "
            "the value that is set. Intervene on a cause of it, or predict with `intervention`."
        )
        raise ValueError(msg)


def check_abduction(factual: PreparedCall, counterfactual: PreparedCall, coupling: str | None) -> None:
    """Raise if the noise of a site that descends from the intervention cannot be inferred from the factual call."""
    spec = factual.spec
    abducted = counterfactual.substitution.by_source[ValueSource.ABDUCTED]
    _check_families(spec, counterfactual.spec, abducted)
    discrete = [name for name in abducted if spec[name].abduction == Abduction.MONOTONE]
    if discrete and coupling is None:
        msg = (
            f"Site(s) {quote_list(discrete)} are discrete: what was observed determines their noise only up to an "
            'interval, and how a unit would have responded is an assumption. Pass `coupling="monotone"` to assume that '
            "a unit that exceeds others under one scenario exceeds them under every scenario; or compare rows in "
            "general with `compare_scenarios`."
        )
        raise ValueError(msg)
    needed = spec.ancestors({*abducted, *counterfactual.plan.return_sites})
    _check_observed(factual, needed)
    output = spec.param_output
    read = [site for site in spec.sites if site.name in needed and output in site.arguments]
    uses = [site.name for site in read if site.is_sample or site.name != output]
    if uses:
        msg = (
            f"Site(s) {quote_list(uses)} are computed from the data of `{output}`, which would stay as observed in "
            f"the counterfactual world. Pass the earlier values of `{output}` as another argument, or write them as "
            "sites of the kernel."
        )
        raise ValueError(msg)


def _check_families(spec: KernelSpec, other: KernelSpec, names: Iterable[str]) -> None:
    """Raise if a site has a distribution whose noise cannot be inferred, or is inside a `scan`."""
    inside = [name for name in names if spec[name].in_control_flow]
    if inside:
        msg = (
            f"Site(s) {quote_list(inside)} descend from the intervention and are inside a `scan` or `cond`, where "
            "their noise cannot be inferred. Write the steps as separate sites (a Python loop over few steps), or "
            "compare rows in general with `compare_scenarios`."
        )
        raise ValueError(msg)
    unknown = [f"`{name}` ({spec[name].distribution})" for name in names if spec[name].abduction is None]
    if unknown:
        msg = (
            f"The noise of site(s) {', '.join(unknown)} cannot be inferred from their values: the distribution has "
            "neither a closed form nor a distribution function of one variable. Write the site as a deterministic "
            "function of a site whose noise can be inferred (`model.describe()` lists them), or compare rows in "
            "general with `compare_scenarios`."
        )
        raise ValueError(msg)
    changed = [name for name in names if spec[name].distribution != other[name].distribution]
    if changed:
        name = changed[0]
        msg = (
            f"Site `{name}` has distribution {spec[name].distribution} as observed and {other[name].distribution} "
            "under the intervention, so they have no noise in common. Use one family in both, or compare rows in "
            "general with `compare_scenarios`."
        )
        raise ValueError(msg)


def _check_observed(factual: PreparedCall, needed: frozenset[str]) -> None:
    """Raise if a site has neither data nor posterior draws of these rows."""
    spec, sources = factual.spec, dict(factual.substitution.sources)
    for name, source in sources.items():
        site = spec[name]
        without_data = source is ValueSource.DATA and not site.data
        if name not in needed or not site.is_sample or not (without_data or source in _NOT_OBSERVED):
            continue
        why = "no data are given" if without_data else str(source)
        msg = (
            f"The noise of these rows cannot be inferred: site `{name}` has neither data nor posterior draws of them "
            f"({why}). Pass the fitted rows with the fitted output, or data of `{name}` (its argument, or "
            f"`condition={{'{name}': ...}}`); or fit by a method whose posterior contains it."
        )
        raise ValueError(msg)


def have_same_shape(counterfactual: PreparedCall, name: str) -> bool:
    """Return whether the parameters of a site other than location and scale are the same in both worlds."""
    spec, substitution = counterfactual.spec, counterfactual.substitution
    changed = counterfactual.intervened_arguments | counterfactual.plan.transforms.keys()
    changed |= {*substitution.by_source[ValueSource.INTERVENED], *counterfactual.acts.taken}
    is_static = bool(counterfactual.intervened_arguments & counterfactual.plan.static.keys())
    return not is_static and spec[name].shape_parents.isdisjoint(changed | spec.descendants(changed))
