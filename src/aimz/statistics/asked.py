"""Which statistics are wanted instead of draws: the one door for ``statistics=``."""

__all__ = ["read_interval", "read_statistics"]

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any

from aimz.statistics.draws import Statistic, Statistics


def read_statistics(given: Any) -> Statistics | None:
    """Return what a call asks for instead of draws; None if it wants the draws.

    Raises
    ------
    TypeError, ValueError
        If something is asked for that is no statistic; the known ones are listed.
    """
    if given is None:
        return None
    if isinstance(given, str | Real) or not isinstance(given, Iterable):
        given = (given,)
    asked = list(given)
    parts = tuple(_read(one, asked) for one in asked)
    labels = Statistics(parts).labels
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if not parts or twice:
        got = f"{twice[0]!r} twice" if twice else "none"
        msg = f"`statistics` must name at least one statistic, and each once; got {got}. {_KNOWN}"
        raise ValueError(msg)
    return Statistics(parts)


_KNOWN = (
    "Known: 'mean', 'sd', numbers between 0 and 1 (quantiles), 'interval' (of ArviZ's default level and kind), "
    "('eti', 0.9), ('hdi', 0.9), and ('exceeds', c) for P(> c)."
)


def _read(one: Any, asked: Sequence[Any]) -> Statistic:
    if isinstance(one, str) and one in ("mean", "sd"):
        return Statistic(one)
    if isinstance(one, str) and one == "interval":
        return read_interval()
    if isinstance(one, Real) and not isinstance(one, bool) and 0 <= float(one) <= 1:
        return Statistic("quantile", float(one))
    if isinstance(one, tuple | list) and len(one) == 2 and isinstance(one[1], Real) and not isinstance(one[1], bool):
        kind, at = one[0], float(one[1])
        if kind == "exceeds" and at == at:
            return Statistic(kind, at)
        if kind in ("eti", "hdi") and 0 < at < 1:
            return Statistic(kind, at)
    pair = asked and isinstance(asked[0], str) and asked[0] in ("exceeds", "eti", "hdi")
    hint = f" Put it in brackets, `statistics=({asked!r},)`." if pair else ""
    msg = f"`statistics` must be known; got {one!r}.{hint} {_KNOWN}"
    raise ValueError(msg)


def read_interval(prob: float | None = None, kind: str | None = None) -> Statistic:
    """Return an interval, of ArviZ's default level and kind where none is given.

    Those are ``rcParams["stats.ci_prob"]`` and ``rcParams["stats.ci_kind"]``, or 0.89 and "eti" where ArviZ is not
    installed.
    """
    if prob is None or kind is None:
        try:
            from arviz_base import rcParams
        except ImportError:
            rcParams = {"stats.ci_prob": 0.89, "stats.ci_kind": "eti"}
        prob = rcParams["stats.ci_prob"] if prob is None else prob
        kind = rcParams["stats.ci_kind"] if kind is None else kind
    return Statistic(str(kind), float(prob))
