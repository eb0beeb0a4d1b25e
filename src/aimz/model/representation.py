"""A model in words: for the prompt, for notebooks, and at length."""

__all__ = ["ModelSummary", "describe", "html", "summary"]

import html as escape
import textwrap
from dataclasses import dataclass

from numpyro.infer import MCMC, SVI

from aimz.data import Posterior
from aimz.kernel import (
    COLUMNS,
    WIDTH,
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
    """What there is to say of a model."""

    signature: KernelSignature
    inference: SVI | MCMC | None
    posterior: Posterior | None
    spec: KernelSpec | None
    directory: str | None
    """Where results lie that were given no place of their own, if there are any."""


def _facts(model: ModelSummary) -> list[tuple[str, str]]:
    """Return what the short forms say, as pairs of a label and a text."""
    inference = model.inference
    how = "none: loaded to predict" if inference is None else type(inference).__name__
    if isinstance(inference, SVI):
        guide = inference.guide
        how += f" with guide {getattr(guide, '__name__', type(guide).__name__)}"
    elif inference is not None:
        how += f" with {type(inference.sampler).__name__}, {inference.num_chains} chain(s)"
    spec = model.spec
    # Results that were given a directory say themselves where they are.
    lying = [("Results", f"{model.directory} (temporary)")] if model.directory else []
    return [
        ("Kernel", model.signature.kernel),
        ("Input, output", f"{model.signature.param_input}, {model.signature.param_output}"),
        ("Inference", how),
        ("Fitted", f"yes, {model.posterior.n_draws} posterior draws" if model.posterior else "no"),
        *lying,
        ("Sites", ", ".join(_label(s) for s in spec.sites) if spec else "not traced yet"),
    ]


def _label(site: Site) -> str:
    """Return a site's name with its shape, as in ``beta[3]``."""
    if site.leaves:
        return f"{site.name}[{len(site.leaves)} arrays]"
    return f"{site.name}[{', '.join(map(str, site.shape))}]" if site.shape else site.name


def summary(model: ModelSummary) -> str:
    """Return a text of a few lines."""
    lines = ["<ImpactModel>"]
    for label, text in _facts(model):
        lines += textwrap.wrap(
            f"{label}: {text}", WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
        )
    return "\n".join(lines)


def html(model: ModelSummary) -> str:
    """Return a table for a notebook, with one row a site."""
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
    """Return the full text, at most 80 columns wide."""
    spec = model.spec
    if spec is None:
        said = (
            "The kernel has not been traced yet: call a method with data, or "
            f"`describe({model.signature.param_input}, {model.signature.param_output}, ...)`."
        )
        return "\n".join([summary(model), "", *textwrap.wrap(said, WIDTH, break_on_hyphens=False)])
    lines = text_table(COLUMNS, map(site_cells, spec.sites), WIDTH)
    return "\n".join([summary(model), "", *lines, "", *_returns(spec)])


def _returns(spec: KernelSpec) -> list[str]:
    """Return a line for each question about what a method gives back."""
    default = ", ".join(spec.return_sites) or "nothing: the kernel has no output and no deterministic site"
    facts = [
        f"A predictive method returns {default}, with dimensions (chain, draw, ...); rows run along '{spec.row_dim}'.",
        f"log_likelihood scores {spec.param_output}."
        if spec.output_observed
        else f"log_likelihood needs a trace in which {spec.param_output} is observed; there was none yet.",
    ]
    if spec.local_sites:
        facts.append(
            f"Local latent sites ({', '.join(spec.local_sites)}) keep their posterior draws for the fitted "
            "observations, and are drawn anew for others."
        )
    if spec.param_sites:
        facts.append(f"Parameters ({', '.join(spec.param_sites)}) take their fitted values.")
    if spec.fixed_size:
        facts.append(
            "The kernel could only be traced at the number of rows it was called with (it may close over arrays "
            "as long as the data), so its rows are taken to be the plate around the output."
        )
    return [line for fact in facts for line in textwrap.wrap(fact, WIDTH, subsequent_indent="  ")]
