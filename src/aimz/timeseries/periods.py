"""Periods of rows, and the event that starts in one of them."""

__all__ = ["Event", "Periods", "name_of"]

from dataclasses import dataclass
from typing import Any

import numpy as np

from aimz._imports import pandas as pd


@dataclass(frozen=True)
class Periods:
    """The periods of rows, in order."""

    labels: "pd.Index"
    """Label of each period, sorted."""
    codes: np.ndarray
    """Number of the period of each row."""
    name: str = "period"
    """Name of the dimension."""

    @staticmethod
    def of(given: Any, name: str = "period") -> "Periods":
        """Return the periods of rows from their labels, in any order.

        Raises
        ------
        ValueError
            If labels are missing, or cannot be sorted.
        """
        index = pd.Index(given if type(given).__module__.startswith("pandas") else np.asarray(given))
        missing = np.asarray(index.isna())
        if missing.any():
            msg = (
                f"`period` must have a label for each row; {int(missing.sum()):,} of {len(index):,} are missing (the "
                f"first in row {int(missing.argmax())}). Give every row its period, or drop these rows."
            )
            raise ValueError(msg)
        try:
            codes, labels = pd.factorize(index, sort=True)
        except TypeError as error:
            msg = f"`period` must have labels that can be sorted; got a mixture of types ({error}). Use one type."
            raise ValueError(msg) from error
        return Periods(pd.Index(labels).rename(None), np.asarray(codes), name)

    def __len__(self) -> int:
        """Return the number of periods."""
        return len(self.labels)

    def find(self, label: Any, option: str) -> int:
        """Return the number of a period.

        Raises
        ------
        ValueError
            If it is not one of the periods; the error names the closest ones.
        """
        try:
            wanted = pd.Index([label]) if self.labels.dtype == object else pd.Index([label]).astype(self.labels.dtype)
            if isinstance(self.labels, pd.DatetimeIndex):
                moment = pd.Timestamp(label)
                zone = self.labels.tz
                if zone is not None:
                    moment = moment.tz_localize(zone) if moment.tzinfo is None else moment.tz_convert(zone)
                wanted = pd.Index([moment])
            found = int(self.labels.get_indexer(wanted)[0])
        except (TypeError, ValueError, OverflowError):
            wanted, found = None, -1
        if found >= 0 and not (isinstance(label, str) and self.labels.dtype.kind in "iufb"):
            return found
        msg = (
            f"`{option}` must be one of the {len(self):,} periods, {name_of(self.labels[0])} to "
            f"{name_of(self.labels[-1])}; got {label!r}. {self._nearest(wanted)}"
        )
        raise ValueError(msg)

    def _nearest(self, wanted: "pd.Index | None") -> str:
        """Return advice that names the periods around a label."""
        try:
            place = 0 if wanted is None else int(self.labels.searchsorted(wanted[0]))
        except TypeError:
            place, wanted = 0, None
        around = [name_of(label) for label in self.labels[max(0, place - 1) : place + 1]]
        if wanted is None or not around:
            return f"Pass a label such as {name_of(self.labels[len(self) // 2])!r}."
        return f"The closest {'one is' if len(around) == 1 else 'ones are'} {' and '.join(around)}; pass one of them."


@dataclass(frozen=True)
class Event:
    """An event, by the numbers of the periods that it affects."""

    first: int
    """First period of the event."""
    stop: int
    """Period after the last one of the event."""

    @staticmethod
    def of(periods: Periods, start: Any, end: Any) -> "Event":
        """Return the event between two periods, both of which it includes.

        Raises
        ------
        ValueError
            If there is no period before it, or it ends before it starts.
        """
        first = periods.find(start, "start")
        stop = len(periods) if end is None else 1 + periods.find(end, "end")
        if first == 0:
            msg = (
                f"`start` must have periods before it, to which the model is fitted; got {name_of(periods.labels[0])}, "
                f"the first of {len(periods):,}. Pass data of earlier periods, or a later `start`."
            )
            raise ValueError(msg)
        if stop <= first:
            msg = (
                f"`end` must be `start` or later, since the event lasts from one to the other; got `start` "
                f"{name_of(periods.labels[first])} and `end` {name_of(periods.labels[stop - 1])}. Exchange them."
            )
            raise ValueError(msg)
        return Event(first, stop)


def name_of(label: Any) -> str:
    """Return a period as text: a date without a time of day if there is none."""
    if isinstance(label, pd.Timestamp | np.datetime64):
        moment = pd.Timestamp(label)
        return str(moment.date()) if moment == moment.normalize() else str(moment)
    return str(label)
