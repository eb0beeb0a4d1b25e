"""The state of a model, its properties, and what every group of methods needs."""

__all__ = ["LIVING", "ModelBase", "ModelInputs", "given_key"]

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
from numpyro.infer import MCMC, SVI
from numpyro.infer.svi import SVIState

from aimz.data import Posterior, key_from_text, read_key
from aimz.engine import KernelEngine, StreamingOptions
from aimz.errors import NotFittedError
from aimz.inference import PosteriorOnly, VIResult, make_fit
from aimz.kernel import KernelSpec, read_signature
from aimz.model.results import ResultBuilder
from aimz.model.saving import ModelState
from aimz.types import Kernel

if TYPE_CHECKING:
    import xarray as xr

    from aimz.store import TemporaryDirectory


LIVING: "weakref.WeakSet[ModelBase]" = weakref.WeakSet()
"""Models that are alive, for :meth:`ImpactModel.cleanup_models`."""


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
    """What a model is made of."""

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
        signature = read_signature(kernel, param_input, param_output)
        key, fit = read_key(rng_key), make_fit(kernel, inference, svi)
        self._begin(ModelState(key, KernelEngine(kernel, signature), fit, ResultBuilder(dims, coords), None, None))

    def _begin(self, parts: ModelState) -> None:
        self._rng_key = parts.key
        self._engine = parts.engine
        self._fit = parts.fit
        self._results = parts.results
        self._posterior = parts.posterior
        self._observed = parts.observed
        self._home: TemporaryDirectory | None = None
        LIVING.add(self)

    @property
    def kernel(self) -> Kernel:
        """The NumPyro model."""
        return self._engine.kernel

    @property
    def kernel_spec(self) -> KernelSpec | None:
        """Structure of the kernel as all calls so far showed it; None before the first."""
        return self._engine.reader.spec

    @property
    def inference(self) -> SVI | MCMC | None:
        """The inference object the model was made with; None if it was loaded without one."""
        return self._fit.inference

    @property
    def param_input(self) -> str:
        """Name of the kernel's input."""
        return self._engine.signature.param_input

    @property
    def param_output(self) -> str:
        """Name of the kernel's output."""
        return self._engine.signature.param_output

    @property
    def posterior(self) -> dict[str, jax.Array] | None:
        """Site name to draws of shape ``(n_draws, ...)``, chain after chain; None before there are any."""
        return None if self._posterior is None else dict(self._posterior.draws)

    @property
    def rng_key(self) -> jax.Array:
        """The key the next call that is given none will split."""
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
        """Directory of the results that were given none; None before there are any."""
        return None if self._home is None or self._home.closed else str(self._home.path)

    @property
    def vi_state(self) -> SVIState | None:
        """State of the optimisation (parameters, optimizer, mutable state); None before SVI has run."""
        return self._fit.vi_state

    @property
    def _vi_state(self) -> SVIState | None:
        """The name under which a loop of one's own may know :attr:`vi_state`."""
        return self._fit.vi_state

    @property
    def vi_result(self) -> VIResult | None:
        """Fitted parameters and the losses of all steps so far; None before SVI has run.

        May be set after a loop of one's own, to anything with ``params`` and ``losses``.
        """
        return self._fit.vi_result

    @vi_result.setter
    def vi_result(self, result: VIResult) -> None:
        if not (hasattr(result, "params") and hasattr(result, "losses")):
            msg = f"`vi_result` must have `params` and `losses`; got {type(result).__name__}."
            raise TypeError(msg)
        if isinstance(self._fit, PosteriorOnly):
            self._fit.refuse("Setting `vi_result`")
        self._fit.vi_result = result
        self._leave_data()

    def is_fitted(self) -> bool:
        """Whether there is a posterior, fitted or set."""
        return self._posterior is not None

    def cleanup(self) -> None:
        """Remove the temporary directory with the results in it; reading one raises ``StaleResultError`` from then on.

        Results with an ``output_dir`` of their own stay.
        """
        if self._home is not None:
            self._home.close()
            self._home = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the temporary directory out of a pickle: it belongs to this process."""
        return {**self.__dict__, "_home": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Be found by :meth:`cleanup_models` again."""
        self.__dict__ |= state
        LIVING.add(self)

    def _leave_data(self) -> None:
        """Forget the data of the last fit, since something else moves the parameters; their fingerprints stay."""
        if self._observed is not None:
            self._observed = replace(self._observed, call=None, moved=True)

    def _key(self, given: jax.Array | None, streaming: StreamingOptions | None = None) -> jax.Array:
        """Return the key of a call: the one given, that of the call it resumes, or one split off the model's own."""
        if given is not None:
            return given
        if streaming is not None and streaming.journal is not None and streaming.journal.fingerprint["rng_key"]:
            return key_from_text(streaming.journal.fingerprint["rng_key"])
        self._rng_key, key = jax.random.split(self._rng_key)
        return key

    def _groups_of(self, posterior: Posterior, spec: KernelSpec | None) -> "dict[str, xr.Dataset]":
        """Return draws as groups of a tree, with the labels of the data they were fitted to."""
        index = None if self._observed is None else self._observed.index
        return self._results.posterior(posterior, spec, self._engine.columns, index)

    def _fitted(self, method: str) -> Posterior:
        """Return the posterior, or say which call makes one."""
        if self._posterior is None:
            msg = (
                f"`{method}` needs a posterior, and this model has none yet. Call `fit_on_batch(X, y)`, or "
                "`set_posterior_sample` with draws made elsewhere."
            )
            raise NotFittedError(msg)
        return self._posterior


def given_key(rng_key: Any) -> jax.Array | None:
    """Return the key given to a call, checked, or None."""
    return None if rng_key is None else read_key(rng_key)
