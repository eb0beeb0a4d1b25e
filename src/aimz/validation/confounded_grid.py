"""The effects under hidden common causes of several strengths."""

__all__ = ["ConfoundedGrid"]

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

import aimz
from aimz._imports import pandas as pd
from aimz.statistics import read_ci


@dataclass(frozen=True, repr=False)
class ConfoundedGrid:
    """Effects of refits with hidden common causes, as :meth:`ImpactModel.refit_with_confounder` returns them.

    Attributes
    ----------
    treatment, outcome : str
        Names of the treatment and the outcome.
    strengths : tuple of (float, float)
        Coefficients of each cause in the treatment and in the outcome.
    effects : tuple of numpy.ndarray
        Draws of the effect under each cause.

    Examples
    --------
    >>> import numpy as np
    >>> from aimz.validation import ConfoundedGrid
    >>> draws = np.linspace(0.9, 1.1, 99)
    >>> grid = ConfoundedGrid("dose", "y", ((0.5, 0.0), (0.5, 1.0)), (draws, draws - 0.5))
    >>> grid.tipping_points().round(6).to_dict("records")
    [{'treatment': 0.5, 'outcome': 2.0, 'extrapolated': True}]
    """

    treatment: str
    outcome: str
    strengths: tuple[tuple[float, float], ...]
    effects: tuple[np.ndarray, ...]

    def table(self, *, ci_prob: float | None = None, ci_kind: str | None = None) -> "pd.DataFrame":
        """Return a table with a line for each cause.

        Parameters
        ----------
        ci_prob, ci_kind : optional
            Probability and kind of the interval; by default ArviZ's.

        Returns
        -------
        pandas.DataFrame
            Coefficients in ``treatment`` and ``outcome``, mean, sd and interval of the effect, and the probability that
            it is above 0.
        """
        interval = read_ci(ci_prob, ci_kind)
        return pd.DataFrame(
            [
                {"treatment": gamma, "outcome": delta, **aimz.output.sensitivity_line(draws, interval, 0.0)}
                for (gamma, delta), draws in zip(self.strengths, self.effects, strict=True)
            ]
        )

    def tipping_points(self) -> "pd.DataFrame":
        """Return the coefficient in the outcome at which the mean effect is 0, for each coefficient in the treatment.

        Returns
        -------
        pandas.DataFrame
            A line for each coefficient in the treatment with two or more fits: from the straight line between the two
            that are closest to 0, and whether it is beyond them.
        """
        lines = []
        for gamma in dict.fromkeys(gamma for gamma, _ in self.strengths):
            own = sorted(
                (delta, float(draws.mean()))
                for (one, delta), draws in zip(self.strengths, self.effects, strict=True)
                if one == gamma
            )
            pairs = list(pairwise(own))
            if not pairs or gamma == 0:
                continue
            between = [pair for pair in pairs if pair[0][1] * pair[1][1] <= 0]
            (low, at_low), (high, at_high) = (between or [min(pairs, key=lambda p: min(abs(p[0][1]), abs(p[1][1])))])[0]
            delta = low - at_low * (high - low) / (at_high - at_low)
            lines.append({"treatment": gamma, "outcome": delta, "extrapolated": not between})
        return pd.DataFrame(lines, columns=["treatment", "outcome", "extrapolated"])

    def __repr__(self) -> str:
        """Return the table and the tipping points as text."""
        lines = [f"Effect of `{self.treatment}` on `{self.outcome}` under hidden common causes of variance 1", ""]
        lines += self.table().to_string(index=False, float_format=lambda x: f"{x:.3g}").splitlines()
        points = self.tipping_points()
        if not points.empty:
            lines.append("")
        for gamma, delta, extrapolated in points.itertuples(index=False):
            beyond = ", beyond the fits" if extrapolated else ""
            lines.append(f"The effect is 0 for a cause of {gamma:.3g} on treatment and {delta:.3g} on outcome{beyond}.")
        return "\n".join(lines)
