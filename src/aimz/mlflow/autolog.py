"""Automatic logging of fits."""

__all__ = ["autolog"]

import logging
from collections.abc import Callable
from typing import Any

from aimz.mlflow import run_logging
from aimz.mlflow.compat import autologging_integration, get_autologging_config, is_testing, safe_patch
from aimz.mlflow.flavor import FLAVOR_NAME, log_model
from aimz.mlflow.schema import normalize_example
from aimz.model import ImpactModel

_LOGGER = logging.getLogger("mlflow.aimz")
_METHODS = ("fit", "fit_on_batch")
_EXAMPLE_ROWS = 5


@autologging_integration(FLAVOR_NAME)  # type: ignore[untyped-decorator]
def autolog(
    log_input_examples: bool = True,
    log_model_signatures: bool = True,
    log_models: bool = True,
    log_datasets: bool = True,
    disable: bool = False,
    exclusive: bool = False,
    disable_for_unsupported_versions: bool = False,
    silent: bool = False,
    registered_model_name: str | None = None,
    extra_tags: dict[str, str] | None = None,
    log_reports: bool = False,
) -> None:
    """Log every fit: :meth:`ImpactModel.fit` and :meth:`ImpactModel.fit_on_batch`.

    A fit is logged to the active run, or to a new one.  Logged are the arguments of the fit; the names of the kernel,
    guide, optimizer and loss (or of the sampler, for MCMC); the numbers of posterior draws and of rows; the loss of
    each step; the source of the kernel and the table of its sites; the data set; a plot of the loss and a table of the
    posterior, if the extra ``plots`` is installed; and the model, with its signature and an input example.

    Logging changes neither the posterior nor the key of a model.  If something cannot be logged, a warning is issued
    and the fit continues.  A fit that raises leaves a failed run.

    Parameters
    ----------
    log_input_examples : bool
        Whether to store the first rows of input with the model.  MLflow's own flavors do not by default.
    log_model_signatures : bool
        Whether to store a signature with the model.
    log_models : bool
        Whether to log the model.
    log_datasets : bool
        Whether to log the schema, size and digest of the fitted data.
    disable : bool
        Whether to stop logging fits.
    exclusive : bool
        Whether to skip fits within runs that the user started.
    disable_for_unsupported_versions : bool
        No effect; ``mlflow.autolog`` passes it.
    silent : bool
        Whether to suppress MLflow's messages and warnings.
    registered_model_name : str, optional
        Name under which each model is registered, as its next version.
    extra_tags : dict, optional
        Tags of the runs that are created.
    log_reports : bool
        Whether to log a report of each fit, ``report.html``, as :func:`log_report` does.

    Examples
    --------
    >>> import aimz.mlflow
    >>> aimz.mlflow.autolog(log_input_examples=False)
    >>> aimz.mlflow.autolog(disable=True)
    """
    # MLflow stores these arguments; they are read when a fit is logged.
    del log_input_examples, log_model_signatures, log_models, log_datasets, registered_model_name
    del disable, exclusive, disable_for_unsupported_versions, silent, log_reports
    for name in _METHODS:
        safe_patch(FLAVOR_NAME, ImpactModel, name, _fit_and_log, manage_run=True, extra_tags=extra_tags)


def _fit_and_log(original: Callable[..., Any], model: ImpactModel, *args: Any, **kwargs: Any) -> Any:
    """Fit a model, and log the fit before and after."""
    steps, chosen_here = run_logging.n_steps(model), model.inference is None
    arguments = run_logging.bind_arguments(original, model, args, kwargs)
    _try("the arguments of the fit", run_logging.log_arguments, model, arguments)
    _try("the kernel", run_logging.log_source, model.kernel)
    if _option("log_datasets"):
        _try("the data set", run_logging.log_dataset, model, arguments)
    start = run_logging.now_ms()
    # The losses are also logged if the fit is interrupted: the model keeps its steps.
    try:
        result = original(model, *args, **kwargs)
    finally:
        _try("the losses", run_logging.log_losses, model, steps, start, run_logging.now_ms())
    if chosen_here:
        _try("the chosen inference", run_logging.log_chosen_inference, model)
    _try("the results of the fit", run_logging.log_results, model)
    _try("the figures", run_logging.log_figures, model)
    _try("the table of the posterior", run_logging.log_posterior, model)
    if get_autologging_config(FLAVOR_NAME, "log_reports", default_value=False):
        _try("the report", run_logging.log_report, model)
    if _option("log_models"):
        _try("the model", _log_model, model, arguments)
    return result


def _log_model(model: ImpactModel, arguments: dict[str, Any]) -> None:
    """Log a fitted model with its signature and an input example."""
    example = None
    if _option("log_input_examples"):
        example = run_logging.first_rows(model, arguments, _EXAMPLE_ROWS)
    log_model(
        model,
        name="model",
        signature=None if _option("log_model_signatures") else False,
        input_example=None if example is None else normalize_example(model, example),
        # MLflow shows a model with the metrics that its run has at this step.
        step=max(0, run_logging.n_steps(model) - 1),
        registered_model_name=get_autologging_config(FLAVOR_NAME, "registered_model_name", None),
        # MLflow would load the model and predict with it, which takes seconds.
        validate_serving_input=False,
    )


def _option(name: str) -> bool:
    """Return an option of :func:`autolog`, which is True by default."""
    return bool(get_autologging_config(FLAVOR_NAME, name, default_value=True))


def _try(what: str, log: Callable[..., Any], *args: Any) -> None:
    """Call a function that logs; warn if it raises, so that the fit continues."""
    try:
        log(*args)
    except Exception as error:
        if is_testing():
            raise
        _LOGGER.warning("Could not log %s of a fit of aimz: %s: %s", what, type(error).__name__, error)
