"""The result of a test of the independences that a causal graph implies."""

__all__ = ["FalsificationResult", "ImpliedIndependence"]

import html
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from aimz._imports import pandas as pd

_WIDTH = 76
_MAX_LINES = 20
"""Largest number of tests that are printed."""
_HEADS = ("independence", "correlation", "p", "adjusted p", "verdict")


@dataclass(frozen=True)
class ImpliedIndependence:
    """An independence that a graph implies, and its test."""

    one: str
    other: str
    given: tuple[str, ...]
    correlation: float
    """Partial correlation; the multiple one for variables with several categories."""
    p_value: float
    adjusted: float
    """p-value adjusted for the number of tests."""
    verdict: str
    """"rejected", "not rejected" or "not tested"."""

    @property
    def text(self) -> str:
        """The independence in the notation of the field."""
        return f"{self.one} _||_ {self.other}{f' | {", ".join(self.given)}' if self.given else ''}"


@dataclass(frozen=True, repr=False)
class FalsificationResult:
    """Tests of the independences that a causal graph implies, as :meth:`ImpactModel.falsify` returns them.

    Attributes
    ----------
    tests : tuple of ImpliedIndependence
        Pairs of variables that the graph separates, given others, with ``correlation``, ``p_value``, ``adjusted`` and
        ``verdict``.
    n_rows : int
        Number of rows without missing values.
    alpha : float
        Probability of rejecting any independence of a correct graph.
    permuted : float or None
        Share of graphs with permuted names that have as few violations; None if nothing was tested.
    not_tested : mapping of str to str
        Variables of the graph that are in no test, with the reason.
    """

    tests: tuple[ImpliedIndependence, ...]
    n_rows: int
    alpha: float
    permuted: float | None
    not_tested: Mapping[str, str] = field(default_factory=dict)

    @property
    def rejected(self) -> tuple[ImpliedIndependence, ...]:
        """Independences that the data contradict."""
        return tuple(one for one in self.tests if one.verdict == "rejected")

    @property
    def falsified(self) -> bool:
        """Whether the data contradict the graph."""
        return bool(self.rejected)

    @property
    def sentence(self) -> str:
        """The verdict as a sentence."""
        tested = [one for one in self.tests if one.verdict != "not tested"]
        if not tested:
            return (
                "The graph implies no independence of measured variables that can be tested, so no data contradict it."
            )
        n = len(tested)
        if not self.rejected:
            none = (
                f"none of {n} independences that the graph implies is"
                if n > 1
                else "the one independence that it implies is not"
            )
            return (
                f"The data do not contradict the graph: {none} rejected. That does not confirm it; other graphs imply "
                "the same."
            )
        first, many = min(self.rejected, key=lambda one: one.adjusted), len(self.rejected)
        return (
            f"The data contradict the graph, or its relations are not linear: {many} of {n} independences that it "
            f"implies {'is' if many == 1 else 'are'} rejected, first of all {first.text} (correlation "
            f"{first.correlation:.2g})."
        )

    def to_pandas(self) -> "pd.DataFrame":
        """Return a table with a line for each test."""
        names = [*ImpliedIndependence.__dataclass_fields__]
        return pd.DataFrame([{**asdict(one), "given": ", ".join(one.given)} for one in self.tests], columns=names)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "sentence": self.sentence,
            "tests": [{**asdict(one), "given": list(one.given)} for one in self.tests],
            "n_rows": self.n_rows,
            "alpha": self.alpha,
            "permuted": self.permuted,
            "not_tested": dict(self.not_tested),
        }

    def __str__(self) -> str:
        """Return the verdict and a table, the smallest p-values first."""
        lines = textwrap.wrap(self.sentence, _WIDTH, break_on_hyphens=False)
        if self.tests:
            rows = [_HEADS, *map(_cells, self._ordered[:_MAX_LINES])]
            widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADS))]
            table = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]
            lines += ["", *table]
            if len(self.tests) > _MAX_LINES:
                lines.append(f"... and {len(self.tests) - _MAX_LINES} more")
        limits = self._limits()
        return "\n".join([*lines, "", *limits] if limits else lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{cell}</th>" for cell in _HEADS)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(one)) + "</tr>"
            for one in self._ordered[:_MAX_LINES]
        )
        limits = html.escape(" ".join(self._limits()))
        return f"<p><b>{html.escape(self.sentence)}</b></p><table><tr>{head}</tr>{body}</table><p>{limits}</p>"

    @property
    def _ordered(self) -> list[ImpliedIndependence]:
        """Tests, the smallest p-values first."""
        return sorted(self.tests, key=lambda one: (one.verdict == "not tested", one.p_value))

    def _limits(self) -> list[str]:
        """Return lines with the limits of the tests."""
        tested = any(one.verdict != "not tested" for one in self.tests)
        texts = [
            f"Partial correlations of {self.n_rows:,} rows; p-values are adjusted by Holm's method. They see linear "
            "relations only: a dependence without correlation is missed, and one that is not linear in the variables "
            "held fixed may be rejected in a correct graph."
        ][: int(tested)]
        if self.permuted is not None:
            texts.append(
                f"Of graphs with the same arrows between permuted names, {100 * self.permuted:.0f} % fit as well or "
                "better. If these are many, the tests distinguish little."
            )
        texts += [f"Not tested: {name} ({reason})." for name, reason in self.not_tested.items()]
        return [line for text in texts for line in textwrap.wrap(text, _WIDTH, break_on_hyphens=False)]


def _cells(one: ImpliedIndependence) -> tuple[str, ...]:
    """Return the cells of a line as text."""
    if one.verdict == "not tested":
        return one.text, "", "", "", one.verdict
    return one.text, f"{one.correlation:.2f}", _small(one.p_value), _small(one.adjusted), one.verdict


def _small(value: float) -> str:
    return f"{value:.3f}" if value >= 0.0005 else f"{value:.0e}"
