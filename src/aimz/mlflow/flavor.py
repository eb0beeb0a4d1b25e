"""Saving, logging and loading models in MLflow's format."""

__all__ = ["load_model", "log_model", "save_model"]

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import mlflow.artifacts
import mlflow.pyfunc
from mlflow.models import Model, ModelSignature

from aimz.errors import NotFittedError
from aimz.mlflow import stored
from aimz.mlflow.kernel_code import PackagedKernel, package_kernel
from aimz.mlflow.pyfunc import Scorer
from aimz.mlflow.requirements import get_default_pip_requirements, pinned
from aimz.mlflow.schema import example_of, inputs_of
from aimz.mlflow.signatures import complete, signature_of
from aimz.model import ImpactModel

if TYPE_CHECKING:
    import os

    from mlflow.models.model import ModelInfo

FLAVOR_NAME = "aimz"
_AWAIT = 300
"""Seconds MLflow waits by default for a model version to be ready."""


def save_model(
    aimz_model: ImpactModel,
    path: "str | os.PathLike[str]",
    conda_env: "dict[str, Any] | str | None" = None,
    code_paths: list[str] | None = None,
    mlflow_model: Model | None = None,
    signature: "ModelSignature | bool | None" = None,
    input_example: Any = None,
    pip_requirements: "list[str] | str | None" = None,
    extra_pip_requirements: "list[str] | str | None" = None,
    metadata: dict[str, Any] | None = None,
    extra_files: list[str] | None = None,
    **kwargs: Any,  # noqa: ARG001 (what `Model.log` hands on)
) -> None:
    """Save a fitted model in MLflow's format.

    The posterior and all else that was fitted is stored as :meth:`ImpactModel.save` does, without code.  The kernel is
    stored as the name of what is imported, ``module:kernel``, together with the code that has to be there: modules it
    uses that belong to no installed package are added to ``code_paths``, installed ones to the requirements.  A kernel
    that cannot be imported (of a notebook, a script, or within a function) is pickled.  The inference is stored with
    a pickled kernel, and where it is a name of the kernel's module.

    Parameters
    ----------
    aimz_model : ImpactModel
        The model; it must be fitted.
    path : path-like
        Directory to make.
    conda_env : dict or str, optional
        Conda environment, or the path of a file with one.
    code_paths : list of str, optional
        Files and directories that must be there to import the kernel, besides those that are found.
    mlflow_model : mlflow.models.Model, optional
        The model to add this flavour to.
    signature : mlflow.models.ModelSignature or False, optional
        What the model is asked with and answers.  By default it is read off ``input_example``, or off the data of the
        last fit as long as they are in memory; False stores none.  One without parameters gets those of this flavour.
    input_example : pandas.DataFrame, array_like or dict of array_like, optional
        Some rows of input; columns the model does not read are left out.  With parameters, ``(rows, params)``.
    pip_requirements, extra_pip_requirements : list of str or str, optional
        Requirements in place of those that are found, and beside them.
    metadata : dict, optional
        What else to store in the file ``MLmodel``.
    extra_files : list of str, optional
        URIs of files to store with the model, in the directory ``extra_files``.
    **kwargs
        What :meth:`mlflow.models.Model.log` hands on; not used.

    Raises
    ------
    NotFittedError
        If there is no posterior.
    TypeError
        If ``aimz_model`` is none.
    ValueError
        If the kernel can only be pickled and MLflow does not allow that (``MLFLOW_ALLOW_PICKLE_DESERIALIZATION``), or
        it cannot be.

    Examples
    --------
    >>> import tempfile, numpyro, numpyro.distributions as dist
    >>> import aimz.mlflow, mlflow, numpy as np
    >>> from jax import random
    >>> from numpyro.infer import MCMC, NUTS
    >>> def kernel(X, y=None):
    ...     b = numpyro.sample("b", dist.Normal(0.0, 5.0))
    ...     with numpyro.plate("obs", X.shape[0]):
    ...         numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)
    >>> model = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=10, num_samples=10))
    >>> path, X = tempfile.mkdtemp(), np.array([0.0, 10.0])
    >>> _ = model.set_posterior_sample({"b": np.linspace(1.9, 2.1, 1000)})
    >>> aimz.mlflow.save_model(model, path, input_example=X)
    >>> served = mlflow.pyfunc.load_model(path)
    >>> served.predict(X, params={"statistics": '["mean"]'}).round(0).abs().to_dict("records")
    [{'mean': 0.0}, {'mean': 20.0}]
    """
    _check(aimz_model)
    travelling = package_kernel(aimz_model.kernel, aimz_model.inference, code_paths)
    example = None if input_example is None else example_of(aimz_model, input_example)
    inputs = inputs_of(aimz_model, example[0] if isinstance(example, tuple) else example)
    if signature is None:
        signature = signature_of(aimz_model, inputs)
    elif isinstance(signature, ModelSignature):
        signature = complete(signature)
    if pip_requirements is None and conda_env is None:
        # Found by reading; MLflow would find them by loading the model in another process.
        pip_requirements = [*_requirements(travelling), *_listed(extra_pip_requirements)]
        extra_pip_requirements = None
    mlflow_model = Model() if mlflow_model is None else mlflow_model
    path = Path(path).absolute()
    with tempfile.TemporaryDirectory() as room, warnings.catch_warnings():
        # The signature is not guessed from an example, so none is wanted.
        warnings.filterwarnings("ignore", message="(?s).*input example was not provided", category=UserWarning)
        folder = Path(room) / stored.FOLDER
        stored.write(aimz_model, folder, travelling, inputs)
        mlflow.pyfunc.save_model(
            str(path),
            loader_module="aimz.mlflow",
            data_path=str(folder),
            code_paths=[*(code_paths or []), *travelling.code] or None,
            conda_env=conda_env,
            mlflow_model=mlflow_model,
            signature=signature or None,
            input_example=example,
            pip_requirements=pip_requirements,
            extra_pip_requirements=extra_pip_requirements,
            metadata=metadata,
        )
    pyfunc = mlflow_model.flavors[mlflow.pyfunc.FLAVOR_NAME]
    about: dict[str, Any] = {
        "aimz_version": _version(),
        "data": pyfunc["data"],
        "code": pyfunc.get("code"),
        "kernel": travelling.reference or "cloudpickle",
    }
    if extra_files:
        about["extra_files"] = [{"path": _fetched(uri, path)} for uri in extra_files]
    mlflow_model.add_flavor(FLAVOR_NAME, **about)
    mlflow_model.save(str(path / "MLmodel"))


