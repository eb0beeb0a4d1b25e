"""Interface of a fit: run, draw, save and restore."""

__all__ = ["Fit", "KernelContext", "Outcome", "VIResult"]

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self

import jax
import numpy as np
from numpyro.infer import MCMC, SVI
from numpyro.infer.svi import SVIState

from aimz.data import KernelArguments, Posterior
from aimz.errors import NotFittedError
from aimz.inference.choice import Choice
from aimz.kernel import AbstractCall, KernelSpec, LRUCache


class VIResult(Protocol):
    """Attributes that the result of a variational fit must have."""

    params: Any
    losses: Any


@dataclass(frozen=True)
class KernelContext:
    """Arguments and parameter shapes of a kernel, with which a saved fit is restored."""

    example: AbstractCall | None
    """Abstract call of the kernel, from the fit if there was one."""
    static: Mapping[str, Any]
    """Arguments that are not arrays."""
    params: Mapping[str, Any]
    """Tree of shapes of each parameter that belongs to the kernel."""


@dataclass(frozen=True)
class Outcome:
    """Outcome of the last run of a fit."""

    settled: bool | None = None
    """Whether its posterior can be relied on; None if it is not known."""
    text: str = ""
    """Number of steps or draws and, if it has not settled, the reason."""


class Fit(ABC):
    """An inference object and the state of its fit."""

    inference: SVI | MCMC | None
    kind: str
    """Name of the inference method: "SVI" or "MCMC"; "deferred" until it is chosen."""
    choice: Choice | None = None
    """Choice of the inference, unless the user passed an object."""
    outcome = Outcome()
    shared_programs: LRUCache[Any] | None = None
    """Compiled programs that all refits to data of the same shape share; None if the fit is not repeated."""
    vi_state: SVIState | None = None
    vi_result: VIResult | None = None

    def copy(self) -> Self:
        """Return a copy for a further fit; it shares the inference object and the compiled programs."""
        fit = object.__new__(type(self))
        vars(fit).update(vars(self))
        return fit

    @property
    def programs(self) -> LRUCache[Any]:
        """Compiled programs of this fit: shared with its copies if it is repeated, and otherwise new."""
        return LRUCache() if self.shared_programs is None else self.shared_programs

    def restorer(self) -> Callable[[], None]:
        """Return a function that restores the inference object after a fit that failed."""
        return lambda: None

    @property
    @abstractmethod
    def params(self) -> dict[str, Any]:
        """Optimised parameters and mutable state by name."""

    @abstractmethod
    def check_run(self, call: KernelArguments, spec: KernelSpec, *, num_samples: int) -> None:
        """Raise if a fit to ``call`` would be wrong, before computing anything."""

    @abstractmethod
    def run(
        self,
        call: KernelArguments,
        spec: KernelSpec,
        key: jax.Array,
        *,
        num_steps: int | None,
        num_samples: int,
        progress: bool,
    ) -> Posterior:
        """Fit to the data of ``call`` and return draws of the latent sites.

        Without ``num_steps``, SVI runs until it has settled.
        """

    @abstractmethod
    def check_sample(self, call: KernelArguments | None) -> None:
        """Raise if there is no fit to draw from, or data are needed and missing."""

    @abstractmethod
    def sample(
        self,
        call: KernelArguments | None,
        spec: KernelSpec | None,
        key: jax.Array,
        *,
        num_samples: int,
        return_sites: Iterable[str] | None,
    ) -> Posterior:
        """Return new draws of ``return_sites`` (default: all latent sites) from the fit."""

    @abstractmethod
    def write(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the state of the fit as JSON and add its arrays to ``arrays``."""

    @abstractmethod
    def read(self, node: Mapping[str, Any], arrays: Mapping[str, np.ndarray], context: KernelContext) -> None:
        """Restore the state written by :meth:`write`.

        Raises
        ------
        SavedModelError
            If it belongs to another guide, optimizer or sampler.
        """


def check_fitted(is_fitted: object) -> None:
    """Raise NotFittedError unless there is a fit to draw from."""
    if not is_fitted:
        msg = (
            "There is no inference result to sample from. Call `fit(X, y)`, or set `vi_result` after running "
            "your own training loop."
        )
        raise NotFittedError(msg)
