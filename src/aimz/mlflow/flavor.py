"""Save, log and load models in MLflow's format."""

__all__ = ["load_model", "log_model", "save_model"]

import json
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import mlflow.artifacts
import mlflow.pyfunc
from mlflow.models import Model, ModelSignature

import aimz.mlflow
from aimz._distribution import VERSION
from aimz.errors import NotFittedError
from aimz.mlflow.kernel_code import PackagedKernel, package_kernel, read_kernel
from aimz.mlflow.pyfunc import PyFuncWrapper
from aimz.mlflow.requirements import get_default_pip_requirements, pin_versions
from aimz.mlflow.schema import InputSchema, complete_signature, input_schema, model_signature, normalize_example
from aimz.model import ImpactModel

if TYPE_CHECKING:
    import os

    from mlflow.models.model import ModelInfo

FLAVOR_NAME = "aimz"
_FOLDER, _MODEL, _METADATA = "aimz_model", "model", "kernel.json"


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
    **kwargs: Any,
) -> None:
    """Save a fitted model in MLflow's format.

    The posterior and the rest of the fitted state are stored as :meth:`ImpactModel.save` does, without code.  The
    kernel is stored by its import path, ``module:kernel``, together with the code it needs: modules that belong to no
    installed package are added to ``code_paths``, installed packages to the requirements.  A kernel that cannot be
    imported (defined in a notebook, a script or a function) is pickled.  The inference is stored with a pickled kernel,
    or by its import path if the kernel's module has a name for it.

    Parameters
    ----------
    aimz_model : ImpactModel
        The model; it must be fitted.
    path : path-like
        Directory to create.
    conda_env : dict or str, optional
        Conda environment, or the path of a file that contains one.
    code_paths : list of str, optional
        Files and directories needed to import the kernel, in addition to those that are found.
    mlflow_model : mlflow.models.Model, optional
        The model to add this flavor to.
    signature : mlflow.models.ModelSignature or False, optional
        Signature of the model.  By default it is inferred from ``input_example``, or from the data of the last fit if
        they are in memory; False stores none.  This flavor's parameters are added to a signature without any.
    input_example : pandas.DataFrame, array_like or dict of array_like, optional
        Some rows of input; columns that the model does not read are dropped.  With parameters, ``(rows, params)``.
    pip_requirements, extra_pip_requirements : list of str or str, optional
        Requirements that replace those that are found, and requirements to add.
    metadata : dict, optional
        Metadata to store in the file ``MLmodel``.
    extra_files : list of str, optional
        URIs of files to store with the model, in the directory ``extra_files``.
    **kwargs
        Further arguments of :meth:`mlflow.models.Model.log`; ignored.

    Raises
    ------
    NotFittedError
        If there is no posterior.
    TypeError
        If ``aimz_model`` is not an :class:`ImpactModel`.
    ValueError
        If the kernel cannot be imported, and either it cannot be pickled or MLflow does not allow pickles
        (``MLFLOW_ALLOW_PICKLE_DESERIALIZATION``).

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
    del kwargs
    _check(aimz_model)
    packaged = package_kernel(aimz_model.kernel, aimz_model.inference, code_paths)
    example = None if input_example is None else normalize_example(aimz_model, input_example)
    rows = example[0] if isinstance(example, tuple) else example
    schema = input_schema(aimz_model, rows)
    if signature is None:
        signature = model_signature(aimz_model, schema, by_name=isinstance(rows, Mapping))
    elif isinstance(signature, ModelSignature):
        signature = complete_signature(signature)
    if pip_requirements is None and conda_env is None:
        # MLflow would infer the requirements by loading the model in another process.
        pip_requirements = [*_requirements(packaged), *_requirement_lines(extra_pip_requirements)]
        extra_pip_requirements = None
    mlflow_model = Model() if mlflow_model is None else mlflow_model
    path = Path(path).absolute()
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        # The signature does not need an example.
        warnings.filterwarnings("ignore", message="(?s).*input example was not provided", category=UserWarning)
        folder = Path(temporary) / _FOLDER
        _write(aimz_model, folder, packaged, schema)
        mlflow.pyfunc.save_model(
            str(path),
            loader_module="aimz.mlflow",
            data_path=str(folder),
            code_paths=[*(code_paths or []), *packaged.code] or None,
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
        "aimz_version": VERSION,
        "data": pyfunc["data"],
        "code": pyfunc.get("code"),
        "kernel": packaged.reference or "cloudpickle",
    }
    if extra_files:
        about["extra_files"] = [{"path": _download(uri, path)} for uri in extra_files]
    mlflow_model.add_flavor(FLAVOR_NAME, **about)
    mlflow_model.save(str(path / "MLmodel"))


def _check(model: Any) -> None:
    """Check that a model is a fitted :class:`ImpactModel`."""
    if not isinstance(model, ImpactModel):
        msg = f"`aimz_model` must be an ImpactModel; got {type(model).__name__}. Pass the model itself."
        raise TypeError(msg)
    if not model.is_fitted():
        msg = (
            "A model is saved with its posterior, and this one has none yet. Call `fit(X, y)` first, or "
            "`set_posterior_sample` with draws from elsewhere."
        )
        raise NotFittedError(msg)


def _requirements(packaged: PackagedKernel) -> list[str]:
    """Return the requirements of this flavor and of a kernel."""
    always = get_default_pip_requirements(include_cloudpickle=packaged.pickled is not None)
    return sorted({*always, *pin_versions(packaged.distributions)})


def _requirement_lines(requirements: "list[str] | str | None") -> list[str]:
    """Return requirements as a list of lines; a string is the path of a requirements file."""
    if isinstance(requirements, str):
        return [f"-r {Path(requirements).absolute()}"]
    return list(requirements or [])


def _download(uri: str, path: Path) -> str:
    """Copy a file into the model's directory, and return its path relative to that directory."""
    local = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(path / "extra_files"))
    return Path(local).relative_to(path).as_posix()


