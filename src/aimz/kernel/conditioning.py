"""Resolve ``condition={site: values}``: sites that take values without an intervention."""

__all__ = ["check_conditioned", "read_condition"]

from collections.abc import Collection, Mapping
from typing import Any

from aimz.kernel.intervention import fit_to_shape
from aimz.kernel.signature import KernelSignature
from aimz.kernel.spec import KernelSpec, Role
from aimz.kernel.substitution import DRAWN, Substitution


def read_condition(
    condition: Mapping[str, Any] | None,
    *,
    signature: KernelSignature,
    spec: KernelSpec,
    posterior: Collection[str],
    intervened: Collection[str],
) -> dict[str, Any]:
    """Return the values of the conditioned sites, in the shape of each site.

    Raises
    ------
    TypeError
        If ``condition`` is not a mapping, or a value is callable.
    ValueError
        If a name is not a ``sample`` site, the site has posterior draws or is in the intervention, or a value does not
        fit.
    """
    if condition is None:
        return {}
    if not isinstance(condition, Mapping) or any(callable(value) for value in condition.values()):
        got = "a callable" if isinstance(condition, Mapping) else type(condition).__name__
        msg = f"`condition` must map names of sites to values; got {got}. Write `condition={{'site': values}}`."
        raise TypeError(msg)
    values = {}
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
        if site.in_control_flow:
            msg = (
                f"Cannot condition on `{name}`, which is inside a `scan` or `cond`. Pass its values as an argument of "
                "the kernel, and observe them there."
            )
            raise ValueError(msg)
        values[name] = fit_to_shape(value, site.traced_shape, site.dtype, f"site `{name}`", "A condition on")
    return values


def check_conditioned(spec: KernelSpec, substitution: Substitution, names: Collection[str]) -> None:
    """Check that no conditioned site has an ancestor that is drawn without regard to the condition.

    Raises
    ------
    ValueError
        If a latent that a conditioned site depends on is drawn in this call.
    """
    drawn = [name for name in substitution.sites_from(*DRAWN) if spec[name].role is Role.LATENT]
    for name in names:
        above = [latent for latent in drawn if name in spec.descendants([latent])]
        if above:
            msg = (
                f"Cannot condition on `{name}`: it depends on `{above[0]}`, which would be drawn without regard to the "
                f"values of `{name}`, and `condition` does no inference. Fit the model to these values, or condition "
                f"on `{above[0]}` as well."
            )
            raise ValueError(msg)
