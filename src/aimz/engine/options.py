"""Options of a streamed call: one definition for defaults, checks and reserved names."""

__all__ = [
    "METHOD_PARAMETERS",
    "OPTION_NAMES",
    "RESERVED_PARAMETERS",
    "ResumableCall",
    "StreamingOptions",
    "pop_options",
    "read_options",
]

import os
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import aimz
from aimz.data import check_count, check_flag, read_output_dir
from aimz.errors import IncompleteResultError
from aimz.statistics import Reduction, read_statistics

if TYPE_CHECKING:
    from pathlib import Path

    from aimz.store import Journal, Location


@dataclass(frozen=True)
class ResumableCall:
    """An interrupted or complete call in an output directory."""

    location: "Location"
    journal: "Journal"
    complete: bool = False
    """Whether nothing is left to compute."""
    rows: str = ""
    """Digest of the rows of a complete call whose rows were digested while they were streamed."""


@dataclass(frozen=True)
class StreamingOptions:
    """Checked options of one call."""

    shard_axis: str = "obs"
    batch_size: int | None = None
    store: str = "persistent"
    output_dir: "Location | Path | None" = None
    resume: "ResumableCall | None" = None
    progress: bool = True
    statistics: Reduction | None = None
    """Statistics over draws to keep instead of the draws."""
    client: Any = None
    """Client of the Dask cluster to compute on; False for no cluster."""


OPTION_NAMES = tuple(field.name for field in fields(StreamingOptions))
"""Names of the options, as the public methods spell them."""

METHOD_PARAMETERS = frozenset(
    {
        *OPTION_NAMES,
        *("X", "y", "args", "as_dict", "checkpoint_dir", "condition", "epochs", "history", "in_sample", "intervention"),
        *("num_samples", "num_steps", "on_epoch_end", "return_datatree", "return_sites", "shuffle", "total_size"),
    }
)
"""Names of keyword arguments of the public methods; kernel arguments of these names are columns or in ``args``."""

RESERVED_PARAMETERS = frozenset(
    {"extra_fields", "forward_mode_differentiation", "init_params", "rng_key", "sample_shape", "self"}
)
"""Names that a kernel parameter must not have, since NumPyro's functions that call the kernel have such parameters."""


def pop_options(arguments: dict[str, Any]) -> StreamingOptions:
    """Remove the streaming options from keyword arguments and return them, checked."""
    return read_options(**{name: arguments.pop(name) for name in OPTION_NAMES if name in arguments})


def read_options(
    *,
    shard_axis: Any = StreamingOptions.shard_axis,
    batch_size: Any = StreamingOptions.batch_size,
    store: Any = StreamingOptions.store,
    output_dir: Any = StreamingOptions.output_dir,
    resume: Any = StreamingOptions.resume,
    progress: Any = StreamingOptions.progress,
    statistics: Any = StreamingOptions.statistics,
    client: Any = StreamingOptions.client,
) -> StreamingOptions:
    """Check options before any work, and before any directory is made.

    Raises
    ------
    TypeError, ValueError
        If a choice is unknown, or two options exclude each other.
    OSError
        If ``output_dir`` cannot be reached or written, or ``resume`` does not exist.
    ImportError
        If the package for a kind of URL is missing.
    """
    for name, value, known in (("store", store, ("persistent", "memory")), ("shard_axis", shard_axis, ("obs", "draw"))):
        if value not in known:
            msg = f"`{name}` must be {known[0]!r} or {known[1]!r}; got {value!r}."
            raise ValueError(msg)
    options = StreamingOptions(
        shard_axis=shard_axis,
        batch_size=None if batch_size is None else check_count(batch_size, "batch_size"),
        store=store,
        progress=check_flag(progress, "progress"),
        statistics=read_statistics(statistics),
        client=_check_client(client, shard_axis),
    )
    if store == "memory":
        for name, value in (("output_dir", output_dir), ("resume", resume)):
            if value is not None:
                msg = f"`{name}` must be left out where `store='memory'`, which writes nothing; got {str(value)!r}."
                raise ValueError(msg)
        return options
    if output_dir is not None:
        # A plain path is checked without importing zarr.
        output_dir = read_output_dir(output_dir) if _is_path(output_dir) else _read_location(output_dir, "output_dir")
    if resume is not None:
        parent = None if output_dir is None else aimz.store.as_location(output_dir)
        resume = _read_resumable(_find_resumable(resume, parent))
        output_dir = resume.location.parent
    return replace(options, output_dir=output_dir, resume=resume)


def _is_path(given: Any) -> bool:
    """Return whether a value is a local path."""
    return isinstance(given, str | os.PathLike) and "://" not in str(given)


def _read_location(given: Any, name: str, *, call: bool = False) -> "Location":
    """Return the location that an option names, checked to be reachable."""
    if _is_path(given):
        return aimz.store.Directory(read_output_dir(given, name))
    location = aimz.store.read_location(given, name, call=call)
    if location.local:
        return aimz.store.Directory(read_output_dir(str(location), name))
    location.check(name)
    return location


def _find_resumable(resume: Any, top: "Location | None") -> "Location":
    """Return the location of the call to finish."""
    if top is not None and not top.local and isinstance(resume, str) and "/" not in resume:
        location = top / resume  # the name of the call in the store of `output_dir`
    else:
        location = _read_location(resume, "resume", call=True)
    if not location.exists():
        msg = f"`resume` must be the directory of an interrupted call; there is no {location}. Its error named it."
        raise FileNotFoundError(msg)
    if top is not None and str(location.parent) != str(top):
        msg = f"`resume` must be inside `output_dir`; got {location} and {top}. Leave `output_dir` out."
        raise ValueError(msg)
    return location


def _read_resumable(location: "Location") -> ResumableCall:
    """Return the journal of a call and whether the call is complete."""
    root = location.get("zarr.json")
    if not aimz.store.is_unfinished(location, root):
        result = aimz.store.check_result(location)
        journal = aimz.store.Journal(location, result.fingerprint, result.created_at)
        return ResumableCall(location, journal, complete=True, rows=result.rows)
    unfinished = aimz.store.Journal.read(location)
    if unfinished is not None:
        return ResumableCall(location, unfinished)
    if root is not None or aimz.store.Journal.exists(location):
        msg = (
            f"The interrupted call in {location} cannot be resumed: its journal is missing or damaged. Call again "
            "without `resume`."
        )
        raise IncompleteResultError(msg)
    msg = (
        f"`resume` must be the directory of an interrupted call; {location} has no journal. Call again without it, or "
        "with the directory that the error named."
    )
    raise ValueError(msg)


def _check_client(client: Any, shard_axis: str) -> Any:
    """Raise if the client of a cluster is asynchronous or cannot be used for this call."""
    if client is None or client is False:
        return client
    if not all(hasattr(client, name) for name in ("register_plugin", "submit", "scheduler")):
        msg = (
            f"`client` must be a `distributed.Client`, or False for none; got {type(client).__name__}. Create one: "
            "`Client(cluster)`."
        )
        raise TypeError(msg)
    if client.asynchronous:
        msg = "`client` must be synchronous; got an asynchronous one. Create it by `Client(address)`."
        raise TypeError(msg)
    if shard_axis == "draw":
        msg = "`client` distributes rows, so it excludes `shard_axis='draw'`. Leave one of them out."
        raise ValueError(msg)
    return client
