"""The result of a question whether an effect is identified."""

__all__ = ["IdentificationResult"]

import html
import textwrap
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from aimz._imports import pandas as pd
from aimz.causal_graph import GraphFinding, Identification

_WIDTH = 76
_MAX_LISTED = 5
"""Largest number of sets that are printed."""


@dataclass(frozen=True, repr=False)
class IdentificationResult:
    """Verdict whether a kernel computes an effect in a causal graph, as :meth:`ImpactModel.identify` returns it.

    Attributes
    ----------
    treatment : tuple of str
        Names of the treatments.
    outcome : str
        Name of the outcome.
    answer : {"yes", "no", "not known"}
        Whether the kernel computes the effect of the treatment in the graph; "not known" without a graph.
    findings : tuple of GraphFinding
        Comparisons with the graph: ``check``, ``verdict`` ("ok", "bad" or "note"), ``names`` and ``text``.
    adjusted : tuple of str
        Variables that the kernel holds fixed, and averages over.
    modeled : tuple of str
        Variables that respond to the treatment in the kernel, in order; the last one is the outcome.
    adjustment_sets : tuple of tuple of str
        Minimal sets of measured variables that are valid for adjustment in the graph, at most 20.
    front_doors : tuple of tuple of str
        Minimal sets of measured mediators that satisfy the front-door criterion.
    instruments : tuple of Instrument
        Instruments: ``name`` and the variables ``given`` that they need to be conditioned on.
    identifiable : bool or None
        Whether some formula of the measured variables is the effect, without assumptions about functions; None without
        a graph.
    """

    treatment: tuple[str, ...]
    outcome: str
    answer: str
    findings: tuple[GraphFinding, ...]
    adjusted: tuple[str, ...]
    modeled: tuple[str, ...]
    adjustment_sets: tuple[tuple[str, ...], ...]
    front_doors: tuple[tuple[str, ...], ...]
    instruments: tuple[Any, ...]
    identifiable: bool | None

    @staticmethod
    def of(found: Identification) -> "IdentificationResult":
        """Return the result of a comparison."""
        does = found.does
        return IdentificationResult(
            does.treatment,
            does.outcome,
            found.answer,
            found.findings,
            tuple(sorted(does.adjusted)),
            does.modeled,
            tuple(tuple(sorted(one)) for one in found.adjustment_sets),
            tuple(tuple(sorted(one)) for one in found.front_doors),
            found.instruments,
            found.identifiable,
        )

    @property
    def ok(self) -> bool:
        """Whether the kernel computes the effect in the graph; False without a graph."""
        return self.answer == "yes"

    @property
    def sentence(self) -> str:
        """The verdict as a sentence."""
        effect = f"the effect of {_listed(self.treatment)} on `{self.outcome}`"
        if self.answer == "not known":
            return (
                f"Whether the kernel computes {effect} is not known: a kernel cannot vouch for itself. Pass what you "
                "know about causes as `graph`."
            )
        if self.answer == "no":
            return f"Under the given graph, the kernel does not compute {effect}."
        how = f"adjusting for {_listed(self.adjusted)}" if self.adjusted else "without adjustment"
        return f"Under the given graph, the kernel computes {effect}, {how}."

    def to_pandas(self) -> "pd.DataFrame":
        """Return the findings as a table, with the columns ``check``, ``verdict``, ``names`` and ``text``."""
        return pd.DataFrame(
            [{**asdict(one), "names": ", ".join(one.names)} for one in self.findings],
            columns=["check", "verdict", "names", "text"],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "treatment": list(self.treatment),
            "outcome": self.outcome,
            "answer": self.answer,
            "sentence": self.sentence,
            "findings": [{**asdict(one), "names": list(one.names)} for one in self.findings],
            "adjusted": list(self.adjusted),
            "modeled": list(self.modeled),
            "adjustment_sets": [list(one) for one in self.adjustment_sets],
            "front_doors": [list(one) for one in self.front_doors],
            "instruments": [{"name": one.name, "given": sorted(one.given)} for one in self.instruments],
            "identifiable": self.identifiable,
        }

    def __str__(self) -> str:
        """Return the verdict, the findings and the ways of identification as text."""
        lines = textwrap.wrap(self.sentence, _WIDTH, break_on_hyphens=False)
        for one in self.findings:
            wrapped = textwrap.wrap(
                f"{one.check}: {one.text}", _WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
            )
            lines += ["", *wrapped] if one is self.findings[0] else wrapped
        for i, line in enumerate(self._ways()):
            lines += ["", line] if i == 0 else [line]
        return "\n".join(lines)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        items = "".join(f"<li><b>{html.escape(one.check)}</b>: {html.escape(one.text)}</li>" for one in self.findings)
        ways = "".join(f"<p>{html.escape(line)}</p>" for line in self._ways())
        return f"<p><b>{html.escape(self.sentence)}</b></p><ul>{items}</ul>{ways}"

    def _ways(self) -> list[str]:
        """Return lines with the ways in which the graph identifies the effect."""
        if self.identifiable is None:
            return []
        sets = [f"{{{', '.join(one)}}}" if one else "{} (no adjustment)" for one in self.adjustment_sets]
        lines = [
            f"Adjustment sets: {_some(sets)}",
            f"Front doors: {_some(f'{{{", ".join(one)}}}' for one in self.front_doors)}",
            f"Instruments: {_some(map(str, self.instruments))}",
        ]
        if not self.identifiable:
            lines.append("No formula of the measured variables is the effect, without further assumptions.")
        elif not sets and not self.front_doors:
            lines.append("A formula of the measured variables is the effect, but neither adjustment nor front door.")
        return lines


def _listed(names: Iterable[str]) -> str:
    return " and ".join(f"`{name}`" for name in names)


def _some(texts: Iterable[str]) -> str:
    """Return texts in a line, without those beyond a number."""
    given = list(texts)
    more = f", and {len(given) - _MAX_LISTED} more" if len(given) > _MAX_LISTED else ""
    return ", ".join(given[:_MAX_LISTED]) + more if given else "none"
