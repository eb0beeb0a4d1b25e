"""Stochastic variational inference."""

__all__ = ["MinibatchPlan", "SVIFit"]

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from numpyro.infer import SVI
from numpyro.infer.autoguide import AutoGuide
from numpyro.infer.svi import SVIRunResult, SVIState

from aimz.data import Batches, KernelArguments, Posterior
from aimz.errors import CheckpointError, warn
from aimz.inference.base import Fit, Known, VIResult
from aimz.inference.enumeration import check_of_batch, draw_discrete, read_summed
from aimz.inference.minibatch_scaling import check_minibatches, read_scaled
from aimz.inference.svi_checkpoint import Checkpoint, Progress, fingerprint_fit
from aimz.inference.svi_epochs import EpochRun
from aimz.inference.svi_restore import as_new, names_of, read_state
from aimz.inference.svi_steps import SVIPrograms, warn_not_finite
from aimz.kernel import KernelSpec, LRUCache, freeze
from aimz.persistence import write_tree

_MOST_BYTES = 2**30
"""Bytes of draws of discrete local latents that a fit in minibatches keeps."""
_DRAWN = 2**20
"""Folded into a key for the sites that are drawn after the guide's."""


@dataclass(frozen=True)
class MinibatchPlan:
    """A fit in minibatches."""

    batches: Batches
    first: KernelArguments
    """The first batch."""
    names: frozenset[str]
    """Sites that count as often as there are rows."""
    epochs: int
    progress: bool
    on_epoch_end: Callable[[int, float], Any] | None = None
    checkpoint_dir: Path | None = None
    described: Mapping[str, str] = field(default_factory=dict)
    """What else a checkpoint is known by."""


class _Start(NamedTuple):
    """Where a fit in minibatches starts, and where its state is kept between epochs, if anywhere."""

    done: Progress
    checkpoint: Checkpoint | None


