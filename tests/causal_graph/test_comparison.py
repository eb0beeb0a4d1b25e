"""The verdict on a kernel, against the effect in linear models whose arrows are the graph."""

from collections import Counter

import numpy as np
import pytest

from aimz.causal_graph import KernelGraph, KernelNode, identify, matched_graph, read_graph, verdict_on
from aimz.causal_graph.comparison import _missing_arrows


def kernel_of(text, outcome="y", sites=(), latent=()):
    """Return the graph of a kernel whose dependencies are given as text; other nodes are arguments."""
    parents = read_graph(text).parents
    sites = {outcome, *sites, *latent}
    nodes = {
        name: KernelNode(name, "site" if name in sites else "argument", observed=name not in latent, local=True)
        for name in parents
    }
    return KernelGraph(nodes, parents, outcome, {})


def checks(kernel, graph, treatment="x", **options):
    """Return the answer and the findings that are bad."""
    given = matched_graph(kernel, graph, options.get("unobserved", ()), options.get("observed", ()))
    found = identify(kernel, [treatment], kernel.outcome, given)
    return found.answer, [(one.check, *one.names) for one in found.findings if one.verdict == "bad"]


SIMPLE = kernel_of("x -> y; c -> y")
MEDIATED = kernel_of("x -> m; x -> y; m -> y; c -> m; c -> y", sites=["m"])


@pytest.mark.parametrize(
    ("kernel", "graph", "expected"),
    [
        # Fork: a common cause that the kernel holds fixed.
        (SIMPLE, "c -> x -> y <- c", []),
        # Chain: a mediator that the kernel holds fixed.
        (SIMPLE, "x -> c -> y; x -> y", [("mediator held fixed", "c")]),
        # Collider: a common effect.
        (SIMPLE, "x -> c <- y; x -> y", [("descendant held fixed", "c")]),
        (SIMPLE, "x -> m -> c; m -> y", [("descendant held fixed", "c")]),
        # M-bias.
        (SIMPLE, "x <- u -> c <- v -> y; x -> y; u [latent]; v [latent]", [("collider adjusted for", "c")]),
        # Butterfly: `c` must be adjusted for, and opens a path that another variable closes.
        (
            SIMPLE,
            "x <- a -> c <- b -> y; x <- c -> y; x -> y",
            [("collider adjusted for", "c")],
        ),
        (kernel_of("x -> y; c -> y; a -> y"), "x <- a -> c <- b -> y; x <- c -> y; x -> y", []),
        # Hidden common causes.
        (SIMPLE, "x <-> y; x -> y; c -> y", [("hidden common cause", "x <-> y")]),
        (SIMPLE, "w -> x -> y <- w; c -> y; w [latent]", [("hidden common cause", "w")]),
        (SIMPLE, "w -> x -> y; w -> v -> y; c -> y; w [latent]", [("common cause not adjusted for", "v")]),
        # An effect of the treatment that affects nothing else does no harm.
        (SIMPLE, "x -> c; x -> y", []),
        # A hidden cause of treatment and covariate.
        (SIMPLE, "x <-> c; c -> y; x -> y", []),
        (SIMPLE, "x <-> c; c <-> y; x -> y", [("collider adjusted for", "c")]),
        # The outcome needs an arrow from what the treatment also affects.
        (kernel_of("x -> m -> y", sites=["m"]), "x -> m -> y; x -> y", [("arrow missing in the kernel", "x", "y")]),
        (kernel_of("x -> m -> y", sites=["m"]), "x -> m -> y; m <-> y", [("arrow missing in the kernel", "x", "y")]),
        (MEDIATED, "x -> m -> y; c -> m; c -> y; c -> x; m <-> y", []),
        (MEDIATED, "m -> x -> y; m -> y; c -> y", [("common cause not adjusted for", "m")]),
        # Front door: the kernel of the estimator is not the causal graph.
        (MEDIATED, "x -> m -> y; x <-> y; c -> y", [("hidden common cause", "x <-> y")]),
        # Napkin and instrument.
        (
            kernel_of("x -> y; w -> y; z -> y"),
            "w -> z -> x -> y; w <-> x; w <-> y",
            [("collider adjusted for", "w", "z")],
        ),
        (kernel_of("x -> y"), "z -> x -> y; x <-> y", [("hidden common cause", "x <-> y")]),
        (SIMPLE, "x; y; c -> y", []),
        (kernel_of("c -> y; x"), "c -> y; x -> y", [("arrow missing in the kernel", "x", "y")]),
        (kernel_of("u -> x; u -> y; x -> y", sites=["x"], latent=["u"]), "x -> y", [("local latent above both", "u")]),
        (kernel_of("u -> y; x -> y", latent=["u"]), "x -> y", []),
    ],
)
def test_findings(kernel, graph, expected):
    names = {name for name in read_graph(graph).observed if name not in kernel.nodes}
    assert checks(kernel, graph, observed=names) == ("no" if expected else "yes", expected)


