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
    delay: float
    start_t: float
    last_print_t: float
    _is_drawn = False

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"delay": _DELAY, **options})

    def display(self, *args: Any, **options: Any) -> Any:
        """Draw the bar, unless it appears later."""
        if self.delay and self._time() < self.start_t + self.delay:
            return None
        self._is_drawn = True
        return super().display(*args, **options)

    def close(self) -> None:
        """Draw the bar for the last time, and end its line if it was drawn."""
        if not self.disable and self._is_drawn:
            self.last_print_t = max(self.last_print_t, self.start_t + self.delay)
        super().close()

    def restart_clock(self) -> None:
        """Start the clock now, after compilation."""
        if not self.disable:
            self.start_t = self.last_print_t = self._time()
