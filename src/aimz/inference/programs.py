"""The compiled programs of stochastic variational inference: a loop of steps, and draws from the guide."""

__all__ = ["SVIPrograms"]

import inspect
import time
from collections.abc import Callable, Iterable, Mapping
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
from tqdm.auto import tqdm

from aimz.data import Call
from aimz.errors import warn
from aimz.kernel import Recent, freeze

type _Chunk = Callable[..., tuple[Any, jax.Array, jax.Array]]

_CHUNK = 1000
"""Most steps between two looks at the clock."""
_SECONDS = 0.25
"""How long a chunk should take: often enough for a progress bar and Ctrl-C."""


class SVIPrograms:
    """Steps and draws of one :class:`numpyro.infer.SVI` object, compiled once per shape of the data.

    The number of steps of a chunk is an argument of the compiled program, so a run of any length compiles
    once, and where a run is cut into chunks does not show in its result.
    """

    def __init__(self, svi: SVI) -> None:
        self._svi = svi
        self._chunks = Recent[_Chunk]()
        self._draws = Recent[Callable[..., dict[str, jax.Array]]]()

    def run(
        self, state: SVIState | None, call: Call, *, num_steps: int, key: jax.Array, progress: bool
    ) -> tuple[SVIState, np.ndarray]:
        """Take ``num_steps`` steps from ``state`` and return the new state and the loss of each step.

        A loss that is not finite ends the run: the state is then that before the step that failed, and the
        last loss is the one that was not finite.
        """
        arrays = {name: jnp.asarray(array) for name, array in call.arrays.items()}
        losses: list[np.ndarray] = []
        done, size = 0, 16
        # The bar stands before the work begins: setting up a guide can take longer than a thousand steps.
        with tqdm(total=num_steps, disable=not progress, unit="step", desc="SVI, setting up") as bar:
            state = self._svi.init(key, **arrays, **call.static) if state is None else state._replace(rng_key=key)
            chunk = self._chunks.get(freeze(call.static), lambda: jax.jit(self._chunk(dict(call.static))))
            bar.set_description("SVI", refresh=False)
            while done < num_steps:
                started = time.perf_counter()
                n_steps = min(size, num_steps - done, _CHUNK)
                state, values, taken = chunk(state, arrays, n_steps)
                losses.append(np.asarray(values)[: int(taken)])
                done += int(taken)
                bar.update(int(taken))
                bar.set_postfix(loss=f"{losses[-1][-1]:.4g}", refresh=False)
                if not np.isfinite(losses[-1][-1]):
                    warn(
                        f"The loss was not finite at step {done} of {num_steps}; the run stops there and keeps "
                        "the state before that step. A smaller learning rate, other initial values or scaled "
                        "inputs usually help.",
                        RuntimeWarning,
                    )
                    break
                elapsed = max(time.perf_counter() - started, 1e-6)
                size = max(1, int(n_steps * min(_SECONDS / elapsed, 8.0)))
        return state, np.concatenate(losses)

    def draw(
        self,
        params: Mapping[str, Any],
        key: jax.Array,
        *,
        num_samples: int,
        latents: Iterable[str] | None,
        call: Call | None,
    ) -> dict[str, jax.Array]:
        """Return ``num_samples`` draws of the latent sites from the fitted guide.

        Raises
        ------
        ValueError
            If the guide is a function of data that were not given.
        """
        arrays, static = ({}, {}) if call is None else (call.arrays, call.static)
        _check_guide(self._svi.guide, {*arrays, *static})
        handle = (num_samples, call is None, freeze(static))
        draw = self._draws.get(handle, lambda: jax.jit(partial(_draw, self._svi.guide, num_samples, dict(static))))
        drawn = draw(key, dict(params), dict(arrays))
        # Before any trace of the kernel there is nothing to choose by but the names guides give to what is theirs.
        names = [name for name in drawn if not name.startswith("_auto")] if latents is None else latents
        return {name: drawn[name] for name in names if name in drawn}

    def _chunk(self, static: Mapping[str, object]) -> _Chunk:
        # `Minimize` runs a whole optimisation in one update and has no stable one.
        stable = not isinstance(self._svi.optim, Minimize)
        update = self._svi.stable_update if stable else self._svi.update

        def chunk(
            state: SVIState, arrays: Mapping[str, jax.Array], n_steps: int
        ) -> tuple[SVIState, jax.Array, jax.Array]:
            def unfinished(carry: tuple[Any, jax.Array, jax.Array, jax.Array]) -> jax.Array:
                _, _, step, finite = carry
                return (step < n_steps) & finite

            def body(
                carry: tuple[Any, jax.Array, jax.Array, jax.Array],
            ) -> tuple[Any, jax.Array, jax.Array, jax.Array]:
                state, losses, step, _ = carry
                state, loss = update(state, **arrays, **static)
                return state, losses.at[step].set(loss), step + 1, jnp.isfinite(loss)

            start = (state, jnp.zeros(_CHUNK), jnp.asarray(0), jnp.asarray(True))  # noqa: FBT003
            state, losses, taken, _ = lax.while_loop(unfinished, body, start)
            return state, losses, taken

        return chunk


def _check_guide(guide: Any, given: set[str]) -> None:
    """Refuse to draw from a guide written by hand without the data it reads."""
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


def _draw(
    guide: Any,
    num_samples: int,
    static: Mapping[str, object],
    key: jax.Array,
    params: Mapping[str, Any],
    arrays: Mapping[str, Any],
) -> dict[str, jax.Array]:
    """Draw from a guide of any kind; what it returns besides latent sites is left to the caller to drop."""
    if isinstance(guide, AutoDelta):
        # Its own `sample_posterior` would run the model, and so need data, for the deterministic sites.
        return {
            name: jnp.broadcast_to(value, (num_samples, *jnp.shape(value)))
            for name, value in guide.median(params).items()
        }
    if isinstance(guide, AutoGuide):
        return dict(guide.sample_posterior(key, params, sample_shape=(num_samples,), **arrays, **static))
    return dict(Predictive(guide, params=dict(params), num_samples=num_samples)(key, **arrays, **static))
