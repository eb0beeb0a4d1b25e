"""Names of sites and plates that can be stored in a result."""

__all__ = ["is_storable", "name_faults"]

import re
from collections.abc import Iterator

from aimz.kernel.signature import KernelSignature
from aimz.kernel.tracing import KernelTrace

_MAX_NAME_BYTES = 255
"""Largest length of a site name, and of a name in file systems."""
_RESERVED_DIMS = frozenset({"chain", "draw", "sample", "pred_id"})


def is_storable(name: object) -> bool:
    """Return whether a result can be stored under this site name, in a directory of its own on any system."""
    if not isinstance(name, str) or re.fullmatch(r"\.{0,2}|__.*", name) or re.search(r"[/\\\x00-\x1f]", name):
        return False
    return len(name.encode(errors="replace")) <= _MAX_NAME_BYTES and not re.search("[\ud800-\udfff]", name)


def name_faults(trace: KernelTrace, signature: KernelSignature) -> Iterator[str]:
    """Yield an error text for each site or plate whose name cannot be used in a result."""
    for site in trace.sites:
        name = site.name
        if not is_storable(name):
            yield (
                f"Site name {name!r} cannot be stored: a name must not be empty, '.' or '..', begin with '__', contain "
                f"a '/', a '\\' or a control character, or have more than {_MAX_NAME_BYTES} bytes. Rename the site; "
                "`random_nnx_module` and `random_eqx_module` take `scope_divider='.'`."
            )
        elif name in (signature.param_input, *signature.extra):
            yield (
                f"Site `{name}` has the name of a kernel parameter, so an intervention on `{name}` could mean "
                "either. Rename the site or the parameter."
            )
        elif name in trace.plates or name in _RESERVED_DIMS:
            yield (
                f"Site `{name}` has the name of a dimension of the results (a plate, or one of "
                f"{', '.join(sorted(_RESERVED_DIMS))}). Rename the site or the plate."
            )
    reserved = sorted(trace.plates & _RESERVED_DIMS)
    if reserved:
        yield f"Plate name `{reserved[0]}` is reserved for a sampling dimension of every result. Rename the plate."
