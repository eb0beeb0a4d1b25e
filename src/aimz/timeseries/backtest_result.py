"""The result of a backtest."""

__all__ = ["BacktestResult"]

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_SCORES = ("crps", "absolute_error", "covered", "width")


@dataclass(frozen=True, repr=False)
class BacktestResult:
    """Forecasts of a backtest with their scores, as :meth:`ImpactModel.backtest` returns them.

    Printed, it is a table of the model and its baselines.

    Attributes
    ----------
    scores : pandas.DataFrame
        A row for each forecast of each method: ``method``, ``origin`` (first period that was forecast), ``horizon``
        (1 for that period), ``period``, ``unit`` (if there are units), ``observed``, ``mean``, ``low`` and ``high``
        (bounds of the interval), ``crps``, ``absolute_error`` (of the median), ``covered`` and ``width``.
    ci_prob : float
        Probability of the interval.

    Examples
    --------
    >>> import pandas as pd, aimz
    >>> about = {"row": [0, 0], "method": ["model", "last value"], "origin": 9, "horizon": 1, "period": 9}
    >>> scores = {"crps": [0.5, 2.0], "absolute_error": [0.7, 2.5], "covered": [1.0, 1.0], "width": [3.0, 9.0]}
    >>> aimz.BacktestResult(pd.DataFrame(about | scores), 0.9).summary()["skill"].to_dict()
    {'model': 0.75, 'last value': 0.0}
    """

    scores: "pd.DataFrame"
    ci_prob: float

    def to_pandas(self) -> "pd.DataFrame":
        """Return a copy of the table of all forecasts.

        Returns
        -------
        pandas.DataFrame
            As :attr:`scores`.
        """
        return self.scores.copy()

    def summary(self, by: str | list[str] | None = None) -> "pd.DataFrame":
        """Return the averages of the scores of each method, over the forecasts that all methods have.

        Parameters
        ----------
        by : str or list of str, optional
            Further columns to group by: "horizon", "origin", "period" or "unit".

        Returns
        -------
        pandas.DataFrame
            Number of forecasts ``n``, averages of ``crps``, ``absolute_error`` and ``width``, ``coverage``, and
            ``skill``, 1 - CRPS / CRPS of the last value.

        Raises
        ------
        ValueError
            If ``by`` is not such a column.
        """
        names = [by] if isinstance(by, str) else list(by or ())
        known = [name for name in ("horizon", "origin", "period", "unit") if name in self.scores]
        if not set(names) <= set(known):
            msg = (
                f"`by` must be among {', '.join(map(repr, known))}; got {by!r}. Omit it for averages of all forecasts."
            )
            raise ValueError(msg)
        # A baseline without enough history makes no forecast; comparing methods needs the same forecasts.
        everywhere = self.scores["crps"].notna().groupby(self.scores["row"]).transform("all")
        shared = self.scores[everywhere]
        grouped = shared.groupby([*names, "method"], sort=False)
        table = grouped[list(_SCORES)].mean().rename(columns={"covered": "coverage"})
        table.insert(0, "n", grouped.size())
        last = table["crps"].xs("last value", level="method") if names else table["crps"]["last value"]
        relative = table["crps"] / (last.reindex(table.index.droplevel("method")).to_numpy() if names else last)
        return table.assign(skill=1 - relative)

    def __repr__(self) -> str:
        """Return the table of the methods, and the forecast rows."""
        table = self.summary()
        shown = table.drop(columns="n").assign(coverage=[f"{100 * share:.1f} %" for share in table["coverage"]])
        shown = shown.rename(
            columns={
                "crps": "CRPS",
                "absolute_error": "absolute error",
                "coverage": f"in {100 * self.ci_prob:g} % interval",
            }
        )
        n, origins, horizon = int(table["n"].min()), self.scores["origin"].nunique(), int(self.scores["horizon"].max())
        about = (
            f"{n:,} forecasts from {origins:,} origin{'s' * (origins > 1)}, up to {horizon:,} "
            f"period{'s' * (horizon > 1)} ahead. Skill: 1 - CRPS / CRPS of the last value."
        )
        return f"{shown.rename_axis(None).to_string(float_format='{:.4g}'.format)}\n\n{about}"
