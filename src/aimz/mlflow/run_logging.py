"""Parameters, metrics, figures and data sets that are logged for a fit."""

__all__ = [
    "bind_arguments",
    "first_rows",
    "log_arguments",
    "log_chosen_inference",
    "log_dataset",
    "log_figures",
    "log_losses",
    "log_posterior",
    "log_report",
    "log_results",
    "log_source",
    "n_steps",
    "now_ms",
]

import inspect
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import mlflow
import mlflow.data
import numpy as np
import xarray as xr
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
from numpyro.infer import MCMC, SVI

import aimz
from aimz.mlflow.schema import rows_of_fit
from aimz.model import ImpactModel

_BATCH = 1000
"""Number of metrics that MLflow accepts in one request."""
_MAX_LOSSES = 10_000
"""Maximum number of losses that are logged for one fit."""
_MAX_TABLE = 200
"""Maximum number of lines in the table of the posterior."""
_NOT_PARAMETERS = {"X", "y", "rng_key", "progress", "on_epoch_end", "checkpoint_dir"}


def now_ms() -> int:
    """Return the time in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def bind_arguments(
    method: Callable[..., Any], model: ImpactModel, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a fit by name, with defaults, including the arguments of the kernel."""
    bound = inspect.signature(method).bind(model, *args, **kwargs)
    bound.apply_defaults()
    found = dict(bound.arguments)
    found.pop("self", None)
    return {**(found.pop("args", None) or {}), **found.pop("kwargs", {}), **found}


def _run_id() -> str:
    """Return the ID of the active run."""
    run = mlflow.active_run()
    if run is None:
        msg = "There is no active run; the tracking server may be unreachable"
        raise RuntimeError(msg)
    return str(run.info.run_id)


def log_arguments(model: ImpactModel, arguments: Mapping[str, Any]) -> None:
    """Log the names of kernel and inference, and the scalar arguments of a fit."""
    inference: Any = model.inference
    params: dict[str, Any] = {
        "kernel": _name(model.kernel),
        "param_input": model.param_input,
        "param_output": model.param_output,
        **_describe_inference(inference),
        **{
            name: value
            for name, value in arguments.items()
            if name not in _NOT_PARAMETERS and (value is None or isinstance(value, Real | str | bool))
        },
    }
    if isinstance(inference, MCMC):
        params.pop("num_steps", None)  # SVI only
        params["num_samples"] = inference.num_samples
    _log_params(params)


def log_chosen_inference(model: ImpactModel) -> None:
    """Log the inference that the fit chose, and why."""
    found: Any = model.describe(as_dict=True)
    _log_params({**_describe_inference(model.inference), "inference_choice": found["inference"]})


def _describe_inference(inference: Any) -> dict[str, Any]:
    """Return the parameters to log for an inference object."""
    if inference is None:
        return {}  # chosen during the fit, or a model loaded without one, whose fit raises
    if isinstance(inference, SVI):
        return {
            "inference": type(inference).__name__,
            "guide": _name(inference.guide),
            "optimizer": _optimizer_name(inference.optim),
            "loss": _name(inference.loss),
            "num_particles": getattr(inference.loss, "num_particles", 1),
        }
    return {
        "inference": type(inference).__name__,
        "sampler": type(inference.sampler).__name__,
        "num_warmup": inference.num_warmup,
        "num_chains": inference.num_chains,
        "thinning": inference.thinning,
        "chain_method": str(inference.chain_method),
    }


def _optimizer_name(optimizer: Any) -> str:
    """Return the name of an optimizer; for one from Optax, the names of its transformations."""
    name = type(optimizer).__name__
    parts = list(dict.fromkeys(_optax_parts(getattr(optimizer, "update_fn", None))))
    return name if name != "_NumPyroOptim" or not parts else f"optax: {', '.join(parts)}"


