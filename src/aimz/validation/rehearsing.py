"""Methods of ``ImpactModel`` that rehearse an analysis with known truths."""

__all__ = ["RehearsalMethods"]

import copy
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

import aimz
from aimz.data import Posterior, check_count, check_flag, read_output_dir
from aimz.engine import read_options
from aimz.errors import AimzWarning
from aimz.methods import ModelBase, on_snapshot, optional_key
from aimz.validation.quantities import read_effect
from aimz.validation.rehearsal_plan import RehearsalRequest, plan_rehearsal
from aimz.validation.rehearsal_result import RehearsalResult
from aimz.validation.simulation import OBSERVED, PRIOR_DRAWS, Simulation
from aimz.validation.simulation_run import fingerprint_of_rehearsal, run_simulations

if TYPE_CHECKING:
    import os

    import xarray as xr
    from distributed import Client


class RehearsalMethods(ModelBase):
    """Simulated data with known effects, and refits to them."""

    @on_snapshot
    def rehearse(
        self,
        X: Any = None,
        y: Any = None,
        *,
        kind: Literal["recovery", "sbc", "placebo"] = "recovery",
        effect: Any = None,
        baseline: Any = None,
        values: Any = None,
        by: Any = None,
        weights: Any = None,
        contrast: Any = None,
        parameters: str | Iterable[str] | None = None,
        truth: Mapping[str, Any] | None = None,
        source: Literal["prior", "posterior"] | None = None,
        permute: str | Iterable[str] | None = None,
        within: Any = None,
        num_simulations: int = 100,
        fit_options: Mapping[str, Any] | None = None,
        checkpoint_dir: "str | os.PathLike[str] | None" = None,
        client: "Client | None" = None,
        rng_key: jax.Array | None = None,
        progress: bool = True,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> RehearsalResult:
        """Return how well the analysis finds known effects, by repeating it on data whose true effects are known.

        Each simulation draws true values of the latent sites and an outcome, fits the model to it as the user fits, and
        keeps only the rank, the mean and the standard deviation of the requested effects and of the parameters. A
        simulation depends on the key and on its number only: more simulations, an interruption or a cluster do not
        change it. Compiled programs are shared by all refits.

        Parameters
        ----------
        X, y : array_like of shape (n_obs, ...), optional
            Rows whose outcome is simulated; by default the rows of the last fit. ``y`` is needed only for placebo runs
            on other rows, or to name the column of ``X`` that is the outcome.
        kind : {"recovery", "sbc", "placebo"}
            "recovery" draws true values from the posterior, or from the prior if the model is not fitted or
            ``source="prior"``. "sbc" is simulation-based calibration [1]_: true values from the prior, for which the
            ranks of a correct inference are uniform. "placebo" keeps the outcome and permutes the treatment, so that
            the true effect of the permuted treatment is 0.
        effect : str or mapping, optional
            The effect whose recovery is tested: the name of a treatment or an intervention, as in :meth:`effect`, or
            scenarios, as in :meth:`compare_scenarios`. By default only parameters are tested.
        baseline, values, by, weights, contrast : optional
            As in :meth:`effect` or :meth:`compare_scenarios`.
        parameters : str or list of str, optional
            Latent sites to test; by default all without a row axis, up to 20 elements of each.
        truth : mapping of str to value or Distribution, optional
            True values of latent sites, for a recovery: a number, or a distribution from which each simulation draws.
            Sites that depend on them are drawn given these values.
        source : {"prior", "posterior"}, optional
            Distribution of the true values in a recovery.
        permute : str or list of str, optional
            Placebo: arguments or columns with the treatment, and with everything that is computed from it.
        within : array_like of shape (n_obs,) or str, optional
            Placebo: groups within which the treatment is permuted, or the name of their argument or column.
        num_simulations : int
            Number of simulations. With fewer than 20 there is no verdict.
        fit_options : mapping, optional
            Options of each refit, such as ``{"num_steps": 2000}``: of :meth:`fit_on_batch` if ``num_steps`` is one of
            them, else of :meth:`fit`. By default method and options of the last fit.
        checkpoint_dir : path-like, optional
            Directory with a small file for each completed simulation. The same call continues from there.
        client : distributed.Client, optional
            Dask cluster, with one refit a task.
        rng_key : int or jax.Array, optional
            Key for this call.
        progress : bool
            Whether to show a progress bar.
        args : mapping of str to object, optional
            Further arguments of the kernel by name, as ``**kwargs``.
        **kwargs
            Further arguments of the kernel.

        Returns
        -------
        RehearsalResult
            Result that prints sentences and a table, with ``summary``, ``plot`` and ``to_pandas``.

        Raises
        ------
        NotFittedError
            If there is no inference, or the posterior was set with :meth:`set_posterior_sample`.
        KernelValidationError
            If the output is not drawn by a ``sample`` site.
        CheckpointError
            If ``checkpoint_dir`` belongs to another call, or is damaged.
        TypeError, ValueError
            If arguments are not valid: a prior that cannot be sampled, a treatment whose site depends on other data,
            data computed from the treatment that are not permuted with it. Nothing has then been fitted.

        Notes
        -----
        Ranks are among 99 evenly spaced posterior draws; draws that equal the truth count as below it at random. For
        "sbc", the verdict compares the ECDF of the ranks with a simultaneous band [2]_; for "recovery", it tests
        whether the bias exceeds a quarter of the posterior standard deviation, and the coverage of the interval. All
        verdicts together are wrong for a correct analysis with a probability of about 5 %. For true values from the
        posterior, or set by ``truth``, coverage is not exactly nominal, since the refit has the prior.

        For "placebo", let ``m_j`` and ``s_j`` be means and standard deviations of the placebo effects. ``placebo_mean``
        is the mean of ``m_j``, ``placebo_sd`` the root mean square of ``s_j``, ``placebo_spread`` the standard
        deviation of ``m_j`` beyond it, and ``z = (estimate - placebo_mean) / hypot(placebo_spread, placebo_sd)``.

        References
        ----------
        .. [1] Talts, Betancourt, Simpson, Vehtari and Gelman (2018), Validating Bayesian inference algorithms with
           simulation-based calibration, arXiv:1804.06788.
        .. [2] Säilynoja, Bürkner and Vehtari (2022), Graphical test for discrete uniformity and its applications in
           goodness-of-fit evaluation and multiple sample comparison, Statistics and Computing 32.
        """
        if kind not in ("recovery", "sbc", "placebo"):
            msg = f"`kind` must be 'recovery', 'sbc' or 'placebo'; got {kind!r}. Pass one of them."
            raise ValueError(msg)
        options = {"baseline": baseline, "values": values, "by": by, "weights": weights, "contrast": contrast}
        own = {"kind": kind, "effect": effect, "parameters": parameters, "truth": truth, "source": source}
        self._engine.signature.check_unambiguous(
            {**options, **own, "permute": permute, "within": within, "fit_options": fit_options}, args or (), "rehearse"
        )
        if kind != "placebo" and (permute is not None or within is not None):
            msg = f"`permute` and `within` belong to kind='placebo'; got kind={kind!r}. Leave them out, or pass it."
            raise TypeError(msg)
        question, arguments = read_effect(effect, options), self._merged(kwargs, args)
        request = RehearsalRequest(
            "rehearse", kind, X, y, arguments, question, parameters, truth, permute, within, fit_options, source
        )
        simulations = self._simulate(
            request,
            check_count(num_simulations, "num_simulations"),
            key=optional_key(rng_key),
            checkpoint_dir=checkpoint_dir,
            client=client,
            progress=progress,
        )
        return RehearsalResult(simulations)

    def _simulate(
        self,
        request: RehearsalRequest,
        num_simulations: int,
        *,
        key: jax.Array | None,
        checkpoint_dir: Any,
        client: Any,
        progress: bool,
    ) -> "xr.Dataset":
        """Run simulations; return them as arrays with the prior of each quantity."""
        check_flag(progress, "progress")
        client = read_options(client=client).client
        directory = None if checkpoint_dir is None else read_output_dir(checkpoint_dir, "checkpoint_dir")
        with self._key(key) as key:
            simulation, call = plan_rehearsal(self, request, key)
            prior = _prior_of(simulation, key)
            numbers = list(range(num_simulations))
            compares = request.kind == "placebo"
            if compares and (self._posterior is None or request.X is not None):
                numbers.append(OBSERVED)
            records = run_simulations(
                simulation,
                numbers,
                directory=directory,
                fingerprint={} if directory is None else fingerprint_of_rehearsal(simulation, call),
                client=client,
                progress=progress,
            )
        names = records[0]["names"]
        found = aimz.output.simulation_dataset([records[number] for number in range(num_simulations)])
        for name, position in (("prior_sd", 0), ("prior_above", 1)):
            found[name] = ("quantity", [prior.get(n, (np.nan, np.nan))[position] for n in names])
        if compares:
            actual = records.get(OBSERVED) or simulation._record(self, simulation.rows, None, key, OBSERVED)
            found["estimate"], found["estimate_sd"] = ("quantity", actual["mean"]), ("quantity", actual["sd"])
        source = "posterior" if simulation.from_posterior else "prior"
        permutation = simulation.permutation
        return found.assign_attrs(
            kind=request.kind,
            source=source + (f" with {', '.join(simulation.truth)} set" if simulation.truth else ""),
            n_ranks=min(simulation.n_draws, min(record["n_draws"] for record in records.values())) + 1,
            null=simulation.threshold,
            output=self.param_output,
            permuted="" if permutation is None else ", ".join(permutation.names),
            within=int(permutation is not None and permutation.groups is not None),
            rng_key=simulation.key,
        )


def _prior_of(simulation: Simulation, key: jax.Array) -> dict[str, tuple[float, float]]:
    """Return the standard deviation of the prior of each quantity, and its share above no effect."""
    model: Any = copy.copy(simulation.model)
    spec = model.kernel_spec
    sites = [name for name in spec.latent_sites if name not in spec.local_sites]
    if not sites or not all(spec[name].drawable for name in spec.latent_sites):
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AimzWarning)
        options = {"return_sites": sites, "rng_key": key, "store": "memory", "progress": False, "client": False}
        tree = model.sample_prior_predictive(
            simulation.rows.X, num_samples=PRIOR_DRAWS, args=dict(simulation.rows.arguments), **options
        )
        draws = {name: jax.numpy.asarray(tree["prior_predictive"][name].values[0]) for name in sites}
        model._posterior = Posterior(draws, params=model._fit.params)
        found, n_effects = simulation.draws_of(model, simulation.rows, key)
    thresholds = [simulation.threshold if i < n_effects else 0.0 for i in range(len(found))]
    return {
        name: (float(values.std()), float((values > threshold).mean()))
        for (name, values), threshold in zip(found.items(), thresholds, strict=True)
    }
