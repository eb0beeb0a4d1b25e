"""Ways to identify an effect in a causal graph: adjustment, front door, instruments, and whether there is any."""

__all__ = [
    "Instrument",
    "adjustment_sets",
    "forbidden",
    "front_doors",
    "instruments",
    "is_identifiable",
    "proper_backdoor_graph",
]

from collections.abc import Collection
from itertools import combinations
from typing import NamedTuple

from aimz.causal_graph.graph import CausalGraph
from aimz.causal_graph.separation import are_separated, minimal_separators

_MAX_FRONT_DOOR = 3
"""Largest number of mediators of a front door that is searched for."""


class Instrument(NamedTuple):
    """A variable that affects the outcome through the treatment only, given others."""

    name: str
    given: frozenset[str]

    def __str__(self) -> str:
        """Return the instrument as text."""
        return f"{self.name}, given {', '.join(sorted(self.given))}" if self.given else self.name


def forbidden(graph: CausalGraph, treatment: Collection[str], outcome: str) -> frozenset[str]:
    """Return the nodes that an adjustment must not contain: mediators, the outcome, and their effects."""
    return graph.descendants(graph.on_causal_paths(treatment, outcome)) | {*treatment}


def proper_backdoor_graph(graph: CausalGraph, treatment: Collection[str], outcome: str) -> CausalGraph:
    """Return the graph without the first arrows of the causal paths from treatment to outcome [1]_.

    A set without forbidden nodes is valid for adjustment exactly if it separates treatment and outcome in this graph.

    References
    ----------
    .. [1] Van der Zander, Liskiewicz and Textor (2014), Constructing separators and adjustment sets in ancestral
       graphs, UAI.
    """
    return graph.without_arrows(treatment, graph.on_causal_paths(treatment, outcome))


def adjustment_sets(graph: CausalGraph, treatment: Collection[str], outcome: str) -> list[frozenset[str]]:
    """Return minimal sets of measured variables that are valid for adjustment, at most 20."""
    allowed = graph.observed - forbidden(graph, treatment, outcome)
    cut = proper_backdoor_graph(graph, treatment, outcome)
    return minimal_separators(cut, treatment, [outcome], allowed)


def front_doors(graph: CausalGraph, treatment: str, outcome: str) -> list[frozenset[str]]:
    """Return minimal sets of measured mediators that satisfy the front-door criterion."""
    candidates = sorted((graph.on_causal_paths([treatment], outcome) & graph.observed) - {outcome})
    found: list[frozenset[str]] = []
    for size in range(1, min(_MAX_FRONT_DOOR, len(candidates)) + 1):
        for names in map(frozenset, combinations(candidates, size)):
            if not any(one <= names for one in found) and _is_front_door(graph, treatment, names, outcome):
                found.append(names)
    return found


def _is_front_door(graph: CausalGraph, treatment: str, mediators: frozenset[str], outcome: str) -> bool:
    """Return whether mediators satisfy Pearl's front-door criterion."""
    bypass = graph.among(graph.nodes - mediators)
    if outcome in bypass.descendants([treatment]):
        return False
    before = graph.without_arrows([treatment], graph.nodes)
    after = graph.without_arrows(mediators, graph.nodes - mediators)
    return are_separated(before, [treatment], mediators, []) and are_separated(after, mediators, [outcome], [treatment])


def instruments(graph: CausalGraph, treatment: str, outcome: str) -> list[Instrument]:
    """Return instruments, each with the smallest set of variables that it needs to be conditioned on [1]_.

    They identify the effect under linearity, or for those whom the instrument moves if it moves all in one direction.

    References
    ----------
    .. [1] Brito and Pearl (2002), Generalized instrumental variables, UAI.
    """
    cut = proper_backdoor_graph(graph, [treatment], outcome)
    allowed = graph.observed - graph.descendants([treatment, outcome])
    found = []
    for name in sorted(allowed):
        for given in minimal_separators(cut, [name], [outcome], allowed):
            if not are_separated(cut, [name], [treatment], given):
                found.append(Instrument(name, given))
                break
    return found


def is_identifiable(graph: CausalGraph, treatment: Collection[str], outcome: str) -> bool:
    """Return whether the distribution of the outcome after an intervention follows from that of the measured variables.

    Without assumptions about functions, by the algorithm of [1]_, which is complete.

    References
    ----------
    .. [1] Tian and Pearl (2003), On the identification of causal effects, UCLA technical report R-290-L.
    """
    after = graph.without_causes_of(treatment).ancestors([outcome]) - {*treatment}
    # Latent nodes stay in the graph; a district is a set of measured nodes connected by them.
    measured = after & graph.observed
    return all(_is_intrinsic(graph, one, _district(graph, one, graph.observed)) for one in _districts(graph, measured))


def _is_intrinsic(graph: CausalGraph, names: frozenset[str], within: frozenset[str]) -> bool:
    """Return whether the factor of a district is a function of the factor of the district ``within`` around it."""
    kept = frozenset(_measured_ancestors(graph, names, within))
    if kept == names:
        return True
    return kept != within and _is_intrinsic(graph, names, _district(graph, names, kept))


def _measured_ancestors(graph: CausalGraph, names: frozenset[str], within: frozenset[str]) -> frozenset[str]:
    """Return the ancestors of nodes in the graph of measured nodes ``within`` and all unmeasured ones."""
    return graph.among(within | graph.unobserved).ancestors(names) & within


def _districts(graph: CausalGraph, within: frozenset[str]) -> list[frozenset[str]]:
    """Return the districts of the graph of some measured nodes."""
    left, found = set(within), []
    while left:
        found.append(_district(graph, frozenset({min(left)}), within))
        left -= found[-1]
    return found


def _district(graph: CausalGraph, names: frozenset[str], within: frozenset[str]) -> frozenset[str]:
    """Return the nodes of ``within`` that hidden causes connect with ``names``."""
    found, todo = set(names), list(names)
    while todo:
        hidden = _hidden_causes(graph, todo.pop())
        new = {one for one in within - found if _hidden_causes(graph, one) & hidden}
        found |= new
        todo += new
    return frozenset(found)


def _hidden_causes(graph: CausalGraph, node: str) -> frozenset[str]:
    """Return the unmeasured nodes that affect a node directly or through other unmeasured nodes."""
    return graph.among({node} | graph.unobserved).ancestors([node]) - {node}
