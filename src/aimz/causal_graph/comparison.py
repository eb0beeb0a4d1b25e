"""Comparison of what a kernel computes for an intervention with the effect in a causal graph."""

__all__ = ["Computation", "GraphFinding", "compare_with_graph", "computation_of"]

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from aimz.causal_graph.adjustment import forbidden, proper_backdoor_graph
from aimz.causal_graph.graph import CausalGraph, order_of
from aimz.causal_graph.kernel_graph import KernelGraph
from aimz.causal_graph.separation import are_separated, open_path
from aimz.kernel import quote_list

_MAX_PATHS = 10
"""Largest number of open paths that are reported."""


@dataclass(frozen=True)
class GraphFinding:
    """Result of one comparison of the kernel with the graph."""

    check: str
    """Name of the comparison, such as "hidden common cause"."""
    verdict: Literal["ok", "bad", "note"]
    names: tuple[str, ...]
    """Variables that the finding is about."""
    text: str
    """The finding as a sentence, with what to do about it."""


@dataclass(frozen=True)
class Computation:
    """A formula of g-computation, which the kernel evaluates for an intervention."""

    graph: CausalGraph
    """Variables of the kernel, without parameters and deterministic sites."""
    treatment: tuple[str, ...]
    outcome: str
    adjusted: frozenset[str]
    """Variables with data that are held fixed, and averaged over."""
    modeled: tuple[str, ...]
    """Variables with data that respond to the treatment, in order; the outcome is the last one."""
    latent: frozenset[str]
    """Local latent sites that are not affected by the treatment."""


def computation_of(kernel: KernelGraph, treatment: Collection[str], outcome: str) -> Computation:
    """Return the quantity that the kernel computes for an intervention.

    Raises
    ------
    ValueError
        If the kernel contains a `scan` or `cond`, or the outcome is a cause of the treatment in the kernel.
    """
    inside = [name for name in kernel.names() if kernel.nodes[name].in_control_flow]
    if inside:
        msg = (
            f"Identification needs the dependencies between all variables; sites {', '.join(sorted(inside))} are "
            "inside a `scan` or `cond`, where they are not known. Write the steps as separate sites (a Python loop "
            "over few steps)."
        )
        raise ValueError(msg)
    graph = kernel.without_computed([*treatment, outcome])
    if graph.ancestors(treatment) & {outcome}:
        msg = (
            f"The outcome must not affect the treatment; in this kernel, {quote_list(treatment)} depends on "
            f"`{outcome}`. Exchange the two."
        )
        raise ValueError(msg)
    cut = graph.without_causes_of(treatment)
    responding = (cut.descendants(treatment) & cut.ancestors([outcome]) - {*treatment}) | {outcome}
    adjusted: set[str] = set()
    latent: set[str] = set()
    todo = list(responding)
    while todo:
        for cause in cut.parents[todo.pop()] - responding - {*treatment} - adjusted - latent:
            if cause in graph.unobserved:
                latent.add(cause)
                todo.append(cause)
            else:
                adjusted.add(cause)
    modeled = [name for name in order_of(cut.parents) if name in responding and name not in graph.unobserved]
    modeled = [*(name for name in modeled if name != outcome), outcome]
    return Computation(graph, tuple(treatment), outcome, frozenset(adjusted), tuple(modeled), frozenset(latent))


def compare_with_graph(kernel: KernelGraph, does: Computation, graph: CausalGraph) -> list[GraphFinding]:
    """Return how the quantity that the kernel computes differs from the effect in a graph.

    The kernel averages P(outcome | treatment, adjusted) over the adjusted variables, where P is the product of the
    distributions of the modeled variables. This is the effect in the graph if the adjusted variables are a valid
    adjustment set, and the graph implies every independence among the modeled variables that the kernel assumes.
    """
    if does.outcome not in does.graph.without_causes_of(does.treatment).descendants(does.treatment):
        return _without_effect(does, graph)
    within = graph.with_nodes({*does.adjusted, *does.modeled} - graph.nodes)
    found = [*_held_fixed(kernel, does, within), *_open_paths(kernel, does, within), *_latent_causes(does)]
    # After other findings, independences that follow from several arrows are left out.
    found += list(_missing_arrows(does, within, arrows_only=bool(found)))
    return [*found, *_notes(kernel, does, graph)]


