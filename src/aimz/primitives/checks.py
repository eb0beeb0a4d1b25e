"""What is found in a model that ran: each judgement says what, where, and what to change."""

__all__ = ["Findings", "judge"]

from dataclasses import dataclass, field
from math import prod

import jax
import numpy as np

from aimz.kernel import KernelSpec, Role, Site, format_shape
from aimz.primitives.raised import describe_raised
from aimz.primitives.recording import record
from aimz.primitives.result import Finding, SiteInfo
from aimz.primitives.rows import density_obstacle, predictive_obstacle
from aimz.primitives.tracing import DATA, Traced, spec_with_data_apart


@dataclass
class Findings:
    """Findings so far, a site named once for each kind."""

    warnings: list[Finding] = field(default_factory=list)
    errors: list[Finding] = field(default_factory=list)

    def error(self, text: str, kind: str, site: str | None = None) -> None:
        """Add what keeps the model from being used."""
        self._add(self.errors, Finding(text, kind, site))

    def warn(self, text: str, kind: str, site: str | None = None) -> None:
        """Add what a user might not expect."""
        self._add(self.warnings, Finding(text, kind, site))

    def explains(self, site: str) -> bool:
        """Whether something was found that says more of a site's rows than that there is no plate around them."""
        return any(f.site == site for f in (*self.warnings, *self.errors))

    def _add(self, found: list[Finding], new: Finding) -> None:
        if not any(new.kind == old.kind and new.site == old.site and (new.site or new == old) for old in found):
            found.append(new)


def judge(found: Findings, asked: Traced, empty: Traced, full: Traced | None) -> None:
    """Add what there is to say of a model; it ran as ``asked``, with data (``full``) and without (``empty``)."""
    for fault in dict.fromkeys((*asked.faults, *empty.faults, *(full.faults if full else ()))):
        found.error(fault, "names")
    output = asked.roles.output
    for traced, when in (
        (empty, f"without `{output}`, as it is called to predict"),
        (full, f"with data of `{output}`"),
    ):
        if traced is not None and traced.raised is not None and traced is not asked:
            told = describe_raised(traced.raised, asked.bound.function, when)
            found.error(told, told.kind)
    if full is not None and full.spec is not None:
        _judge_output(found, full, full.spec)
        _judge_data(found, full, full.spec)
        _judge_leaks(found, full)
    if empty.spec is not None:
        _judge_prediction(found, empty, empty.spec)
    best = next((t for t in (full, empty, asked) if t is not None and t.spec is not None), None)
    if best is None or best.spec is None:
        return
    _judge_latents(found, best)
    _judge_plates(found, asked)
    _judge_lengths(found, asked)
    if best.spec.fixed_size and best.n_obs:
        _judge_fixed(found, best)
    elif best.n_obs and not found.errors:
        _judge_rows(found, empty, full)
    for traced in (empty, full):
        if traced is not None and traced.spec is not None:
            _judge_places(found, traced.spec)


def _judge_output(found: Findings, traced: Traced, spec: KernelSpec) -> None:
    """Say so if the data of the output change nothing, or are observed under another name."""
    output = traced.roles.output
    if output is None:
        return
    observed = [site.name for site in spec.sites if site.role is not Role.FACTOR and traced.reaches(site.data)]
    factors = [site.name for site in spec.sites if site.role is Role.FACTOR and traced.reaches(site.parents)]
    if not observed and not factors:
        found.error(
            f"The data of `{output}` change nothing, so there is nothing to fit. Write "
            f"`numpyro.sample('{output}', ..., obs={output})`.",
            "unobserved",
            output,
        )
    elif observed and not {output, f"{output}_observed"} & set(observed):
        found.warn(
            f"The data of `{output}` are observed at site `{observed[0]}`, and `ImpactModel` wants both to have one "
            f"name. Name that site `{output}`, or name the parameter `{observed[0]}` and pass "
            f"`param_output='{observed[0]}'`.",
            "observed elsewhere",
            observed[0],
        )


def _judge_leaks(found: Findings, traced: Traced) -> None:
    """Say which distributions the data of the output reach: without them they are others.

    A factor is where data may be, and mutable state takes statistics of a batch on purpose.  Inside a `scan` it is not
    known what reaches what.
    """
    output = traced.roles.output
    spec = None if output is None else spec_with_data_apart(traced)
    if output is None or spec is None or spec.names(Role.MUTABLE):
        return
    observed = {site.name for site in spec.sites if any(name.startswith(DATA) for name in site.data)}
    through: dict[str, str] = {}
    for site in spec.sites:
        # What is computed from an observed site has that site's data, and is meant to.
        if site.in_control_flow or site.parents & observed:
            continue
        direct = any(name.startswith(DATA) for name in site.parents)
        way = next((name for name in through if name in site.parents), "")
        if site.role is Role.DETERMINISTIC and (direct or way):
            through[site.name] = way
        elif site.is_sample and (direct or way):
            found.warn(
                f"The data of `{output}` reach the distribution of site `{site.name}`{f', by `{way}`' if way else ''}: "
                "what is fitted is another model than the one that predicts, which is called without them. Leave "
                f"`{output}` to `obs=` alone. If values of other rows are meant, such as the ones before in time, pass "
                "them as an argument of their own, so that a prediction has them too.",
                "data in the model",
                site.name,
            )


