"""Questions about paths in the graph of a kernel: mediators, and what confounds them."""

__all__ = ["check_mediators", "induced_confounders"]

from collections.abc import Collection

from aimz.kernel.signature import quote_list
from aimz.kernel.spec import KernelSpec


def check_mediators(spec: KernelSpec, treatment: Collection[str], through: Collection[str], outcome: str) -> None:
    """Check that mediators are sites on a path from the treatment to the outcome.

    ``treatment`` are names of sites and arguments.

    Raises
    ------
    ValueError
        If a mediator is not on a path, or is an argument.
    """
    after = spec.descendants(treatment)
    sites = ", ".join(spec.sample_sites + spec.deterministic_sites)
    if outcome not in after:
        msg = (
            f"`{outcome}` does not depend on {quote_list(treatment)} in this kernel, so there is no effect to "
            "decompose. Name a treatment that the outcome depends on."
        )
        raise ValueError(msg)
    for name in through:
        site = spec.get(name)
        if site is None or not (site.is_sample or name in spec.deterministic_sites):
            known = any(name in one.parents for one in spec.sites)
            what = (
                "is an argument of the kernel, and has no distribution given the treatment. Make it a site, "
                f"`{name} = numpyro.sample({name!r}, ..., obs={name})`"
                if known
                else f"is not a site. Sites: {sites}"
            )
            msg = f"A mediator must be a site of the kernel; {name!r} {what}."
            raise ValueError(msg)
        if name == outcome or name in treatment:
            msg = (
                f"A mediator must be between the treatment and the outcome; got {name!r}, which is one of them. Name a "
                "site that depends on the treatment."
            )
            raise ValueError(msg)
        between = sorted(one for one in after & spec.ancestors([outcome]) - {outcome, *treatment})
        if name not in between:
            why = "does not depend on the treatment" if name not in after else "does not affect the outcome"
            msg = (
                f"Mediator `{name}` is on no path from {quote_list(treatment)} to `{outcome}`: it {why}. Sites on a "
                f"path: {quote_list(between) if between else 'none'}."
            )
            raise ValueError(msg)


def induced_confounders(
    spec: KernelSpec, treatment: Collection[str], through: Collection[str], outcome: str
) -> list[str]:
    """Return random sites that the treatment affects, and that affect the outcome and a mediator on separate paths."""
    moved = [site.name for site in spec.sites if site.is_sample and site.name in spec.descendants(treatment)]
    before = spec.ancestors(through) - set(through)
    return [
        name
        for name in moved
        if name in before and name not in (*treatment, outcome) and outcome in _reached(spec, name, through)
    ]


def _reached(spec: KernelSpec, start: str, without: Collection[str]) -> set[str]:
    """Return the sites that a site reaches on paths that avoid other sites."""
    reached, todo = {start}, [start]
    while todo:
        name = todo.pop()
        new = [s.name for s in spec.sites if name in s.parents and s.name not in reached and s.name not in without]
        reached.update(new)
        todo += new
    return reached