def _without_effect(does: Computation, graph: CausalGraph) -> list[GraphFinding]:
    """Return the finding about a kernel in which the outcome does not depend on the treatment."""
    treatment, outcome = quote_list(does.treatment), does.outcome
    path = graph.on_causal_paths(does.treatment, outcome)
    text = f"In the kernel, `{outcome}` does not depend on {treatment}, so every effect is 0"
    if not path:
        return [GraphFinding("no effect", "note", (*does.treatment, outcome), f"{text}, as in the graph.")]
    text += f"; the graph has a path from {treatment} to `{outcome}`. Let `{outcome}` depend on it."
    return [GraphFinding("arrow missing in the kernel", "bad", (*does.treatment, outcome), text)]


def _held_fixed(kernel: KernelGraph, does: Computation, graph: CausalGraph) -> Iterator[GraphFinding]:
    """Yield variables that the treatment affects and that the kernel holds fixed."""
    treatment, outcome = quote_list(does.treatment), does.outcome
    between = graph.on_causal_paths(does.treatment, outcome)
    for name in sorted(does.adjusted & forbidden(graph, does.treatment, outcome)):
        how = f"as {_article(kernel.nodes[name].kind)}"
        if name in between:
            text = (
                f"The graph has `{name}` on a path from {treatment} to `{outcome}`, and the kernel holds it fixed "
                f"{how}: what the treatment does through `{name}` is left out. Make it a site that depends on "
                f"{treatment}, or leave it out of the kernel."
            )
            yield GraphFinding("mediator held fixed", "bad", (name,), text)
            continue
        source = next(one for one in sorted(between) if name in graph.descendants([one]))
        text = (
            f"In the graph, {treatment} affects `{name}` through `{source}`, and the kernel holds it fixed {how}, "
            f"which removes or invents part of the effect. Leave `{name}` out of the kernel."
        )
        yield GraphFinding("descendant held fixed", "bad", (name,), text)


def _open_paths(kernel: KernelGraph, does: Computation, graph: CausalGraph) -> Iterator[GraphFinding]:
    """Yield paths from treatment to outcome that are not causal and open given what the kernel adjusts for."""
    cut = proper_backdoor_graph(graph, does.treatment, does.outcome)
    given = set(does.adjusted - forbidden(graph, does.treatment, does.outcome))
    removed: set[str] = set()
    for _ in range(_MAX_PATHS):
        path = open_path(cut, does.treatment, [does.outcome], given)
        if path is None:
            return
        finding, more = _open_path(kernel, does, cut, path, given)
        if removed & {*finding.names}:  # neither with nor without it
            return
        yield finding
        # Repair what was found, to find the next.
        if more is not None:
            given.add(more)
        elif finding.check == "collider adjusted for":
            given -= {*finding.names}
            removed |= {*finding.names}
        else:
            cut = cut.without_arrows(finding.names, cut.nodes)


def _open_path(
    kernel: KernelGraph, does: Computation, graph: CausalGraph, path: list[str], given: set[str]
) -> tuple[GraphFinding, str | None]:
    """Return the finding about an open path, and a further variable that would close it; None if there is none."""
    drawn = _drawn(graph, path)
    inner = list(zip(path, path[1:], path[2:], strict=False))
    meeting = [node for one, node, other in inner if {one, other} <= graph.parents[node]]
    opening = sorted(name for name in given if any(name in graph.descendants([node]) for node in meeting))
    if opening:
        more = next((node for node in path[1:-1] if node in graph.observed and node not in meeting), None)
        advice = [f"leave {quote_list(opening)} out of the kernel"]
        if not are_separated(graph, does.treatment, [does.outcome], given - {*opening}) and more is not None:
            advice = []  # they also close a path
        advice += [] if more is None else [f"let `{does.outcome}` depend on `{more}`, too"]
        text = (
            f"The kernel adjusts for {quote_list(opening)}, a common effect on the path {drawn} (or an effect of one), "
            f"which opens it: {', or '.join(advice)}."
        )
        return GraphFinding("collider adjusted for", "bad", tuple(opening), text), more
    usable = [node for node in path[1:-1] if node in graph.observed]
    if not usable:
        hidden = tuple(node for node in path[1:-1] if not graph.parents[node])[:1] or tuple(path[1:2])
        text = (
            f"The path {drawn} is open: a hidden common cause that no measured variable on the path can block. No "
            f"kernel with these data adjusts for it; see front doors, instruments and `sensitivity`."
        )
        return GraphFinding("hidden common cause", "bad", hidden, text), None
    name = usable[0]
    if name in does.modeled:
        what = f"in the kernel, `{name}` depends on {quote_list(does.treatment)} instead; hold it fixed"
    elif name in kernel.nodes:
        what = f"the kernel has `{name}`, but `{does.outcome}` does not depend on it there; add this arrow"
    else:
        what = f"`{name}` is not in the kernel; add it as a cause of `{does.outcome}`"
    text = f"The path {drawn} is open: {what}."
    return GraphFinding("common cause not adjusted for", "bad", (name,), text), name