def _judge_data(found: Findings, traced: Traced, spec: KernelSpec) -> None:
    """Compare the shapes of data with those of their distributions: NumPyro broadcasts them."""
    for info in traced.recorded.sites.values():
        if info.type != "sample" or not info.is_observed or info.in_control_flow or info.fn_shape is None:
            continue
        if not isinstance(info.value, jax.ShapeDtypeStruct):
            continue  # data of a distribution of the user's own, which may be anything
        data, expected = tuple(info.value.shape), info.fn_shape
        try:
            both = np.broadcast_shapes(data, expected)
        except ValueError:
            continue  # an event may have another shape than its data: NumPyro has refused it if not
        if prod(both) > prod(data):
            found.error(
                f"Site `{info.name}` compares data of shape {data} with a distribution of shape {expected}: the two "
                f"are broadcast to {both}, and each value counts {prod(both) // max(1, prod(data))} times. Give both "
                f"one shape{_advice(data, expected)}.",
                "shapes",
                info.name,
            )
        elif prod(expected) < prod(data):
            _no_rows(found, traced, spec, info, expected)


def _advice(data: tuple[int, ...], expected: tuple[int, ...]) -> str:
    if data[-1:] == (1,) and data[:-1] == expected[-1:]:
        return ", by dropping the last axis of the data (`y[:, 0]`)"
    if len(data) == 1 and expected[:1] == data:
        return ", by dropping the last axis of what its parameters are computed from (`mu[:, 0]`)"
    return ""


def _no_rows(found: Findings, traced: Traced, spec: KernelSpec, info: SiteInfo, expected: tuple[int, ...]) -> None:
    """Say that a distribution is smaller than its data."""
    output = traced.roles.output
    rows = "X.shape[0]" if traced.roles.input is None else f"{traced.roles.input}.shape[0]"
    text = (
        f"Site `{info.name}` has data of shape {tuple(info.value.shape)} and a distribution of shape {expected}: it "
        "can be fitted, but a prediction is of the shape of the distribution, not one value for each observation. Put "
        f"the site in `with numpyro.plate('obs', {rows}):`."
    )
    site = spec.get(info.name)
    if info.name in (output, f"{output}_observed") or site is None or not site.row_axes:
        found.error(text, "no rows", info.name)
    else:
        found.warn(text, "no rows", info.name)


def _judge_prediction(found: Findings, traced: Traced, spec: KernelSpec) -> None:
    """Look at the output as it is when it is predicted."""
    output = traced.roles.output
    site = spec.get(output) if output is not None else None
    if site is None or not traced.n_obs or spec.fixed_size or site.in_control_flow:
        return
    rows = "X.shape[0]" if traced.roles.input is None else f"{traced.roles.input}.shape[0]"
    if not site.row_axes:
        found.error(
            f"Site `{site.name}` has shape {format_shape(site.shape)} when it is predicted: not one value for each "
            f"of the {traced.n_obs} observations. Put the site in `with numpyro.plate('obs', {rows}):`.",
            "no rows",
            site.name,
        )
    elif len(site.row_axes) > 1:
        found.error(
            f"Site `{site.name}` has shape {format_shape(site.shape)} when it is predicted: rows were broadcast "
            "against rows. Give what its parameters are computed from one shape, (n_obs,) say, and no axis of length 1 "
            "after the rows.",
            "shapes",
            site.name,
        )


def _judge_latents(found: Findings, traced: Traced) -> None:
    """Say which latent sites cannot be found by gradients, or not drawn."""
    spec = traced.spec
    assert spec is not None
    for info in traced.recorded.sites.values():
        site = spec.get(info.name)
        if site is None or site.role is not Role.LATENT:
            continue
        if info.is_discrete and info.can_enumerate:
            found.warn(
                f"Latent site `{info.name}` ({info.distribution}) is discrete, and SVI and NUTS follow gradients. They "
                "sum over it if `funsor` is installed (`pip install aimz[discrete]`): MCMC with NUTS by itself, SVI "
                "with `TraceEnum_ELBO` and `infer={'enumerate': 'parallel'}` at the site. Or write the sum yourself, "
                "as a mixture.",
                "discrete latent",
                info.name,
            )
        elif info.is_discrete:
            found.warn(
                f"Latent site `{info.name}` ({info.distribution}) is discrete and has no finite support, so neither "
                "SVI nor NUTS can find it, nor can it be summed over. Use a continuous distribution, or one of finite "
                "support.",
                "discrete latent",
                info.name,
            )
        if not site.drawable:
            found.warn(
                f"Latent site `{info.name}` ({site.distribution}) is improper and cannot be drawn: it can be fitted, "
                "but there is no prior predictive, and an intervention it descends from is refused. Give it a proper "
                "distribution, a wide Normal say.",
                "improper",
                info.name,
            )


