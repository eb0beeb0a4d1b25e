"""Look at a model, or at any function with primitives in it, before any data are touched."""

__all__ = ["inspect_fn", "validate_model"]

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax

from aimz.errors import KernelValidationError
from aimz.kernel import kernel_name, read_signature
from aimz.primitives.checks import Findings, judge
from aimz.primitives.example_arguments import Bound, bind
from aimz.primitives.raised import describe_raised
from aimz.primitives.result import ValidationResult
from aimz.primitives.roles import Roles, guess, left_out, observed_argument, with_output
from aimz.primitives.tracing import Traced, trace_model
from aimz.types import Kernel


def validate_model(model: Kernel, *args: Any, **kwargs: Any) -> ValidationResult:
    """Return the structure of a model, and what is wrong with it.

    The model is only traced: with data and without, at its number of rows and at others.  Nothing is computed, and
    nothing is raised, however bad the model.

    Parameters
    ----------
    model : callable
        A NumPyro model.  The parameters ``X`` and ``y`` are its input and its output; where it has no such, what is
        observed is the output, and the first other array is the input.
    *args, **kwargs
        What it is to be called with.  Of arrays only shape and type are looked at, and ``jax.ShapeDtypeStruct`` will
        do.  The output may be left out.

    Returns
    -------
    ValidationResult
        Printed, it is a report.  ``errors`` say what keeps the model from being used, ``warnings`` what it may do
        otherwise than one expects, and what :class:`aimz.ImpactModel` has to be told.

    Examples
    --------
    >>> import jax, numpyro, numpyro.distributions as dist
    >>> from aimz.primitives import validate_model
    >>> def model(X, y=None):
    ...     slope = numpyro.sample("slope", dist.Normal(0, 1))
    ...     with numpyro.plate("obs", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(slope * X, 1), obs=y)
    >>> X, column = jax.ShapeDtypeStruct((50,), "float32"), jax.ShapeDtypeStruct((50, 1), "float32")
    >>> validate_model(model, X)
    model: valid
    <BLANKLINE>
    site   role      shape     distribution  depends on
    slope  latent    ()        Normal        -
    y      observed  (n_obs,)  Normal        X, slope
    <BLANKLINE>
    Plates: obs, 50 (dim -1, the rows).
    >>> [error.kind for error in validate_model(model, X, column).errors]
    ['shapes']
    """
    found = Findings()
    bound = _bound(found, model, args, kwargs)
    if bound is None:
        return ValidationResult(_name(model), {}, {}, [], found.warnings, found.errors)
    roles = guess(bound)
    asked = trace_model(bound, roles)
    if "y" not in bound.parameters and (told := _told_by_data(asked)) != roles:
        asked = trace_model(bound, told)
    _judge_signature(found, asked)
    if asked.raised is not None:
        told_raised = describe_raised(asked.raised, model, "when it is called")
        found.error(told_raised, told_raised.kind)
    for warned in asked.recorded.warned:
        found.warn(f"When the model runs, it is warned: {warned}", "warned")
    if asked.spec is None:
        for fault in asked.faults:
            found.error(fault, "names")
    else:
        judge(found, asked, *_with_and_without(asked))
    return _result(asked, found)


