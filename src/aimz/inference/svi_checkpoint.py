"""State of a variational fit in files: checkpoints between epochs, and the state of a saved model."""

__all__ = [
    "Checkpoint",
    "Progress",
    "bounded_by_data",
    "component_names",
    "fingerprint_fit",
    "reset_for_new_data",
    "restore_state",
]

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy, deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.flax
from numpyro.infer import SVI
from numpyro.infer.svi import SVIState

from aimz.data import differences
from aimz.errors import CheckpointError, FitWarning, SavedModelError, warn
from aimz.inference.base import KernelContext
from aimz.inference.compiled_setup import forget_data
from aimz.inference.minibatch_scaling import guide_parts, run_sites
from aimz.kernel import digest_program, isolated
from aimz.persistence import (
    NO_TEMPLATE,
    TreeMismatchError,
    check_leaves,
    fill_leaves,
    leaf_arrays,
    locked_directory,
    name_path,
    needs_template,
    put_file,
    read_tree,
)

_INDEX = "checkpoint.json"
_FORMAT = 2
"""Format of the index; format 1 has no checksum of the index itself."""


@dataclass(frozen=True)
class Progress:
    """State of a fit at the end of an epoch."""

    state: SVIState
    losses: np.ndarray
    epochs: int
    """Number of completed epochs."""
    ended: bool
    """Whether the fit was stopped and must not be resumed."""


@dataclass(frozen=True)
class Checkpoint:
    """Directory with the checkpoint of one fit.

    Each epoch writes a file of arrays with its own name and then atomically replaces the index, which holds the name
    and digest of that file. After an interruption the index still refers to a complete file.
    """

    directory: Path
    fingerprint: Mapping[str, str]

    def load(self, template: SVIState) -> Progress | None:
        """Return the stored progress, or None if there is no checkpoint.

        Raises
        ------
        CheckpointError
            If the checkpoint belongs to another fit, or is damaged.
        """
        index = self.directory / _INDEX
        if not index.is_file():
            return None
        try:
            content = _read_index(index.read_bytes())
            different = differences(self.fingerprint, content["fingerprint"])
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise self._damaged(index) from error
        if different:
            msg = (
                f"The checkpoint in {self.directory} is of another fit: {', '.join(different)} differ(s). Pass another "
                "`checkpoint_dir`, or repeat the call that was interrupted."
            )
            raise CheckpointError(msg)
        path = self.directory / content["file"]
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != content["sha256"]:
            raise self._damaged(path)
        arrays = safetensors.flax.load(data)
        losses = np.asarray(arrays.pop("losses"))
        return Progress(fill_leaves(template, arrays), losses, content["epochs"], content["ended"])

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the directory, created if necessary, for one fit at a time.

        Raises
        ------
        CheckpointError
            If another fit uses the directory.
        """
        taken = CheckpointError(
            f"`checkpoint_dir` must be a directory that no other fit uses; another fit writes to {self.directory}. "
            "Wait until it ends, or pass another directory."
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        with locked_directory(self.directory, taken):
            yield

    def save(self, progress: Progress) -> None:
        """Write a checkpoint and delete the previous one."""
        advice = "Free some space and repeat the call, which continues from the previous epoch"
        with name_path(self.directory, advice):
            self._save(progress)

    def _save(self, progress: Progress) -> None:
        arrays = {**leaf_arrays(progress.state), "losses": progress.losses}
        data = safetensors.flax.save({name: jnp.asarray(array) for name, array in arrays.items()})
        name = _file_name(progress.epochs)
        put_file(self.directory / name, data)
        index = {
            "format": _FORMAT,
            "file": name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "epochs": progress.epochs,
            "ended": progress.ended,
            "fingerprint": dict(self.fingerprint),
        }
        index["checksum"] = _checksum(index)
        put_file(self.directory / _INDEX, json.dumps(index, indent=2).encode())
        for previous in self.directory.glob("epoch-*.safetensors*"):
            if previous.name != name:
                previous.unlink(missing_ok=True)

    def _damaged(self, path: Path) -> CheckpointError:
        return CheckpointError(
            f"The checkpoint in {self.directory} is damaged: {path.name} is missing or has changed since it was "
            "written. Remove the directory and fit from the start."
        )


def _file_name(epochs: int) -> str:
    """Return the name of the file of arrays."""
    return f"epoch-{epochs:06d}.safetensors"


def _read_index(text: bytes) -> dict[str, Any]:
    """Return the content of an index; raise ValueError, or another error of the content, if it is damaged."""
    content: dict[str, Any] = json.loads(text)
    is_checked = "checksum" in content or content.get("format", 1) != 1
    if is_checked and content.pop("checksum", None) != _checksum(content):
        msg = "The index has changed since it was written."
        raise ValueError(msg)
    epochs, ended = content["epochs"], content["ended"]
    if type(epochs) is not int or type(ended) is not bool or content["file"] != _file_name(epochs):
        msg = "The index has invalid entries."
        raise ValueError(msg)
    return content


def _checksum(index: Mapping[str, Any]) -> str:
    """Return the digest of an index."""
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def fingerprint_fit(
    svi: SVI, state: SVIState, arrays: Mapping[str, Any], static: Mapping[str, object], **more: str
) -> dict[str, str]:
    """Return one text for each component of a fit, which is equal for equal fits.

    ``state`` is the initial state; ``arrays`` are abstract arguments of a batch.
    """

    def densities(function: Any) -> str:
        """Return the digest of name, value, density and scale of every site."""
        texts: list[str] = []

        def run(arrays: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
            sites = run_sites(function, arrays, {**static, **svi.static_kwargs}, params).items()
            samples = {name: (site, site["scale"]) for name, site in sites if site["type"] == "sample"}
            texts.extend(
                f"{n} {scale if isinstance(scale, int | float) else None}" for n, (_, scale) in samples.items()
            )
            scales = {name: scale if hasattr(scale, "shape") else 0 for name, (_, scale) in samples.items()}
            return {n: (m["value"], m["fn"].log_prob(m["value"]), scales[n]) for n, (m, _) in samples.items()}

        program = jax.make_jaxpr(run)(dict(arrays), svi.get_params(state))
        return digest_program(program, *texts)

    def one_step(optim_state: Any) -> Any:
        """Return the optimizer's state after one step on an arbitrary function."""
        return svi.optim.eval_and_update(
            lambda params: (sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params)), None), optim_state
        )

    shapes = [
        (jax.tree_util.keystr(path), jnp.shape(leaf), str(jnp.result_type(leaf)))
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    ]
    initial = hashlib.sha256()
    for array in leaf_arrays(state).values():
        initial.update(np.ascontiguousarray(array).tobytes())
    return {
        "kernel": densities(svi.model),
        "guide": f"{type(svi.guide).__name__} {densities(svi.guide)}",
        "optimizer": digest_program(jax.make_jaxpr(one_step)(state.optim_state), shapes),
        "loss": f"{type(svi.loss).__name__} {sorted((k, v) for k, v in vars(svi.loss).items() if not callable(v))}",
        "state at the start": initial.hexdigest(),
        "device": jax.default_backend(),
        **more,
    }


