"""The method of ``ImpactModel`` that tests the independences that a causal graph implies."""

__all__ = ["FalsificationMethod"]

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aimz.causal_graph import CausalGraph, KernelGraph, implied_independences
from aimz.data import KernelArguments, RowReader, open_rows
from aimz.engine import InputSource, KernelEngine, kernel_graph_of, open_source, with_outcome
from aimz.methods import on_snapshot
from aimz.statistics import IndependenceTest, Moments, holm, independence_test
from aimz.validation.falsification_result import FalsificationResult, ImpliedIndependence
from aimz.validation.identification import IdentificationMethods

_ROWS = 2**16
"""Number of rows that are read together."""
_MAX_LEVELS = 50
"""Largest number of categories of a variable that is tested."""
_PERMUTATIONS = 200
"""Number of graphs with permuted names."""


class FalsificationMethod(IdentificationMethods):
    """Tests of a causal graph by the data."""

    @on_snapshot
    def falsify(
        self,
        X: Any = None,
        y: Any = None,
        *,
        graph: Any = None,
        unobserved: str | Iterable[str] = (),
        observed: Mapping[str, Any] | None = None,
        args: Mapping[str, Any] | None = None,
        alpha: float = 0.05,
    ) -> FalsificationResult:
        """Return tests of the (conditional) independences that a causal graph implies among measured variables.

        Data can contradict a graph, but not confirm it: graphs with other arrows imply the same independences. Every
        pair of measured variables that the graph separates is tested by its partial correlation given a smallest
        separating set, from the sums of one pass over the rows. Text and categorical arguments, and whole numbers with
        at most 50 values, are tested by their categories.

        Parameters
        ----------
        X, y : array_like of shape (n_obs, ...), optional
            Data; by default the rows of the fit.
        graph, unobserved
            As in :meth:`identify`; by default the graph that the model keeps.
        observed : mapping of str to array_like of shape (n_obs,), optional
            Values of variables of the graph that are not in the kernel.
        args : mapping, optional
            Further arguments of the kernel, with ``X``.
        alpha : float
            Probability of rejecting any independence if the graph is correct and all relations are linear.

        Returns
        -------
        FalsificationResult
            Result that prints a sentence and a table, with the attributes ``tests``, ``falsified`` and ``permuted``:
            the share of graphs with permuted names that violate as few independences [1]_.

        Raises
        ------
        TypeError, ValueError
            If there is no graph or it cannot be read, or data are missing.

        References
        ----------
        .. [1] Eulig et al. (2025), Toward falsifying causal graphs using a permutation-based test, AAAI.

        Examples
        --------
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from aimz import ImpactModel
        >>> def kernel(X, demand, y=None):
        ...     b = numpyro.sample("b", dist.Normal().expand([2]))
        ...     with numpyro.plate("week", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(b[0] * X + b[1] * demand), obs=y)
        >>> rng = np.random.default_rng(0)
        >>> demand = rng.normal(size=500)
        >>> campaign = demand + rng.normal(size=500)
        >>> sales = campaign + demand + rng.normal(size=500)
        >>> found = ImpactModel(kernel, 0).falsify(
        ...     campaign, sales, graph="demand -> X -> y", args={"demand": demand}
        ... )
        >>> found.falsified, found.tests[0].text
        (True, 'demand _||_ y | X')
        """
        if not 0 < alpha < 1:
            msg = f"`alpha` must be a probability between 0 and 1; got {alpha!r}. Pass 0.05, say."
            raise ValueError(msg)
        engine, source, call = self._open_data(X, y, dict(args or {}))
        kernel = kernel_graph_of(engine, call)
        extra = {} if observed is None else dict(observed)
        given = self._given_graph(kernel, graph, unobserved, list(extra))
        if given is None:
            msg = "`falsify` tests a causal graph; got none. Pass it as `graph`, as in `identify`."
            raise TypeError(msg)
        rows = {**call.rows, **{name: _read_extra(name, values, call.n_obs) for name, values in extra.items()}}
        variables, left_out = _variables(rows, call, kernel, given)
        moments, places = _moments(source, call.n_obs, rows, variables)
        return _tested(given, moments, places, left_out, alpha)

    def _open_data(self, X: Any, y: Any, given: dict[str, Any]) -> tuple[KernelEngine, InputSource, KernelArguments]:
        """Return rows with their outcome, by default the rows of the fit, as arguments that are read in parts."""
        fitted, now = X is None, {*given, *(() if y is None else (self.param_output,))}
        if fitted:
            rows = self._rows.require("falsify")
            X, y, given = rows.X, rows.y if y is None else y, {**rows.arguments, **given}
        engine, X, y = with_outcome(self._engine, X, y)
        source = open_source(engine, X, given, None)
        call = source.arguments(engine, given, y, scored=True)
        if fitted:
            self._rows.check_unchanged(self._observed, call, now)
        return engine, source, call


