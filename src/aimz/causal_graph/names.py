"""Match the names in a user's graph with the variables of a kernel."""

__all__ = ["matched_graph", "matched_name"]

from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from aimz.causal_graph.graph import CausalGraph
from aimz.causal_graph.kernel_graph import KernelGraph
from aimz.causal_graph.reading import read_graph


def matched_name(kernel: KernelGraph, name: Any, what: str, others: Iterable[str] = ()) -> str:
    """Return the name of a variable of the kernel, which may be an alias, or one of ``others``.

    Raises
    ------
    ValueError
        If the name is unknown, or is a parameter of the kernel.
    """
    known = kernel.names()
    if name in known or name in others:
        return str(name)
    if name in kernel.aliases:
        return kernel.aliases[name]
    if name in kernel.nodes:
        msg = (
            f"{what} must name variables, which have a value for each row; got {name!r}, a parameter of the kernel. "
            "Parameters affect every row in the same way and are no causes: leave it out."
        )
        raise ValueError(msg)
    if name in kernel.numbers:
        msg = (
            f"{what} must name variables, which have a value for each row; got {name!r}, an argument with one value "
            "for all rows. Leave it out, or pass it as an array."
        )
        raise ValueError(msg)
    close = get_close_matches(str(name), [*known, *kernel.aliases, *others], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    msg = (
        f"{what} must name sites, arguments of the kernel or columns of its input; got {name!r}.{hint} Known: "
        f"{', '.join(known)}. List a variable that was not measured in `unobserved`, and one that was measured but is "
        "not in the kernel in `observed`."
    )
    raise ValueError(msg)


def matched_graph(
    kernel: KernelGraph, graph: Any, unobserved: str | Iterable[str], observed: str | Iterable[str]
) -> CausalGraph:
    """Return a user's graph with the names of the kernel's variables.

    Raises
    ------
    TypeError, ValueError
        If the graph cannot be read or has a cycle, a name is unknown, or a variable of the kernel with data is marked
        as not measured.
    """
    hidden, extra = _names(unobserved), _names(observed)
    found = read_graph(graph, hidden)
    _check_listed(found, hidden, "unobserved")
    _check_listed(found, extra, "observed")
    others = found.unobserved | {*extra}
    renamed = {node: matched_name(kernel, node, "`graph`", others) for node in found.parents}
    measured = [name for name in found.unobserved if name in kernel.nodes and kernel.nodes[name].observed]
    measured += [name for name in found.unobserved if name in kernel.aliases]
    if measured:
        name = sorted(measured)[0]
        msg = (
            f"A variable that is not measured cannot have data in the kernel; got `{name}`, which has. Leave it out "
            "of `unobserved`, or give the hidden variable another name."
        )
        raise ValueError(msg)
    latent = {node for node in kernel.names() if not kernel.nodes[node].observed} - {*extra}
    parents = {renamed[node]: frozenset(renamed[one] for one in above) for node, above in found.parents.items()}
    return replace(found, parents=parents, unobserved=found.unobserved | latent.intersection(parents))


def _names(given: str | Iterable[str]) -> Sequence[str]:
    return [given] if isinstance(given, str) else list(given)


def _check_listed(graph: CausalGraph, names: Sequence[str], option: str) -> None:
    """Raise if a name in an option is not in the graph."""
    for name in names:
        if name not in graph.parents:
            close = get_close_matches(name, graph.parents, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            msg = (
                f"`{option}` must list variables of the graph; got {name!r}.{hint} Variables: "
                f"{', '.join(sorted(graph.parents))}."
            )
            raise ValueError(msg)