class SVIFit(Fit):
    """An :class:`numpyro.infer.SVI` object; a run continues from the state the last one left."""

    inference: SVI
    kind = "SVI"

    def __init__(self, inference: SVI) -> None:
        self.inference = inference
        self._programs = SVIPrograms(inference)
        self.scalings = LRUCache[frozenset[str]]()
        """Sites that are scaled, for batches of a kind."""
        self._sums = LRUCache[tuple[str, ...]]()
        self._n_obs: int | None = None
        self._arguments = frozenset[str]()
        """Arrays a guide has to be set up with, after a load."""
        self._result: VIResult | None = None
        self._steps: list[jax.Array] = []
        """Losses of single steps that are not among those of the result yet."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave compiled programs out of a pickle."""
        return {key: value for key, value in self.__dict__.items() if key not in ("_programs", "scalings", "_sums")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with no compiled programs."""
        self.__dict__ |= state
        self._programs = SVIPrograms(self.inference)
        self.scalings = LRUCache[frozenset[str]]()
        self._sums = LRUCache[tuple[str, ...]]()

    def _summed(self, spec: KernelSpec, arrays: Mapping[str, Any], static: Mapping[str, object]) -> tuple[str, ...]:
        """Return the discrete latents that are summed over; found out once for arguments of a kind."""
        shapes = tuple((name, tuple(array.shape), str(array.dtype)) for name, array in sorted(arrays.items()))
        handle = (shapes, freeze(static))
        return self._sums.get(handle, lambda: read_summed(self.inference, spec, arrays, static))

    @property
    def vi_result(self) -> VIResult | None:
        """Parameters of the last state and the losses of all steps; or what was set since."""
        if self._steps and self.vi_state is not None:
            taken, self._steps = np.asarray(self._steps), []
            self._keep(self.vi_state, taken)
        return self._result

    @vi_result.setter
    def vi_result(self, result: VIResult | None) -> None:
        self._result, self._steps = result, []

    def _keep(self, state: SVIState, losses: np.ndarray) -> None:
        """Take over a state, and the losses of the steps that led there."""
        result = self.vi_result
        before = np.zeros(0) if result is None else np.asarray(result.losses)
        self.vi_state = state
        self.vi_result = SVIRunResult(self.inference.get_params(state), state, np.concatenate([before, losses]))

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of the last state, and the mutable state beside them."""
        params = {} if self.vi_result is None else dict(self.vi_result.params)
        mutable = None if self.vi_state is None else self.vi_state.mutable_state
        return {**params, **(mutable or {})}

    def check_run(self, call: KernelArguments, spec: KernelSpec, *, num_samples: int = 1) -> None:  # noqa: ARG002
        """Refuse discrete sites that cannot be had, and to go on with other rows if the guide has a value for each."""
        summed = self._summed(spec, call.arrays, call.static)
        local = [name for name in spec.local_sites if name not in summed]
        if (
            isinstance(self.inference.guide, AutoGuide)
            and local
            and self.vi_state is not None
            and self._n_obs != call.n_obs
        ):
            msg = (
                f"The fit continues from its state, in which the guide has values of `{local[0]}` for "
                f"{self._n_obs} observations; got {call.n_obs}. Make a new ImpactModel, with a new guide, for other "
                "data."
            )
            raise ValueError(msg)

    def run(
        self,
        call: KernelArguments,
        spec: KernelSpec,
        key: jax.Array,
        *,
        num_steps: int,
        num_samples: int,
        progress: bool,
    ) -> Posterior:
        """Take ``num_steps`` steps, then ``num_samples`` draws from the guide."""
        key_steps, key_draws = jax.random.split(key)
        state, losses = self._programs.run(self.vi_state, call, num_steps=num_steps, key=key_steps, progress=progress)
        self._keep(state, losses)
        self._n_obs = call.n_obs
        return self.sample(call, spec, key_draws, num_samples=num_samples, return_sites=spec.latent_sites)

    def check_minibatches(
        self,
        spec: KernelSpec,
        given: tuple[Mapping[str, Any], Mapping[str, Any]],
        static: Mapping[str, object],
        n_obs: int,
    ) -> frozenset[str]:
        """Return the sites that are scaled where a batch stands for the whole data, and refuse what cannot be.

        ``given`` are abstract arguments at two numbers of rows.
        """
        for name in self._summed(spec, given[0], static):
            check_of_batch(spec, name)
        check_minibatches(self.inference, spec)
        return read_scaled(self.inference, spec, given, static, n_obs)

    def begin_minibatches(self, plan: MinibatchPlan, key: jax.Array) -> _Start:
        """Return the state to start from: that there is, or that of a checkpoint; nothing is changed.

        Raises
        ------
        CheckpointError
            If the checkpoint is of another fit, or damaged.
        """
        state = self._programs.begin(self.vi_state, plan.first, key)
        new = Progress(state, np.zeros(0), 0, ended=False)
        if plan.checkpoint_dir is None:
            return _Start(new, None)
        shapes = {n: jax.ShapeDtypeStruct(a.shape, a.dtype) for n, a in plan.first.arrays.items()}
        of = fingerprint_fit(self.inference, state, shapes, plan.first.static, **plan.described)
        checkpoint = Checkpoint(plan.checkpoint_dir, of)
        done = checkpoint.load(state) or new
        if done.epochs > plan.epochs:
            msg = (
                f"The checkpoint in {plan.checkpoint_dir} has {done.epochs} epochs behind it; got "
                f"`epochs={plan.epochs}`. Pass as many or more, or another `checkpoint_dir`."
            )
            raise CheckpointError(msg)
        return _Start(done, checkpoint)

    def run_minibatches(self, plan: MinibatchPlan, start: _Start) -> None:
        """Run epochs of steps; whatever ends the run, the steps that are done are kept."""
        done, checkpoint = start
        if done.epochs:
            self._keep(done.state, done.losses)
        for number in range(0 if done.ended else done.epochs):
            plan.batches.skip_epoch(number)
        together = plan.on_epoch_end is None and checkpoint is None
        run = EpochRun(
            self._programs.loop(plan.first.static, plan.names, stacked=True),
            done.state,
            plan.batches,
            range(plan.epochs if done.ended else done.epochs, plan.epochs),
            together=together,
            progress=plan.progress,
        )
        try:
            for epoch in run:
                if epoch.bad:
                    warn_not_finite(f"in epoch {epoch.number + 1} of {plan.epochs}; the run stops at its end")
                stop = plan.on_epoch_end is not None and bool(
                    plan.on_epoch_end(epoch.number, float(epoch.losses.mean()))
                )
                # After the callback: whether the fit ends here is part of what is kept.
                if checkpoint is not None:
                    losses = np.concatenate([done.losses, *run.losses])
                    checkpoint.save(Progress(run.state, losses, epoch.number + 1, stop or epoch.bad))
                if stop or epoch.bad:
                    break
        finally:
            if run.losses:
                self._keep(run.state, np.concatenate(run.losses))

    def draw_after(
        self,
        all_rows: Callable[[KernelArguments], KernelArguments | None],
        first: KernelArguments,
        spec: KernelSpec,
        key: jax.Array,
        *,
        num_samples: int,
        n_obs: int,
    ) -> Posterior:
        """Draw the posterior after a fit in minibatches: for sites with a row axis, of all rows, if they are there."""
        self._n_obs = first.n_obs
        wanted, call = spec.latent_sites, first
        summed = [name for name in self._summed(spec, first.arrays, first.static) if spec[name].row_axes]
        by_row = summed if isinstance(self.inference.guide, AutoGuide) else spec.local_sites
        if summed and 4 * num_samples * n_obs * len(summed) > _MOST_BYTES:
            # The others may be asked for, and are; what is known of these is in the data and the other draws.
            by_row = [name for name in by_row if name not in summed]
            wanted = tuple(name for name in wanted if name not in summed)
            warn(
                f"Discrete local latent site(s) {', '.join(f'`{name}`' for name in summed)} have no posterior draws: "
                f"{num_samples} draws for {n_obs} rows would take more than a GiB. Ask for fewer, `num_samples=`, or "
                "do without: predictions draw them anew, and `log_likelihood` sums over them."
            )
        if by_row:
            every = all_rows(first)
            if every is None:
                wanted = tuple(name for name in wanted if name not in by_row)
                warn(
                    f"Local latent site(s) {', '.join(f'`{name}`' for name in by_row)} have no posterior draws: the "
                    "rows came from an iterable that cannot be read again in the same order. Pass arrays to have them."
                )
            call = every or first
        return self.sample(call, spec, key, num_samples=num_samples, return_sites=wanted)

    def step(
        self,
        call: KernelArguments,
        names: frozenset[str],
        key: jax.Array | None,
        init_key: Callable[[], jax.Array],
        scale: float,
    ) -> tuple[SVIState, jax.Array]:
        """Take one step; ``init_key`` is asked for if there is no state yet."""
        if self.vi_state is None:
            state = self._programs.begin(None, call, init_key() if key is None else key)
        else:
            self.set_up(call)
            state = self.vi_state if key is None else self.vi_state._replace(rng_key=key)
        state, loss, _ = self._programs.one_step(call.static, names)(state, call.arrays, np.float32(scale))
        self.vi_state = state
        self._steps.append(loss)
        self._n_obs = call.n_obs
        return state, loss

    def write(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return parameters, losses, and the state of optimizer, kernel and key."""
        result, state = self.vi_result, self.vi_state
        if result is not None and result.losses is not None:
            arrays["losses"] = np.asarray(result.losses)
        return {
            "kind": self.kind,
            **names_of(self.inference),
            "n_obs": self._n_obs,
            "params": None if result is None else write_tree(dict(result.params), "params", arrays),
            "losses": None if result is None or result.losses is None else "losses",
            "state": None if state is None else write_tree(state, "state", arrays),
        }

    def read(self, node: Mapping[str, Any], arrays: Mapping[str, np.ndarray], known: Known) -> None:
        """Go on from a state that belongs to this guide and this optimizer."""
        self.inference, self._n_obs = as_new(self.inference), node["n_obs"]
        self._programs = SVIPrograms(self.inference)
        if node["params"] is not None:
            params, self.vi_state = read_state(self.inference, node, arrays, known)
            losses = None if node["losses"] is None else np.array(arrays[node["losses"]])
            self.vi_result = SVIRunResult(params, self.vi_state, losses)
        if known.example is not None:
            self._arguments = frozenset(known.example.arrays)

    def set_up(self, call: KernelArguments) -> None:
        """Set up a guide that has seen no data in this process; the parameters there are stay."""
        self._programs.set_up(call)

    def check_sample(self, call: KernelArguments | None) -> None:
        """Refuse to draw before there are parameters, or from a guide that was not set up and gets no data to be."""
        self._refuse_unless(self.vi_result is not None)
        guide = self.inference.guide
        missing = self._arguments - set(() if call is None else call.arrays)
        if missing and isinstance(guide, AutoGuide) and guide.prototype_trace is None:
            listed = ", ".join(f"`{name}`" for name in sorted(missing))
            msg = (
                f"`{type(guide).__name__}` has seen no data since the model was loaded, and has to be set up for some "
                f"before it is drawn from; it lacks {listed}. Pass the data of the fit by name: `sample(X=X, y=y)`."
            )
            raise TypeError(msg)

    def sample(
        self,
        call: KernelArguments | None,
        spec: KernelSpec | None,
        key: jax.Array,
        *,
        num_samples: int,
        return_sites: Iterable[str] | None,
    ) -> Posterior:
        """Draw from the guide, which may read the data of ``call``, and what was summed over from what it is given."""
        params = {} if self.vi_result is None else self.vi_result.params
        if call is not None and self.vi_state is not None:
            self.set_up(call)
        wanted = None if return_sites is None else tuple(return_sites)
        discrete = [] if spec is None else [n for n in spec.discrete_latents if wanted is None or n in wanted]
        if spec is None or not discrete:
            return Posterior(self._programs.draw(params, key, num_samples=num_samples, latents=wanted, call=call))
        drawn = self._programs.draw(params, key, num_samples=num_samples, latents=spec.latent_sites, call=call)
        missing = tuple(name for name in spec.discrete_latents if name not in drawn)
        if not missing:
            pass
        elif call is None or spec.param_output not in call.arrays:
            listed = ", ".join(f"`{name}`" for name in missing)
            warn(
                f"Discrete latent site(s) {listed} are left out: they are drawn given the data, and got none. Pass all "
                f"the data by name, `{spec.param_input}` and `{spec.param_output}` among them, as `sample(X=X, y=y)`."
            )
        else:
            call = replace(call, static={**call.static, **self.inference.static_kwargs})
            drawn |= draw_discrete(
                *(self.inference.model, call, spec, missing, jax.random.fold_in(key, _DRAWN), drawn, self.params),
                n_draws=num_samples,
                weighed=False,
            )
        names = spec.latent_sites if wanted is None else wanted
        return Posterior({name: drawn[name] for name in names if name in drawn})
