"""Epochs of minibatches: stacks of batches, fed to a compiled loop of steps ahead of the device."""

__all__ = ["Epoch", "EpochRun", "MinibatchPlan"]

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpyro.infer.svi import SVIState

from aimz.data import ArrayBatches, Batches, KernelArguments
from aimz.inference.svi_steps import MAX_STEPS, Loop, Pace
from aimz.progress import ProgressBar

_STACK_BYTES = 2**22
"""Largest size of the batches transferred to the device at once."""
_NO_END = 2**30
"""Number of steps per epoch passed to the loop if it must not detect the end of an epoch."""


@dataclass(frozen=True)
class MinibatchPlan:
    """Data and options of a fit in minibatches."""

    batches: Batches
    first: KernelArguments
    """The first batch."""
    names: frozenset[str]
    """Sites whose log density is scaled by ``n_obs / batch_size``."""
    epochs: int
    progress: bool
    epochs_per_round: int | None = None
    """Number of epochs after which the fit ends if it has settled; None to run all epochs."""
    on_epoch_end: Callable[[int, float], Any] | None = None
    checkpoint_dir: Path | None = None
    described: Mapping[str, str] = field(default_factory=dict)
    """Further texts of the checkpoint's fingerprint."""


@dataclass(frozen=True)
class Epoch:
    """Result of an epoch."""

    number: int
    """Number of the epoch, from 0."""
    losses: np.ndarray
    """Loss of each step."""
    bad: bool
    """Whether the loss of a step was not finite, which ends the run."""


@dataclass(frozen=True)
class _Stack:
    """Minibatches stacked along a new leading axis, run in one compiled loop."""

    arrays: Mapping[str, np.ndarray]
    """Arrays of shape ``(at least n_steps, rows, ...)`` by name."""
    n_steps: int
    rows: int
    at: int
    """Position of the first batch in its epoch."""
    ends: tuple[int, ...]
    """Number of steps after which each epoch that ends in this stack ends."""


