"""The method of ``ImpactModel`` that describes the support of a question by the data of the fit."""

__all__ = ["SupportMethod", "SupportResult"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimz._imports import pandas as pd
from aimz.data import Categories, open_chunked_table
from aimz.distributed import collective_call
from aimz.engine import SupportReport, check_support, labels_of, read_groups_of, read_where
from aimz.kernel import name_settings
from aimz.methods.base import on_snapshot
from aimz.methods.slopes import SlopeMethods
from aimz.statistics import TOLERATED_SHARE, ColumnSupport, FitSupport
from aimz.types import Intervention

_ORDER = ("extrapolates", "not known", "not checked", "supported")


@dataclass(frozen=True)
class SupportResult:
    """Support of a question by the data of the fit."""

    table: "pd.DataFrame"
    """Table with a line for each scenario and column that it sets or changes, and one for all columns of new rows."""
    verdict: str
    """"supported", "extrapolates", "not known" or "not checked"."""
    reasons: tuple[str, ...]
    """Sentences, one for each reason of the verdict."""

    def __str__(self) -> str:
        """Return verdict, reasons and table as text."""
        reasons = [f"- {reason}." for reason in self.reasons]
        table = [] if self.table.empty else ["", self.table.to_string(index=False, float_format=lambda x: f"{x:.3g}")]
        return "\n".join([f"The question is {self._words()}.", *reasons, *table])

    __repr__ = __str__

    def _words(self) -> str:
        return {
            "supported": "supported by the data of the fit",
            "extrapolates": "outside of the data of the fit",
            "not known": "not checked, since its support is not known",
            "not checked": "not checked",
        }[self.verdict]


class SupportMethod(SlopeMethods):
    """Support of questions by the data of the fit."""

    @collective_call
    @on_snapshot
    def support(
        self,
        treatment: str | None = None,
        *,
        intervention: Intervention | None = None,
        by: Any = None,
        weights: Any = None,
        where: Any = None,
        in_sample: bool | None = None,
        X: Any = None,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> SupportResult:
        """Return whether the rows of a question are supported by the data of the fit.

        An answer about rows that the fit has not seen rests on the form of the kernel alone. Every fit describes its
        rows by sums: counts, means, cross products, ranges, quantiles, and the same for the rows with each value of
        columns with at most ten values and with each category of arguments of text. Nothing is stored for single rows.
        All methods that predict and compare check the rows of their scenarios against it (some of them, if there are
        more than 8,192), with their weights and groups, record the verdict in the attribute ``support`` of their
        results, and issue a :class:`SupportWarning` once for each reason. This method checks every row.

        Parameters
        ----------
        treatment : str, optional
            Column or argument with at most ten values in the fit, or argument of text. Each value is set in all rows,
            as for the effect of the treatment.
        intervention : mapping, optional
            Intervention to check, as in :meth:`predict`.
        by : array_like of shape (n_obs,) or str, optional
            Groups of rows, which are also checked one by one, as in :meth:`compare_scenarios`.
        weights : array_like of shape (n_obs,) or str, optional
            Weights of the rows in the shares.
        where : array_like of bool of shape (n_obs,) or str, optional
            Rows to check, as in :meth:`slopes`.
        in_sample : bool, optional
            As in :meth:`predict`.
        X, args, **kwargs
            Input and further arguments of the kernel; by default the rows of the fit.

        Returns
        -------
        SupportResult
            Result with ``verdict``, ``reasons`` and ``table``, which has a line for each scenario, group and column:
            ``low`` and ``high``, the range of the fit; ``outside``, the share of rows outside of it by more than a
            twentieth; ``unlike``, the largest share of rows outside of the range of the rows that are like them in
            another column, category or group (``in``); ``far``, the share of rows whose leverage is above 1.5 times the
            99th percentile of the fit; ``similar_rows``, the inverse of the median leverage: the number of rows of the
            fit, with the same treatment if it is discrete, that are worth as much as the data near a row (for a
            category, the number of its rows); and for binary treatments ``effective_controls``, the effective number of
            untreated rows after weighting by the odds of treatment.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        TypeError, ValueError
            If both or neither of a treatment and an intervention are passed for the rows of the fit, or the treatment
            has no levels.

        Notes
        -----
        The question extrapolates if more than 5 % of its rows are outside of a range, unlike, or far, or if the
        effective number of the rows with one value of a binary treatment, as a comparison for the others, is below 10 %
        of them; a group, if these shares exceed 5 % and the share of 4 rows. The leverage of a row of the fit is
        computed as if the row were left out.

        Examples
        --------
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from jax import random
        >>> from numpyro.infer import MCMC, NUTS
        >>> import aimz
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        ...     with numpyro.plate("obs", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)
        >>> model = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=10, num_samples=10))
        >>> X = np.linspace(0.0, 1.0, 100)
        >>> _ = model.fit_on_batch(X, X, progress=False)
        >>> model.support(intervention={"X": 3.0}).reasons
        ('100 % of the rows have `X` outside of the data of the fit (0 to 1)',)
        """
        self._engine.signature.check_unambiguous(
            {"treatment": treatment, "by": by, "weights": weights, "where": where}, args or (), "support"
        )
        posterior = self._fitted("support")
        observed, source, call = self._open_rows(X, self._merged(kwargs, args), "support")
        table = open_chunked_table(observed["X"], self._engine.parameters) or observed["X"]
        weights = read_where(where, weights, table, call)
        groups = read_groups_of(by, weights, table, call, source, self._panel_of(call, self._engine.read_spec(call)))
        if in_sample is not None:
            observed["in_sample"] = in_sample
        known: FitSupport | None = posterior.support
        settings = _read_question(treatment, intervention, known, call.categories)
        scenarios = {name_settings(one): {**observed, "intervention": one, "return_sites": None} for one in settings}
        _, prepared = self._prepare_scenarios(
            scenarios, dict.fromkeys(scenarios, source), dict.fromkeys(scenarios, call)
        )
        reports: dict[str, SupportReport] = {}
        for name, one in prepared.items():
            if source.reader is not None and reports:
                source.reader.rewind()
            reports[name] = check_support(known, one, call, groups, every_row=True, reader=source.reader)
        return _result(reports, known, groups.labels)


def _read_question(
    treatment: Any, intervention: Any, known: FitSupport | None, categories: Mapping[str, Categories]
) -> list[Mapping[str, Any]]:
    """Return the interventions to check.

    Raises
    ------
    TypeError, ValueError
        If both are passed, or the treatment has no levels in the fit.
    """
    if treatment is None:
        return [intervention or {}]
    if intervention is not None or not isinstance(treatment, str):
        msg = f"`support` needs the name of a treatment, or an intervention; got {treatment!r} and {intervention!r}. "
        raise TypeError(msg + "Pass one of them.")
    if known is None:
        return [{}]
    levels: Sequence[Any] | Mapping[float, Any] | None = dict(zip(known.names, known.levels, strict=True)).get(
        treatment
    )
    ranges = dict(zip(known.categories, known.ranges, strict=True)).get(treatment)
    if ranges is not None:
        labels = categories.get(treatment, range(len(ranges.count)))
        levels = [labels[code] for code in np.flatnonzero(ranges.count)]
    if not levels:
        names = ", ".join((*known.names, *known.categories))
        msg = (
            "`treatment` must be a column or an argument with at most ten values in the fit, or of text; got "
            f"{treatment!r}, of {names}. Pass the values in question as `intervention={{{treatment!r}: ...}}`."
        )
        raise ValueError(msg)
    return [{treatment: value} for value in levels]


def _result(
    reports: Mapping[str, SupportReport], known: FitSupport | None, labels: Mapping[str, np.ndarray]
) -> SupportResult:
    """Return the result of the reports of all scenarios."""
    lines = []
    for name, report in reports.items():
        if report.counts is None or known is None:
            continue
        cells = sorted(report.counts.cells.items())
        for code, rows in cells or [(0, report.counts.whole)]:
            about: dict[str, Any] = {"scenario": name, **(labels_of(code, labels) if cells else {})}
            for i, column in rows.columns.items():
                low, high = (known.low[i], known.high[i]) if i < len(known.names) else (np.nan, np.nan)
                lines.append({**about, **_line(column), "low": low, "high": high})
            if len(rows.columns) > 1:
                lines.append({**about, **_line(rows.joint)})
    names = ["scenario", *labels, "column", "low", "high", "outside", "unlike", "in", "far", "similar_rows"]
    table = pd.DataFrame(lines, columns=names)
    reasons = list(dict.fromkeys(reason for report in reports.values() for reason in report.reasons))
    verdict = min((report.verdict for report in reports.values()), key=_ORDER.index)
    overlap = next((report.overlap for report in reports.values() if report.overlap is not None), None)
    if overlap is not None:
        table["effective_controls"] = overlap.effective[0]
    return SupportResult(table, verdict, tuple(reasons))


def _line(column: ColumnSupport) -> dict[str, Any]:
    """Return the numbers of a column."""
    other, unlike = column.worst
    return {
        "column": column.name,
        "outside": column.share(column.outside),
        "unlike": unlike,
        "in": other if unlike > TOLERATED_SHARE else "",
        "far": column.share(column.far),
        "similar_rows": column.similar_rows,
    }
