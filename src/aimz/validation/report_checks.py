"""Sections of a report about checks of the model and of the answer."""

__all__ = ["check_section", "effect_section", "result_section", "support_section"]

from collections.abc import Iterable, Sequence
from typing import Any

import aimz
from aimz._imports import pandas as pd
from aimz.methods import CheckResult, EffectResult
from aimz.report import Block, Code, Items, Section, Table, Text
from aimz.validation.report_results import (
    UNAVAILABLE,
    effect_attrs,
    figure_of,
    first_sentence,
    frame_table,
    result_blocks,
    sentences_of_result,
    shown,
)

_MAX_SENTENCES = 12
_KINDS = {
    "expected": "The numbers are averages of expected outcomes, so that intervals contain no noise of outcomes.",
    "outcome": "The numbers are averages of drawn outcomes.",
}
_SUPPORTED = "The question is supported by the data of the fit."
_EXTRAPOLATES = (
    "The question is outside of the data of the fit: there, the answer rests on the form of the kernel alone."
)


def effect_section(effect: Any, sentences: Iterable[str]) -> Section:
    """Return the section with the effect in sentences and in a table."""
    if effect is None:
        reason = "no effect was asked for; call `model.report(path, effect=model.effect(...))`"
        return Section("effect", "The effect", not_run=reason)
    blocks: list[Block] = [Text(sentence) for sentence in list(sentences)[:_MAX_SENTENCES]]
    try:
        blocks.append(
            frame_table(
                aimz.output.format_table(aimz.output.summary(effect)),
                "Effects, with intervals from the posterior draws",
            )
        )
    except (AttributeError, KeyError, *UNAVAILABLE):
        blocks += [Code(str(effect))]
    if isinstance(effect, EffectResult):
        blocks.append(Text(f"Average over {effect.rows}."))
    kind = effect_attrs(effect).get("kind")
    if kind in _KINDS:
        blocks.append(Text(_KINDS[kind]))
    return Section("effect", "The effect", tuple(blocks))


def check_section(checked: CheckResult | None, not_run: str) -> Section:
    """Return the section on predictive checks and calibration."""
    title = "Does the model look like the data?"
    findings = [] if checked is None else [one for one in checked.findings if one.question == "data"]
    known = [one for one in findings if one.verdict != "not checked"]
    if checked is None or not known:
        reason = not_run or (findings[0].advice if findings else "there are no rows in memory")
        return Section("model", title, not_run=f"{reason.rstrip('.')}; call `model.check(X, y)`")
    bad = [one for one in known if one.verdict == "bad"]
    rows = tuple((one.check, shown(one.value), one.expected, one.verdict) for one in findings)
    blocks: list[Block] = [
        Table(("check", "value", "expected", "verdict"), rows, f"Checks of {checked.n_obs or 0:,} rows"),
        Items(tuple(dict.fromkeys(one.advice for one in findings if one.advice))),
    ]
    if checked.lines:
        blocks.append(frame_table(checked.statistics, "Observed statistics, and the range of predicted ones"))
    alt = "Calibration of the predictions of single rows"
    figure = figure_of(checked.plot, alt) if checked.calibration is not None else None
    blocks += [] if figure is None else [figure]
    blocks.append(Text("These checks are about prediction. A model that passes them may be wrong about causes."))
    outcome = (
        f"{len(bad)} of {len(known)} checks failed: {bad[0].advice}."
        if bad
        else f"All {len(known)} checks passed: data simulated from the model look like the data."
    )
    return Section("model", title, tuple(block for block in blocks if block != Items(())), outcome)


def support_section(found: Sequence[Any], verdict: str, not_run: str) -> Section:
    """Return the section on the support of the scenarios by the rows; ``verdict`` is used if there are no results."""
    title = "Do the data support the question?"
    if not found:
        if verdict in ("", "not known", "not checked"):
            return Section("support", title, not_run=not_run)
        words = {"supported": _SUPPORTED, "extrapolates": _EXTRAPOLATES}
        return Section("support", title, outcome=words.get(verdict, f"The question: {verdict}."))
    reasons = list(dict.fromkeys(reason for one in found for reason in one.reasons))
    verdicts = {one.verdict for one in found}
    if not verdicts & {"supported", "extrapolates"}:
        reason = "; ".join(reasons) or "the rows of the fit are not described"
        return Section("support", title, not_run=f"{reason}; fit the model with `model.fit(X, y)`")
    outcome = _EXTRAPOLATES if "extrapolates" in verdicts else _SUPPORTED

    tables = [one.table for one in found if len(one.table)]
    blocks: list[Block] = [Items(tuple(f"{reason}." for reason in reasons))] if reasons else []
    if tables:
        caption = "Rows of each scenario against the rows of the fit: shares outside of ranges, and unlike rows"
        blocks.append(frame_table(pd.concat(tables, ignore_index=True), caption))
    return Section("support", title, tuple(blocks), outcome)


def result_section(key: str, title: str, result: Any, not_run: str, more: Iterable[Block] = ()) -> Section:
    """Return the section of a result that was passed, or the call that computes it."""
    if result is None:
        return Section(key, title, tuple(more), not_run=not_run)
    blocks = result_blocks(result, title, f"Plot: {title}")
    sentences = sentences_of_result(result)
    if sentences:
        blocks = tuple(block for block in blocks if block != Text(sentences[0]))
    outcome = sentences[0] if sentences else first_sentence(result)
    return Section(key, title, (*more, *blocks), outcome)
