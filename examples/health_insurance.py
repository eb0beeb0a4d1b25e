"""How many doctor visits a year there would be if everyone had the 95 % plan, and how many if care were free.

The data come from the RAND Health Insurance Experiment, which randomly assigned families to one of several insurance
plans.  Run with ``make demo``, or ``python examples/health_insurance.py [--output DIR] [--rows N] [--steps N]``.
"""

import argparse
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import arviz_base as azb
import arviz_stats as azs
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import statsmodels.api as sm
from matplotlib.figure import Figure
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal

import aimz
from aimz import ImpactModel

if TYPE_CHECKING:
    import xarray as xr

ARMS = ("free care", "25 % plan", "50 % plan", "95 % plan", "deductible")
FREE, PLAN_95, DEDUCTIBLE = 0, 3, 4
HEALTH = ("excellent", "good", "fair", "poor")
SUBSAMPLE = 2000
FEW_DRAWS = 200
STARTED = time.perf_counter()


@dataclass(frozen=True)
class Data:
    """Arguments of the kernel, with one row per person-year."""

    X: np.ndarray
    plan: np.ndarray
    health: np.ndarray
    y: np.ndarray

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the arguments of a prediction: everything except the outcome."""
        return {"X": self.X, "plan": self.plan, "health": self.health}

    def take(self, rows: np.ndarray) -> "Data":
        """Return a subset of the rows."""
        return Data(self.X[rows], self.plan[rows], self.health[rows], self.y[rows])

    def sample(self, n_rows: int) -> "Data":
        """Return ``n_rows`` rows drawn at random, or all if there are not that many."""
        if n_rows >= len(self.y):
            return self
        return self.take(np.sort(np.random.default_rng(0).choice(len(self.y), n_rows, replace=False)))


def load() -> Data:
    """Read the data that statsmodels ships.

    ``lpi`` and ``fmde`` are omitted: both are computed from the plan, so holding them fixed while the plan changes
    would describe a person who cannot exist.
    """
    table = sm.datasets.randhie.load_pandas().data
    # `lncoins` is ln(coinsurance in % + 1), and 0 is not the free plan: most people with an individual deductible
    # have 0 there too, so `idp` has to be checked first.
    coinsurance = np.rint(np.expm1(table["lncoins"].to_numpy()))
    plan = np.where(table["idp"] == 1, DEDUCTIBLE, np.searchsorted([0, 25, 50, 95], coinsurance))
    health = table["hlthg"] + 2 * table["hlthf"] + 3 * table["hlthp"]
    covariates = table[["physlm", "disea"]].to_numpy()
    scaled = (covariates - covariates.mean(axis=0)) / covariates.std(axis=0)
    return Data(scaled.astype(np.float32), plan, health.to_numpy().astype(int), table["mdvis"].to_numpy().astype(int))


def visits(X: Any, plan: Any, health: Any, y: Any = None) -> None:
    """Model yearly doctor visits by health status and insurance plan, with a negative binomial outcome."""
    level = numpyro.sample("level", dist.Normal(1.0, 1.0).expand([4]).to_event(1))
    slope = numpyro.sample("slope", dist.Normal(0.0, 0.5).expand([2]).to_event(1))
    # Partial pooling: the effect of a plan rarely differs by more than 30 % between health states.  Few people are in
    # poor health (302 person-years), and on their own they contain little information about five plans.
    common = numpyro.sample("plan_effect", dist.Normal(0.0, 0.5).expand([4]).to_event(1))
    paying = numpyro.sample("effect_by_health", dist.Normal(common[:, None], 0.15).expand([4, 4]).to_event(2))
    shift = jnp.concatenate([jnp.zeros((1, 4)), paying])  # free care is the reference
    # People differ more on plans that cost more: with one dispersion, the share without a visit would be wrong.
    dispersion = numpyro.sample("dispersion", dist.LogNormal(0.0, 1.0).expand([5]).to_event(1))
    with numpyro.plate("person_year", X.shape[0]):
        rate = numpyro.deterministic("rate", jnp.exp(level[health] + shift[plan, health] + X @ slope))
        numpyro.sample("y", dist.NegativeBinomial2(rate, dispersion[plan]), obs=y)


def make_model(inference: SVI | MCMC, seed: int) -> ImpactModel:
    """Return an unfitted model whose results are labeled with plans and health states."""
    return ImpactModel(
        visits,
        jax.random.key(seed),
        inference,
        dims={
            "level": ["health"],
            "slope": ["covariate"],
            "plan_effect": ["paying_arm"],
            "effect_by_health": ["paying_arm", "health"],
            "dispersion": ["arm"],
        },
        coords={"health": HEALTH, "covariate": ("physlm", "disea"), "paying_arm": ARMS[1:], "arm": ARMS},
    )


def fit_svi(data: Data, steps: int) -> ImpactModel:
    """Fit by variational inference, with a guide that includes correlations."""

    def rate(step: jax.Array) -> jax.Array:
        # The rate decays a hundredfold; otherwise the noise of the last steps would remain in the posterior.
        return jnp.asarray(0.02 * 0.01 ** (step / steps))

    # With this many rows the posterior is narrow; a guide that starts narrow converges in far fewer steps.
    guide = AutoMultivariateNormal(visits, init_scale=0.02)
    model = make_model(SVI(visits, guide, numpyro.optim.Adam(rate), Trace_ELBO()), seed=0)
    return model.fit_on_batch(data.X, data.y, plan=data.plan, health=data.health, num_steps=steps)


def fit_nuts(data: Data) -> ImpactModel:
    """Fit the same kernel by MCMC: slower, but exact if it converges."""
    mcmc = MCMC(NUTS(visits), num_warmup=300, num_samples=400, num_chains=2, chain_method="sequential")
    return make_model(mcmc, seed=1).fit_on_batch(data.X, data.y, plan=data.plan, health=data.health)


def with_few_draws(model: ImpactModel) -> ImpactModel:
    """Return the model with fewer posterior draws, because sampling counts is much slower than computing rates."""
    draws = model.sample(num_samples=FEW_DRAWS, return_datatree=False)
    return make_model(model.inference, seed=2).set_posterior_sample(dict(draws))


@dataclass(frozen=True)
class Estimate:
    """Mean and interval of one quantity."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, draws: np.ndarray) -> "Estimate":
        """Return mean and 90 % equal-tailed interval."""
        low, high = np.quantile(draws, [0.05, 0.95])
        return cls(float(draws.mean()), float(low), float(high))

    def __str__(self) -> str:
        """Return mean and interval."""
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def effect(model: ImpactModel, data: Data) -> "xr.DataTree":
    """Return the effect of the 95 % plan relative to free care, for each draw and row."""
    question = {**data.arguments, "return_sites": "rate"}
    return model.estimate_effect(
        args_baseline={**question, "intervention": {"plan": FREE}},
        args_intervention={**question, "intervention": {"plan": PLAN_95}},
    )


