"""Progress bars: the same plain text in a terminal and in a notebook.

Bars made of widgets need a package that a notebook may not have, and are gone when it is saved.
"""

__all__ = ["ProgressBar"]

from tqdm.std import tqdm


class ProgressBar(tqdm):  # type: ignore[misc,type-arg,unused-ignore]
    """A progress bar without a thread that watches over it."""

    monitor_interval = 0
