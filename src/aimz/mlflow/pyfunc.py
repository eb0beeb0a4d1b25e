"""The model that MLflow's ``pyfunc`` loads and serves: one line of statistics for each row of a request."""

__all__ = ["PyFuncWrapper"]

import warnings
from collections import OrderedDict
from contextlib import suppress
from threading import Lock
from typing import Any

import jax
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException

from aimz.mlflow.request import RequestParameters, RequestRows, read_parameters, read_rows
from aimz.mlflow.schema import InputSchema, output_columns
from aimz.model import ImpactModel

_MIN_POWER, _MAX_POWER = 8, 13
"""Requests are padded to one row less than a power of two, with exponents in this range."""
_MAX_THINNED = 4
"""Number of models with fewer draws that are cached, with their compiled programs."""


class PyFuncWrapper:
    """Model that :func:`mlflow.pyfunc.load_model` wraps.

    Requests are padded to a few lengths, so that one compiled program serves nearly all of them, unless the rows of
    the kernel depend on one another.  Requests are processed one at a time.

    Parameters
    ----------
    model : ImpactModel
        The fitted model.
    schema : InputSchema
        Schema of the requests.
    """

    def __init__(self, model: ImpactModel, schema: InputSchema) -> None:
        self._model = model
        self._schema = schema
        self._thinned: OrderedDict[int, ImpactModel] = OrderedDict()
        self._can_pad: bool | None = None
        """Whether rows are independent, so that padding does not change a prediction; None while unknown."""
        self._lock = Lock()

    def get_raw_model(self) -> ImpactModel:
        """Return the model, for :meth:`mlflow.pyfunc.PyFuncModel.get_raw_model`."""
        return self._model

    def try_warm_up(self) -> None:
        """Compile the programs of a request for the default statistics, if the schema is known."""
        zeros = self._schema.zeros(1, self._model.inputs.categories)
        if zeros is not None:
            # Zeros may not be a valid input of this kernel; a real request will raise its own error.
            with suppress(Exception), warnings.catch_warnings(action="ignore"):
                self.predict(zeros)

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return statistics of the output for each row, or of the effect of an intervention on it.

        Parameters
        ----------
        model_input : pandas.DataFrame, array_like or dict of array_like
            Columns, the input, or arguments of the kernel by name.
        params : dict, optional
            ``statistics``, ``intervention``, ``baseline`` (JSON), ``num_samples``, ``seed``, ``arguments`` (JSON).

        Returns
        -------
        pandas.DataFrame
            A line for each row, with the index of the input.

        Raises
        ------
        mlflow.exceptions.MlflowException
            ``INVALID_PARAMETER_VALUE``, for which a server responds with status 400, if the request does not fit the
            model.
        """
        try:
            parameters = read_parameters(params)
            with self._lock:
                rows = read_rows(model_input, self._model, self._schema.static, self._schema.dtypes)
                return self._predict(rows.with_arguments(parameters.arguments), parameters)
        except (TypeError, ValueError) as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def _predict(self, rows: RequestRows, parameters: RequestParameters) -> pd.DataFrame:
        """Predict with padded rows where that is possible, otherwise with the rows as they are."""
        model = self._with_draws(parameters.num_samples)
        if self._can_pad is not False:
            # An error is raised again below, unless the kernel needs this number of rows.
            with suppress(TypeError, ValueError):
                group = self._compute(model, rows.padded(_padded_length(rows.n_rows)), parameters)
                if group.attrs["row_block"]:
                    self._can_pad = True
                    return self._to_frame(rows, group, parameters)
        group = self._compute(model, rows, parameters)
        self._can_pad = False
        return self._to_frame(rows, group, parameters)

    def _compute(self, model: ImpactModel, rows: RequestRows, parameters: RequestParameters) -> Any:
        """Return the dataset of a prediction or an effect."""
        intervention, baseline = (
            rows.pad_intervention(scenario, self._has_rows)
            for scenario in (parameters.intervention, parameters.baseline)
        )
        further = {**rows.by_row, **rows.static}
        common: dict[str, Any] = {
            model.param_input: further.pop(model.param_input),
            "args": further,
            "in_sample": False,
            "rng_key": jax.random.key(parameters.seed),
            "return_sites": model.param_output,
        }
        changed = {**common, "intervention": intervention, "store": "memory", "progress": False}
        if parameters.baseline is None:
            given = changed.pop(model.param_input)
            tree = model.predict(given, **changed, statistics=parameters.statistics)
        else:
            tree = model.estimate_effect(
                args_baseline={**common, "intervention": baseline},
                args_intervention=changed,
                statistics=parameters.statistics,
            )
        return tree["predictions"].to_dataset()

    def _has_rows(self, name: str) -> bool:
        """Return whether the site or argument ``name`` has a value for each row."""
        spec = self._model.kernel_spec
        return spec is None or name not in spec or bool(spec[name].row_axes)

    def _to_frame(self, rows: RequestRows, group: Any, parameters: RequestParameters) -> pd.DataFrame:
        """Return a frame with a column for each statistic and each value of a row."""
        output, spec = self._model.param_output, self._model.kernel_spec
        axes = spec[output].row_axes if spec is not None and output in spec else ()
        if not axes:
            msg = (
                f"The output `{output}` of this model has no row axis, so it has no prediction for each row. Load the "
                "model with `aimz.mlflow.load_model` and call `predict`."
            )
            raise ValueError(msg)
        # Axes are then rows, statistics, and the axes of one row.
        values = np.moveaxis(group[output].values, 1 + axes[0], 0)[: rows.n_rows]
        names = output_columns(parameters.statistics, values.shape[2:])
        return _Response(values.reshape(rows.n_rows, -1), columns=names, index=rows.index)

    def _with_draws(self, num_samples: int | None) -> ImpactModel:
        """Return the model with ``num_samples`` of its draws, evenly spaced."""
        n_draws = len(next(iter((self._model.posterior or {}).values())))
        if num_samples is None or num_samples == n_draws:
            return self._model
        if num_samples > n_draws:
            msg = (
                f"`num_samples` must be at most the number of posterior draws, {n_draws}; got {num_samples}. Omit it "
                "to use all of them."
            )
            raise ValueError(msg)
        if num_samples not in self._thinned:
            self._thinned[num_samples] = self._model.thin_posterior(num_samples)
            if len(self._thinned) > _MAX_THINNED:
                self._thinned.popitem(last=False)
        self._thinned.move_to_end(num_samples)
        return self._thinned[num_samples]


class _Response(pd.DataFrame):
    """Statistics of a response, whose missing values are null in JSON, which has no NaN."""

    def to_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Return a dictionary, with None for NaN and infinite values."""
        plain = pd.DataFrame(self)
        return plain.astype(object).where(np.isfinite(plain), None).to_dict(*args, **kwargs)


def _padded_length(n_rows: int) -> int:
    """Return the number of rows to pad a request to.

    It is one less than a power of two because row blocks are powers of two: a request of exactly one block would not
    be tested for rows that depend on one another.
    """
    power = max(_MIN_POWER, int(n_rows).bit_length())
    return 2**power - 1 if power <= _MAX_POWER else n_rows
