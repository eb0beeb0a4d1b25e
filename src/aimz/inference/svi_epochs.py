"""Epochs of minibatches: rows fed ahead of the device, in one compiled loop of steps."""

__all__ = ["Epoch", "EpochRun"]

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from numpyro.infer.svi import SVIState

from aimz.data import ArrayBatches, Batches
from aimz.inference.svi_steps import MOST_STEPS, Loop, Pace
from aimz.progress import ProgressBar

_STACK_BYTES = 2**25
"""Most bytes of batches that are handed to the device together."""
_NO_END = 2**30
"""Steps of an epoch, where the loop is not to see its end."""


@dataclass(frozen=True)
class Epoch:
    """What is known at the end of an epoch."""

    number: int
    """Counted from 0."""
    losses: np.ndarray
    """Of its steps."""
    bad: bool
    """Whether a step was not finite, so that it is the last."""


@dataclass(frozen=True)
class _Stack:
    """Batches of one shape, in front of one another."""

    arrays: Mapping[str, np.ndarray]
    """Name to array of shape ``(at least n_steps, rows, ...)``."""
    n_steps: int
    rows: int
    at: int
    """Place of the first batch in its epoch."""
    ends: tuple[int, ...]
    """Number of steps after which an epoch ends, for each that does."""


@dataclass
class _Feed:
    """Cuts epochs into stacks, so many steps at a time as the pace allows."""

    batches: Batches
    epochs: range
    across: bool
    """Whether a stack may reach into the next epoch."""
    pace: Pace = field(default_factory=Pace)

    def __post_init__(self) -> None:
        size = self.batches.batch_size
        self.per_epoch = -(-self.batches.n_obs // size)
        step_bytes = sum(buffer.nbytes for buffer in self.batches.empty_buffers(size).values())
        # The same for any number of rows and epochs, so that one program serves all.
        self._most = max(1, min(MOST_STEPS, _STACK_BYTES // max(1, step_bytes)))
        self._new()

    def _new(self, at: int = 0) -> None:
        self._room: dict[str, np.ndarray] = self.batches.empty_buffers(self._most * self.batches.batch_size)
        self._filled, self._at, self._ends = 0, at, list[int]()
        self._target = min(self.pace.steps, self._most)

    def _stack(self, at: int) -> _Stack:
        """Hand over what there is; always as much room, so that one program serves all."""
        size = self.batches.batch_size
        arrays = {n: b.reshape(self._most, size, *b.shape[1:]) for n, b in self._room.items()}
        stack = _Stack(arrays, self._filled, size, self._at, tuple(self._ends))
        self._new(at)
        return stack

    def __iter__(self) -> Iterator[_Stack]:
        size = self.batches.batch_size
        for number in self.epochs:
            reader, at, ended = self.batches.epoch(number), 0, False
            while not ended:
                start, stop = self._filled * size, self._target * size
                got = reader.fill(self._room, start, stop)
                steps, rest = divmod(got, size)
                ended = got < stop - start
                self._filled, at = self._filled + steps, at + steps
                if rest:  # the last batch is shorter, and has a program and a scale of its own
                    tail = {n: b[self._filled * size :][:rest][None].copy() for n, b in self._room.items()}
                    if self._filled:
                        yield self._stack(at)
                    self._at = 0
                    yield _Stack(tail, 1, rest, at, (1,))
                elif ended:
                    self._ends.append(self._filled)
                if (ended and not rest and not self.across) or self._filled == self._target:
                    yield self._stack(0 if ended else at)
        if self._filled or self._ends:
            yield self._stack(0)


class EpochRun:
    """A run over epochs; ``state`` and ``losses`` are those of the steps that are known to be done.

    Parameters
    ----------
    loop
        The compiled loop of stacked steps.
    state
        Where to start.
    batches
        The data.
    epochs
        Numbers of the epochs to run.
    together
        Whether nothing has to be done between two epochs.
    progress
        Whether to show a bar over all of them.
    """

    def __init__(
        self, loop: Loop, state: SVIState, batches: Batches, epochs: range, *, together: bool, progress: bool
    ) -> None:
        whole = batches.n_obs % batches.batch_size == 0
        self.state = state
        self.losses: list[np.ndarray] = []
        self._loop = loop
        self._n_obs = batches.n_obs
        self._epochs = epochs
        # Only of arrays is it known beforehand where an epoch ends.
        self._feed = _Feed(batches, epochs, across=together and whole and isinstance(batches, ArrayBatches))
        self._progress = progress
        self._ready = 0.0

    def __iter__(self) -> Iterator[Epoch]:
        """Take the steps; yield each epoch when it has ended."""
        ahead: tuple[_Stack, Any, float] | None = None
        state, bad = self.state, jax.numpy.asarray(False)  # noqa: FBT003
        per_epoch = self._feed.per_epoch if self._feed.across else _NO_END
        epochs = _EpochBar(self._epochs, self._feed.per_epoch, show=self._progress)
        with epochs:
            try:
                for stack in self._feed:
                    scale = np.float32(self._n_obs / stack.rows)
                    begun = time.perf_counter()
                    found = self._loop(state, stack.arrays, scale, stack.n_steps, stack.at, per_epoch, bad)
                    state, _, _, bad = found
                    # The device computes this one while the rows of the next are fetched; of the next epoch, if nothing
                    # is to be done before.
                    landing, ahead = ahead, (stack, found, begun)
                    if landing is not None:
                        yield from self._land(*landing, epochs)
                    if stack.ends and not self._feed.across:
                        ahead = None
                        yield from self._land(stack, found, begun, epochs)
                landing, ahead = ahead, None
                if landing is not None:
                    yield from self._land(*landing, epochs)
            finally:
                if ahead is not None:  # the rows could not be fetched: what was begun before counts
                    self._settle(ahead[1])

    def _land(self, stack: _Stack, found: Any, begun: float, epochs: "_EpochBar") -> Iterator[Epoch]:
        """Wait for a stack, and split its losses where epochs end."""
        losses, bad = self._settle(found), found[3]
        done, now = len(losses), time.perf_counter()
        if stack.rows == self._feed.batches.batch_size:
            self._feed.pace.took(stack.n_steps, now - max(begun, self._ready))
        self._ready = now
        at = 0
        for end in stack.ends:
            if end > done:
                break
            ended = epochs.step(losses[at:end], ends=True)
            at = end
            # A loop that stopped early did so at the end of its epoch.
            yield Epoch(*ended, bad=bool(bad) and done == at)
        if at < done:
            epochs.step(losses[at:done])

    def _settle(self, found: Any) -> np.ndarray:
        """Wait for steps, and take over their state; return their losses."""
        state, values, taken, _ = found
        losses = np.asarray(values)[: int(taken)]
        self.state = state
        if len(losses):
            self.losses.append(losses)
        return losses


class _EpochBar:
    """A progress bar over all epochs, and the losses of the one that runs."""

    def __init__(self, epochs: range, per_epoch: int, *, show: bool) -> None:
        self._epochs = epochs
        self._per_epoch = per_epoch
        self._show = show
        self._number = epochs.start
        self._losses: list[np.ndarray] = []
        self._bar: ProgressBar | None = None

    def __enter__(self) -> "_EpochBar":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, losses: np.ndarray, *, ends: bool = False) -> tuple[int, np.ndarray]:
        """Count steps; at the end of an epoch return its number and losses, and begin the next."""
        self._losses.append(losses)
        if self._show:
            self._count(losses)
        if not ends:
            return self._number, losses
        whole, number = np.concatenate(self._losses), self._number
        if self._bar is not None and number + 1 == self._epochs.stop:
            self._bar.set_postfix(loss=f"{whole.mean():.4g}")
        self._number, self._losses = number + 1, []
        return number, whole

    def _count(self, losses: np.ndarray) -> None:
        """Move the bar; it is drawn anew ten times a second at most, however short an epoch is."""
        if self._bar is None:
            before, total = (self._per_epoch * n for n in (self._epochs.start, self._epochs.stop))
            self._bar = ProgressBar(total=total, initial=before, unit="step", desc="Fitting")
        self._bar.set_description(f"Epoch {self._number + 1}/{self._epochs.stop}", refresh=False)
        if len(losses):
            self._bar.set_postfix(loss=f"{losses.mean():.4g}", refresh=False)
        self._bar.update(len(losses))
