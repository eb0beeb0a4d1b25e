"""The method of ``ImpactModel`` that answers a question about an effect."""

__all__ = ["EffectMethod"]

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

import aimz
from aimz.data import KernelArguments, open_chunked_table
from aimz.distributed import collective_call
from aimz.engine import (
    InputSource,
    check_nan_policy,
    check_return_sites,
    open_arguments,
    read_interventions,
    read_kind,
    read_options,
    read_treatment,
    read_where,
    share_rows,
)
from aimz.kernel import OBSERVED
from aimz.methods.base import on_snapshot, optional_key
from aimz.methods.effect_result import EffectResult
from aimz.methods.effects import EffectMethods
from aimz.methods.evidence import Evidence, read_given
from aimz.types import EffectKind, Intervention

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client

    from aimz.output import Contrast


class EffectMethod(EffectMethods):
    """Effect of one treatment or intervention."""

    @collective_call
    @on_snapshot
    def effect(
        self,
        treatment: "str | Intervention | None" = None,
        *,
        intervention: Intervention | None = None,
        values: Any = None,
        baseline: Any = None,
        X: Any = None,
        args: Mapping[str, Any] | None = None,
        by: Any = None,
        where: Any = None,
        weights: Any = None,
        contrast: "Contrast" = "difference",
        kind: EffectKind | None = None,
        given: Any = None,
        coupling: Literal["monotone"] | None = None,
        nan_policy: Literal["propagate", "omit"] = "propagate",
        return_sites: str | Iterable[str] | None = None,
        rng_key: jax.Array | None = None,
        batch_size: int | None = None,
        progress: bool = True,
        client: "Client | Literal[False] | None" = None,
        **interventions: Any,
    ) -> EffectResult:
        """Return the average effect of a treatment, or of any intervention, with its uncertainty.

        The average is over the rows of the fit, or over the rows of ``X``. The effect is computed draw by draw by
        :meth:`compare_scenarios`, which also compares scenarios that this method does not express.

        Parameters
        ----------
        treatment : str, optional
            Name of a site, an argument of the kernel or a column of the input. Without ``values``, 1 is compared with 0
            if all its values are 0 or 1; each category of text with the first; each value with the smallest if there
            are at most ten, with two rows for each; otherwise one more than observed with the data as observed. A
            mapping is an ``intervention``.
        intervention : mapping of str to value or callable, optional
            Intervention to compare with the baseline, as in :meth:`predict`; also with names that are options of this
            method. ``effect(price=9.0)`` is short for ``effect(intervention={"price": 9.0})``.
        values : list, optional
            Values of ``treatment`` to compare, the baseline first.
        baseline : mapping or value, optional
            Intervention to compare with; by default the data as observed. With ``treatment``, the value that the others
            are compared with.
        X : array_like of shape (n_obs, ...), data frame or another source of rows, optional
            Rows to average over; by default the rows of the last fit, to which the model keeps a reference.
        args : mapping of str to object, optional
            Further arguments of the kernel for the rows of ``X``. Without ``X``, they replace the arguments of the fit.
        by : array_like, str, list of str, or mapping, optional
            Groups of rows, or the name of a column or an argument, as in :meth:`compare_scenarios`.
        where : array_like of bool of shape (n_obs,) or str, optional
            Rows to average over, or the name of a column or an argument of 0 and 1. With ``where="campaign"``, the
            effect of the campaign is the average effect on the treated.
        weights : array_like of shape (n_obs,) or (n_obs, n_times, ...), or str, optional
            Weights of the rows in the average.
        contrast : {"difference", "ratio", "lift"} or callable
            Scenario - baseline, scenario / baseline, scenario / baseline - 1, or a function of both averages.
        kind : {"expected", "outcome"}, optional
            Whether to average expected values, the default, or drawn outcomes.
        given : array_like of shape (n_obs, ...) or "observed", optional
            Observed output of the rows, or "observed" for the output of the fit: the effect is then averaged over the
            counterfactuals of these rows, which keep their own noise, as in :meth:`compare_scenarios`.
        coupling : {"monotone"}, optional
            As in :meth:`counterfactual`, for discrete sites; only with ``given``.
        nan_policy : {"propagate", "omit"}
            Whether rows with NaN in an argument are left out.
        return_sites : str or iterable of str, optional
            Sites to average; by default the output.
        rng_key : jax.Array, optional
            Key for this call.
        batch_size : int, optional
            Maximum number of rows that are computed together. The numbers do not depend on it.
        progress : bool
            Whether to show a progress bar.
        client : distributed.Client, optional
            Dask cluster; see "Streaming" in :class:`ImpactModel`.
        **interventions
            Values, or functions of the observed values, by the name of a site, an argument or a column.

        Returns
        -------
        EffectResult
            Result that prints a sentence and a table, with methods ``summary``, ``plot`` and ``to_pandas`` and the
            attributes ``draws`` and ``tree``.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        TypeError
            If neither a treatment nor an intervention is passed, or both are; or if there are no rows of a fit in
            memory (after :meth:`load`, :meth:`set_posterior_sample` and fits to batches) and no ``X``.
        ValueError
            If a name is unknown, values do not fit, or the rows of the fit were modified in place since.

        See Also
        --------
        compare_scenarios : Compare any number of scenarios.
        estimate_effect : Effect on each row.

        Examples
        --------
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from jax import random
        >>> from numpyro.infer import MCMC, NUTS
        >>> import aimz
        >>> def kernel(X, mail, y=None):
        ...     gain = numpyro.sample("gain", dist.Normal(0.0, 1.0))
        ...     with numpyro.plate("customer", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(X + gain * mail, 1.0), obs=y)
        >>> model = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=10, num_samples=10))
        >>> _ = model.set_posterior_sample({"gain": np.linspace(-2.1, -1.9, 500)})
        >>> X, mail = np.linspace(0.0, 1.0, 200), np.arange(200) % 2
        >>> effect = model.effect("mail", X=X, args={"mail": mail}, progress=False)
        >>> str(effect).splitlines()[0]
        'Expected `y` is on average 2 lower under mail = 1 than under mail = 0 (89 %'
        """
        key, evidence = optional_key(rng_key), read_given(given, coupling, kind)
        contrast = aimz.output.read_contrast(contrast)
        check_nan_policy(nan_policy)
        options = read_options(batch_size=batch_size, store="memory", progress=progress, client=client)
        self._fitted("effect")
        check_return_sites(return_sites)
        asked = _read_given(treatment, intervention, interventions, values)
        observed, source, call = self._open_rows(X, args)
        table = open_chunked_table(observed["X"], self._engine.parameters) or observed["X"]
        spec = self._engine.read_spec(call)
        if isinstance(asked, str):
            question = read_treatment(asked, values, baseline, call, spec, self._engine.signature, table)
        else:
            question = read_interventions(asked, baseline, call)
        weights = read_where(where, weights, table, call)
        if return_sites is None and self.param_output in spec.return_sites:
            return_sites = self.param_output
        requested = {name: observed | {"intervention": setting} for name, setting in question.scenarios.items()}
        tree = self._compare(
            requested,
            *self._open_evidence_of(requested, observed, evidence, source, call),
            table,
            baseline=question.baseline,
            by=by,
            weights=weights,
            contrast=contrast,
            kind=read_kind(kind),
            nan_policy=nan_policy,
            return_sites=return_sites,
            key=key,
            options=options,
            evidence=evidence,
        )
        return EffectResult(tree, _describe_rows(tree, None if where is None else weights, fitted=X is None))

    def _open_evidence_of(
        self,
        requested: Mapping[Any, Mapping[str, Any]],
        observed: Mapping[str, Any],
        evidence: Evidence | None,
        source: InputSource,
        call: KernelArguments,
    ) -> tuple[dict[Any, InputSource], dict[Any, KernelArguments]]:
        """Return the source and the arguments of scenarios that share rows, with the output if it is evidence."""
        if evidence is None:
            return dict.fromkeys(requested, source), dict.fromkeys(requested, call)
        shared = {**observed["kwargs"], **observed, self.param_input: observed["X"]}
        return self._open_given(requested, evidence, shared)

    def _open_rows(
        self, X: Any, args: Any, method: str = "effect"
    ) -> tuple[dict[str, Any], InputSource, KernelArguments]:
        """Return the rows of the fit, or other rows: as arguments of a prediction, and opened.

        Raises
        ------
        TypeError, ValueError
            If there are no rows, or the rows of the fit have changed.
        """
        if args is not None and not isinstance(args, Mapping):
            msg = f"`args` must map names of kernel arguments to values; got {type(args).__name__}. Pass a dictionary."
            raise TypeError(msg)
        given = dict(args or {})
        if X is None:
            rows = self._rows.require(method)
            observed = {"X": rows.X, "kwargs": {**rows.arguments, **given}}
        else:
            observed = {"X": X, "kwargs": given}
        observed |= {"intervention": None, "condition": None, "in_sample": True if X is None else None}
        share_rows({OBSERVED: observed}, self._engine.parameters)
        try:
            sources, calls = open_arguments(self._engine, {OBSERVED: observed}, self._local_rows())
        except TypeError as error:
            if method == "effect":
                error.add_note(
                    "In `effect`, keyword arguments are interventions. Arguments of the kernel are in `args`."
                )
            raise
        if X is None:
            self._rows.check_unchanged(self._observed, calls[OBSERVED], given)
        return observed, sources[OBSERVED], calls[OBSERVED]