def _check(model: Any) -> None:
    if not isinstance(model, ImpactModel):
        msg = f"`aimz_model` must be an ImpactModel; got {type(model).__name__}. Pass the model itself."
        raise TypeError(msg)
    if not model.is_fitted():
        msg = (
            "A model is saved with its posterior, and this one has none yet. Call `fit_on_batch(X, y)` first, or "
            "`set_posterior_sample` with draws made elsewhere."
        )
        raise NotFittedError(msg)


def _requirements(travelling: PackagedKernel) -> list[str]:
    always = get_default_pip_requirements(include_cloudpickle=travelling.pickled is not None)
    return sorted({*always, *pinned(travelling.distributions)})


def _listed(requirements: "list[str] | str | None") -> list[str]:
    """Return requirements as lines; a text names a file with them."""
    if isinstance(requirements, str):
        return [f"-r {Path(requirements).absolute()}"]
    return list(requirements or [])


def _fetched(uri: str, path: Path) -> str:
    """Copy a file beside the model, and return where it lies in it."""
    found = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(path / "extra_files"))
    return Path(found).relative_to(path).as_posix()


def _version() -> str:
    from importlib.metadata import version

    return version("aimz")


def log_model(
    aimz_model: ImpactModel,
    artifact_path: str | None = None,
    conda_env: "dict[str, Any] | str | None" = None,
    code_paths: list[str] | None = None,
    registered_model_name: str | None = None,
    signature: "ModelSignature | bool | None" = None,
    input_example: Any = None,
    await_registration_for: int | None = _AWAIT,
    pip_requirements: "list[str] | str | None" = None,
    extra_pip_requirements: "list[str] | str | None" = None,
    metadata: dict[str, Any] | None = None,
    extra_files: list[str] | None = None,
    name: str | None = None,
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
    model_type: str | None = None,
    step: int = 0,
    model_id: str | None = None,
    **kwargs: Any,
) -> "ModelInfo":
    """Log a fitted model to MLflow, in the current run if there is one.

    Parameters
    ----------
    aimz_model : ImpactModel
        The model; it must be fitted.
    artifact_path : str, optional
        What ``name`` was called before MLflow 3.
    conda_env, code_paths, signature, input_example, pip_requirements, extra_pip_requirements, metadata, extra_files
        As in :func:`save_model`.
    registered_model_name : str, optional
        Name under which to register the model, as its next version.
    await_registration_for : int, optional
        Seconds to wait until that version is ready; 0 or None does not wait.
    name : str, optional
        Name of the model.
    params, tags : dict, optional
        What to log with the model.
    model_type : str, optional
        Kind of the model.
    step : int
        Step the model belongs to.
    model_id : str, optional
        ID of a model that was made before, to log this as.
    **kwargs
        Further arguments of :meth:`mlflow.models.Model.log`.

    Returns
    -------
    mlflow.models.model.ModelInfo
        Among others ``model_uri``, with which it is loaded.

    Raises
    ------
    NotFittedError, TypeError, ValueError
        As :func:`save_model`.
    """
    import aimz.mlflow as flavor

    # A model that is refused is not to leave an empty entry behind.
    _check(aimz_model)
    package_kernel(aimz_model.kernel, aimz_model.inference, code_paths)
    return Model.log(
        artifact_path=artifact_path,
        name=name,
        flavor=flavor,
        registered_model_name=registered_model_name,
        await_registration_for=await_registration_for,
        metadata=metadata,
        params=params,
        tags=tags,
        model_type=model_type,
        step=step,
        model_id=model_id,
        aimz_model=aimz_model,
        conda_env=conda_env,
        code_paths=code_paths,
        signature=signature,
        input_example=input_example,
        pip_requirements=pip_requirements,
        extra_pip_requirements=extra_pip_requirements,
        extra_files=extra_files,
        **kwargs,
    )


