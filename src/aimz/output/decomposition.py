"""Decompositions of effects into paths."""

__all__ = ["PATH", "decomposition_tree", "share_mediated"]

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from aimz.output.datasets import make_tree
from aimz.output.labels import SAMPLE_DIMS
from aimz.output.scenario_trees import SCENARIO

PATH = "path"
"""Dimension of the paths."""
_MAX_OTHER_SIGN = 0.025
"""Largest share of draws in which the total effect may have the other sign."""


def decomposition_tree(tree: xr.DataTree, paths: Mapping[str, Mapping[Any, int]], **attrs: Any) -> xr.DataTree:
    """Return the result of a comparison with an effect for each path, a sum of scenarios with signs."""
    groups: dict[str, xr.Dataset] = {}
    for name, node in tree.children.items():
        found = node.to_dataset()
        if not name.startswith("effect"):
            groups[name] = found
            continue
        averages = tree[name.replace("effect", "scenarios", 1)].to_dataset()
        label = xr.DataArray(list(paths), dims=PATH, name=PATH)
        effects = {
            site: xr.concat([_signed_sum(array, signs) for signs in paths.values()], label)
            .transpose(*SAMPLE_DIMS, PATH, ...)
            .assign_attrs(found[site].attrs)
            for site, array in averages.data_vars.items()
        }
        groups[name] = xr.Dataset(effects, attrs={**found.attrs, **attrs})
    return make_tree(groups)


def _signed_sum(averages: xr.DataArray, signs: Mapping[Any, int]) -> xr.DataArray:
    """Return a sum of scenarios with signs."""
    total = xr.zeros_like(averages.isel({SCENARIO: 0}, drop=True))
    for scenario, sign in signs.items():
        total = total + sign * averages.sel({SCENARIO: scenario}, drop=True)
    return total


def share_mediated(decomposition: xr.DataTree, site: str | None = None) -> xr.DataArray:
    """Return the share of a total effect that runs through the mediators, draw by draw.

    Parameters
    ----------
    decomposition : xarray.DataTree
        Result of :meth:`ImpactModel.decompose` with an indirect effect.
    site : str, optional
        Site to use; the only one by default.

    Returns
    -------
    xarray.DataArray
        Indirect effect / total effect, with dimensions ``(chain, draw, <groups>)``.

    Raises
    ------
    ValueError
        If the sign of the total effect is uncertain, so that a share has no meaning; or if there is no indirect effect.

    Examples
    --------
    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> from jax import random
    >>> from numpyro.infer import MCMC, NUTS
    >>> import aimz
    >>> def kernel(X, mail, y=None):
    ...     a = numpyro.sample("a", dist.Normal())
    ...     with numpyro.plate("customer", X.shape[0]):
    ...         visits = numpyro.sample("visits", dist.Normal(X + a * mail, 1.0))
    ...         numpyro.sample("y", dist.Normal(2.0 * visits + mail, 1.0), obs=y)
    >>> model = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=10, num_samples=10))
    >>> _ = model.set_posterior_sample({"a": np.full(4, 1.5)})
    >>> found = model.decompose({"mail": (0, 1)}, "visits", X=np.ones(8), args={"mail": np.ones(8)}, progress=False)
    >>> aimz.share_mediated(found).values.round(3).tolist()
    [[0.75, 0.75, 0.75, 0.75]]
    """
    if not isinstance(decomposition, xr.DataTree) or PATH not in getattr(decomposition.get("effect"), "dims", ()):
        msg = (
            f"`share_mediated` needs the result of `ImpactModel.decompose`; got {type(decomposition).__name__} without "
            "paths. Call `model.decompose(...)` first."
        )
        raise ValueError(msg)
    effects = decomposition["effect"].to_dataset()
    names = [str(name) for name in effects.data_vars]
    if site is None and len(names) > 1:
        msg = f"`share_mediated` is about one site; got {', '.join(names)}. Pass one of them as `site`."
        raise ValueError(msg)
    name = names[0] if site is None else site
    if name not in names or "indirect" not in effects[PATH]:
        what = (
            f"no indirect effect (paths: {', '.join(effects[PATH].values)})" if name in names else f"no site {name!r}"
        )
        msg = f"The decomposition has {what}. Decompose with `kind='natural'` or 'interventional'."
        raise ValueError(msg)
    total = effects[name].sel({PATH: "total"}, drop=True)
    n_missing = int(total.isnull().sum())
    if n_missing:
        msg = (
            f"The total effect on `{name}` must be a number in each draw; got NaN in {n_missing:,} of {total.size:,}. "
            "Decompose with `nan_policy='omit'` to leave out rows with NaN."
        )
        raise ValueError(msg)
    positive = (total > 0).mean(SAMPLE_DIMS)
    other = float(np.minimum(positive, 1 - positive).max())
    if other > _MAX_OTHER_SIGN:
        msg = (
            f"The sign of the total effect on `{name}` is uncertain: {100 * other:.1f} % of draws have the other sign, "
            "so a share of it would range over all numbers. Report the direct and the indirect effect themselves."
        )
        raise ValueError(msg)
    share = effects[name].sel({PATH: "indirect"}, drop=True) / total
    return share.rename(f"share of {name} mediated")
