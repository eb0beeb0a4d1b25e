"""Validate a model, or inspect any function with NumPyro primitives, without computing anything."""

__all__ = ["inspect_fn", "validate_model"]

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax

from aimz.errors import KernelValidationError
from aimz.kernel import kernel_name, read_signature
from aimz.primitives.checks import Findings, check_model, describe_exception
from aimz.primitives.example_arguments import (
    BoundCall,
    Roles,
    bind,
    guess_roles,
    observed_argument,
    optional_parameters,
    roles_for_output,
)
from aimz.primitives.result import ValidationResult
from aimz.primitives.tracing import TracedModel, trace_model
from aimz.types import Kernel


def validate_model(model: Kernel, *args: Any, **kwargs: Any) -> ValidationResult:
    """Return the structure of a model and its problems.

    The model is traced with and without data, at its number of rows and at others. Nothing is computed, and exceptions
    of the model are reported instead of raised.

    Parameters
    ----------
    model : callable
        A NumPyro model. The parameters ``X`` and ``y`` are its input and output; without these names, the observed
        parameter is the output, and the first other array is the input.
    *args, **kwargs
        Arguments of the model. Only the shapes and types of arrays matter, so that ``jax.ShapeDtypeStruct`` can be
        passed instead. The output may be omitted.

    Returns
    -------
    ValidationResult
        Structure and findings, printed as a report. ``errors`` are problems that prevent the use of the model,
        ``warnings`` are behaviour that a user may not expect, and options that :class:`aimz.ImpactModel` needs.

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
    call = _bind(found, model, args, kwargs)
    if call is None:
        return ValidationResult(_name(model), {}, {}, [], found.warnings, found.errors)
    roles = guess_roles(call)
    called = trace_model(call, roles)
    if "y" not in call.parameters and (inferred := _roles_by_data(called)) != roles:
        called = trace_model(call, inferred)
    _check_signature(found, called)
    _add_exception(found, called)
    for text in called.recording.warned:
        found.warn(f"The model warns when it runs: {text}", "warned")
    if called.spec is None:
        for fault in called.faults:
            found.error(fault, "names")
    else:
        check_model(found, called, *_with_and_without_data(called))
    return _result(called, found)


def inspect_fn(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> ValidationResult:
    """Return the sites of any function, their dependencies, and the result of the function.

    Nothing is checked: the only possible error is an exception of the function.

    Parameters
    ----------
    fn : callable
        Function that calls primitives; it need not be a model.
    *args, **kwargs
        Arguments of the function; see :func:`validate_model`.

    Returns
    -------
    ValidationResult
        Sites and dependencies; if the function raised, the sites up to the exception.

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
    call = _bind(found, fn, args, kwargs)
    if call is None:
        return ValidationResult(_name(fn), {}, {}, [], [], found.errors, judged=False)
    traced = trace_model(call, guess_roles(call))
    _add_exception(found, traced)
    return replace(_result(traced, found), judged=False)


def _name(function: object) -> str:
    return kernel_name(function) if callable(function) else repr(function)


def _add_exception(found: Findings, traced: TracedModel) -> None:
    """Add the exception of a model as an error, if it raised."""
    if traced.raised is not None:
        raised = describe_exception(traced.raised, traced.call.function, "when it is called")
        found.error(raised, raised.kind)


def _bind(found: Findings, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BoundCall | None:
    """Return the call; if the arguments do not fit the function, add an error and return None."""
    if not callable(function):
        found.error(f"A model must be a function; got {type(function).__name__}.", "call")
        return None
    try:
        return bind(function, args, kwargs)
    except (TypeError, ValueError) as error:
        found.error(
            f"`{_name(function)}` cannot be called with these arguments: {str(error).rstrip('.')}. Pass its arguments "
            "after the function; arrays can be shapes, such as `jax.ShapeDtypeStruct((100, 3), 'float32')`.",
            "call",
        )
        return None


def _with_and_without_data(called: TracedModel) -> tuple[TracedModel, TracedModel | None]:
    """Return the model as called for prediction, and with data of its output if their shape is known."""
    output, call = called.roles.output, called.call
    if output is None:
        return called, called
    if call.values.get(output) is not None:
        empty = call.with_value(output, None)
        rows = called.roles.n_obs(empty)
        # If only the output has rows, there is no input to predict from.
        return (trace_model(empty, called.roles) if rows or not called.n_obs else called), called
    return called, _with_data(called, output)


def _with_data(called: TracedModel, output: str) -> TracedModel | None:
    """Return the model with data shaped like the site named ``output``, else like the last latent site, or None."""
    known = called.recording.sites
    latent = [name for name, site in known.items() if site.type == "sample" and not site.is_observed]
    for name in (output, *reversed(latent)):
        if name in known and isinstance(known[name].value, jax.ShapeDtypeStruct):
            return trace_model(called.call.with_value(output, known[name].value), roles_for_output(called.call, output))
    return None


def _roles_by_data(called: TracedModel) -> Roles:
    """Return the roles of a model without a parameter `y`, whose output is the parameter that is observed."""
    if called.spec is None:
        return called.roles
    call, absent = called.call, [n for n in optional_parameters(called.call) if called.call.values.get(n) is None]
    output = observed_argument(call, called.spec) or next((name for name in absent if name in called.spec), None)
    for name in absent if output is None else ():
        full = _with_data(called, name)
        if full is not None and full.spec is not None and observed_argument(full.call, full.spec) == name:
            output = name
            break
    return roles_for_output(call, output)


def _check_signature(found: Findings, called: TracedModel) -> None:
    """Report options that :class:`aimz.ImpactModel` needs, or a signature that it does not accept."""
    roles, function = called.roles, called.call.function
    missing = [what for what, name in (("input", roles.input), ("output", roles.output)) if name is None]
    if missing:
        found.warn(
            f"The model has no parameter for its {' and its '.join(missing)}, so `ImpactModel` cannot predict with it. "
            f"Write `def {_name(function)}({roles.input or 'X'}, {roles.output or 'y'}=None)` and observe the output.",
            "signature",
        )
        return
    assert roles.input is not None
    assert roles.output is not None
    try:
        read_signature(function, roles.input, roles.output)
    except KernelValidationError as error:
        found.warn(f"`ImpactModel` does not accept this signature. {error}", "signature")
        return
    options = [
        f"`{option}='{name}'`"
        for option, name, default in (("param_input", roles.input, "X"), ("param_output", roles.output, "y"))
        if name != default
    ]
    if options:
        found.warn(f"Pass {' and '.join(options)} to `ImpactModel`.", "signature")


def _result(traced: TracedModel, found: Findings) -> ValidationResult:
    sites = traced.sites
    return ValidationResult(
        name=_name(traced.call.function),
        sites=sites,
        dependencies={name: list(site.parents) for name, site in sites.items()},
        plate_stack=traced.plates,
        warnings=found.warnings,
        errors=found.errors,
        returned=traced.recording.returned,
        call=(traced.call.kernel, traced.call.arrays),
    )