def _optax_parts(value: Any) -> Iterator[str]:
    """Yield the names of the Optax functions that created an update function and those in its closure."""
    if isinstance(value, tuple):
        for part in value:
            yield from _optax_parts(part)
    if not inspect.isfunction(value):
        return
    if value.__module__.startswith("optax"):
        factory = value.__qualname__.partition(".")[0]
        if factory not in ("chain", "with_extra_args_support") and value.__name__.startswith("update"):
            yield factory
    for cell in value.__closure__ or ():
        yield from _optax_parts(cell.cell_contents)


def _name(value: Any) -> str:
    """Return the name of a function, or of an object's type."""
    return str(getattr(value, "__qualname__", None) or type(value).__name__)


def _log_params(params: Mapping[str, Any]) -> None:
    """Log parameters that the run does not have yet; MLflow does not allow changing the others."""
    client, run_id = MlflowClient(), _run_id()
    known = client.get_run(run_id).data.params
    new = [Param(name, str(value)) for name, value in params.items() if name not in known]
    client.log_batch(run_id, params=new)


def log_source(kernel: Any) -> None:
    """Log the source of the kernel, if it has any."""
    try:
        source = inspect.getsource(inspect.unwrap(kernel))
    except (OSError, TypeError):
        return
    mlflow.log_text(source, "kernel.py")


def n_steps(model: ImpactModel) -> int:
    """Return how many SVI steps a model has taken."""
    result = model.vi_result
    return 0 if result is None else int(np.size(result.losses))


