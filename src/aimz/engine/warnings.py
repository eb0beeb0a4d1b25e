"""What a call says of itself that a user might not expect."""

__all__ = ["quote_list", "refuse_data_in_control_flow", "warn_about"]

from collections.abc import Iterable

from aimz.data import Posterior
from aimz.errors import warn
from aimz.kernel import KernelSpec, Substitution, ValueSource


def warn_about(
    posterior: Posterior | None,
    substitution: Substitution,
    spec: KernelSpec,
    known: KernelSpec | None,
    arguments: Iterable[str],
) -> None:
    """Say what a user might not expect of this call, if anything is to be said; it sets these ``arguments``."""
    if posterior is None:
        return
    _warn(substitution, posterior, (spec, known) if known else (spec,))
    _warn_of_control_flow(spec, substitution, posterior)
    _warn_of_priors(substitution, posterior, spec, arguments)


def _warn(substitution: Substitution, posterior: Posterior, specs: Iterable[KernelSpec]) -> None:
    """Say what happened to local latents, what the posterior does not know, and what the kernel does not."""
    unused = [name for name in posterior.draws if not any(name in spec for spec in specs)]
    if unused:
        warn(f"Draws of {quote_list(unused)} in the posterior are of no site of the kernel and are not used.")
    kept = substitution.sites_from(ValueSource.POSTERIOR_ROWS)
    if kept:
        warn(
            f"Local latent site(s) {quote_list(kept)} keep their posterior draws, row by row: the input is taken for "
            "the fitted observations. For other observations pass `in_sample=False`."
        )
    drawn = substitution.sites_from(ValueSource.RESAMPLED_NEW_ROWS)
    if drawn:
        warn(
            f"Local latent site(s) {quote_list(drawn)} are drawn anew given the sites they depend on: the input is not "
            "the fitted observations."
        )
    absent = substitution.sites_from(ValueSource.PRIOR_MISSING)
    if absent:
        warn(f"Site(s) {quote_list(absent)} are not in the posterior and are drawn from their prior.")
    initial = substitution.sites_from(ValueSource.INITIAL)
    if initial:
        warn(
            f"Parameter(s) {quote_list(initial)} have no fitted value; their initial value is used. Fit with SVI, or "
            "set their draws with `set_posterior_sample`."
        )


def _warn_of_priors(
    substitution: Substitution, posterior: Posterior, spec: KernelSpec, arguments: Iterable[str]
) -> None:
    """Say so if what was learned is lost because a prior borrows its scale, say, from the data."""
    reached = spec.descendants(arguments).intersection(
        substitution.sites_from(ValueSource.RESAMPLED_DOWNSTREAM), posterior.draws
    )
    lost = sorted(name for name in reached if not spec[name].row_axes)
    if lost:
        warn(
            f"Global site(s) {quote_list(lost)} descend from the intervention on {quote_list(sorted(arguments))} and "
            "are drawn anew from their prior: what the fit learned of them is not used. If the prior only borrows a "
            "number from the data, compute it beforehand and pass it as an argument."
        )


def refuse_data_in_control_flow(spec: KernelSpec, substitution: Substitution) -> None:
    """Refuse to draw anew what is observed inside a `scan`: its data cannot be taken away there."""
    held = [
        n for n in substitution.sites_from(ValueSource.RESAMPLED_DOWNSTREAM) if spec[n].in_control_flow and spec[n].data
    ]
    if held:
        msg = (
            f"Site(s) {quote_list(held)} descend from the intervention and are observed inside a `scan` or `cond`, "
            "where their data cannot be set aside. Make the prediction without those data."
        )
        raise ValueError(msg)


def _warn_of_control_flow(spec: KernelSpec, substitution: Substitution, posterior: Posterior) -> None:
    """Say so where sites are drawn anew only because what depends on what inside a `scan` is not seen."""
    sites = substitution.sites_from(ValueSource.RESAMPLED_DOWNSTREAM, ValueSource.RESAMPLED_NEW_ROWS)
    inside = [name for name in sites if spec[name].in_control_flow and name in posterior.draws]
    if inside:
        warn(
            f"Site(s) {quote_list(inside)} inside a `scan` or `cond` are drawn anew: all sites inside one count as "
            "depending on one another, and on all that enters it, since its inside is not traced."
        )


def quote_list(names: Iterable[str]) -> str:
    """Return names as a message has them."""
    return ", ".join(f"`{name}`" for name in names)
