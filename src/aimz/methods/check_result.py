"""The result of a check of a model."""

__all__ = ["CheckResult", "Finding"]

import html
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import aimz
from aimz._imports import pandas as pd
from aimz.statistics import Calibration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 80


@dataclass(frozen=True)
class Finding:
    """Verdict of a single check."""

    question: str
    """Part of the model that is checked: "fit", "draws" or "data"."""
    check: str
    value: float
    expected: str
    verdict: str
    """"ok", "bad" or "not checked"."""
    advice: str = ""
    """Advice for a bad verdict, or the reason why there is none; empty if the verdict is "ok"."""


@dataclass(frozen=True, repr=False)
class CheckResult:
    """Verdicts about a fit, its draws and its predictions, as :meth:`ImpactModel.check` returns them.

    Printed, it is a short table with what to do.

    Attributes
    ----------
    findings : tuple of Finding
        Lines of the table.
    calibration : object or None
        Calibration of the predictions of single rows: ``ecdf`` of their PIT values at ``edges``, ``histogram(bins)``,
        ``distance`` from the uniform distribution, and for binary outcomes ``reliability()``. None if there is none.
    n_obs : int or None
        Number of rows that were predicted.

    Examples
    --------
    >>> from aimz.methods.check_result import CheckResult, Finding
    >>> line = Finding("fit", "settled", 0.0, "1", "bad", "the fit has not settled: fit again")
    >>> print(CheckResult((line,)))
    1 of 1 checks failed.
    <BLANKLINE>
         check    value  expected  verdict
    fit  settled  0      1         bad
    <BLANKLINE>
    fit: the fit has not settled: fit again
    """

    findings: tuple[Finding, ...]
    lines: tuple[Mapping[str, Any], ...] = ()
    """Predictive checks, one for each statistic and group of rows."""
    calibration: Calibration | None = None
    n_obs: int | None = None
    why_not_loo: str = ""
    """Reason why the predictions of rows do not leave them out; empty if they do."""

    @property
    def statistics(self) -> "pd.DataFrame":
        """Table of the predictive checks, with a line for each statistic and group.

        The columns are the labels of the group, the ``observed`` value, the mean ``predicted`` value and its 5 % and
        95 % quantiles ``low`` and ``high``; ``p``, the share of predicted values above the observed one, with ties
        counted half; and ``expected`` and ``verdict``.
        """
        return pd.DataFrame(list(self.lines))

    def plot(self, **options: Any) -> "Figure":
        """Plot the calibration of the predictions of single rows.

        Parameters
        ----------
        **options
            Options of :func:`aimz.plots.plot_calibration`.

        Returns
        -------
        matplotlib.figure.Figure
            The figure, which a notebook displays.
        """
        return aimz.plots.plot_calibration(self, **options)

    @property
    def ok(self) -> bool:
        """Whether no verdict is bad."""
        return all(finding.verdict != "bad" for finding in self.findings)

    def to_pandas(self) -> "pd.DataFrame":
        """Return the table, with the columns ``question``, ``value``, ``expected``, ``verdict`` and ``advice``."""
        return pd.DataFrame([asdict(finding) for finding in self.findings]).set_index("check").rename_axis(index=None)

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the lines as dictionaries of plain values."""
        return [asdict(finding) for finding in self.findings]

    def __str__(self) -> str:
        """Return the table as text, and what to do."""
        heads = ("", "check", "value", "expected", "verdict")
        rows = [heads, *map(_cells, self.findings)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
        lines = ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([self._heading, "", *lines, *self._advice()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{cell}</th>" for cell in ("", "check", "value", "expected", "verdict"))
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(finding)) + "</tr>"
            for finding in self.findings
        )
        advice = "".join(f"<p>{html.escape(line)}</p>" for line in self._advice())
        return f"<p><b>{self._heading}</b></p><table><tr>{head}</tr>{body}</table>{advice}"

    @property
    def _heading(self) -> str:
        bad = sum(finding.verdict == "bad" for finding in self.findings)
        return "No check failed." if self.ok else f"{bad} of {len(self.findings)} checks failed."

    def _advice(self) -> list[str]:
        """Return lines with what to do about each verdict that is not "ok"."""
        texts = dict.fromkeys(f"{finding.question}: {finding.advice}" for finding in self.findings if finding.advice)
        wrapped = [line for text in texts for line in textwrap.wrap(text, _WIDTH, subsequent_indent="  ")]
        return ["", *wrapped] if wrapped else []


def _cells(finding: Finding) -> tuple[str, ...]:
    """Return the cells of a line as text."""
    value = "" if finding.value != finding.value else f"{finding.value:.3g}"
    return finding.question, finding.check, value, finding.expected, finding.verdict
