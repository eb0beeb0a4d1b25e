"""Adjustment sets, front doors, instruments and identifiability, against networkx and brute force."""

from itertools import combinations

import networkx as nx
import numpy as np
import pytest

from aimz.causal_graph import (
    adjustment_sets,
    are_separated,
    forbidden,
    front_doors,
    instruments,
    is_identifiable,
    read_graph,
)


def random_graph(rng, n_nodes, n_hidden=0):
    """Return a random graph as pairs, and its hidden nodes."""
    names = [f"v{i}" for i in rng.permutation(n_nodes)]
    pairs = [(a, b) for a, b in combinations(names, 2) if rng.random() < 0.4]
    hidden = set(rng.choice(names[: max(1, n_nodes // 2)], n_hidden, replace=False)) if n_hidden else set()
    return names, pairs, {str(name) for name in hidden}


def as_networkx(names, pairs):
    graph = nx.DiGraph(pairs)
    graph.add_nodes_from(names)
    return graph


def subsets(names):
    return (frozenset(some) for size in range(len(names) + 1) for some in combinations(sorted(names), size))


def test_separation_equals_networkx():
    rng = np.random.default_rng(0)
    for _ in range(40):
        names, pairs, _ = random_graph(rng, 6)
        theirs = as_networkx(names, pairs)
        ours = read_graph(theirs)
        for one, other in combinations(names, 2):
            for given in subsets({*names} - {one, other}):
                assert are_separated(ours, [one], [other], given) == nx.is_d_separator(theirs, one, other, given)


def is_valid(graph, treatment, outcome, given):
    """Return whether a set satisfies the adjustment criterion, from paths and networkx's d-separation."""
    paths = list(nx.all_simple_paths(graph, treatment, outcome))
    between = {node for path in paths for node in path[1:]}
    after = between.union(*(nx.descendants(graph, node) for node in between))
    if after & given or treatment in given:
        return False
    cut = graph.copy()
    cut.remove_edges_from([(path[0], path[1]) for path in paths])
    return nx.is_d_separator(cut, treatment, outcome, given)


@pytest.mark.parametrize("n_hidden", [0, 2])
def test_adjustment_sets_are_the_minimal_valid_sets(n_hidden):
    rng = np.random.default_rng(n_hidden)
    n_found = 0
    for _ in range(120):
        names, pairs, hidden = random_graph(rng, 7, n_hidden)
        theirs, ours = as_networkx(names, pairs), read_graph(pairs, hidden).with_nodes({*names} - hidden)
        order = list(nx.topological_sort(theirs))
        seen = [name for name in order if name not in hidden]
        treatment, outcome = seen[0], seen[-1]
        valid = [some for some in subsets({*seen} - {treatment, outcome}) if is_valid(theirs, treatment, outcome, some)]
        minimal = {some for some in valid if not any(other < some for other in valid)}
        assert set(adjustment_sets(ours, [treatment], outcome)) == minimal
        n_found += len(minimal)
    assert n_found > 100


def identify(text, treatment="x", outcome="y", unobserved=()):
    """Return adjustment sets, front doors, instruments, and whether the effect is identified."""
    graph = read_graph(text, unobserved)
    return (
        [set(some) for some in adjustment_sets(graph, [treatment], outcome)],
        [set(some) for some in front_doors(graph, treatment, outcome)],
        [str(one) for one in instruments(graph, treatment, outcome)],
        is_identifiable(graph, [treatment], outcome),
    )


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ("x -> m -> y", ([set()], [{"m"}], [], True)),
        ("c -> x; c -> y; x -> y", ([{"c"}], [], [], True)),
        ("x -> s <- y; x -> y", ([set()], [], [], True)),
        # M-bias: nothing to adjust for, and `m` would open a path.
        ("x <- u -> m <- v -> y; x -> y; u [latent]; v [latent]", ([set()], [], [], True)),
        # Butterfly: `m` is a common cause and a collider.
        ("x <- a -> m <- b -> y; x <- m -> y; x -> y", ([{"a", "m"}, {"b", "m"}], [], ["a, given b, m"], True)),
        ("x -> m -> y; x <-> y", ([], [{"m"}], [], True)),
        ("x -> m -> y; x -> y; x <-> y", ([], [], [], False)),
        ("z -> x -> y; x <-> y", ([], [], ["z"], False)),
        ("w -> z -> x -> y; w <-> x; w <-> y", ([], [], ["z, given w"], True)),
        # A hidden cause of mediator and outcome does not matter to the total effect.
        ("x -> m -> y; x -> y; m <-> y", ([set()], [], [], True)),
        # The same of treatment and mediator does.
        ("x -> m -> y; x <-> m", ([], [], [], False)),
        ("x -> y; x <-> y", ([], [], [], False)),
    ],
)
def test_named_graphs(graph, expected):
    assert identify(graph) == expected


def test_adjustment_sets_of_two_treatments():
    graph = read_graph("c -> a -> b -> y; c -> y; a -> y; a <-> d; d -> y")
    assert forbidden(graph, ["a", "b"], "y") == {"a", "b", "y"}
    # Given both, `c` and `d` are on open paths.
    assert [set(some) for some in adjustment_sets(graph, ["a", "b"], "y")] == [{"c", "d"}]


def test_number_of_adjustment_sets_is_limited():
    chains = "; ".join(f"x <- a{i} -> b{i} -> y" for i in range(12))
    found = adjustment_sets(read_graph(f"x -> y; {chains}"), ["x"], "y")
    assert len(found) == 20
    assert all(len(some) == 12 for some in found)


def test_identified_effects_are_identifiable():
    """Effects with an adjustment set, a front door, or no hidden path to a child of the treatment are identifiable."""
    rng = np.random.default_rng(4)
    counts = {True: 0, False: 0}
    for _ in range(300):
        names, pairs, hidden = random_graph(rng, 7, 3)
        graph = read_graph(pairs, hidden).with_nodes({*names} - hidden)
        order = [name for name in nx.topological_sort(as_networkx(names, pairs)) if name not in hidden]
        treatment, outcome = order[0], order[-1]
        found = is_identifiable(graph, [treatment], outcome)
        counts[found] += 1
        if adjustment_sets(graph, [treatment], outcome) or front_doors(graph, treatment, outcome):
            assert found
        if not hidden & nx.ancestors(as_networkx(names, pairs), treatment):
            assert found
    assert min(counts.values()) > 10
