"""Progress bars: the same plain text in a terminal and in a notebook.

Bars made of widgets need a package that a notebook may not have, and are gone when it is saved.
"""

__all__ = ["Bar"]

import warnings

with warnings.catch_warnings():
    # NumPyro imports this too, and where a notebook has no widgets tqdm says so: our bars do not need them.
    warnings.filterwarnings("ignore", message="IProgress not found")
    import tqdm.auto


class Bar(tqdm.tqdm):  # type: ignore[misc,type-arg,unused-ignore]
    """A progress bar without a thread that watches over it."""

    monitor_interval = 0
