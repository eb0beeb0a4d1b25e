"""The graph of a kernel: sites, arguments and columns, without parameters."""

__all__ = ["KernelGraph", "KernelNode", "read_kernel_graph"]

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from aimz.causal_graph.graph import CausalGraph, contracted
from aimz.kernel import KernelSpec, Role, Site


@dataclass(frozen=True)
class KernelNode:
    """A variable of a kernel."""

    name: str
    kind: Literal["site", "argument", "column"]
    observed: bool
    """Whether there are data of it."""
    local: bool
    """Whether it has a value for each row."""
    parameter: bool = False
    """Whether it is the same for all rows and random, or computed from such sites only."""
    role: str | None = None
    """Role of a site."""
    distribution: str | None = None
    """Name of the distribution of a ``sample`` site."""
    in_control_flow: bool = False
    """Whether a site is inside a `scan` or `cond`, where dependencies are not known."""


@dataclass(frozen=True)
class KernelGraph:
    """Variables of a kernel and what each is computed from."""

    nodes: Mapping[str, KernelNode]
    parents: Mapping[str, frozenset[str]]
    """Nodes that each node depends on directly, parameters included."""
    outcome: str
    aliases: Mapping[str, str]
    """Other names of nodes: arguments with the data of a site, and the column with the output."""
    numbers: frozenset[str] = frozenset()
    """Arguments that are not arrays: settings of the kernel, which are no variables."""
    columns: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Argument and number of each node that is a column."""

    def names(self, *, parameters: bool = False) -> list[str]:
        """Return the names of the nodes."""
        return [name for name, node in self.nodes.items() if parameters or not node.parameter]

    def without_computed(self, kept: Iterable[str]) -> CausalGraph:
        """Return the graph of variables without parameters and without deterministic sites, except ``kept``."""
        names = set(self.names())
        among = {name: self.parents[name] & names for name in names}
        computed = {name for name in names if self.nodes[name].role == Role.DETERMINISTIC and name not in kept}
        parents = contracted(among, computed - {self.outcome})
        return CausalGraph(parents, frozenset(name for name in parents if not self.nodes[name].observed))


def read_kernel_graph(
    spec: KernelSpec,
    arguments: Iterable[str],
    numbers: Iterable[str],
    columns: Sequence[str],
    columns_of_sites: Mapping[str, frozenset[int]],
    outcome_column: str | None = None,
) -> KernelGraph:
    """Return the graph of a kernel.

    ``arguments`` are the names of arrays, ``numbers`` names of other arguments. ``columns`` are names of the columns of
    the input, empty if it is one variable; ``columns_of_sites`` are the columns that each site depends on directly.
    """
    param_input, output = spec.param_input, spec.param_output
    sites = {site.name: site for site in spec.sites if site.role is not Role.FACTOR}
    halves = {f"{name}_{half}": name for name in sites for half in ("observed", "unobserved")}
    halves = {half: name for half, name in halves.items() if half in sites and f"{name}_observed" in sites}
    inputs = [name for name in arguments if name != output and name not in sites]
    aliases = {
        name: halves.get(site.name, site.name)
        for site in sites.values()
        for name in site.data - {output, param_input}
        if all(site.name in other.parents for other in sites.values() if name in other.parents)
    }
    if outcome_column is not None and outcome_column not in (*sites, *inputs, *columns):
        aliases[outcome_column] = output
    if len(columns) == 1 and param_input not in columns:
        aliases[param_input] = columns[0]

    def causes(site: Site) -> set[str]:
        # Data of a site reach other sites through it, and data of the output are no cause of it.
        dropped = {output} if output in site.arguments else set()
        found = {halves.get(name, name) for name in site.parents} - aliases.keys() - dropped
        if columns and param_input in found:
            reaching = columns_of_sites.get(site.name, range(len(columns)))
            found = (found - {param_input}) | {columns[i] for i in reaching}
        return found

    nodes: dict[str, KernelNode] = {}
    parents: dict[str, frozenset[str]] = {}
    for name in inputs:
        if name in aliases and not (name == param_input and columns):
            continue
        by_row = name in spec.arguments_by_row
        for one in columns if name == param_input and columns else [name]:
            kind: Literal["argument", "column"] = "argument" if one == name else "column"
            nodes[one], parents[one] = KernelNode(one, kind, observed=True, local=by_row), frozenset()
    names = {*nodes, *sites}
    for name, site in sites.items():
        if name in halves:
            continue
        parts = [site, *(sites[half] for half, whole in halves.items() if whole == name)]
        found = frozenset(set().union(*map(causes, parts)) & names - {name, *halves})
        parents[name] = found
        nodes[name] = _site_node(site, parts, output, is_parameter=_is_parameter(site, found, nodes))
    places = {name: (param_input, i) for i, name in enumerate(columns)}
    return KernelGraph(nodes, parents, output, aliases, frozenset(numbers), places)


def _site_node(site: Site, parts: Sequence[Site], output: str, *, is_parameter: bool) -> KernelNode:
    """Return the node of a site; ``parts`` are the site and its halves with and without data."""
    has_data = any(part.data for part in parts) or site.name == output
    distribution = next((part.distribution for part in parts if part.distribution), None)
    return KernelNode(
        site.name,
        "site",
        observed=has_data,
        local=bool(site.row_axes) or site.maybe_rows,
        parameter=is_parameter and not has_data,
        role=str(site.role) if len(parts) == 1 else str(Role.OBSERVED),
        distribution=distribution,
        in_control_flow=any(part.in_control_flow for part in parts),
    )


def _is_parameter(site: Site, causes: Iterable[str], nodes: Mapping[str, KernelNode]) -> bool:
    """Return whether a site has no rows and depends on parameters only."""
    if site.row_axes or site.maybe_rows:
        return False
    if site.role in (Role.LATENT, Role.PARAM, Role.MUTABLE):
        return True
    return site.role is Role.DETERMINISTIC and all(name in nodes and nodes[name].parameter for name in causes)
