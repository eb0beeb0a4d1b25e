"""Verdict on the support of the rows of a call, with the reasons in words."""

__all__ = [
    "EXTRAPOLATES",
    "NOT_CHECKED",
    "NOT_KNOWN",
    "SUPPORTED",
    "SupportReport",
    "data_of",
    "labels_of",
    "report_of",
]

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimz.statistics import (
    FAR_LEVERAGE,
    TOLERATED_SHARE,
    ColumnSupport,
    FitSupport,
    Overlap,
    RowSupport,
    SupportCounts,
)

SUPPORTED, EXTRAPOLATES, NOT_KNOWN, NOT_CHECKED = "supported", "extrapolates", "not known", "not checked"
_SHOWN = 3
"""Largest number of groups in a sentence."""


@dataclass(frozen=True)
class SupportReport:
    """Verdict on the rows of one call, with the reasons."""

    verdict: str
    """"supported", "extrapolates", "not known" (no data of a fit) or "not checked" (rows that were not read)."""
    reasons: tuple[str, ...] = ()
    """Sentences without a full stop, one for each reason."""
    counts: SupportCounts | None = None
    """Counts of the rows; None if none were read."""
    overlap: Overlap | None = None
    """Effective numbers of the rows with each value of a binary treatment; None for other questions."""

    @property
    def text(self) -> str:
        """Verdict and reasons as text."""
        return self.verdict + (f": {'; '.join(self.reasons)}" if self.reasons else "")


def report_of(
    counts: SupportCounts,
    unknown: tuple[str, ...],
    labels: Mapping[str, np.ndarray],
    overlap: Overlap | None = None,
) -> SupportReport:
    """Return the report on the counts of rows; ``labels`` are the labels of their groups."""
    reasons = (
        *_reasons(counts.whole),
        *_reasons_of_overlap(overlap, counts.whole),
        *_reasons_of_groups(counts, labels),
    )
    if unknown and not reasons:
        return SupportReport(NOT_KNOWN, unknown, counts, overlap)
    return SupportReport(EXTRAPOLATES if reasons else SUPPORTED, reasons, counts, overlap)


def _reasons_of_overlap(overlap: Overlap | None, found: RowSupport) -> Iterator[str]:
    """Yield a reason for each value of a treatment with few rows that are like the others."""
    if overlap is not None:
        name = found.columns[found.asked[0]].name
        for value in overlap.thin:
            yield (
                f"the {overlap.n[value]:,} rows with `{name}` = {overlap.values[value]} are worth "
                f"{overlap.effective[value]:.3g} as a comparison for the others (by the odds of treatment)"
            )


def data_of(support: FitSupport, column: int) -> str:
    """Return the values of a column in the fit as text: both of two, or its range."""
    levels = support.levels[column]
    if levels is not None and len(levels) <= 2:
        return " and ".join(f"{value:g}" for value in levels)
    return f"{support.low[column]:.6g} to {support.high[column]:.6g}"


def _reasons(found: RowSupport, slack: float = 0.0) -> Iterator[str]:
    """Yield a reason for each way in which too many rows leave the data of the fit.

    ``slack`` is added to the share up to which an answer is supported.
    """
    fit, tolerated = found.fit, TOLERATED_SHARE + slack
    for i, line in found.columns.items():
        is_category = found.is_category(i)
        if line.share(line.outside) > max(tolerated, TOLERATED_SHARE + 4 / fit.n):
            if is_category:
                yield f"{_percent(line, line.outside)} are asked about a `{line.name}` that no row of the fit had"
            else:
                data = data_of(fit, i)
                yield f"{_percent(line, line.outside)} have `{line.name}` outside of the data of the fit ({data})"
            continue
        other, share = line.worst
        if share > tolerated and (is_category or len(found.asked) == 1):
            like = _like(fit, other, is_continuous=not is_category and fit.levels[i] is None)
            yield (
                f"{_percent(line, line.apart[other])} are asked about a `{line.name}` that no row with {like} "
                f"`{other}` had"
            )
        elif line.share(line.far) > tolerated and len(found.asked) == 1:
            yield (
                f"{_percent(line, line.far)} are far from all rows of the fit with this `{line.name}` (leverage above "
                f"{FAR_LEVERAGE:g} times the 99th percentile of the fit)"
            )
    joint = found.joint
    if joint.n and joint.share(joint.far) > tolerated:
        yield (
            f"{_percent(joint, joint.far)} combine columns as no row of the fit did (leverage above {FAR_LEVERAGE:g} "
            "times the 99th percentile of the fit)"
        )


def _like(fit: FitSupport, other: str, *, is_continuous: bool) -> str:
    """Return whether rows with the same or a similar value of a column were compared, for a column that is asked."""
    levels = fit.levels[fit.names.index(other)] if other in fit.names else {}
    return "a similar" if levels is None or (len(levels) > 2 and not is_continuous) else "the same"


def _reasons_of_groups(counts: SupportCounts, labels: Mapping[str, np.ndarray]) -> Iterator[str]:
    """Yield the reasons of groups whose rows leave the data of the fit, if the rows of all groups together do not."""
    if any(True for _ in _reasons(counts.whole)):
        return
    found = {code: list(_reasons(cell, 4 / cell.n_rows)) for code, cell in sorted(counts.cells.items())}
    bad = [(labels_of(code, labels), reasons[0]) for code, reasons in found.items() if reasons]
    for own, reason in bad[:_SHOWN]:
        name = ", ".join(f"`{dim}` = {label}" for dim, label in own.items())
        yield reason.replace("of the rows", f"of the rows of {name}", 1)
    if len(bad) > _SHOWN:
        yield f"so do rows of {len(bad) - _SHOWN:,} more groups"


def labels_of(code: int, labels: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the label of a group along each dimension."""
    places = np.unravel_index(code, tuple(len(own) for own in labels.values()))
    return {dim: own[place] for (dim, own), place in zip(labels.items(), places, strict=True)}


def _percent(line: ColumnSupport, weight: float) -> str:
    return f"{100 * line.share(weight):.3g} % of the rows"
