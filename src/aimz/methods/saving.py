"""Write a model to a directory without code, and read it back."""

__all__ = ["ModelState", "read_model", "write_model"]

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from itertools import filterfalse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aimz._distribution import VERSION
from aimz.causal_graph import CausalGraph
from aimz.data import Posterior, check_key, is_array, key_from_text, key_to_text, read_draws
from aimz.engine import KernelEngine, declared_categories
from aimz.errors import OutputWarning, SavedModelError, warn
from aimz.inference import DeferredFit, Fit, FitData, KernelContext, Outcome, restored_fit
from aimz.kernel import AbstractCall, KernelSignature, KernelSpec, is_storable, kernel_digest
from aimz.methods.fitted_support import read_support, with_support_of_fit, write_support
from aimz.methods.results import ResultBuilder
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
"""Site attributes that are compared when a saved model is loaded."""
_NUMBERS = ("jax_enable_x64", "jax_threefry_partitionable")
"""JAX settings that change the random numbers."""


@dataclass(frozen=True)
class ModelState:
    """State of a model: everything that is saved, with the objects that hold it."""

    key: jax.Array
    engine: KernelEngine
    fit: Fit
    results: ResultBuilder
    posterior: Posterior | None
    observed: FitData | None
    graph: CausalGraph | None = None
    """Causal graph that the user gave."""


def write_model(path: Path, model: ModelState, *, overwrite: bool) -> None:
    """Write a model to a directory.

    Raises
    ------
    FileExistsError
        If ``path`` contains a model and ``overwrite`` is False, or anything other than a model.
    ValueError
        If parameters are objects of custom classes and there is no recorded call of the kernel to restore them.
    """
    check_target(path, overwrite=overwrite)
    arrays: dict[str, np.ndarray] = {}
    engine, posterior, observed = model.engine, model.posterior, model.observed
    fit = model.fit.write(arrays)
    if model.fit.choice is not None:
        fit["outcome"] = asdict(model.fit.outcome)
    if engine.example is None and any(needs_template(fit.get(part)) for part in ("params", "state")):
        msg = (
            "Some parameters of this kernel are objects of custom classes, which can only be restored with a recorded "
            "call of the kernel; there was none yet. Call `predict_on_batch` once before `save`."
        )
        raise ValueError(msg)
    parameters, (dims, coords) = engine.parameters, model.results.dims_and_coords
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
        "tables": {name: list(columns) for name, columns in parameters.known.items()},
        "columns": None if engine.columns is None else [list(engine.columns.names), dict(engine.columns.axes)],
        "dims": None if dims is None else {name: list(axes) for name, axes in dims.items()},
        "coords": None
        if coords is None
        else {dim: write_labels(labels, f"coords/{dim}", arrays) for dim, labels in coords.items()},
    }
    if posterior is not None and posterior.support is not None:
        content["support"] = write_support(posterior.support, arrays)
    if model.graph is not None:
        parents = {node: sorted(causes) for node, causes in model.graph.parents.items()}
        content["graph"] = {"parents": parents, "unobserved": sorted(model.graph.unobserved)}
    if parameters.outcome is not None:
        content["outcome"] = parameters.outcome
    if parameters.categories:
        axes = {name: dict(found.axes) for name, found in engine.groups.items()}
        content["categories"] = {
            name: {"labels": list(labels), "axes": axes.get(name, {})} for name, labels in parameters.categories.items()
        }
    if parameters.axes:
        content["axes"] = {name: [list(axis) for axis in axes] for name, axes in parameters.axes.items()}
    write_bundle(path, content, arrays, overwrite=overwrite)


def _versions() -> dict[str, str]:
    """Return the versions that are stored with a model."""
    packages = ("numpyro", "jax", "jaxlib", "numpy", "safetensors")
    return {"python": platform.python_version(), "aimz": VERSION, **{name: version(name) for name in packages}}


def _traces_identically(versions: Mapping[str, str]) -> bool:
    """Return whether the same kernel has the same digest under the saved versions and the installed ones."""
    installed = _versions()
    return all(versions.get(name) == installed[name] for name in ("aimz", "numpyro", "jax", "jaxlib"))


def _digest(kernel: Kernel, example: AbstractCall | None, static: Mapping[str, Any] | None = None) -> str | None:
    """Return the digest of the kernel's program; None if not all arguments of the call are known."""
    if example is None or (example.left_out and static is None):
        return None
    return kernel_digest(kernel, example, static or example.static)


