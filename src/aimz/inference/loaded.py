"""What was fitted, without the object that fitted it."""

__all__ = ["PosteriorOnly"]

from collections.abc import Iterable, Mapping
from typing import Any, Never

import jax
import numpy as np
from numpyro.infer.svi import SVIRunResult

from aimz.data import KernelArguments, Posterior
from aimz.errors import NotFittedError
from aimz.inference.base import Fit, Known
from aimz.kernel import KernelSpec
from aimz.persistence import NOTHING, read_tree


class PosteriorOnly(Fit):
    """The fit of a model that was loaded to predict only."""

    inference = None

    def __init__(self) -> None:
        self._node: Mapping[str, Any] = {}
        self._arrays: Mapping[str, np.ndarray] = {}
        self._params: dict[str, Any] = {}

    @property
    def params(self) -> dict[str, Any]:
        """What the kernel itself has of parameters and mutable state."""
        return self._params

    def refuse(self, what: str) -> Never:
        """Say that the object that fits is missing.

        Raises
        ------
        NotFittedError
            Always.
        """
        msg = (
            f"{what} needs the {self.kind} object; this model was loaded without. Pass it: `ImpactModel.load(path, "
            "kernel, inference=...)`."
        )
        raise NotFittedError(msg)

    def check_run(self, call: KernelArguments, spec: KernelSpec, *, num_samples: int) -> None:  # noqa: ARG002
        """Refuse to fit."""
        self.refuse("Fitting")

    def run(self, *args: Any, **kwargs: Any) -> Posterior:  # noqa: ARG002
        """Refuse to fit."""
        self.refuse("Fitting")

    def check_sample(self, call: KernelArguments | None) -> None:  # noqa: ARG002
        """Refuse to draw afresh."""
        self.refuse("Drawing afresh")

    def sample(
        self,
        call: KernelArguments | None,  # noqa: ARG002
        spec: KernelSpec | None,  # noqa: ARG002
        key: jax.Array,  # noqa: ARG002
        *,
        num_samples: int,  # noqa: ARG002
        return_sites: Iterable[str] | None,  # noqa: ARG002
    ) -> Posterior:
        """Refuse to draw afresh."""
        self.refuse("Drawing afresh")

    def write(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return what was read, so that nothing of it is lost in a model that is saved again."""
        arrays.update(self._arrays)
        return dict(self._node)

    def read(self, node: Mapping[str, Any], arrays: Mapping[str, np.ndarray], known: Known) -> None:
        """Keep all, and read what the kernel needs to predict."""
        self._node, self.kind = node, str(node["kind"])
        names = ("params", "losses", "state", "last_state")
        self._arrays = {name: array for name, array in arrays.items() if name.split("/")[0] in names}
        state = dict(node["state"]["fields"]) if node.get("state") else {}
        for saved in (node.get("params"), state.get("mutable_state")):
            of = [] if saved is None else saved.get("dict", [])
            for name, tree in of:
                # Without a call of the kernel it is not known which are its own, and none is of classes.
                if name in known.params or known.example is None:
                    self._params[name] = read_tree(tree, arrays, known.params.get(name, NOTHING))
        if node.get("losses"):
            self.vi_result = SVIRunResult(self._params, None, np.array(arrays[node["losses"]]))
