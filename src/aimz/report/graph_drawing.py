"""Drawing of a directed acyclic graph as an SVG element, in layers from causes to effects."""

__all__ = ["draw_graph"]

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from aimz.report.document import Drawing

_HEIGHT, _GAP_X, _GAP_Y, _PAD = 30, 56, 22, 12
_CHAR = 8.2
"""Width of a character in pixels, of the monospaced font of the labels."""
_LONGEST = 24
_SWEEPS = 4


def draw_graph(
    edges: Iterable[tuple[str, str]], marked: Mapping[str, str], nodes: Iterable[str] = (), caption: str = ""
) -> Drawing:
    """Return the drawing of a graph without cycles.

    Parameters
    ----------
    edges
        Pairs of cause and effect.
    marked
        Style of nodes: "latent" has a dashed border, "outcome" a thick one, "treatment" a filled one.
    nodes
        Further nodes.
    caption
        Text below the drawing.
    """
    edges = list(dict.fromkeys(edges))
    names = list(dict.fromkeys([*nodes, *(name for edge in edges for name in edge)]))
    layers = _ordered(_layers(names, edges), edges)
    widths = [max((_width(name) for name in layer), default=0) for layer in layers]
    deepest = max((len(layer) for layer in layers), default=1)
    height = 2 * _PAD + deepest * _HEIGHT + (deepest - 1) * _GAP_Y
    places: dict[str, tuple[float, float, float]] = {}
    x: float = _PAD
    for layer, width in zip(layers, widths, strict=True):
        top = (height - len(layer) * _HEIGHT - (len(layer) - 1) * _GAP_Y) / 2
        for i, name in enumerate(layer):
            places[name] = (x, top + i * (_HEIGHT + _GAP_Y), width)
        x += width + _GAP_X
    total = x - _GAP_X + _PAD
    alt = "Graph of causes and effects: " + ("; ".join(f"{a} to {b}" for a, b in edges) or ", ".join(names))
    head = f"arrow-{hashlib.sha256(f'{alt} {caption}'.encode()).hexdigest()[:10]}"
    lines = [_arrow(places[a], places[b], head) for a, b in edges]
    boxes = [_box(name, *places[name], marked.get(name, "")) for name in names]
    svg = (
        f'<svg role="img" aria-label="{escape(alt)}" width="{total:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {total:.0f} {height:.0f}"><defs><marker id="{head}" viewBox="0 0 8 8" '
        'refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8z" fill="#5a6169"/>'
        f"</marker></defs>{''.join(lines)}{''.join(boxes)}</svg>"
    )
    return Drawing(svg, int(total), alt, caption)


def _layers(names: Sequence[str], edges: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Return the nodes by the length of the longest path that leads to them."""
    depth = dict.fromkeys(names, 0)
    for _ in names:
        for a, b in edges:
            depth[b] = max(depth[b], min(depth[a] + 1, len(names)))
    # A cause is drawn next to its first effect, rather than far to the left.
    for name in sorted(names, key=lambda name: -depth[name]):
        after = [depth[b] for a, b in edges if a == name]
        if after and not any(b == name for _, b in edges):
            depth[name] = min(after) - 1
    used = sorted(set(depth.values()))
    return [[name for name in names if depth[name] == level] for level in used]


def _ordered(layers: list[list[str]], edges: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Return layers in an order with few crossings: each node at the average place of its causes and effects."""
    near: dict[str, list[str]] = {name: [] for layer in layers for name in layer}
    for a, b in edges:
        near[a].append(b)
        near[b].append(a)
    for _ in range(_SWEEPS):
        place = {name: (i + 0.5) / len(layer) for layer in layers for i, name in enumerate(layer)}
        layers = [
            sorted(
                layer,
                key=lambda name: sum(place[other] for other in near[name]) / len(near[name]) if near[name] else 0.5,
            )
            for layer in layers
        ]
    return layers


def _width(name: str) -> float:
    """Return the width of a node's box."""
    return 24 + _CHAR * min(len(name), _LONGEST)


def _box(name: str, x: float, y: float, width: float, style: str) -> str:
    """Return a node as a box with its name."""
    look = {
        "latent": 'fill="#fff" stroke="#5a6169" stroke-dasharray="4 3"',
        "outcome": 'fill="#fff" stroke="#1d2125" stroke-width="2.5"',
        "treatment": 'fill="#dbe9f4" stroke="#00558a" stroke-width="2.5"',
    }.get(style, 'fill="#fff" stroke="#5a6169"')
    short = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    return (
        f'<g><title>{escape(name)}</title><rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{_HEIGHT}" rx="4" '
        f'{look}/><text x="{x + width / 2:.0f}" y="{y + _HEIGHT / 2 + 4.5:.0f}" text-anchor="middle" font-size="13" '
        f'font-family="ui-monospace, Menlo, Consolas, monospace" fill="#1d2125">{escape(short)}</text></g>'
    )


def _arrow(start: tuple[float, float, float], stop: tuple[float, float, float], head: str) -> str:
    """Return a curve from a box to a box."""
    x, y = start[0] + start[2], start[1] + _HEIGHT / 2
    to_x, to_y = stop[0] - 1, stop[1] + _HEIGHT / 2
    half = max(20.0, (to_x - x) / 2)
    return (
        f'<path d="M{x:.0f} {y:.0f}C{x + half:.0f} {y:.0f} {to_x - half:.0f} {to_y:.0f} {to_x:.0f} {to_y:.0f}" '
        f'fill="none" stroke="#5a6169" stroke-width="1.4" marker-end="url(#{head})"/>'
    )