def _write(model: ImpactModel, folder: Path, packaged: PackagedKernel, schema: InputSchema) -> None:
    """Write a model, its kernel and its input schema into a new directory."""
    folder.mkdir()
    model.save(folder / _MODEL)
    packaged.write(folder)
    metadata = {"kernel": packaged.to_json(), "inputs": schema.to_json()}
    (folder / _METADATA).write_text(json.dumps(metadata, indent=2), encoding="utf-8")


def _read(
    folder: Path, *, kernel: Any = None, inference: Any = None, arguments: Any = None
) -> tuple[ImpactModel, InputSchema]:
    """Read a model and its input schema, with the saved kernel unless another is given."""
    metadata = json.loads((folder / _METADATA).read_text(encoding="utf-8"))
    if kernel is None:
        code = folder.parent.parent / "code"
        kernel, saved = read_kernel(folder, metadata["kernel"], str(code) if code.is_dir() else None)
        inference = saved if inference is None else inference
    model = ImpactModel.load(folder / _MODEL, kernel, inference, arguments=arguments)
    return model, InputSchema.from_json(metadata["inputs"])


def log_model(
    aimz_model: ImpactModel,
    artifact_path: str | None = None,
    conda_env: "dict[str, Any] | str | None" = None,
    code_paths: list[str] | None = None,
    registered_model_name: str | None = None,
    signature: "ModelSignature | bool | None" = None,
    input_example: Any = None,
    await_registration_for: int | None = 300,
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
        Name of ``name`` before MLflow 3.
    conda_env, code_paths, signature, input_example, pip_requirements, extra_pip_requirements, metadata, extra_files
        As in :func:`save_model`.
    registered_model_name : str, optional
        Name under which to register the model, as its next version.
    await_registration_for : int, optional
        Seconds to wait until that version is ready; 0 or None to not wait.
    name : str, optional
        Name of the model.
    params, tags : dict, optional
        Parameters and tags to log with the model.
    model_type : str, optional
        Kind of the model.
    step : int
        Training step of the model.
    model_id : str, optional
        ID of an existing logged model to log to.
    **kwargs
        Further arguments of :meth:`mlflow.models.Model.log`.

    Returns
    -------
    mlflow.models.model.ModelInfo
        Metadata of the logged model, with the ``model_uri`` to load it from.

    Raises
    ------
    NotFittedError, TypeError, ValueError
        As :func:`save_model`.
    """
    # Raise before MLflow creates an entry for the model.
    _check(aimz_model)
    package_kernel(aimz_model.kernel, aimz_model.inference, code_paths)
    return Model.log(
        artifact_path=artifact_path,
        name=name,
        flavor=aimz.mlflow,
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
    """Load a model that was saved or logged with this flavor.

    Parameters
    ----------
    model_uri : str
        Location of the model: a path, ``models:/<id>``, ``models:/<name>/<version>``, ``runs:/<run>/<name>``.
    dst_path : str, optional
        Existing directory to download the model to.
    kernel : callable, optional
        Kernel to use instead of the saved one; nothing is then unpickled.
    inference : numpyro.infer.SVI or numpyro.infer.MCMC, optional
        Inference to use instead of the saved one.  A model without one predicts, compares and scores, but cannot be
        fitted further.
    arguments : mapping of str to object, optional
        Arguments of the kernel that are neither arrays nor plain values, as in :meth:`ImpactModel.load`.

    Returns
    -------
    ImpactModel
        The fitted model.

    Raises
    ------
    ImportError
        If the kernel's module cannot be imported.
    ValueError
        If the kernel is pickled and MLflow does not allow pickles, if it is not the kernel that the posterior belongs
        to, or if a file is incomplete.
    """
    local = mlflow.artifacts.download_artifacts(artifact_uri=str(model_uri), dst_path=dst_path)
    about = Model.load(local).flavors.get(FLAVOR_NAME)
    if about is None:
        msg = (
            f"`model_uri` must be a model that `aimz.mlflow` saved; {model_uri} does not have the flavor "
            f"`{FLAVOR_NAME}`. Load it with the flavor it has, or with `mlflow.pyfunc.load_model`."
        )
        raise ValueError(msg)
    return _read(Path(local) / about["data"], kernel=kernel, inference=inference, arguments=arguments)[0]


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> PyFuncWrapper:
    """Return the model for :func:`mlflow.pyfunc.load_model`, with its programs compiled."""
    del model_config
    wrapper = PyFuncWrapper(*_read(Path(path)))
    wrapper.try_warm_up()
    return wrapper