def log_losses(model: ImpactModel, first: int, start_ms: int, end_ms: int) -> None:
    """Log the loss of each step from ``first`` on; of very many, evenly spaced ones and the last."""
    result = model.vi_result
    if result is None:
        return
    losses = np.asarray(result.losses, np.float64).ravel()
    steps = np.arange(first, losses.size)
    if steps.size > _MAX_LOSSES:
        steps = np.unique(np.append(steps[:: -(-steps.size // _MAX_LOSSES)], steps[-1]))
    times = np.linspace(start_ms, end_ms, max(1, steps.size)).astype(int)
    client, run_id = MlflowClient(), _run_id()
    metrics = [Metric("loss", float(losses[i]), int(t), int(i)) for i, t in zip(steps, times, strict=False)]
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _BATCH])


def log_results(model: ImpactModel) -> None:
    """Log the numbers of draws, rows and divergences, and the table of sites."""
    tree = model.posterior_tree()
    params = {"n_draws": tree["posterior"].sizes["chain"] * tree["posterior"].sizes["draw"]}
    if "sample_stats" in tree.children and "diverging" in tree["sample_stats"]:
        mlflow.log_metric("divergences", float(tree["sample_stats"]["diverging"].sum()))
    if model.inputs.n_obs is not None:
        params["n_obs"] = model.inputs.n_obs
    _log_params(params)
    if model.kernel_spec is not None:
        mlflow.log_text(f"{model.kernel_spec}\n", "kernel_sites.txt")


def log_figures(model: ImpactModel) -> None:
    """Log a plot of the loss, if matplotlib is installed."""
    if n_steps(model) < 2:
        return
    try:
        figure = aimz.plots.plot_loss(model)
    except ImportError:
        return
    mlflow.log_figure(figure, "figures/loss.png")


def log_posterior(model: ImpactModel) -> None:
    """Log mean, spread and diagnostics of each latent site, if ArviZ is installed and they are not very many."""
    posterior = model.posterior_tree()["posterior"].to_dataset()
    sizes = {name: int(np.prod(array.shape[2:])) for name, array in posterior.data_vars.items()}
    small = [name for name, size in sizes.items() if size <= _MAX_TABLE]
    if not 0 < sum(sizes[name] for name in small) <= _MAX_TABLE:
        return
    try:
        arviz_stats = aimz.output.import_arviz_stats("autolog")
    except ImportError:
        return
    tree = xr.DataTree.from_dict({"posterior": posterior[small]})
    mlflow.log_text(arviz_stats.summary(tree, round_to="none").to_csv(), "posterior.csv")


def log_report(model: ImpactModel, *, artifact_file: str = "report.html", **options: Any) -> None:
    """Write the report of a model and log it as an artifact of the active run, or of a new one.

    Parameters
    ----------
    model : ImpactModel
        Fitted model.
    artifact_file : str
        Path of the report among the artifacts of the run.
    **options
        Options of :meth:`ImpactModel.report`, such as ``effect="mail"``.

    Examples
    --------
    >>> import tempfile, mlflow, jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> from aimz import ImpactModel
    >>> import aimz.mlflow
    >>> def kernel(X, y=None):
    ...     b = numpyro.sample("b", dist.Normal(0.0, 5.0))
    ...     with numpyro.plate("obs", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)
    >>> model = ImpactModel(kernel, 0).set_posterior_sample({"b": jnp.ones(100)})
    >>> mlflow.set_tracking_uri(f"sqlite:///{tempfile.mkdtemp()}/runs.db")
    >>> experiment = mlflow.set_experiment("reports")
    >>> with mlflow.start_run() as run:
    ...     aimz.mlflow.log_report(model)
    """
    with tempfile.TemporaryDirectory(prefix="aimz-") as directory:
        page = model.report(Path(directory) / "report.html", **options)
        mlflow.log_text(page.read_text(encoding="utf-8"), artifact_file)


def log_dataset(model: ImpactModel, arguments: Mapping[str, Any]) -> None:
    """Log the schema, the size and a digest of the data, if they are frames or arrays in memory."""
    X, y, output = arguments["X"], arguments.get("y"), model.param_output
    is_polars = type(X).__module__.partition(".")[0] == "polars" and hasattr(X, "to_pandas")
    is_frame = hasattr(X, "columns") and (hasattr(X, "iloc") or is_polars)
    targets = output if is_frame and y is None and output in X.columns else None
    # MLflow warns that integer columns cannot have missing values.
    with warnings.catch_warnings(action="ignore", category=UserWarning):
        if is_frame:
            read = mlflow.data.from_polars if is_polars else mlflow.data.from_pandas
            dataset: Any = read(X, targets=targets)
        else:
            arrays = _arrays_in_memory(model, arguments)
            if arrays is None:
                return
            fitted = arrays.pop(output, None)
            inputs = arrays[model.param_input] if set(arrays) == {model.param_input} else arrays
            dataset = mlflow.data.from_numpy(inputs, targets=fitted)
        mlflow.log_input(dataset, context="training")


def _arrays_in_memory(model: ImpactModel, arguments: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """Return the numeric arrays of a fit by name; None if one of them is not in memory."""
    given = {model.param_input: arguments["X"], model.param_output: arguments.get("y")}
    extra = {name: value for name, value in arguments.items() if name in model.inputs.extra}
    arrays = {}
    for name, value in {**given, **extra}.items():
        if value is None or not np.ndim(value):
            continue
        package = type(value).__module__.partition(".")[0]
        if package not in ("numpy", "jax", "jaxlib", "builtins") or isinstance(value, np.memmap):
            return None
        arrays[name] = np.asarray(value)
    if model.param_input not in arrays or any(array.dtype == object for array in arrays.values()):
        return None
    return arrays


def first_rows(model: ImpactModel, arguments: Mapping[str, Any], n_rows: int) -> Any:
    """Return the first rows of the input, of the frame that was passed or of the fitted data."""
    X, extra = arguments["X"], model.inputs.extra
    alone = not any(name in extra and np.ndim(value) for name, value in arguments.items())
    if alone and hasattr(X, "columns") and (hasattr(X, "iloc") or hasattr(X, "to_pandas")):
        return X.head(n_rows) if hasattr(X, "head") else X.slice(0, n_rows)
    return rows_of_fit(model, n_rows)
