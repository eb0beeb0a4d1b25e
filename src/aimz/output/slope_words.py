"""Sentences about slopes and elasticities."""

__all__ = ["slope_claim"]

from collections.abc import Callable

_CLAIMS = {
    "dydx": ("{what} changes by {size} for each unit of `{lever}`", 1.0),
    "dyex": ("{what} changes by {size} for each percent of `{lever}`", 0.01),
    "eyex": ("{what} changes by {size} % for each percent of `{lever}`", 1.0),
    "eydx": ("{what} changes by {size} % for each unit of `{lever}`", 100.0),
    "total": ("the total of {what} changes by {size} % for each percent of `{lever}`", 1.0),
}
"""Kind of a slope to its sentence, and the factor by which the sentence multiplies the number."""


def slope_claim(
    kind: str, lever: str, what: str, numbers: tuple[float, float, float], text: Callable[[float], str]
) -> tuple[str, str] | None:
    """Return the claim about a slope and its interval, or None if it is another contrast.

    ``numbers`` are the mean and the bounds of the interval.
    """
    if kind not in _CLAIMS:
        return None
    words, factor = _CLAIMS[kind]
    mean, low, high = (text(factor * number) for number in numbers)
    return words.format(lever=lever, what=what, size=mean) + " on average", f"{low} to {high}"
