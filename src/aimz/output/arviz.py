"""The door to ArviZ, which is an extra."""

__all__ = ["import_arviz_stats"]

from typing import Any


def import_arviz_stats(what: str) -> Any:
    """Return ArviZ's statistics.

    Raises
    ------
    ImportError
        If they are not installed; ``what`` says which call wants them.
    """
    try:
        import arviz_stats
    except ImportError as error:
        msg = f"`{what}` takes its statistics from ArviZ, which is not installed. Call `pip install 'aimz[arviz]'`."
        raise ImportError(msg) from error
    return arviz_stats
