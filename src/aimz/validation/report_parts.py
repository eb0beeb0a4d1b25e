"""Private methods of a model that compute the sections of a report."""

__all__ = ["CALLS", "ReportParts", "treatment_of"]

import json
from collections.abc import Mapping
from contextlib import suppress
from numbers import Real
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from aimz.data import key_to_text
from aimz.errors import KernelValidationError
from aimz.methods import CheckingMethods, CheckResult, DecisionMethod, FittedRows, ModelSummary, description
from aimz.report import Block, Drawing, Section
from aimz.validation.identification import IdentificationMethods
from aimz.validation.identification_result import IdentificationResult
from aimz.validation.report_checks import result_section, support_section
from aimz.validation.report_facts import kernel_source, posterior_digest, reproduction_section
from aimz.validation.report_model import KERNEL_CAPTION, drawn_graph, kernel_section, prior_section
from aimz.validation.report_results import UNAVAILABLE, effect_attrs, frame_table, loss_figure, prior_figure
from aimz.validation.sensitivity import SensitivityMethods

if TYPE_CHECKING:
    import xarray as xr

_PRIOR_DRAWS = 200
CALLS = {
    "sensitivity": "call `model.sensitivity(effect, treatment=...)` and pass the result as `sensitivity`",
    "rehearsal": "call `model.rehearse(effect=...)` and pass the result as `rehearsal`",
    "prior": "call `model.prior_sensitivity(effect=...)` and pass the result as `prior_sensitivity`",
    "graph": "call `model.identify(treatment, graph=...)` and pass the result as `graph`",
}