def _read_given(treatment: Any, intervention: Any, interventions: Mapping[str, Any], values: Any) -> Any:
    """Return the name of a treatment, or the intervention.

    Raises
    ------
    TypeError
        If there is neither or both.
    """
    if isinstance(treatment, Mapping) and intervention is None:
        treatment, intervention = None, treatment
    if intervention is not None and interventions:
        msg = (
            f"An intervention must be passed once; got a mapping and the keyword arguments {sorted(interventions)}. "
            "Put all in the mapping."
        )
        raise TypeError(msg)
    intervention = interventions or intervention
    if (treatment is None) == (intervention is None):
        got = "neither" if treatment is None else f"{treatment!r} and {list(intervention)}"
        msg = (
            f"`effect` needs the name of a treatment, or an intervention; got {got}. Call `effect('campaign')` or "
            "`effect(price=9.0)`, and pass arguments of the kernel in `args`."
        )
        if {"ci_prob", "ci_kind"} & set(interventions):
            msg += " Choose the interval afterwards: `effect('campaign').summary(ci_prob=0.5)`."
        raise TypeError(msg)
    if treatment is None and values is not None:
        msg = (
            f"`values` belong to one treatment; got {values!r} with an intervention. Pass the name of the treatment "
            "first, `effect('price', values=(4, 9))`."
        )
        raise TypeError(msg)
    if treatment is not None and not isinstance(treatment, str):
        msg = (
            f"`treatment` must be the name of a site, an argument or a column; got {type(treatment).__name__}. Pass a "
            "string, or rows as `X`."
        )
        raise TypeError(msg)
    return treatment if intervention is None else intervention


def _describe_rows(tree: "xr.DataTree", weights: Any, *, fitted: bool) -> str:
    """Return the rows that an effect is averaged over, except rows with a weight of 0."""
    rows = f"{tree['effect'].attrs['n_obs']:,} rows{' of the fit' if fitted else ''}"
    if weights is None:
        return rows
    return f"{np.count_nonzero(np.reshape(weights, (len(weights), -1)).any(axis=1)):,} of {rows}"
