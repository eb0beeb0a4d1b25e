"""Sections of a report about the kernel, its priors and its inference, from plain descriptions."""

__all__ = ["KERNEL_CAPTION", "data_section", "drawn_graph", "inference_section", "kernel_section", "prior_section"]

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from aimz.methods import CheckResult
from aimz.report import Block, Drawing, Facts, Figure, Items, Section, Table, Text, draw_graph
from aimz.statistics import FitSupport
from aimz.validation.report_results import joined, shown

if TYPE_CHECKING:
    import networkx as nx
    import xarray as xr

_MAX_SITES, _MAX_VALUES = 60, 12
KERNEL_CAPTION = "What the kernel computes from what, without parameters. It is no claim about the world."


def data_section(
    facts: Sequence[tuple[str, str]], support: FitSupport | None, checked: CheckResult | None, notes: Iterable[str]
) -> Section:
    """Return the section about the question, the rows and their columns."""
    blocks: list[Block] = [Facts(tuple(facts)), *(Text(note) for note in notes)]
    rows = []
    if support is not None and support.n:
        moments = support.moments
        mean = np.full(len(support.names), np.nan) if moments is None else moments.mean
        variance = mean if moments is None else np.diag(moments.products) / max(1, moments.n)
        for i, name in enumerate(support.names):
            numbers = (mean[i], np.sqrt(variance[i]), support.low[i], support.high[i])
            rows.append((f"`{name}`", *map(shown, numbers), f"{int(support.missing[i]):,}"))
    observed = {} if checked is None else _observed(checked)
    if observed:
        names = ("mean", "sd", "smallest", "largest")
        rows.append(("outcome", *(shown(observed.get(name, np.nan)) for name in names), ""))
    if rows:
        columns = ("column", "mean", "sd", "smallest", "largest", "missing")
        blocks.append(Table(columns, tuple(rows), "Columns and arguments of the fit"))
    if support is None:
        blocks.append(Text("The rows of the fit are not described: the model was not fitted by this package."))
    return Section("data", "Question and data", tuple(blocks))


def _observed(checked: CheckResult) -> dict[str, float]:
    """Return the statistics of the observed outcome over all rows; empty if they were computed by group."""
    known = {"statistic", "observed", "predicted", "low", "high", "p", "expected", "verdict"}
    lines = [line for line in checked.lines if set(line) == known]
    return {line["statistic"]: line["observed"] for line in lines}


def kernel_section(about: Mapping[str, Any], graph: Drawing | None) -> Section:
    """Return the section that describes the kernel in words; ``about`` is ``describe(as_dict=True)``."""
    sites: Mapping[str, Mapping[str, Any]] = about["sites"]
    shown_sites = dict(list(sites.items())[:_MAX_SITES])
    blocks: list[Block] = []
    if not sites:
        blocks.append(Text("The kernel has not been traced, so its sites are not known."))
    else:
        blocks.append(Items(tuple(_site_words(name, site) for name, site in shown_sites.items())))
    if len(sites) > _MAX_SITES:
        blocks.append(Text(f"{len(sites) - _MAX_SITES} more sites are left out."))
    if graph is not None:
        blocks.append(graph)
    return Section("kernel", "Kernel in words", tuple(blocks))


def _site_words(name: str, site: Mapping[str, Any]) -> str:
    """Return a sentence about a site."""
    of = f", given {joined(site['depends_on'])}" if site["depends_on"] else ""
    size = " by ".join(map(str, site["shape"]))
    each = f", one for each {joined(site['plates'])}" if site["plates"] else f", {size} values" if size else ""
    distribution = f"a {site['distribution']} distribution" if site["distribution"] else "an unknown distribution"
    return {
        "observed": f"`{name}` is observed: {distribution}{of}{each}.",
        "latent": f"`{name}` is unknown: {distribution}{of}{each}.",
        "deterministic": f"`{name}` is computed{of.replace(', given', ' from')}{each}.",
        "param": f"`{name}` is a parameter that is optimized, without a prior{each}.",
        "mutable": f"`{name}` is state that the fit updates{each}.",
        "factor": f"`{name}` is a term of the log density{of}.",
    }.get(str(site["role"]), f"`{name}`: {site['role']}{of}.")


def drawn_graph(graph: "nx.DiGraph", treatment: str | None, outcome: str, caption: str) -> Drawing | None:
    """Return the drawing of a graph; None if it has no edges, or too many nodes."""
    names = [name for name in graph.nodes if graph.degree(name)]
    if not names or len(names) > _MAX_SITES:
        return None
    hidden = {name: "latent" for name in names if not graph.nodes[name].get("observed", True)}
    marked = {**hidden, outcome: "outcome", **({treatment: "treatment"} if treatment else {})}
    return draw_graph(graph.edges, marked, names, f"{caption} Dashed: not observed.")


