"""Method of ``ImpactModel`` that decomposes an effect into paths."""

__all__ = ["MediationMethods"]

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import jax

import aimz
from aimz.data import open_chunked_table
from aimz.distributed import collective_call
from aimz.engine import check_nan_policy, read_decomposition, read_options
from aimz.methods.base import on_snapshot, optional_key
from aimz.methods.effect import EffectMethod

if TYPE_CHECKING:
    import xarray as xr
    from distributed import Client


class MediationMethods(EffectMethod):
    """Direct and indirect effects."""

    @collective_call
    @on_snapshot
    def decompose(
        self,
        treatment: Mapping[str, tuple[Any, Any]],
        through: str | Iterable[str] | Mapping[str, Any],
        *,
        kind: Literal["natural", "interventional", "controlled"] = "natural",
        X: Any = None,
        args: Mapping[str, Any] | None = None,
        by: Any = None,
        weights: Any = None,
        nan_policy: Literal["propagate", "omit"] = "propagate",
        rng_key: jax.Array | None = None,
        batch_size: int | None = None,
        progress: bool = True,
        client: "Client | Literal[False] | None" = None,
    ) -> "xr.DataTree":
        """Split the effect of a treatment into the part that runs through mediators and the rest.

        With Y(t, M(t')) the outcome under treatment t and the mediators as they are under t', the natural direct effect
        is Y(1, M(0)) - Y(0, M(0)), the natural indirect effect Y(1, M(1)) - Y(1, M(0)), and their sum the total effect
        Y(1) - Y(0), for every draw [1]_. All worlds share their noise. Outcomes are expected values, averaged over
        rows, as in :meth:`compare_scenarios`. The decomposition is causal only as far as the kernel is: no common cause
        of mediator and outcome may be missing from it.

        Parameters
        ----------
        treatment : mapping of str to (reference, treated)
            Two values of a site, an argument or a column, such as ``{"campaign": (0, 1)}``.
        through : str, list of str, or mapping
            Mediators, sites between treatment and outcome; several are taken together. For ``kind="controlled"``, a
            mapping of mediators to the values that they are held at.
        kind : {"natural", "interventional", "controlled"}
            "natural" as above. "interventional" [2]_: mediators are drawn from their distribution under t', given the
            arguments of the row, independently of everything else; the paths add up to the overall effect of such
            interventions, and confounders of mediator and outcome may descend from the treatment. "controlled":
            mediators are held at values; the paths are "direct" and "eliminated", the rest of the total effect.
        X : array_like or table, optional
            Input of the rows; by default the rows of the last fit, if they are in memory.
        args : mapping, optional
            Further arguments of the kernel.
        by, weights, nan_policy, rng_key, batch_size, progress, client
            As in :meth:`compare_scenarios`.

        Returns
        -------
        xarray.DataTree
            As from :meth:`compare_scenarios`, but with the dimension ``path`` in the groups ``effect``: "total",
            "direct" and "indirect" (or "eliminated").

        Raises
        ------
        NotFittedError
            If there is no posterior.
        TypeError, ValueError
            If a mediator is not on a path from the treatment to the outcome in the graph of the kernel, or is an
            argument; or, for natural effects, if a random site descends from the treatment and affects a mediator and
            the outcome on separate paths, so that natural effects cannot be identified.

        See Also
        --------
        aimz.as_in : Values of sites in another scenario, from which any crossed scenario can be built.
        aimz.share_mediated : Share of the total effect that is mediated.

        References
        ----------
        .. [1] Pearl (2001), Direct and indirect effects, UAI.
        .. [2] VanderWeele, Vansteelandt and Robins (2014), Effect decomposition in the presence of an exposure-induced
           mediator-outcome confounder, Epidemiology 25.

        Examples
        --------
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from jax import random
        >>> from numpyro.infer import MCMC, NUTS
        >>> import aimz
        >>> def kernel(X, mail, y=None):
        ...     a = numpyro.sample("a", dist.Normal())
        ...     b = numpyro.sample("b", dist.Normal())
        ...     with numpyro.plate("customer", X.shape[0]):
        ...         visits = numpyro.sample("visits", dist.Normal(X + a * mail, 1.0))
        ...         numpyro.sample("y", dist.Normal(b * visits + 0.5 * mail, 1.0), obs=y)
        >>> model = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=10, num_samples=10))
        >>> _ = model.set_posterior_sample({"a": np.full(4, 2.0), "b": np.full(4, 3.0)})
        >>> found = model.decompose({"mail": (0, 1)}, "visits", X=np.ones(8), args={"mail": np.ones(8)}, progress=False)
        >>> found["effect"]["y"].mean(("chain", "draw")).round(3).to_series().to_dict()
        {'total': 6.5, 'direct': 0.5, 'indirect': 6.0}
        """
        key = optional_key(rng_key)
        check_nan_policy(nan_policy)
        options = read_options(batch_size=batch_size, store="memory", progress=progress, client=client)
        self._fitted("decompose")
        observed, source, call = self._open_rows(X, args, "decompose")
        plan = read_decomposition(treatment, through, kind, call, self._engine)
        tree = self._compare(
            {name: observed | {"intervention": acts} for name, acts in plan.scenarios.items()},
            dict.fromkeys(plan.scenarios, source),
            dict.fromkeys(plan.scenarios, call),
            open_chunked_table(observed["X"], self._engine.parameters) or observed["X"],
            baseline=plan.reference,
            by=by,
            weights=weights,
            contrast="difference",
            kind="expected",
            nan_policy=nan_policy,
            return_sites=self.param_output,
            key=key,
            options=options,
        )
        return aimz.output.decomposition_tree(tree, plan.paths, decomposition=kind, through=list(plan.through))
