"""Values that sites have in another scenario, as values of an intervention."""

__all__ = ["AsIn", "as_in"]

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True)
class AsIn:
    """The value that a site has in another scenario, for the same draw and row."""

    scenario: Hashable
    """Name of the scenario."""
    redrawn: bool = False
    """Whether the scenario is drawn again with noise of its own."""


def as_in(scenario: Hashable, *, redrawn: bool = False) -> AsIn:
    """Return a value for an intervention in :meth:`ImpactModel.compare_scenarios`: what a site is in another scenario.

    The site takes the value that it has in the other scenario, row by row and draw by draw, with the same noise. In
    ``{"crossed": {"intervention": {"campaign": 1, "visits": aimz.as_in("none")}}}``, customers get the campaign and
    visit as often as they would without it.

    Parameters
    ----------
    scenario : name
        Another scenario of the comparison.
    redrawn : bool
        Whether the value is drawn again, independently of the noise that other sites of the row share: the site then
        follows its distribution in the other scenario, given the arguments of the row. Interventional effects are
        defined by such values.

    Returns
    -------
    AsIn
        Value for a site in ``intervention``.

    Examples
    --------
    >>> import aimz
    >>> aimz.as_in("none")
    AsIn(scenario='none', redrawn=False)
    """
    return AsIn(scenario, redrawn)