def _write_posterior(posterior: Posterior, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the JSON node of the posterior; its draws are added to ``arrays``."""

    def put(group: str, values: Mapping[str, Any]) -> list[str]:
        arrays.update({f"{group}/{name}": np.asarray(value) for name, value in values.items()})
        return list(values)

    for name in filterfalse(is_storable, posterior.draws):
        msg = (
            f"The posterior has draws of {name!r}, which is not a valid site name and cannot be stored. Call "
            "`set_posterior_sample` without these draws."
        )
        raise ValueError(msg)
    stats = posterior.sample_stats
    return {
        "num_chains": posterior.num_chains,
        "sites": put("posterior", posterior.draws),
        "sample_stats": None if stats is None else put("sample_stats", stats),
    }


def _write_observed(observed: FitData, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the JSON node of the fitted data; the output and the row labels are added to ``arrays``."""
    if observed.output is not None:
        arrays["observed"] = np.asarray(observed.output)
    return {
        "static": {name: write_plain(value) for name, value in observed.static.items() if is_plain(value)},
        "moved": observed.stale,
        "digests": {name: [list(shape), digest] for name, (shape, digest) in observed.digests.items()},
        "output": observed.output is not None,
        "index": None if observed.index is None else write_labels(observed.index, "rows", arrays),
    }


def read_model(path: Path, kernel: Kernel, fit: Fit | None, arguments: Mapping[str, Any]) -> ModelState:
    """Read the state of a model; the state of the fit is restored in ``fit``, or in one by the saved choice.

    ``arguments`` are arguments of the kernel that are not in the files, such as functions.

    Raises
    ------
    SavedModelError
        If a file is damaged, modified or of a newer format, or the kernel or the fit differs from the saved one.
    TypeError
        If an entry of ``arguments`` is missing or unknown.
    """
    content, arrays = read_bundle(path)
    with _reporting_damage(path):
        about, settings, versions = (dict(content[name]) for name in ("kernel", "settings", "versions"))
        signature_of = str(about["param_input"]), str(about["param_output"])
        saved = f"`{about['name']}`, saved by aimz {versions['aimz']} with NumPyro {versions['numpyro']}"
        spec = None if about["spec"] is None else read_spec(about["spec"])
        example = None if about["example"] is None else read_example(about["example"])
        tables = {name: tuple(columns) for name, columns in content["tables"].items()}
        axes = {name: tuple(map(_read_axis, found)) for name, found in content.get("axes", {}).items()}
        columns, outcome = read_columns(content["columns"]), content.get("outcome")
        categories = {name: tuple(node["labels"]) for name, node in content.get("categories", {}).items()}
        groups = {
            name: read_columns([node["labels"], node["axes"]])
            for name, node in content.get("categories", {}).items()
            if node["axes"]
        }
        kind, digest = str(content["fit"]["kind"]), about["digest"]
        key = check_key(key_from_text(content["rng_key"]))
        results = _read_results(content, arrays)
        posterior = _read_posterior(content["posterior"], arrays, signature_of[1])
        posterior = with_support_of_fit(posterior, read_support(content.get("support"), arrays))
        observed = _read_observed(content["observed"], arrays)
        graph = _read_graph(content.get("graph"))
        _check_settings(settings)
    engine = KernelEngine.of(kernel, *signature_of)
    static = _read_static(example, arguments, engine.signature)
    engine.whole = frozenset(name for name, value in static.items() if is_array(value) and np.ndim(value))
    static |= {name: jnp.asarray(static[name]) for name in engine.whole}
    params: dict[str, Any] = {}
    fit = restored_fit(kernel, content["fit"], spec) if fit is None else fit
    _check_kind(fit, kind)
    if example is not None:
        _check_kernel(engine, example, static, saved)
        params = engine.reader.param_shapes(example.arrays, static, example.spec)
    with _reporting_damage(path):
        fit.read(content["fit"], arrays, KernelContext(example, static, params))
        fit.outcome = Outcome(**content["fit"].get("outcome", {}))
    if example is not None and digest is not None and _traces_identically(versions):
        _warn_if_other_program(digest, kernel, example, static)
    engine.reader.spec, engine.example = spec, example
    engine.declared = declared_categories(engine.signature, results.dims_and_coords[1])
    engine.columns, engine.groups = columns, {name: found for name, found in groups.items() if found is not None}
    engine.parameters = replace(
        engine.parameters,
        known=tables,
        axes=axes,
        outcome=outcome,
        categories=categories,
        leaves_text=posterior is None,
    )
    if example is not None and (fit.params or observed is not None):
        engine.row_shape = tuple(example.arrays[signature_of[0]].shape[1:])
    posterior = None if posterior is None else replace(posterior, params=fit.params)
    return ModelState(key, engine, fit, results, posterior, observed, graph)


@contextmanager
def _reporting_damage(path: Path) -> Iterator[None]:
    """Raise ``SavedModelError`` for any other error that an invalid ``model.json`` causes."""
    try:
        yield
    except SavedModelError:
        raise
    except Exception as error:
        raise damaged(path / "model.json", f"its content is invalid ({type(error).__name__}: {error})") from error


def _read_graph(node: Any) -> CausalGraph | None:
    """Return the saved causal graph."""
    if node is None:
        return None
    parents = {str(name): frozenset(map(str, causes)) for name, causes in node["parents"].items()}
    return CausalGraph(parents, frozenset(map(str, node["unobserved"])))


def _read_axis(node: Sequence[Any]) -> tuple[str, tuple[str, ...] | None]:
    """Return the name and the labels of an axis."""
    name, labels = node
    return str(name), None if labels is None else tuple(map(str, labels))


def _check_settings(settings: Mapping[str, bool]) -> None:
    """Check that JAX computes with the same precision and random bits as when the model was saved."""
    for name in _NUMBERS:
        if settings[name] is not bool(getattr(jax.config, name)):
            msg = (
                f"The model was saved with `{name}` set to {settings[name]}; here it is {not settings[name]}, which "
                f"changes the numbers. Call `jax.config.update({name!r}, {settings[name]})` first."
            )
            raise SavedModelError(msg)


def _check_kind(fit: Fit, saved: str) -> None:
    """Check that the inference object is of the saved kind."""
    if fit.inference is not None and saved not in (fit.kind, DeferredFit.kind):
        msg = (
            f"The model was fitted by {saved}; got {fit.kind}. Pass an inference object constructed as for the fit, or "
            "None; for another inference, create a new ImpactModel."
        )
        raise SavedModelError(msg)


def _read_static(
    example: AbstractCall | None, arguments: Mapping[str, Any], signature: KernelSignature
) -> dict[str, Any]:
    """Return the arguments of the kernel that are not arrays: the saved ones and ``arguments``."""
    if example is None:
        return dict(arguments)
    of_kernel = {*example.arrays, *example.static, *example.left_out} - {signature.param_input, signature.param_output}
    signature.check_call({**dict.fromkeys(of_kernel), **arguments})
    saved = sorted(set(arguments) - set(example.left_out))
    if saved:
        msg = (
            f"`arguments` must name only arguments that are not saved: {', '.join(example.left_out) or 'none'}; got "
            f"`{saved[0]}`, which was saved with the model. Leave it out."
        )
        raise TypeError(msg)
    missing = [name for name in example.left_out if name not in arguments]
    if missing:
        msg = (
            f"The kernel was called with {', '.join(f'`{name}`' for name in missing)}, which cannot be saved without "
            f"code. Pass the same value: `ImpactModel.load(path, kernel, arguments={{{missing[0]!r}: ...}})`."
        )
        raise TypeError(msg)
    return {**example.static, **{name: arguments[name] for name in example.left_out}}


def _check_kernel(engine: KernelEngine, example: AbstractCall, static: Mapping[str, Any], saved: str) -> None:
    """Check that the kernel has the same sites as the saved one."""
    try:
        spec = engine.reader.read(example.arrays, static)  # type: ignore[arg-type]
    except Exception as error:
        error.add_note(f"This was raised when the kernel was compared with {saved}.")
        raise
    differences = _site_differences(example.spec, spec)
    if differences:
        more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
        msg = (
            f"Kernel `{engine.signature.kernel}` is not {saved}: {'; '.join(differences[:5])}{more}. Pass the kernel "
            "that was fitted."
        )
        raise SavedModelError(msg)


def _site_differences(saved: KernelSpec, new: KernelSpec) -> list[str]:
    """Return a text for each site that differs, with the first attribute that does."""
    found = []
    for name in dict.fromkeys(site.name for site in (*saved.sites, *new.sites)):
        before, after = saved.get(name), new.get(name)
        if before is None or after is None:
            found.append(f"site `{name}` is {'new' if before is None else 'missing'}")
            continue
        for attribute in _STRUCTURE:
            was, is_ = getattr(before, attribute), getattr(after, attribute)
            if was != is_:
                label = {"traced_shape": "shape", "leaves": "parameters"}.get(attribute, attribute)
                found.append(f"site `{name}` has {label} {is_!s}, and had {was!s}")
                break
    return found


def _warn_if_other_program(saved: str, kernel: Kernel, example: AbstractCall, static: Mapping[str, Any]) -> None:
    """Warn if a kernel with the same sites computes something else, as far as its digest shows."""
    digest = _digest(kernel, example, static)
    if digest is not None and digest != saved:
        warn(
            "The kernel has the same sites as the saved one, but computes something else: a prior, a constant or an "
            "array in its closure has changed. The loaded model will not predict the same values as the saved one.",
            OutputWarning,
        )


def _read_results(content: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> ResultBuilder:
    """Return the builder of results with the saved ``dims`` and ``coords``."""
    dims, coords = content["dims"], content["coords"]
    if coords is not None:
        coords = {dim: read_labels(node, arrays).to_numpy() for dim, node in coords.items()}
        # NumPy makes a string array of a list of strings, and so it was before the model was saved.
        for dim, labels in coords.items():
            if labels.dtype == object and all(type(label) is str for label in labels):
                coords[dim] = labels.astype(str)
    return ResultBuilder(dims, coords)


def _read_posterior(node: Any, arrays: Mapping[str, np.ndarray], output: str) -> Posterior | None:
    """Return the saved posterior, after checking it as draws from the user."""
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
    """Return the record of the fitted data; the data themselves are not saved."""
    if node is None:
        return None
    digests = {name: (tuple(shape), str(digest)) for name, (shape, digest) in node["digests"].items()}
    output = np.array(arrays["observed"]) if node["output"] else None
    index = None if node["index"] is None else read_labels(node["index"], arrays, rows=True)
    static = {name: read_plain(value) for name, value in node["static"].items()}
    return FitData(digests, output, static=static, index=index, stale=bool(node["moved"]))