def inspect_fn(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> ValidationResult:
    """Return the sites any function makes, what they depend on, and what it returns.

    Nothing is judged: what the function raises is the only error there can be.

    Parameters
    ----------
    fn : callable
        A function that calls primitives; it need not be a model.
    *args, **kwargs
        What it is to be called with; see :func:`validate_model`.

    Returns
    -------
    ValidationResult
        If the function raised, with the sites it had made until then.

    Examples
    --------
    >>> import jax, numpyro, numpyro.distributions as dist
    >>> from aimz.primitives import inspect_fn
    >>> def line(x):
    ...     return numpyro.deterministic("mu", numpyro.sample("slope", dist.Normal(0, 1)) * x)
    >>> found = inspect_fn(line, jax.ShapeDtypeStruct((7,), "float32"))
    >>> found.dependencies, found.returned.shape
    ({'slope': [], 'mu': ['x', 'slope']}, (7,))
    """
    found = Findings()
    bound = _bound(found, fn, args, kwargs)
    if bound is None:
        return ValidationResult(_name(fn), {}, {}, [], [], found.errors, judged=False)
    traced = trace_model(bound, guess(bound))
    if traced.raised is not None:
        told = describe_raised(traced.raised, fn, "when it is called")
        found.error(told, told.kind)
    return replace(_result(traced, found), judged=False)


def _name(function: object) -> str:
    return kernel_name(function) if callable(function) else repr(function)


def _bound(found: Findings, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Bound | None:
    """Return the call, or None if it cannot be made."""
    if not callable(function):
        found.error(f"A model is a function; got {type(function).__name__}.", "call")
        return None
    try:
        return bind(function, args, kwargs)
    except (TypeError, ValueError) as error:
        found.error(
            f"`{_name(function)}` cannot be called with these arguments: {str(error).rstrip('.')}. Pass what "
            "it takes after the function; of arrays a shape will do, as in "
            "`jax.ShapeDtypeStruct((100, 3), 'float32')`.",
            "call",
        )
        return None


def _with_and_without(asked: Traced) -> tuple[Traced, Traced | None]:
    """Return the model as it is called to predict, and with data of its output if they can be made up."""
    output, bound = asked.roles.output, asked.bound
    if output is None:
        return asked, asked
    if bound.values.get(output) is not None:
        empty = bound.sites_from(output, None)
        rows = asked.roles.n_obs(empty)
        # Where the output is all that has rows, there is nothing to predict it from.
        return (trace_model(empty, asked.roles) if rows or not asked.n_obs else asked), asked
    return asked, _with_data(asked, output)


def _with_data(asked: Traced, output: str) -> Traced | None:
    """Return the model with data shaped like the site of that name, or like what is made last; None without either."""
    known = asked.recorded.sites
    latent = [name for name, site in known.items() if site.type == "sample" and not site.is_observed]
    for name in (output, *reversed(latent)):
        if name in known and isinstance(known[name].value, jax.ShapeDtypeStruct):
            return trace_model(asked.bound.sites_from(output, known[name].value), with_output(asked.bound, output))
    return None


def _told_by_data(asked: Traced) -> Roles:
    """Return which argument is the output where none is called `y`: the one that is observed, or would be."""
    if asked.spec is None:
        return asked.roles
    bound, absent = asked.bound, [name for name in left_out(asked.bound) if asked.bound.values.get(name) is None]
    output = observed_argument(bound, asked.spec) or next((name for name in absent if name in asked.spec), None)
    for name in absent if output is None else ():
        full = _with_data(asked, name)
        if full is not None and full.spec is not None and observed_argument(full.bound, full.spec) == name:
            output = name
            break
    return with_output(bound, output)


def _judge_signature(found: Findings, asked: Traced) -> None:
    """Say what :class:`aimz.ImpactModel` has to be told, or cannot take."""
    roles, function = asked.roles, asked.bound.function
    missing = [what for what, name in (("input", roles.input), ("output", roles.output)) if name is None]
    if missing:
        found.warn(
            f"The model has no parameter for its {' and its '.join(missing)}, so `ImpactModel` cannot predict with it. "
            f"Write `def {_name(function)}({roles.input or 'X'}, {roles.output or 'y'}=None)`, where the output is "
            "observed.",
            "signature",
        )
        return
    assert roles.input is not None
    assert roles.output is not None
    try:
        read_signature(function, roles.input, roles.output)
    except KernelValidationError as error:
        found.warn(f"`ImpactModel` cannot take this signature. {error}", "signature")
        return
    options = [
        f"`{option}='{name}'`"
        for option, name, default in (("param_input", roles.input, "X"), ("param_output", roles.output, "y"))
        if name != default
    ]
    if options:
        found.warn(f"To make an `ImpactModel` of it, pass {' and '.join(options)}.", "signature")


def _result(traced: Traced, found: Findings) -> ValidationResult:
    sites = traced.sites
    return ValidationResult(
        name=_name(traced.bound.function),
        sites=sites,
        dependencies={name: list(site.parents) for name, site in sites.items()},
        plate_stack=traced.plates,
        warnings=found.warnings,
        errors=found.errors,
        returned=traced.recorded.returned,
        call=(traced.bound.kernel, traced.bound.arrays),
    )
