"""Check that the sites of a kernel allow its rows to be computed in blocks.

Rows may be computed in blocks if no row depends on another row or on the number of rows. A kernel must pass three
tests: no site has a joint distribution over rows (this module), its program moves nothing across rows
(:mod:`aimz.kernel.row_jaxpr`), and when it runs, rows that do not change keep their bits when other rows change
(``interacting_site`` in :mod:`aimz.forward`).
"""

__all__ = ["site_obstacle"]

from collections.abc import Iterable

from aimz.kernel.spec import KernelSpec, Role


def site_obstacle(spec: KernelSpec, *, drawn: frozenset[str], returned: Iterable[str], scored: bool) -> str | None:
    """Return why the sites of a kernel do not allow its rows to be computed in blocks, or None.

    ``drawn`` are the sites that are drawn in this call. If ``scored``, the log densities of ``returned`` are computed
    instead of their values.
    """
    if spec.fixed_size:
        return "it takes one number of rows only"
    returned = frozenset(returned)
    with_rows = {site.name for site in spec.sites if site.row_axes} | spec.arguments_by_row
    for site in spec.sites:
        if site.role in (Role.FACTOR, Role.MUTABLE) or (site.role is Role.DETERMINISTIC and site.name not in returned):
            continue
        is_drawn, is_returned = site.name in drawn, site.name in returned
        if not site.row_axes:
            if is_drawn and site.in_control_flow:
                return f"site `{site.name}`, which has no row axis, is drawn inside a `scan` or `cond`"
            if site.parents & with_rows and (is_drawn or is_returned):
                return f"site `{site.name}`, which has no row axis, is computed from the rows"
            continue
        if len(site.row_axes) > 1 or site.shape[site.row_axes[0]] != "n_obs":
            return f"site `{site.name}` has shape {site.shape}"
        event_dim = site.event_dim if scored and is_returned else site.core_event_dim if is_drawn else 0
        if site.row_axes[0] >= len(site.shape) - event_dim:
            return f"the rows of site `{site.name}` have one joint distribution"
    return None
