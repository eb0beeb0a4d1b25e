"""A fit on disk between two epochs: its state, so that a run that was killed ends in the same bits."""

__all__ = ["Checkpoint", "Progress", "fingerprint_fit"]

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import random
from numpyro.infer import SVI
from numpyro.infer.svi import SVIState

from aimz.data import differences
from aimz.errors import CheckpointError
from aimz.inference.minibatch_scaling import run_sites
from aimz.kernel import digest_program
from aimz.persistence import put_file

_INDEX = "checkpoint.json"


@dataclass(frozen=True)
class Progress:
    """How far a fit has come."""

    state: SVIState
    losses: np.ndarray
    epochs: int
    """Number of epochs that are done."""
    ended: bool
    """Whether it was stopped, and is not to go on."""


@dataclass(frozen=True)
class Checkpoint:
    """The directory of one fit.

    An epoch writes a file of arrays under a name of its own and then, in one atomic step, the index that names it and
    says what it must contain: whatever is torn, the index still names what was whole before.
    """

    directory: Path
    fingerprint: Mapping[str, str]

    def load(self, like: SVIState) -> Progress | None:
        """Return how far the fit had come, or None if there is nothing yet.

        Raises
        ------
        CheckpointError
            If it is of another fit, or damaged.
        """
        index = self.directory / _INDEX
        if not index.is_file():
            return None
        try:
            found = json.loads(index.read_text())
            unlike = differences(self.fingerprint, found["fingerprint"])
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(index) from error
        if unlike:
            msg = (
                f"The checkpoint in {self.directory} is of another fit: {', '.join(unlike)} differ(s). Pass another "
                "`checkpoint_dir`, or make the call that was interrupted."
            )
            raise CheckpointError(msg)
        path = self.directory / found["file"]
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != found["sha256"]:
            raise self._damaged(path)
        from safetensors.flax import load

        arrays = load(content)
        losses = np.asarray(arrays.pop("losses"))
        return Progress(_filled(like, arrays), losses, found["epochs"], found["ended"])

    def save(self, progress: Progress) -> None:
        """Write how far the fit has come."""
        from safetensors.flax import save

        self.directory.mkdir(parents=True, exist_ok=True)
        arrays = {name: jnp.asarray(_plain(leaf)) for name, leaf in _leaves(progress.state)}
        content = save({**arrays, "losses": jnp.asarray(progress.losses)})
        name = f"epoch-{progress.epochs:06d}.safetensors"
        put_file(self.directory / name, content)
        index = {
            "file": name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "epochs": progress.epochs,
            "ended": progress.ended,
            "fingerprint": dict(self.fingerprint),
        }
        put_file(self.directory / _INDEX, json.dumps(index, indent=2).encode())
        for old in self.directory.glob("epoch-*.safetensors*"):
            if old.name != name:
                old.unlink(missing_ok=True)

    def _damaged(self, path: Path) -> CheckpointError:
        return CheckpointError(
            f"The checkpoint in {self.directory} is damaged: {path.name} is missing or not as it was written. Remove "
            "the directory, and fit from the start."
        )


def _leaves(state: SVIState) -> list[tuple[str, Any]]:
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]


def _plain(leaf: Any) -> Any:
    """Return a leaf as an array of numbers; a key is its words."""
    return random.key_data(leaf) if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key) else leaf


def _filled(like: SVIState, arrays: Mapping[str, Any]) -> SVIState:
    """Return the state with these leaves; its structure is that of a fit like this one, as the fingerprint says."""
    leaves = []
    for name, leaf in _leaves(like):
        found = jnp.asarray(arrays[name])
        key = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
        leaves.append(random.wrap_key_data(found, impl=random.key_impl(leaf)) if key else found)
    filled: SVIState = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return filled


def fingerprint_fit(
    svi: SVI, state: SVIState, arrays: Mapping[str, Any], static: Mapping[str, object], **more: str
) -> dict[str, str]:
    """Return texts that are the same for the same fit, by what they are of.

    ``state`` is where the fit starts; ``arrays`` are abstract arguments of a batch.
    """

    def densities(function: Any) -> str:
        """Return the digest of every site's name, value, density and scale."""
        texts: list[str] = []

        def run(given: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
            found = run_sites(function, given, {**static, **svi.static_kwargs}, params).items()
            scaled = {n: (m, m["scale"]) for n, m in found if m["type"] == "sample"}
            texts.extend(f"{n} {scale if isinstance(scale, int | float) else None}" for n, (_, scale) in scaled.items())
            arrays_of = {n: scale if hasattr(scale, "shape") else 0 for n, (_, scale) in scaled.items()}
            return {n: (m["value"], m["fn"].log_prob(m["value"]), arrays_of[n]) for n, (m, _) in scaled.items()}

        program = jax.make_jaxpr(run)(dict(arrays), svi.get_params(state))
        return digest_program(program, *texts)

    def one_step(optim_state: Any) -> Any:
        """Return the state after a step on some function, whichever it is."""
        return svi.optim.eval_and_update(
            lambda params: (sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params)), None), optim_state
        )

    shapes = [(name, jnp.shape(leaf), str(jnp.result_type(leaf))) for name, leaf in _leaves(state)]
    start = hashlib.sha256()
    for _, leaf in _leaves(state):
        start.update(np.ascontiguousarray(_plain(leaf)).tobytes())
    return {
        "kernel": densities(svi.model),
        "guide": f"{type(svi.guide).__name__} {densities(svi.guide)}",
        "optimizer": digest_program(jax.make_jaxpr(one_step)(state.optim_state), shapes),
        "loss": f"{type(svi.loss).__name__} {sorted((k, v) for k, v in vars(svi.loss).items() if not callable(v))}",
        "state at the start": start.hexdigest(),
        "device": jax.default_backend(),
        **more,
    }
