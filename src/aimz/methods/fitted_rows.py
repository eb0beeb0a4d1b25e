"""The rows of the last fit, which methods use if no other rows are passed."""

__all__ = ["FittedRows"]

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aimz.data import KernelArguments, KernelParameters, is_batches, open_chunked_table, open_table
from aimz.inference import FitData
from aimz.utils.data import ArrayDataset, ArrayLoader


@dataclass(frozen=True)
class FittedRows:
    """References to the data of the last fit, as the caller passed them; nothing is copied, saved or pickled."""

    X: Any = None
    """Input; the data set of a loader of arrays."""
    y: Any = None
    """Output as it was passed; None if it is part of ``X``."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of the kernel."""
    missing: str = ""
    """Reason why there are no rows; empty if there are."""
    method: str = "fit"
    """Name of the method that fitted the rows."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the fit."""

    @staticmethod
    def of(
        X: Any, y: Any, arguments: Mapping[str, Any], parameters: KernelParameters, *, interrupted: bool = False
    ) -> "FittedRows":
        """Return references to the data of a fit, unless they came in batches or the fit was interrupted."""
        if interrupted:
            return FittedRows(missing="its last fit was interrupted")
        if isinstance(X, ArrayLoader):
            X = X.dataset
        # A chunked table is not a table in memory, for which it would raise.
        readable = isinstance(X, ArrayDataset) or open_chunked_table(X, parameters) is not None
        if readable or open_table(X, parameters.input) is not None or not is_batches(X):
            return FittedRows(X, y, dict(arguments))
        return FittedRows(missing="it was fitted to an iterable of batches, whose rows are not kept")

    def require(self, method: str) -> "FittedRows":
        """Return the rows.

        Raises
        ------
        TypeError
            If there are none; the error names ``method``.
        """
        if self.missing:
            msg = (
                f"`{method}` needs rows, and the model has none of a fit in memory: {self.missing}. Pass the input as "
                "`X`, with the further arguments of the kernel."
            )
            raise TypeError(msg)
        return self

    @staticmethod
    def check_unchanged(observed: FitData | None, call: KernelArguments, given: Iterable[str] = ()) -> None:
        """Raise if an array of the fit was modified in place since; ``given`` are arguments that were passed now.

        Raises
        ------
        ValueError
            If the values of an argument differ from those that were fitted.
        """
        differing = sorted(frozenset() if observed is None else observed.changed(call) - frozenset(given))
        # The output of a fit is kept itself, without a digest.
        changed = [n for n in differing if observed and (n in observed.digests or observed.is_other_output(call, n))]
        if changed:
            msg = (
                f"The rows of the fit were modified in place since: `{changed[0]}` has other values than in the fit, "
                "and the model keeps a reference to it, not a copy. Pass the rows to use as `X`, with the further "
                "arguments of the kernel, or fit again."
            )
            raise ValueError(msg)

    def __reduce__(self) -> Any:
        """Return the state to pickle, which has no rows."""
        reason = self.missing or "it was pickled or saved, which keeps no rows"
        return FittedRows, (None, None, {}, reason)