def _latent_causes(does: Computation) -> Iterator[GraphFinding]:
    """Yield local latent sites of the kernel that affect treatment and outcome."""
    for name in sorted(does.latent & does.graph.ancestors(does.treatment)):
        text = (
            f"In the kernel, the local latent site `{name}` affects {quote_list(does.treatment)} and `{does.outcome}`. "
            "Its values are inferred from the form of the distributions alone; no graph justifies that."
        )
        yield GraphFinding("local latent above both", "bad", (name,), text)


def _missing_arrows(does: Computation, graph: CausalGraph, *, arrows_only: bool) -> Iterator[GraphFinding]:
    """Yield pairs of variables that are independent in the kernel, given the earlier ones, but not in the graph."""
    before = [*does.treatment, *sorted(does.adjusted)]
    for name in does.modeled:
        for other in before:
            rest = {*before} - {other}
            if not are_separated(does.graph, [name], [other], rest) or are_separated(graph, [name], [other], rest):
                continue
            if other in graph.parents[name] or name in graph.parents[other]:
                cause, effect = (other, name) if other in graph.parents[name] else (name, other)
                text = (
                    f"The arrow `{cause}` -> `{effect}` of the graph is missing in the kernel, where `{name}` does not "
                    f"depend on `{other}`. Add it."
                )
            elif arrows_only:
                continue
            else:
                condition = f", given {quote_list(sorted(rest))}" if rest else ""
                along = _drawn(graph, open_path(graph, [other], [name], rest) or [])
                text = (
                    f"In the kernel, `{name}` does not depend on `{other}`{condition}; in the graph it does, along "
                    f"{along}. Let `{name}` depend on `{other}`."
                )
            yield GraphFinding("arrow missing in the kernel", "bad", (other, name), text)
        before.append(name)


def _notes(kernel: KernelGraph, does: Computation, graph: CausalGraph) -> Iterator[GraphFinding]:
    """Yield facts that the verdict depends on, but that neither confirm nor contradict it."""
    given = [name for name in does.treatment if kernel.nodes[name].kind != "site"]
    if given:
        text = (
            f"{quote_list(given)} is {_article(kernel.nodes[given[0]].kind)}: what sets it is not in the "
            "kernel, only in the graph."
        )
        yield GraphFinding("treatment not modeled", "note", tuple(given), text)
    unknown = sorted(({*does.adjusted, *does.modeled} - graph.nodes) - {*does.treatment, does.outcome})
    if unknown:
        text = (
            f"The kernel uses {quote_list(unknown)}, not in the graph: taken to be unrelated to everything in it. Add "
            f"{'them' if len(unknown) > 1 else 'it'} if that is not so."
        )
        yield GraphFinding("not in the graph", "note", tuple(unknown), text)


def _drawn(graph: CausalGraph, path: list[str]) -> str:
    """Return a path as text with arrows; an unmeasured node without a name of its own is a double arrow."""
    text = path[0] if path else ""
    for one, other in pairwise(path):
        if " <-> " in other:
            text += " <->"
        elif " <-> " in one:
            text += f" {other}"
        else:
            text += f" -> {other}" if one in graph.parents[other] else f" <- {other}"
    return f"`{text}`"


def _article(kind: str) -> str:
    return {"argument": "an argument", "column": "a column of the input"}.get(kind, "a site with data")
