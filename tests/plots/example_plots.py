"""Example plots from random numbers with a fixed seed: one of each kind, and edge cases."""

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from aimz import plots

SENTENCE = (
    "Customers whose last order came through the shop window of the old railway station, without delivery $5 to $9"
)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def draws(means: Any, sd: Any, n_draws: int = 400, **dims: Any) -> xr.DataArray:
    """Normal draws in two chains around ``means``, whose axes are ``dims``: name to labels."""
    means = np.asarray(means, float)
    values = rng().normal(means, sd, (2, n_draws // 2, *means.shape))
    return xr.DataArray(values, dims=("chain", "draw", *dims), coords=dict(dims))


def compared(means: Any, sd: Any, *, name: str = "spent", baseline: str = "no mail", **dims: Any) -> xr.DataTree:
    """Return the parts of a `compare_scenarios` result that plots use."""
    about = {"contrast": "difference", "no_effect": 0.0, "baseline": baseline}
    effect = draws(means, sd, **dims).assign_attrs(about)
    groups = [dim for dim in dims if dim != "scenario"]
    tree = {"effect": xr.Dataset({name: effect}, attrs=about)}
    if groups:
        tree["effect_overall"] = xr.Dataset({name: effect.mean(groups).assign_attrs(about)}, attrs=about)
        shape = [len(dims[dim]) for dim in groups]
        rows = rng().integers(20, 3000, shape)
        tree["groups"] = xr.Dataset({"rows": (groups, rows), "weight": (groups, rows.astype(float))})
    return xr.DataTree.from_dict(tree)


def on_rows(means: Any, sd: float, *, name: str = "spent", **attrs: Any) -> xr.DataArray:
    about = {"contrast": "intervention - baseline", "intervention": '{"mail": 1}', "baseline": '{"mail": 0}', **attrs}
    shift = rng().normal(0.0, sd, (2, 150, 1))
    noise = np.random.default_rng(8).normal(0.0, sd, (2, 150, len(means)))
    values = np.asarray(means) + shift + noise
    return xr.DataArray(values, dims=("chain", "draw", "customer"), name=name, attrs=about)


def row_statistics(means: Any, sd: Any, *, name: str = "spent", **attrs: Any) -> xr.DataArray:
    means = np.asarray(means, float)
    values = np.stack([means, means - 1.6 * sd, means + 1.6 * sd])
    labels = ["mean", "eti89_lb", "eti89_ub"]
    return xr.DataArray(values, dims=("statistic", "customer"), coords={"statistic": labels}, name=name, attrs=attrs)


def experiment(n: int = 4000) -> tuple[xr.DataArray, np.ndarray, np.ndarray]:
    """Return effects on rows, the treatment, and an outcome that agrees with the effects."""
    true = rng().gamma(2.0, 1.0, n) - 0.8
    treated = np.random.default_rng(1).integers(0, 2, n)
    outcome = 5 + true * treated + np.random.default_rng(2).normal(0, 3, n)
    return on_rows(true, 0.35, units="EUR"), treated, outcome


def losses(n: int = 5000) -> np.ndarray:
    return 900 + 4000 * np.exp(-np.arange(n) / (n / 12)) + rng().normal(0, 40, n)


def labels(n: int) -> list[str]:
    return [f"region {i:03d}" for i in range(n)]


def _effects_of_three() -> Any:
    tree = compared([2.2, 1.0, -0.2], 0.25, scenario=["men's", "women's", "both"])
    tree["effect"]["spent"].attrs["units"] = "EUR"
    return plots.plot_effect(tree)


def _dose() -> Any:
    doses = np.linspace(0.1, 4.0, 40)
    return plots.plot_effect(compared(2 * doses / (1 + doses), 0.15, scenario=doses, name="response", baseline="0.0"))


def _groups() -> Any:
    kinds = ["new", "known", "lapsed", "business", "abroad"]
    tree = compared([[3.2, 1.0, 0.2, -0.4, 1.7]], [[0.2, 0.3, 0.4, 0.5, 0.9]], scenario=["men's"], customer_type=kinds)
    tree["effect"]["spent"].attrs["units"] = "EUR"
    return plots.plot_groups(tree)


def _predictive(kind: str | None) -> Any:
    centre = rng().normal(20, 4, 600)
    predicted = on_rows(centre, 0.0) + np.random.default_rng(3).normal(0, 2, (2, 150, 600))
    observed = centre + np.random.default_rng(4).normal(0, 2, 600)
    return plots.plot_predictive(predicted.assign_attrs(units="EUR"), observed=observed, kind=kind)


def _counts(rate: float = 2.5) -> Any:
    predicted = xr.DataArray(rng().poisson(rate, (2, 50, 800)), dims=("chain", "draw", "row"), name="visits")
    return plots.plot_predictive(predicted, observed=np.random.default_rng(5).poisson(1.1 * rate, 800))


def _predicted_rows() -> Any:
    centre = rng().normal(20, 4, 2000)
    observed = centre + np.random.default_rng(6).normal(0, 2, 2000)
    return plots.plot_predictive(row_statistics(centre, 2.0, units="EUR"), observed=observed)


def _uplift() -> Any:
    effect, treated, outcome = experiment()
    return plots.plot_uplift(effect, treated=treated, outcome=outcome, cost=1.0)


REFERENCES: dict[str, Callable[[], Any]] = {
    "loss": lambda: plots.plot_loss(losses()),
    "predictive_density": lambda: _predictive(None),
    "predictive_ecdf": lambda: _predictive("ecdf"),
    "predictive_counts": _counts,
    "predictive_rows": _predicted_rows,
    "effect_scenarios": _effects_of_three,
    "effect_dose": _dose,
    "effect_average": lambda: plots.plot_effect(on_rows(rng().normal(1.0, 2.0, 500), 0.4, units="EUR")),
    "effect_rows": lambda: plots.plot_effect(row_statistics(rng().normal(1.0, 2.0, 3000), 0.9, units="EUR")),
    "groups": _groups,
    "uplift": _uplift,
}
"""Plots that are compared with reference images."""


def _ratio() -> Any:
    tree = compared([1.08, 0.97], 0.02, scenario=["up", "down"])
    for node in ("effect",):
        tree[node].attrs |= {"contrast": "ratio", "no_effect": 1.0}
        tree[node]["spent"].attrs |= {"contrast": "ratio", "no_effect": 1.0}
    return plots.plot_effect(tree)


def _lift(n: int) -> Any:
    tree = compared(rng().normal(0.05, 0.1, (1, n)), 0.04, scenario=["up"], region=labels(n))
    for node in ("effect", "effect_overall"):
        tree[node].attrs |= {"contrast": "lift"}
        tree[node]["spent"].attrs |= {"contrast": "lift"}
    return plots.plot_groups(tree)


def _long_names(n: int) -> Any:
    names = [f"{SENTENCE} {i}" for i in range(n)]
    tree = compared(
        rng().normal(0, 1, (3, n)), 0.5, name="spent_" * 14, scenario=names[:3], baseline=SENTENCE, kind=names
    )
    return plots.plot_groups(tree)


def _long_effect() -> Any:
    names = [f"{i} {SENTENCE}" for i in range(3)]
    return plots.plot_effect(compared([-1.0, 0.0, 1.0], 0.3, name="w" * 120, scenario=names, baseline=SENTENCE))


def _rehearsal(kind: str, names: list[str], n: int = 40) -> xr.Dataset:
    """Return simulations of a rehearsal with random truths and estimates."""
    dims, shape = ("simulation", "quantity"), (n, len(names))
    truth = rng().normal(0, 1, shape)
    found = {
        "truth": truth,
        "mean": truth + np.random.default_rng(1).normal(0, 0.3, shape),
        "sd": np.full(shape, 0.3),
        "rank": rng().integers(0, 100, shape).astype(float),
        "found": truth > 0.5,
    }
    data = xr.Dataset({name: (dims, values) for name, values in found.items()}, {"quantity": names})
    data = data.assign_coords(kind=("quantity", ["effect"] * len(names)))
    data["estimate"] = ("quantity", np.full(len(names), 2.0))
    return data.assign_attrs(kind=kind, n_ranks=100, source="prior", null=0.0)


EDGE_CASES: dict[str, Callable[[], Any]] = {
    "rehearsal_calibration": lambda: plots.plot_rehearsal(_rehearsal("sbc", [f"effect[{SENTENCE}]", "b", "c"])),
    "rehearsal_recovery": lambda: plots.plot_rehearsal(_rehearsal("recovery", ["effect[mail = 1]"], 5)),
    "rehearsal_placebo": lambda: plots.plot_rehearsal(_rehearsal("placebo", ["effect[mail = 1]", "effect[mail = 2]"])),
    "assurance": lambda: plots.plot_assurance(_rehearsal("recovery", [f"effect[{SENTENCE}]"])),
    "loss_of_two_steps": lambda: plots.plot_loss([3.0, 2.0]),
    "loss_with_gaps": lambda: plots.plot_loss(np.where(np.arange(900) % 100 == 3, np.nan, losses(900))),
    "loss_explodes": lambda: plots.plot_loss(np.concatenate([[3e12], losses(2000)])),
    "density_without_observations": lambda: plots.plot_predictive(on_rows(rng().normal(0, 1e-6, 80), 1e-6)),
    "density_heavy_tails": lambda: plots.plot_predictive(
        xr.DataArray(rng().standard_cauchy((1, 100, 400)), dims=("chain", "draw", "row"), name="y"),
        observed=rng().standard_normal(400),
    ),
    "counts_large": lambda: _counts(90_000.0),
    "counts_binary": lambda: plots.plot_predictive(
        xr.DataArray(rng().integers(0, 2, (1, 50, 100)), dims=("chain", "draw", "row"), name="bought"),
        observed=rng().integers(0, 2, 100),
    ),
    "rows_few": lambda: plots.plot_predictive(row_statistics([1.0, 2.0, 3.0], 0.5, name="x" * 90, units="kg")),
    "effect_tiny": lambda: plots.plot_effect(compared([2e-7, -3e-7], 1e-7, scenario=["a", "b"])),
    "effect_without_spread": lambda: plots.plot_effect(compared([0.0, 1.0], 0.0, scenario=["same", "other"])),
    "effect_ratio": _ratio,
    "effect_long": _long_effect,
    "effect_thirty": lambda: plots.plot_effect(compared(rng().normal(0, 1, 30), 0.3, scenario=labels(30))),
    "effect_rows_negative": lambda: plots.plot_effect(row_statistics([-3000.0], 100.0, name="cost")),
    "groups_one": lambda: plots.plot_groups(compared([[1.0]], 0.3, scenario=["up"], region=["everywhere"])),
    "groups_200": lambda: _lift(200),
    "groups_long": lambda: _long_names(12),
    "groups_small_figure": lambda: plots.plot_groups(
        compared(rng().normal(0, 1, (2, 80)), 0.3, scenario=["a", "b"], region=labels(80)), figsize=(5, 4)
    ),
    "uplift_alone": lambda: plots.plot_uplift(on_rows(rng().normal(-1e-5, 1e-5, 50), 1e-6, name="rate " * 20)),
    "uplift_of_means": lambda: plots.plot_uplift(row_statistics(rng().normal(0, 1, 300), 0.3), cost=0.5),
    "uplift_few_rows": lambda: plots.plot_uplift(
        on_rows([1.0, 2.0, 3.0], 0.5), treated=[1, 0, 1], outcome=[2e6, 1e6, 5e6], cost=1e6, value=2e6
    ),
}
"""Plots of edge cases in which text is likely to overlap or be cut off."""
