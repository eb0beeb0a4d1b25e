"""The method of ``ImpactModel`` that finds how probably a planned study finds an effect."""

__all__ = ["AssuranceMethod"]

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import jax

from aimz.data import check_count
from aimz.methods import on_snapshot, optional_key
from aimz.validation.quantities import read_effect
from aimz.validation.rehearsal_plan import RehearsalRequest
from aimz.validation.rehearsal_result import AssuranceResult
from aimz.validation.rehearsing import RehearsalMethods

if TYPE_CHECKING:
    import os

    from distributed import Client


class AssuranceMethod(RehearsalMethods):
    """Planned studies."""

    @on_snapshot
    def assurance(
        self,
        effect: Any,
        X: Any = None,
        *,
        baseline: Any = None,
        values: Any = None,
        by: Any = None,
        weights: Any = None,
        contrast: Any = None,
        truth: Mapping[str, Any] | None = None,
        source: Literal["prior", "posterior"] | None = None,
        threshold: float | None = None,
        alternative: Literal["greater", "less", "two-sided"] = "greater",
        probability: float = 0.95,
        num_simulations: int = 200,
        fit_options: Mapping[str, Any] | None = None,
        checkpoint_dir: "str | os.PathLike[str] | None" = None,
        client: "Client | None" = None,
        rng_key: jax.Array | None = None,
        progress: bool = True,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> AssuranceResult:
        """Return the probability that a planned study finds an effect.

        Each simulated study draws true values of the latent sites (the design prior) and an outcome of the planned
        rows, and is fitted as the user fits. It finds the effect if ``P(effect > threshold)`` exceeds ``probability``.
        The assurance is the share of studies that find it; with true values fixed by ``truth``, it is the power [1]_.

        Parameters
        ----------
        effect, baseline, values, by, weights, contrast
            Effect, as in :meth:`rehearse`.
        X, args, **kwargs
            Planned rows: covariates, and the treatment that each row would receive. By default the rows of the last
            fit.
        truth : mapping of str to value or Distribution, optional
            True values of latent sites, or their design priors; other sites are drawn from ``source``. The fits use the
            priors of the kernel.
        source : {"prior", "posterior"}, optional
            Distribution of the other true values: by default the posterior of a fitted model, such as that of a pilot
            study, and the prior otherwise.
        threshold : float, optional
            Effect that must be exceeded; by default no effect (0, or 1 for ratios).
        alternative : {"greater", "less", "two-sided"}
            Whether the effect must be above the threshold, below it, or on either side, each with half of ``1 -
            probability``.
        probability : float
            Posterior probability that a study must reach.
        num_simulations : int
            Number of simulated studies. The Monte Carlo error is at most ``0.5 / sqrt(num_simulations)``.
        fit_options, checkpoint_dir, client, rng_key, progress
            As in :meth:`rehearse`.

        Returns
        -------
        AssuranceResult
            Result that prints a sentence for each effect, with ``summary``, ``plot`` and ``to_pandas``.

        Raises
        ------
        NotFittedError, KernelValidationError, CheckpointError, TypeError, ValueError
            As in :meth:`rehearse`.

        References
        ----------
        .. [1] O'Hagan, Stevens and Campbell (2005), Assurance in clinical trial design, Pharmaceutical Statistics 4.
        """
        if alternative not in ("greater", "less", "two-sided"):
            msg = f"`alternative` must be 'greater', 'less' or 'two-sided'; got {alternative!r}. Pass one of them."
            raise ValueError(msg)
        if not 0.5 <= probability < 1:
            msg = f"`probability` must lie between 0.5 and 1; got {probability!r}. Pass 0.95 for 95 %."
            raise ValueError(msg)
        options = {"baseline": baseline, "values": values, "by": by, "weights": weights, "contrast": contrast}
        own = {"effect": effect, "truth": truth, "source": source, "threshold": threshold, "fit_options": fit_options}
        self._engine.signature.check_unambiguous({**options, **own}, args or (), "assurance")
        question = read_effect(effect, options)
        if question is None:
            msg = "`assurance` needs an effect; got None. Pass the name of the treatment, or scenarios."
            raise TypeError(msg)
        arguments = self._merged(kwargs, args)
        request = RehearsalRequest(
            "assurance", "recovery", X, None, arguments, question, (), truth, None, None, fit_options, source, threshold
        )
        simulations = self._simulate(
            request,
            check_count(num_simulations, "num_simulations"),
            key=optional_key(rng_key),
            checkpoint_dir=checkpoint_dir,
            client=client,
            progress=progress,
        )
        above, value = simulations["above"], simulations.attrs["null"]
        level = probability if alternative != "two-sided" else 0.5 + probability / 2
        reached = {"greater": above > level, "less": above < 1 - level}
        simulations["found"] = reached.get(alternative, (above > level) | (above < 1 - level))
        signs = {"greater": f"> {value:g}", "less": f"< {value:g}", "two-sided": f"> {value:g} or < {value:g}"}
        return AssuranceResult(simulations, f"P(effect {signs[alternative]}) > {level:g}")
