"""Facts that reproduce a report: versions, keys, digests and the source of the kernel."""

__all__ = ["kernel_source", "posterior_digest", "reproduction_section"]

import hashlib
import inspect
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import numpy as np

from aimz._distribution import VERSION
from aimz.report import Block, Code, Facts, Section, Table

_PACKAGES = ("numpyro", "jax", "jaxlib", "numpy", "xarray", "arviz-stats")
_MAX_CODE = 400
"""Largest number of lines of the kernel that are shown."""


def kernel_source(kernel: Any) -> str:
    """Return the source of a kernel; empty if there is none."""
    try:
        return inspect.getsource(inspect.unwrap(kernel))
    except (OSError, TypeError):
        return ""


def posterior_digest(draws: Mapping[str, Any]) -> str:
    """Return the SHA-256 digest of posterior draws, by the name of their site, in order."""
    digest = hashlib.sha256()
    for name in sorted(draws):
        array = np.ascontiguousarray(draws[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(memoryview(array).cast("B") if array.size else b"")
    return digest.hexdigest()


def _versions() -> list[tuple[str, str]]:
    """Return the versions of packages, Python and the platform."""
    found = [("aimz", VERSION)]
    for name in _PACKAGES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, "not installed"))
    device = jax.devices()[0]
    return [
        *found,
        ("Python", platform.python_version()),
        ("platform", f"{platform.system()} {platform.machine()}"),
        ("device", f"{device.device_kind} ({device.platform}), {len(jax.devices())} of them"),
        ("precision", "64 bits" if jax.config.jax_enable_x64 else "32 bits"),
    ]


def reproduction_section(
    keys: Sequence[tuple[str, str]], digests: Sequence[tuple[str, str, str]], kernel: str, source: str
) -> Section:
    """Return the section with everything that identifies the computation.

    ``digests`` are names, shapes and digests of arrays.
    """
    blocks: list[Block] = [Facts(tuple(_versions()))]
    if keys:
        blocks.append(Table(("key of", "value"), tuple(keys), "Random keys"))
    if digests:
        cells = tuple((f"`{name}`", shape, f"`{digest}`") for name, shape, digest in digests)
        blocks.append(Table(("array", "shape", "digest"), cells, "Digests of the data of the fit and of the posterior"))
    lines = source.rstrip().split("\n")
    if source:
        more = [f"# {len(lines) - _MAX_CODE} more lines"] if len(lines) > _MAX_CODE else []
        digest = hashlib.sha256(source.encode()).hexdigest()
        blocks.append(Code("\n".join(lines[:_MAX_CODE] + more), f"Source of kernel `{kernel}`, SHA-256 `{digest}`:"))
    else:
        blocks.append(Facts(((kernel, "the source of the kernel is not available"),)))
    return Section("reproduce", "To reproduce this report", tuple(blocks))
