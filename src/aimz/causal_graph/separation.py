"""d-separation in causal graphs, open paths, and minimal separators."""

__all__ = ["are_separated", "implied_independences", "minimal_separators", "open_path"]

from collections import deque
from collections.abc import Collection, Iterator

from aimz.causal_graph.graph import CausalGraph, order_of

MAX_SETS = 20
"""Largest number of minimal separators that are enumerated."""


def open_path(
    graph: CausalGraph, starts: Collection[str], ends: Collection[str], given: Collection[str]
) -> list[str] | None:
    """Return a shortest path that is open given ``given``, or None if the sets are d-separated [1]_.

    References
    ----------
    .. [1] Shachter (1998), Bayes-ball: the rational pastime, UAI.
    """
    openers = graph.ancestors(given)
    first = [(node, True) for node in sorted(starts)]
    before: dict[tuple[str, bool], tuple[str, bool] | None] = dict.fromkeys(first)
    todo = deque(first)
    while todo:
        here = todo.popleft()
        node, against = here
        if node in ends:
            return _path(before, here)
        steps = []
        # `against` is whether the node was entered against an arrow; starts pass everything on.
        if node not in given:
            steps += [(child, False) for child in sorted(graph.children[node])]
        if (node not in given) if against else (node in openers):
            steps += [(parent, True) for parent in sorted(graph.parents[node])]
        for step in steps:
            if step not in before and step[0] not in starts:
                before[step] = here
                todo.append(step)
    return None


def _path(before: dict[tuple[str, bool], tuple[str, bool] | None], end: tuple[str, bool]) -> list[str]:
    """Return the nodes of the path that was searched last, from its start."""
    path, here = [], end
    while True:
        path.append(here[0])
        previous = before[here]
        if previous is None:
            return path[::-1]
        here = previous


def are_separated(graph: CausalGraph, starts: Collection[str], ends: Collection[str], given: Collection[str]) -> bool:
    """Return whether ``given`` d-separates two sets of nodes."""
    return open_path(graph, starts, ends, given) is None


def minimal_separators(
    graph: CausalGraph, starts: Collection[str], ends: Collection[str], allowed: Collection[str]
) -> list[frozenset[str]]:
    """Return sets of ``allowed`` nodes that d-separate two sets of nodes, and no subset of which does, at most 20 [1]_.

    References
    ----------
    .. [1] Van der Zander, Liskiewicz and Textor (2014), Constructing separators and adjustment sets in ancestral
       graphs, UAI.
    """
    moral = _moral(graph.among(graph.ancestors([*starts, *ends])))
    a, b = _merge(moral, starts, "\0start"), _merge(moral, ends, "\0end")
    for node in set(moral) - {*allowed, a, b}:
        around = moral.pop(node)
        for other in around:
            moral[other] = (moral[other] | around) - {other, node}
    if b in moral[a]:
        return []
    found = list(_separators(moral, a, b))
    return sorted(found, key=lambda one: (len(one), sorted(one)))


def implied_independences(graph: CausalGraph, measured: Collection[str]) -> list[tuple[str, str, frozenset[str]]]:
    """Return pairs of measured variables that the graph separates, each with a smallest minimal separator."""
    order = [name for name in order_of(graph.parents) if name in measured]
    found = []
    for place, other in enumerate(order):
        for one in order[:place]:
            separators = minimal_separators(graph, [one], [other], {*measured} - {one, other})
            found += [(one, other, separators[0])] if separators else []
    return found


def _moral(graph: CausalGraph) -> dict[str, set[str]]:
    """Return the neighbors of each node in the moral graph: causes, effects and other causes of its effects."""
    around: dict[str, set[str]] = {node: set() for node in graph.parents}
    for node, causes in graph.parents.items():
        family = {node, *causes}
        for one in family:
            around[one] |= family - {one}
    return around


def _merge(around: dict[str, set[str]], names: Collection[str], merged: str) -> str:
    """Replace some nodes of an undirected graph by a single one, and return its name."""
    neighbors: set[str] = set().union(*(around.pop(name) for name in names)) - {*names}
    for other in neighbors:
        around[other] = (around[other] - {*names}) | {merged}
    around[merged] = neighbors
    return merged


def _separators(around: dict[str, set[str]], a: str, b: str) -> Iterator[frozenset[str]]:
    """Yield minimal separators of two nodes in an undirected graph, the closest to the first node first."""
    first = _closest(around, {a}, b)
    known, todo = {first}, deque([first])
    while todo and len(known) <= MAX_SETS:
        separator = todo.popleft()
        yield separator
        side = _component(around, a, separator)
        for node in sorted(separator):
            if b not in around[node]:
                other = _closest(around, side | {node}, b)
                if other not in known and len(known) < MAX_SETS:
                    known.add(other)
                    todo.append(other)


def _closest(around: dict[str, set[str]], side: set[str], b: str) -> frozenset[str]:
    """Return the minimal separator of a connected set of nodes and another node that is closest to the set."""
    fence = set().union(*(around[node] for node in side)) - side
    beyond = _component(around, b, fence)
    return frozenset(set().union(*(around[node] for node in beyond)) - beyond)


def _component(around: dict[str, set[str]], start: str, removed: Collection[str]) -> set[str]:
    """Return the nodes that are connected with a node after others are removed."""
    found, todo = {start}, [start]
    while todo:
        new = around[todo.pop()] - found - {*removed}
        found |= new
        todo += new
    return found
