"""Checks of a rehearsal, and the inputs of its simulations."""

__all__ = ["RehearsalRequest", "plan_rehearsal"]

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimz.data import KernelArguments, key_to_text
from aimz.engine import with_outcome
from aimz.errors import KernelValidationError, NotFittedError
from aimz.inference import PosteriorOnly
from aimz.kernel import KernelSpec, Role
from aimz.methods import FittedRows, ModelBase
from aimz.validation.fitted_data import FitRows, read_rows_of_fit
from aimz.validation.permutation import read_permutation
from aimz.validation.quantities import EffectQuestion, read_parameters
from aimz.validation.simulation import Simulation

_RANKED = 99
"""Number of thinned draws among which a truth has its rank."""
_FIT_OPTIONS = ("num_steps", "num_samples", "batch_size", "epochs", "shuffle", "on_epoch_end", "total_size")


@dataclass(frozen=True)
class RehearsalRequest:
    """Arguments of a rehearsal."""

    method: str
    kind: str
    X: Any
    y: Any
    arguments: Mapping[str, Any]
    question: EffectQuestion | None
    parameters: str | Iterable[str] | None
    truth: Mapping[str, Any] | None
    permute: Any
    within: Any
    fit_options: Mapping[str, Any] | None
    source: str | None
    threshold: float | None = None
    """Value with which draws of effects are compared; None for no effect."""


def plan_rehearsal(model: ModelBase, request: RehearsalRequest, key: Any) -> tuple[Simulation, KernelArguments]:
    """Return the checked simulation of a snapshot of a model, and the arguments of its rows.

    Raises
    ------
    NotFittedError, KernelValidationError, TypeError, ValueError
        If the model cannot be refitted, its output cannot be simulated, or an argument is not valid.
    """
    _check_refittable(model, request.method)
    given = FittedRows(request.X, request.y, request.arguments)
    kept = model._rows.require(request.method) if request.X is None else given
    if request.X is None and request.arguments:
        kept = FittedRows(kept.X, kept.y, {**kept.arguments, **request.arguments})
    model._engine, _, y = with_outcome(model._engine, kept.X, kept.y)  # of a snapshot of the model
    rows = read_rows_of_fit(kept, model._engine, request.method)
    engine, output = model._engine, model.param_output
    call = engine.read_call(rows.X, dict(rows.arguments))
    if request.X is None:
        model._rows.check_unchanged(model._observed, call, request.arguments)
    spec = engine.read_spec(call)
    site = _read_output(spec, output, request)
    drawn = {} if request.kind == "placebo" else _read_drawn(spec, output, engine.signature.optional, rows)
    source = _read_source(model, request)
    permutation = None
    if request.kind == "placebo":
        permutation = read_permutation(request.permute, request.within, rows, spec, call.n_obs)
        y = _read_observed(model, kept, y, request)
    method, options = _read_fit_options(model, request)
    simulation = Simulation(
        model=model,
        kind=request.kind,
        rows=rows,
        y=y,
        output=site,
        drawn=drawn,
        from_posterior=source == "posterior",
        in_sample=True if request.X is None else None,
        question=request.question,
        parameters=read_parameters(spec, request.parameters),
        truth=_read_truth(spec, request),
        permutation=permutation,
        method=method,
        options=options,
        key=key_to_text(key),
        threshold=_read_threshold(request),
        n_draws=_RANKED,
    )
    return simulation, call


def _check_refittable(model: ModelBase, method: str) -> None:
    """Raise if the model has no inference, or a posterior that another inference gave."""
    if isinstance(model._fit, PosteriorOnly):
        model._fit.require_inference(f"`{method}`")
    if model._posterior is not None and model._observed is None and "set_posterior_sample" in model._rows.missing:
        msg = (
            f"`{method}` fits the model to simulated data, but the posterior of this model was passed to "
            "`set_posterior_sample`: a refit would test another inference than the one it came from. Call `fit`, or "
            "rehearse a new model with the inference that you use."
        )
        raise NotFittedError(msg)


def _read_threshold(request: RehearsalRequest) -> float:
    """Return the value with which draws of effects are compared."""
    if request.threshold is not None:
        return request.threshold
    return 0.0 if request.question is None else request.question.null


