"""Reports as self-contained HTML pages: plain values in, text out."""

from aimz.report.document import Block, Code, Drawing, Facts, Figure, Items, Report, Section, Table, Text
from aimz.report.graph_drawing import draw_graph
from aimz.report.page import render

__all__ = [
    "Block",
    "Code",
    "Drawing",
    "Facts",
    "Figure",
    "Items",
    "Report",
    "Section",
    "Table",
    "Text",
    "draw_graph",
    "render",
]
