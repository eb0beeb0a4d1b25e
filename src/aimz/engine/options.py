"""How a call is to be streamed: the one door for the options that streaming methods share."""

__all__ = ["StreamingOptions", "read_streaming"]

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from aimz._imports import begin_imports
from aimz.data import check_count, read_output_dir
from aimz.statistics import Reduction, read_statistics

if TYPE_CHECKING:
    from pathlib import Path

    from aimz.store import Location


@dataclass(frozen=True)
class StreamingOptions:
    """Checked options of one call."""

    shard_axis: str = "obs"
    batch_size: int | None = None
    store: str = "persistent"
    output_dir: "Location | Path | None" = None
    resume: "Location | None" = None
    """Where a call lies that is to be finished."""
    journal: Any = None
    """What that call left behind."""
    complete: bool = False
    """Whether it has nothing left to compute."""
    rows: str = ""
    """Digest of the rows of a complete call, if they came from an iterable."""
    progress: bool = True
    statistics: Reduction | None = None
    """What is kept instead of draws."""
    client: Any = None
    """Of the cluster to compute on."""


def read_streaming(
    shard_axis: Any,
    batch_size: Any,
    store: Any,
    output_dir: Any,
    resume: Any,
    progress: Any,
    statistics: Any = None,
    client: Any = None,
) -> StreamingOptions:
    """Check options before any work, and before any directory is made.

    Raises
    ------
    TypeError, ValueError
        If a choice is unknown, or two do not go together.
    OSError
        If ``output_dir`` cannot be reached or written, or ``resume`` is not there.
    ImportError
        If a package for their kind of URL is missing.
    """
    begin_imports()
    for name, value, known in (("store", store, ("persistent", "memory")), ("shard_axis", shard_axis, ("obs", "draw"))):
        if value not in known:
            msg = f"`{name}` must be {known[0]!r} or {known[1]!r}; got {value!r}."
            raise ValueError(msg)
    batch_size = None if batch_size is None else check_count(batch_size, "batch_size")
    make = partial(
        StreamingOptions,
        shard_axis,
        batch_size,
        store,
        progress=bool(progress),
        statistics=read_statistics(statistics),
        client=_read_client(client, shard_axis),
    )
    if store == "memory":
        for name, value in (("output_dir", output_dir), ("resume", resume)):
            if value is not None:
                msg = f"`{name}` must be left out where `store='memory'`, which writes nothing; got {str(value)!r}."
                raise ValueError(msg)
        return make()
    if output_dir is None and resume is None:
        return make()
    top: Any = None
    if output_dir is not None:  # of a plain path no package is needed yet
        top = read_output_dir(output_dir) if _is_path(output_dir) else _place(output_dir, "output_dir")
    if resume is None:
        return make(output_dir=top)
    from aimz.store import as_location

    return make(**_taken_up(_interrupted(resume, None if top is None else as_location(top))))


def _is_path(given: Any) -> bool:
    return isinstance(given, str | os.PathLike) and "://" not in str(given)


def _place(given: Any, name: str, *, call: bool = False) -> "Location":
    """Return where results are to go to, or a call lies, and refuse a place that cannot be reached."""
    from aimz.store import Directory, read_location

    if _is_path(given):
        return Directory(read_output_dir(given, name))
    location = read_location(given, name, call=call)
    if location.local:
        return Directory(read_output_dir(str(location), name))
    location.check(name)
    return location


def _interrupted(resume: Any, top: "Location | None") -> "Location":
    """Return where the call lies that is to be finished."""
    if top is not None and not top.local and isinstance(resume, str) and "/" not in resume:
        location = top / resume  # by its name, in the store it lies in
    else:
        location = _place(resume, "resume", call=True)
    if not location.exists():
        msg = f"`resume` must be the directory of an interrupted call; there is no {location}. Its error named it."
        raise FileNotFoundError(msg)
    if top is not None and str(location.parent) != str(top):
        msg = f"`resume` must lie in `output_dir`; got {location} and {top}. Leave `output_dir` out."
        raise ValueError(msg)
    return location


def _taken_up(location: "Location") -> dict[str, Any]:
    """Return what a call left behind, as options of the one that goes on with it."""
    from aimz.store import Journal, check_result

    complete, rows = location.has("zarr.json"), ""
    if complete:
        state = check_result(location)
        rows = state["rows"]
        journal: Any = Journal(location, state["fingerprint"], state["created_at"])
    else:
        journal = Journal.read(location)
    if journal is None or not journal.fingerprint:
        msg = f"`resume` must be the directory of an interrupted call; {location} has no journal of one. Predict anew."
        raise ValueError(msg)
    return {
        "output_dir": location.parent,
        "resume": location,
        "journal": journal,
        "complete": complete,
        "rows": rows,
    }


def _read_client(client: Any, shard_axis: str) -> Any:
    """Return the client of a cluster, and refuse one that cannot be waited for."""
    if client is None or client is False:
        return client
    if not all(hasattr(client, name) for name in ("register_plugin", "submit", "scheduler")):
        msg = (
            f"`client` must be a `distributed.Client`, or False for none; got {type(client).__name__}. Make one: "
            "`Client(cluster)`."
        )
        raise TypeError(msg)
    if client.asynchronous:
        msg = "`client` must be one that waits; got an asynchronous one. Make it by `Client(address)`."
        raise TypeError(msg)
    if shard_axis == "draw":
        msg = "`client` hands out rows, so it does not go with `shard_axis='draw'`. Leave one of them out."
        raise ValueError(msg)
    return client
