"""The ``pyfunc`` of a model: one answer for each row of a request."""

__all__ = ["Scorer", "answer_columns"]

import copy
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from threading import Lock
from typing import Any

import jax
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException

from aimz.mlflow.asked import Asked, names_of, read_asked
from aimz.mlflow.request import Request, read_request
from aimz.mlflow.schema import Inputs
from aimz.model import ImpactModel

_LEAST, _MOST = 8, 13
"""Requests are filled up to one row less than a power of two, from 2**_LEAST to 2**_MOST."""
_KEPT = 4
"""Models with fewer draws that are kept, with their programs."""


class Scorer:
    """What :func:`mlflow.pyfunc.load_model` wraps.

    Requests are filled up to few different lengths, so that one program serves nearly all of them.  Where rows of a
    kernel see one another they are not.  One request is answered at a time.

    Parameters
    ----------
    model : ImpactModel
        The fitted model.
    inputs : Inputs
        What requests hold.
    """

    def __init__(self, model: ImpactModel, inputs: Inputs) -> None:
        self._model = model
        self._inputs = inputs
        self._smaller: OrderedDict[int, ImpactModel] = OrderedDict()
        self._alone: bool | None = None
        """Whether no row sees another; None before that is known."""
        self._lock = Lock()

    def get_raw_model(self) -> ImpactModel:
        """Return the model, as :meth:`mlflow.pyfunc.PyFuncModel.get_raw_model` hands it out."""
        return self._model

    def try_warm_up(self) -> None:
        """Compile what a request for the default statistics needs, if it is known what requests hold."""
        blank = self._inputs.blank(1)
        if blank is not None:
            # Zeros may be no input this kernel can have; a request will then say so of its own.
            with suppress(Exception), warnings.catch_warnings(action="ignore"):
                self.predict(blank)

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Return statistics of the output for each row, or of what an intervention changes in it.

        Parameters
        ----------
        model_input : pandas.DataFrame, array_like or dict of array_like
            Columns, the input, or arguments of the kernel by name.
        params : dict, optional
            ``statistics``, ``intervention``, ``baseline`` (JSON), ``num_samples``, ``seed``.

        Returns
        -------
        pandas.DataFrame
            A line for each row, with the index of the input.

        Raises
        ------
        mlflow.exceptions.MlflowException
            ``INVALID_PARAMETER_VALUE``, which a server answers with 400, if the request does not fit the model.
        """
        try:
            asked = read_asked(params)
            with self._lock:
                request = read_request(model_input, self._model, self._inputs.static)
                return self._answer(request, asked)
        except (TypeError, ValueError) as error:
            raise MlflowException.invalid_parameter_value(str(error)) from error

    def _answer(self, request: Request, asked: Asked) -> pd.DataFrame:
        model = self._with_draws(asked.num_samples)
        if self._alone is False:
            return self._table(request, self._computed(model, request, asked), asked)
        filled = request.filled(_length(request.n_rows), self._has_rows)
        try:
            found = self._computed(model, filled, asked)
            self._alone = bool(found.attrs["row_block"])
        except (TypeError, ValueError):
            # Of the request itself, or of a kernel that takes one number of rows only.
            found = self._computed(model, request, asked)
            self._alone = False
        if not self._alone:
            found = self._computed(model, request, asked)
        return self._table(request, found, asked)

    def _has_rows(self, name: str) -> bool:
        """Return whether the values of an intervention on ``name`` belong to rows."""
        spec = self._model.kernel_spec
        return spec is None or name not in spec or bool(spec[name].row_axes)

    def _computed(self, model: ImpactModel, request: Request, asked: Asked) -> Any:
        """Return the group of the result."""
        args: dict[str, Any] = {
            **request.arguments,
            "in_sample": False,
            "rng_key": jax.random.key(asked.seed),
            "return_sites": model.param_output,
        }
        changed = {
            **args,
            "intervention": request.scenario(asked.intervention),
            "store": "memory",
            "progress": False,
        }
        if asked.baseline is None:
            rows = changed.pop(model.param_input)
            tree = model.predict(rows, **changed, statistics=asked.statistics)
        else:
            tree = model.estimate_effect(
                args_baseline={**args, "intervention": request.scenario(asked.baseline)},
                args_intervention=changed,
                statistics=asked.statistics,
            )
        return tree["predictions"].to_dataset()

    def _table(self, request: Request, found: Any, asked: Asked) -> pd.DataFrame:
        """Return a frame of a result, with a column for each statistic and each number of a row."""
        output, spec = self._model.param_output, self._model.kernel_spec
        axes = spec[output].row_axes if spec is not None and output in spec else ()
        site = found[output]
        if not axes:
            msg = (
                f"The output `{output}` of this model has no row axis, so that there is no answer for each row. Load "
                "the model with `aimz.mlflow.load_model` and call `predict`."
            )
            raise ValueError(msg)
        values = np.moveaxis(site.values, 1 + axes[0], 0)[: request.n_rows]  # rows, statistics, the rest
        beside = values.shape[2:]
        names = answer_columns(names_of(asked.statistics), int(np.prod(beside)) if beside else None)
        return pd.DataFrame(values.reshape(request.n_rows, -1), columns=names, index=request.index)

    def _with_draws(self, num_samples: int | None) -> ImpactModel:
        """Return the model with so many of its draws, evenly spaced."""
        posterior = self._model._posterior
        if num_samples is None or posterior is None or num_samples == posterior.n_draws:
            return self._model
        if num_samples > posterior.n_draws:
            msg = (
                f"`num_samples` must be at most the number of posterior draws, {posterior.n_draws}; got {num_samples}. "
                "Leave it out for all of them."
            )
            raise ValueError(msg)
        if num_samples not in self._smaller:
            places = np.linspace(0, posterior.n_draws - 1, num_samples).round().astype(int)
            smaller = copy.copy(self._model)
            draws = {name: array[places] for name, array in posterior.draws.items()}
            smaller._posterior = replace(posterior, draws=draws, num_chains=1, sample_stats=None)
            self._smaller[num_samples] = smaller
        self._smaller.move_to_end(num_samples)
        while len(self._smaller) > _KEPT:
            self._smaller.popitem(last=False)
        return self._smaller[num_samples]


def _length(n_rows: int) -> int:
    """Return to how many rows a request is filled up.

    It is one less than a power of two because a block of rows is a power of two: where the rows are as many as a block
    has, nobody asks whether they see one another.
    """
    size = max(_LEAST, int(n_rows).bit_length())
    return 2**size - 1 if size <= _MOST else n_rows


def answer_columns(names: Sequence[str], beside: int | None) -> list[str]:
    """Return the columns of an answer; where a row has several numbers, each is counted."""
    return list(names) if beside is None else [f"{name}[{i}]" for name in names for i in range(beside)]
