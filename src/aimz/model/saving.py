"""A model as a directory without code, and back."""

__all__ = ["ModelState", "read_model", "write_model"]

import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import filterfalse
from pathlib import Path
from typing import Any

import jax
import numpy as np

from aimz.data import Posterior, check_key, key_from_text, key_to_text, read_draws
from aimz.engine import KernelEngine
from aimz.errors import SavedModelError, warn
from aimz.inference import Fit, FitData, KernelContext
from aimz.kernel import AbstractCall, KernelSignature, KernelSpec, is_storable, kernel_digest, read_signature
from aimz.model.results import ResultBuilder
from aimz.persistence import (
    check_target,
    damaged,
    is_plain,
    needs_template,
    read_bundle,
    read_columns,
    read_example,
    read_labels,
    read_plain,
    read_spec,
    write_bundle,
    write_example,
    write_labels,
    write_plain,
    write_spec,
)
from aimz.types import Kernel

_STRUCTURE = ("role", "distribution", "traced_shape", "row_axes", "dtype", "event_dim", "plates", "n_values", "leaves")
"""What two sites of one name must have alike."""
_NUMBERS = ("jax_enable_x64", "jax_threefry_partitionable")
"""Settings of JAX that change what is drawn."""


@dataclass(frozen=True)
class ModelState:
    """What a model is made of, besides code."""

    key: jax.Array
    engine: KernelEngine
    fit: Fit
    results: ResultBuilder
    posterior: Posterior | None
    observed: FitData | None


def write_model(path: Path, model: ModelState, *, overwrite: bool) -> None:
    """Write a model.

    Raises
    ------
    FileExistsError
        If there is something else, or a model and not ``overwrite``.
    ValueError
        If parameters are of classes of the user's and no call of the kernel is known to find these by.
    """
    check_target(path, overwrite=overwrite)
    arrays: dict[str, np.ndarray] = {}
    engine, posterior, observed = model.engine, model.posterior, model.observed
    fit = model.fit.write(arrays)
    if engine.example is None and any(needs_template(fit.get(part)) for part in ("params", "state")):
        msg = (
            "Parameters of this kernel are objects of classes, which are known again by a call of the kernel; there "
            "was none yet. Call `predict_on_batch` once, and save then."
        )
        raise ValueError(msg)
    dims, coords = model.results.given
    content = {
        "versions": _versions(),
        "settings": {name: bool(getattr(jax.config, name)) for name in _NUMBERS},
        "kernel": {
            "name": engine.signature.kernel,
            "param_input": engine.signature.param_input,
            "param_output": engine.signature.param_output,
            "spec": None if engine.reader.spec is None else write_spec(engine.reader.spec),
            "example": None if engine.example is None else write_example(engine.example),
            "digest": _digest(engine.kernel, engine.example),
        },
        "rng_key": key_to_text(model.key),
        "fit": fit,
        "posterior": None if posterior is None else _write_posterior(posterior, arrays),
        "observed": None if observed is None else _write_observed(observed, arrays),
        "tables": {name: list(columns) for name, columns in engine.tables.items()},
        "columns": None if engine.columns is None else [list(engine.columns.names), dict(engine.columns.axes)],
        "dims": None if dims is None else {name: list(axes) for name, axes in dims.items()},
        "coords": None
        if coords is None
        else {dim: write_labels(labels, f"coords/{dim}", arrays) for dim, labels in coords.items()},
    }
    write_bundle(path, content, arrays, overwrite=overwrite)


