"""Progress bar in plain text, in a terminal as in a notebook.

Widgets need another package, and are lost when a notebook is saved.
"""

__all__ = ["ProgressBar"]

from tqdm.std import tqdm


class ProgressBar(tqdm):  # type: ignore[misc,type-arg,unused-ignore]
    """Progress bar without tqdm's monitor thread."""

    monitor_interval = 0