# ------------------------------------------------------------------------------------------------ saved model


def component_names(svi: SVI) -> dict[str, str]:
    """Return the names of guide, optimizer and loss."""
    parts = {"guide": svi.guide, "optimizer": svi.optim, "loss": svi.loss}
    return {name: getattr(part, "__name__", type(part).__name__) for name, part in parts.items()}


def reset_for_new_data(svi: SVI) -> SVI:
    """Return ``svi``, or a copy without the data it was set up with."""
    is_set_up = any(getattr(part, "prototype_trace", None) for part in guide_parts(svi.guide))
    if svi.constrain_fn is None and not is_set_up:
        return svi
    own = copy(svi)
    own.guide = deepcopy(svi.guide)
    forget_data(own)
    return own


def restore_state(
    svi: SVI, node: Mapping[str, Any], arrays: Mapping[str, np.ndarray], context: KernelContext
) -> tuple[dict[str, Any], SVIState | None]:
    """Return the parameters of a saved fit, and its state if there is one.

    Raises
    ------
    SavedModelError
        If they belong to another guide, kernel or optimizer; the message names the differences.
    """
    state_template, params_template = NO_TEMPLATE, NO_TEMPLATE
    if context.example is not None and (node["state"] is not None or needs_template(node["params"])):
        key = {} if node["state"] is None else dict(node["state"]["fields"])["rng_key"]
        state_template, params_template = _abstract_state(svi, context, impl=key.get("key"))
    state, what = None, "parameters"
    try:
        params = read_tree(node["params"], arrays, params_template)
        if params_template is not NO_TEMPLATE:
            # Parameters set by the user may be incomplete; parameters of the state are complete.
            check_leaves(params, {name: value for name, value in params_template.items() if name in params})
        if node["state"] is not None:
            what = "state of the optimizer"
            state = read_tree(node["state"], arrays, state_template)
            check_leaves(state, state_template)
    except TreeMismatchError as error:
        here = component_names(svi)
        names = ", ".join(f"{kind} {node[kind]} (here {here[kind]})" for kind in ("guide", "optimizer"))
        more = f" and {len(error.args) - 5} more" if len(error.args) > 5 else ""
        msg = (
            f"The model was saved with other {what}: {', '.join(error.args[:5])}{more}. It was fitted with {names}. "
            "Pass inference built as for the fit, or none to predict only."
        )
        raise SavedModelError(msg) from error
    return params, state


def _abstract_state(svi: SVI, context: KernelContext, impl: str | None) -> tuple[Any, Any]:
    """Return shapes and dtypes of the initial state and parameters of a fit, without changing ``svi``.

    Warns
    -----
    FitWarning
        If bounds may depend on the data, so that they change with the first data after a load.
    """
    assert context.example is not None
    own, bounded = copy(svi), list[str]()
    own.guide = deepcopy(svi.guide)  # running a guide sets it up

    @isolated
    def init(key: jax.Array, arrays: Mapping[str, Any]) -> tuple[Any, Any]:
        state = own.init(key, **arrays, **context.static)
        bounded.extend(bounded_by_data(own))
        return state, own.get_params(state)

    try:
        result: tuple[Any, Any] = jax.eval_shape(init, jax.random.key(0, impl=impl), dict(context.example.arrays))
    except Exception as error:
        msg = (
            "The guide cannot be run on arguments of the saved model's shapes, to compare the two: "
            f"{type(error).__name__}: {error}. Pass inference built as for the fit, or none to predict only."
        )
        raise SavedModelError(msg) from error
    if bounded:
        warn(
            f"The bounds of {', '.join(f'`{name}`' for name in bounded)} are computed when the fit starts, possibly "
            "from the data. A loaded model computes them from the first data it is fitted to: continue with the data "
            "of the fit.",
            FitWarning,
        )
    return result


def bounded_by_data(svi: SVI) -> Iterator[str]:
    """Yield the parameters and latents whose bounds are not constants."""

    def varies(bounds: Any) -> bool:
        return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(bounds))

    (transforms,) = svi.constrain_fn.args
    yield from (name for name, transform in transforms.items() if varies(transform))
    for part in guide_parts(svi.guide):
        for name, site in (getattr(part, "prototype_trace", None) or {}).items():
            if site["type"] == "sample" and not site["is_observed"] and varies(site["fn"].support):
                yield name