def _versions() -> dict[str, str]:
    packages = ("aimz", "numpyro", "jax", "jaxlib", "numpy", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _alike_in_arithmetic(versions: Mapping[str, str]) -> bool:
    """Return whether equal kernels give equal programs here and there."""
    here = _versions()
    return all(versions.get(name) == here[name] for name in ("aimz", "numpyro", "jax", "jaxlib"))


def _digest(kernel: Kernel, example: AbstractCall | None, static: Mapping[str, Any] | None = None) -> str | None:
    if example is None or (example.left_out and static is None):
        return None
    return kernel_digest(kernel, example, static or example.static)


def _write_posterior(posterior: Posterior, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    def put(group: str, values: Mapping[str, Any]) -> list[str]:
        arrays.update({f"{group}/{name}": np.asarray(value) for name, value in values.items()})
        return list(values)

    for name in filterfalse(is_storable, posterior.draws):
        msg = (
            f"The posterior has draws of {name!r}, which is no name of a site and cannot be stored. Set it again "
            "without, `set_posterior_sample`."
        )
        raise ValueError(msg)
    stats = posterior.sample_stats
    return {
        "num_chains": posterior.num_chains,
        "sites": put("posterior", posterior.draws),
        "sample_stats": None if stats is None else put("sample_stats", stats),
    }


def _write_observed(observed: FitData, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    if observed.output is not None:
        arrays["observed"] = np.asarray(observed.output)
    return {
        "static": {name: write_plain(value) for name, value in observed.static.items() if is_plain(value)},
        "moved": observed.stale,
        "digests": {name: [list(shape), digest] for name, (shape, digest) in observed.digests.items()},
        "output": observed.output is not None,
        "index": None if observed.index is None else write_labels(observed.index, "rows", arrays),
    }


def read_model(path: Path, kernel: Kernel, fit: Fit, given: Mapping[str, Any]) -> ModelState:
    """Return what a model is made of; ``fit`` goes on, and ``given`` are arguments of the kernel that no file can hold.

    Raises
    ------
    SavedModelError
        If a file is torn, altered or of a newer format, or the kernel or the fit is another than was saved.
    TypeError
        If an argument of the kernel is missing that was left out.
    """
    content, arrays = read_bundle(path)
    with _understanding(path):
        about, settings, versions = (dict(content[name]) for name in ("kernel", "settings", "versions"))
        signature_of = str(about["param_input"]), str(about["param_output"])
        saved = f"`{about['name']}`, saved by aimz {versions['aimz']} with NumPyro {versions['numpyro']}"
        spec, example = _read_structure(about)
        tables = {name: tuple(columns) for name, columns in content["tables"].items()}
        columns = read_columns(content["columns"])
        kind, digest = str(content["fit"]["kind"]), about["digest"]
        key = check_key(key_from_text(content["rng_key"]))
        results = _read_results(content, arrays)
        posterior = _read_posterior(content["posterior"], arrays, signature_of[1])
        observed = _read_observed(content["observed"], arrays)
        _check_settings(settings)
    engine = KernelEngine(kernel, read_signature(kernel, *signature_of))
    static = _read_static(example, given, engine.signature)
    params: dict[str, Any] = {}
    _check_kind(fit, kind)
    if example is not None:
        _check_kernel(engine, example, static, saved)
        params = engine.reader.param_shapes(example.arrays, static, example.spec)
    with _understanding(path):
        fit.read(content["fit"], arrays, KernelContext(example, static, params))
    if example is not None and digest is not None and _alike_in_arithmetic(versions):
        _compare_arithmetic(digest, kernel, example, static)
    engine.reader.spec, engine.example = spec, example
    engine.tables, engine.columns = tables, columns
    return ModelState(key, engine, fit, results, posterior, observed)


@contextmanager
def _understanding(path: Path) -> Iterator[None]:
    """Read what cannot be taken to be as we wrote it."""
    try:
        yield
    except SavedModelError:
        raise
    except Exception as error:
        raise damaged(path / "model.json", f"it cannot be understood ({type(error).__name__}: {error})") from error


def _read_structure(about: Mapping[str, Any]) -> tuple[KernelSpec | None, AbstractCall | None]:
    return (
        None if about["spec"] is None else read_spec(about["spec"]),
        None if about["example"] is None else read_example(about["example"]),
    )


def _check_settings(settings: Mapping[str, bool]) -> None:
    """Refuse to predict with other numbers than those that were fitted with."""
    for name in _NUMBERS:
        if settings[name] is not bool(getattr(jax.config, name)):
            msg = (
                f"The model was saved with `{name}` set to {settings[name]}; here it is {not settings[name]}, and "
                f"would give other numbers. Call `jax.config.update({name!r}, {settings[name]})` first."
            )
            raise SavedModelError(msg)


def _check_kind(fit: Fit, saved: str) -> None:
    """Refuse another way of fitting; a posterior alone can be handed on by `set_posterior_sample`."""
    if fit.inference is not None and fit.kind != saved:
        msg = (
            f"The model was fitted by {saved}; got {fit.kind}. Pass inference made as for the fit, or none; to fit "
            "anew, make a new ImpactModel."
        )
        raise SavedModelError(msg)


def _read_static(example: AbstractCall | None, given: Mapping[str, Any], signature: KernelSignature) -> dict[str, Any]:
    """Return the arguments of the kernel that are no arrays."""
    if example is None:
        return dict(given)
    of_kernel = {*example.arrays, *example.static, *example.left_out} - {signature.param_input, signature.param_output}
    signature.check_call({**dict.fromkeys(of_kernel), **given})
    known = sorted(set(given) - set(example.left_out))
    if known:
        msg = (
            f"`arguments` must be what no file can hold: {', '.join(example.left_out) or 'nothing here'}; got "
            f"`{known[0]}`, which was saved with the model. Leave it out."
        )
        raise TypeError(msg)
    missing = [name for name in example.left_out if name not in given]
    if missing:
        msg = (
            f"The kernel was called with {', '.join(f'`{name}`' for name in missing)}, which no file without code can "
            f"hold. Pass what it was: `ImpactModel.load(path, kernel, arguments={{{missing[0]!r}: ...}})`."
        )
        raise TypeError(msg)
    return {**example.static, **{name: given[name] for name in example.left_out}}


def _check_kernel(engine: KernelEngine, example: AbstractCall, static: Mapping[str, Any], saved: str) -> None:
    """Refuse a kernel that has other sites than the one that was saved."""
    try:
        here = engine.reader.read(example.arrays, static)  # type: ignore[arg-type]
    except Exception as error:
        error.add_note(f"This was raised when the kernel was compared with {saved}.")
        raise
    unlike = list(_unlike_sites(example.spec, here))
    if unlike:
        more = f" and {len(unlike) - 5} more" if len(unlike) > 5 else ""
        msg = (
            f"Kernel `{engine.signature.kernel}` is not {saved}: {'; '.join(unlike[:5])}{more}. Pass the kernel that "
            "was fitted."
        )
        raise SavedModelError(msg)


def _unlike_sites(saved: KernelSpec, here: KernelSpec) -> list[str]:
    found = []
    for name in dict.fromkeys([*(s.name for s in saved.sites), *(s.name for s in here.sites)]):
        one, other = saved.get(name), here.get(name)
        if one is None or other is None:
            found.append(f"site `{name}` is {'new' if one is None else 'missing'}")
            continue
        for what in _STRUCTURE:
            was, is_ = getattr(one, what), getattr(other, what)
            if was != is_:
                named = {"traced_shape": "shape", "leaves": "parameters"}.get(what, what)
                found.append(f"site `{name}` has {named} {is_!s}, and had {was!s}")
                break
    return found


def _compare_arithmetic(saved: str, kernel: Kernel, example: AbstractCall, static: Mapping[str, Any]) -> None:
    """Warn of a kernel with the same sites that computes something else, as far as this can be told."""
    here = _digest(kernel, example, static)
    if here is not None and here != saved:
        warn(
            "The kernel has the sites of the one that was saved, but computes something else: a prior, a constant or "
            "an array it closes over has changed. Predictions will differ from those of the model that was saved."
        )


def _read_results(content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> ResultBuilder:
    dims, coords = content["dims"], content["coords"]
    if coords is not None:
        coords = {dim: _plain_array(read_labels(node, arrays).to_numpy()) for dim, node in coords.items()}
    return ResultBuilder(dims, coords)


def _plain_array(labels: np.ndarray) -> np.ndarray:
    """Return texts as NumPy has them of a list."""
    texts = labels.dtype == object and all(type(label) is str for label in labels)
    return labels.astype(str) if texts else labels


def _read_posterior(node: Any, arrays: Mapping[str, np.ndarray], output: str) -> Posterior | None:
    if node is None:
        return None
    for name in filterfalse(is_storable, node["sites"]):
        msg = f"{name!r} is not a valid site name"
        raise ValueError(msg)
    draws = {name: arrays[f"posterior/{name}"] for name in node["sites"]}
    found = read_draws(draws, num_chains=node["num_chains"], param_output=output)
    stats = node["sample_stats"]
    stats = None if stats is None else {name: np.array(arrays[f"sample_stats/{name}"]) for name in stats}
    return Posterior(found.draws, found.num_chains, stats)


def _read_observed(node: Any, arrays: Mapping[str, np.ndarray]) -> FitData | None:
    if node is None:
        return None
    digests = {name: (tuple(shape), str(digest)) for name, (shape, digest) in node["digests"].items()}
    output = np.array(arrays["observed"]) if node["output"] else None
    index = None if node["index"] is None else read_labels(node["index"], arrays, rows=True)
    static = {name: read_plain(value) for name, value in node["static"].items()}
    return FitData(digests, output, static=static, index=index, stale=bool(node["moved"]))
