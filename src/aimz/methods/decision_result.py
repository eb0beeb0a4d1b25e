"""The result of a choice of levers."""

__all__ = ["DecisionResult"]

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class DecisionResult:
    """An action with its value, and how sure it is to be the best."""

    action: "pd.DataFrame"
    """Table with a line for each group (one without ``by``): the levers, the mean value, and the probability that they
    are the best of the compared actions."""
    value: np.ndarray
    """Average value of a row under the action, draw by draw."""
    today: np.ndarray | None
    """Average value of a row with the levers as they are; None if a lever is not in the data."""
    probability_best: float
    """Probability that the action is the best of the compared ones, on average over groups by their weight."""
    regret: np.ndarray
    """Value of the best action for each draw minus the value of the action: the best in the intervals or lists."""
    notes: tuple[str, ...]
    """Sentences about bounds, the support of the data, and optimism."""

    @property
    def gain(self) -> np.ndarray | None:
        """Value of the action minus today's, draw by draw; None if today's is not known."""
        return None if self.today is None else self.value - self.today

    @property
    def value_of_information(self) -> float:
        """Expected gain of knowing the parameters before acting: the mean of the regret."""
        return float(self.regret.mean())

    def __str__(self) -> str:
        """Return the action, its value and the notes as text."""
        low, high = np.quantile(self.value, [0.055, 0.945])
        lines = [self.action.to_string(index=False, float_format=lambda x: f"{x:.4g}"), ""]
        lines.append(f"Value per row: {self.value.mean():.4g} (89 % interval {low:.4g} to {high:.4g}).")
        if self.gain is not None:
            low, high = np.quantile(self.gain, [0.055, 0.945])
            above = 100 * (self.gain > 0).mean()
            lines.append(
                f"Against today: {self.gain.mean():+.4g} ({low:.4g} to {high:.4g}), above 0 in {above:.3g} % of draws."
            )
        lines.append(
            f"Best of the compared actions with probability {100 * self.probability_best:.3g} %; perfect information "
            f"is worth {self.value_of_information:.3g} per row."
        )
        return "\n".join([*lines, *(f"- {note}." for note in self.notes)])

    __repr__ = __str__
