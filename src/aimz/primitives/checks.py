"""Checks of a traced model; each adds findings with the place of a problem and the change that removes it."""

__all__ = ["Findings", "check_model", "describe_exception"]

import inspect
import linecache
import sysconfig
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro

import aimz.types
from aimz.kernel import KernelSpec, Role, Site, format_shape
from aimz.primitives.recording import record
from aimz.primitives.result import Finding, SiteInfo
from aimz.primitives.rows import density_obstacle, predictive_obstacle
from aimz.primitives.tracing import DATA_PREFIX, TracedModel, spec_with_renamed_data


@dataclass
class Findings:
    """Warnings and errors, at most one for each kind and site."""

    warnings: list[Finding] = field(default_factory=list)
    errors: list[Finding] = field(default_factory=list)

    def error(self, text: str, kind: str, site: str | None = None) -> None:
        """Add a problem that prevents the use of the model."""
        self._add(self.errors, Finding(text, kind, site))

    def warn(self, text: str, kind: str, site: str | None = None) -> None:
        """Add behaviour that a user might not expect."""
        self._add(self.warnings, Finding(text, kind, site))

    def explains(self, site: str) -> bool:
        """Return whether there is a finding for a site, so that a missing plate need not be reported."""
        return any(f.site == site for f in (*self.warnings, *self.errors))

    def _add(self, found: list[Finding], new: Finding) -> None:
        if not any(new.kind == old.kind and new.site == old.site and (new.site or new == old) for old in found):
            found.append(new)


def check_model(found: Findings, called: TracedModel, empty: TracedModel, full: TracedModel | None) -> None:
    """Check a model that was traced as ``called`` by the user, with data (``full``) and without (``empty``)."""
    for fault in dict.fromkeys((*called.faults, *empty.faults, *(full.faults if full else ()))):
        found.error(fault, "names")
    output = called.roles.output
    for traced, when in (
        (empty, f"without `{output}`, as it is called to predict"),
        (full, f"with data of `{output}`"),
    ):
        if traced is not None and traced.raised is not None and traced is not called:
            raised = describe_exception(traced.raised, called.call.function, when)
            found.error(raised, raised.kind)
    if full is not None and full.spec is not None:
        _check_output(found, full, full.spec)
        _check_data(found, full, full.spec)
        _check_leaks(found, full)
    if empty.spec is not None:
        _check_prediction(found, empty, empty.spec)
    best = next((t for t in (full, empty, called) if t is not None and t.spec is not None), None)
    if best is None or best.spec is None:
        return
    _check_latents(found, best, best.spec)
    _check_plates(found, called)
    _check_lengths(found, called)
    if best.spec.fixed_size and best.n_obs:
        _check_fixed(found, best)
    elif best.n_obs and not found.errors:
        _check_rows(found, empty, full)
    for traced in (empty, full):
        if traced is not None and traced.spec is not None:
            _check_row_axes(found, traced.spec)


def _check_output(found: Findings, traced: TracedModel, spec: KernelSpec) -> None:
    """Check that the data of the output are used, and observed under its name."""
    output = traced.roles.output
    if output is None:
        return
    observed = [site.name for site in spec.sites if site.role is not Role.FACTOR and traced.has_output(site.data)]
    factors = [site.name for site in spec.sites if site.role is Role.FACTOR and traced.has_output(site.parents)]
    if not observed and not factors:
        found.error(
            f"The data of `{output}` have no effect, so there is nothing to fit. Write "
            f"`numpyro.sample('{output}', ..., obs={output})`.",
            "unobserved",
            output,
        )
    elif observed and not {output, f"{output}_observed"} & set(observed):
        found.warn(
            f"The data of `{output}` are observed at site `{observed[0]}`, but `ImpactModel` needs the same name for "
            f"both. Name that site `{output}`, or name the parameter `{observed[0]}` and pass "
            f"`param_output='{observed[0]}'`.",
            "observed elsewhere",
            observed[0],
        )


