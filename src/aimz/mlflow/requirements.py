"""What has to be installed where a model is loaded."""

__all__ = ["get_default_conda_env", "get_default_pip_requirements", "pinned"]

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

_ALWAYS = ("aimz", "jax", "mlflow", "numpy", "numpyro", "pandas")
"""What a model needs whatever its kernel is; the numbers depend on the versions of JAX and NumPyro."""


def pinned(distributions: Iterable[str]) -> list[str]:
    """Return requirements with the versions that are installed here, in order; what is not installed is left out."""
    found = {}
    for name in distributions:
        try:
            # A build of a commit has a local version, which no index has.
            found[name.lower()] = f"{name}=={version(name).partition('+')[0]}"
        except PackageNotFoundError:
            continue
    return [found[name] for name in sorted(found)]


def get_default_pip_requirements(include_cloudpickle: bool = False) -> list[str]:  # noqa: FBT001, FBT002 (MLflow's)
    """Return the pip requirements of models of this flavour.

    Those of a model that is saved also name what its kernel's module imports.

    Parameters
    ----------
    include_cloudpickle : bool
        Whether the kernel is pickled.

    Returns
    -------
    list of str
        Requirements, each with the version that is installed.

    Examples
    --------
    >>> import aimz.mlflow
    >>> [line.partition("==")[0] for line in aimz.mlflow.get_default_pip_requirements()]
    ['aimz', 'jax', 'mlflow', 'numpy', 'numpyro', 'pandas']
    """
    return pinned([*_ALWAYS, *(["cloudpickle"] if include_cloudpickle else [])])


def get_default_conda_env(include_cloudpickle: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 (MLflow's)
    """Return the Conda environment of models of this flavour.

    Parameters
    ----------
    include_cloudpickle : bool
        Whether the kernel is pickled.

    Returns
    -------
    dict
        As :func:`mlflow.pyfunc.get_default_conda_env`, with :func:`get_default_pip_requirements` to be installed.

    Examples
    --------
    >>> import aimz.mlflow
    >>> sorted(aimz.mlflow.get_default_conda_env())
    ['channels', 'dependencies', 'name']
    """
    import mlflow.pyfunc

    environment: dict[str, Any] = mlflow.pyfunc.get_default_conda_env()
    others = [one for one in environment["dependencies"] if not isinstance(one, dict)]
    pip = {"pip": get_default_pip_requirements(include_cloudpickle)}
    return {**environment, "dependencies": [*others, pip]}