def average(tree: "xr.DataTree") -> np.ndarray:
    """Return the mean over rows within each draw: the posterior of the average."""
    return np.asarray(tree["posterior_predictive"].to_dataset()["rate"].mean("person_year")).ravel()


def compare(model: ImpactModel, data: Data, site: str = "rate", plans: Sequence[str] = ARMS) -> "xr.DataTree":
    """Return the mean of a site if everyone had each plan, and the effect of each plan, overall and by health."""
    return model.compare_scenarios(
        {name: {"intervention": {"plan": ARMS.index(name)}} for name in plans},
        baseline=ARMS[FREE],
        by={"health": pd.Categorical.from_codes(data.health, HEALTH, ordered=True)},
        return_sites=site,
        **data.arguments,
    )


def draws_of(tree: "xr.DataTree", group: str, plan: str, site: str = "rate") -> np.ndarray:
    """Return the draws of one variable of a comparison."""
    return np.asarray(tree[group].to_dataset()[site].sel(scenario=plan)).ravel()


@dataclass(frozen=True)
class Raw:
    """A mean or a difference of means, with its standard error assuming independent rows."""

    mean: float
    error: float

    @classmethod
    def of(cls, y: np.ndarray) -> "Raw":
        """Return the mean, or NaN if there are fewer than two rows."""
        return cls(float(y.mean()), float(y.std(ddof=1) / np.sqrt(len(y)))) if len(y) > 1 else cls(np.nan, np.nan)

    def __str__(self) -> str:
        """Return mean and standard error."""
        return f"{self.mean:.2f} ({self.error:.2f})" if np.isfinite(self.error) else "-"


