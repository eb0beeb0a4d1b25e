"""Warnings about a prepared call: local latents, priors, parameters and control flow."""

__all__ = [
    "check_control_flow",
    "warn_about_missing",
    "warn_about_priors",
    "warn_about_rows",
    "warn_about_substitution",
]

from collections.abc import Container, Iterable, Mapping, Sequence

from aimz.data import NanCounts, Posterior, RowFindings
from aimz.engine.prepared_call import PreparedCall
from aimz.errors import OutputWarning, warn
from aimz.kernel import KernelSpec, Substitution, ValueSource, quote_list


def warn_about_substitution(prepared: PreparedCall, known: KernelSpec | None) -> None:
    """Warn if values of sites come from where a user might not expect; ``known`` is the structure over all calls."""
    posterior, substitution, spec = prepared.settings.posterior, prepared.substitution, prepared.spec
    if posterior is None:
        return
    specs = (spec, known) if known else (spec,)
    unused = [name for name in posterior.draws if not any(name in one for one in specs)]
    if unused:
        warn(
            f"The answer does not use the draws of {quote_list(unused)}, which belong to no site of the kernel.",
            OutputWarning,
        )
    kept = substitution.by_source[ValueSource.POSTERIOR_ROWS]
    if kept:
        warn(
            "The answer is about the fitted observations: local latent site(s) "
            f"{quote_list(kept)} keep their posterior draws, row by row. For other observations pass "
            "`in_sample=False`.",
            OutputWarning,
        )
    resampled = substitution.by_source[ValueSource.RESAMPLED_NEW_ROWS]
    if resampled:
        warn(
            "The answer is about other observations than the fitted ones: local latent site(s) "
            f"{quote_list(resampled)} are resampled given the sites they depend on."
            f"{_HOW_TO_KEEP if _is_assumed(prepared) else ''}",
            OutputWarning,
        )
    grown = prepared.new_entries
    if grown:
        plates = set().union(*grown.values())
        warn(
            f"The answer for new entries of plate(s) {quote_list(sorted(plates))} rests on the population of entries: "
            f"there are more than in the posterior, and site(s) {quote_list(grown)} are drawn for the new ones given "
            f"the sites they depend on.{_describe_new(prepared)}",
            OutputWarning,
        )
    missing = substitution.by_source[ValueSource.PRIOR_MISSING]
    if missing:
        warn(
            f"The answer depends on the prior of site(s) {quote_list(missing)}, which are not in the posterior and are "
            "drawn from their prior.",
            OutputWarning,
        )
    initial = substitution.by_source[ValueSource.INITIAL]
    if initial:
        warn(
            f"The answer depends on the initial value of parameter(s) {quote_list(initial)}, which have no fitted "
            "value. Fit with SVI, or set their draws with `set_posterior_sample`.",
            OutputWarning,
        )
    drawn = prepared.attrs.get("drawn_outcomes", ())
    if drawn and prepared.settings.kind == "expected":
        warn(
            f"Intervals also contain the noise of outcomes, since drawn outcomes of site(s) {quote_list(drawn)} are "
            "averaged: they have no expected value in closed form, or a callable intervention changes them.",
            OutputWarning,
        )
    _warn_about_control_flow(spec, substitution, posterior)
    warn_about_priors(prepared, posterior)


def _describe_new(prepared: PreparedCall) -> str:
    """Return a sentence that names categories that the posterior does not have; empty if the entries have no labels."""
    found = {
        name: group.names[first:]
        for name, group in prepared.groups.items()
        for site, entries in prepared.new_entries.items()
        for first, _ in entries.values()
        if site in group.axes
    }
    texts = [
        f"`{name}`: {', '.join(map(repr, new[:6]))}{', ...' * (len(new) > 6)}" for name, new in found.items() if new
    ]
    return f" New categories of {'; '.join(texts)}." if texts else ""


_HOW_TO_KEEP = " If it is, with other values, pass `in_sample=True`."


