"""Representations of a model: ``repr``, HTML and ``describe()``."""

__all__ = ["ModelSummary", "describe", "description", "html", "summary"]

import html as escape
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpyro.infer import SVI

from aimz.data import Posterior
from aimz.inference import DeferredFit, Fit
from aimz.kernel import (
    COLUMNS,
    WIDTH,
    Abduction,
    KernelSignature,
    KernelSpec,
    Site,
    html_block,
    html_table,
    site_cells,
    text_table,
)


@dataclass(frozen=True)
class ModelSummary:
    """Facts about a model that its representations show."""

    signature: KernelSignature
    fit: Fit
    posterior: Posterior | None
    spec: KernelSpec | None
    directory: str | None
    """Temporary directory of results stored without ``output_dir``, if there is one."""


def _inference(model: ModelSummary) -> str:
    """Return the inference object and its guide or sampler as a text."""
    inference, choice = model.fit.inference, model.fit.choice
    if isinstance(model.fit, DeferredFit):
        return f"{model.fit.requested.upper()}, as requested" if model.fit.requested else "chosen at the first fit"
    if choice is not None:
        return choice.description
    if isinstance(inference, SVI):
        guide = inference.guide
        return f"{type(inference).__name__} with guide {getattr(guide, '__name__', type(guide).__name__)}"
    if inference is not None:
        return f"{type(inference).__name__} with {type(inference.sampler).__name__}, {inference.num_chains} chain(s)"
    return "none: loaded to predict"


def _facts(model: ModelSummary) -> list[tuple[str, str]]:
    """Return the facts of the short representations, as pairs of label and text."""
    return [
        ("Kernel", model.signature.kernel),
        ("Input, output", f"{model.signature.param_input}, {model.signature.param_output}"),
        ("Inference", _inference(model)),
        ("Fitted", _fitted(model)),
        *([("Results", f"{model.directory} (temporary)")] if model.directory else []),
        ("Sites", ", ".join(map(_label, model.spec.sites)) if model.spec else "not traced yet"),
    ]


def _fitted(model: ModelSummary) -> str:
    """Return whether there is a posterior, and whether the fit has settled."""
    if model.posterior is None:
        return "no"
    settled = {True: ", settled", False: ", NOT settled", None: ""}[model.fit.outcome.settled]
    text = f" ({model.fit.outcome.text})" if model.fit.outcome.text else ""
    return f"yes, {model.posterior.n_draws} posterior draws{settled}{text}"


def _label(site: Site) -> str:
    """Return a site's name with its shape, as in ``beta[3]``."""
    if site.leaves:
        return f"{site.name}[{len(site.leaves)} arrays]"
    return f"{site.name}[{', '.join(map(str, site.shape))}]" if site.shape else site.name


def summary(model: ModelSummary) -> str:
    """Return the text of ``repr``: a few lines of at most 80 characters."""
    lines = ["<ImpactModel>"]
    for label, text in _facts(model):
        lines += textwrap.wrap(
            f"{label}: {text}", WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
        )
    return "\n".join(lines)


def html(model: ModelSummary) -> str:
    """Return the HTML of a notebook: the facts, and a table of the sites."""
    facts = "".join(
        f"<tr><th style='text-align:left'>{escape.escape(label)}</th>"
        f"<td style='text-align:left'>{escape.escape(text)}</td></tr>"
        for label, text in _facts(model)
        if label != "Sites"
    )
    spec = model.spec
    sites = html_table(COLUMNS, map(site_cells, spec.sites)) if spec else ""
    return html_block(f"<b>ImpactModel</b><table>{facts}</table>{sites}")


def describe(model: ModelSummary) -> str:
    """Return the text of ``describe()``, in lines of at most 80 characters."""
    spec = model.spec
    if spec is None:
        hint = (
            "The kernel has not been traced yet: call a method with data, or "
            f"`describe({model.signature.param_input}, {model.signature.param_output}, ...)`."
        )
        return "\n".join([summary(model), "", *textwrap.wrap(hint, WIDTH, break_on_hyphens=False)])
    lines = text_table(COLUMNS, map(site_cells, spec.sites), WIDTH)
    return "\n".join([summary(model), "", *lines, "", *_returns(spec)])


def description(model: ModelSummary, dims: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Return the dictionary of ``describe(as_dict=True)``; ``dims`` names the axes of each site."""
    signature, posterior, spec = model.signature, model.posterior, model.spec
    by_row = frozenset[str]() if spec is None else spec.arguments_by_row
    known = {name: None if spec is None else name in by_row for name in signature.extra}
    return {
        "kernel": signature.kernel,
        "param_input": signature.param_input,
        "param_output": signature.param_output,
        "arguments": {signature.param_input: True, signature.param_output: True, **known},
        "sites": {
            site.name: {
                "role": str(site.role),
                "shape": list(site.shape),
                "dims": list(dims[site.name]),
                "dtype": site.dtype,
                "distribution": site.distribution,
                "plates": [plate for plate, _ in site.plates],
                "depends_on": sorted(site.parents),
                "abduction": None if site.in_control_flow or site.abduction is None else str(site.abduction),
            }
            for site in (() if spec is None else spec.sites)
        },
        "return_sites": None if spec is None else list(spec.return_sites),
        "row_dim": None if spec is None else spec.row_dim,
        "inference": _inference(model),
        "settled": model.fit.outcome.settled,
        "chains": None if posterior is None else posterior.num_chains,
        "draws": None if posterior is None else posterior.n_draws // posterior.num_chains,
    }


def _noise(spec: KernelSpec) -> list[str]:
    """Return a sentence about the sites whose noise can be inferred, among the sites that depend on others."""
    sites = [site for site in spec.sites if site.is_sample and site.parents]
    inferred = [
        f"{site.name} ({site.abduction})" if site.abduction == Abduction.MONOTONE else site.name
        for site in sites
        if site.abduction is not None and not site.in_control_flow
    ]
    others = [
        f"{site.name} ({'in a scan or cond' if site.in_control_flow else site.distribution})"
        for site in sites
        if site.abduction is None or site.in_control_flow
    ]
    if not sites:
        return []
    found = f"counterfactual infers the noise of {', '.join(inferred) or 'no site'}"
    return [found + (f", but not the noise of {', '.join(others)}." if others else ".")]


def _returns(spec: KernelSpec) -> list[str]:
    """Return lines about the results of the methods for this kernel."""
    default = ", ".join(spec.return_sites) or "nothing: the kernel has no output and no deterministic site"
    facts = [
        f"A predictive method returns {default}, with dimensions (chain, draw, ...); rows run along '{spec.row_dim}'.",
        f"log_likelihood scores {spec.param_output}."
        if spec.output_observed
        else f"log_likelihood needs a trace in which {spec.param_output} is observed; there was none yet.",
    ]
    facts += _noise(spec)
    if spec.local_sites:
        facts.append(
            f"Local latent sites ({', '.join(spec.local_sites)}) keep their posterior draws for the fitted "
            "observations, and are resampled for others."
        )
    if spec.param_sites:
        facts.append(f"Parameters ({', '.join(spec.param_sites)}) take their fitted values.")
    if spec.fixed_size:
        facts.append(
            "The kernel could only be traced at the number of rows it was called with (it may close over arrays "
            "as long as the data), so its rows are assumed to be the plate around the output."
        )
    return [line for fact in facts for line in textwrap.wrap(fact, WIDTH, subsequent_indent="  ")]