def _read_output(spec: KernelSpec, output: str, request: RehearsalRequest) -> str:
    """Return the site that draws the output."""
    for name in (output, f"{output}_observed"):
        if name in spec and spec[name].is_sample:
            if request.kind != "placebo" and not spec[name].drawable:
                break
            return name
    role = f"a {spec[output].role} site" if output in spec else "a factor"
    role = role if output not in spec or not spec[output].is_sample else f"drawn from {spec[output].distribution}"
    msg = (
        f"`{request.method}` simulates the output, which must be a `sample` site with a sampler; `{output}` is {role}. "
        f"Write `numpyro.sample('{output}', ..., obs={output})` in the kernel."
    )
    raise KernelValidationError(msg)


def _read_drawn(spec: KernelSpec, output: str, optional: Iterable[str], rows: FitRows) -> dict[str, str]:
    """Return further arguments that are observed at sites, which are simulated together with the output."""
    found: dict[str, str] = {}
    for site in spec.sites:
        others = [name for name in site.data if name != output]
        if site.role is not Role.OBSERVED or not others:
            continue
        name = others[0]
        if len(others) > 1 or name not in optional or name not in rows.arguments:
            msg = (
                f"The kernel observes `{name}` at the site `{site.name}`, which must be simulated together with the "
                f"output; it can be if `{name}` is an argument with the default None, passed by name. Write "
                f"`def kernel(..., {name}=None, ...)`."
            )
            raise KernelValidationError(msg)
        found[name] = site.name
    return found


def _read_source(model: ModelBase, request: RehearsalRequest) -> str:
    """Return the distribution from which true values are drawn."""
    if request.source not in (None, "prior", "posterior"):
        msg = f"`source` must be 'prior' or 'posterior'; got {request.source!r}. Leave it out to choose."
        raise ValueError(msg)
    if request.kind == "placebo":
        return "data"
    if request.kind == "sbc":
        if request.source == "posterior":
            msg = (
                "Calibration (kind='sbc') draws true values from the prior, for which ranks are uniform; got "
                "source='posterior'. Use kind='recovery' for values from the posterior."
            )
            raise ValueError(msg)
        return "prior"
    fitted = model._posterior is not None
    if request.source == "posterior" and not fitted:
        model._fitted(request.method)
    return request.source or ("posterior" if fitted else "prior")


def _read_truth(spec: KernelSpec, request: RehearsalRequest) -> Mapping[str, Any]:
    """Return the values or distributions of latent sites that the user sets."""
    truth = dict(request.truth or {})
    if truth and request.kind != "recovery":
        msg = (
            f"`truth` sets true values in a recovery; got it with kind={request.kind!r}, in which the prior or the "
            "data determine them. Leave it out, or use kind='recovery'."
        )
        raise ValueError(msg)
    unknown = [name for name in truth if name not in spec.latent_sites]
    if unknown:
        msg = (
            f"`truth` must map latent sites to values or distributions; got {unknown[0]!r}. Choose from "
            f"{', '.join(spec.latent_sites) or 'none'}."
        )
        raise ValueError(msg)
    return truth


def _read_observed(model: ModelBase, rows: FittedRows, y: Any, request: RehearsalRequest) -> np.ndarray:
    """Return the observed output, which placebo runs fit."""
    if request.X is None and y is None and model._observed is not None and model._observed.output is not None:
        return np.asarray(model._observed.output)
    try:
        call = model._engine.read_call(rows.X, dict(rows.arguments), output=y)
    except TypeError as error:
        error.add_note("A placebo run fits the observed outcome: pass it as `y`.")
        raise
    return np.asarray(call.arrays[model.param_output])


def _read_fit_options(model: ModelBase, request: RehearsalRequest) -> tuple[str, dict[str, Any]]:
    """Return the method and the options of each refit, by default of the last fit."""
    if request.fit_options is None:
        kept = model._rows
        return kept.method, {name: value for name, value in kept.options.items() if value is not None}
    unknown = [name for name in request.fit_options if name not in _FIT_OPTIONS]
    if unknown:
        msg = (
            f"`fit_options` must have options of `fit` or `fit_on_batch`; got {unknown[0]!r}. Choose from "
            f"{', '.join(_FIT_OPTIONS)}."
        )
        raise ValueError(msg)
    return ("fit_on_batch" if "num_steps" in request.fit_options else "fit"), dict(request.fit_options)
