"""The method of ``ImpactModel`` that writes a report."""

__all__ = ["ReportMethods"]

import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jax

import aimz
from aimz._distribution import VERSION
from aimz.data import check_count, check_key
from aimz.methods import CheckResult, EffectResult, on_snapshot
from aimz.report import Report, Section, render
from aimz.validation.report_checks import check_section, effect_section, result_section
from aimz.validation.report_model import data_section, inference_section
from aimz.validation.report_parts import CALLS, ReportParts, treatment_of
from aimz.validation.report_results import UNAVAILABLE, effect_figure, sentences_of_result

_MAX_ANSWERS = 4


class ReportMethods(ReportParts):
    """A report about a model and its answer."""

    @on_snapshot
    def report(
        self,
        path: "str | os.PathLike[str]",
        *,
        effect: Any = None,
        question: str | None = None,
        notes: str | Iterable[str] = (),
        graph: Any = None,
        sensitivity: Any = None,
        rehearsal: Any = None,
        prior_sensitivity: Any = None,
        check: CheckResult | None = None,
        X: Any = None,
        y: Any = None,
        args: Mapping[str, Any] | None = None,
        max_rows: int = 2000,
        rng_key: jax.Array | None = None,
    ) -> Path:
        """Write a report as one HTML page, which needs no network and no other files.

        The first screen has the question, the answer, its plot, and lists of the checks that were made and of the
        others. The sections below describe the data, the kernel, its graph, the priors, inference and convergence,
        predictive checks, the support of the question, its sensitivity to hidden causes, rehearsals, and the versions,
        keys and digests that reproduce the report. Convergence, predictive checks, priors and support are computed
        here, on at most ``max_rows`` rows; results of the other methods are passed. A section without a result names
        the call that computes it.

        Parameters
        ----------
        path : path-like
            File to write, such as "report.html"; a file of this name is replaced.
        effect : EffectResult, str, mapping or tree, optional
            Result of :meth:`effect`, :meth:`compare_scenarios` or another question; or a treatment or an intervention,
            for which :meth:`effect` is called.
        question : str, optional
            The question in words, with names of variables in backticks; by default derived from the effect.
        notes : str or list of str
            Paragraphs about the study, such as how the data were collected.
        graph : IdentificationResult, or a graph as of :meth:`identify`, optional
            Result of :meth:`identify`, or the causal graph, for which that is called with the treatment of the effect;
            by default the graph of the last call of :meth:`identify`.
        rehearsal, prior_sensitivity : optional
            Results of the methods ``rehearse`` and ``prior_sensitivity``.
        sensitivity : SensitivityResult, bool or mapping, optional
            Result of :meth:`sensitivity`; or True, or options of that method such as ``{"benchmark": ["age"]}``, to
            compute it for the treatment of the effect.
        check : CheckResult, optional
            Result of :meth:`check`, such as with groups; by default :meth:`check` is called.
        X, y : array_like of shape (n_obs, ...), optional
            Rows to check and to average over, if the rows of the fit are not in memory.
        args : mapping, optional
            Further arguments of the kernel, with ``X``.
        max_rows : int
            Number of rows, evenly spaced, for which checks and prior predictions are computed.
        rng_key : jax.Array, optional
            Key for this call. By default the key is derived from that of the model, which does not change.

        Returns
        -------
        pathlib.Path
            Path of the file.

        Raises
        ------
        NotFittedError
            If there is no posterior.

        Examples
        --------
        >>> import tempfile, jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from pathlib import Path
        >>> from aimz import ImpactModel
        >>> def kernel(X, mail, y=None):
        ...     gain = numpyro.sample("gain", dist.Normal(0.0, 5.0))
        ...     with numpyro.plate("customer", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(X + gain * mail, 1.0), obs=y)
        >>> X, mail = jnp.linspace(-1.0, 1.0, 100), jnp.arange(100) % 2
        >>> model = ImpactModel(kernel, 0, "svi").fit(X, X + 2.0 * mail, mail=mail, progress=False)
        >>> path = model.report(Path(tempfile.mkdtemp()) / "report.html", effect="mail")
        >>> "Not checked" in path.read_text()
        True
        """
        self._fitted("report")
        check_count(max_rows, "max_rows")
        keys = jax.random.split(jax.random.fold_in(self.rng_key, 2) if rng_key is None else check_key(rng_key), 3)
        if effect is not None and (isinstance(effect, str) or _is_intervention(effect)):
            effect = self.effect(effect, X=X, args=args, rng_key=keys[0], progress=False)
        why_not_checked = ""
        if check is None:
            try:
                check = self.check(X, y, args=args, max_rows=max_rows, rng_key=keys[1])
            except UNAVAILABLE as error:
                why_not_checked = str(error)
        answer = _answer(effect)
        figure = effect_figure(effect, " ".join(answer))
        sections = (
            effect_section(effect, answer),
            data_section(self._data_facts(), self._posterior_support(), check, notes),
            *self._kernel_sections(effect, graph),
            self._prior_section(X, args, check, max_rows, keys[2]),
            inference_section(self._inference_facts(), check, self._inference_blocks()),
            check_section(check, why_not_checked),
            self._support_section(effect, X, args),
            self._sensitivity_section(effect, sensitivity, X, y, args),
            result_section("rehearsal", "Does the analysis recover known effects?", rehearsal, CALLS["rehearsal"]),
            result_section("prior", "Do the priors decide the answer?", prior_sensitivity, CALLS["prior"]),
            self._reproduction(effect, keys),
        )
        page = render(
            Report(
                question or _question(effect, self.param_output),
                tuple(answer[:_MAX_ANSWERS]) or ("No effect was asked for.",),
                _about(effect),
                figure,
                sections,
                f"Made with aimz {VERSION} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
                _limits(sections),
            )
        )
        return _write(Path(os.fspath(path)), page)


