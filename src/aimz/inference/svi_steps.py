"""Compiled programs of stochastic variational inference: a loop of steps, and draws from the guide."""

__all__ = ["MAX_STEPS", "Loop", "Pace", "SVIPrograms", "warn_not_finite"]

import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpyro.infer import SVI, Predictive
from numpyro.infer.autoguide import AutoDelta, AutoGuide
from numpyro.infer.svi import SVIState
from numpyro.optim import Minimize

from aimz.data import KernelArguments
from aimz.errors import FitWarning, warn
from aimz.inference.compiled_setup import initial_state
from aimz.inference.minibatch_scaling import RowScale, enumerates_discrete
from aimz.inference.ordered_elbo import in_order_of_sites
from aimz.kernel import LRUCache, freeze, isolated
from aimz.progress import ProgressBar

type _Carry = tuple[SVIState, jax.Array, jax.Array, jax.Array]
"""State, losses, number of steps, and whether a step was not finite."""
type Loop = Callable[..., _Carry]
"""``f(state, arrays, scale, n_steps, at, per_epoch, bad) -> (state, losses, taken, bad)``."""

MAX_STEPS = 1000
"""Largest number of steps in one compiled loop."""
_SECONDS = 0.25
"""Target duration of a loop, short enough for a progress bar and Ctrl-C."""


@dataclass
class Pace:
    """Number of steps in the next loop, adapted to the measured time per step."""

    steps: int = 16

    def update(self, steps: int, seconds: float) -> None:
        """Adapt to the duration of a loop."""
        if steps:
            target = int(_SECONDS * steps / max(seconds, 1e-6))
            self.steps = max(1, min(target, 8 * self.steps, MAX_STEPS))


