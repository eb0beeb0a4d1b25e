"""Fits that are logged by themselves."""

__all__ = ["autolog"]

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aimz.mlflow import run_logging as records
from aimz.mlflow.compat import autologging_integration, get_autologging_config, is_testing, safe_patch
from aimz.mlflow.flavor import FLAVOR_NAME, log_model
from aimz.mlflow.schema import example_of
from aimz.model import ImpactModel

_LOGGER = logging.getLogger("mlflow.aimz")
_METHODS = ("fit", "fit_on_batch")
_EXAMPLE_ROWS = 5


@autologging_integration(FLAVOR_NAME)  # type: ignore[untyped-decorator]
def autolog(
    log_input_examples: bool = True,  # noqa: FBT001, FBT002 (MLflow's own)
    log_model_signatures: bool = True,  # noqa: FBT001, FBT002
    log_models: bool = True,  # noqa: FBT001, FBT002
    log_datasets: bool = True,  # noqa: FBT001, FBT002
    disable: bool = False,  # noqa: ARG001, FBT001, FBT002
    exclusive: bool = False,  # noqa: ARG001, FBT001, FBT002
    disable_for_unsupported_versions: bool = False,  # noqa: ARG001, FBT001, FBT002
    silent: bool = False,  # noqa: ARG001, FBT001, FBT002
    registered_model_name: str | None = None,
    extra_tags: dict[str, str] | None = None,
) -> None:
    """Log every fit: :meth:`ImpactModel.fit` and :meth:`ImpactModel.fit_on_batch`.

    Logged are, in the run that is active or one that is made for the fit: the arguments of the fit, the names of
    kernel, guide, optimizer and loss (of the sampler, for MCMC), the number of posterior draws and of rows; the loss of
    each step; the source of the kernel and the table of its sites; the data set; pictures of the loss and a table of
    the posterior, where the extra ``plots`` is installed; and the model, with signature and input example.

    Neither the posterior nor the key of a model depends on whether its fit is logged.  What cannot be logged is warned
    of, and the fit goes on.  A fit that raises leaves a run that has failed.

    Parameters
    ----------
    log_input_examples : bool
        Whether the model has its first rows of input beside it.  Other flavours of MLflow leave them out by default.
    log_model_signatures : bool
        Whether the model has a signature.
    log_models : bool
        Whether to log the model.
    log_datasets : bool
        Whether to log which data were fitted to: their schema, their size and a digest.
    disable : bool
        Whether to stop logging fits.
    exclusive : bool
        Whether to leave alone runs that were started by the user.
    disable_for_unsupported_versions : bool
        Of no effect; it is there because ``mlflow.autolog`` has it.
    silent : bool
        Whether to keep MLflow's messages and warnings to itself.
    registered_model_name : str, optional
        Name under which each model is registered, as its next version.
    extra_tags : dict, optional
        Tags of the runs that are made.

    Examples
    --------
    >>> import aimz.mlflow
    >>> aimz.mlflow.autolog(log_input_examples=False)  # from here on, each fit is logged
    >>> aimz.mlflow.autolog(disable=True)
    """
    del log_input_examples, log_model_signatures, log_models, log_datasets, registered_model_name  # read when needed
    for name in _METHODS:
        safe_patch(FLAVOR_NAME, ImpactModel, name, _logged, manage_run=True, extra_tags=extra_tags)


@dataclass(frozen=True)
class _Fit:
    """One call that is logged."""

    model: ImpactModel
    method: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def bound(self) -> dict[str, Any]:
        """Return the arguments by name, defaults among them."""
        return records.bound_arguments(self.method, self.model, self.args, self.kwargs)


def _logged(original: Callable[..., Any], self: ImpactModel, *args: Any, **kwargs: Any) -> Any:
    """Fit, and log what can be logged before and after."""
    fit = _Fit(self, original, args, kwargs)
    before = records.n_losses(self)
    _try("the arguments of the fit", lambda: records.log_arguments(self, fit.bound()))
    _try("the kernel", lambda: records.log_source(self.kernel))
    if _wanted("log_datasets"):
        _try("the data set", lambda: records.log_dataset(self, fit.bound()))
    clock = records.Clock()
    # An interrupted fit keeps its steps, and so does its run.
    try:
        result = original(self, *args, **kwargs)
    finally:
        _try("the losses", lambda: records.log_losses(self, before, clock.stop()))
    _try("what the fit found", lambda: records.log_found(self))
    _try("the pictures", lambda: records.log_figures(self))
    _try("the table of the posterior", lambda: records.log_posterior(self))
    if _wanted("log_models"):
        _try("the model", lambda: _log_model(fit))
    return result


def _log_model(fit: _Fit) -> None:
    example = None
    if _wanted("log_input_examples"):
        example = records.first_rows(fit.model, fit.bound(), _EXAMPLE_ROWS)
        example = None if example is None else example_of(fit.model, example)
    log_model(
        fit.model,
        name="model",
        signature=None if _wanted("log_model_signatures") else False,
        input_example=example,
        # MLflow shows a model with the metrics its run has at this step.
        step=max(0, records.n_losses(fit.model) - 1),
        registered_model_name=get_autologging_config(FLAVOR_NAME, "registered_model_name", None),
        # MLflow would load the model and ask it, which costs seconds.
        validate_serving_input=False,
    )


def _wanted(option: str) -> bool:
    return bool(get_autologging_config(FLAVOR_NAME, option, True))  # noqa: FBT003


def _try(what: str, act: Callable[[], Any]) -> None:
    """Do it, or say that it could not be done; the fit goes on."""
    try:
        act()
    except Exception as error:
        if is_testing():
            raise
        _LOGGER.warning("Could not log %s of a fit of aimz: %s: %s", what, type(error).__name__, error)
