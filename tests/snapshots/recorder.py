"""Records signatures, stored files and numbers that must not change between versions, through public names only.

``python recorder.py DIRECTORY`` writes every artefact into DIRECTORY; ``compare_bytes.py`` does so for two versions of
the source and compares the files.  ``python recorder.py --update`` replaces the committed files that
``test_snapshots.py`` reads.
"""

import contextlib
import importlib
import inspect
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import optax
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import aimz
from aimz import ImpactModel
from kernels import BY_NAME, Case, linear, long, long_draws

HERE = Path(__file__).parent
KERNELS = ("linear", "hierarchical", "local_latents", "poisson", "gaussian_process")
MODULES = (
    "aimz",
    "aimz.model",
    "aimz.utils.data",
    "aimz.plots",
    "aimz.primitives",
    "aimz.mlflow",
    "aimz.errors",
)
N_ROWS = {"gaussian_process": 24}
N_OBS = 1100  # one whole row block of 1024 rows and a part of another
N_DRAWS = 3
STATISTICS = ("mean", "sd", 0.1, ("eti", 0.9), ("exceeds", 0.5))
OPTIONS: dict[str, Any] = {"progress": False, "rng_key": random.key(5)}


# ---------------------------------------------------------------------------------------------------- signatures


def public_signatures() -> dict[str, Any]:
    """Return the signature of every public function, class and method, by its path."""
    found: dict[str, Any] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for member in sorted(module.__all__):
            value = getattr(module, member)
            if isinstance(value, str):
                found[f"{name}.{member}"] = "str"
            elif not getattr(value, "__module__", "").startswith("aimz"):
                found[f"{name}.{member}"] = "re-exported from NumPyro"
            elif inspect.isclass(value):
                found[f"{name}.{member}"] = class_members(value)
            else:
                found[f"{name}.{member}"] = signature(value)
    return found


def class_members(cls: type) -> dict[str, Any]:
    """Return the bases, the constructor's signature and the public members of a class."""
    found: dict[str, Any] = {"bases": [base.__name__ for base in cls.__mro__ if base.__module__ == "builtins"]}
    for name in ["__init__", *sorted(name for name in dir(cls) if not name.startswith("_"))]:
        member = inspect.getattr_static(cls, name)
        owner = next(base for base in cls.__mro__ if name in vars(base))
        if not owner.__module__.startswith("aimz"):
            continue
        kind = type(member).__name__
        found[name] = f"{kind} {signature(getattr(cls, name))}" if callable(getattr(cls, name)) else kind
    return found


def signature(function: Any) -> list[str]:
    """Return one text for each parameter and one for the result; annotations are unqualified names."""
    found = inspect.signature(function)
    texts = [
        f"{p.kind.name.lower()} {p.name}: {_annotation(p.annotation)}"
        + ("" if p.default is p.empty else f" = {_default(p.default)}")
        for p in found.parameters.values()
    ]
    return [*texts, f"-> {_annotation(found.return_annotation)}"]