def _write(target: Path, text: str) -> Path:
    """Write a file, which replaces one of this name once it is complete; return its path."""
    partial = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    partial.write_text(text, encoding="utf-8")
    partial.replace(target)
    return target


def _is_intervention(effect: Any) -> bool:
    """Return whether an effect is given as an intervention by name."""
    return isinstance(effect, Mapping) and not hasattr(effect, "children")


def _answer(effect: Any) -> list[str]:
    """Return the sentences of an effect."""
    if effect is None:
        return []
    own = sentences_of_result(effect)
    if own:
        return own
    try:
        return aimz.output.in_words(effect)
    except (KeyError, *UNAVAILABLE):
        return [" ".join(str(effect).split("\n\n", maxsplit=1)[0].split())]


def _about(effect: Any) -> str:
    """Return the line under the answer."""
    if not isinstance(effect, EffectResult):
        return ""
    sizes = effect.tree["effect"].sizes
    return f"Average over {effect.rows}; {sizes['chain'] * sizes['draw']:,} draws of the posterior."


def _question(effect: Any, output: str) -> str:
    """Return a question for an effect."""
    treatment = treatment_of(effect)
    if effect is None:
        return f"A model of `{output}`"
    if treatment is None:
        return f"How does `{output}` differ between the scenarios?"
    return f"What is the effect of `{treatment}` on `{output}`?"


_NO_GRAPH = "That this is an effect, and no mere association, rests on the kernel alone: no causal graph was given."


def _limits(sections: Iterable[Section]) -> tuple[str, ...]:
    """Return the results that limit the answer: failed checks, missing support, and the causal graph."""
    found = []
    for section in sections:
        text = section.outcome
        if section.key == "graph":
            found.append(_NO_GRAPH if section.not_run else text)
        elif " failed: " in text or text.startswith("The question is outside"):
            found.append(text)
    return tuple(found)