def load_model(
    model_uri: str,
    dst_path: str | None = None,
    *,
    kernel: Any = None,
    inference: Any = None,
    arguments: Mapping[str, Any] | None = None,
) -> ImpactModel:
    """Load a model that was saved or logged.

    Parameters
    ----------
    model_uri : str
        Where it lies: a path, ``models:/<id>``, ``models:/<name>/<version>``, ``runs:/<run>/<name>``.
    dst_path : str, optional
        Directory, which must be there, to download it to.
    kernel : callable, optional
        The kernel, in place of the one that was saved; nothing is then unpickled.
    inference : numpyro.infer.SVI or numpyro.infer.MCMC, optional
        The inference, in place of the one that was saved.  A model that has none predicts, compares and scores, and
        refuses to be fitted further.
    arguments : mapping of str to object, optional
        Arguments the kernel was called with that are neither arrays nor plain values, as in :meth:`ImpactModel.load`.

    Returns
    -------
    ImpactModel
        The model, fitted as it was.

    Raises
    ------
    ImportError
        If the kernel's module is not there.
    ValueError
        If the kernel is pickled and MLflow does not allow that, or it is not the one the posterior belongs to, or a
        file is torn.
    """
    local = mlflow.artifacts.download_artifacts(artifact_uri=str(model_uri), dst_path=dst_path)
    about = Model.load(local).flavors.get(FLAVOR_NAME)
    if about is None:
        msg = (
            f"`model_uri` must be a model that `aimz.mlflow` saved; {model_uri} has not the flavour `{FLAVOR_NAME}`. "
            "Load it with the flavour it has, or with `mlflow.pyfunc.load_model`."
        )
        raise ValueError(msg)
    return stored.read(Path(local) / about["data"], kernel=kernel, inference=inference, arguments=arguments).model


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> Scorer:  # noqa: ARG001 (MLflow's)
    """Return what :func:`mlflow.pyfunc.load_model` wraps, with what it needs compiled."""
    found = stored.read(Path(path))
    scorer = Scorer(found.model, found.inputs)
    scorer.try_warm_up()
    return scorer
