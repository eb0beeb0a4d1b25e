"""Runs the simulations of a rehearsal: here or on a cluster, and only those that are not completed."""

__all__ = ["fingerprint_of_rehearsal", "run_simulations"]

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from numbers import Number
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import MCMC, SVI
from numpyro.optim import Minimize

from aimz.data import KernelArguments, fingerprint
from aimz.distributed import run_tasks
from aimz.engine import versions
from aimz.inference import Fit
from aimz.kernel import digest_program, kernel_digest
from aimz.progress import ProgressBar
from aimz.validation.simulation import Record, Simulation
from aimz.validation.simulation_files import SimulationFiles


def run_simulations(
    simulation: Simulation,
    numbers: Iterable[int],
    *,
    directory: Path | None,
    fingerprint: Mapping[str, str],
    client: Any,
    progress: bool,
) -> dict[int, Record]:
    """Return the records of simulations by number; completed ones are read from ``directory``."""
    files = None if directory is None else SimulationFiles(directory, fingerprint)
    numbers = list(numbers)
    opened: AbstractContextManager[dict[int, Record]] = nullcontext({}) if files is None else files.opened()
    with opened as known:
        missing = [number for number in numbers if number not in known]
        found = {number: known[number] for number in numbers if number in known}
        if client and missing:
            records = run_tasks(client, simulation.model.kernel, simulation, missing)
        else:
            records = ((number, simulation(number)) for number in missing)
        with ProgressBar(total=len(numbers), initial=len(found), disable=not progress, desc="refits") as bar:
            for number, record in records:
                if files is not None:
                    files.write(number, record)
                found[number] = record
                bar.update()
    return found


def fingerprint_of_rehearsal(simulation: Simulation, call: KernelArguments) -> dict[str, str]:
    """Return texts that identify a rehearsal, equal for equal calls."""
    model, posterior = simulation.model, simulation.model._posterior
    example = model._engine.example
    found = {
        "kernel": "" if example is None else kernel_digest(model.kernel, example, call.static) or "",
        "inference": _of_inference(model._fit),
        "options of the fit": json.dumps({"method": simulation.method, **simulation.options}, default=_name),
        "kind": f"{simulation.kind} {simulation.from_posterior} {simulation.n_draws} {simulation.threshold}",
        "effect": "" if simulation.question is None else simulation.question.describe(),
        "parameters": " ".join(simulation.parameters),
        "truth": json.dumps(dict(simulation.truth), default=_name),
        "rng_key": simulation.key,
        "versions": versions(),
        "device": jax.default_backend(),
        "arguments that are no arrays": json.dumps(dict(call.static), default=_name, sort_keys=True),
    }
    found |= {f"data of `{name}`": call.fingerprint(name) for name in call.arrays}
    if simulation.from_posterior:
        assert posterior is not None
        found["posterior"] = _digest(posterior.draws)
    if simulation.permutation is not None:
        groups = simulation.permutation.groups
        found["permutation"] = f"{simulation.permutation.names} {'' if groups is None else fingerprint([groups])}"
        found["data of the output"] = fingerprint([np.asarray(simulation.y)])
    return found


def _digest(draws: Mapping[str, Any]) -> str:
    """Return the digest of posterior draws."""
    text = " ".join(f"{name} {fingerprint([np.asarray(array)])}" for name, array in sorted(draws.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _of_inference(fit: Fit) -> str:
    """Return the inference as text: names and plain settings, and the program of an optimizer."""
    inference = fit.inference
    if fit.choice is not None:
        return fit.choice.description
    if isinstance(inference, MCMC):
        sampler = inference.sampler
        return f"{type(sampler).__name__} {_settings(sampler)} {_settings(inference)}"
    if not isinstance(inference, SVI):
        return fit.kind
    optimizer = type(inference.optim).__name__
    if not isinstance(inference.optim, Minimize):
        state = inference.optim.init({"value": jnp.zeros(())})
        optimizer += digest_program(
            jax.make_jaxpr(lambda s: inference.optim.eval_and_update(lambda p: (p["value"], None), s))(state)
        )
    guide = getattr(inference.guide, "__name__", type(inference.guide).__name__)
    return (
        f"{guide} {_settings(inference.guide)} {optimizer} {type(inference.loss).__name__} {_settings(inference.loss)}"
    )


def _settings(part: Any) -> str:
    """Return the attributes of an object that are numbers or texts."""
    own = getattr(part, "__dict__", {})
    return str(
        {name: value for name, value in sorted(own.items()) if isinstance(value, Number | str) and name != "latent_dim"}
    )


def _name(value: Any) -> Any:
    """Return an object that JSON does not have as text."""
    array = np.asarray(value) if not callable(value) else np.asarray(None)
    if array.dtype.kind in "biuf":
        return fingerprint([array])
    parameters = getattr(value, "arg_constraints", None)
    own = {} if parameters is None else {name: np.asarray(getattr(value, name)).tolist() for name in sorted(parameters)}
    return f"{getattr(value, '__qualname__', type(value).__name__)} {own or ''}"
