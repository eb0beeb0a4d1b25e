"""Causal graphs from text, from mappings and from networkx."""

__all__ = ["read_graph"]

import re
from collections.abc import Iterable, Mapping
from graphlib import CycleError
from typing import Any

from aimz.causal_graph.graph import CausalGraph, order_of

type Arrows = list[tuple[str, str, str]]
"""Arrows as cause, kind ("->" or "<->") and effect."""

_TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/|\#[^\n]*)
    |(?P<arrow><->|->|<-|--)
    |"(?P<quoted>[^"]*)"
    |(?P<column>\w+\[:,\s*\d+\])
    |\[(?P<attributes>[^\]]*)\]
    |(?P<mark>[{},;=])
    |(?P<name>(?:(?!<->|->|<-|--)[^\s{}\[\],;"=])+)
    |(?P<space>\s+)""",
    re.VERBOSE | re.DOTALL,
)
_KEYWORDS = ("dag", "digraph", "mag", "strict")
_LATENT = re.compile(r"\b(latent|unobserved)\b", re.IGNORECASE)
_EXPECTED = (
    'A graph is text such as "demand -> campaign; demand -> sales; campaign -> sales" ("a <-> b" for a hidden common '
    "cause), a `networkx.DiGraph`, or a mapping of causes to effects."
)


def read_graph(graph: Any, unobserved: Iterable[str] = ()) -> CausalGraph:
    """Return a graph from text, a networkx graph, a mapping of causes to their effects, or pairs of cause and effect.

    Raises
    ------
    TypeError, ValueError
        If the graph cannot be read, or has a cycle.
    """
    if isinstance(graph, CausalGraph):
        return CausalGraph(graph.parents, graph.unobserved | {*unobserved})
    nodes, arrows, latent = _read(graph)
    parents: dict[str, set[str]] = {node: set() for node in nodes}
    hidden = {*unobserved, *latent}
    for cause, kind, effect in arrows:
        if cause == effect:
            msg = f"A variable cannot be its own cause; got {cause!r} {kind} {effect!r}. Remove this arrow."
            raise ValueError(msg)
        parents.setdefault(cause, set())
        parents.setdefault(effect, set())
        if kind == "->":
            parents[effect].add(cause)
            continue
        common = f"{min(cause, effect)} <-> {max(cause, effect)}"
        parents[common] = set()
        hidden.add(common)
        for end in (cause, effect):
            parents[end].add(common)
    # A hidden variable that the arrows do not mention is not part of the graph.
    found = CausalGraph({node: frozenset(causes) for node, causes in parents.items()}, frozenset(hidden & {*parents}))
    try:
        order_of(found.parents)
    except CycleError as error:
        cycle = " -> ".join(error.args[1])
        msg = (
            f"A causal graph must have no cycle; got {cycle}. Remove one of these arrows; for causes in both "
            "directions over time, use one variable for each time."
        )
        raise ValueError(msg) from None
    return found


def _read(graph: Any) -> tuple[list[str], Arrows, set[str]]:
    """Return the nodes, the arrows and the nodes that are marked as not measured."""
    if isinstance(graph, str):
        return _read_text(graph)
    if hasattr(graph, "is_directed") and hasattr(graph, "nodes"):
        if not graph.is_directed():
            msg = f"A causal graph must be directed; got an undirected {type(graph).__name__}. {_EXPECTED}"
            raise ValueError(msg)
        latent = {str(node) for node, about in graph.nodes(data=True) if _is_latent(about)}
        return list(map(str, graph.nodes)), [(str(edge[0]), "->", str(edge[1])) for edge in graph.edges], latent
    if isinstance(graph, Mapping):
        effects = {str(cause): [some] if isinstance(some, str) else list(some) for cause, some in graph.items()}
        return list(effects), [(cause, "->", str(one)) for cause, some in effects.items() for one in some], set()
    pairs: list[Any] = list(graph) if isinstance(graph, Iterable) else [None]
    if not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        msg = f"`graph` must be a causal graph; got {type(graph).__name__}. {_EXPECTED}"
        raise TypeError(msg)
    return [], [(str(cause), "->", str(effect)) for cause, effect in pairs], set()


def _is_latent(attributes: Mapping[str, Any]) -> bool:
    """Return whether the attributes of a networkx node mark it as not measured."""
    return attributes.get("observed", True) in (False, "no") or bool(attributes.get("latent", False))


def _read_text(text: str) -> tuple[list[str], Arrows, set[str]]:
    """Return the nodes, the arrows and the unmeasured nodes of a text: arrows, or a subset of DOT and of dagitty."""
    tokens = _tokens(text.translate({0x2192: "->", 0x2190: "<-", 0x2194: "<->"}), text)
    nodes: dict[str, None] = {}
    arrows: Arrows = []
    latent: set[str] = set()
    place = 0
    before: list[str] = []
    """Nodes to the left of the next arrow."""
    while place < len(tokens):
        kind, value = tokens[place]
        if kind == "arrow":
            place, here = _operand(tokens, place + 1, text)
            if not before or not here:
                raise _unreadable(text, f"the arrow {value!r} without a name on both sides")
            arrows += [_arrow(one, value, other, text) for one in before for other in here]
        elif kind == "attributes":
            latent.update(before if _LATENT.search(value) else ())
            place, here = place + 1, before
        elif (kind, value) == ("mark", "="):  # a setting of the whole graph, such as `rankdir=LR`
            for name in before:
                nodes.pop(name, None)
            place, here = place + 2, []
        else:
            place, here = _operand(tokens, place, text)
            if not here:
                place += 1
        nodes.update(dict.fromkeys(here))
        before = here
    return list(nodes), arrows, latent


def _tokens(text: str, given: str) -> list[tuple[str, str]]:
    """Return the tokens of a text, without the frame of a DOT or dagitty graph."""
    found: list[tuple[str, str]] = []
    end = 0
    for match in _TOKEN.finditer(text):
        if match.start() != end:
            break
        end = match.end()
        kind = str(match.lastgroup)
        if kind not in ("comment", "space"):
            value = re.sub(r"\[:,\s*(\d+)\]$", r"[:, \1]", match[kind].strip())
            found.append(("name" if kind in ("quoted", "column") else kind, value))
    if end != len(text):
        raise _unreadable(given, f"{text[end : end + 10]!r}")
    opening = next((i for i, token in enumerate(found[:4]) if token == ("mark", "{")), None)
    framed = opening and found[0][1].lower() in _KEYWORDS and found[-1] == ("mark", "}")
    return found[opening + 1 : -1] if opening and framed else found


def _operand(tokens: list[tuple[str, str]], place: int, text: str) -> tuple[int, list[str]]:
    """Return the names at a place, of one node, of nodes with commas between them, or of a group in braces."""
    names: list[str] = []
    grouped = place < len(tokens) and tokens[place] == ("mark", "{")
    place += grouped
    while place < len(tokens):
        kind, value = tokens[place]
        if grouped and (kind, value) == ("mark", "}"):
            return place + 1, names
        if kind == "name":
            names.append(value)
            place += 1
            if not grouped and tokens[place : place + 1] != [("mark", ",")]:
                return place, names
        elif kind == "mark" and names and (value == "," or (grouped and value == ";")):
            place += 1
        else:
            break
    if grouped:
        raise _unreadable(text, "a brace that is not closed")
    return place, names


def _arrow(one: str, kind: str, other: str, text: str) -> tuple[str, str, str]:
    if kind == "--":
        raise _unreadable(text, f"the edge {one!r} -- {other!r}, which has no direction")
    return (other, "->", one) if kind == "<-" else (one, kind, other)


def _unreadable(text: str, what: str) -> ValueError:
    """Return the error about a text that is no graph."""
    short = text if len(text) <= 60 else f"{text[:57]}..."
    return ValueError(f"`graph` cannot be read: got {what} in {short!r}. {_EXPECTED}")
