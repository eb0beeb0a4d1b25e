"""The parameters of a kernel, and the check of the keyword arguments of a call."""

__all__ = ["KernelSignature", "count_parameters", "kernel_name", "plural_names", "quote_list", "read_signature"]

import inspect
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numpyro.primitives import Messenger

from aimz.errors import KernelValidationError
from aimz.types import Kernel


def kernel_name(kernel: Kernel) -> str:
    """Return the name of ``kernel`` in messages."""
    kernel = _unwrapped(kernel)
    return getattr(kernel, "__name__", None) or type(kernel).__name__


def _unwrapped(kernel: Kernel) -> Kernel:
    """Return the function inside NumPyro handlers, which hide its signature when used as decorators."""
    while isinstance(kernel, Messenger) and kernel.fn is not None:
        kernel = kernel.fn
    return kernel


@dataclass(frozen=True)
class KernelSignature:
    """The parameters of a kernel by role."""

    kernel: str
    """Name of the kernel, for messages."""
    param_input: str
    param_output: str
    required: tuple[str, ...]
    """Names of further parameters without a default."""
    optional: tuple[str, ...]
    """Names of further parameters with a default."""
    options: frozenset[str] = frozenset()
    """Names of parameters of the model's methods, which are not passed to the kernel as keyword arguments."""

    @cached_property
    def extra(self) -> tuple[str, ...]:
        """Names of all parameters except the input and the output."""
        return self.required + self.optional

    def merge(self, kwargs: Mapping[str, Any], args: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return arguments of the kernel that were passed as keywords and in ``args``.

        Raises
        ------
        TypeError
            If ``args`` is no mapping, or an argument is in both.
        """
        if args is None:
            return dict(kwargs)
        if not isinstance(args, Mapping):
            how = "{'args': ...}" if "args" in self.extra else "{'store': store}"
            msg = (
                f"`args` must map names of kernel parameters to values; got {type(args).__name__}. Pass a mapping, "
                f"`args={how}`."
            )
            raise TypeError(msg)
        twice = sorted(kwargs.keys() & args.keys())
        if twice:
            msg = f"`{twice[0]}` must be given once; got it as a keyword argument and in `args`. Leave one out."
            raise TypeError(msg)
        return {**kwargs, **args}

    def check_names(self, kwargs: Mapping[str, object]) -> None:
        """Raise if the kernel has no further parameters of these names."""
        for name in (self.param_input, self.param_output):
            if name in kwargs:
                msg = (
                    f"`{name}` is a reserved kernel parameter and cannot be passed as a keyword argument; "
                    f"got {sorted(kwargs)}. Pass the input, and to methods that fit or score also the output, as the "
                    "first arguments of the method."
                )
                raise TypeError(msg)
        unknown = sorted(set(kwargs) - set(self.extra))
        if unknown:
            msg = (
                f"Unknown kernel argument(s) {quote_list(unknown)}; kernel `{self.kernel}` takes "
                f"{quote_list(self.extra) or 'no further argument'} in addition to `{self.param_input}` and "
                f"`{self.param_output}`. To set a column or a site, pass `intervention={{{unknown[0]!r}: ...}}`."
            )
            raise TypeError(msg)

    def check_call(self, kwargs: Mapping[str, object]) -> None:
        """Raise if the kernel cannot take the keyword arguments of a call."""
        self.check_names(kwargs)
        counts = {count: name for name in self.extra for count in count_parameters(name, self.extra)}
        missing = [name for name in self.required if name not in kwargs]
        # The number of categories is found with the categories.
        missing = [name for name in missing if counts.get(name) not in missing]
        if missing:
            how = "Pass them as keyword arguments."
            counted = [name for name in missing if name in counts]
            if counted:
                how = (
                    f"`{counted[0]}` is the number of categories of `{counts[counted[0]]}` if that is text or "
                    "categorical; pass it with codes."
                )
            hidden = [name for name in missing if name in self.options]
            if hidden:
                how = (
                    f"As a keyword, `{hidden[0]}` is an option of the method, so pass it as a column of a data frame, "
                    f"or in `args={{{hidden[0]!r}: ...}}`."
                )
            msg = (
                f"Missing kernel argument(s) {quote_list(missing)}; kernel `{self.kernel}` has no default for them. "
                f"{how}"
            )
            raise TypeError(msg)

    def check_unambiguous(
        self, given: Mapping[str, object], args: Container[str], method: str = "compare_scenarios"
    ) -> None:
        """Raise if an option that is given is also a kernel parameter that is not in ``args``: the call is ambiguous.

        Raises
        ------
        TypeError
            If an option that is not None has the name of a kernel parameter.
        """
        for name, value in given.items():
            if value is not None and name in self.extra and name not in args:
                msg = (
                    f"`{name}` could be the option of `{method}` or the argument of kernel `{self.kernel}`. "
                    f"Pass the kernel's argument in `args={{{name!r}: ...}}`; the keyword is then the option."
                )
                raise TypeError(msg)


def count_parameters(name: str, parameters: Container[str]) -> list[str]:
    """Return the kernel's parameters with the number of categories of ``name``: ``num_shop``, ``n_shops`` and so on."""
    names = (f"{prefix}_{form}" for form in (name, *plural_names(name)) for prefix in ("num", "n"))
    return [candidate for candidate in names if candidate in parameters]


def plural_names(name: str) -> list[str]:
    """Return the plurals of a name."""
    return [f"{name}s", f"{name}es", *([f"{name[:-1]}ies"] if name.endswith("y") else [])]


def quote_list(names: Iterable[str]) -> str:
    """Return names in backticks, separated by commas."""
    return ", ".join(f"`{name}`" for name in names)


def read_signature(
    kernel: Kernel,
    param_input: str,
    param_output: str,
    reserved: Container[str] = (),
    options: frozenset[str] = frozenset(),
) -> KernelSignature:
    """Return the parameters of ``kernel``, after checking that it can be called as ``kernel(X, y, **extra)``.

    ``reserved`` are names of parameters of NumPyro's functions that call the kernel, and ``options`` names of
    parameters of the model's methods.

    Raises
    ------
    TypeError
        If ``kernel`` is not callable.
    KernelValidationError
        If the signature does not fit.
    """
    if not callable(kernel):
        msg = f"`kernel` must be a NumPyro model, that is, a callable; got {type(kernel).__name__}."
        raise TypeError(msg)
    if param_input == param_output:
        msg = f"`param_input` and `param_output` must differ; got {param_input!r} for both."
        raise ValueError(msg)
    parameters = inspect.signature(_unwrapped(kernel)).parameters
    if param_input not in parameters or param_output not in parameters:
        msg = (
            f"Kernel must accept '{param_input}' and '{param_output}' as argument(s). Modify the kernel "
            "signature or set `param_input` and `param_output` accordingly."
        )
        raise KernelValidationError(msg)
    for parameter in parameters.values():
        _check_kind(parameter)
    if parameters[param_input].default is not inspect.Parameter.empty:
        msg = (
            f"Kernel parameter `{param_input}` must have no default; got "
            f"{parameters[param_input].default!r}. The input is always passed."
        )
        raise KernelValidationError(msg)
    if parameters[param_output].default is not None:
        msg = (
            f"Kernel parameter `{param_output}` must have the default None, so that the kernel can be run "
            f"to predict it. Write `{param_output}=None` in the signature of `{kernel_name(kernel)}`."
        )
        raise KernelValidationError(msg)
    extra = [p for name, p in parameters.items() if name not in (param_input, param_output)]
    unreachable = [p.name for p in extra if p.name in reserved]
    if unreachable:
        msg = (
            f"Kernel parameter(s) {quote_list(unreachable)} could never be reached: functions of NumPyro that call the "
            "kernel have parameters of that name. Rename them in the kernel."
        )
        raise KernelValidationError(msg)
    return KernelSignature(
        kernel=kernel_name(kernel),
        param_input=param_input,
        param_output=param_output,
        required=tuple(p.name for p in extra if p.default is inspect.Parameter.empty),
        optional=tuple(p.name for p in extra if p.default is not inspect.Parameter.empty),
        options=options,
    )


def _check_kind(parameter: inspect.Parameter) -> None:
    """Raise if a parameter cannot be passed, or checked, by name."""
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        msg = (
            f"Kernel must not take `{parameter}`: its arguments could not be checked by name. Write each "
            "argument out in the signature."
        )
        raise KernelValidationError(msg)
    if parameter.kind is parameter.POSITIONAL_ONLY:
        msg = (
            f"Kernel parameter `{parameter.name}` must not be positional-only: arguments are passed by name. "
            "Remove the `/` from the signature."
        )
        raise KernelValidationError(msg)
