"""The fit of a model that was loaded without an inference object."""

__all__ = ["PosteriorOnly"]

from collections.abc import Mapping
from typing import Any, Never

import numpy as np
from numpyro.infer.svi import SVIRunResult

from aimz.errors import NotFittedError
from aimz.inference.base import Fit, KernelContext
from aimz.persistence import NO_TEMPLATE, read_tree


class PosteriorOnly(Fit):
    """A saved fit that can predict and be saved again, but neither be continued nor drawn from."""

    inference = None

    def __init__(self) -> None:
        self._node: Mapping[str, Any] = {}
        self._arrays: Mapping[str, np.ndarray] = {}
        self._params: dict[str, Any] = {}

    @property
    def params(self) -> dict[str, Any]:
        """Parameters and mutable state that belong to the kernel."""
        return self._params

    def require_inference(self, action: str) -> Never:
        """Raise NotFittedError: ``action`` needs the inference object."""
        msg = (
            f"{action} needs the {self.kind} object; this model was loaded without. Pass it: `ImpactModel.load(path, "
            "kernel, inference=...)`."
        )
        raise NotFittedError(msg)

    def check_run(self, *_: Any, **__: Any) -> Never:
        """Raise NotFittedError."""
        self.require_inference("Fitting")

    run = check_run

    def check_sample(self, *_: Any, **__: Any) -> Never:
        """Raise NotFittedError."""
        self.require_inference("Sampling from the fit")

    sample = check_sample

    def write(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Return the state as it was read, so that a model saved again is complete."""
        arrays.update(self._arrays)
        return dict(self._node)

    def read(self, node: Mapping[str, Any], arrays: Mapping[str, np.ndarray], context: KernelContext) -> None:
        """Store the saved state, and restore the parameters that the kernel needs for predictions."""
        self._node, self.kind = node, str(node["kind"])
        groups = ("params", "losses", "state", "last_state")
        self._arrays = {name: array for name, array in arrays.items() if name.split("/")[0] in groups}
        state = dict(node["state"]["fields"]) if node.get("state") else {}
        for saved in (node.get("params"), state.get("mutable_state")):
            for name, tree in [] if saved is None else saved.get("dict", []):
                # Without an abstract call, the kernel's own parameters are unknown, and none needs a template.
                if name in context.params or context.example is None:
                    self._params[name] = read_tree(tree, arrays, context.params.get(name, NO_TEMPLATE))
        if node.get("losses"):
            self.vi_result = SVIRunResult(self._params, None, np.array(arrays[node["losses"]]))
