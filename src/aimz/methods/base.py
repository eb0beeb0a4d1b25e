"""State and properties of a model, shared by all groups of methods."""

__all__ = ["LIVE_MODELS", "ModelBase", "ModelInputs", "on_snapshot", "optional_key"]

import operator
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal, Self

import jax
from numpyro.infer import MCMC, SVI
from numpyro.infer.svi import SVIState

from aimz.data import Posterior, check_key, key_from_text
from aimz.engine import KernelEngine, PredictionRequest, declared_categories, without_counts
from aimz.errors import NotFittedError
from aimz.inference import Fit, FitData, PosteriorOnly, VIResult, make_fit
from aimz.kernel import KernelSpec
from aimz.methods.fitted_rows import FittedRows
from aimz.methods.results import ResultBuilder
from aimz.methods.saving import ModelState
from aimz.types import Kernel

if TYPE_CHECKING:
    import xarray as xr

    from aimz.causal_graph import CausalGraph
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
    """Arguments of the kernel that are not arrays, as far as they are plain values (numbers, strings, tuples), without
    the numbers of categories, which are found in each call."""
    arrays: Mapping[str, Any] | None
    """Name to array of shape ``(n_obs, ...)``, without the output; None if the data are not in memory."""
    n_obs: int | None
    """Number of rows; None if it is not known."""
    categories: Mapping[str, tuple[str | int, ...]] = field(default_factory=dict)
    """Categories of each text or categorical argument, in the order of the codes in ``arrays``."""


