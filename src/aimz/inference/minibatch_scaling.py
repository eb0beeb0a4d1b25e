"""Minibatch SVI: which sites of model and guide to scale, and whether the ELBO estimate is unbiased.

With ``B`` of ``n_obs`` rows in a batch, the ELBO of the full data is estimated without bias if the log density of every
site with a row axis is scaled by ``n_obs / B`` (Hoffman et al. 2013, *Stochastic Variational Inference*).
"""

__all__ = [
    "HOLDS_DATA",
    "RowScale",
    "abstract_sites",
    "check_minibatches",
    "enumerates_discrete",
    "guide_parts",
    "run_sites",
    "scaled_sites",
]

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.infer.autoguide as autoguide
from jax import random
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import SVI, RenyiELBO, TraceEnum_ELBO, init_to_uniform
from numpyro.infer.autoguide import AutoGuide, AutoGuideList
from numpyro.optim import Minimize
from numpyro.primitives import Messenger

from aimz.errors import FitWarning, warn
from aimz.kernel import KernelSpec, isolated

type Abstract = Mapping[str, jax.ShapeDtypeStruct]

HOLDS_DATA = tuple(
    getattr(autoguide, name)
    for name in ("AutoLaplaceApproximation", "AutoDAIS", "AutoSemiDAIS", "AutoSurrogateLikelihoodDAIS")
    if hasattr(autoguide, name)
)
"""Guides that store the data they were set up with and evaluate the model on them."""


class RowScale(Messenger):  # type: ignore[misc,unused-ignore]
    """Handler that multiplies the log density of the sites ``names`` by ``scale``."""

    def __init__(self, names: frozenset[str], scale: Any) -> None:
        super().__init__()
        self._names = names
        self._scale = scale

    def process_message(self, msg: dict[str, Any]) -> None:
        """Multiply the scale of a site in ``names``."""
        if msg["type"] == "sample" and msg["name"] in self._names:
            msg["scale"] = self._scale if msg["scale"] is None else self._scale * msg["scale"]


def _scaling_with_rows(
    function: Callable[..., Any],
    abstract: tuple[Abstract, Abstract],
    static: Mapping[str, object],
    kind: str,
    n_obs: int,
) -> frozenset[str]:
    """Return the sites whose weight is proportional to the number of rows, which must be scaled.

    The weight of a site is the number of its values times its own scale, such as ``size / subsample_size`` in a
    subsampled plate. If a plate has the size of the full data, the weight is the same for every batch, and the site is
    not scaled.

    Parameters
    ----------
    function
        The model, or a guide.
    abstract
        Abstract arguments at two numbers of rows.
    static
        Arguments that are not arrays.
    kind
        "model" or "guide", for error messages.
    n_obs
        Number of rows of the full data.

    Raises
    ------
    ValueError
        If a weight is neither proportional to the rows nor constant, or a parameter has a row axis.
    """
    sites, others = (abstract_sites(function, arrays, static) for arrays in abstract)
    n_rows, n_other = (next(array.shape[0] for array in arrays.values() if array.shape) for arrays in abstract)
    scaled = set()
    for name, site in sites.items():
        other_site = others.get(name, site)
        if site.kind == "param" and site.shapes != other_site.shapes:
            msg = (
                f"Parameter `{name}` of the {kind} has a value for each row of a batch, so that batches would share "
                "values. Make it a function of the rows (amortised), or fit all rows with `fit_on_batch`."
            )
            raise ValueError(msg)
        if site.kind != "sample":
            continue
        weight, other = (s.scale * s.size for s in (site, other_site))
        if abs(weight * n_other - other * n_rows) <= 1e-6 * abs(other * n_rows):
            scaled.add(name)
        elif abs(weight - other) > 1e-6 * abs(other):
            msg = (
                f"Site `{name}` of the {kind} counts {weight:g} values for {n_rows} rows and {other:g} for {n_other}: "
                "neither proportional to the rows nor constant. Leave the scaling to `fit`, or write "
                "`numpyro.plate(name, size, subsample_size=...)` with the size of the full data."
            )
            raise ValueError(msg)
        elif site.shapes != other_site.shapes and abs(site.scale * n_rows - n_obs) > 1e-6 * n_obs:
            warn(
                f"Site `{name}` of the {kind} counts as {site.scale * n_rows:g} rows, by its own scale, but the data "
                f"have {n_obs}: the posterior is that of {site.scale * n_rows:g} such rows.",
                FitWarning,
            )
    return frozenset(scaled)


@dataclass(frozen=True)
class AbstractSite:
    """Site of a model or guide in an abstract run."""

    kind: str
    value: Any
    """Tree of shapes and dtypes of the site's value."""
    event: tuple[int, ...]
    """Shape of the site's distribution."""
    scale: float

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the value's leaves and of the distribution."""
        return (*(leaf.shape for leaf in jax.tree.leaves(self.value)), self.event)

    @property
    def size(self) -> int:
        """Number of values; observed data may broadcast against the distribution."""
        return max(prod(max(1, int(size)) for size in shape) for shape in self.shapes)


