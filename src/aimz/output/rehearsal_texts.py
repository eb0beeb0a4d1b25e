"""Rehearsals as tables, sentences and text."""

__all__ = ["placebo_table", "recovery_table", "rehearsal_text", "simulation_dataset"]

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from aimz.statistics import MIN_SIMULATIONS, coverage_of, placebo_null, shape_of_ranks, uniformity

_WIDTH, _MAX_LINES = 76, 15
FALSE_ALARM = 0.05
"""Probability that a correct analysis has a verdict other than "ok" for any of its quantities."""
_MATERIAL = 0.25
"""Bias that matters, in posterior standard deviations."""
_SE = 3.5
"""Number of standard errors by which a bias must differ from 0."""
TOO_FEW = "not enough to judge"
_VARIABLES = ("truth", "mean", "sd", "rank", "pit", "above")


def simulation_dataset(records: Sequence[Mapping[str, Any]]) -> xr.Dataset:
    """Return records of simulations as arrays with dimensions ``(simulation, quantity)``, effects first."""
    names, n_effects = records[0]["names"], records[0]["n_effects"]
    arrays: dict[str, Any] = {
        name: (("simulation", "quantity"), np.array([record[name] for record in records], np.float64))
        for name in _VARIABLES
    }
    arrays["settled"] = (("simulation",), np.array([record["settled"] for record in records]))
    kinds = ["effect" if i < n_effects else "parameter" for i in range(len(names))]
    return xr.Dataset(arrays, {"quantity": names, "kind": ("quantity", kinds)})


def recovery_table(simulations: xr.Dataset, ci_prob: float) -> pd.DataFrame:
    """Return a table with a line for each quantity of a rehearsal with known truths."""
    quantities = simulations["quantity"].values.tolist()
    lines = [_recovery_line(simulations.sel(quantity=name), ci_prob, len(quantities)) for name in quantities]
    return pd.DataFrame(lines, index=pd.Index(quantities, name="quantity"))


def _recovery_line(one: xr.Dataset, ci_prob: float, n_quantities: int) -> dict[str, Any]:
    """Return the line of a quantity."""
    known = ~np.isnan(one["truth"].values)
    values = {name: one[name].values[known] for name in ("truth", "mean", "sd", "rank", "pit")}
    n = int(known.sum())
    if not n:
        return {"simulations": 0, "verdict": "no rows"}
    errors = values["mean"] - values["truth"]
    with np.errstate(invalid="ignore", divide="ignore"):
        z = errors / values["sd"]
    bias, bias_error = float(errors.mean()), float(errors.std(ddof=1) / np.sqrt(n)) if n > 1 else np.nan
    coverage, coverage_error, low, high = coverage_of(values["pit"], ci_prob, 1 - FALSE_ALARM / n_quantities)
    prior_sd = float(one["prior_sd"])
    shape = ""
    if n < MIN_SIMULATIONS:
        verdict = TOO_FEW
    elif np.ptp(values["truth"]) == 0 and not values["sd"].any() and not errors.any():
        verdict = "constant"
    else:
        if one.attrs["kind"] == "sbc":
            is_off = uniformity(values["rank"], int(one.attrs["n_ranks"])) < FALSE_ALARM / n_quantities
            shape = shape_of_ranks(values["pit"]) if is_off else ""
        elif abs(bias) > max(_SE * bias_error, _MATERIAL * values["sd"].mean()):
            shape = "estimates too high" if bias > 0 else "estimates too low"
        elif not low <= ci_prob <= high:
            shape = "intervals too narrow" if high < ci_prob else "intervals too wide"
        verdict = shape or "ok"
    return {
        "simulations": n,
        "bias": bias,
        "bias_se": bias_error,
        "coverage": coverage,
        "coverage_se": coverage_error,
        "contraction": float(1 - (values["sd"] ** 2).mean() / prior_sd**2) if prior_sd > 0 else np.nan,
        "z_mean": float(z.mean()),
        "z_sd": float(z.std(ddof=1)) if n > 1 else np.nan,
        "verdict": verdict,
    }


def placebo_table(simulations: xr.Dataset) -> pd.DataFrame:
    """Return a table with a line for each effect and parameter of a placebo rehearsal."""
    lines, quantities = [], simulations["quantity"].values.tolist()
    for name in quantities:
        one = simulations.sel(quantity=name)
        known = ~np.isnan(one["mean"].values)
        null = placebo_null(one["mean"].values[known], one["sd"].values[known])
        estimate = float(one["estimate"])
        lines.append(
            {
                "simulations": int(known.sum()),
                "estimate": estimate,
                "sd": float(one["estimate_sd"]),
                "placebo_mean": null.mean,
                "placebo_se": null.error,
                "placebo_sd": null.sd,
                "placebo_spread": null.spread,
                "z": null.z(estimate),
                "verdict": _placebo_verdict(one, known, null) if str(one["kind"].values) == "effect" else "",
            }
        )
    return pd.DataFrame(lines, index=pd.Index(quantities, name="quantity"))


