"""Fits that are repeated with other data of the same shape, and share their compiled programs."""

__all__ = ["make_refit"]

from collections.abc import Mapping
from copy import copy, deepcopy
from typing import Any, override

import jax
import jax.numpy as jnp
from numpyro.infer import SVI
from numpyro.infer.autoguide import (
    AutoBNAFNormal,
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuide,
    AutoGuideList,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from numpyro.infer.svi import SVIState

from aimz.data import KernelArguments
from aimz.inference.base import Fit
from aimz.inference.chosen_fits import ChosenNUTS, ChosenSVI, DeferredFit
from aimz.inference.compiled_setup import forget_data
from aimz.inference.loaded import PosteriorOnly
from aimz.inference.mcmc import MCMCFit
from aimz.inference.minibatch_scaling import guide_parts
from aimz.inference.scaled_guides import ScaledLowRankNormal, ScaledNormal
from aimz.inference.svi import SVIFit
from aimz.inference.svi_checkpoint import bounded_by_data
from aimz.inference.svi_steps import SVIPrograms
from aimz.kernel import KernelSpec, LRUCache, freeze, isolated

_GUIDES_OF_SHAPES = (
    AutoBNAFNormal,
    AutoDelta,
    AutoDiagonalNormal,
    AutoGuideList,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
    ScaledLowRankNormal,
    ScaledNormal,
)
"""Guides that keep only the shapes of the data they are set up with, and values that a fit starts with."""


def make_refit(fit: Fit) -> Fit:
    """Return an unfitted fit by the inference of ``fit``, whose copies share compiled programs.

    Raises
    ------
    NotFittedError
        If there is no inference object.
    """
    refit: Fit
    if isinstance(fit, PosteriorOnly):
        fit.require_inference("Fitting simulated data")
    if isinstance(fit, DeferredFit):
        refit = _DeferredRefit(fit)
    elif isinstance(fit, SVIFit):
        svi = _without_data(fit.inference)
        refit = SVIFit(svi) if fit.choice is None else ChosenSVI(svi, fit.choice)
        refit._programs = _RefitPrograms(svi)
    else:
        assert isinstance(fit, MCMCFit)
        mcmc = copy(fit.inference)
        mcmc._cache, mcmc._init_state_cache = {}, {}
        mcmc._states = mcmc._states_flat = mcmc._last_state = mcmc._warmup_state = None
        refit = MCMCFit(mcmc) if fit.choice is None else ChosenNUTS(mcmc, fit.choice)
    refit.shared_programs = LRUCache()
    return refit


class _DeferredRefit(DeferredFit):
    """A refit whose inference is chosen for the first data."""

    def __init__(self, fit: DeferredFit) -> None:
        super().__init__(fit._kernel, fit.requested)
        self._chosen = LRUCache[Fit]()

    @override
    def choose(self, call: KernelArguments, spec: KernelSpec, *, in_batches: bool, cycle: int) -> Fit:
        """Return a copy of the refit by the inference that was chosen for the first data."""
        choose = super().choose
        chosen = self._chosen.get(
            (in_batches, cycle), lambda: make_refit(choose(call, spec, in_batches=in_batches, cycle=cycle))
        )
        return chosen.copy()


class _RefitPrograms(SVIPrograms):
    """Programs of SVI that are compiled once for all data of the same shape.

    The initial state is computed by a new copy of the guide, which depends on the data and the key of the refit alone.
    A guide that keeps more of the data than their shape is set up again in each refit, and compiled again.
    """

    def __init__(self, svi: SVI) -> None:
        super().__init__(svi)
        self._inits = LRUCache[Any]()
        self._keeps_data = any(
            isinstance(part, AutoGuide) and type(part) not in _GUIDES_OF_SHAPES for part in guide_parts(svi.guide)
        )

    @override
    def begin(self, state: SVIState | None, call: KernelArguments, key: jax.Array) -> SVIState:
        """Return ``state`` with the given key, or an initial state for the data of ``call``."""
        if state is not None:
            return super().begin(state, call, key)
        if not self._keeps_data:
            if self._svi.constrain_fn is None:
                super().begin(None, call, jax.random.key(0))
            arrays = {name: jnp.asarray(array) for name, array in call.arrays.items()}
            init = self._inits.get(freeze(call.static), lambda: self._initializer(dict(call.static)))
            found: SVIState = init(key, arrays)
            if not self._keeps_data:  # which tracing the function above finds out
                return found
        forget_data(self._svi)
        self._loops, self._steps, self._draws = LRUCache(), LRUCache(), LRUCache()
        return super().begin(None, call, key)

    def _initializer(self, static: Mapping[str, object]) -> Any:
        """Return a compiled function that returns the initial state of a guide that has no data yet."""
        own = _without_data(self._svi)

        @jax.jit
        @isolated
        def init(key: jax.Array, arrays: Mapping[str, Any]) -> SVIState:
            forget_data(own)  # of an earlier trace
            state: SVIState = own.init(key, **arrays, **static)
            self._keeps_data |= any(True for _ in bounded_by_data(own))
            return state

        return init


def _without_data(svi: SVI) -> SVI:
    """Return a copy of ``svi`` that is not set up."""
    own = copy(svi)
    own.guide = deepcopy(svi.guide)
    forget_data(own)
    return own
