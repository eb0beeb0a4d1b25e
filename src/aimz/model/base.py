"""State and properties of a model, shared by all groups of methods."""

__all__ = ["LIVE_MODELS", "ModelBase", "ModelInputs", "optional_key"]

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
from numpyro.infer import MCMC, SVI
from numpyro.infer.svi import SVIState

from aimz.data import Posterior, check_key, key_from_text
from aimz.engine import KernelEngine, StreamingOptions
from aimz.errors import NotFittedError
from aimz.inference import PosteriorOnly, VIResult, make_fit
from aimz.kernel import KernelSpec
from aimz.model.results import ResultBuilder
from aimz.model.saving import ModelState
from aimz.types import Kernel

if TYPE_CHECKING:
    import xarray as xr

    from aimz.store import TemporaryDirectory


LIVE_MODELS: "weakref.WeakSet[ModelBase]" = weakref.WeakSet()
"""All models that exist, for :meth:`ImpactModel.cleanup_models`."""


@dataclass(frozen=True)
class ModelInputs:
    """Inputs of a model, as in its last fit (or in its first call, if it has not been fitted)."""

    extra: tuple[str, ...]
    """Names of the kernel's parameters other than input and output."""
    columns: tuple[str, ...]
    """Names of the input's columns; empty if the input was not a table."""
    static: Mapping[str, Any]
    """Arguments of the kernel that are not arrays, as far as they are plain values (numbers, strings, tuples)."""
    arrays: Mapping[str, Any] | None
    """Name to array of shape ``(n_obs, ...)``, without the output; None if the data are not in memory."""
    n_obs: int | None
    """Number of rows; None if it is not known."""


class ModelBase:
    """State and properties of an :class:`ImpactModel`."""

    def __init__(
        self,
        kernel: Kernel,
        rng_key: jax.Array,
        inference: SVI | MCMC | None = None,
        *,
        svi: SVI | None = None,
        param_input: str = "X",
        param_output: str = "y",
        coords: Mapping[str, Any] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        engine = KernelEngine.of(kernel, param_input, param_output)
        key, fit = check_key(rng_key), make_fit(kernel, inference, svi)
        self._set_state(ModelState(key, engine, fit, ResultBuilder(dims, coords), None, None))

    def _set_state(self, state: ModelState) -> None:
        self._rng_key = state.key
        self._engine = state.engine
        self._fit = state.fit
        self._results = state.results
        self._posterior = state.posterior
        self._observed = state.observed
        self._home: TemporaryDirectory | None = None
        LIVE_MODELS.add(self)

    @property
    def kernel(self) -> Kernel:
        """NumPyro model."""
        return self._engine.kernel

    @property
    def kernel_spec(self) -> KernelSpec | None:
        """Structure of the kernel, as found by all calls so far; None before the first call."""
        return self._engine.reader.spec

    @property
    def inference(self) -> SVI | MCMC | None:
        """Inference object of the model; None if the model was loaded without one."""
        return self._fit.inference

    @property
    def param_input(self) -> str:
        """Name of the kernel's input parameter."""
        return self._engine.signature.param_input

    @property
    def param_output(self) -> str:
        """Name of the kernel's output parameter."""
        return self._engine.signature.param_output

    @property
    def posterior(self) -> dict[str, jax.Array] | None:
        """Site name to draws of shape ``(n_draws, ...)``, chain after chain; None if there is no posterior."""
        return None if self._posterior is None else dict(self._posterior.draws)

    @property
    def rng_key(self) -> jax.Array:
        """PRNG key that the next call without ``rng_key`` splits."""
        return self._rng_key

    @property
    def inputs(self) -> ModelInputs:
        """Inputs of the model, as in its last fit (or in its first call, if it has not been fitted)."""
        engine, fitted = self._engine, self._observed
        arrays = None
        if fitted is not None and fitted.call is not None:
            arrays = {n: array for n, array in fitted.call.arrays.items() if array.ndim and n != self.param_output}
        return ModelInputs(
            extra=tuple(engine.signature.extra),
            columns=tuple(engine.tables.get(self.param_input, ())),
            static={} if engine.example is None else dict(engine.example.static),
            arrays=arrays,
            n_obs=None if fitted is None or fitted.output is None else int(fitted.output.shape[0]),
        )

    @property
    def temp_dir(self) -> str | None:
        """Temporary directory of results stored without ``output_dir``; None if there are none."""
        return None if self._home is None or self._home.closed else str(self._home.path)

    @property
    def vi_state(self) -> SVIState | None:
        """State of the optimization (parameters, optimizer, mutable state); None before SVI has run."""
        return self._fit.vi_state

    @property
    def _vi_state(self) -> SVIState | None:
        """Alias of :attr:`vi_state`, for training loops that use this name."""
        return self._fit.vi_state

    @property
    def vi_result(self) -> VIResult | None:
        """Fitted parameters and losses of all steps; None before SVI has run.

        May be set after a custom training loop, to any object with ``params`` and ``losses``.
        """
        return self._fit.vi_result

    @vi_result.setter
    def vi_result(self, result: VIResult) -> None:
        if not (hasattr(result, "params") and hasattr(result, "losses")):
            msg = (
                f"`vi_result` must have `params` and `losses`; got {type(result).__name__}. Pass the result of "
                "`svi.run`, or an object with both attributes."
            )
            raise TypeError(msg)
        if isinstance(self._fit, PosteriorOnly):
            self._fit.require_inference("Setting `vi_result`")
        self._fit.vi_result = result
        self._forget_data()

    def is_fitted(self) -> bool:
        """Return whether the model has a posterior, from a fit or set by the user."""
        return self._posterior is not None

    def cleanup(self) -> None:
        """Remove the temporary directory and the results in it.

        Reading one of these results then raises ``StaleResultError``. Results with their own ``output_dir`` are kept.
        """
        if self._home is not None:
            self._home.close()
            self._home = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, without the temporary directory, which belongs to this process."""
        return {**self.__dict__, "_home": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state and register the model for :meth:`cleanup_models`."""
        self.__dict__ |= state
        LIVE_MODELS.add(self)

    def _forget_data(self) -> None:
        """Drop the data of the last fit before other data change the parameters; fingerprints are kept."""
        if self._observed is not None:
            self._observed = replace(self._observed, call=None, stale=True)

    def _key(self, given: jax.Array | None, options: StreamingOptions | None = None) -> jax.Array:
        """Return the key of a call: the given one, that of the call to resume, or one split off the model's key."""
        if given is not None:
            return given
        if options is not None and options.resume is not None and options.resume.journal.fingerprint["rng_key"]:
            return key_from_text(options.resume.journal.fingerprint["rng_key"])
        self._rng_key, key = jax.random.split(self._rng_key)
        return key

    def _groups_of(self, posterior: Posterior, spec: KernelSpec | None) -> "dict[str, xr.Dataset]":
        """Return draws as groups of a tree, with the labels of the fitted data."""
        index = None if self._observed is None else self._observed.index
        return self._results.posterior(posterior, spec, self._engine.columns, index)

    def _fitted(self, method: str) -> Posterior:
        """Return the posterior; raise if there is none."""
        if self._posterior is None:
            msg = (
                f"`{method}` needs a posterior, and this model has none yet. Call `fit_on_batch(X, y)`, or "
                "`set_posterior_sample` with draws from another source."
            )
            raise NotFittedError(msg)
        return self._posterior


def optional_key(rng_key: Any) -> jax.Array | None:
    """Return the ``rng_key`` argument of a call after checking it; None if it was not passed."""
    return None if rng_key is None else check_key(rng_key)