def prior_section(
    priors: "xr.Dataset | None",
    posterior: "xr.Dataset | None",
    predicted: Mapping[str, np.ndarray],
    checked: CheckResult | None,
    *,
    figure: Figure | None,
    not_run: str,
) -> Section:
    """Return the section on priors: their draws against the posterior's, and their predictions.

    ``predicted`` are statistics of predicted data sets by name.
    """
    if not_run or priors is None:
        return Section("priors", "Priors and prior predictive check", not_run=not_run)
    blocks: list[Block] = []
    rows = tuple(_prior_rows(priors, posterior))
    if rows:
        columns = ("site", "prior mean", "prior sd", "posterior mean", "posterior sd", "contraction")
        caption = "Contraction is 1 - posterior variance / prior variance: near 0, the data do not inform the site."
        blocks.append(Table(columns, rows, caption))
    observed = {} if checked is None else _observed(checked)
    lines = []
    for name, values in predicted.items():
        low, middle, high = np.nanquantile(values, [0.05, 0.5, 0.95])
        lines.append((name, shown(low), shown(middle), shown(high), shown(observed[name]) if name in observed else ""))
    table = Table(("statistic", "5 %", "50 %", "95 %", "observed"), tuple(lines), "Outcomes that the priors predict")
    beside = [
        f"{name} ({shown(observed[name])}) is {'below' if observed[name] < np.nanmin(values) else 'above'}"
        for name, values in predicted.items()
        if name in observed and not np.nanmin(values) <= observed[name] <= np.nanmax(values)
    ]
    n_sets = len(next(iter(predicted.values())))
    outcome = (
        f"The observed {', the '.join(beside)} the {n_sets} values in data sets drawn from the priors."
        if beside
        else f"{n_sets} data sets drawn from the priors include outcomes like the observed ones."
    )
    blocks += [table, *([] if figure is None else [figure])]
    return Section("priors", "Priors and prior predictive check", tuple(blocks), outcome)


def _prior_rows(priors: "xr.Dataset", posterior: "xr.Dataset | None") -> Iterable[tuple[str, ...]]:
    """Yield a line for each value of the latent sites, up to a number of values of each site."""
    for name, array in priors.data_vars.items():
        draws = array.values.reshape(array.shape[0] * array.shape[1], -1).astype(np.float64)
        if draws.shape[1] > _MAX_VALUES:
            continue
        after = None
        if posterior is not None and name in posterior and posterior[name].shape[2:] == array.shape[2:]:
            after = posterior[name].values.reshape(-1, draws.shape[1]).astype(np.float64)
        labels = _labels(array)
        for i in range(draws.shape[1]):
            prior = draws[:, i].mean(), draws[:, i].std()
            cells = (np.nan, np.nan, np.nan)
            if after is not None:
                contraction = 1 - after[:, i].var() / draws[:, i].var() if draws[:, i].var() > 0 else np.nan
                cells = after[:, i].mean(), after[:, i].std(), contraction
            label = f"`{name}{labels[i]}`"
            yield label, *map(shown, prior), *("" if np.isnan(c) else shown(c) for c in cells)


def _labels(array: "xr.DataArray") -> list[str]:
    """Return the labels of the values of a site, such as ``[age]``."""
    axes = [
        [str(label) for label in (array[dim].values if dim in array.coords else range(array.sizes[dim]))]
        for dim in array.dims[2:]
    ]
    labels = [""]
    for axis in axes:
        labels = [f"{label}, {one}" if label else one for label in labels for one in axis]
    return [f"[{label}]" if label else "" for label in labels]


def inference_section(
    facts: Sequence[tuple[str, str]], checked: CheckResult | None, blocks: Iterable[Block]
) -> Section:
    """Return the section on inference and convergence."""
    findings = [] if checked is None else [one for one in checked.findings if one.question in ("fit", "draws")]
    known = [one for one in findings if one.verdict != "not checked"]
    bad = [one for one in known if one.verdict == "bad"]
    rows = tuple((one.check, shown(one.value), one.expected, one.verdict) for one in findings)
    own: list[Block] = [Facts(tuple(facts))]
    if rows:
        own.append(Table(("check", "value", "expected", "verdict"), rows, "Convergence of the fit and of its draws"))
    own += [Items(tuple(dict.fromkeys(one.advice for one in findings if one.advice)))] if findings else []
    if not known:
        reason = (
            "it is not known how the draws were made; call `model.fit(X, y)`, load the model with its inference, or "
            "pass `num_chains` with the draws"
        )
        return Section("inference", "Inference and convergence", (*own, *blocks), not_run=reason)
    outcome = (
        f"{len(bad)} of {len(known)} checks of convergence failed: {bad[0].advice or bad[0].check}."
        if bad
        else f"All {len(known)} checks of convergence passed."
    )
    return Section("inference", "Inference and convergence", (*own, *blocks), outcome)
