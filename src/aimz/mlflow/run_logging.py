"""What is logged of a fit, piece by piece."""

__all__ = [
    "Clock",
    "bound_arguments",
    "first_rows",
    "log_arguments",
    "log_dataset",
    "log_figures",
    "log_found",
    "log_losses",
    "log_posterior",
    "log_source",
    "n_losses",
]

import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient
from numpyro.infer import MCMC, SVI

from aimz.mlflow.schema import fitted_example
from aimz.model import ImpactModel

_AT_ONCE = 1000
"""Metrics that MLflow takes in one request."""
_POINTS = 10_000
"""Losses that are logged of one fit at most."""
_TABLE = 200
"""Numbers of the posterior that have a line in its table at most."""
_NOT_PARAMETERS = {"X", "y", "rng_key", "progress", "on_epoch_end", "checkpoint_dir"}


class Clock:
    """The time a fit takes, in milliseconds since the epoch."""

    def __init__(self) -> None:
        self.start = self.end = time.time_ns() // 1_000_000

    def stop(self) -> "Clock":
        """Note the end."""
        self.end = time.time_ns() // 1_000_000
        return self


def bound_arguments(
    method: Callable[..., Any], model: ImpactModel, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a fit by name, defaults among them, those of the kernel beside the others."""
    bound = inspect.signature(method).bind(model, *args, **kwargs)
    bound.apply_defaults()
    found = dict(bound.arguments)
    found.pop("self", None)
    return {**found.pop("kwargs", {}), **found}


def _run_id() -> str:
    run = mlflow.active_run()
    if run is None:
        msg = "there is no run; the tracking server may not have been reached"
        raise RuntimeError(msg)
    return str(run.info.run_id)


def log_arguments(model: ImpactModel, arguments: Mapping[str, Any]) -> None:
    """Log how the model is fitted."""
    inference: Any = model.inference
    params: dict[str, Any] = {
        "kernel": _name(model.kernel),
        "param_input": model.param_input,
        "param_output": model.param_output,
        **_inference(inference),
        **{
            name: value
            for name, value in arguments.items()
            if name not in _NOT_PARAMETERS and (value is None or isinstance(value, Real | str | bool))
        },
    }
    if isinstance(inference, MCMC):
        for name in ("num_steps", "num_samples"):  # SVI's; the sampler has its own
            params.pop(name, None)
        params["num_samples"] = inference.num_samples
    _log_params(params)


def _inference(inference: Any) -> dict[str, Any]:
    """Return what there is to say of an inference object."""
    if isinstance(inference, SVI):
        loss = inference.loss
        return {
            "inference": type(inference).__name__,
            "guide": _name(inference.guide),
            "optimizer": _optimizer(inference.optim),
            "loss": _name(loss),
            "num_particles": getattr(loss, "num_particles", 1),
        }
    if inference is None:
        return {}  # of a model that was loaded without; the fit will say so
    return {
        "inference": type(inference).__name__,
        "sampler": type(inference.sampler).__name__,
        "num_warmup": inference.num_warmup,
        "num_chains": inference.num_chains,
        "thinning": inference.thinning,
        "chain_method": str(inference.chain_method),
    }


def _optimizer(optimizer: Any) -> str:
    """Return the name of an optimizer; one of Optax has none, but the functions it was made by say theirs."""
    name = type(optimizer).__name__
    made = list(dict.fromkeys(_made_by(getattr(optimizer, "update_fn", None))))
    return name if name != "_NumPyroOptim" or not made else f"optax: {', '.join(made)}"


def _made_by(value: Any) -> Iterator[str]:
    """Yield the names of Optax's functions that made those a function calls."""
    if isinstance(value, tuple):
        for one in value:
            yield from _made_by(one)
    if not inspect.isfunction(value):
        return
    if value.__module__.startswith("optax"):
        made = value.__qualname__.partition(".")[0]
        if made not in ("chain", "with_extra_args_support") and value.__name__.startswith("update"):
            yield made
    for cell in value.__closure__ or ():
        yield from _made_by(cell.cell_contents)


def _name(value: Any) -> str:
    return str(getattr(value, "__qualname__", None) or type(value).__name__)


def _log_params(params: Mapping[str, Any]) -> None:
    """Log parameters; those a run has with another value, of a fit before, are left as they are."""
    client, run_id = MlflowClient(), _run_id()
    known = client.get_run(run_id).data.params
    new = [Param(name, str(value)) for name, value in params.items() if name not in known]
    client.log_batch(run_id, params=new)


def log_source(kernel: Any) -> None:
    """Log the source of the kernel."""
    try:
        source = inspect.getsource(inspect.unwrap(kernel))
    except (OSError, TypeError):
        return  # typed in, or an object
    mlflow.log_text(source, "kernel.py")


def n_losses(model: ImpactModel) -> int:
    """Return how many steps were taken before."""
    result = model.vi_result
    return 0 if result is None else int(np.size(result.losses))


def log_losses(model: ImpactModel, before: int, clock: Clock) -> None:
    """Log the loss of each step that was taken since; of very many, evenly spaced ones and the last."""
    result = model.vi_result
    if result is None:
        return
    losses = np.asarray(result.losses, np.float64).ravel()
    steps = np.arange(before, losses.size)
    if steps.size > _POINTS:
        steps = np.unique(np.append(steps[:: -(-steps.size // _POINTS)], steps[-1]))
    times = np.linspace(clock.start, clock.end, max(1, steps.size)).astype(int)
    client, run_id = MlflowClient(), _run_id()
    metrics = [Metric("loss", float(losses[i]), int(t), int(i)) for i, t in zip(steps, times, strict=False)]
    for start in range(0, len(metrics), _AT_ONCE):
        client.log_batch(run_id, metrics=metrics[start : start + _AT_ONCE])


def log_found(model: ImpactModel) -> None:
    """Log what is known once the model is fitted."""
    posterior, known, spec = model._posterior, model._observed, model.kernel_spec
    params: dict[str, Any] = {}
    if posterior is not None:
        params["n_draws"] = posterior.n_draws
        diverging = (posterior.sample_stats or {}).get("diverging")
        if diverging is not None:
            mlflow.log_metric("divergences", float(np.sum(diverging)))
    if known is not None and known.output is not None:
        params["n_obs"] = int(known.output.shape[0])
    _log_params(params)
    if spec is not None:
        mlflow.log_text(f"{spec}\n", "kernel_sites.txt")


def log_figures(model: ImpactModel) -> None:
    """Log a picture of the loss, where pictures can be drawn."""
    if n_losses(model) < 2:
        return
    try:
        from aimz.plots import plot_loss

        figure = plot_loss(model)
    except ImportError:
        return
    mlflow.log_figure(figure, "figures/loss.png")


def log_posterior(model: ImpactModel) -> None:
    """Log mean, spread and diagnostics of each latent, where ArviZ is installed; not of very many."""
    posterior = model._posterior
    if posterior is None:
        return
    small = [name for name, shape in posterior.shapes.items() if np.prod(shape, dtype=int) <= _TABLE]
    if not small or sum(int(np.prod(posterior.shapes[name])) for name in small) > _TABLE:
        return
    try:
        import arviz_stats
    except ImportError:
        return
    import xarray as xr

    group = model._beside()["posterior"]
    tree = xr.DataTree.from_dict({"posterior": group[[name for name in small if name in group]]})
    mlflow.log_text(arviz_stats.summary(tree, round_to="none").to_csv(), "posterior.csv")


def log_dataset(model: ImpactModel, arguments: Mapping[str, Any]) -> None:
    """Log the schema, the size and a digest of the data, where they are frames or arrays in memory."""
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # that whole numbers cannot be missing
        _log_dataset(model, arguments)


def _log_dataset(model: ImpactModel, arguments: Mapping[str, Any]) -> None:
    import mlflow.data

    X, y = arguments["X"], arguments.get("y")
    output = model.param_output
    if hasattr(X, "iloc") and hasattr(X, "columns"):
        dataset: Any = mlflow.data.from_pandas(X, targets=output if y is None and output in X.columns else None)
    elif type(X).__module__.partition(".")[0] == "polars" and hasattr(X, "to_pandas") and hasattr(X, "columns"):
        dataset = mlflow.data.from_polars(X, targets=output if y is None and output in X.columns else None)
    else:
        rows = _rows_of(model, arguments)
        if rows is None:
            return
        targets = rows.pop(output, None)
        alone = rows[model.param_input] if set(rows) == {model.param_input} else rows
        dataset = mlflow.data.from_numpy(alone, targets=targets)
    mlflow.log_input(dataset, context="training")


def _rows_of(model: ImpactModel, arguments: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """Return the arrays of a fit by name; None where some are not in memory."""
    given = {model.param_input: arguments["X"], model.param_output: arguments.get("y")}
    further = {n: v for n, v in arguments.items() if n in model._engine.signature.extra}
    arrays = {}
    for name, value in {**given, **further}.items():
        if value is None or not np.ndim(value):
            continue
        kind = type(value).__module__.partition(".")[0]
        if kind not in ("numpy", "jax", "jaxlib", "builtins") or isinstance(value, np.memmap):
            return None
        arrays[name] = np.asarray(value)
    if model.param_input not in arrays or any(array.dtype == object for array in arrays.values()):
        return None
    return arrays


def first_rows(model: ImpactModel, arguments: Mapping[str, Any], n_rows: int) -> Any:
    """Return the first rows of the input as they were given, else as the model remembers them."""
    X = arguments["X"]
    further = {n: v for n, v in arguments.items() if n in model._engine.signature.extra and np.ndim(v)}
    if hasattr(X, "columns") and not further and (hasattr(X, "iloc") or hasattr(X, "to_pandas")):
        return X.head(n_rows) if hasattr(X, "head") else X.slice(0, n_rows)
    return fitted_example(model, n_rows)
