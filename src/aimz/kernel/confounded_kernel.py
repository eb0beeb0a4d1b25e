"""A kernel with a hidden common cause of two of its sites."""

__all__ = ["HIDDEN_CAUSE", "HiddenCause", "TreatmentModel", "can_shift", "confounded_kernel"]

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.primitives import Messenger

from aimz.kernel.residual_kernel import Column
from aimz.kernel.signature import kernel_name
from aimz.types import Kernel

HIDDEN_CAUSE = "hidden_cause"
"""Name of the site of the hidden cause; other sites that are added begin with it."""

_WIDE = 10.0
"""Standard deviation of the priors of the treatment model, whose columns have the standard deviation 1."""


@dataclass(frozen=True)
class HiddenCause:
    """Coefficients of a hidden cause of variance 1, each a number or its prior."""

    treatment: float | dist.Distribution
    outcome: float | dist.Distribution


@dataclass(frozen=True)
class TreatmentModel:
    """Model of a treatment that is an argument: linear, or logistic if the treatment is 0 or 1."""

    treatment: Column
    columns: Sequence[Column]
    """Covariates."""
    centers: np.ndarray
    """Means of the treatment and the covariates."""
    scales: np.ndarray
    """Standard deviations of the treatment and the covariates."""
    binary: bool

    def sample(self, arguments: Mapping[str, Any], plate: Callable[[], Any], shift: jax.Array) -> None:
        """Add the site of the treatment, given the covariates and ``shift``, in units of the treatment or log odds."""
        intercept = numpyro.sample(f"{HIDDEN_CAUSE}_intercept", dist.Normal(0.0, _WIDE))
        linear = intercept
        if self.columns:
            rows = jnp.stack([jnp.asarray(column.read(arguments), jnp.float32) for column in self.columns], axis=-1)
            rows = (rows - jnp.asarray(self.centers[1:], rows.dtype)) / jnp.asarray(self.scales[1:], rows.dtype)
            prior = dist.Normal(0.0, _WIDE).expand([len(self.columns)]).to_event(1)
            linear = intercept + rows @ numpyro.sample(f"{HIDDEN_CAUSE}_coefficients", prior)
        values = self.treatment.read(arguments)
        if self.binary:
            with plate():
                logits = linear + shift
                numpyro.sample(f"{HIDDEN_CAUSE}_treatment", dist.BernoulliLogits(logits), obs=jnp.asarray(values, int))
            return
        center, scale = float(self.centers[0]), float(self.scales[0])
        noise = numpyro.sample(f"{HIDDEN_CAUSE}_noise", dist.HalfNormal(1.0))
        with plate():
            model = dist.Normal(center + scale * linear + shift, scale * noise)
            numpyro.sample(f"{HIDDEN_CAUSE}_treatment", model, obs=values)


def confounded_kernel(
    kernel: Kernel,
    *,
    argument: str,
    outcome: str,
    treatment: str | TreatmentModel,
    cause: HiddenCause,
    plate: str,
) -> Kernel:
    """Return the kernel with a standard normal hidden cause of each row, which enters treatment and outcome.

    ``argument`` is the input, whose rows are counted; ``treatment`` is the site of the treatment or its model; and
    ``plate`` is the name of the plate along the rows.
    """

    def run(**arguments: Any) -> None:
        n_rows = jnp.shape(arguments[argument])[0]

        def rows() -> Any:
            return numpyro.plate(plate, n_rows, dim=-1)

        gamma, delta = (
            numpyro.sample(f"{HIDDEN_CAUSE}_on_{name}", given) if isinstance(given, dist.Distribution) else given
            for name, given in (("treatment", cause.treatment), ("outcome", cause.outcome))
        )
        with rows():
            hidden = numpyro.sample(HIDDEN_CAUSE, dist.Normal(0.0, 1.0))
        shifts = {outcome: delta * hidden}
        if isinstance(treatment, TreatmentModel):
            treatment.sample(arguments, rows, gamma * hidden)
        else:
            shifts[treatment] = gamma * hidden
        with _Shift(shifts):
            kernel(**arguments)

    run.__signature__ = inspect.signature(kernel)  # type: ignore[attr-defined]
    run.__name__ = kernel_name(kernel)
    return run


class _Shift(Messenger):
    """Handler that shifts the linear predictor of some sites."""

    def __init__(self, shifts: Mapping[str, jax.Array]) -> None:
        super().__init__()
        self._shifts = shifts

    def process_message(self, msg: dict[str, Any]) -> None:
        """Set the shifted distribution of a site."""
        if msg["type"] == "sample" and msg["name"] in self._shifts:
            msg["fn"] = _shifted(msg["fn"], self._shifts[msg["name"]])


_LOCATIONS = (
    *(dist.Normal, dist.StudentT, dist.Laplace, dist.Cauchy, dist.Logistic, dist.Gumbel, dist.LogNormal),
    dist.AsymmetricLaplace,
)
_FACTORS: Mapping[type, tuple[str, int]] = {
    dist.Poisson: ("rate", 1),
    dist.NegativeBinomial2: ("mean", 1),
    dist.Gamma: ("rate", -1),
    dist.Exponential: ("rate", -1),
}
"""Parameter that is multiplied, and the sign of the exponent."""
_LOGITS: Mapping[type, type] = {
    dist.BernoulliLogits: dist.BernoulliLogits,
    dist.BernoulliProbs: dist.BernoulliLogits,
    dist.BinomialLogits: dist.BinomialLogits,
    dist.BinomialProbs: dist.BinomialLogits,
}


def can_shift(distribution: str | None) -> bool:
    """Return whether a hidden cause can enter the linear predictor of a distribution, by its name."""
    return distribution in {kind.__name__ for kind in (*_LOCATIONS, *_FACTORS, *_LOGITS)}


def _shifted(fn: Any, shift: jax.Array) -> Any:
    """Return a distribution whose location, log odds or log mean is shifted."""
    if isinstance(fn, dist.MaskedDistribution):
        return _shifted(fn.base_dist, shift).mask(fn._mask)
    if isinstance(fn, dist.ExpandedDistribution):
        return _shifted(fn.base_dist, shift)
    if type(fn) in _LOCATIONS:
        own = {name: getattr(fn, name) for name in fn.arg_constraints}
        return type(fn)(**{**own, "loc": own["loc"] + shift})
    if type(fn) in _FACTORS:
        name, sign = _FACTORS[type(fn)]
        own = {given: getattr(fn, given) for given in fn.arg_constraints}
        return type(fn)(**{**own, name: own[name] * jnp.exp(sign * shift)})
    if type(fn) in _LOGITS:
        count = {"total_count": fn.total_count} if "total_count" in fn.arg_constraints else {}
        return _LOGITS[type(fn)](logits=fn.logits + shift, **count)
    msg = (
        f"A hidden cause can enter a site with a location, a mean on the log scale, or log odds; got "
        f"{type(fn).__name__}. Write the cause into the kernel."
    )
    raise TypeError(msg)
