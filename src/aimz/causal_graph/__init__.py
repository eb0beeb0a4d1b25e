"""Causal graphs: reading, separation, ways to identify an effect, and the comparison of a kernel with a graph."""

from aimz.causal_graph.adjustment import (
    Instrument,
    adjustment_sets,
    forbidden,
    front_doors,
    instruments,
    is_identifiable,
)
from aimz.causal_graph.comparison import GraphFinding
from aimz.causal_graph.graph import CausalGraph
from aimz.causal_graph.kernel_graph import KernelGraph, KernelNode, read_kernel_graph
from aimz.causal_graph.names import matched_graph
from aimz.causal_graph.reading import read_graph
from aimz.causal_graph.separation import are_separated, implied_independences, minimal_separators
from aimz.causal_graph.verdict import Identification, check_questions, identify, verdict_on

__all__ = [
    "CausalGraph",
    "GraphFinding",
    "Identification",
    "Instrument",
    "KernelGraph",
    "KernelNode",
    "adjustment_sets",
    "are_separated",
    "check_questions",
    "forbidden",
    "front_doors",
    "identify",
    "implied_independences",
    "instruments",
    "is_identifiable",
    "matched_graph",
    "minimal_separators",
    "read_graph",
    "read_kernel_graph",
    "verdict_on",
]
