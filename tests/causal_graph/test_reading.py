"""Graphs from text, mappings and networkx."""

import networkx as nx
import pytest

from aimz.causal_graph import read_graph

TRIANGLE = {"c": frozenset(), "x": frozenset("c"), "y": frozenset("cx")}


@pytest.mark.parametrize(
    "graph",
    [
        "c -> x; c -> y; x -> y",
        "c -> x -> y <- c",
        "c -> x\nc -> y  # demand\nx -> y",
        "c->x,y; x->y",
        "c -> {x y}; x -> y",
        'digraph G { rankdir=LR; c [label="demand"]; c -> x [style=bold]; c -> y; x -> y }',
        'dag { bb="0,0,1,1" c x [exposure,pos="0,1"] y [outcome] c -> x c -> y x -> y }',
        {"c": ["x", "y"], "x": "y"},
        [("c", "x"), ("c", "y"), ("x", "y")],
        nx.DiGraph([("c", "x"), ("c", "y"), ("x", "y")]),
        "c → x → y; y ← c",
    ],
)
def test_forms_of_one_graph(graph):
    found = read_graph(graph)
    assert dict(found.parents) == TRIANGLE
    assert not found.unobserved


def test_hidden_common_causes():
    found = read_graph("x -> y; x <-> y; u [latent]; u -> y", unobserved=["w"])
    assert found.parents["y"] == {"x", "u", "x <-> y"}
    assert found.unobserved == {"u", "x <-> y"}


def test_attributes_of_networkx_mark_hidden_nodes():
    graph = nx.DiGraph([("u", "x"), ("v", "y"), ("x", "y")])
    graph.nodes["u"]["observed"] = "no"
    graph.nodes["v"]["latent"] = True
    assert read_graph(graph).unobserved == {"u", "v"}


def test_names_of_columns_and_quoted_names():
    assert read_graph('X[:,0] -> "my outcome"').nodes == {"X[:, 0]", "my outcome"}


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        ("a -> b -> c -> a", r"no cycle; got \w -> \w -> \w -> \w"),
        ("a -> a", "own cause"),
        ("a -> ", "without a name on both sides"),
        ("a -- b", "no direction"),
        ("{a b -> c", "brace"),
        ("a -> ]b", "cannot be read"),
        (nx.Graph([("a", "b")]), "undirected"),
    ],
)
def test_unreadable_graphs(graph, message):
    with pytest.raises(ValueError, match=message):
        read_graph(graph)


def test_other_types_are_rejected():
    for graph in (3, ["a -> b"]):
        with pytest.raises(TypeError, match="must be a causal graph"):
            read_graph(graph)
