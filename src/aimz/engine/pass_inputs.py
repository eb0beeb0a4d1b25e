"""Inputs of a pass: values by draw, row axes, and outcomes with expected values."""

__all__ = ["row_axes_of", "split_outcomes", "values_by_draw"]

from collections.abc import Iterable, Mapping

import jax
import numpy as np

from aimz.data import Posterior
from aimz.engine.prepared_call import PredictionSettings
from aimz.kernel import KernelSpec, ResolvedIntervention, Site, Substitution


def values_by_draw(
    posterior: Posterior | None, substitution: Substitution, acts: ResolvedIntervention
) -> dict[str, jax.Array | np.ndarray]:
    """Return the values that differ between draws: of the posterior and of the intervention."""
    kept = {} if posterior is None else {name: posterior.draws[name] for name in substitution.from_posterior}
    return {**kept, **acts.draws}


def row_axes_of(spec: KernelSpec, acts: ResolvedIntervention) -> dict[str, int]:
    """Return the row axis of one draw of each site, and of each value by draw of an argument, that has one."""
    axes = {site.name: site.row_axes[0] for site in spec.sites if site.row_axes}
    by_row = (one for one in acts.drawn if one.argument in acts.arrays)
    return axes | {one.key: 0 for one in by_row if acts.draws[one.key].shape[1] > 1}


def split_outcomes(
    outcomes: Mapping[str, Site], settings: PredictionSettings, transformed: Iterable[str]
) -> tuple[frozenset[str], list[str]]:
    """Return the outcomes whose expected values are returned, and the others, which are drawn."""
    known = {name for name, site in outcomes.items() if site.has_mean and settings.kind == "expected"}
    expected = known.difference(settings.shared.transformed, transformed)
    return frozenset(expected), [name for name in outcomes if name not in expected]
