"""Effects as sentences."""

__all__ = ["format_table", "in_words", "sentences_of"]

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from aimz.kernel import OBSERVED, name_settings
from aimz.output.impact_trees import QUANTITY, READING, placebo_sentence
from aimz.output.result_text import tree_of
from aimz.output.scenario_trees import SCENARIO
from aimz.output.slope_words import slope_claim
from aimz.output.summaries import summary
from aimz.statistics import Statistic


def in_words(
    effects: Any,
    *,
    ci_prob: float | None = None,
    ci_kind: str | None = None,
    hdi_prob: float | None = None,
    rope: tuple[float, float] | None = None,
) -> list[str]:
    """Return a sentence for each effect, with the numbers of :func:`summary`.

    Lifts are in percent, and changes of a probability in percentage points.

    Parameters
    ----------
    effects, ci_prob, ci_kind, hdi_prob, rope
        As in :func:`summary`.

    Returns
    -------
    list of str
        One sentence for each line of the table, in its order; one more about placebo events.

    Examples
    --------
    >>> import numpy as np, xarray as xr, aimz
    >>> draws = xr.DataArray(np.linspace(-1.0, 3.0, 1001)[None], dims=("chain", "draw"), name="gain")
    >>> print(*aimz.in_words(draws))
    `gain` is 1 on average (89 % interval -0.78 to 2.78); above 0 with probability 74.9 %, so which way it goes is open.
    """
    table = summary(effects, ci_prob=ci_prob, ci_kind=ci_kind, hdi_prob=hdi_prob, rope=rope)
    tree = tree_of(effects)
    return sentences_of(table, rope) + (placebo_sentence(tree) if isinstance(tree, xr.DataTree) else [])


def sentences_of(table: pd.DataFrame, rope: tuple[float, float] | None = None) -> list[str]:
    """Return a sentence for each line of a table that :func:`summary` returned."""
    interval = Statistic(table.attrs["interval_kind"], table.attrs["interval_prob"])
    found = []
    hidden = zip(table.attrs["line_groups"], table.attrs["line_below"], strict=True)
    of_event = table.attrs["event"] and {READING, QUANTITY} <= set(table.attrs["dims"])
    sentence = _EventSentence if of_event else _Sentence
    for line, (groups, below) in zip(table.to_dict("records"), hidden, strict=True):
        text = sentence(line, groups, below, table.attrs, interval).text(rope)
        found.append(text[0].upper() + text[1:])
    return found