def _annotation(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return re.sub(r"\b[a-zA-Z_]\w*\.(?=\w)", "", text.replace("'", ""))


def _default(value: Any) -> str:
    return re.sub(r" at 0x\w+", "", repr(value))


# ---------------------------------------------------------------------------------------------------- artefacts


def _exact(array: Any) -> Any:
    """Round floats to 64ths, so that digests of them do not depend on the CPU."""
    if not hasattr(array, "dtype") or array.dtype.kind != "f":
        return array
    return np.asarray(np.round(np.asarray(array) * 64) / 64, dtype=array.dtype)


def case_of(name: str) -> Case:
    """Return a kernel of the catalogue with data that are the same on every CPU."""
    case = BY_NAME[name]
    case = case if name in N_ROWS else long(case, N_OBS)
    rows = slice(N_ROWS.get(name, N_OBS))
    extra = {key: _exact(value) for key, value in case.extra.items()}
    return replace(case, X=_exact(case.X[rows]), y=_exact(case.y[rows]), extra=extra)


def model_of(name: str) -> ImpactModel:
    """Return a model of the kernel with draws that are the same on every CPU."""
    case = BY_NAME[name]
    mcmc = MCMC(NUTS(case.kernel), num_warmup=1, num_samples=1, progress_bar=False)
    draws = long_draws(case, len(case_of(name).X), N_DRAWS)
    positive = {"tau", "sigma", "scale"}
    draws = {key: _exact(np.abs(value) + 1 / 64 if key in positive else value) for key, value in draws.items()}
    return ImpactModel(case.kernel, random.key(1), mcmc).set_posterior_sample(draws)


def _group_arrays(tree: Any, prefix: str) -> dict[str, np.ndarray]:
    """Return the variables of every group of a result, but not the posterior and the data it was computed from."""
    found = {}
    for group in tree.children:
        if group in ("posterior", "observed_data", "constant_data"):
            continue
        for name, array in tree[group].data_vars.items():
            found[f"{prefix}/{group}/{name}"] = np.asarray(array.values)
    return found


def record_case(name: str, directory: Path) -> dict[str, np.ndarray]:
    """Write a stored result of each kind and a saved model, and return the numbers of every method."""
    case, model = case_of(name), model_of(name)
    arguments = case.arguments()
    scored = {**arguments, "y": case.y}
    changed = dict(case.intervention)
    numbers: dict[str, np.ndarray] = {}

    def add(what: str, tree: Any) -> None:
        numbers.update(_group_arrays(tree, f"{name}/{what}"))

    add("predict", model.predict(**arguments, output_dir=directory / "draws", **OPTIONS))
    statistics = {"statistics": STATISTICS, "output_dir": directory / "statistics"}
    add("statistics", model.predict(**arguments, **statistics, **OPTIONS))
    add("log_likelihood", model.log_likelihood(**scored, output_dir=directory / "scores", **OPTIONS))
    in_memory = {"store": "memory", **OPTIONS}
    add("new rows", model.predict(**arguments, in_sample=False, **in_memory))
    add("on batch", model.predict_on_batch(**arguments, rng_key=OPTIONS["rng_key"]))
    add("prior", model.sample_prior_predictive(**arguments, num_samples=N_DRAWS, **in_memory))
    add("intervention", model.predict(**arguments, intervention=_site_values(case), **in_memory))
    both = [{**arguments, **OPTIONS}, {**arguments, **OPTIONS, "intervention": changed}]
    add("effect", model.estimate_effect(args_baseline=both[0], args_intervention=both[1]))
    add(
        "effect statistics",
        model.estimate_effect(args_baseline=both[0], args_intervention=both[1], statistics=STATISTICS),
    )
    labels = np.array(["low", "mid", "top"])[np.arange(len(case.X)) * 7 % 3]
    weights = np.asarray(1 + np.arange(len(case.X)) % 4, np.float32)
    scenarios = {"as is": {}, "changed": {"intervention": changed}}
    add("scenarios", model.compare_scenarios(scenarios, baseline="as is", **arguments, **OPTIONS))
    grouped = {"by": labels, "weights": weights, "contrast": "difference"}
    add("groups", model.compare_scenarios(scenarios, baseline="as is", **grouped, **arguments, **OPTIONS))
    model.save(directory / "model")
    return numbers


def _site_values(case: Case) -> Mapping[str, Any]:
    """Return the case's intervention, without those on the kernel's arguments."""
    return {key: value for key, value in case.intervention.items() if key not in case.arguments()}


class _Stop(Exception):
    """Ends a fit after an epoch."""


def record_fit(directory: Path) -> dict[str, np.ndarray]:
    """Write a checkpoint and two saved fits, and return what the fits end with."""
    case = case_of("linear")
    # Few rows: XLA adds up longer sums in several threads, and their last bits change from run to run.
    X, y = case.X[:200], case.y[:200]
    options = {"batch_size": 50, "epochs": 3, "num_samples": N_DRAWS, "progress": False}

    def new_model() -> ImpactModel:
        svi = SVI(linear, AutoNormal(linear), optax.adam(0.05), Trace_ELBO())
        return ImpactModel(linear, random.key(2), svi)

    def stop(epoch: int, _loss: float) -> None:
        if epoch == 1:
            raise _Stop

    with contextlib.suppress(_Stop):
        new_model().fit(X, y, checkpoint_dir=directory / "checkpoint", on_epoch_end=stop, **options)
    numbers = {}
    svi = new_model().fit(X, y, **options)
    svi.save(directory / "svi")
    numbers["fit/svi/losses"] = np.asarray(svi.vi_result.losses)
    mcmc = ImpactModel(linear, random.key(3), MCMC(NUTS(linear), num_warmup=20, num_samples=5, progress_bar=False))
    mcmc.fit_on_batch(X[:50], y[:50], progress=False)
    mcmc.save(directory / "mcmc")
    for kind, model in (("svi", svi), ("mcmc", mcmc)):
        numbers |= {f"fit/{kind}/{site}": np.asarray(draws) for site, draws in model.posterior.items()}
    return numbers


def record(directory: Path) -> dict[str, np.ndarray]:
    """Write every artefact into a directory and return all numbers."""
    directory.mkdir(parents=True, exist_ok=True)
    numbers: dict[str, np.ndarray] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in KERNELS:
            numbers |= record_case(name, directory / name)
        numbers |= record_fit(directory / "fit")
    (directory / "signatures.json").write_text(json.dumps(public_signatures(), indent=1))
    return numbers


# ---------------------------------------------------------------------------------------------------- summaries

TIME = re.compile(r"\d{8}T\d{6}\.\d{6}Z|\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00")
DIGEST = re.compile(r"\b[0-9a-f]{64}\b|(?<=arrays-)[0-9a-f]{16}\b")


def normalised(text: str, directory: Path) -> str:
    """Return a text without times, the directory and the versions of packages."""
    text = text.replace(str(directory), "DIRECTORY")
    for package in (aimz, jax, jax.lib, numpyro, np):
        text = re.sub(rf"(?<![\d.]){re.escape(package.__version__)}(?![\d.]*\d)", "VERSION", text)
    text = re.sub(r'("(?:python|safetensors|optax|jaxlib)": ")[^"]*"', r'\1VERSION"', text)
    return TIME.sub("TIME", text)


def without_checksums(document: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata of a result without the checksums of times and of computed numbers."""
    attributes = document.get("attributes", {})
    if "aimz_store" not in attributes:
        return document
    state = json.loads(attributes["aimz_store"])
    state |= {"checksum": "DIGEST", "checksums": sorted(state["checksums"])}
    return {**document, "attributes": {**attributes, "aimz_store": json.dumps(state)}}


def summarise(directory: Path) -> dict[str, Any]:
    """Return the file list of the artefacts and the normalised content of each JSON file."""
    files, metadata = [], {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        name = TIME.sub("TIME", str(path.relative_to(directory)))
        # The digests of programs and of arrays that were computed: the same only with the same JAX on the same CPU.
        masked = "fit" in Path(name).parts or path.name == "model.json"
        name = DIGEST.sub("DIGEST", name)
        files.append(name)
        assert name not in metadata
        if path.name != "signatures.json" and path.suffix == ".json":
            text = normalised(path.read_text(), directory)
            metadata[name] = without_checksums(json.loads(DIGEST.sub("DIGEST", text) if masked else text))
    return {"files": files, "metadata": metadata}


def thinned(numbers: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each array with every 97th row only, where it has many; NUTS amplifies rounding, so without its draws."""
    for name, array in numbers.items():
        if name.startswith("fit/mcmc"):
            continue
        for axis, size in enumerate(array.shape):
            if size >= N_OBS:
                array = np.take(array, np.arange(0, size, 97), axis)
        yield name, array


def main(argument: str) -> None:
    """Record into a directory, or replace the committed files."""
    if argument != "--update":
        directory = Path(argument)
        np.savez(directory.parent / f"{directory.name}.npz", **record(directory))
        return
    with tempfile.TemporaryDirectory() as temporary:
        numbers = record(Path(temporary) / "recorded")
        summary = summarise(Path(temporary) / "recorded")
    versions = {package.__name__: package.__version__ for package in (jax, numpyro)}
    (HERE / "signatures.json").write_text(json.dumps(public_signatures(), indent=1) + "\n")
    lines = [f" {json.dumps(name)}: {json.dumps(content)}" for name, content in summary["metadata"].items()]
    parts = [json.dumps({"versions": versions, "files": summary["files"]}, indent=1).removesuffix("\n}")]
    (HERE / "files.json").write_text(",\n".join(parts) + ',\n "metadata": {\n' + ",\n".join(lines) + "\n}\n}\n")
    np.savez_compressed(HERE / "numbers.npz", **dict(thinned(numbers)))


if __name__ == "__main__":
    main(sys.argv[1])
