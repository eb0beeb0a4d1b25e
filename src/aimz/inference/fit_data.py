"""Digests of the data of the last fit, which identify the same rows in a later call."""

__all__ = ["FitData"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aimz.data import KernelArguments, is_plain_range
from aimz.kernel import freeze
from aimz.persistence import is_plain


@dataclass(frozen=True)
class FitData:
    """Output of the last fit, and digests of its inputs."""

    digests: Mapping[str, tuple[tuple[int, ...], str]]
    """Shape and fingerprint of each input array, by argument name."""
    output: Any
    call: KernelArguments | None = None
    """Arguments of the fit, as long as they are in memory and no other data have changed the fit."""
    static: Mapping[str, object] = field(default_factory=dict)
    """Arguments that are not arrays."""
    index: Any = None
    """Row labels of the input, if any."""
    stale: bool = False
    """Whether other data have changed the fit since."""

    @staticmethod
    def of(call: KernelArguments, param_output: str) -> "FitData":
        """Return the data of a fit to ``call``; arrays are not copied."""
        inputs = {name: array for name, array in call.arrays.items() if name != param_output}
        digests = {name: (tuple(array.shape), call.fingerprint(name)) for name, array in inputs.items()}
        kept = None if FitData.is_stored(call) else call
        return FitData(digests, call.arrays[param_output], kept, call.static, call.index)

    @staticmethod
    def is_stored(call: KernelArguments) -> bool:
        """Return whether some rows are not in memory; tables in memory are read when needed, but kept by reference."""
        return any(rows.is_stored or rows.from_batches for rows in call.rows.values())

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, without the input data and arguments that are not plain values."""
        static = {name: value for name, value in self.static.items() if is_plain(value)}
        return {**self.__dict__, "call": None, "static": static}

    def changed(self, call: KernelArguments) -> frozenset[str]:
        """Return the arguments whose arrays differ from the fit; batches of an iterable are assumed to be equal."""
        return frozenset(name for name in {*call.arrays, *self.digests} if self._differs(call, name))

    def has_other_index(self, call: KernelArguments) -> bool:
        """Return whether the row labels show that the rows are other observations, or in another order."""
        here, there = call.index, self.index
        if here is None or there is None or here.equals(there) or _as_strings(here).equals(there):
            return False
        # An index that only numbers the rows does not identify them, unless their number differs.
        is_range = is_plain_range(here) or is_plain_range(there)
        return not is_range or len(here) != len(there)

    def has_rows_of(self, call: KernelArguments, n_obs: int | None) -> bool:
        """Return whether a call has the fitted rows: the fitted data, or other values under the same row labels.

        ``n_obs`` is the number of rows, None if it is unknown.  Batches of an iterable with as many rows are assumed
        to be the fitted ones.
        """
        if self.has_other_index(call):
            return False
        lengths = {shape[0] for shape, _ in self.digests.values() if shape}
        if n_obs is not None and lengths and n_obs not in lengths:
            return False
        labelled = call.index is not None and self.index is not None and not is_plain_range(self.index)
        return labelled or not self.changed(call)

    def other_static(self, call: KernelArguments) -> str | None:
        """Return the name of an argument that is not an array and differs from the fit, as far as it is comparable."""
        for name in sorted(call.static.keys() & self.static.keys()):
            here, there = freeze(call.static[name]), freeze(self.static[name])
            if here != there and here == freeze(call.static[name]) and there == freeze(self.static[name]):
                return name
        return None

    def first_difference(self, call: KernelArguments) -> str | None:
        """Return the name of an array, input or output, that differs from the fit, or None."""
        inputs = sorted(name for name in self.digests if name not in call.arrays or self._differs(call, name))
        output = [name for name in call.arrays if name not in self.digests and self.is_other_output(call, name)]
        return next(iter([*inputs, *output]), None)

    def is_other_output(self, call: KernelArguments, name: str) -> bool:
        """Return whether the output ``name`` differs from the fit, if its data are in memory."""
        array = call.arrays[name]
        if self.output is None or name in call.batch_fields:
            return False
        fitted = KernelArguments({name: self.output})
        return tuple(array.shape) != tuple(self.output.shape) or call.fingerprint(name) != fitted.fingerprint(name)

    def _differs(self, call: KernelArguments, name: str) -> bool:
        array, (shape, digest) = call.arrays.get(name), self.digests.get(name, ((), ""))
        if array is None or name not in self.digests:
            return True
        # Arrays of another shape need not be read.
        return name not in call.batch_fields and (tuple(array.shape) != shape or call.fingerprint(name) != digest)


def _as_strings(index: Any) -> Any:
    """Return labels of object dtype as strings, as they are in a loaded model."""
    return index if index.dtype != object else index.map(str)
