"""Collectives of the processes of one call, and error propagation: an error in one process ends the call in all.

Every process runs the same script, so all make the same collectives in the same order.  A process that fails takes part
in one more collective and sends its error instead of data.  Since every call ends with a collective, the others
receive the error there.
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
"""Bytes that each process sends at once; every device holds the bytes of all processes."""
_TEXT = 500


class ProcessGroup:
    """The processes of `jax.distributed`, which exchange bytes through the collectives of JAX."""

    def __init__(self) -> None:
        self._inside = False
        self._over = False
        """Whether all processes have the error of this call, or cannot be reached."""

    @property
    def index(self) -> int:
        """Number of this process."""
        return int(jax.process_index())

    @property
    def count(self) -> int:
        """Number of processes."""
        return int(jax.process_count())

    @property
    def is_single_process(self) -> bool:
        """Whether there is only one process."""
        return bool(jax.process_count() == 1)

    @property
    def is_coordinator(self) -> bool:
        """Whether this process writes results and shows progress for all."""
        return self.index == 0

    def allgather(self, stage: str, content: bytes = b"") -> list[bytes]:
        """Return the bytes that each process sends, in their order; ``stage`` is the point of the call.

        Raises
        ------
        ClusterError
            If a process has failed, has ended, or is at another point of the script.
        """
        states, stages, contents = self._gather(0, stage, content)
        failed = next((i for i, state in enumerate(states) if state), None)
        if failed is not None:
            text = contents[failed].decode(errors="replace")
            self.fail(
                f"Process {failed} of {self.count} has failed, so this call has no result in any: {text} Look there, "
                "and make the call again in all processes."
            )
        if len(set(stages)) > 1:
            self.fail(
                f"The {self.count} processes are not at the same place of the script; this one is at: {stage}. Let "
                "every process make the same calls in the same order."
            )
        return contents

    def fail(self, text: str) -> NoReturn:
        """Raise an error that every process raises."""
        self._over = True
        raise ClusterError(text)

    def _gather(self, state: int, stage: str, content: bytes) -> tuple[list[int], list[int], list[bytes]]:
        """Return the state, the hash of the stage and the content of every process."""
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
            # Backends raise exceptions of different types.
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
        """Raise if processes have different numbers of devices, for which JAX has no collectives."""
        found = Counter(device.process_index for device in jax.devices())
        if len(set(found.values())) > 1:
            self.fail(f"All processes must have as many devices; got {dict(found)}. Give each as many.")

    @contextmanager
    def call(self, name: str) -> Iterator[None]:
        """Run a call that all processes make."""
        if self._inside or self.is_single_process:
            yield
            return
        self._inside, self._over = True, False
        try:
            yield
            self.allgather(f"the end of `{name}`")
        except BaseException as error:
            if not self._over:
                self._send_error(error)
            raise
        finally:
            self._inside = False

    def _send_error(self, error: BaseException) -> None:
        """Send an error to the other processes."""
        text = f"{type(error).__name__}: {str(error).strip()[:_TEXT]}"
        with suppress(ClusterError):  # a process that cannot be reached has failed as well
            self._gather(1, "", text.encode())


def _gathered(array: np.ndarray) -> np.ndarray:
    """Return the bytes of all processes, one row each."""
    from jax.experimental import multihost_utils

    return np.ascontiguousarray(multihost_utils.process_allgather(array))


process_group = ProcessGroup()
"""Group of this process."""


def collective_call[**P, T](method: Callable[P, T]) -> Callable[P, T]:
    """Wrap a method so that it succeeds in all processes or fails in all."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with process_group.call(method.__name__):
            return method(*args, **kwargs)

    return call