def raw_difference(data: Data, health: str, plan: int = PLAN_95) -> Raw:
    """Return the difference in mean visits between people on a plan and people with free care."""
    paid, free = (Raw.of(data.y[had(data, arm, health)]) for arm in (plan, FREE))
    return Raw(paid.mean - free.mean, float(np.hypot(paid.error, free.error)))


def had(data: Data, arm: int, health: str = "all") -> np.ndarray:
    """Return a mask of the rows with a plan, overall or for one health status."""
    in_group = True if health == "all" else data.health == HEALTH.index(health)
    return np.asarray((data.plan == arm) & in_group)


def log(text: str) -> None:
    """Print a message with the elapsed time."""
    print(f"\n[{time.perf_counter() - STARTED:3.0f} s] {text}", flush=True)


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table, with the first column left-aligned and the others right-aligned."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for i, line in enumerate(lines):
        cells = [
            line[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
        ]
        print(("  " + "   ".join(cells)).rstrip())
        if i == 0:
            print("  " + "   ".join("-" * width for width in widths))


def print_visits(means: dict[str, np.ndarray], data: Data) -> None:
    """Print visits by plan: the estimate for everyone, and the raw mean of the people on the plan."""
    print("\nVisits per person and year if everyone had the plan: posterior mean [90 % interval]\n")
    rows = []
    for arm, (name, draws) in enumerate(means.items()):
        y = data.y[had(data, arm)]
        rows.append((name, str(Estimate.of(draws)), str(Raw.of(y)), f"{len(y):,}"))
    print_table(("plan", "everyone on it", "those who had it (SE)", "person-years"), rows)


def print_effects(effects: pd.DataFrame, counted: Estimate, data: Data) -> None:
    """Print the effect of each plan, overall and by health status, and the raw differences."""
    print("\nA plan instead of free care: change in visits per person and year\n")
    rows = []
    for plan in ARMS[1:]:
        for line in effects[effects["scenario"] == plan].itertuples():
            arm, name = ARMS.index(plan), str(line.health)
            estimate = Estimate(line.mean, line.eti90_lb, line.eti90_ub)
            n_rows = " / ".join(f"{had(data, arm, name).sum():,}" for arm in (FREE, arm))
            fewer = f"{1 - effects.loc[line.Index, 'P(>0)']:.3f}"
            rows.append((plan, name, str(estimate), fewer, str(raw_difference(data, name, arm)), n_rows))
    header = ("plan", "health", "effect [90 % interval]", "P(fewer)", "raw difference (SE)", "rows free / plan")
    print_table(header, rows)
    print(f"\n  The 95 % plan for all, from sampled counts instead of rates: {counted}.")
    print("  In small groups, such as poor health, the estimate is pooled towards that of the other groups.")
    print("  The same people appear in several years, but the data do not identify them. Rows are treated as")
    print("  independent, so intervals and standard errors are too narrow.")


def print_predictive_check(model: ImpactModel, data: Data) -> None:
    """Print a posterior predictive check: statistics of replicated data and of the observed data."""
    predicted = model.predict_on_batch(**data.arguments, return_sites="y", return_datatree=False)
    checks = {
        "share without a visit": (slice(None), lambda y: (y == 0).mean(axis=-1)),
        "mean": (slice(None), lambda y: y.mean(axis=-1)),
        "variance": (slice(None), lambda y: y.var(axis=-1)),
        "95th percentile": (slice(None), lambda y: np.quantile(y, 0.95, axis=-1)),
        "largest": (slice(None), lambda y: y.max(axis=-1)),
    }
    checks |= {f"mean, {name}": (data.plan == arm, checks["mean"][1]) for arm, name in enumerate(ARMS)}
    rows = []
    for name, (chosen, statistic) in checks.items():
        if data.y[chosen].size:
            seen, replicated = statistic(data.y[chosen]), statistic(np.asarray(predicted["y"])[:, chosen])
            low, high = np.quantile(replicated, [0.05, 0.95])
            rows.append((name, f"{seen:.2f}", f"[{low:.2f}, {high:.2f}]", "yes" if low <= seen <= high else "NO"))
    print("\nPosterior predictive check: do data simulated from the model look like the data?\n")
    print_table(("visits per year", "data", "90 % of replications", "inside"), rows)
    if any(row[-1] == "NO" for row in rows):
        print("\n  NO: the model misses this statistic. The questions below concern means, so the means have to fit.")


def print_inference_check(svi: "xr.DataTree", nuts: "xr.DataTree", n_rows: int) -> None:
    """Print posterior means and standard deviations from SVI and from NUTS on the same rows."""
    names = ["level", "plan_effect", "slope", "dispersion"]
    by_svi = azs.summary(svi, var_names=names, kind="stats", round_to="none")
    by_nuts = azs.summary(nuts, var_names=names, round_to="none")
    rows = []
    for name, row in by_nuts.iterrows():
        values = [f"{of.loc[name, 'mean']:.2f} ({of.loc[name, 'sd']:.2f})" for of in (by_svi, by_nuts)]
        rows.append((name, *values, f"{row['r_hat']:.3f}", f"{row['ess_bulk']:.0f}"))
    answers = [average(tree) for tree in (svi, nuts)]
    rows.append(("effect on all", *(f"{draws.mean():.2f} ({draws.std():.2f})" for draws in answers), "", ""))
    diverging = int(np.asarray(nuts["sample_stats"].to_dataset()["diverging"]).sum())
    print(f"\nThe same kernel by SVI and by NUTS on {n_rows:,} rows: posterior mean (sd)\n")
    print_table(("parameter", "SVI", "NUTS", "R-hat", "ESS"), rows)
    print(
        f"\n  Effect by SVI: {Estimate.of(answers[0])}, by NUTS: {Estimate.of(answers[1])}; divergences: {diverging}."
    )


def draw_figure(means: dict[str, np.ndarray], effects: dict[str, Estimate], data: Data, path: Path) -> None:
    """Save a figure of visits by plan and effects by health status, with the raw means."""
    figure = Figure(figsize=(11, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    by_plan = {name: Estimate.of(draws) for name, draws in means.items()}
    draw_panel(left, by_plan, [Raw.of(data.y[had(data, arm)]) for arm in range(len(ARMS))])
    left.set_title("Doctor visits if everyone had the plan", loc="left")
    left.set_xlabel("visits per person and year")
    left.set_xlim(left=0)
    draw_panel(right, effects, [raw_difference(data, name) for name in effects])
    right.axvline(0, color="black", linewidth=0.8)
    right.set_title("95 % plan instead of free care, by health", loc="left")
    right.set_xlabel("change in visits per person and year")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def draw_panel(axes: Any, estimates: dict[str, Estimate], raw: Sequence[Raw]) -> None:
    """Draw one line per estimate with its interval, and the raw mean below it."""
    places = np.arange(len(estimates))[::-1]
    for place, estimate in zip(places, estimates.values(), strict=True):
        text = f"{estimate.mean:.2f}".replace("-", "\N{MINUS SIGN}")
        axes.annotate(text, (estimate.mean, place), (0, 7), textcoords="offset points", ha="center")
    means = np.array([estimate.mean for estimate in estimates.values()])
    ends = np.array([[estimate.low, estimate.high] for estimate in estimates.values()])
    label = "model: posterior mean, 90 % interval"
    axes.errorbar(means, places, xerr=abs(ends.T - means), fmt="o", color="#1f5a99", capsize=3, label=label)
    errors = [1.645 * each.error for each in raw]
    style = {"fmt": "D", "color": "#d9822b", "markerfacecolor": "white", "markersize": 5, "elinewidth": 1}
    label = "people who had the plan: raw mean, 90 % interval"
    axes.errorbar([each.mean for each in raw], places - 0.25, xerr=errors, label=label, **style)
    axes.set_yticks(places, list(estimates))
    axes.set_ylim(-0.6, len(places) - 0.4)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)


def in_words(free: np.ndarray, paid: np.ndarray) -> str:
    """Return a sentence that compares the draws of mean visits with free care and with the 95 % plan."""
    change = Estimate.of(100 * (paid / free - 1))
    verdict = "the data do not show which is larger"
    if change.low > 0 or change.high < 0:
        low, high = sorted((abs(change.low), abs(change.high)))
        verdict = f"{abs(change.mean):.0f} % {'fewer' if change.mean < 0 else 'more'} ({low:.0f} to {high:.0f} %)"
    return (
        f"In words: {paid.mean():.1f} doctor visits a year if everyone had the 95 % plan, {free.mean():.1f} if care "
        f"were free: {verdict}."
    )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Doctor visits with free care and with the 95 % plan.")
    parser.add_argument("--output", type=Path, default=Path("out"), metavar="DIR", help="folder for the figure")
    parser.add_argument("--rows", type=int, default=20190, metavar="N", help="use N person-years drawn at random")
    parser.add_argument("--steps", type=int, default=6000, metavar="N", help="steps of the optimization")
    return parser.parse_args()


def main() -> None:
    """Fit, print the answer, and then the report that supports it."""
    options = parse_arguments()
    azb.rcParams["stats.ci_prob"] = 0.9
    data = load().sample(options.rows)
    print(f"RAND Health Insurance Experiment: {len(data.y):,} person-years, {data.y.mean():.2f} doctor visits a year.")

    log(f"Fitting all rows by SVI, {options.steps:,} steps")
    model = fit_svi(data, options.steps)
    few = with_few_draws(model)

    log("Estimating the effects of all plans")
    found = compare(model, data)
    means = {plan: draws_of(found, "scenarios_overall", plan) for plan in ARMS}
    effects = aimz.summary(found)
    path = options.output / "health_insurance.png"
    paid = effects[effects["scenario"] == ARMS[PLAN_95]]
    by_health = {str(line.health): Estimate(line.mean, line.eti90_lb, line.eti90_ub) for line in paid.itertuples()}
    draw_figure(means, by_health, data, path)
    print("\n" + in_words(free=means[ARMS[FREE]], paid=means[ARMS[PLAN_95]]))
    print(f"Figure: {path}")
    print_report(few, found, means, effects, data, options.steps)


def print_report(
    few: ImpactModel,
    found: "xr.DataTree",
    means: dict[str, np.ndarray],
    effects: pd.DataFrame,
    data: Data,
    steps: int,
) -> None:
    """Print the checks of the model and the inference, and the tables behind the answer."""
    log(f"Report. Checking predictions, {FEW_DRAWS} replications of the data")
    print_predictive_check(few, data)

    part = data.sample(SUBSAMPLE)
    log(f"Checking the inference on {len(part.y):,} rows, SVI and then two chains of NUTS")
    print_inference_check(effect(fit_svi(part, steps), part), effect(fit_nuts(part), part), len(part.y))

    log("Effects of all plans")
    counts = compare(few, data, site="y", plans=(ARMS[FREE], ARMS[PLAN_95]))
    counted = Estimate.of(draws_of(counts, "effect_overall", ARMS[PLAN_95], site="y"))
    print_visits(means, data)
    print_effects(effects, counted, data)
    print()
    print(*aimz.in_words(found["effect_overall"]), sep="\n")


if __name__ == "__main__":
    main()
