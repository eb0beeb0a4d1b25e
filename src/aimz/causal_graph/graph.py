"""A causal graph: which variable is a direct cause of which, and which variables are not measured."""

__all__ = ["CausalGraph", "contracted", "order_of"]

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from graphlib import TopologicalSorter


@dataclass(frozen=True)
class CausalGraph:
    """A directed acyclic graph of causes. A hidden common cause of two variables is a node without parents."""

    parents: Mapping[str, frozenset[str]]
    """Direct causes of each node; nodes without causes are included."""
    unobserved: frozenset[str] = frozenset()
    """Nodes that are not measured."""

    @cached_property
    def children(self) -> Mapping[str, frozenset[str]]:
        """Direct effects of each node."""
        found: dict[str, set[str]] = {node: set() for node in self.parents}
        for node, causes in self.parents.items():
            for cause in causes:
                found[cause].add(node)
        return {node: frozenset(effects) for node, effects in found.items()}

    @property
    def nodes(self) -> frozenset[str]:
        """Names of all nodes."""
        return frozenset(self.parents)

    @property
    def observed(self) -> frozenset[str]:
        """Names of the nodes that are measured."""
        return self.nodes - self.unobserved

    def ancestors(self, names: Iterable[str]) -> frozenset[str]:
        """Return the nodes in ``names`` and all of their direct and indirect causes."""
        return _closure(self.parents, names)

    def descendants(self, names: Iterable[str]) -> frozenset[str]:
        """Return the nodes in ``names`` and everything that they affect directly or indirectly."""
        return _closure(self.children, names)

    def without_causes_of(self, names: Collection[str]) -> "CausalGraph":
        """Return the graph without arrows into ``names``, as after an intervention on them."""
        kept = {node: frozenset() if node in names else causes for node, causes in self.parents.items()}
        return CausalGraph(kept, self.unobserved)

    def without_arrows(self, causes: Collection[str], effects: Collection[str]) -> "CausalGraph":
        """Return the graph without the arrows from any of ``causes`` to any of ``effects``."""
        kept = {node: above - {*causes} if node in effects else above for node, above in self.parents.items()}
        return CausalGraph(kept, self.unobserved)

    def among(self, names: Collection[str]) -> "CausalGraph":
        """Return the graph of some of the nodes only."""
        kept = {node: causes & {*names} for node, causes in self.parents.items() if node in names}
        return CausalGraph(kept, self.unobserved & {*names})

    def with_nodes(self, names: Iterable[str]) -> "CausalGraph":
        """Return the graph with further measured nodes that are unrelated to all others."""
        return replace(self, parents={**dict.fromkeys(names, frozenset()), **self.parents})

    def on_causal_paths(self, treatment: Collection[str], outcome: str) -> frozenset[str]:
        """Return the nodes after the treatment on its paths to the outcome, which is one of them."""
        after = self.without_causes_of(treatment).descendants(treatment)
        # Paths from one treatment through another one are paths of the latter.
        cut = {node: causes - {*treatment} for node, causes in self.parents.items()}
        return after.intersection(CausalGraph(cut).ancestors([outcome])) - {*treatment}


def _closure(neighbors: Mapping[str, frozenset[str]], names: Iterable[str]) -> frozenset[str]:
    """Return ``names`` and all nodes that are reached from them."""
    todo = list(names)
    found = set(todo)
    while todo:
        new = neighbors[todo.pop()] - found
        found |= new
        todo += new
    return frozenset(found)


def order_of(parents: Mapping[str, frozenset[str]]) -> list[str]:
    """Return the nodes, causes before effects, in the same order in every process.

    Raises
    ------
    graphlib.CycleError
        If there is a cycle.
    """
    ordered = {node: sorted(parents[node]) for node in sorted(parents)}
    return list(TopologicalSorter(ordered).static_order())


def contracted(parents: Mapping[str, frozenset[str]], names: Collection[str]) -> dict[str, frozenset[str]]:
    """Return a graph without some nodes, whose effects become effects of their causes."""
    found: dict[str, frozenset[str]] = {}
    for node in order_of(parents):
        inherited = [found[cause] if cause in names else frozenset({cause}) for cause in parents[node]]
        found[node] = frozenset().union(*inherited)
    return {node: causes for node, causes in found.items() if node not in names}
