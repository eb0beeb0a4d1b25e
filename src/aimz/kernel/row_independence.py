"""May the rows of a kernel be computed in blocks?  Only if no row sees another, or how many there are.

Three tests, and a kernel must pass them all: its sites must not have joint distributions over rows (here), its program
must not carry anything across rows (:mod:`aimz.kernel.row_jaxpr`), and when it runs, rows that are left alone must keep
their bits whatever becomes of the others (:func:`aimz.forward.rows_apart`).
"""

__all__ = ["site_obstacle"]

from collections.abc import Iterable

from aimz.kernel.spec import KernelSpec, Role, Site


def site_obstacle(spec: KernelSpec, *, drawn: frozenset[str], returned: Iterable[str], scored: bool) -> str | None:
    """Return why the sites of a kernel do not allow it to be cut into rows, or None.

    ``drawn`` are the sites whose value is drawn in this call; ``scored`` says that ``returned`` are scored instead.
    """
    if spec.fixed_size:
        return "it takes one number of rows only"
    returned = frozenset(returned)
    with_rows = {site.name for site in spec.sites if site.row_axes} | spec.arguments_by_row
    for site in spec.sites:
        if site.role in (Role.FACTOR, Role.MUTABLE) or (site.role is Role.DETERMINISTIC and site.name not in returned):
            continue
        reason = _of_site(site, drawn=site.name in drawn, returned=site.name in returned, scored=scored)
        if reason is None and not site.row_axes and site.parents & with_rows and site.name in (drawn | returned):
            reason = f"site `{site.name}`, which has no row axis, is computed from the rows"
        if reason is not None:
            return reason
    return None


def _of_site(site: Site, *, drawn: bool, returned: bool, scored: bool) -> str | None:
    if not site.row_axes:
        inside = drawn and site.in_control_flow
        return f"site `{site.name}`, which has no row axis, is drawn inside a `scan` or `cond`" if inside else None
    if len(site.row_axes) > 1 or site.shape[site.row_axes[0]] != "n_obs":
        return f"site `{site.name}` has shape {site.shape}"
    event_dim = site.event_dim if scored and returned else site.core_event_dim if drawn else 0
    if site.row_axes[0] >= len(site.shape) - event_dim:
        return f"the rows of site `{site.name}` have one joint distribution"
    return None
