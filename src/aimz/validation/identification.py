"""Methods of ``ImpactModel`` about the graph of the kernel and the causal graph of the user."""

__all__ = ["IdentificationMethods"]

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from aimz.causal_graph import CausalGraph, KernelGraph, check_questions, identify, matched_graph
from aimz.data import check_flag
from aimz.engine import kernel_graph_of
from aimz.methods import ModelBase, on_snapshot
from aimz.validation.identification_result import IdentificationResult

if TYPE_CHECKING:
    import networkx as nx


class IdentificationMethods(ModelBase):
    """The graph of the kernel, and its comparison with a causal graph."""

    @on_snapshot
    def graph(self, X: Any = None, *, parameters: bool = False, args: Mapping[str, Any] | None = None) -> "nx.DiGraph":
        """Return the graph of the kernel: sites, arguments, and columns of the input.

        The graph has the order of computation in the kernel, not causes: compare the two with :meth:`identify`.

        Parameters
        ----------
        X : array_like of shape (n_obs, ...) or table, optional
            Input to trace the kernel with, if no call has done so yet. Nothing is computed with it.
        parameters : bool
            Whether to include parameters: latent sites that are the same for all rows, ``param`` sites, and sites
            computed from these alone.
        args : mapping, optional
            Further arguments of the kernel, with ``X``.

        Returns
        -------
        networkx.DiGraph
            Edges lead from each variable to the sites that depend on it directly. Nodes have the attributes ``kind``
            ("site", "argument" or "column"), ``observed`` (whether there are data of it), ``local`` (whether it has a
            value for each row), ``parameter``, ``role`` and ``distribution``. Each column of a two-dimensional input is
            a node, ``"X[:, 0]"`` if it has no name, with edges to the sites that use it. Arguments with one value for
            all rows are left out, and arguments with the data of a site are that site. In a `scan`, each site depends
            on each other.

        Raises
        ------
        TypeError
            If there was no call yet and no ``X``.

        Examples
        --------
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from aimz import ImpactModel
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal().expand([2]))
        ...     with numpyro.plate("shop", X.shape[0]):
        ...         visits = numpyro.sample("visits", dist.Normal(b[0] * X[:, 1]))
        ...         numpyro.sample("y", dist.Normal(X[:, 0] + b[1] * visits), obs=y)
        >>> graph = ImpactModel(kernel, 0).graph(jnp.ones((5, 2)))
        >>> sorted(graph.edges)
        [('X[:, 0]', 'y'), ('X[:, 1]', 'visits'), ('visits', 'y')]
        """
        kernel = self._read_graph(X, args or {})
        names = kernel.names(parameters=check_flag(parameters, "parameters"))
        fields = ("kind", "observed", "local", "parameter", "role", "distribution")
        nodes = {name: {field: getattr(kernel.nodes[name], field) for field in fields} for name in names}
        edges = [(cause, name) for name in names for cause in kernel.parents[name] if cause in nodes]
        return _digraph(nodes, sorted(edges), name=self._engine.signature.kernel, outcome=kernel.outcome)

    @property
    def causal_graph(self) -> "nx.DiGraph | None":
        """Causal graph that :meth:`identify` was given; None if there is none.

        Nodes have the attribute ``observed``. Hidden common causes are nodes such as ``"a <-> b"``.
        """
        if self._graph is None:
            return None
        parents, unobserved = self._graph.parents, self._graph.unobserved
        edges = [(cause, name) for name, causes in parents.items() for cause in sorted(causes)]
        names = dict.fromkeys([*chain.from_iterable(edges), *parents])
        return _digraph({name: {"observed": name not in unobserved} for name in names}, edges)

    def identify(
        self,
        treatment: str | Sequence[str],
        outcome: str | None = None,
        *,
        graph: Any = None,
        unobserved: str | Iterable[str] = (),
        observed: str | Iterable[str] = (),
        X: Any = None,
        args: Mapping[str, Any] | None = None,
    ) -> IdentificationResult:
        """Return whether the kernel computes the effect of an intervention in a causal graph.

        The kernel averages over the rows: it sets the treatment, lets sites that depend on it respond, and holds all
        other data fixed. That is the effect if the variables held fixed are a valid adjustment set [1]_ in the graph,
        and the responding sites have no fewer arrows than there. No method can infer the graph from the kernel or from
        the fit; without one the answer is "not known".

        The graph is kept with the model, and saved with it. Later results have the verdict on their own intervention in
        the attribute ``identified``.

        Parameters
        ----------
        treatment : str or list of str
            Name of a site, an argument or a column; a list for a joint intervention.
        outcome : str, optional
            Name of a site; by default the output.
        graph : str, networkx.DiGraph, mapping or list of pairs, optional
            Causal graph. Text has arrows, ``"demand -> campaign -> sales <- demand"``, separated by semicolons or new
            lines; ``"campaign <-> sales"`` is a hidden common cause. DOT and dagitty's format can be read as far as
            they describe nodes and arrows. A mapping has the effects of each cause. By default the graph of the last
            call.
        unobserved : str or list of str
            Variables of the graph that were not measured.
        observed : str or list of str
            Variables of the graph that were measured, but are not in the kernel.
        X, args
            As in :meth:`graph`.

        Returns
        -------
        IdentificationResult
            Result that prints the verdict, the findings, and adjustment sets, front doors and instruments in the graph;
            with the attributes ``answer``, ``findings``, ``adjustment_sets``, ``front_doors`` and ``instruments``.

        Raises
        ------
        TypeError, ValueError
            If the graph cannot be read or has a cycle; if a name is neither a site, an argument nor a column; if the
            outcome is the treatment or affects it; if sites of the kernel are in a `scan` or `cond`.

        Notes
        -----
        The verdict is about the graph, not about functions: the fitted distributions may still have the wrong form.
        Rows are taken to be independent units, so that one unit's treatment does not affect another one's outcome.

        References
        ----------
        .. [1] Shpitser, VanderWeele and Robins (2010), On the validity of covariate adjustment for estimating causal
           effects, UAI.

        Examples
        --------
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> from aimz import ImpactModel
        >>> def kernel(X, demand, y=None):
        ...     b = numpyro.sample("b", dist.Normal().expand([2]))
        ...     with numpyro.plate("week", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(b[0] * X + b[1] * demand), obs=y)
        >>> model = ImpactModel(kernel, 0)
        >>> found = model.identify(
        ...     "X", graph="demand -> X; demand -> y; X -> y", X=jnp.ones(5), args={"demand": jnp.ones(5)}
        ... )
        >>> found.answer, found.adjustment_sets
        ('yes', (('demand',),))
        """
        kernel = self._read_graph(X, args or {})
        names, target = check_questions(kernel, treatment, outcome)
        given = self._given_graph(kernel, graph, unobserved, observed)
        found = identify(kernel, names, target, given)
        self._graph = given
        return IdentificationResult.of(found)

    def _read_graph(self, X: Any, args: Mapping[str, Any]) -> KernelGraph:
        """Return the graph of the kernel for a call, or for the rows of the fit."""
        if X is None and args:
            msg = (
                "The graph is read from a call; got further arguments of the kernel without `X`. Pass `X`, too, or "
                "nothing for the rows of the fit."
            )
            raise TypeError(msg)
        call = None if self._observed is None else self._observed.call
        return kernel_graph_of(self._engine, call if X is None else self._engine.read_call(X, args))

    def _given_graph(
        self, kernel: KernelGraph, graph: Any, unobserved: str | Iterable[str], observed: str | Iterable[str]
    ) -> CausalGraph | None:
        """Return the graph of a call, or else the one that the model keeps.

        Raises
        ------
        TypeError
            If there are names of variables without a graph.
        """
        if graph is not None:
            return matched_graph(kernel, graph, unobserved, observed)
        if unobserved or observed:
            msg = "`unobserved` and `observed` name variables of a graph; got no `graph`. Pass it in the same call."
            raise TypeError(msg)
        return self._graph


def _digraph(nodes: Mapping[str, Mapping[str, Any]], edges: Iterable[tuple[str, str]], **about: Any) -> "nx.DiGraph":
    """Return a graph in networkx, with the attributes of its nodes."""
    import networkx as nx

    graph = nx.DiGraph(**about)
    graph.add_nodes_from(nodes.items())
    graph.add_edges_from(edges)
    return graph
