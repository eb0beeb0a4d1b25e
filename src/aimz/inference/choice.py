"""Choice of the inference for a kernel and its data, if the user does not make it."""

__all__ = ["CYCLE", "Choice", "choose_inference", "read_request"]

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aimz.data import KernelArguments
from aimz.inference.kernel_cost import KernelCost, measure_kernel
from aimz.kernel import KernelSpec

MAX_OPERATIONS = 1_000_000
"""Largest number of operations of a log density for NUTS, such as 30,000 rows of 10 columns in a linear model."""
MAX_LATENTS = 500
"""Largest number of latent values for NUTS, and for a guide of full rank."""
CYCLE = 1000
"""Number of steps over which the learning rate decays before it starts again."""
RANK = 20


@dataclass(frozen=True)
class Choice:
    """Inference that was chosen for a model."""

    method: str
    """"nuts" or "svi"."""
    reason: str
    requested: str | None = None
    """Method that the user named, if any."""
    rank: int | None = None
    """SVI: rank of the guide's covariance; None for full rank, 0 without latent sites."""
    cycle: int = CYCLE
    """SVI: number of steps over which the learning rate decays before it starts again."""

    @property
    def description(self) -> str:
        """Method and reason as a text."""
        if self.method == "nuts":
            what = "NUTS, 4 vectorized chains"
        elif self.rank == 0:
            what = "SVI of the parameters"
        else:
            what = f"SVI with a {'full-rank' if self.rank is None else f'rank-{self.rank}'} normal guide"
        return f"{what} ({'chosen' if self.requested is None else 'as requested'}: {self.reason})"

    def write(self) -> dict[str, Any]:
        """Return the choice as JSON."""
        return asdict(self)

    @staticmethod
    def read(node: Mapping[str, Any]) -> "Choice":
        """Return a choice that :meth:`write` wrote."""
        return Choice(**node)


def read_request(inference: object) -> str | None:
    """Return the name of the inference that the user asked for; None to choose.

    Raises
    ------
    TypeError
        If it is a text that names no inference.
    """
    if inference is None or inference in ("nuts", "svi"):
        return inference
    msg = (
        f"`inference` must be 'nuts', 'svi', an `SVI` or `MCMC` object of `numpyro.infer`, or None to choose; got "
        f"{inference!r}. Pass None unless you need another."
    )
    raise TypeError(msg)


def choose_inference(
    kernel: Callable[..., Any],
    requested: str | None,
    call: KernelArguments,
    spec: KernelSpec,
    *,
    in_batches: bool,
    cycle: int = CYCLE,
) -> Choice:
    """Return NUTS as the choice if the data are small enough for it and the kernel allows it, else SVI."""
    cost = measure_kernel(kernel, call.arrays, call.static)
    rank = None if cost.latent_values <= MAX_LATENTS else RANK
    rank = rank if cost.latent_values else 0
    obstacle = "the rows are read in batches" if in_batches else _obstacle(cost, spec)
    if requested == "svi":
        return Choice("svi", "`inference='svi'`", requested, rank, cycle)
    if requested == "nuts":
        return Choice("nuts", "`inference='nuts'`", requested)
    if obstacle is not None:
        return Choice("svi", obstacle, None, rank, cycle)
    return Choice("nuts", f"{cost.latent_values} latent values and {call.n_obs:,} rows are few enough")


def _obstacle(cost: KernelCost, spec: KernelSpec) -> str | None:
    """Return why NUTS is not chosen, or None."""
    if spec.param_sites:
        return f"`{spec.param_sites[0]}` is a parameter to optimize"
    if cost.resampled is not None:
        return f"`{cost.resampled}` is drawn in each evaluation"
    if cost.latent_values > MAX_LATENTS:
        return f"{cost.latent_values:,} latent values are more than {MAX_LATENTS}"
    if cost.operations > MAX_OPERATIONS:
        return f"a log density takes {cost.operations:.2g} operations, more than {MAX_OPERATIONS:.0e}"
    return None