def _check_leaks(found: Findings, traced: TracedModel) -> None:
    """Check that no distribution depends on the data of the output, since these are missing in prediction.

    Factors may use data, and mutable state takes statistics of a batch on purpose. Dependencies inside a `scan` are not
    known.
    """
    output = traced.roles.output
    spec = None if output is None else spec_with_renamed_data(traced)
    if output is None or spec is None or spec.names(Role.MUTABLE):
        return
    observed = {site.name for site in spec.sites if any(name.startswith(DATA_PREFIX) for name in site.data)}
    through: dict[str, str] = {}
    for site in spec.sites:
        # A value computed from an observed site depends on its data by design.
        if site.in_control_flow or site.parents & observed:
            continue
        direct = any(name.startswith(DATA_PREFIX) for name in site.parents)
        way = next((name for name in through if name in site.parents), "")
        if site.role is Role.DETERMINISTIC and (direct or way):
            through[site.name] = way
        elif site.is_sample and (direct or way):
            found.warn(
                f"The distribution of site `{site.name}` depends on the data of `{output}`"
                f"{f', through `{way}`' if way else ''}: the fitted model differs from the one that predicts, which is "
                f"called without these data. Use `{output}` only in `obs=`. To use values of other rows, such as "
                "earlier ones in a time series, pass them as a separate argument, so that predictions have them too.",
                "data in the model",
                site.name,
            )


def _check_data(found: Findings, traced: TracedModel, spec: KernelSpec) -> None:
    """Check that data and distribution have equal shapes, since NumPyro broadcasts them."""
    for info in traced.recording.sites.values():
        if info.type != "sample" or not info.is_observed or info.in_control_flow or info.fn_shape is None:
            continue
        if not isinstance(info.value, jax.ShapeDtypeStruct):
            continue  # data of a user-defined distribution, which may be anything
        data, expected = tuple(info.value.shape), info.fn_shape
        try:
            both = np.broadcast_shapes(data, expected)
        except ValueError:
            continue  # NumPyro accepted the shapes, so an event has another shape than its data
        if prod(both) > prod(data):
            found.error(
                f"Site `{info.name}` has data of shape {data} and a distribution of shape {expected}: they broadcast "
                f"to {both}, so that each value counts {prod(both) // max(1, prod(data))} times. Give both the same "
                f"shape{_advice(data, expected)}.",
                "shapes",
                info.name,
            )
        elif prod(expected) < prod(data):
            _report_missing_rows(found, traced, spec, info, expected)


