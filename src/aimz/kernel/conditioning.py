"""Resolve ``condition={site: values}``: sites that take values without an intervention."""

__all__ = ["check_conditioned", "read_condition"]

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np

from aimz.kernel.intervention import fit_to_shape
from aimz.kernel.signature import KernelSignature
from aimz.kernel.spec import KernelSpec, Site
from aimz.kernel.substitution import Substitution, ValueSource


def read_condition(
    condition: Mapping[str, Any] | None,
    *,
    signature: KernelSignature,
    spec: KernelSpec,
    posterior: Collection[str],
    intervened: Collection[str],
) -> tuple[dict[str, Any], dict[str, tuple[int, Any]]]:
    """Return the values of the conditioned sites, in the shape of each site, and values of their first steps.

    A value that is shorter than its site along one axis has the first steps of the site; the axis is returned with it.

    Raises
    ------
    TypeError
        If ``condition`` is not a mapping, or a value is callable.
    ValueError
        If a name is not a ``sample`` site, the site has posterior draws or is in the intervention, or a value does not
        fit.
    """
    if condition is None:
        return {}, {}
    if not isinstance(condition, Mapping) or any(callable(value) for value in condition.values()):
        got = "a callable" if isinstance(condition, Mapping) else type(condition).__name__
        msg = f"`condition` must map names of sites to values; got {got}. Write `condition={{'site': values}}`."
        raise TypeError(msg)
    values: dict[str, Any] = {}
    first: dict[str, tuple[int, Any]] = {}
    for name, value in condition.items():
        site = spec.get(name)
        if site is None or not site.is_sample:
            what = "is an argument: pass it as one" if name in signature.extra else "is not a `sample` site"
            sites = ", ".join(spec.sample_sites) or "none"
            msg = f"Cannot condition on {name!r}, which {what}. Sample sites: {sites}."
            raise ValueError(msg)
        if name in intervened:
            msg = f"Site `{name}` is both in `condition` and in `intervention`. Leave it out of one of them."
            raise ValueError(msg)
        if name in posterior:
            msg = (
                f"Cannot condition on `{name}`, which has posterior draws: they already depend on the data of the fit. "
                f"Set it with `intervention={{'{name}': ...}}`, or fit the model to the data that determine it."
            )
            raise ValueError(msg)
        array = value if isinstance(value, jax.Array) else np.asarray(value)
        axis = _first_steps(site, array.shape)
        if axis is None:
            values[name] = fit_to_shape(array, site.traced_shape, site.dtype, f"site `{name}`", "A condition on")
        else:
            shape = tuple(array.shape[i] if i == axis else size for i, size in enumerate(site.traced_shape))
            first[name] = axis, fit_to_shape(array, shape, site.dtype, f"site `{name}`", "A condition on")
    return values, first


def _first_steps(site: Site, shape: tuple[int, ...]) -> int | None:
    """Return the axis along which a value has the first entries of a site only, or None if it has all of them.

    Raises
    ------
    ValueError
        If the value has more entries than the site.
    """
    if len(shape) != len(site.traced_shape):
        return None
    pairs = list(zip(shape, site.traced_shape, strict=True))
    other = [axis for axis, (here, there) in enumerate(pairs) if here != there]
    if len(other) != 1:
        return None
    (axis,) = other
    here, there = pairs[axis]
    if here > there:
        msg = (
            f"A condition on site `{site.name}` has {here} entries along axis {axis}, and the site has {there}. Pass "
            f"an input with at least {here} of them, or at most {there} values."
        )
        raise ValueError(msg)
    return axis


def check_conditioned(spec: KernelSpec, substitution: Substitution, names: Collection[str]) -> None:
    """Check that no conditioned site has an ancestor that is drawn without regard to the condition.

    Raises
    ------
    ValueError
        If a latent that a conditioned site depends on is drawn in this call.
    """
    kept = substitution.by_source[ValueSource.CONTINUED]
    for name in names:
        drawn = (n for n in spec.latent_sites if n in substitution.drawn and n not in kept)
        above = [latent for latent in drawn if name in spec.descendants([latent])]
        if above:
            msg = (
                f"Cannot condition on `{name}`: it depends on `{above[0]}`, which would be drawn without regard to the "
                f"values of `{name}`, and `condition` does no inference. Fit the model to these values, or condition "
                f"on `{above[0]}` as well."
            )
            raise ValueError(msg)
