"""Methods of ``ImpactModel`` that refit the kernel with a hidden common cause of given strength."""

__all__ = ["ConfoundingMethods"]

import warnings
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from typing import Any, Self

import numpy as np
import numpyro.distributions as dist

from aimz.engine import KernelEngine
from aimz.errors import KernelValidationError, OutputWarning
from aimz.kernel import (
    HIDDEN_CAUSE,
    HiddenCause,
    KernelSpec,
    TreatmentModel,
    can_shift,
    confounded_kernel,
    outcome_site,
)
from aimz.methods import on_snapshot
from aimz.statistics import treatment_left
from aimz.types import Kernel
from aimz.validation.confounded_grid import ConfoundedGrid
from aimz.validation.covariates import ColumnRows, Covariates, read_covariates
from aimz.validation.sensitivity import SensitivityMethods, check_outcome


class ConfoundingMethods(SensitivityMethods):
    """Fits with a hidden common cause."""

    @on_snapshot
    def with_confounder(
        self,
        *,
        treatment: str,
        strength: tuple[float | dist.Distribution, float | dist.Distribution],
        outcome: str | None = None,
        covariates: Iterable[str] | None = None,
        inference: str | Callable[[Kernel], Any] | None = None,
        X: Any = None,
        y: Any = None,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Self:
        r"""Return a model, to be fitted, whose kernel has a hidden common cause of treatment and outcome.

        The cause has a standard normal value in each row, :math:`U_i \sim N(0, 1)`. It enters the treatment with the
        first number of ``strength`` as its coefficient, and the outcome with the second: added to the location of a
        distribution on the real line, to the log odds of a binary one, or to the logarithm of the mean of a count or a
        positive number. In a linear model of both, the effect decreases by the product of the numbers divided by the
        variance of what the covariates leave of the treatment.

        If the treatment is a column or an argument, the kernel has no model of it, so one is added: linear in the
        covariates with normal noise, or logistic if all values are 0 or 1, with wide priors on standardized columns.

        Parameters
        ----------
        treatment : str
            Name of a column, an argument, or a site with data, with one number for each row.
        strength : (float or Distribution, float or Distribution)
            Coefficients of the cause in the treatment and in the outcome, or their priors.
            :meth:`SensitivityResult.strength` computes these from partial R².
        outcome : str, optional
            Name of the outcome, the output of the kernel.
        covariates : list of str, optional
            Covariates of the added model of the treatment; by default as in :meth:`sensitivity`.
        inference : {"nuts", "svi"} or callable, optional
            Inference of the new model, or a function of its kernel that returns an object of NumPyro; by default it is
            chosen at the fit.
        X, y : array_like of shape (n_obs, ...), data frame or another source of rows, optional
            Rows that determine the covariates and their units; by default the rows of the fit.
        args, **kwargs
            Further arguments of the kernel.

        Returns
        -------
        ImpactModel
            Model without a posterior. Fit it to the same rows, and ask for the same effect.

        Raises
        ------
        TypeError, ValueError
            If the strengths are no numbers or priors, if the treatment is unknown or does not vary given the
            covariates, or if the first strength explains more of it than the covariates leave.
        KernelValidationError
            If the cause cannot enter a site, or the kernel has sites of the same names.

        See Also
        --------
        sensitivity : The same question from partial R², without a further fit.

        Examples
        --------
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> import aimz
        >>> def kernel(X, dose, y=None):
        ...     gain = numpyro.sample("gain", dist.Normal(0.0, 1.0))
        ...     with numpyro.plate("patient", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(X + gain * dose, 1.0), obs=y)
        >>> noise = np.random.default_rng(0)
        >>> X, dose = noise.normal(size=50), noise.normal(size=50)
        >>> rows = {"X": X, "y": X + dose + noise.normal(size=50), "dose": dose}
        >>> model = aimz.ImpactModel(kernel, 0)
        >>> hidden = model.with_confounder(treatment="dose", strength=(0.5, 0.5), **rows)
        >>> hidden.is_fitted()
        False
        """
        options: dict[str, object] = {
            "treatment": treatment,
            "strength": strength,
            "outcome": outcome,
            "covariates": covariates,
        }
        options |= {"inference": inference}
        self._engine.signature.check_unambiguous(options, args or (), "with_confounder")
        given, cause = self._merged(kwargs, args), _read_strength(strength)
        engine, kernel = self._confounded(treatment, cause, outcome, covariates, X, y, given)
        chosen = inference(kernel) if callable(inference) else inference
        dims, coords = self._results.dims_and_coords
        names = {"param_input": self.param_input, "param_output": self.param_output}
        model = type(self)(kernel, self.rng_key, chosen, coords=coords, dims=dims, **names)
        model._engine.whole = engine.whole
        return model

    def _confounded(
        self, treatment: str, cause: HiddenCause, outcome: Any, covariates: Any, X: Any, y: Any, given: dict[str, Any]
    ) -> tuple[KernelEngine, Kernel]:
        """Return the engine of the rows, and the kernel with the hidden cause."""
        check_outcome(outcome, self.param_output)
        _, source, call = self._open_observed(X, y, given, "with_confounder")
        spec = self._engine.read_spec(call)
        _check_kernel(spec, self._engine.signature.kernel)
        site = outcome_site(self.param_output, spec)
        columns = read_covariates(
            self._engine,
            spec,
            call,
            treatment=treatment,
            covariates=covariates,
            benchmark=(),
            lookups=self._lookups(spec, call),
        )
        of_treatment = next((one for one in spec.sites if one.name == treatment and one.data), None)
        for one in filter(None, (spec[site], of_treatment)):
            if not can_shift(one.distribution) or one.shape != ("n_obs",):
                msg = (
                    f"A hidden cause enters sites with one number for each row, and a location, a mean on the log "
                    f"scale or log odds; got `{one.name}`, {one.distribution} of shape {one.shape}. Write the cause "
                    "into the kernel."
                )
                raise KernelValidationError(msg)
        rows = ColumnRows(columns, call, self.param_output)
        if rows.from_batches:
            rows.add_batch(0, (source.reader.first if source.reader else None) or {})
        else:
            rows.read_all()
        rows.check()
        modelled = treatment if of_treatment is not None else _treatment_model(columns, rows)
        linear = rows.binary if of_treatment is None else of_treatment.distribution not in ("Normal",)
        if not linear:
            _check_strength(cause, rows, treatment)
        kernel = confounded_kernel(
            self.kernel,
            argument=self.param_input,
            outcome=site,
            treatment=modelled,
            cause=cause,
            plate=spec.row_dim,
        )
        return self._engine, kernel

    def refit_with_confounder(
        self,
        *,
        treatment: str,
        strengths: Iterable[tuple[float, float]],
        outcome: str | None = None,
        covariates: Iterable[str] | None = None,
        inference: str | Callable[[Kernel], Any] | None = None,
        fit_options: Mapping[str, Any] | None = None,
        effect_options: Mapping[str, Any] | None = None,
        X: Any = None,
        y: Any = None,
        args: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> ConfoundedGrid:
        """Fit the kernel with hidden common causes of several strengths, and return the effect under each.

        Parameters
        ----------
        treatment, outcome, covariates, inference, X, y, args, **kwargs
            As in :meth:`with_confounder`.
        strengths : iterable of (float, float)
            Coefficients of the cause in the treatment and in the outcome; a fit for each pair.
        fit_options : mapping, optional
            Options of :meth:`fit`.
        effect_options : mapping, optional
            Options of :meth:`effect`, such as ``{"values": (0, 2)}``.

        Returns
        -------
        ConfoundedGrid
            Table of the effects, and the strengths at which they vanish.

        Raises
        ------
        TypeError, ValueError
            As :meth:`with_confounder`; or if there is not a single effect.

        Examples
        --------
        >>> model = model.fit(X, y, dose=dose)  # doctest: +SKIP
        >>> grid = model.refit_with_confounder(treatment="dose", strengths=[(0.5, 0.0), (0.5, 0.5)])  # doctest: +SKIP
        >>> grid.tipping_points()  # doctest: +SKIP
        """
        options: dict[str, object] = {
            "treatment": treatment,
            "strengths": strengths,
            "outcome": outcome,
            "covariates": covariates,
        }
        options |= {"inference": inference}
        options |= {"fit_options": fit_options, "effect_options": effect_options}
        self._engine.signature.check_unambiguous(options, args or (), "refit_with_confounder")
        pairs: list[Any] = [tuple(pair) for pair in strengths]
        if not pairs or any(len(pair) != 2 or not all(isinstance(one, Real) for one in pair) for pair in pairs):
            msg = f"`strengths` must be pairs of numbers, one fit each; got {pairs!r}. Pass [(0.3, 0.0), (0.3, 0.5)]."
            raise TypeError(msg)
        given = self._merged(kwargs, args)
        if X is None:
            rows = self._rows.require("refit_with_confounder")
            X, y, given = rows.X, rows.y if y is None else y, {**rows.arguments, **given}
        found = []
        about: dict[str, Any] = {"treatment": treatment, "outcome": outcome}
        about |= {"covariates": covariates, "inference": inference}
        for pair in pairs:
            model: Any = self.with_confounder(**about, strength=pair, X=X, y=y, args=given)
            model.fit(X, y, args=given, **{"progress": False, **(fit_options or {})})
            with warnings.catch_warnings():  # the rows are the fitted ones
                warnings.filterwarnings("ignore", "The answer is about the fitted observations", OutputWarning)
                effect = model.effect(treatment, **{"progress": False, **(effect_options or {})})
            draws = effect.tree["effect"].to_dataset()[self.param_output]
            if draws.size != draws.sizes["chain"] * draws.sizes["draw"]:
                msg = (
                    f"The refits need a single effect; got {dict(draws.sizes)}. Pass two values of the treatment, as "
                    "`effect_options={'values': (0, 1)}`, without `by`."
                )
                raise ValueError(msg)
            found.append(np.asarray(draws.values, float).ravel())
        return ConfoundedGrid(treatment, self.param_output, tuple(pairs), tuple(found))


def _read_strength(strength: Any) -> HiddenCause:
    """Return the coefficients of a hidden cause.

    Raises
    ------
    TypeError
        If they are not two numbers or distributions.
    """
    pair = tuple(strength) if isinstance(strength, tuple | list) else ()
    if len(pair) != 2 or not all(_is_coefficient(one) for one in pair):
        msg = (
            f"`strength` must be the coefficients of the cause in treatment and outcome, each a finite number or a "
            f"distribution of one number; got {strength!r}. Pass (0.3, 0.5); for several pairs, call "
            "`refit_with_confounder`."
        )
        raise TypeError(msg)
    return HiddenCause(*pair)


def _is_coefficient(given: Any) -> bool:
    if isinstance(given, dist.Distribution):
        return bool(given.batch_shape == given.event_shape == ())
    return isinstance(given, Real) and bool(np.isfinite(float(given)))


def _check_kernel(spec: KernelSpec, kernel: str) -> None:
    """Raise if a kernel cannot have a further value for each row, or has a site of its name."""
    taken = [site.name for site in spec.sites if site.name.startswith(HIDDEN_CAUSE)]
    if taken or spec.row_plates:
        what = f"has a site `{taken[0]}`" if taken else f"subsamples the plate `{min(spec.row_plates)}`"
        msg = (
            f"Kernel `{kernel}` {what}, so a hidden cause `{HIDDEN_CAUSE}` of each row cannot be added. "
            f"{'Rename it' if taken else 'Use the plate without `subsample_size`; `fit` scales minibatches'}."
        )
        raise KernelValidationError(msg)


def _treatment_model(columns: Covariates, rows: ColumnRows) -> TreatmentModel:
    """Return the model of a treatment that is an argument."""
    moments = rows.moments
    scales = np.sqrt(np.diag(moments.products)[:-1] / moments.n)
    kept = [i for i, scale in enumerate(scales[1:], 1) if scale > 1e-9 * max(1.0, abs(moments.mean[i]))]
    places = [0, *kept]
    return TreatmentModel(
        columns.treatment,
        tuple(columns.all[i] for i in kept),
        moments.mean[places],
        scales[places],
        binary=rows.binary,
    )


def _check_strength(cause: HiddenCause, rows: ColumnRows, treatment: str) -> None:
    """Raise if a cause explains more of a treatment than the covariates leave."""
    left, degrees = treatment_left(rows.moments)
    sd = float(np.sqrt(left / degrees))
    if isinstance(cause.treatment, Real) and abs(float(cause.treatment)) >= sd:
        msg = (
            f"The first number of `strength` must be below {sd:.3g}, the standard deviation of what the covariates "
            f"leave of `{treatment}`, since a cause of variance 1 explains its square; got {cause.treatment}. Pass a "
            "smaller number."
        )
        raise ValueError(msg)