def _placebo_verdict(one: xr.Dataset, known: np.ndarray, null: Any) -> str:
    """Return whether the analysis finds an effect without a treatment."""
    target = float(one.attrs["null"])
    above = one["above"].values[known]
    if known.sum() < MIN_SIMULATIONS:
        return TOO_FEW
    if float(one["prior_above"]) in (0.0, 1.0) or set(np.unique(above)) in ({0.0}, {1.0}):
        return "the prior allows one sign only"
    if abs(null.mean - target) > max(_SE * null.error, _MATERIAL * null.sd):
        return "effect without treatment"
    return "intervals too narrow" if null.spread > null.sd else "ok"


def rehearsal_text(simulations: xr.Dataset, table: pd.DataFrame, ci_prob: float) -> str:
    """Return sentences and a table about a rehearsal."""
    sentences = [_about(simulations), *_claims(simulations, table, ci_prob)]
    lost = int((~simulations["settled"].values).sum())
    if lost:
        sentences.append(f"{lost} of {simulations.sizes['simulation']} refits had not settled; they are included.")
    shown = table.drop(columns=["simulations", "z_mean"], errors="ignore").head(_MAX_LINES)
    body = shown.rename_axis(index=None).to_string(float_format=lambda x: f"{x:.3g}").splitlines()
    if len(table) > _MAX_LINES:
        body.append(f"... and {len(table) - _MAX_LINES} more: `summary()` returns all.")
    return "\n\n".join(["\n".join(textwrap.fill(line, _WIDTH) for line in sentences), "\n".join(body)])


def _about(simulations: xr.Dataset) -> str:
    """Return a sentence about the simulations."""
    n, kind = simulations.sizes["simulation"], simulations.attrs["kind"]
    if kind == "placebo":
        within = " within groups" if simulations.attrs["within"] else ""
        return f"{n} refits with `{simulations.attrs['permuted']}` permuted{within}."
    return f"{n} data sets simulated from the {simulations.attrs['source']}, each refitted."


def _claims(simulations: xr.Dataset, table: pd.DataFrame, ci_prob: float) -> list[str]:
    """Return a sentence for each effect, or about all parameters if there is no effect."""
    kinds = simulations["kind"].values
    effects = [name for name, kind in zip(table.index, kinds, strict=True) if kind == "effect"]
    if simulations.attrs["kind"] == "placebo":
        return [_placebo_claim(name, table.loc[name]) for name in effects[:3]]
    if not effects:
        bad = [name for name in table.index if table.loc[name, "verdict"] not in ("ok", "constant", TOO_FEW)]
        if (table["verdict"] == TOO_FEW).any():
            return [f"Fewer than {MIN_SIMULATIONS} simulations are not enough to judge."]
        return [f"{len(bad)} of {len(table)} parameters are not recovered." if bad else "All parameters are recovered."]
    return [_recovery_claim(name, table.loc[name], ci_prob) for name in effects[:3]]


def _recovery_claim(name: str, line: Any, ci_prob: float) -> str:
    """Return a sentence about the recovery of an effect."""
    start = (
        f"{name}: the {100 * ci_prob:g} % interval contains the true value in {100 * line['coverage']:.1f} % of the "
        f"data sets (Monte Carlo error {100 * line['coverage_se']:.1f} points), bias {line['bias']:.2g} ± "
        f"{line['bias_se']:.2g}"
    )
    if line["verdict"] == TOO_FEW:
        return f"{start}; fewer than {MIN_SIMULATIONS} are not enough to judge."
    return f"{start}; {line['verdict']}." if line["verdict"] != "ok" else f"{start}."


def _placebo_claim(name: str, line: Any) -> str:
    """Return a sentence about the effect of a permuted treatment."""
    start = (
        f"{name}: the permuted treatment has an effect of {line['placebo_mean']:.2g} ± {line['placebo_se']:.2g} on "
        f"average; the estimate of {line['estimate']:.3g} is {abs(line['z']):.2g} standard deviations from it"
    )
    endings = {
        TOO_FEW: f"fewer than {MIN_SIMULATIONS} refits are not enough to judge",
        "the prior allows one sign only": "the prior allows one sign only, so that no placebo can have an effect of 0",
        "effect without treatment": "the analysis finds an effect without a treatment",
        "intervals too narrow": "placebo effects vary more than their intervals allow",
    }
    ending = endings.get(line["verdict"])
    return f"{start}; {ending}." if ending else f"{start}."
