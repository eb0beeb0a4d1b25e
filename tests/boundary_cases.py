"""Inputs whose meaning is easily lost, with the values or the error that every way of making a call must give."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpyro
import pandas as pd
import xarray as xr
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel
from importable_kernels import switches

N_DRAWS = 200
LEVELS = np.array([0.0, 5.0, -5.0], np.float32)
X = np.array([[2.0, 1.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0]], np.float32)
GROUP = np.array([0, 0, 1, 2])
Y = np.array([1.0, 0.0, 1.0, 0.0])
"""Outcomes of ``X`` and ``GROUP``."""
COLUMNS = ["gain", "loss"]


def new_model(fitted: Any = None) -> ImpactModel:
    """Return a model of ``switches`` with fixed draws, which knows the labels of the input of a fit."""
    svi = SVI(switches, AutoNormal(switches), numpyro.optim.Adam(0.1), Trace_ELBO())
    model = ImpactModel(switches, random.key(0), svi)
    if fitted is not None:
        model.train_on_batch(fitted, Y.astype(int), group=GROUP)
    return model.set_posterior_sample({"level": np.tile(LEVELS, (N_DRAWS, 1))})


def frame(X: np.ndarray = X, **columns: Any) -> pd.DataFrame:
    return pd.DataFrame(X, columns=COLUMNS).assign(**columns)


def _labelled(X: np.ndarray, columns: list[str]) -> xr.DataArray:
    return xr.DataArray(X, dims=("row", "column"), coords={"column": columns})


@dataclass(frozen=True)
class Case:
    """An input and its outcome."""

    X: Callable[[], Any]
    group: tuple[int, ...] = (0, 0, 1, 2)
    fitted: Callable[[], Any] | None = None
    """Input of the fit, if its labels matter."""
    expected: Any = None
    """Means of the outcomes."""
    error: str = ""
    """Pattern of the error, if there is one."""


MISSING = np.where(np.arange(8).reshape(4, 2) == 2, np.nan, X)
CASES = {
    "unseen group": Case(
        lambda: X,
        (0, -1, 1, 3),
        error="2 of 4 rows have an index outside of site `level`, which has 3 entries along plate `groups`; the "
        "first is row 1 with -1, computed from `group`",
    ),
    "missing value": Case(lambda: MISSING, expected=[1, np.nan, 1, 0]),
    "masked value": Case(
        lambda: np.ma.array(np.where(np.isnan(MISSING), -999.0, MISSING), mask=np.isnan(MISSING)),
        expected=[1, np.nan, 1, 0],
    ),
    "masked integer": Case(
        lambda: np.ma.array(X.astype(int), mask=np.isnan(MISSING)), error=r"`X` has masked values in 1 row\(s\)"
    ),
    "columns of a frame in another order": Case(lambda: frame()[COLUMNS[::-1]], fitted=frame, expected=Y),
    "labels of an axis in another order": Case(
        lambda: _labelled(X[:, ::-1], COLUMNS[::-1]), fitted=lambda: _labelled(X, COLUMNS), expected=Y
    ),
    "narrow integers": Case(lambda: X.astype(np.uint8), expected=Y),
}


def outcome_of(call: Callable[[], Any]) -> Any:
    """Return the result of a call, or the text of its error."""
    try:
        return np.asarray(call(), np.float64)
    except (TypeError, ValueError) as error:
        return str(error)


def check_outcome(found: Any, case: Case) -> None:
    """Check the mean outcomes, or the text of the error."""
    if case.error:
        assert re.search(case.error, str(found)), found
    else:
        np.testing.assert_allclose(np.asarray(found, np.float64), case.expected)


def predicted_means(case: Case) -> Any:
    """Return the mean outcome of each row of a streamed prediction, or the text of its error."""
    model = new_model(None if case.fitted is None else case.fitted())
    options: dict[str, Any] = {"in_sample": False, "store": "memory", "progress": False, "statistics": ("mean",)}
    return outcome_of(
        lambda: model.predict(case.X(), group=np.array(case.group), **options)["predictions"]["y"].values[0]
    )