class ReportParts(CheckingMethods, DecisionMethod, SensitivityMethods, IdentificationMethods):
    """Sections of a report that are computed from the model."""

    def _description(self) -> dict[str, Any]:
        """Return the kernel and its inference as plain values."""
        spec = self.kernel_spec
        summary = ModelSummary(self._engine.signature, self._fit, self._posterior, spec, None)
        return description(summary, {} if spec is None else self._results.site_dims(spec))

    def _posterior_support(self) -> Any:
        """Return the description of the rows of the fit; None if there is none."""
        return None if self._posterior is None else self._posterior.support

    def _data_facts(self) -> list[tuple[str, str]]:
        """Return facts about the rows of the fit."""
        inputs = self.inputs
        facts = [("outcome", f"`{self.param_output}`")]
        if inputs.n_obs is not None:
            facts.append(("rows of the fit", f"{inputs.n_obs:,}"))
        if inputs.columns:
            facts.append(("columns of the input", ", ".join(f"`{name}`" for name in inputs.columns)))
        if inputs.extra:
            facts.append(("further arguments", ", ".join(f"`{name}`" for name in inputs.extra)))
        facts += [(f"categories of `{n}`", ", ".join(map(str, c[:20]))) for n, c in inputs.categories.items()]
        return facts

    def _kernel_sections(self, effect: Any, graph: Any) -> tuple[Section, Section]:
        """Return the sections on the kernel and on the causal graph."""
        about = self._description()
        return kernel_section(about, self._kernel_graph(effect)), self._graph_section(effect, graph)

    def _kernel_graph(self, effect: Any) -> Drawing | None:
        """Return the drawing of the graph of the kernel; None if it is not known."""
        try:
            return drawn_graph(self.graph(), treatment_of(effect), self.param_output, KERNEL_CAPTION)
        except (KernelValidationError, *UNAVAILABLE):
            return None

    def _graph_section(self, effect: Any, graph: Any) -> Section:
        """Return the section on the causal graph, compared with the kernel if only the graph is given."""
        found, treatment = graph, treatment_of(effect)
        if not isinstance(graph, IdentificationResult):
            found = None
            if graph is not None:
                found = self.identify(_required(treatment, "graph"), graph=graph)
            elif self.causal_graph is not None and treatment is not None:
                found = self.identify(treatment)
        drawing = None
        if found is not None and self.causal_graph is not None:
            drawing = drawn_graph(self.causal_graph, treatment, self.param_output, "The causal graph that was given.")
        title = "Is it the causal effect?"
        return result_section("graph", title, found, CALLS["graph"], () if drawing is None else (drawing,))

    def _inference_facts(self) -> list[tuple[str, str]]:
        """Return facts about the inference."""
        about = self._description()
        settled = {True: "yes", False: "no", None: "not known"}[about["settled"]]
        text = self._fit.outcome.text
        return [
            ("inference", str(about["inference"])),
            ("settled", f"{settled} ({text})" if text else settled),
            ("chains", f"{about['chains']:,}"),
            ("draws of each chain", f"{about['draws']:,}"),
        ]

    def _inference_blocks(self) -> list[Block]:
        """Return the plot of the loss and the table of the posterior."""
        blocks: list[Block] = []
        if self.vi_result is not None and np.size(self.vi_result.losses) > 1:
            figure = loss_figure(self)
            blocks += [] if figure is None else [figure]
        with suppress(*UNAVAILABLE):
            blocks.append(frame_table(self.summary(), "Posterior of the sites of the kernel"))
        return blocks

    def _prior_section(
        self, X: Any, args: Mapping[str, Any] | None, checked: CheckResult | None, max_rows: int, key: jax.Array
    ) -> Section:
        """Return the section on priors, from draws for a few rows."""
        spec = self.kernel_spec
        try:
            rows = self._rows.require("report") if X is None else FittedRows(X, None, dict(args or {}))
            sampled, _, chosen = self._sample_rows(rows, None, max_rows)
            n_obs = None if checked is None else checked.n_obs
            if not chosen and n_obs is not None and n_obs > max_rows:
                msg = (
                    "Rows of data that are read in chunks cannot be selected; call `model.sample_prior_predictive(X)`."
                )
                raise TypeError(msg)
            assert spec is not None
            names = [name for name in spec.latent_sites if name not in spec.local_sites]
            output = self.param_output
            tree: Any = self.sample_prior_predictive_on_batch(
                sampled.X,
                num_samples=_PRIOR_DRAWS,
                rng_key=key,
                return_sites=[*names, output],
                **sampled.arguments,
            )
        except (AssertionError, *UNAVAILABLE) as error:
            reason = str(error) or "the kernel has not been traced"
            return prior_section(None, None, {}, checked, figure=None, not_run=reason)
        found: xr.Dataset = tree["prior_predictive"].to_dataset()
        values = found[output].values.reshape(_PRIOR_DRAWS, -1).astype(np.float64)
        with np.errstate(invalid="ignore"):
            functions: dict[str, Any] = {"mean": np.mean, "sd": np.std, "smallest": np.min, "largest": np.max}
            predicted = {name: function(values, axis=1) for name, function in functions.items()}
        known = self._posterior is not None
        posterior = self._auxiliary_groups()["posterior"] if known else None
        figure = prior_figure(tree, output)
        return prior_section(found[names], posterior, predicted, checked, figure=figure, not_run="")

    def _support_section(self, effect: Any, X: Any, args: Mapping[str, Any] | None) -> Section:
        """Return the section on the support of the scenarios of an effect."""
        attrs = effect_attrs(effect)
        verdict, reason = (
            str(attrs.get("support", "")),
            "it needs an effect; pass `effect`, or call `model.support(...)`",
        )
        found = []
        for setting in json.loads(attrs.get("interventions", "{}")).values():
            if setting and all(isinstance(value, Real) for value in setting.values()):
                try:
                    found.append(self.support(intervention=setting, X=X, args=args))
                except UNAVAILABLE as error:
                    reason = str(error)
        return support_section(found, verdict, reason)

    def _sensitivity_section(self, effect: Any, found: Any, X: Any, y: Any, args: Mapping[str, Any] | None) -> Section:
        """Return the section on hidden common causes, computed for the treatment of the effect if asked for."""
        if found is True or isinstance(found, Mapping):
            options: Any = {} if found is True else {**found}
            treatment = options.pop("treatment", None) or _required(treatment_of(effect), "sensitivity")
            found = self.sensitivity(effect, treatment=treatment, X=X, y=y, args=args, progress=False, **options)
        title = "Could a hidden common cause explain it?"
        return result_section("sensitivity", title, found or None, CALLS["sensitivity"])

    def _reproduction(self, effect: Any, keys: Any) -> Section:
        """Return the section with versions, keys and digests."""
        attrs = effect_attrs(effect)
        listed = [
            ("the model", key_to_text(self.rng_key)),
            ("the effect", str(attrs.get("rng_key", "not known"))),
            ("the predictive check", key_to_text(keys[1])),
            ("the prior predictive check", key_to_text(keys[2])),
        ]
        known = {} if self._observed is None else self._observed.digests
        digests = [(name, ", ".join(map(str, shape)), digest) for name, (shape, digest) in known.items()]
        draws = self.posterior or {}
        digests.append(("posterior", f"{len(draws)} sites", posterior_digest(draws)))
        kernel = self.kernel
        return reproduction_section(listed, digests, self._engine.signature.kernel, kernel_source(kernel))


def _required(treatment: str | None, option: str) -> str:
    """Return the treatment of an effect; raise if there is none.

    Raises
    ------
    ValueError
        If the effect is not that of one treatment.
    """
    if treatment is None:
        msg = (
            f"`{option}` needs the effect of one treatment; got no effect, or one of several. Pass "
            '`effect=model.effect("campaign")`, or a result that was computed for the treatment.'
        )
        raise ValueError(msg)
    return treatment


def treatment_of(effect: Any) -> str | None:
    """Return the name of the treatment of an effect; None if there are several, or none is known."""
    settings = json.loads(effect_attrs(effect).get("interventions", "{}"))
    names = {name for setting in settings.values() for name in setting}
    return next(iter(names)) if len(names) == 1 else None