class SVIPrograms:
    """Steps and draws of one :class:`numpyro.infer.SVI` object, compiled once per shape of the data.

    The number of steps of a loop is an argument of the compiled program: a run of any length compiles once, and its
    result does not depend on how it is divided into loops.
    """

    def __init__(self, svi: SVI) -> None:
        self._svi = svi
        self._loops = LRUCache[Loop]()
        self._steps = LRUCache[Callable[..., Any]]()
        self._draws = LRUCache[Callable[..., dict[str, jax.Array]]]()

    def begin(self, state: SVIState | None, call: KernelArguments, key: jax.Array) -> SVIState:
        """Return ``state`` with the given key, or an initial state for the shapes of ``call``."""
        if state is not None:
            self.set_up(call)
            return state._replace(rng_key=key)
        arrays = {name: jnp.asarray(array) for name, array in call.arrays.items()}
        return initial_state(self._svi, key, arrays, call.static)

    def set_up(self, call: KernelArguments) -> None:
        """Set up guide and constraints on the data, if the state was read from a file."""
        if self._svi.constrain_fn is not None:
            return
        self.begin(None, call, jax.random.key(0))

    def run(
        self, state: SVIState, call: KernelArguments, *, num_steps: int, bar: ProgressBar
    ) -> tuple[SVIState, np.ndarray, bool]:
        """Run ``num_steps`` steps on the same data; return the new state, the losses, and if one was not finite.

        A step whose loss or gradient is not finite ends the run. Its loss is the last, but the state is the one before.
        """
        arrays = {name: jnp.asarray(array) for name, array in call.arrays.items()}
        losses: list[np.ndarray] = []
        done, pace, bad = 0, Pace(), False
        loop = self.loop(call.static)
        while done < num_steps and not bad:
            started = time.perf_counter()
            n_steps = min(pace.steps, num_steps - done)
            state, values, taken, stopped = loop(state, arrays, 1.0, n_steps, 0, 1, np.False_)
            losses.append(np.asarray(values)[: int(taken)])
            done, bad = done + int(taken), bool(stopped)
            if not bar.n:
                bar.restart_clock()
            bar.update(int(taken))
            bar.set_postfix(loss=f"{losses[-1][-1]:.4g}", refresh=False)
            if bad:
                warn_not_finite(f"at step {done} of {num_steps}; the run stops there")
            pace.update(n_steps, time.perf_counter() - started)
        return state, np.concatenate(losses), bad

    def one_step(self, static: Mapping[str, object], names: frozenset[str]) -> Callable[..., Any]:
        """Return one compiled step: ``f(state, arrays, scale) -> (state, loss, is_finite)``."""
        return self._steps.get((freeze(static), names), lambda: self._jit(self._step(dict(static), names)))

    def draw(
        self,
        params: Mapping[str, Any],
        key: jax.Array,
        *,
        num_samples: int,
        latents: Iterable[str] | None,
        call: KernelArguments | None,
    ) -> dict[str, jax.Array]:
        """Return ``num_samples`` draws of the latent sites from the fitted guide.

        Raises
        ------
        ValueError
            If the guide needs data that are not in ``call``.
        """
        arrays, static = ({}, {}) if call is None else (call.arrays, call.static)
        _check_guide(self._svi.guide, {*arrays, *static})
        draw = self._draws.get(
            (num_samples, call is None, freeze(static)),
            lambda: jax.jit(partial(_draw, self._svi.guide, num_samples, dict(static))),
        )
        drawn = draw(key, dict(params), dict(arrays))
        # Without a trace of the kernel, auxiliary sites of a guide are recognised by their prefix.
        names = [name for name in drawn if not name.startswith("_auto")] if latents is None else latents
        return {name: drawn[name] for name in names if name in drawn}

    def loop(self, static: Mapping[str, object], names: frozenset[str] = frozenset(), *, stacked: bool = False) -> Loop:
        """Return the compiled loop of steps.

        Each step scales the log density of the sites ``names`` by ``scale``. If ``stacked``, arrays have a leading axis
        of batches and step ``i`` uses batch ``i``; ``at`` is the position of the first batch in its epoch of
        ``per_epoch`` steps. After a step that is not finite (or if ``bad`` is set), the loop ends with its epoch.
        """
        return self._loops.get(
            (freeze(static), names, stacked), lambda: self._jit(self._loop(dict(static), names, stacked=stacked))
        )

    def _jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compile ``f(state, arrays, scale, ...)``; enumeration in NumPyro needs a static scale."""
        return jax.jit(function, static_argnums=2 if enumerates_discrete(self._svi) else ())

    def _loop(self, static: Mapping[str, object], names: frozenset[str], *, stacked: bool) -> Loop:
        step = self._step(static, names)

        def loop(
            state: SVIState, arrays: Mapping[str, Any], scale: Any, n_steps: Any, at: Any, per_epoch: Any, bad: Any
        ) -> _Carry:
            def unfinished(carry: _Carry) -> jax.Array:
                _, _, i, bad = carry
                return jnp.logical_and(i < n_steps, ~(bad & ((at + i) % per_epoch == 0)))

            def body(carry: _Carry) -> _Carry:
                state, losses, i, bad = carry
                batch = arrays
                if stacked:
                    batch = {name: lax.dynamic_index_in_dim(a, i, keepdims=False) for name, a in arrays.items()}
                state, loss, is_finite = step(state, batch, scale)
                return state, losses.at[i].set(loss), i + 1, bad | ~is_finite

            start = (state, jnp.zeros(MAX_STEPS), jnp.asarray(0), jnp.asarray(bad))
            result: _Carry = lax.while_loop(unfinished, body, start)
            return result

        return loop

    def _step(self, static: Mapping[str, object], names: frozenset[str]) -> Callable[..., Any]:
        """Return one step that leaves the state unchanged if the loss or the new parameters are not finite."""
        # `Minimize` runs a whole optimisation in one update and does not support `stable_update`.
        stable = not isinstance(self._svi.optim, Minimize)

        @isolated
        def step(state: SVIState, arrays: Mapping[str, jax.Array], scale: Any) -> tuple[SVIState, jax.Array, jax.Array]:
            svi = in_order_of_sites(self._svi)
            update = svi.stable_update if stable else svi.update
            with RowScale(names, scale) if names else nullcontext():
                new, loss = update(state, **arrays, **static)
            is_finite = jnp.isfinite(loss)
            if stable:
                # The optimizer counts only accepted steps; mutable state must be rejected together with them.
                is_finite &= new.optim_state[0] != state.optim_state[0]
                mutable = jax.tree.map(lambda a, b: jnp.where(is_finite, a, b), new.mutable_state, state.mutable_state)
                new = new._replace(mutable_state=mutable)
            return new, loss, is_finite

        return step


def warn_not_finite(where: str) -> None:
    """Warn that a run was stopped, with advice."""
    warn(
        f"The loss or its gradient was not finite {where} and keeps the last good state. A smaller learning rate, "
        "other initial values or scaled inputs usually help.",
        FitWarning,
    )


def _check_guide(guide: Any, given: set[str]) -> None:
    """Raise if a handwritten guide needs arguments that are not ``given``."""
    if isinstance(guide, AutoGuide):
        return
    parameters = inspect.signature(guide).parameters.values()
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in given]
    if missing:
        msg = (
            f"The guide needs {', '.join(f'`{name}`' for name in missing)}; got none. Pass the data by name: "
            "`sample(X=X, y=y)`."
        )
        raise ValueError(msg)


@isolated
def _draw(
    guide: Any,
    num_samples: int,
    static: Mapping[str, object],
    key: jax.Array,
    params: Mapping[str, Any],
    arrays: Mapping[str, Any],
) -> dict[str, jax.Array]:
    """Draw from a guide of any kind; the result can include auxiliary sites."""
    if isinstance(guide, AutoDelta):
        # `AutoDelta.sample_posterior` runs the model for deterministic sites, which needs data.
        return {
            name: jnp.broadcast_to(value, (num_samples, *jnp.shape(value)))
            for name, value in guide.median(params).items()
        }
    if isinstance(guide, AutoGuide):
        return dict(guide.sample_posterior(key, params, sample_shape=(num_samples,), **arrays, **static))
    return dict(Predictive(guide, params=dict(params), num_samples=num_samples)(key, **arrays, **static))