def _is_assumed(prepared: PreparedCall) -> bool:
    """Return whether the rows count as new because their data differ from the fit, without ``in_sample=False``."""
    return not prepared.settings.in_sample and not prepared.settings.named_new


def warn_about_priors(prepared: PreparedCall, posterior: Posterior) -> None:
    """Warn if global sites lose or change their posterior, since their prior depends on an intervened argument."""
    arguments, spec = prepared.intervened_arguments, prepared.spec
    if not arguments:
        return
    keeps_noise = prepared.settings.with_output
    source = ValueSource.ABDUCTED if keeps_noise else ValueSource.RESAMPLED_DOWNSTREAM
    reached = spec.descendants(arguments).intersection(prepared.substitution.by_source[source], posterior.draws)
    lost = sorted(name for name in reached if not spec[name].row_axes)
    if lost:
        warn(
            f"The answer does not use the posterior of global site(s) {quote_list(lost)}, which descend from the "
            f"intervention on {quote_list(sorted(arguments))} and are "
            f"{'moved with their prior' if keeps_noise else 'resampled from their prior'}. If the prior only takes a "
            "number from the data (a scale, say), compute that number beforehand and pass it as an argument.",
            OutputWarning,
        )


def check_control_flow(spec: KernelSpec, substitution: Substitution) -> None:
    """Raise if a site to resample is observed inside a `scan`, where its data cannot be removed."""
    observed = [
        n for n in substitution.by_source[ValueSource.RESAMPLED_DOWNSTREAM] if spec[n].in_control_flow and spec[n].data
    ]
    if observed:
        msg = (
            f"Site(s) {quote_list(observed)} descend from the intervention and are observed inside a `scan` or `cond`, "
            "where their data cannot be set aside. Make the prediction without those data."
        )
        raise ValueError(msg)


def _warn_about_control_flow(spec: KernelSpec, substitution: Substitution, posterior: Posterior) -> None:
    """Warn if sites are resampled only because dependencies inside a `scan` are not traced."""
    inside = [n for n in substitution.resampled if spec[n].in_control_flow and n in posterior.draws]
    if inside:
        warn(
            f"The answer does not use the posterior of site(s) {quote_list(inside)} inside a `scan` or `cond`, which "
            "are resampled: all sites inside one count as depending on one another, and on all its inputs, since its "
            "inside is not traced.",
            OutputWarning,
        )


def warn_about_missing(calls: Iterable[PreparedCall], *, names: Container[str] | None = None) -> None:
    """Warn once about NaN in the arguments of several calls that are in memory; others are counted when read.

    ``names`` are the arguments to examine; all by default.
    """
    counts, tables, seen = NanCounts(), dict[str, Sequence[str]](), set[int]()
    for prepared in calls:
        for name, rows in prepared.call.rows.items():
            # NaN of the output are judged with the likelihood.
            if names is not None and name not in names:
                continue
            if rows.is_lazy or name == prepared.spec.param_output or id(prepared.call.arrays[name]) in seen:
                continue
            seen.add(id(prepared.call.arrays[name]))
            counts.add(name, rows.read(0, 1 if rows.is_constant else rows.shape[0]))
        tables |= prepared.call.tables
    _warn_about_nan(counts, tables)


def warn_about_rows(findings: RowFindings, tables: Mapping[str, Sequence[str]], output: str) -> None:
    """Warn once about NaN and lost digits in rows that were read lazily; ``tables`` are the names of columns."""
    findings.nan.found = {key: count for key, count in findings.nan.found.items() if key[0] != output}
    _warn_about_nan(findings.nan, tables)
    findings.rounding.warn(tables)


def _warn_about_nan(counts: NanCounts, tables: Mapping[str, Sequence[str]]) -> None:
    """Warn if there are NaN among the arguments."""
    if counts.found:
        warn(
            f"Arguments have NaN ({counts.describe(tables)}). Unless the kernel replaces them, these rows are "
            "predicted as NaN, also where the output is an integer. Fill the values, or leave the rows out, if that is "
            "not intended.",
            OutputWarning,
        )
