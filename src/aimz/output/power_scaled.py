"""Sensitivity of posteriors to power-scaling of prior and likelihood, by ArviZ."""

__all__ = ["power_scaling", "power_scaling_text", "sensitivity_tree"]

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from aimz.output.elpd import import_arviz_stats

_ALPHAS = (0.99, 1.01)
_MAX_K = 0.7
_WIDTH, _MAX_LINES = 76, 15


def sensitivity_tree(
    quantities: Mapping[str, np.ndarray], prior: xr.Dataset, likelihood: np.ndarray, output: str
) -> xr.DataTree:
    """Return a tree that ArviZ scales; ``likelihood`` has shape ``(n_chains, n_draws)``."""
    shape = likelihood.shape
    draws = {name: (("chain", "draw"), values.reshape(shape)) for name, values in quantities.items()}
    groups = {
        "posterior": xr.Dataset(draws),
        "log_prior": prior.astype(np.float64),
        "log_likelihood": xr.Dataset({output: (("chain", "draw"), likelihood)}),
    }
    return xr.DataTree.from_dict(groups)


def power_scaling(tree: xr.DataTree, threshold: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a table with a line for each quantity of the group ``posterior``, and its sensitivity to each prior."""
    arviz_stats = import_arviz_stats("prior_sensitivity")
    names, sites = list(tree["posterior"].data_vars), list(tree["log_prior"].data_vars)
    parts: dict[str, xr.Dataset] = {"prior": arviz_stats.psense(tree, group="prior", alphas=_ALPHAS)}
    parts["likelihood"] = arviz_stats.psense(tree, group="likelihood", alphas=_ALPHAS)
    by_site = {site: arviz_stats.psense(tree, group="prior", group_var_names=[site], alphas=_ALPHAS) for site in sites}
    table = pd.DataFrame({part: [float(found[name]) for name in names] for part, found in parts.items()}, index=names)
    components = pd.DataFrame({site: [float(found[name]) for name in names] for site, found in by_site.items()}, names)
    k = {part: _pareto_k(tree[f"log_{part}"].to_dataset(), arviz_stats) for part in parts}
    table["pareto_k"] = max(k.values())
    table["most_sensitive_to"] = components.idxmax(axis=1)
    table["diagnosis"] = [
        _diagnose(line["prior"], line["likelihood"], k["prior"], k["likelihood"], threshold)
        for _, line in table.iterrows()
    ]
    return table.rename_axis(index="quantity"), components.rename_axis(index="quantity")


def _pareto_k(group: xr.Dataset, arviz_stats: Any) -> float:
    """Return the larger Pareto k of the weights that raise a density to two powers."""
    total = sum(
        group[name].sum([dim for dim in group[name].dims if dim not in ("chain", "draw")]) for name in group.data_vars
    )
    densities = np.asarray(total, np.float64).ravel()
    psislw = arviz_stats.base.array_stats.psislw
    if np.ptp(densities) < 1e-3:  # weights that are equal have no tail
        return 0.0
    found = [float(psislw((1 - alpha) * densities)[1]) for alpha in _ALPHAS]
    return max(k if np.isfinite(k) else np.inf for k in found)


def _diagnose(prior: float, likelihood: float, k_prior: float, k_likelihood: float, threshold: float) -> str:
    """Return the diagnosis of a quantity in words."""
    unknown = [part for part, k in (("prior", k_prior), ("likelihood", k_likelihood)) if k > _MAX_K]
    if unknown:
        return f"not reliable for the {' and the '.join(unknown)}"
    if prior < threshold:
        return "ok" if likelihood >= threshold else "neither prior nor data matter"
    return "prior-data conflict" if likelihood >= threshold else "strong prior or weak data"


def power_scaling_text(table: pd.DataFrame, effects: int, threshold: float) -> str:
    """Return sentences and a table; the first ``effects`` quantities are effects."""
    words = {
        "ok": "the data determine it",
        "prior-data conflict": "the prior and the data disagree, and both matter",
        "strong prior or weak data": "the prior determines it more than the data",
        "neither prior nor data matter": "neither changes it",
    }
    sentences = []
    for name, line in table.head(min(effects, 3)).iterrows():
        claim = words.get(line["diagnosis"], f"{line['diagnosis']} (Pareto k {line['pareto_k']:.2f})")
        sentences.append(
            f"{name}: sensitivity {line['prior']:.2g} to the prior and {line['likelihood']:.2g} to the data; {claim}."
        )
    bad = table["diagnosis"].str.startswith("not reliable")
    if bad.any():
        sentences.append(
            f"The importance weights are not reliable (Pareto k {table['pareto_k'].max():.2f}, above {_MAX_K}), which "
            "can hide a sensitivity. Fit the model with other priors instead."
        )
    else:
        sentences.append(f"Values above {threshold:g} matter.")
    shown = table.head(_MAX_LINES).rename_axis(index=None)
    body = shown.to_string(float_format=lambda x: f"{x:.3f}").splitlines()
    if len(table) > _MAX_LINES:
        body.append(f"... and {len(table) - _MAX_LINES} more: `summary()` returns all.")
    return "\n\n".join(["\n".join(textwrap.fill(line, _WIDTH) for line in sentences), "\n".join(body)])
