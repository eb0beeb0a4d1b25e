"""Slopes, elasticities and other derivatives, averaged over rows."""

__all__ = ["SlopeMethods"]

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import jax

import aimz
from aimz.data import KernelArguments, open_chunked_table
from aimz.distributed import collective_call
from aimz.engine import (
    InputSource,
    PredictionRequest,
    check_derivatives,
    check_lever_values,
    check_return_sites,
    derivative_of,
    omit_rows_with_nan,
    read_groups_of,
    read_levers,
    read_options,
    read_slope_kind,
    read_where,
    sign_error,
    with_levers,
)
from aimz.forward import Derivative
from aimz.kernel import OBSERVED, name_settings
from aimz.methods.base import on_snapshot, optional_key
from aimz.methods.effect import EffectMethod
from aimz.methods.results import ScenarioSums, dims_without_rows
from aimz.statistics import Groups
from aimz.types import Intervention, SlopeKind

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client


class SlopeMethods(EffectMethod):
    """Derivatives of the output."""

    @collective_call
    @on_snapshot
    def slopes(
        self,
        levers: str | Iterable[str],
        *,
        kind: SlopeKind = "dydx",
        by: Any = None,
        weights: Any = None,
        where: Any = None,
        nan_policy: Literal["propagate", "omit"] = "propagate",
        return_sites: str | Iterable[str] | None = None,
        intervention: Intervention | None = None,
        in_sample: bool | None = None,
        rng_key: jax.Array | None = None,
        batch_size: int | None = None,
        progress: bool = True,
        client: "Client | Literal[False] | None" = None,
        X: Any = None,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> "xr.DataTree":
        r"""Return average derivatives of the expected output by a column, an argument or a site.

        Derivatives are computed forwards (:func:`jax.jvp`) through the kernel, with common noise and without finite
        differences. They are averaged over rows for each draw, in one pass over the data, as by
        :meth:`compare_scenarios`: no row is stored, and the numbers do not depend on batches, devices or workers.

        Parameters
        ----------
        levers : str or list of str
            Columns of ``X``, arguments of the kernel or sites to differentiate by, one at a time.
        kind : {"dydx", "eyex", "eydx", "dyex", "total"}
            Slope of each row, which is then averaged, for the site :math:`\mu` and the lever :math:`x`:

            - ``"dydx"``: :math:`\partial\mu/\partial x`, the change for one unit of the lever.
            - ``"eyex"``: :math:`(\partial\mu/\partial x)(x/\mu)`, the elasticity, the change in percent for 1 %.
            - ``"eydx"``: :math:`(\partial\mu/\partial x)/\mu`, the relative change for one unit.
            - ``"dyex"``: :math:`(\partial\mu/\partial x)\,x`, the change for 100 % of the lever.
            - ``"total"``: :math:`\sum x\,\partial\mu/\partial x \,/ \sum\mu`, the elasticity of the total.
        by, weights, nan_policy, rng_key, batch_size, progress, client
            As in :meth:`compare_scenarios`.
        where : array_like of bool of shape (n_obs,), or str, optional
            Rows to average over; a string names a column or an argument with values True and False, or 1 and 0.
        return_sites : str or iterable of str, optional
            Sites to differentiate; the output by default. A site whose mean is known has its expected value.
        intervention : mapping, optional
            Values at which the derivatives are computed, as in :meth:`predict`: ``{"price": 5.0}`` for the slope at a
            price of 5.
        in_sample : bool, optional
            As in :meth:`predict`.
        X, args, **kwargs
            Input and further arguments of the kernel; by default the rows of the fit.

        Returns
        -------
        xarray.DataTree
            Groups ``effect`` (slopes, with dimensions ``(chain, draw, scenario, <groups>, ...)``, whose ``scenario`` is
            the lever), ``scenarios`` (averages at the given values) and ``groups``, as returned by
            :meth:`compare_scenarios`. :func:`aimz.summary` turns it into a table, :func:`aimz.in_words` into sentences.

        Raises
        ------
        NotFittedError
            If there is no posterior.
        TypeError, ValueError
            If a lever is unknown or discrete; if the derivative of a site is 0, or lacks a part, by construction (draws
            of discrete sites, comparisons, look-ups, rounding, ``stop_gradient``); or if the lever or the mean of an
            elasticity changes sign. The message names the alternative.

        Examples
        --------
        >>> import jax, numpy as np, numpyro, numpyro.distributions as dist
        >>> from jax import random
        >>> from numpyro.infer import MCMC, NUTS
        >>> import aimz
        >>> def kernel(X, y=None):
        ...     b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        ...     with numpyro.plate("obs", X.shape[0]):
        ...         numpyro.sample("y", dist.BernoulliLogits(b * X), obs=y)
        >>> model = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=10, num_samples=10))
        >>> _ = model.set_posterior_sample({"b": np.linspace(0.9, 1.1, 100)})
        >>> found = model.slopes("X", X=np.zeros(10), progress=False)
        >>> found["effect"]["y"].mean().round(4).item()  # b p (1 - p)
        0.25
        """
        key, kind = optional_key(rng_key), read_slope_kind(kind)
        options = read_options(batch_size=batch_size, store="memory", progress=progress, client=client)
        ambiguous = {"levers": levers, "by": by, "weights": weights, "where": where}
        ambiguous |= {"kind": None if kind == "dydx" else kind}
        ambiguous |= {"nan_policy": None if nan_policy == "propagate" else nan_policy}
        self._engine.signature.check_unambiguous(ambiguous, args or (), "slopes")
        self._fitted("slopes")
        check_return_sites(return_sites)
        one, source, call = self._open_rows(X, self._merged(kwargs, args), "slopes")
        table = open_chunked_table(one["X"], self._engine.parameters) or one["X"]
        spec = self._engine.read_spec(call)
        derivative = derivative_of(kind, read_levers(levers, spec, call, self.param_input))
        weights = read_where(where, weights, table, call)
        groups = read_groups_of(by, weights, table, call, source, self._panel_of(call, spec))
        sites = self._engine.read_return_sites(spec, self.param_output if return_sites is None else return_sites)
        one |= {"return_sites": sites, "intervention": with_levers(intervention, derivative.levers)}
        one |= {} if in_sample is None else {"in_sample": in_sample}
        request = self._prepare_slopes(one, call, source, groups, derivative, omit=nan_policy == "omit")
        request = replace(request, options=options)
        with self._key(key) as key:
            request = replace(request, key=key)
            tree = self._slopes_of(request, self._sum_over_rows(request), kind, name_settings(intervention or {}))
            return aimz.output.slope_tree(tree, kind)

    def _prepare_slopes(
        self,
        one: Mapping[str, Any],
        call: KernelArguments,
        source: InputSource,
        groups: Groups,
        derivative: Derivative,
        *,
        omit: bool,
    ) -> PredictionRequest:
        """Return the request of derivatives, after checks of levers, groups and paths to the return sites."""
        calls, scenarios = self._prepare_scenarios(
            {OBSERVED: one}, {OBSERVED: source}, {OBSERVED: call}, kind="expected"
        )
        prepared = scenarios[OBSERVED]
        groups = omit_rows_with_nan(groups, [prepared]) if omit else groups
        for lever in derivative.levers:
            check_lever_values(lever, prepared, derivative, groups)
        axes = self._results.axes_of(prepared)
        panel_axes = self._panel_of(call, self._engine.read_spec(call)).site_axes(prepared.spec, axes, groups.panel)
        aimz.output.check_by(groups.labels, dims_without_rows(prepared, axes, panel_axes))
        request = self._request("slopes", source, calls, scenarios, None, groups)
        request = replace(request, baseline=OBSERVED, panel_axes=panel_axes, derivative=derivative)
        check_derivatives(self._engine, request, derivative.levers)
        return request

    def _slopes_of(self, request: PredictionRequest, found: ScenarioSums, kind: SlopeKind, given: str) -> "xr.DataTree":
        """Return the averages and slopes of all sites, after a check of the signs that elasticities need.

        ``given`` is the name of the averages.
        """
        derivative, prepared = request.derivative, request.first
        assert derivative is not None
        n_levers = len(derivative.levers)
        flags = iter(range(2 + n_levers, derivative.n_values))
        signs = {lever.name: (next(flags), next(flags)) for lever in derivative.levers} if derivative.relative else {}
        for site, sums in found.sums.items():
            both = {
                **signs,
                site: tuple(range(derivative.n_values - 2, derivative.n_values)) if derivative.of_log else (),
            }
            for name, places in both.items():
                if places and all((sums[:, place] > 0).any() for place in places):
                    below, above = (float(sums[:, place].sum()) for place in places)
                    share = 100 * below / (below + above)
                    what = f"is at or below 0 in {share:.2g} % of the rows and draws"
                    raise ValueError(sign_error(name, what))
        kept = replace(found, sums={name: sums[:, 1 : 2 + n_levers] for name, sums in found.sums.items()})
        scenarios = {given: prepared, **{lever.name: prepared for lever in derivative.levers}}
        return self._results.averages(
            kept, replace(request, scenarios=scenarios, baseline=given), aimz.output.slope_contrast(kind)
        )
