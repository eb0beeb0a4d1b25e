"""The method of ``ImpactModel`` that chooses the values of levers."""

__all__ = ["DecisionMethod"]

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

import jax
import numpy as np

from aimz.data import KernelArguments, open_chunked_table
from aimz.distributed import collective_call
from aimz.engine import read_groups_of, read_labels, read_where
from aimz.kernel import KernelSpec, valued_kernel
from aimz.methods.base import on_snapshot, optional_key
from aimz.methods.decision_problem import LeverValues, Problem, read_lever_values, read_utility
from aimz.methods.decision_result import DecisionResult
from aimz.methods.support import SupportMethod
from aimz.statistics import is_affine

if TYPE_CHECKING:
    from distributed import Client


class DecisionMethod(SupportMethod):
    """Choices of levers."""

    @collective_call
    @on_snapshot
    def optimize(
        self,
        levers: Mapping[str, Any],
        *,
        value: Callable[..., Any] | None = None,
        by: Any = None,
        weights: Any = None,
        utility: "Literal['mean'] | tuple[str, float] | Callable[[np.ndarray], float]" = "mean",
        constraint: Callable[[Mapping[str, Any]], Any] | None = None,
        budget: float | None = None,
        holdout: Any = None,
        X: Any = None,
        args: Mapping[str, Any] | None = None,
        rng_key: jax.Array | None = None,
        batch_size: int | None = None,
        client: "Client | Literal[False] | None" = None,
    ) -> DecisionResult:
        """Return the values of levers with the largest expected value, and how sure it is that they are the best.

        The value of an action is the average over rows of ``value(output, **levers)`` under the action, draw by draw.
        All actions have common noise. Lists of values are compared in one pass over the data; intervals are searched
        with derivatives (:func:`scipy.optimize.minimize`), one pass for each step.

        Parameters
        ----------
        levers : mapping of str to (float, float) or list of float
            Columns, arguments or sites to choose, or further arguments of ``value``: an interval as a tuple ``(low,
            high)``, or a list or an array of values.
        value : callable, optional
            Function ``value(output, **levers)`` of the output of a row and of any levers, columns or arguments by their
            names, which uses ``jax.numpy``: ``lambda y, price: y * (price - 3)``. By default the output itself. A value
            that is affine in the output is that of its expected value; others are computed from drawn outcomes.
        by : array_like of shape (n_obs,) or str, optional
            Groups of rows with an action of their own.
        weights : array_like of shape (n_obs,) or str, optional
            Weights of the rows in the average.
        utility : "mean", ("cvar", q) or callable
            Quantity to maximize: the mean of the draws of the value, the mean of the worst ``1 - q`` of them, or a
            function of the draws (lists only). With ``by``, it is the utility of each group, averaged over groups by
            their weight.
        constraint : callable, optional
            Function of a mapping from levers to values, which must be at least 0.
        budget : float, optional
            Largest sum of the levers, on average over rows, to allocate over levers, groups, or both.
        holdout : array_like of bool of shape (n_obs,), optional
            Rows that are left out of the choice, and on which the chosen action is valued. Without them, its value is
            optimistic, since the same rows and draws choose and value it.
        X, args
            Rows, and further arguments of the kernel; by default the rows of the fit.
        rng_key, batch_size, client
            As in :meth:`compare_scenarios`.

        Returns
        -------
        DecisionResult
            Action of each group; draws of its value, of today's value and of the gain; probability that it is the best;
            regret and the value of perfect information; and notes about bounds, support and optimism.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        TypeError, ValueError
            If an option is not valid, no action is feasible, or a lever that has an interval has no derivative.

        See Also
        --------
        compare_scenarios : Compare given actions.
        support : Check an action against the data of the fit.

        Examples
        --------
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from jax import random
        >>> from numpyro.infer import MCMC, NUTS
        >>> import aimz
        >>> def kernel(X, price, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        ...     with numpyro.plate("shop", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(10.0 - b * price, 1.0), obs=y)
        >>> model = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=10, num_samples=10))
        >>> _ = model.set_posterior_sample({"b": np.full(10, 1.0)})
        >>> rows = {"X": np.zeros(5), "args": {"price": np.full(5, 4.0)}}
        >>> best = model.optimize({"price": (3.0, 9.0)}, value=lambda y, price: y * (price - 3), **rows)
        >>> best.action["price"].round(2).item()  # (10 - p) (p - 3) is largest at 6.5
        6.5
        """
        key, ranks = optional_key(rng_key), read_utility(utility)
        self._fitted("optimize")
        chosen = read_lever_values(levers, budget, ranks)
        observed, source, call = self._open_rows(X, args, "optimize")
        table = open_chunked_table(observed["X"], self._engine.parameters) or observed["X"]
        fitted = True if X is None else self._has_fitted_rows(source, call)
        spec, columns = self._engine.read_spec(call), call.columns
        known = {*(site.name for site in spec.sites), *columns, *call.arrays, *call.static}
        extra = tuple(name for name in chosen.names if name not in known)
        model = self._valued(value, spec, columns, known, extra, chosen)
        groups = read_groups_of(by, None, table, call, source, self._panel_of(call, self._engine.read_spec(call)))
        held = None if holdout is None else read_where(holdout, None, table, call).astype(bool)
        if isinstance(weights, str):
            weights = read_where(np.ones(call.n_obs, bool), weights, table, call)
        with self._key(key) as key:
            rows = {"X": observed["X"], "in_sample": fitted, **observed["kwargs"]}
            problem = Problem(
                model=model,
                check_support=lambda action: self._warned_support(intervention=action, **rows),
                levers=chosen,
                given={
                    **rows,
                    **{name: np.zeros(call.n_obs, np.float32) for name in extra},
                    "by": by,
                    "rng_key": key,
                    "batch_size": batch_size,
                    "client": client,
                    "progress": False,
                },
                extra=extra,
                now=_read_levers_now(chosen.names, table, call),
                weights=weights if held is None else read_where(~held, weights, table, call),
                n_obs=call.n_obs,
                codes=groups.codes,
                labels=groups.labels,
                utility=ranks,
                constraint=constraint,
                budget=budget,
            )
            action, others = problem.grid() if chosen.grids else problem.search()
            if held is not None:
                problem = replace(problem, weights=read_where(held, weights, table, call))
            return problem.result(action, others, held_out=held is not None)

    def _warned_support(self, **question: Any) -> tuple[str, tuple[str, ...]]:
        """Return the verdict on the support of a question and its reasons, after a warning about each new reason."""
        found = self.support(**question)
        self._warn_about_support(found.reasons if found.verdict == "extrapolates" else ())
        return found.verdict, found.reasons

    def _valued(
        self,
        value: Callable[..., Any] | None,
        spec: KernelSpec,
        columns: tuple[str, ...],
        known: set[str],
        extra: tuple[str, ...],
        levers: LeverValues,
    ) -> Self:
        """Return the model with the value of the output as a further site.

        Raises
        ------
        TypeError, ValueError
            If ``value`` takes something other than the output and levers, columns or arguments.
        """
        function = value or (lambda y: y)
        if not callable(function):
            msg = f"`value` must be a function of the output and of levers; got {value!r}. Pass `lambda y, price: ...`."
            raise TypeError(msg)
        names = tuple(inspect.signature(function).parameters)[1:]
        unknown = [name for name in names if name not in known and name not in levers.names]
        unused = [name for name in extra if name not in names]
        if unknown or unused:
            msg = (
                f"`value` must be a function of the output and of levers, columns or arguments by name; got "
                f"{(unknown or unused)[0]!r}, which is {'none of them' if unknown else 'in neither of both'}. "
                f"Known: {', '.join(sorted(known))}."
            )
            raise ValueError(msg)
        kernel = valued_kernel(
            self.kernel,
            function,
            output=spec.param_output,
            argument=self.param_input,
            columns={name: columns.index(name) for name in columns},
            extra=extra,
            names=names,
            expected=is_affine(function, names, levers.examples()),
        )
        return self._with_kernel(kernel)


def _read_levers_now(names: tuple[str, ...], table: Any, call: KernelArguments) -> dict[str, np.ndarray]:
    """Return the values of the levers that are columns, or arguments with one value for each row."""
    by_row = [name for name, rows in call.rows.items() if rows.ndim == 1 and not rows.from_batches]
    known = {*call.columns, *by_row} - call.categories.keys()
    return {name: np.asarray(read_labels(name, table, call, "levers"), float) for name in names if name in known}
