"""The verdict whether a kernel computes an effect, with the ways in which a graph identifies the effect."""

__all__ = ["Identification", "check_questions", "identify", "verdict_on"]

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from aimz.causal_graph.adjustment import Instrument, adjustment_sets, front_doors, instruments, is_identifiable
from aimz.causal_graph.comparison import Computation, GraphFinding, compare_with_graph, computation_of
from aimz.causal_graph.graph import CausalGraph
from aimz.causal_graph.kernel_graph import KernelGraph
from aimz.causal_graph.names import matched_name
from aimz.kernel import quote_list

type Answer = Literal["yes", "no", "not known"]


@dataclass(frozen=True)
class Identification:
    """Verdict and ways of identification."""

    does: Computation
    answer: Answer
    findings: tuple[GraphFinding, ...]
    adjustment_sets: tuple[frozenset[str], ...] = ()
    front_doors: tuple[frozenset[str], ...] = ()
    instruments: tuple[Instrument, ...] = ()
    identifiable: bool | None = None
    """Whether any formula of the measured variables is the effect in the graph; None without a graph."""


def check_questions(kernel: KernelGraph, treatment: str | Sequence[str], outcome: str | None) -> tuple[list[str], str]:
    """Return the names of treatments and outcome among the variables of the kernel.

    Raises
    ------
    TypeError, ValueError
        If a name is unknown, or the outcome is among the treatments.
    """
    given = [treatment] if isinstance(treatment, str) else list(treatment)
    if not given:
        msg = "`treatment` must name a variable; got an empty list. Pass the name of a site, an argument or a column."
        raise TypeError(msg)
    names = [matched_name(kernel, name, "`treatment`") for name in given]
    target = kernel.outcome if outcome is None else matched_name(kernel, outcome, "`outcome`")
    if target in names:
        msg = (
            f"Treatment and outcome must differ; got {target!r} for both. Name a cause of `{target}` as the treatment."
        )
        raise ValueError(msg)
    return names, target


def identify(
    kernel: KernelGraph, treatment: Collection[str], outcome: str, graph: CausalGraph | None
) -> Identification:
    """Return whether the kernel computes the effect in a graph.

    Raises
    ------
    ValueError
        If treatment or outcome are not in the graph, the outcome is a cause of the treatment, or sites of the kernel
        are in a `scan`.
    """
    does = computation_of(kernel, treatment, outcome)
    if graph is None:
        return Identification(does, "not known", tuple(_assumptions(does)))
    _check_ends(graph, treatment, outcome)
    # There are data of both, whatever the kernel computes them from.
    graph = CausalGraph(graph.parents, graph.unobserved - {*treatment, outcome})
    findings = compare_with_graph(kernel, does, graph)
    answer: Answer = "no" if any(finding.verdict == "bad" for finding in findings) else "yes"
    single = next(iter(treatment)) if len(treatment) == 1 else None
    return Identification(
        does,
        answer,
        tuple(findings),
        tuple(adjustment_sets(graph, treatment, outcome)),
        () if single is None else tuple(front_doors(graph, single, outcome)),
        () if single is None else tuple(instruments(graph, single, outcome)),
        is_identifiable(graph, treatment, outcome),
    )


def _check_ends(graph: CausalGraph, treatment: Collection[str], outcome: str) -> None:
    """Raise if treatment or outcome are not in the graph, or in the wrong order."""
    missing = [name for name in (*treatment, outcome) if name not in graph.parents]
    if missing:
        msg = (
            f"Treatment and outcome must be in the graph; it has {', '.join(sorted(graph.parents))}, and not "
            f"{missing[0]!r}. Add the arrows into and out of it."
        )
        raise ValueError(msg)
    if outcome in graph.ancestors(treatment):
        first = next(name for name in treatment if outcome in graph.ancestors([name]))
        msg = (
            f"The outcome must not affect the treatment; in the graph, `{outcome}` is a cause of `{first}`. Exchange "
            "the two, or correct the graph."
        )
        raise ValueError(msg)


def _assumptions(does: Computation) -> list[GraphFinding]:
    """Return what has to be true for the kernel to compute the effect, if nothing else is known."""
    treatment, outcome = " and ".join(f"`{name}`" for name in does.treatment), does.outcome
    fixed = quote_list(sorted(does.adjusted))
    other = f" except {fixed}" if fixed else ""
    text = f"It is the effect only if nothing{other} affects both {treatment} and `{outcome}`"
    text += f", and {treatment} does not affect {fixed}." if fixed else "."
    found = [GraphFinding("no graph", "note", tuple(sorted(does.adjusted)), text)]
    responding = does.modeled[:-1]
    if responding:
        names = quote_list(responding)
        them = "it" if len(responding) == 1 else "them"
        text = f"It lets {names} respond to {treatment}, by the kernel's model of {them}."
        found.append(GraphFinding("no graph", "note", responding, text))
    return found


def verdict_on(kernel: KernelGraph, graph: CausalGraph | None, treatment: Sequence[str], outcome: str) -> str:
    """Return the verdict on an effect as one line, for the attributes of its result."""
    if graph is None:
        return "not checked: the model has no causal graph"
    try:
        names, target = check_questions(kernel, treatment, outcome)
        found = identify(kernel, names, target, graph)
    except (TypeError, ValueError) as error:
        return f"not checked: {error}"
    if found.answer == "yes":
        return "yes, under the given graph"
    bad = [finding for finding in found.findings if finding.verdict == "bad"]
    return f"no, under the given graph: {'; '.join(f'{one.check} ({", ".join(one.names)})' for one in bad)}"
