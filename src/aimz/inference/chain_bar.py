"""The progress bar of chains, which NumPyro draws step by step."""

__all__ = ["chain_bar"]

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpyro.util
import tqdm

from aimz.progress import ProgressBar


class _ChainBar(ProgressBar):
    """Progress bar over the steps of chains whose clock starts after the first step, which compiles."""

    def __iter__(self) -> Iterator[Any]:
        """Yield the steps."""
        for number, step in enumerate(super().__iter__()):
            if number == 1:
                self.restart_clock()
            yield step


@contextmanager
def chain_bar() -> Iterator[None]:
    """Run with this package's bar in place of NumPyro's, which appears at once and counts the compilation."""
    numpyro.util.tqdm = SimpleNamespace(trange=lambda *args, **options: _ChainBar(range(*args), **options))
    try:
        yield
    finally:  # not the value before, which may be that of another thread
        numpyro.util.tqdm = tqdm