@dataclass
class _Feed:
    """Iterator over the batches of all epochs, in stacks of as many steps as the pace allows."""

    batches: Batches
    epochs: range
    across: bool
    """Whether a stack may contain batches of several epochs."""
    pace: Pace = field(default_factory=Pace)

    def __post_init__(self) -> None:
        size = self.batches.batch_size
        self.per_epoch = -(-self.batches.n_obs // size)
        step_bytes = sum(buffer.nbytes for buffer in self.batches.empty_buffers(size).values())
        # Independent of the number of rows and epochs, so that one compiled program serves all.
        self._capacity = max(1, min(MAX_STEPS, _STACK_BYTES // max(1, step_bytes)))
        self._start_stack()

    def _start_stack(self, at: int = 0) -> None:
        self._buffers: dict[str, np.ndarray] = self.batches.empty_buffers(self._capacity * self.batches.batch_size)
        self._filled, self._at, self._ends = 0, at, list[int]()
        self._target = min(self.pace.steps, self._capacity)

    def _finish_stack(self, at: int) -> _Stack:
        """Return the current stack, always of the same shape, and start the next."""
        size = self.batches.batch_size
        arrays = {n: b.reshape(self._capacity, size, *b.shape[1:]) for n, b in self._buffers.items()}
        stack = _Stack(arrays, self._filled, size, self._at, tuple(self._ends))
        self._start_stack(at)
        return stack

    def __iter__(self) -> Iterator[_Stack]:
        size = self.batches.batch_size
        for number in self.epochs:
            reader, at, ended = self.batches.epoch(number), 0, False
            while not ended:
                start, stop = self._filled * size, self._target * size
                got = reader.fill(self._buffers, start, stop)
                steps, rest = divmod(got, size)
                ended = got < stop - start
                self._filled, at = self._filled + steps, at + steps
                if rest:  # the last batch is shorter, with another program and scale
                    tail = {n: b[self._filled * size :][:rest][None].copy() for n, b in self._buffers.items()}
                    if self._filled:
                        yield self._finish_stack(at)
                    self._at = 0
                    yield _Stack(tail, 1, rest, at, (1,))
                elif ended:
                    self._ends.append(self._filled)
                if (ended and not rest and not self.across) or self._filled == self._target:
                    yield self._finish_stack(0 if ended else at)
        if self._filled or self._ends:
            yield self._finish_stack(0)


class EpochRun:
    """Run over epochs; ``state`` and ``losses`` are up to date with the steps whose results have been read.

    Parameters
    ----------
    loop
        Compiled loop of stacked steps.
    state
        Initial state.
    batches
        Minibatches of the data.
    epochs
        Numbers of the epochs to run.
    across_epochs
        Whether nothing happens between epochs, so that a loop may run several.
    progress
        Whether to show a progress bar over all epochs.
    """

    def __init__(
        self, loop: Loop, state: SVIState, batches: Batches, epochs: range, *, across_epochs: bool, progress: bool
    ) -> None:
        whole = batches.n_obs % batches.batch_size == 0
        self.state = state
        self.losses: list[np.ndarray] = []
        self._loop = loop
        self._n_obs = batches.n_obs
        self._epochs = epochs
        # The end of an epoch is known in advance for arrays only.
        self._feed = _Feed(batches, epochs, across=across_epochs and whole and isinstance(batches, ArrayBatches))
        self._progress = progress
        self._last_finished = 0.0

    def __iter__(self) -> Iterator[Epoch]:
        """Run the steps; yield each epoch when it has ended."""
        running: tuple[_Stack, Any, float] | None = None
        state: SVIState = self.state
        bad: Any = np.False_
        per_epoch = self._feed.per_epoch if self._feed.across else _NO_END
        with closing(_EpochBar(self._epochs, self._feed.per_epoch, show=self._progress)) as bar:
            try:
                for stack in self._feed:
                    scale = np.float32(self._n_obs / stack.rows)
                    started = time.perf_counter()
                    result = self._loop(state, stack.arrays, scale, stack.n_steps, stack.at, per_epoch, bad)
                    state, _, _, bad = result
                    # The device computes this stack while the rows of the next are read.
                    previous, running = running, (stack, result, started)
                    if previous is not None:
                        yield from self._finish(*previous, bar)
                    if stack.ends and not self._feed.across:
                        running = None
                        yield from self._finish(stack, result, started, bar)
                previous, running = running, None
                if previous is not None:
                    yield from self._finish(*previous, bar)
            finally:
                if running is not None:  # reading rows failed: keep the steps that were started before
                    self._wait(running[1])

    def _finish(self, stack: _Stack, result: Any, started: float, bar: "_EpochBar") -> Iterator[Epoch]:
        """Wait for a stack, and split its losses at the ends of epochs."""
        losses, bad = self._wait(result), result[3]
        done, now = len(losses), time.perf_counter()
        if stack.rows == self._feed.batches.batch_size:
            self._feed.pace.update(stack.n_steps, now - max(started, self._last_finished))
        self._last_finished = now
        at = 0
        for end in stack.ends:
            if end > done:
                break
            number, epoch_losses = bar.step(losses[at:end], ends=True)
            at = end
            # A loop stops early at the end of an epoch only.
            yield Epoch(number, epoch_losses, bad=bool(bad) and done == at)
        if at < done:
            bar.step(losses[at:done])

    def _wait(self, result: Any) -> np.ndarray:
        """Wait for steps, set the state, and return their losses."""
        state, values, taken, _ = result
        losses = np.asarray(values)[: int(taken)]
        self.state = state
        if len(losses):
            self.losses.append(losses)
        return losses


class _EpochBar:
    """Progress bar over all epochs, and the losses of the current epoch."""

    def __init__(self, epochs: range, per_epoch: int, *, show: bool) -> None:
        self._epochs = epochs
        self._per_epoch = per_epoch
        self._show = show
        self._number = epochs.start
        self._losses: list[np.ndarray] = []
        self._bar: ProgressBar | None = None

    def close(self) -> None:
        """Close the progress bar."""
        if self._bar is not None:
            self._bar.close()

    def step(self, losses: np.ndarray, *, ends: bool = False) -> tuple[int, np.ndarray]:
        """Count steps; at the end of an epoch return its number and losses, and start the next."""
        self._losses.append(losses)
        if self._show:
            self._advance(losses)
        if not ends:
            return self._number, losses
        epoch_losses, number = np.concatenate(self._losses), self._number
        if self._bar is not None and number + 1 == self._epochs.stop:
            self._bar.set_postfix(loss=f"{epoch_losses.mean():.4g}")
        self._number, self._losses = number + 1, []
        return number, epoch_losses

    def _advance(self, losses: np.ndarray) -> None:
        """Advance the bar, which is redrawn at most ten times a second."""
        if self._bar is None:
            before, total = (self._per_epoch * n for n in (self._epochs.start, self._epochs.stop))
            self._bar = ProgressBar(total=total, initial=before, unit="step", desc="Fitting")
        self._bar.set_description(f"Epoch {self._number + 1}/{self._epochs.stop}", refresh=False)
        if len(losses):
            self._bar.set_postfix(loss=f"{losses.mean():.4g}", refresh=False)
        self._bar.update(len(losses))
