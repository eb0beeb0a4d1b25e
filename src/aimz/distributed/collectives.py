"""Several processes that make one call together: what they tell each other, and how an error of one ends all.

Each process runs the same script and so makes the same exchanges in the same order.  One that fails takes part in one
last exchange, with its error in place of what was to be sent; since every call ends with an exchange, the others are at
one or come to it, and learn of the error there.
"""

__all__ = ["ProcessGroup", "collective_call", "process_group"]

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import NoReturn
from zlib import crc32

import jax
import numpy as np

from aimz.errors import ClusterError

_PIECE = 2**22
"""Bytes that each process sends at once; every device holds those of all processes."""
_TEXT = 500


class ProcessGroup:
    """Messages of all processes to all, through JAX's own collectives."""

    def __init__(self) -> None:
        self._inside = False
        self._over = False
        """Whether all processes know that this call has failed, or cannot be told."""

    @property
    def index(self) -> int:
        """The number of this process."""
        return int(jax.process_index())

    @property
    def count(self) -> int:
        """How many processes there are."""
        return int(jax.process_count())

    @property
    def is_single_process(self) -> bool:
        """Whether there is but one."""
        return self.count == 1

    @property
    def is_coordinator(self) -> bool:
        """Whether this process does what only one is to do."""
        return self.index == 0

    def all(self, stage: str, content: bytes = b"") -> list[bytes]:
        """Return what each process sends, in their order; ``stage`` says where in the call they are.

        Raises
        ------
        ClusterError
            If one has failed, is gone, or is elsewhere in the script.
        """
        states, stages, contents = self._gather(0, stage, content)
        failed = next((i for i, state in enumerate(states) if state), None)
        if failed is not None:
            text = contents[failed].decode(errors="replace")
            self.refuse(
                f"Process {failed} of {self.count} has failed, so this call has no result in any: {text} Look there, "
                "and make the call again in all processes."
            )
        if len(set(stages)) > 1:
            self.refuse(
                f"The {self.count} processes are not at the same place of the script; this one is at: {stage}. Let "
                "every process make the same calls in the same order."
            )
        return contents

    def refuse(self, text: str) -> NoReturn:
        """Raise what all processes raise now."""
        self._over = True
        raise ClusterError(text)

    def _gather(self, state: int, stage: str, content: bytes) -> tuple[list[int], list[int], list[bytes]]:
        self._check_devices()
        head = np.array([state, crc32(stage.encode()), len(content)], np.int64)
        try:
            heads = _gathered(head.view(np.uint8)).view(np.int64)
            longest = int(heads[:, 2].max())
            parts: list[list[bytes]] = [[] for _ in heads]
            for start in range(0, longest, _PIECE):
                # Lengths are powers of two, so that there are few programs to compile.
                room = np.zeros(1 << (min(_PIECE, longest - start) - 1).bit_length(), np.uint8)
                piece = np.frombuffer(content[start : start + _PIECE], np.uint8)
                room[: len(piece)] = piece
                for found, row, length in zip(parts, _gathered(room), heads[:, 2], strict=True):
                    found.append(row[: max(0, length - start)].tobytes())
        except Exception as error:
            # What a collective raises is the backend's own affair.
            self._over = True
            msg = (
                f"The connection to another process is lost ({str(error).partition(chr(10))[0][:_TEXT]}). If one was "
                "killed, JAX ends the others. Start all of them again; a call with `output_dir` is finished by "
                "`resume=`."
            )
            raise ClusterError(msg) from error
        states, stages, _ = (column.tolist() for column in heads.T)
        return states, stages, [b"".join(found) for found in parts]

    def _check_devices(self) -> None:
        """Refuse processes with different numbers of devices, which JAX cannot put side by side."""
        found = Counter(device.process_index for device in jax.devices())
        if len(set(found.values())) > 1:
            self.refuse(f"All processes must have as many devices; got {dict(found)}. Give each as many.")

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Enclose a call that all processes make."""
        if self._inside or self.is_single_process:
            yield
            return
        self._inside, self._over = True, False
        try:
            yield
            self.all(f"the end of `{name}`")
        except BaseException as error:
            if not self._over:
                self._tell(error)
            raise
        finally:
            self._inside = False

    def _tell(self, error: BaseException) -> None:
        text = f"{type(error).__name__}: {str(error).strip()[:_TEXT]}"
        with suppress(ClusterError):  # whoever cannot be told has failed as well
            self._gather(1, "", text.encode())


def _gathered(array: np.ndarray) -> np.ndarray:
    """Return the bytes of all processes, a row for each."""
    from jax.experimental import multihost_utils

    return np.ascontiguousarray(multihost_utils.process_allgather(array))


process_group = ProcessGroup()
"""The one of this process."""


def collective_call[**P, T](method: Callable[P, T]) -> Callable[P, T]:
    """Let all processes make a call of ``method`` as one: it succeeds in all, or fails in all."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with process_group.call(method.__name__):
            return method(*args, **kwargs)

    return call
