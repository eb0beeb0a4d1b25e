"""Digests of the data of the last fit, to tell whether a later call has the same rows."""

__all__ = ["FitData"]

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aimz.data import KernelArguments, is_plain_range
from aimz.kernel import freeze
from aimz.persistence import is_plain


@dataclass(frozen=True)
class FitData:
    """The output's data of the last fit, and which inputs they belong to."""

    digests: Mapping[str, tuple[tuple[int, ...], str]]
    """Argument name to the shape and the fingerprint of the array it had."""
    output: Any
    call: KernelArguments | None = None
    """The data themselves, as long as they are in memory and nothing but they has moved the fit."""
    static: Mapping[str, object] = field(default_factory=dict)
    """Further arguments that are no arrays."""
    index: Any = None
    """Labels of the rows, where the input had some."""
    moved: bool = False
    """Whether other data have moved the fit since."""

    @staticmethod
    def of(call: KernelArguments, param_output: str) -> "FitData":
        """Remember the data of a fit; nothing is copied."""
        inputs = {name: array for name, array in call.arrays.items() if name != param_output}
        digests = {name: (tuple(array.shape), call.fingerprint(name)) for name, array in inputs.items()}
        lazy = any(rows.is_lazy for rows in call.rows.values())
        return FitData(digests, call.arrays[param_output], None if lazy else call, call.static, call.index)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the data out of a pickle; their fingerprints stay, and arguments that are plain values."""
        static = {name: value for name, value in self.static.items() if is_plain(value)}
        return {**self.__dict__, "call": None, "static": static}

    def changed(self, call: KernelArguments) -> frozenset[str]:
        """Return the arguments whose arrays are not those of the fit; rows of an iterable are taken to be."""
        return frozenset(name for name in {*call.arrays, *self.digests} if self._differs(call, name))

    def has_other_index(self, call: KernelArguments) -> bool:
        """Return whether the labels of the rows say that these are other observations, or in another order."""
        here, there = call.index, self.index
        if here is None or there is None or here.equals(there) or _texts(here).equals(there):
            return False
        # One that only counts the rows says nothing about them, unless there are more or fewer.
        counted = is_plain_range(here) or is_plain_range(there)
        return not counted or len(here) != len(there)

    def other_static(self, call: KernelArguments) -> str | None:
        """Return the name of an argument that is no array and not what it was in the fit, as far as can be told."""
        for name in sorted(call.static.keys() & self.static.keys()):
            here, there = freeze(call.static[name]), freeze(self.static[name])
            if here != there and here == freeze(call.static[name]) and there == freeze(self.static[name]):
                return name
        return None

    def first_difference(self, call: KernelArguments) -> str | None:
        """Return the name of an array that is not that of the fit, the output among them, or None."""
        inputs = sorted(name for name in self.digests if name not in call.arrays or self._differs(call, name))
        output = [name for name in call.arrays if name not in self.digests and self.is_other_output(call, name)]
        return next(iter([*inputs, *output]), None)

    def is_other_output(self, call: KernelArguments, name: str) -> bool:
        """Return whether the output's data are not those of the fit, as far as they are at hand."""
        array = call.arrays[name]
        if self.output is None or name in call.batch_fields:
            return False
        fitted = KernelArguments({name: self.output})
        return tuple(array.shape) != tuple(self.output.shape) or call.fingerprint(name) != fitted.fingerprint(name)

    def _differs(self, call: KernelArguments, name: str) -> bool:
        array, (shape, digest) = call.arrays.get(name), self.digests.get(name, ((), ""))
        if array is None or name not in self.digests:
            return True
        # Most other data have another shape, and need not be read.
        return name not in call.batch_fields and (tuple(array.shape) != shape or call.fingerprint(name) != digest)


def _texts(index: Any) -> Any:
    """Return labels of a kind that no file holds as their texts, which stand for them in a model that was loaded."""
    return index if index.dtype != object else index.map(str)
