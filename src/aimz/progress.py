"""Progress bar in plain text, in a terminal as in a notebook.

Widgets need another package, and are lost when a notebook is saved.
"""

__all__ = ["ProgressBar"]

from typing import Any

from tqdm.std import tqdm

_DELAY = 2.0
"""Number of seconds after which a bar appears."""


class ProgressBar(tqdm):  # type: ignore[misc,type-arg,unused-ignore]
    """Progress bar without tqdm's monitor thread, which appears after two seconds."""

    monitor_interval = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"delay": _DELAY, **options})

    def restart_clock(self) -> None:
        """Start the clock now, after compilation."""
        if not self.disable:
            self.start_t = self.last_print_t = self._time()
