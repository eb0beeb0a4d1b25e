"""Stochastic variational inference."""

__all__ = ["SVIFit"]

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
from numpyro.infer.autoguide import AutoGuide

from aimz.data import KernelArguments, Posterior
from aimz.errors import CheckpointError, FitWarning, warn
from aimz.inference.base import Outcome
from aimz.inference.enumeration import check_minibatch_sum
from aimz.inference.minibatch_scaling import check_minibatches, scaled_sites
from aimz.inference.settling import Rounds, judge_losses, warn_at_limit
from aimz.inference.svi_base import SVIBase
from aimz.inference.svi_checkpoint import (
    Checkpoint,
    Progress,
    fingerprint_fit,
)
from aimz.inference.svi_epochs import EpochRun, MinibatchPlan
from aimz.inference.svi_steps import warn_not_finite
from aimz.kernel import KernelSpec
from aimz.progress import ProgressBar

_MAX_DISCRETE_BYTES = 2**30
"""Largest size of draws of discrete local latents after a fit in minibatches."""


class _Start(NamedTuple):
    """Progress from which a fit in minibatches starts, and its checkpoint, if any."""

    progress: Progress
    checkpoint: Checkpoint | None


class SVIFit(SVIBase):
    """An :class:`numpyro.infer.SVI` object; a run continues from the state of the previous one."""

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
        """Run ``num_steps`` steps, or until the fit has settled, and return ``num_samples`` draws from the guide."""
        key_steps, key_draws = jax.random.split(key)
        state = self._begin(call, key_steps)
        rounds = Rounds(self.cycle, self.moments, np.zeros(0), optimizer=self.inference.optim)
        total = rounds.limit if num_steps is None else num_steps
        with ProgressBar(total=total, disable=not progress, unit="step", desc="SVI") as bar:
            while True:
                n_steps = num_steps or rounds.steps
                state, losses, bad = self._programs.run(state, call, num_steps=n_steps, bar=bar)
                self._set_state(state, losses)
                if bad or num_steps is not None or rounds.end(losses, state):
                    break
        self.steps_per_epoch = 1
        self._judge("num_steps", bad=bad, settled=None if num_steps is not None else rounds.settled)
        self._n_obs = call.n_obs
        return self.sample(call, spec, key_draws, num_samples=num_samples, return_sites=spec.latent_sites)

    def check_minibatches(
        self,
        spec: KernelSpec,
        abstract: tuple[Mapping[str, Any], Mapping[str, Any]],
        static: Mapping[str, object],
        n_obs: int,
    ) -> frozenset[str]:
        """Return the sites to scale in minibatches; raise if minibatch SVI would be biased.

        ``abstract`` holds abstract arguments at two numbers of rows.
        """
        for name in self._enumerated(spec, abstract[0], static):
            check_minibatch_sum(spec, name)
        check_minibatches(self.inference, spec)
        return scaled_sites(self.inference, spec, abstract, static, n_obs)

    @contextmanager
    def begin_minibatches(self, plan: MinibatchPlan, key: jax.Array) -> Iterator[_Start]:
        """Yield the current state, or that of the checkpoint, without changing the fit.

        The directory of the checkpoint is locked while the context is open.

        Raises
        ------
        CheckpointError
            If the checkpoint belongs to another fit, is damaged, or its directory is locked by another fit.
        """
        state = self._begin(plan.first, key, plan.names, plan.batches.n_obs / plan.first.n_obs)
        new = Progress(state, np.zeros(0), 0, ended=False)
        if plan.checkpoint_dir is None:
            yield _Start(new, None)
            return
        shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in plan.first.arrays.items()}
        fingerprint = fingerprint_fit(self.inference, state, shapes, plan.first.static, **plan.described)
        checkpoint = Checkpoint(plan.checkpoint_dir, fingerprint)
        with checkpoint.locked():
            done = checkpoint.load(state) or new
            if done.epochs > plan.epochs:
                msg = (
                    f"The checkpoint in {plan.checkpoint_dir} has completed {done.epochs} epochs; got "
                    f"`epochs={plan.epochs}`. Pass at least as many, or another `checkpoint_dir`."
                )
                raise CheckpointError(msg)
            yield _Start(done, checkpoint)

    def run_minibatches(self, plan: MinibatchPlan, start: _Start) -> None:
        """Run the remaining epochs; completed steps are kept, even after an exception."""
        done, checkpoint = start
        self.stopped = False
        steps_per_epoch = -(-plan.batches.n_obs // plan.batches.batch_size)
        rounds = None
        if plan.epochs_per_round:
            # Moments are not in checkpoints, from which a fit must continue in the same way.
            rounds = Rounds(
                plan.epochs_per_round * steps_per_epoch,
                self.moments if checkpoint is None else None,
                done.losses,
                optimizer=self.inference.optim,
            )
        if done.epochs:
            self._set_state(done.state, done.losses)
        for number in range(0 if done.ended else done.epochs):
            plan.batches.skip_epoch(number)
        run = EpochRun(
            self._programs.loop(plan.first.static, plan.names, stacked=True),
            done.state,
            plan.batches,
            range(plan.epochs if done.ended else done.epochs, plan.epochs),
            across_epochs=plan.on_epoch_end is None and checkpoint is None and rounds is None,
            progress=plan.progress,
        )
        try:
            for epoch in run:
                self.stopped = epoch.bad
                if epoch.bad:
                    warn_not_finite(f"in epoch {epoch.number + 1} of {plan.epochs}; the run stops at its end")
                stop = plan.on_epoch_end is not None and bool(
                    plan.on_epoch_end(epoch.number, float(epoch.losses.mean()))
                )
                if rounds is not None and not epoch.bad:
                    stop |= rounds.end(epoch.losses, run.state)
                # After the callback, which decides whether the checkpoint marks the fit as ended.
                if checkpoint is not None:
                    losses = np.concatenate([done.losses, *run.losses])
                    checkpoint.save(Progress(run.state, losses, epoch.number + 1, stop or epoch.bad))
                if stop or epoch.bad:
                    break
        finally:
            if run.losses:
                self._set_state(run.state, np.concatenate(run.losses))
        if run.state is not done.state:
            self.steps_per_epoch = steps_per_epoch
            self._judge("epochs", bad=self.stopped, settled=None if rounds is None else rounds.settled)

    def _judge(self, option: str, *, bad: bool, settled: bool | None) -> None:
        """Record whether the fit has settled, and warn if it has not; ``settled`` is the result of rounds, if any."""
        losses = np.asarray([] if self.vi_result is None else self.vi_result.losses)
        found = judge_losses(losses, optimizer=self.inference.optim, steps_per_epoch=self.steps_per_epoch)
        if not bad and settled is None:
            found.warn(option)
        elif not bad and not settled:
            warn_at_limit(len(losses))
        settled = not bad and (found.settled if settled is None else settled)
        self.outcome = Outcome(settled, f"{len(losses):,} steps")

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
        """Return draws after a fit in minibatches; local sites are drawn for all rows, if these can be read again."""
        self._n_obs = first.n_obs
        sites, call = spec.latent_sites, first
        enumerated = [name for name in self._enumerated(spec, first.arrays, first.static) if spec[name].row_axes]
        local = enumerated if isinstance(self.inference.guide, AutoGuide) else spec.local_sites
        if enumerated and 4 * num_samples * n_obs * len(enumerated) > _MAX_DISCRETE_BYTES:
            # Only enumerated sites are dropped: the data and the other draws determine their distribution.
            local = [name for name in local if name not in enumerated]
            sites = tuple(name for name in sites if name not in enumerated)
            warn(
                f"Discrete local latent site(s) {', '.join(f'`{name}`' for name in enumerated)} have no posterior "
                f"draws: {num_samples} draws for {n_obs} rows would take more than a GiB. Lower `num_samples`, or do "
                "without: predictions resample them, and `log_likelihood` sums over them.",
                FitWarning,
            )
        if local:
            every = all_rows(first)
            if every is None:
                sites = tuple(name for name in sites if name not in local)
                warn(
                    f"Local latent site(s) {', '.join(f'`{name}`' for name in local)} have no posterior draws: the "
                    "rows came from an iterable that cannot be read again in the same order. Pass arrays to draw them.",
                    FitWarning,
                )
            call = every or first
        return self.sample(call, spec, key, num_samples=num_samples, return_sites=sites)
