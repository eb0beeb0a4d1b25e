"""May the density of an observation be summed over its discrete latents?  Only over those that are its alone."""

__all__ = ["marginal_obstacle"]

from aimz.kernel.spec import KernelSpec, Role


def marginal_obstacle(spec: KernelSpec, name: str) -> str | None:
    """Return why the density of each observation cannot be summed over the discrete site ``name``, or None."""
    site = spec[name]
    outputs = {spec.param_output, f"{spec.param_output}_observed"}
    scored = next((s for s in spec.sites if s.name in outputs and s.data), None)
    if scored is None:
        return "the output has no data of its own"
    if site.n_values is None:
        return f"the values of {site.distribution} cannot be listed"
    if site.in_control_flow or scored.in_control_flow:
        return "it is inside a `scan` or `cond`"
    batch = scored.traced_shape[: len(scored.traced_shape) - scored.event_dim]
    if site.traced_shape != batch or {p for p, _ in site.plates} != {p for p, _ in scored.plates}:
        return f"its shape is {site.shape}, and there are observations of shape {scored.shape}"
    reached = {name}
    for other in spec.sites:
        if other.name == name or not other.parents & reached:
            continue
        if other.role is Role.DETERMINISTIC:
            reached.add(other.name)
        elif other.name not in outputs and not (other.role is Role.LATENT and other.is_discrete):
            return f"site `{other.name}` depends on it too"
    return None