def format_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of :func:`summary` with numbers as text, in percent or percentage points where these apply."""
    interval = Statistic(table.attrs["interval_kind"], table.attrs["interval_prob"])
    names = ["mean", "sd", *interval.labels]
    text = table.astype(dict.fromkeys(names, object))
    for i, line in enumerate(table.to_dict("records")):
        sentence = _Sentence(line, [], 0.0, table.attrs, interval)
        for name in names:
            text.loc[i, name] = sentence.number(line[name], unit=False) + (" pp" if sentence.in_points else "")
    for name in table.columns:
        if str(name).startswith("P("):
            # Rounded as in the sentences.
            text[name] = [f"{float(f'{100 * share:.3g}') / 100:.3f}" for share in table[name]]
    return text


_ROUNDING = 1e-6
"""Size of numbers that are rounding errors of 32 bits, relative to the effect."""


@dataclass(frozen=True)
class _Sentence:
    """A line of a table, as a sentence."""

    line: dict[Any, Any]
    groups: list[str]
    """Dimensions of the groups of rows that the line is about."""
    below: float
    """Share of the draws below no effect."""
    about: dict[str, Any]
    """Attributes of the table."""
    interval: Statistic

    @property
    def null(self) -> float:
        """Value of the contrast if there is no effect."""
        return float(self.about["no_effect"])

    @property
    def contrast(self) -> str:
        """Name of the contrast; empty if the draws do not belong to scenarios."""
        return str(self.about["contrast"]) if SCENARIO in self.line else ""

    @property
    def is_missing(self) -> bool:
        """Whether some draws have no value."""
        return math.isnan(self.line[f"P(>{self.null:g})"])

    @property
    def in_points(self) -> bool:
        """Whether the effect is a difference of probabilities, in percentage points."""
        return self.contrast == "difference" and self.about["scales"].get(self.line["site"]) == "probability"

    @property
    def bounds(self) -> tuple[float, float]:
        """Bounds of the interval."""
        low, high = (self.line[name] for name in self.interval.labels)
        return low, high

    def number(self, x: float, *, unit: bool = True) -> str:
        """Return a number with so many significant digits that the spread is visible, and at least three."""
        size = max(abs(self.line["mean"]), *map(abs, self.bounds), 1e-300)
        relative = self.line["sd"] / size
        digits = min(7, max(3, 2 - math.ceil(math.log10(relative)))) if _ROUNDING < relative < math.inf else 3
        if abs(x) < _ROUNDING * size:
            x = 0.0
        if self.contrast == "lift":
            return f"{_digits(100 * x, digits)} %"
        if self.in_points:
            return _digits(100 * x, digits) + (" percentage points" if unit else "")
        return _digits(x, digits)

    def text(self, rope: tuple[float, float] | None) -> str:
        """Return the sentence, and one about a region of practical equivalence."""
        what, mean, (low, high) = self._subject(), self.line["mean"], self.bounds
        scenario, baseline = self._name(self.line.get(SCENARIO)), self._name(self.about["baseline"])
        if self.is_missing:
            sides = f" under {scenario} against {baseline}" if self.contrast else ""
            quantity = f"{self.contrast or 'mean'} that can be computed{sides}"
            return f"{self._where()}{what} has no {quantity}: some of its draws have no value."
        between = f"{self.number(low, unit=False)} to {self.number(high)}"
        if not self.contrast:
            claim = f"{what} is {self.number(mean)} on average"
        elif mean == self.null and self.line["sd"] == 0:
            return f"{self._where()}{what} is on average the same under {scenario} and {baseline}."
        elif (slope := slope_claim(self.contrast, scenario, what, (mean, low, high), self.number)) is not None:
            claim, between = slope
        elif self.contrast in ("difference", "lift") and not self.about["negative"]:
            way = "higher" if mean >= 0 else "lower"
            claim = f"{what} is on average {self.number(abs(mean))} {way} {_under(scenario)} than {_under(baseline)}"
            between = self._between()
        elif self.contrast == "ratio":
            than = f"{_under(scenario)} what it is {_under(baseline)}"
            claim = f"{what} is on average {self.number(mean)} times {than}"
        else:
            contrast = "contrast" if self.contrast == "<lambda>" else self.contrast
            claim = f"the {contrast} of {what} {_under(scenario)} and {_under(baseline)} is {self.number(mean)}"
        sentence = f"{self._where()}{claim} ({self._level()} {between}); {self._probability()}{self._caveat()}."
        return sentence if rope is None else sentence + self._rope(rope)

    def _level(self) -> str:
        """Return the name of the interval."""
        kind = "" if self.interval.kind == "eti" else f"{self.interval.kind.upper()} "
        return f"{100 * self.interval.at:g} % {kind}interval"

    def _rope(self, rope: tuple[float, float]) -> str:
        """Return a sentence with the probability of a region of practical equivalence."""
        inside = _percent(self.line["P(in ROPE)"], self.about["n_draws"])
        low, high = self.number(rope[0], unit=False), self.number(rope[1])
        return f" It lies between {low} and {high} with probability {inside}."

    def _between(self) -> str:
        """Return the interval of a change, with its directions."""
        low, high = self.bounds
        if low >= 0:
            return f"{self.number(low, unit=False)} to {self.number(high)} higher"
        if high <= 0:
            return f"{self.number(-high, unit=False)} to {self.number(-low)} lower"
        return f"{self.number(-low, unit=False)} lower to {self.number(high)} higher"

    def _probability(self) -> str:
        """Return the probability of the direction of the mean."""
        is_below = self.line["mean"] < self.null
        share = self.below if is_below else self.line[f"P(>{self.null:g})"]
        way = "below" if is_below else "above"
        return f"{way} {self.null:g} with probability {_percent(share, self.about['n_draws'])}"

    def _caveat(self) -> str:
        """Return that the sign is open, or that a few draws determine the mean."""
        mean, (low, high) = self.line["mean"], self.bounds
        if low <= self.null <= high and low < high:
            return ", so which way it goes is open"
        if mean > self.null > high or mean < self.null < low:
            return ", since a few draws far from the others determine the average"
        return ""

    def _where(self) -> str:
        """Return the group of rows that the sentence is about."""
        groups = [f"{dim} {self.line[dim]}" for dim in self.groups]
        return f"For {', '.join(groups)}: " if groups else ""

    def _subject(self) -> str:
        """Return the number that the sentence is about."""
        dims = [dim for dim in self.about["dims"] if dim not in (*self.about["groups"], SCENARIO)]
        others = [f"{dim} {self.line[dim]}" for dim in dims if str(self.line[dim])]
        site, kind = self.line["site"], self.about["kinds"].get(self.line["site"])
        if self.about["scales"].get(site) == "probability":
            what = f"{_SHARES[kind]} `{site}`"
        else:
            what = _VALUES.get(kind, "") + f"`{site}`"
        return what + (f" ({', '.join(others)})" if others else "")

    def _name(self, scenario: Any) -> str:
        """Return the name of a scenario; the number of a sweep with the name of the variable."""
        settings = json.loads(self.about["interventions"]).get(str(scenario), {})
        is_number = isinstance(scenario, int | float) or (isinstance(scenario, str) and _is_number(scenario))
        return name_settings(settings) if is_number and len(settings) == 1 else str(scenario)


class _EventSentence(_Sentence):
    """A line about the effect of an event, as a sentence."""

    @property
    def contrast(self) -> str:
        """Kind of the number, which determines its unit."""
        return "lift" if self.line[QUANTITY] == "relative" else "difference"

    @property
    def change(self) -> float:
        """Mean of the difference, whose sign is the direction of all quantities."""
        return float(self.line["observed"] - self.line["counterfactual"])

    def text(self, rope: tuple[float, float] | None) -> str:
        """Return the sentence, and one about a region of practical equivalence."""
        event, quantity, site = self.about["event"], self.line[QUANTITY], f"`{self.line['site']}`"
        lasts = event["event_start"] != event["event_end"]
        when = f"from {event['event_start']} to {event['event_end']}" if lasts else f"in {event['event_start']}"
        if self.is_missing:
            what = "relative effect: the total without the event is not above 0 in every draw"
            what = what if quantity == "relative" else f"{quantity} effect that can be computed: some draws are NaN"
            return f"{self._where()}{when}, {site} has no {what}."
        if self.line[READING] == "mean":
            than = f"than the expected {site} without the event"
        else:
            than = "than it would have been without the event"
        mean = self.line["mean"]
        per = {"average": f" per {event['period_dim']}", "cumulative": " in total", "relative": ""}[quantity]
        way = "higher" if self.change >= 0 else "lower"
        # The mean of a ratio may have another sign than the mean of the difference.
        size = f"{self.number(abs(mean))} {way}" if mean * self.change >= 0 else f"{way}, relatively,"
        sentence = (
            f"{self._where()}{when}, {site} was{' on average' if quantity == 'average' else ''} {size}{per} {than} "
            f"({self._level()} {self._between()}); {self._probability()}{self._caveat()}."
        )
        return sentence if rope is None else sentence + self._rope(rope)

    def _probability(self) -> str:
        """Return the probability of the direction of the effect, from its draws."""
        is_below = self.change < 0
        share = self.below if is_below else self.line["P(>0)"]
        return f"{'below' if is_below else 'above'} 0 with probability {_percent(share, self.about['n_draws'])}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _under(scenario: str) -> str:
    """Return a scenario with its preposition."""
    return scenario if scenario == OBSERVED else f"under {scenario}"


def _digits(x: float, digits: int) -> str:
    """Return a number with its significant digits, without an exponent."""
    return np.format_float_positional(x, precision=digits, unique=False, fractional=False, trim="-")


def _percent(p: float, n_draws: int) -> str:
    """Return a probability, not closer to 0 or 1 than one draw of ``n_draws`` can resolve."""
    if p in (0.0, 1.0):
        return f"{'under' if p == 0 else 'over'} {100 * (p + (1 if p == 0 else -1) / n_draws):.4g} %"
    text = f"{100 * p:.3g} %"
    return "over 99.9 %" if text == "100 %" else text


_SHARES = {
    "expected": "the probability of",
    "outcome": "the drawn share of",
    "counterfactual": "the counterfactual share of",
}
_VALUES = {"expected": "expected ", "outcome": "drawn ", "counterfactual": "counterfactual "}
"""Words for the values that are averaged, by kind."""