def _advice(data: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """Return how to make two shapes equal, for the common mistakes."""
    if data[-1:] == (1,) and data[:-1] == expected[-1:]:
        return ", by dropping the last axis of the data (`y[:, 0]`)"
    if len(data) == 1 and expected[:1] == data:
        return ", by dropping the last axis of its parameters (`mu[:, 0]`)"
    return ""


def _report_missing_rows(
    found: Findings, traced: TracedModel, spec: KernelSpec, info: SiteInfo, expected: tuple[int, ...]
) -> None:
    """Report a distribution that is smaller than its data."""
    output = traced.roles.output
    rows = "X.shape[0]" if traced.roles.input is None else f"{traced.roles.input}.shape[0]"
    text = (
        f"Site `{info.name}` has data of shape {tuple(info.value.shape)} and a distribution of shape {expected}: it "
        "can be fitted, but a prediction has the shape of the distribution, not one value for each observation. Put "
        f"the site in `with numpyro.plate('obs', {rows}):`."
    )
    site = spec.get(info.name)
    if info.name in (output, f"{output}_observed") or site is None or not site.row_axes:
        found.error(text, "no rows", info.name)
    else:
        found.warn(text, "no rows", info.name)


def _check_prediction(found: Findings, traced: TracedModel, spec: KernelSpec) -> None:
    """Check that the predicted output has one row axis."""
    output = traced.roles.output
    site = spec.get(output) if output is not None else None
    if site is None or not traced.n_obs or spec.fixed_size or site.in_control_flow:
        return
    rows = "X.shape[0]" if traced.roles.input is None else f"{traced.roles.input}.shape[0]"
    if not site.row_axes:
        found.error(
            f"Site `{site.name}` has shape {format_shape(site.shape)} when it is predicted, not one value for each "
            f"of the {traced.n_obs} observations. Put the site in `with numpyro.plate('obs', {rows}):`.",
            "no rows",
            site.name,
        )
    elif len(site.row_axes) > 1:
        found.error(
            f"Site `{site.name}` has shape {format_shape(site.shape)} when it is predicted: rows were broadcast "
            "against rows. Give its parameters one shape, such as (n_obs,), with no axis of length 1 after the rows.",
            "shapes",
            site.name,
        )


def _check_latents(found: Findings, traced: TracedModel, spec: KernelSpec) -> None:
    """Report latent sites that are discrete, or whose distribution has no sampler."""
    for info in traced.recording.sites.values():
        site = spec.get(info.name)
        if site is None or site.role is not Role.LATENT:
            continue
        if info.is_discrete and info.can_enumerate:
            found.warn(
                f"Latent site `{info.name}` ({info.distribution}) is discrete, and SVI and NUTS need gradients. They "
                "can sum over the site if `funsor` is installed (`pip install funsor`): NUTS automatically, "
                "SVI with `TraceEnum_ELBO` and `infer={'enumerate': 'parallel'}` at the site. Or write the sum as a "
                "mixture.",
                "discrete latent",
                info.name,
            )
        elif info.is_discrete:
            found.warn(
                f"Latent site `{info.name}` ({info.distribution}) is discrete and has no finite support, so neither "
                "SVI nor NUTS can infer it, and it cannot be summed over. Use a continuous distribution, or one with "
                "finite support.",
                "discrete latent",
                info.name,
            )
        if not site.drawable:
            found.warn(
                f"Latent site `{info.name}` ({site.distribution}) is improper and cannot be drawn: it can be fitted, "
                "but there is no prior predictive, and an intervention on one of its ancestors raises an error. Give "
                "it a proper distribution, such as a wide Normal.",
                "improper",
                info.name,
            )


def _check_row_axes(found: Findings, spec: KernelSpec) -> None:
    """Report sites with an unexpected row axis."""
    for site in spec.sites:
        if site.role is Role.PARAM and site.row_axes:
            found.warn(
                f"Parameter `{site.name}` has a value for each row, so it is valid for the fitted rows only. Make it a "
                "`sample` site, which is resampled for other rows, or a function of the input.",
                "parameter by row",
                site.name,
            )
        if site.is_sample and len(site.row_axes) == 1 and not site.in_control_flow:
            _check_plate_around(found, site, site.row_axes[0])


def _check_plate_around(found: Findings, site: Site, axis: int) -> None:
    """Check that the row axis of a site has a plate."""
    n_axes = len(site.shape)
    if axis >= n_axes - site.core_event_dim:
        return  # a joint distribution, which `_check_rows` reports
    if axis >= n_axes - site.event_dim:
        found.warn(
            f"The rows of site `{site.name}` are declared as one event (`to_event`), so `log_likelihood` returns one "
            "density for all of them, and `loo` raises an error. Put the site in a plate along the rows instead.",
            "one event",
            site.name,
        )
    elif all(plate_axis != axis for _, plate_axis in site.plates) and not found.explains(site.name):
        what = "latent site" if site.role is Role.LATENT else "site"
        found.warn(
            f"The {what} `{site.name}` has a value for each row but is inside no plate. By its shape its rows count as "
            "independent given the other sites; NumPyro's own subsampling and enumeration need plates. Write "
            "`with numpyro.plate('obs', n_obs):` around it.",
            "no plate",
            site.name,
        )


def _check_plates(found: Findings, traced: TracedModel) -> None:
    """Report plates with a subsample."""
    for plate in traced.recording.plates:
        if plate.subsample_size < plate.size:
            found.warn(
                f"Plate `{plate.name}` takes a random subsample of {plate.subsample_size} of {plate.size} in each step "
                "of a fit. A prediction takes all of them, in order. To fit in minibatches, omit `subsample_size` and "
                "call `fit`, which scales automatically.",
                "subsampled",
                plate.name,
            )


def _check_lengths(found: Findings, traced: TracedModel) -> None:
    """Report arrays that cannot be divided along the rows."""
    inside = [name for name in traced.call.arrays if name not in traced.call.parameters]
    if inside:
        found.warn(
            f"`ImpactModel` cannot divide arrays inside other arguments ({', '.join(f'`{name}`' for name in inside)}) "
            "along their rows. Make each array a separate parameter.",
            "inside arguments",
        )
    for name, array in traced.call.arrays.items():
        if traced.n_obs and array.shape and array.shape[0] != traced.n_obs:
            found.warn(
                f"Argument `{name}` has {array.shape[0]} rows, but the model has {traced.n_obs}. `ImpactModel` takes "
                "only arrays along the rows; let the model close over a table of another length.",
                "lengths",
                name,
            )


def _check_fixed(found: Findings, traced: TracedModel) -> None:
    """Report a model that accepts one number of rows only, with the exception at another number."""
    n_obs = traced.n_obs
    grown = {
        name: jax.ShapeDtypeStruct((n_obs + 1, *a.shape[1:]), a.dtype) if a.shape[:1] == (n_obs,) else a
        for name, a in traced.arrays.items()
    }
    raised = record(traced.kernel, grown, n_obs + 1).raised
    why = "" if raised is None else f" ({describe_exception(raised, traced.call.function, f'for {n_obs + 1} rows')})"
    found.warn(
        f"The model accepts {n_obs} rows and no other number: it may close over an array of that length, or have a "
        f"plate with that size as a literal{why.rstrip('.')}. It can be fitted to these rows and predicted for them. "
        "Pass such arrays as arguments, and take sizes from the input (`X.shape[0]`).",
        "fixed size",
    )


def _check_rows(found: Findings, empty: TracedModel, full: TracedModel | None) -> None:
    """Report interaction between rows in prediction and in minibatches."""
    predictive = predictive_obstacle(empty, empty.spec) if empty.spec is not None else None
    density = density_obstacle(full, full.spec) if full is not None and full.spec is not None else None
    if predictive is not None:
        found.warn(
            f"The rows of the model interact ({predictive}), so `predict` computes all of them together, some draws at "
            "a time. If they need not, write the model so that each row is independent of the others.",
            "rows",
        )
    if density is not None:
        found.warn(
            f"The model cannot be fitted in minibatches ({density}): a batch would not represent its part of the data. "
            "Fit all rows with `fit_on_batch`, or write the model so that each row is independent of the others.",
            "minibatches",
        )


_VALUES = (
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
)
_LIBRARIES = (
    *(str(Path(module.__file__ or "").parent) for module in (jax, numpyro, aimz.types)),
    sysconfig.get_paths()["stdlib"],
)
_MAX_CHARACTERS = 300


def describe_exception(error: Exception, function: Callable[..., Any], when: str) -> Finding:
    """Return a finding for an exception of the model, with the line that raised it; ``when`` describes the call."""
    where = _raising_line(error, function)
    if isinstance(error, _VALUES):
        return Finding(
            f"The model depends on the value of an array or a site, not on shapes and types alone{where}, so it cannot "
            "be compiled. Compute sizes beforehand and pass them as plain Python numbers; write `jnp.where` or "
            "`numpyro.contrib.control_flow.cond` for a branch, and index arrays with arrays of jax.numpy.",
            "values",
        )
    message = textwrap.shorten(str(error), _MAX_CHARACTERS, placeholder=" ...").rstrip(".") or "without a message"
    return Finding(f"The model raises {type(error).__name__} {when}{where}: {message}.", "raises")


def _raising_line(error: Exception, function: Callable[..., Any]) -> str:
    """Return the line of the model, or of a function that it calls, that raised, as part of a sentence."""
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(inspect.unwrap(function), "__code__", None)
    own = [frame for frame in frames if code is not None and frame.filename == code.co_filename]
    others = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    if not own and not others:
        return ""
    frame = (own or others)[-1]
    text = linecache.getline(frame.filename, frame.lineno or 0).strip()
    quoted = f", `{text}`" if text else ""
    return f" (line {frame.lineno} of {Path(frame.filename).name}{quoted})"