@dataclass(frozen=True)
class _Variable:
    """A measured variable: an argument, or one of its columns."""

    argument: str
    column: int | None = None
    levels: tuple[Any, ...] = ()
    """Categories, without the first one; empty for a number."""

    def take(self, parts: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the columns that stand for the variable in some rows."""
        part = parts[self.argument] if self.column is None else parts[self.argument][:, self.column]
        if self.levels:
            return np.stack([part == level for level in self.levels], axis=1).astype(np.float64)
        return part[:, None].astype(np.float64)


def _read_extra(name: str, values: Any, n_obs: int) -> RowReader:
    """Return a reader of a variable that is not in the kernel.

    Raises
    ------
    ValueError
        If it does not have one number for each row.
    """
    array = np.asarray(values)
    if array.shape != (n_obs,) or array.dtype.kind not in "biuf":
        msg = (
            f"`observed[{name!r}]` must be numbers of shape ({n_obs},), one for each row; got {array.dtype} of shape "
            f"{array.shape}. Pass the codes of categories as whole numbers."
        )
        raise ValueError(msg)
    return open_rows(array)


def _variables(
    rows: Mapping[str, RowReader], call: KernelArguments, kernel: KernelGraph, graph: CausalGraph
) -> tuple[dict[str, _Variable], dict[str, str]]:
    """Return the measured variables of a graph, and reasons for those that cannot be tested."""
    data = {site: name for name, site in kernel.aliases.items() if name in rows}
    found: dict[str, _Variable] = {}
    left_out: dict[str, str] = {}
    for name in sorted(graph.observed):
        one = _Variable(*kernel.columns[name]) if name in kernel.columns else _Variable(data.get(name, name))
        if one.argument not in rows:
            left_out[name] = "no data"
        elif one.column is None and rows[one.argument].ndim != 1:
            left_out[name] = "several values for each row"
        elif one.column is not None:
            found[name] = one
        else:
            levels = _levels(rows[one.argument], call.categories.get(one.argument))
            if levels is None or len(levels) == 1:
                left_out[name] = "constant" if levels else f"more than {_MAX_LEVELS} categories"
            else:
                found[name] = replace(one, levels=tuple(levels[1:]))
    return found, left_out


def _levels(rows: RowReader, categories: Sequence[Any] | None) -> list[Any] | None:
    """Return the categories of a variable, none for a number; None if there are too many."""
    if categories is not None:
        return list(range(len(categories))) if len(categories) <= _MAX_LEVELS else None
    if rows.from_batches or np.dtype(rows.dtype).kind not in "biu":
        return []
    known: set[Any] = set()
    for start in range(0, rows.shape[0], _ROWS):
        stop = min(start + _ROWS, rows.shape[0])
        known |= set(np.unique(np.asarray(rows.read(start, stop))).tolist())
        rows.release(start, stop)
        if len(known) > _MAX_LEVELS:
            return []
    return sorted(known)


def _moments(
    source: InputSource, n_obs: int, rows: Mapping[str, RowReader], variables: Mapping[str, _Variable]
) -> tuple[Moments, dict[str, list[int]]]:
    """Return the sums over all rows, and the places of each variable in them."""
    needed = {name: rows[name] for name in sorted({one.argument for one in variables.values()})}
    sizes = [max(1, len(one.levels)) for one in variables.values()]
    ends = np.cumsum(sizes).tolist()
    places = {name: list(range(end - n, end)) for name, n, end in zip(variables, sizes, ends, strict=True)}
    total = Moments(0, np.zeros(sum(sizes)), np.zeros((sum(sizes),) * 2))
    for start, stop, batch in _blocks(source, n_obs if variables else 0):
        parts = {name: np.asarray(reader.read(start, stop, batch)) for name, reader in needed.items()}
        for reader in needed.values():
            reader.release(start, stop)
        here = Moments.of(np.concatenate([one.take(parts) for one in variables.values()], axis=1))
        total = total.merged(here) if total.n else here
    return total, places


def _blocks(source: InputSource, n_obs: int) -> Iterator[tuple[int, int, Mapping[str, np.ndarray] | None]]:
    """Yield ranges of rows, with the fields that an iterable of batches supplies; its length may be unknown."""
    start = 0
    while start < n_obs or (n_obs and source.reader is not None):
        if source.reader is None:
            stop, batch = min(start + _ROWS, n_obs), None
        else:
            batch = source.reader.read(start, start + _ROWS)
            if not batch:
                return
            stop = start + len(next(iter(batch.values())))
        yield start, stop, batch
        start = stop


def _tested(
    graph: CausalGraph, moments: Moments, places: Mapping[str, list[int]], left_out: Mapping[str, str], alpha: float
) -> FalsificationResult:
    """Return the tests of all independences that a graph implies among variables with data."""
    implied = implied_independences(graph, places.keys())
    known: dict[tuple[str, str, frozenset[str]], IndependenceTest | None] = {}

    def test(one: str, other: str, given: frozenset[str]) -> IndependenceTest | None:
        key = (min(one, other), max(one, other), given)
        if key not in known:
            across = [i for name in sorted(given) for i in places[name]]
            known[key] = independence_test(moments, places[one], places[other], across)
        return known[key]

    found = [test(*one) for one in implied]
    adjusted = iter(holm([one.p_value for one in found if one is not None]))
    tests = []
    for (one, other, given), result in zip(implied, found, strict=True):
        pair = (one, other, tuple(sorted(given)))
        if result is None:
            tests.append(ImpliedIndependence(*pair, np.nan, np.nan, np.nan, "not tested"))
            continue
        p_value = next(adjusted)
        verdict = "rejected" if p_value < alpha else "not rejected"
        tests.append(ImpliedIndependence(*pair, result.correlation, result.p_value, p_value, verdict))

    def violations(names: Mapping[str, str]) -> int:
        renamed = [(names[one], names[other], frozenset(names[n] for n in given)) for one, other, given in implied]
        return sum(one is not None and one.p_value < alpha for one in (test(*pair) for pair in renamed))

    permuted = None
    if any(one is not None for one in found):
        own, names, rng = violations({name: name for name in places}), sorted(places), np.random.default_rng(0)
        counts = [violations(dict(zip(names, rng.permutation(names), strict=True))) for _ in range(_PERMUTATIONS)]
        permuted = float(np.mean([count <= own for count in counts]))
    return FalsificationResult(tuple(tests), moments.n, alpha, permuted, dict(left_out))
