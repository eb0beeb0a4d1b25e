"""A batch stands for the whole data set: what is scaled, in model and guide, and what cannot be.

With a batch of ``B`` rows of ``n_obs``, the ELBO of the whole data is estimated without bias if every site with a row
axis counts ``n_obs / B`` times (Hoffman et al. 2013, *Stochastic Variational Inference*).
"""

__all__ = [
    "HOLDS_DATA",
    "RowScale",
    "abstract_sites",
    "check_minibatches",
    "parts_of",
    "read_scaled",
    "run_sites",
    "sums_discrete",
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

from aimz.errors import warn
from aimz.kernel import KernelSpec

type Abstract = Mapping[str, jax.ShapeDtypeStruct]

HOLDS_DATA = tuple(
    getattr(autoguide, name)
    for name in ("AutoLaplaceApproximation", "AutoDAIS", "AutoSemiDAIS", "AutoSurrogateLikelihoodDAIS")
    if hasattr(autoguide, name)
)
"""Guides that keep the data they were set up with and compute with them."""


class RowScale(Messenger):  # type: ignore[misc,unused-ignore]
    """Counts the sites called ``names`` ``scale`` times, in whatever runs inside."""

    def __init__(self, names: frozenset[str], scale: Any) -> None:
        super().__init__()
        self._names = names
        self._scale = scale

    def process_message(self, msg: dict[str, Any]) -> None:
        """Multiply the scale of a site."""
        if msg["type"] == "sample" and msg["name"] in self._names:
            msg["scale"] = self._scale if msg["scale"] is None else self._scale * msg["scale"]


def _rows_counted(
    function: Callable[..., Any],
    given: tuple[Abstract, Abstract],
    static: Mapping[str, object],
    what: str,
    n_obs: int,
) -> frozenset[str]:
    """Return the sites whose weight grows with the batch, so that they have to be scaled.

    The weight of a site is the number of its values, times what the program scales it by itself: ``size /
    subsample_size`` in a subsampled plate.  Where a plate knows the size of the whole data set, the weight is the same
    for every batch, and the site is left alone.

    Parameters
    ----------
    function
        The model, or a guide.
    given
        Abstract arguments at two numbers of rows.
    static
        Further arguments.
    what
        What to call ``function`` in an error.
    n_obs
        Number of rows of the whole data.

    Raises
    ------
    ValueError
        If a weight does neither, or a parameter has a row axis.
    """
    sites, others = (abstract_sites(function, arrays, static) for arrays in given)
    n_rows, n_other = (next(array.shape[0] for array in arrays.values() if array.shape) for arrays in given)
    found = set()
    for name, site in sites.items():
        other_site = others.get(name, site)
        if site.kind == "param" and site.shapes != other_site.shapes:
            msg = (
                f"Parameter `{name}` of the {what} has a value for each row of a batch, so those of one batch would be "
                "taken for the next. Make it a function of the rows (amortised), or fit all rows with `fit_on_batch`."
            )
            raise ValueError(msg)
        if site.kind != "sample":
            continue
        weight, other = (s.scale * _size(s.shapes) for s in (site, other_site))
        if abs(weight * n_other - other * n_rows) <= 1e-6 * abs(other * n_rows):
            found.add(name)
        elif abs(weight - other) > 1e-6 * abs(other):
            msg = (
                f"Site `{name}` of the {what} counts {weight:g} values for {n_rows} rows and {other:g} for {n_other}: "
                f"neither as often as there are rows nor always the same. Leave the scaling to `fit`, or "
                "write `numpyro.plate(name, size, subsample_size=...)` with the size of the whole data set."
            )
            raise ValueError(msg)
        elif site.shapes != other_site.shapes and abs(site.scale * n_rows - n_obs) > 1e-6 * n_obs:
            warn(
                f"Site `{name}` of the {what} counts as {site.scale * n_rows:g} rows, as it is written, and the data "
                f"have {n_obs}: the posterior is that of {site.scale * n_rows:g} rows like these."
            )
    return frozenset(found)


def _size(shapes: Any) -> int:
    """Return the number of values of a site; data may be shorter than what they are compared with."""
    values, event = shapes
    return max(prod(max(1, int(size)) for size in shape) for shape in (*values, event))


@dataclass(frozen=True)
class AbstractSite:
    """A site of a model or a guide in one abstract run."""

    kind: str
    value: Any
    """The tree of its shapes and types."""
    event: tuple[int, ...]
    """The shape of its distribution."""
    scale: float

    @property
    def shapes(self) -> Any:
        """Every shape it has."""
        return tuple(leaf.shape for leaf in jax.tree.leaves(self.value)), self.event


def run_sites(
    function: Callable[..., Any],
    arrays: Mapping[str, Any],
    static: Mapping[str, object],
    params: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Run a model or a guide once as NumPyro does; a prior without a sampler gets some value of its support."""
    held = seed(substitute(function, data=dict(params or {})), random.key(0))
    found: dict[str, dict[str, Any]] = trace(substitute(held, substitute_fn=init_to_uniform)).get_trace(
        **arrays, **static
    )
    return found


def abstract_sites(
    function: Callable[..., Any], arrays: Abstract, static: Mapping[str, object]
) -> dict[str, AbstractSite]:
    """Return the ``sample`` and ``param`` sites of a model, or of a guide."""
    found: dict[str, AbstractSite] = {}

    def run(given: Abstract) -> None:
        for name, message in run_sites(function, given, static).items():
            if message["type"] in ("sample", "param"):
                scale = message.get("scale")
                # A scale that is an array has a value for each row, or the same for all: it is no count of rows.
                plain = float(scale) if isinstance(scale, int | float) else 1.0
                value = jax.tree.map(
                    lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), message["value"]
                )
                event = tuple(message["fn"].shape()) if message["type"] == "sample" else ()
                found[name] = AbstractSite(message["type"], value, event, plain)

    jax.eval_shape(run, dict(arrays))
    return found


def check_minibatches(svi: SVI, spec: KernelSpec) -> None:
    """Refuse an inference object that can only be right for all rows at once.

    Raises
    ------
    ValueError
        If the guide has a value for each row, or computes with the data it was set up with; or the optimizer runs to
        the end in one step.
    """
    if isinstance(svi.optim, Minimize):
        msg = (
            "The optimizer `Minimize` runs to the optimum of one batch in one step. Choose one that takes steps "
            "(`numpyro.optim.Adam`, optax), or fit all rows with `fit_on_batch`."
        )
        raise ValueError(msg)  # noqa: TRY004 (the type is right, the use is not)
    if isinstance(svi.loss, RenyiELBO):
        msg = (
            "The bound of `RenyiELBO` is no sum over rows, so that of a batch cannot be scaled. Choose `Trace_ELBO`, "
            "or fit all rows with `fit_on_batch`."
        )
        raise ValueError(msg)  # noqa: TRY004 (as above)
    holding = next((guide for guide in parts_of(svi.guide) if isinstance(guide, HOLDS_DATA)), None)
    if holding is not None:
        msg = (
            f"The guide `{type(holding).__name__}` computes with the data it was set up with, which would be one "
            "batch. Choose another, `AutoNormal` say, or fit all rows with `fit_on_batch`."
        )
        raise ValueError(msg)
    local = _by_row(spec, enumerated=sums_discrete(svi))
    if isinstance(svi.guide, AutoGuide) and local:
        msg = (
            f"The guide `{type(svi.guide).__name__}` has a value of `{local[0]}` for each row, so those of one batch "
            "would be taken for the next. Write a guide in which it is a function of the rows (amortised), "
            "marginalise it, or fit all rows with `fit_on_batch`."
        )
        raise ValueError(msg)


def parts_of(guide: Any) -> Iterator[Any]:
    """Yield a guide, and what it is made of."""
    yield guide
    if isinstance(guide, AutoGuideList):
        for part in guide._guides:
            yield from parts_of(part)


def sums_discrete(svi: SVI) -> bool:
    """Whether the ELBO sums over discrete sites that the guide has not."""
    return isinstance(svi.loss, TraceEnum_ELBO)


def _by_row(spec: KernelSpec, *, enumerated: bool) -> list[str]:
    """Return the latent sites with a row axis that a guide has to have; one that is summed over it has not."""
    return [name for name in spec.local_sites if not (enumerated and spec[name].is_discrete)]


def read_scaled(
    svi: SVI, spec: KernelSpec, given: tuple[Abstract, Abstract], static: Mapping[str, object], n_obs: int
) -> frozenset[str]:
    """Return the sites of model and guide that are to be scaled.

    ``given`` are abstract arguments at two numbers of rows, ``n_obs`` is that of the whole data.

    Raises
    ------
    ValueError
        If the guide counts a latent site otherwise than the model does, or a site cannot be scaled.
    """
    static = {**static, **svi.static_kwargs}
    model = _rows_counted(svi.model, given, static, "model", n_obs)
    if isinstance(svi.guide, AutoGuide):
        return model  # it has no latent site by row, or `check_minibatches` had refused it
    guide = _rows_counted(svi.guide, given, static, "guide", n_obs)
    unlike = sorted((model ^ guide) & frozenset(_by_row(spec, enumerated=sums_discrete(svi))))
    if unlike:
        one, other = ("model", "guide") if unlike[0] in model else ("guide", "model")
        msg = (
            f"Site `{unlike[0]}` counts as often as there are rows in the {one}, and always the same in the {other}. "
            "Write it under the same plates in both."
        )
        raise ValueError(msg)
    return model | guide