@dataclass
class SharedState:
    """State of a model that its snapshots share."""

    key: jax.Array
    home: "TemporaryDirectory | None" = None
    """Temporary directory, if there are results in it."""
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Lock of the two attributes above."""
    warned: set[Any] = field(default_factory=set)
    """Warnings that were issued since the posterior was set, and reasons in them."""
    fitting: threading.RLock = field(default_factory=threading.RLock)
    """Lock of the methods that change the model, so that they run one after another."""
    groups: "tuple[tuple[Any, ...], dict[str, xr.Dataset]]" = ((), {})
    """Groups of the posterior, and the objects that they were built of; empty since the posterior was set."""


def on_snapshot[**P, R](method: Callable[P, R]) -> Callable[P, R]:
    """Return a method that runs on a snapshot of the model, which a fit in another thread does not change."""

    @wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        model: Any = args[0]
        snapshot = object.__new__(type(model))
        vars(snapshot).update(vars(model))
        return method(snapshot, *args[1:], **kwargs)  # type: ignore[arg-type]

    return run


class ModelBase:
    """State and properties of an :class:`ImpactModel`."""

    def __init__(
        self,
        kernel: Kernel,
        rng_key: int | jax.Array,
        inference: SVI | MCMC | Literal["nuts", "svi"] | None = None,
        *,
        svi: SVI | None = None,
        param_input: str = "X",
        param_output: str = "y",
        coords: Mapping[str, Any] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        engine = KernelEngine.of(kernel, param_input, param_output)
        engine.declared = declared_categories(engine.signature, coords)
        engine.parameters = replace(engine.parameters, categories=engine.declared)
        key, fit = check_key(rng_key), make_fit(kernel, inference, svi)
        self._set_state(ModelState(key, engine, fit, ResultBuilder(dims, coords), None, None))

    def _set_state(self, state: ModelState) -> None:
        self._shared = SharedState(state.key)
        self._engine = state.engine
        self._fit = state.fit
        self._results = state.results
        self._posterior = state.posterior
        self._observed = state.observed
        self._graph: CausalGraph | None = state.graph
        self._rows = FittedRows(
            missing="it has not been fitted" if state.posterior is None else "it was loaded, and rows are not saved"
        )
        LIVE_MODELS.add(self)

    @property
    def _issued_warnings(self) -> set[Any]:
        """Warnings of this model, for `aimz.errors.warn`."""
        return self._shared.warned

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
        """Inference object of the model; None until it is chosen, or if the model was loaded without one."""
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
        return self._shared.key

    @property
    def inputs(self) -> ModelInputs:
        """Inputs of the model, as in its last fit (or in its first call, if it has not been fitted)."""
        engine, fitted = self._engine, self._observed
        arrays, categories = None, engine.parameters.categories
        if fitted is not None and fitted.call is not None:
            arrays = {n: array for n, array in fitted.call.arrays.items() if array.ndim and n != self.param_output}
        return ModelInputs(
            extra=tuple(engine.signature.extra),
            columns=tuple(engine.parameters.known.get(self.param_input, ())),
            static={}
            if engine.example is None
            else without_counts(engine.example.static, categories, engine.signature),
            arrays=arrays,
            n_obs=None if fitted is None or fitted.output is None else int(fitted.output.shape[0]),
            categories=dict(categories),
        )

    @property
    def temp_dir(self) -> str | None:
        """Temporary directory of results stored without ``output_dir``; None if there are none."""
        home = self._shared.home
        return None if home is None or home.closed else str(home.path)

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
        with self._shared.fitting:
            fit = self._fit.copy()
            fit.vi_result = result
            rows = FittedRows(missing="`vi_result` was set, not fitted")
            self._set_fit(self._engine, fit, None, self._stale_data(), rows)

    def is_fitted(self) -> bool:
        """Return whether the model has a posterior, from a fit or set by the user."""
        return self._posterior is not None

    def cleanup(self) -> None:
        """Remove the temporary directory and the results in it, and release the data of the fit.

        Reading one of these results then raises ``StaleResultError``. Results with their own ``output_dir`` are kept.
        Methods that use the rows of the fit, such as :meth:`effect`, then need ``X``.
        """
        with self._shared.lock:
            home, self._shared.home = self._shared.home, None
        self._rows = FittedRows(missing=self._rows.missing or "`cleanup` released them")
        if home is not None:
            home.close()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, without the temporary directory and the locks, which belong to this process."""
        return {**self.__dict__, "_shared": self._shared.key}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state and register the model for :meth:`cleanup_models`."""
        self.__dict__ |= {**state, "_shared": SharedState(state["_shared"])}
        LIVE_MODELS.add(self)

    def _set_fit(
        self, engine: KernelEngine, fit: Fit, posterior: Posterior | None, observed: FitData | None, rows: FittedRows
    ) -> None:
        """Set the state of a fit, the posterior and the data of the fit together."""
        engine.parameters = replace(engine.parameters, leaves_text=posterior is None)
        # One operation, which neither Ctrl-C nor another thread divides.
        vars(self).update(_engine=engine, _fit=fit, _posterior=posterior, _observed=observed, _rows=rows)
        self._shared.groups = ((), {})
        if posterior is not None:
            self._shared.warned.clear()

    def _with_kernel(self, kernel: Kernel) -> Self:
        """Return a model with the posterior and the data of this one whose kernel has further sites."""
        engine = KernelEngine.of(kernel, self.param_input, self.param_output)
        own = ("kernel", "signature", "reader", "programs")
        vars(engine).update({name: value for name, value in vars(self._engine).items() if name not in own})
        engine.parameters = replace(engine.parameters, further=engine.signature.extra)
        model = object.__new__(type(self))
        vars(model).update({**vars(self), "_engine": engine, "_shared": SharedState(self._shared.key)})
        return model

    def _merged(self, kwargs: Mapping[str, Any], args: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the further arguments of the kernel that were passed as keywords and in ``args``."""
        return self._engine.signature.merge(kwargs, args)

    def _stale_data(self) -> FitData | None:
        """Return the record of the fitted data after other data have changed the parameters: fingerprints only."""
        return None if self._observed is None else replace(self._observed, call=None, stale=True)

    @contextmanager
    def _key(self, given: jax.Array | None, request: PredictionRequest | None = None) -> Iterator[jax.Array]:
        """Yield the key of a call: the given one, that of the call to resume, or one split off the model's key.

        A call that fails does not change the model's key, unless its partial result, which has the key, can be resumed.
        """
        resume = None if request is None else request.options.resume
        if given is None and resume is not None and resume.journal.fingerprint["rng_key"]:
            given = key_from_text(resume.journal.fingerprint["rng_key"])
        if given is not None:
            yield given
            return
        shared = self._shared
        with shared.lock:
            before = shared.key
            after, key = jax.random.split(before)
            shared.key = after
        try:
            yield key
        except BaseException:
            with shared.lock:
                if shared.key is after and not (request is not None and request.resumable):
                    shared.key = before
            raise

    def _groups_of(self, posterior: Posterior, spec: KernelSpec | None) -> "dict[str, xr.Dataset]":
        """Return draws as groups of a tree, with the labels of the fitted data."""
        index = None if self._observed is None else self._observed.index
        inputs = posterior, spec, self._engine.columns, index, self._engine.groups
        known, groups = self._shared.groups
        if not known or not all(map(operator.is_, known, inputs)):
            groups = self._results.posterior(*inputs)
            self._shared.groups = inputs, groups
        return dict(groups)

    def _fitted(self, method: str) -> Posterior:
        """Return the posterior; raise if there is none."""
        has_params = self._fit.vi_result is not None and not isinstance(self._fit, PosteriorOnly)
        if self._posterior is None and has_params:
            msg = (
                f"`{method}` needs posterior draws of the current parameters, and there are none since "
                "`train_on_batch`, `vi_result` or an interrupted fit changed the parameters. Call "
                "`model.set_posterior_sample(model.sample(return_datatree=False))`, or fit again."
            )
            raise NotFittedError(msg)
        if self._posterior is None:
            msg = (
                f"`{method}` needs a posterior, and this model has none yet. Call `fit(X, y)`, or "
                "`set_posterior_sample` with draws from another source."
            )
            raise NotFittedError(msg)
        return self._posterior


def optional_key(rng_key: Any) -> jax.Array | None:
    """Return the ``rng_key`` argument of a call after checking it; None if it was not passed."""
    return None if rng_key is None else check_key(rng_key)