def test_treatment_that_sets_two_variables():
    kernel = kernel_of("a -> y; b -> y; c -> y")
    graph = matched_graph(kernel, "a -> b -> y; a -> y; b <- c -> y", (), ())
    assert identify(kernel, ["a", "b"], "y", graph).answer == "yes"
    # For `a` alone, `b` is a mediator.
    assert identify(kernel, ["a"], "y", graph).answer == "no"
    assert verdict_on(kernel, graph, ["a", "b"], "y") == "yes, under the given graph"
    assert verdict_on(kernel, graph, ["a"], "y") == "no, under the given graph: mediator held fixed (b)"
    assert verdict_on(kernel, None, ["a"], "y").startswith("not checked")
    assert "Did you mean 'a'" in verdict_on(kernel, graph, ["aa"], "y")


def covariance_of(weights):
    """Return the covariance of a linear model, whose variables are in order, and its total effects."""
    total = np.linalg.inv(np.eye(len(weights)) - weights)
    return total @ total.T, total


def test_verdicts_equal_biases_of_linear_models():
    """A kernel whose answer is yes has no bias, and one whose answer is no has some."""
    rng = np.random.default_rng(5)
    answers = Counter()
    for _ in range(600):
        n = 6
        arrows = np.tril(rng.random((n, n)) < 0.45, -1)
        covariance, total = covariance_of(np.where(arrows, rng.normal(size=(n, n)), 0.0))
        names = [f"v{i}" for i in range(n)]
        hidden = {names[i] for i in range(n) if rng.random() < 0.3}
        treatment, outcome = sorted(rng.choice(n, 2, replace=False))
        hidden -= {names[treatment], names[outcome]}
        # The kernel has arrows in an order of its own, and the outcome last.
        order = [i for i in rng.permutation(n) if names[i] not in hidden and i not in (treatment, outcome)]
        order = [*order[: len(order) // 2], treatment, *order[len(order) // 2 :], outcome]
        parents = {names[i]: frozenset() for i in order}
        slopes = np.zeros((n, n))
        after = {treatment}
        for place, i in enumerate(order[1:], 1):
            causes = [j for j in order[:place] if rng.random() < 0.6]
            if i != treatment:
                parents[names[i]] = frozenset(names[j] for j in causes)
                slopes[i, causes] = np.linalg.solve(covariance[np.ix_(causes, causes)], covariance[causes, i])
            after |= {i} if after.intersection(causes) and i != treatment else set()
        nodes = {name: KernelNode(name, "site", observed=True, local=True) for name in parents}
        kernel = KernelGraph(nodes, parents, names[outcome], {})
        # Variables that do not descend from the treatment in the kernel are held fixed.
        slopes[[i for i in range(n) if i not in after or i == treatment]] = 0.0
        implied = np.linalg.inv(np.eye(n) - slopes)[outcome, treatment]
        graph = read_graph([(names[j], names[i]) for i, j in zip(*np.nonzero(arrows), strict=True)], hidden)
        graph = graph.with_nodes({*names} - hidden)
        found = identify(kernel, [names[treatment]], names[outcome], graph)
        error = abs(implied - total[outcome, treatment])
        reasons = {one.check for one in found.findings if one.verdict == "bad"}
        answers[found.answer, *reasons] += 1
        if found.answer == "yes":
            assert error < 1e-9, (graph, kernel)
        elif not list(_missing_arrows(found.does, graph, arrows_only=False)) and "no effect" not in reasons:
            # A missing arrow may do no harm if all functions are linear, or undo another fault.
            assert error > 1e-9, (graph, kernel.parents, found.findings)
    assert answers["yes",] > 100
    assert len(answers) > 6