@isolated
def run_sites(
    function: Callable[..., Any],
    arrays: Mapping[str, Any],
    static: Mapping[str, object],
    params: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the sites of one run of a model or guide; priors without a sampler get a value in their support."""
    seeded = seed(substitute(function, data=dict(params or {})), random.key(0))
    sites: dict[str, dict[str, Any]] = trace(substitute(seeded, substitute_fn=init_to_uniform)).get_trace(
        **arrays, **static
    )
    return sites


def abstract_sites(
    function: Callable[..., Any], arrays: Abstract, static: Mapping[str, object]
) -> dict[str, AbstractSite]:
    """Return the ``sample`` and ``param`` sites of a model or guide."""
    sites: dict[str, AbstractSite] = {}

    def run(arrays: Abstract) -> None:
        for name, message in run_sites(function, arrays, static).items():
            if message["type"] in ("sample", "param"):
                scale = message.get("scale")
                # A scale that is an array weights rows; it does not count them.
                plain = float(scale) if isinstance(scale, int | float) else 1.0
                value = jax.tree.map(
                    lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), message["value"]
                )
                event = tuple(message["fn"].shape()) if message["type"] == "sample" else ()
                sites[name] = AbstractSite(message["type"], value, event, plain)

    jax.eval_shape(run, dict(arrays))
    return sites


def check_minibatches(svi: SVI, spec: KernelSpec) -> None:
    """Raise if an inference object cannot be used with minibatches.

    Raises
    ------
    ValueError
        If the guide has a value for each row or stores the data, the loss cannot be scaled, or the optimizer runs to
        the optimum in one step.
    """
    with_data = next((guide for guide in guide_parts(svi.guide) if isinstance(guide, HOLDS_DATA)), None)
    local = _local_sites(spec, enumerated=enumerates_discrete(svi)) if isinstance(svi.guide, AutoGuide) else []
    if isinstance(svi.optim, Minimize):
        reason = "The optimizer `Minimize` runs to the optimum of one batch in one step"
        advice = "Choose one that takes steps (`numpyro.optim.Adam`, optax)"
    elif isinstance(svi.loss, RenyiELBO):
        reason = "The bound of `RenyiELBO` is not a sum over rows, so that a batch cannot be scaled to all rows"
        advice = "Choose `Trace_ELBO`"
    elif with_data is not None:
        name = type(with_data).__name__
        reason = f"The guide `{name}` computes with the data it was set up with, which would be one batch"
        advice = "Choose another guide, such as `AutoNormal`"
    elif local:
        name = type(svi.guide).__name__
        reason = f"The guide `{name}` has a value of `{local[0]}` for each row, so that batches would share values"
        advice = "Write a guide in which it is a function of the rows (amortised), marginalise it"
    else:
        return
    msg = f"{reason}. {advice}, or fit all rows with `fit_on_batch`."
    raise ValueError(msg)


def guide_parts(guide: Any) -> Iterator[Any]:
    """Yield a guide and, recursively, the guides it is composed of."""
    yield guide
    if isinstance(guide, AutoGuideList):
        for part in guide._guides:
            yield from guide_parts(part)


def enumerates_discrete(svi: SVI) -> bool:
    """Return whether the ELBO enumerates discrete sites that the guide does not draw."""
    return isinstance(svi.loss, TraceEnum_ELBO)


def _local_sites(spec: KernelSpec, *, enumerated: bool) -> list[str]:
    """Return the latent sites with a row axis that the guide must draw (not the enumerated ones)."""
    return [name for name in spec.local_sites if not (enumerated and spec[name].is_discrete)]


def scaled_sites(
    svi: SVI, spec: KernelSpec, abstract: tuple[Abstract, Abstract], static: Mapping[str, object], n_obs: int
) -> frozenset[str]:
    """Return the sites of model and guide to scale.

    ``abstract`` holds abstract arguments at two numbers of rows; ``n_obs`` is the number of rows of the full data.

    Raises
    ------
    ValueError
        If model and guide weight a latent site differently, or a site cannot be scaled.
    """
    static = {**static, **svi.static_kwargs}
    model = _scaling_with_rows(svi.model, abstract, static, "model", n_obs)
    if isinstance(svi.guide, AutoGuide):
        return model  # `check_minibatches` raises if an AutoGuide has local sites
    guide = _scaling_with_rows(svi.guide, abstract, static, "guide", n_obs)
    different = sorted((model ^ guide) & frozenset(_local_sites(spec, enumerated=enumerates_discrete(svi))))
    if different:
        one, other = ("model", "guide") if different[0] in model else ("guide", "model")
        msg = (
            f"The weight of site `{different[0]}` is proportional to the rows in the {one}, but constant in the "
            f"{other}. Write the site under the same plates in both."
        )
        raise ValueError(msg)
    return model | guide