def _judge_places(found: Findings, spec: KernelSpec) -> None:
    """Say which sites have rows in an unexpected place."""
    for site in spec.sites:
        if site.role is Role.PARAM and site.row_axes:
            found.warn(
                f"Parameter `{site.name}` has a value for each row, so it holds for the fitted rows only. Make it a "
                "`sample` site, which is drawn anew for others, or a function of the input.",
                "parameter by row",
                site.name,
            )
        if site.is_sample and len(site.row_axes) == 1 and not site.in_control_flow:
            _judge_axis(found, site, site.row_axes[0])


def _judge_axis(found: Findings, site: Site, axis: int) -> None:
    """Look at the row axis of a site."""
    n_axes = len(site.shape)
    if axis >= n_axes - site.core_event_dim:
        return  # a joint distribution, which is a matter of the rows
    if axis >= n_axes - site.event_dim:
        found.warn(
            f"The rows of site `{site.name}` are declared to be one event (`to_event`), so `log_likelihood` gives one "
            "density for all of them, and `loo` is refused. Put the site in a plate along the rows instead.",
            "one event",
            site.name,
        )
    elif all(place != axis for _, place in site.plates) and not found.explains(site.name):
        what = "latent site" if site.role is Role.LATENT else "site"
        found.warn(
            f"The {what} `{site.name}` has a value for each row and stands in no plate. The shapes say that rows are "
            "independent given the rest, and so it is taken; NumPyro's own subsampling and enumeration go by plates. "
            "Write `with numpyro.plate('obs', n_obs):` around it.",
            "no plate",
            site.name,
        )


def _judge_plates(found: Findings, traced: Traced) -> None:
    """Say which plates take a part of what they run along."""
    for plate in traced.recorded.plates:
        if plate.subsample_size < plate.size:
            found.warn(
                f"Plate `{plate.name}` takes {plate.subsample_size} of {plate.size} by chance in each step of a fit. A "
                "prediction takes all of them, in order. To fit in minibatches, leave `subsample_size` out and call "
                "`fit`, which scales by itself.",
                "subsampled",
                plate.name,
            )


def _judge_lengths(found: Findings, traced: Traced) -> None:
    """Say which arrays are not along the rows."""
    inside = [name for name in traced.bound.arrays if name not in traced.bound.parameters]
    if inside:
        found.warn(
            f"Arrays inside other arguments ({', '.join(f'`{name}`' for name in inside)}) cannot be cut along their "
            "rows by `ImpactModel`. Make each array a parameter of its own.",
            "inside arguments",
        )
    for name, array in traced.bound.arrays.items():
        if traced.n_obs and array.shape and array.shape[0] != traced.n_obs:
            found.warn(
                f"Argument `{name}` has {array.shape[0]} rows and the model {traced.n_obs}. `ImpactModel` takes arrays "
                "along the rows only; let the model close over a table of another length.",
                "lengths",
                name,
            )


def _judge_fixed(found: Findings, traced: Traced) -> None:
    """Say why a model takes one number of rows only."""
    n_obs = traced.n_obs
    grown = {
        name: jax.ShapeDtypeStruct((n_obs + 1, *a.shape[1:]), a.dtype) if a.shape[:1] == (n_obs,) else a
        for name, a in traced.arrays.items()
    }
    raised = record(traced.kernel, grown, n_obs + 1).raised
    why = "" if raised is None else f" ({describe_raised(raised, traced.bound.function, f'for {n_obs + 1} rows')})"
    found.warn(
        f"The model takes {n_obs} rows and no other number: it may close over an array of that length, or have a plate "
        f"of that size written out{why.rstrip('.')}. It can be fitted to these rows and predicted for them. "
        "Pass such arrays as arguments, and take sizes from the input (`X.shape[0]`).",
        "fixed size",
    )


def _judge_rows(found: Findings, empty: Traced, full: Traced | None) -> None:
    """Say whether rows see one another."""
    predictive = predictive_obstacle(empty) if empty.spec is not None else None
    density = density_obstacle(full) if full is not None and full.spec is not None else None
    if predictive is not None:
        found.warn(
            f"The rows of the model see one another ({predictive}), so `predict` computes all of them together, some "
            "draws at a time. If they need not, write the model so that each row counts for itself.",
            "rows",
        )
    if density is not None:
        found.warn(
            f"The model cannot be fitted in minibatches ({density}): a batch would not stand for its share of the "
            "data. Fit all rows with `fit_on_batch`, or write the model so that each row counts for itself.",
            "minibatches",
        )
