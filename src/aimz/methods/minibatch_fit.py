"""Data, options and plan of a fit in minibatches."""

__all__ = ["fits_at_once", "plan_fit", "read_training"]

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any, Never

import jax
import numpy as np

from aimz.data import (
    ArrayBatches,
    AxisLabels,
    Batches,
    Categories,
    ChunkedTable,
    IterableBatches,
    KernelArguments,
    LazyArray,
    Posterior,
    count_rows,
    fingerprint,
    is_array,
    is_batches,
    is_shuffled,
    key_to_text,
    open_chunked_table,
    open_table,
    read_call,
    with_categories,
)
from aimz.engine import KernelEngine, check_used, versions, with_counts, with_outcome
from aimz.inference import DeferredFit, Fit, FitData, MCMCFit, MinibatchPlan, SVIFit, fit_for_data
from aimz.kernel import KernelSpec
from aimz.methods.fit_options import Epochs, FitOptions
from aimz.methods.fitted_support import observe_support, with_support_of_fit
from aimz.methods.minibatch_checks import batch_scale, check_batch
from aimz.utils.data import ArrayDataset, ArrayLoader

_MAX_DIGEST_BYTES = 2**28
"""Bytes in files that are read once more for their fingerprints."""
_MAX_AT_ONCE = 2**21
"""Number of values of all arrays, about 100,000 rows of 20 columns, up to which SVI uses all rows in each step."""
_PIECE = 2**16
"""Number of rows that are searched together."""


@dataclass(frozen=True)
class TrainingData:
    """Data of a fit in minibatches."""

    batches: Batches
    static: Mapping[str, object]
    rows: Mapping[str, LazyArray] | None
    """Arrays with a row axis by argument name; None for an iterable."""
    tables: Mapping[str, tuple[str, ...]]
    """Column names of arguments that are tables."""
    axes: Mapping[str, AxisLabels]
    """Names and labels of the axes of arguments that are xarray arrays."""
    categories: Mapping[str, Categories]
    """Categories of arguments that are text or categorical."""
    order: Mapping[str, str]
    """Description of the order of the rows, for checkpoints."""
    loader: ArrayLoader | None = None
    """Loader whose epochs are used, if there is one."""
    index: Any = None
    """Labels of the rows, if the input has any."""
    once: bool = False
    """Whether the rows can be read only once, in one epoch."""
    reordered: bool = False
    """Whether the order of the rows may differ between epochs, even within a single batch of all rows."""

    def all_rows(self, call: KernelArguments) -> KernelArguments | None:
        """Return a call with all rows, for guides with a value for each; None if they cannot be read again in order."""
        if self.rows is not None:
            rows: dict[str, Any] = {name: np.asarray(array) for name, array in self.rows.items()}
        else:
            assert isinstance(self.batches, IterableBatches)
            rows = self.batches.all_rows()
        if not rows:
            return None
        return replace(call, arrays={**call.arrays, **rows}, n_obs=len(next(iter(rows.values()))))

    def observed(self, call: KernelArguments, param_output: str) -> FitData | None:
        """Return the record of the data; None for an iterable, or for files that are too large to read again."""
        if self.rows is None:
            return None
        lazy = sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in self.rows.values() if a.is_lazy)
        if lazy > _MAX_DIGEST_BYTES:
            return None
        call = replace(call, arrays={**call.arrays, **self.rows}, n_obs=self.n_obs, index=self.index)
        return FitData.of(call, param_output)

    def described(self, posterior: Posterior | None) -> Posterior | None:
        """Return a posterior with the description of the rows that the first epoch of its fit read."""
        support = self.batches.description
        return with_support_of_fit(posterior, None if support is None else support.finished())

    def first_not_finite(self) -> str | None:
        """Return the argument and the number of the first row with a value that is not finite; None if all are.

        Of an iterable, the number of its batch and of the row in the batch, as they were read.
        """
        if isinstance(self.batches, IterableBatches):
            return self.batches.reader.not_finite
        for name, array in (self.rows or {}).items():
            for start in range(0, self.n_obs, _PIECE):
                piece = array.read(start, min(start + _PIECE, self.n_obs))
                if piece.dtype.kind == "f" and not np.isfinite(piece).all():
                    bad = ~np.isfinite(piece.reshape(len(piece), -1)).all(axis=1)
                    return f"first in row {start + int(np.argmax(bad)):,} of `{name}`"
        return None

    def advance_loader(self) -> None:
        """Record in the loader how many of its epochs were used."""
        if self.loader is not None:
            self.loader.begin(self.batches.begun)

    @property
    def n_obs(self) -> int:
        """Number of rows of the whole data."""
        return self.batches.n_obs


def read_training(
    engine: KernelEngine, X: Any, y: Any, kwargs: Mapping[str, Any], options: FitOptions, key: jax.Array
) -> TrainingData:
    """Check the data of a fit; arrays in files are not loaded, and only the first batch of an iterable is read.

    Raises
    ------
    TypeError, ValueError
        If data or arguments are invalid.
    """
    param_input, param_output = engine.signature.param_input, engine.signature.param_output
    batch_size, total_size = options.batch_size, options.total_size
    named, X, y = with_outcome(engine, X, y)
    engine.parameters = replace(engine.parameters, outcome=named.parameters.outcome)
    fields: Mapping[str, Any] = {param_input: X} | ({} if y is None else {param_output: y})
    order: Callable[[int], np.ndarray | None] | None = None
    if isinstance(X, ArrayDataset | ArrayLoader):
        if y is not None:
            _raise_passed_twice(param_output, param_input)
        fields = engine.parameters.by_parameter((X if isinstance(X, ArrayDataset) else X.dataset).labelled)
        if isinstance(X, ArrayLoader):
            batch_size = batch_size or X.batch_size
            order = partial(_order_of_loader, X, X.epoch)
    elif _yields_batches(X := open_chunked_table(X, engine.parameters) or X, param_input):
        if y is not None:
            msg = (
                f"`{param_output}` must come with the batches of `{param_input}`, since its rows cannot be assigned to "
                "them otherwise. Add it to each batch, as a field or a column of that name."
            )
            raise TypeError(msg)
        return _of_iterable(engine, X, kwargs, options)
    if twice := sorted(set(fields) & set(kwargs)):
        _raise_passed_twice(twice[0], param_input)
    extra = {name: value for name, value in fields.items() if name not in (param_input, param_output)}
    call = engine.read_call(
        fields.get(param_input), {**extra, **kwargs}, in_parts=True, output=fields.get(param_output)
    )
    rows = {name: array for name, array in call.arrays.items() if array.ndim}
    if total_size not in (None, call.n_obs):
        msg = f"`total_size` must be the number of rows, {call.n_obs}; got {total_size}. Leave it out with arrays."
        raise ValueError(msg)
    if order is None and options.shuffle:
        words = tuple(int(word) for word in np.asarray(jax.random.key_data(key)).ravel())
        order = partial(_order_of_key, words, call.n_obs)
    size = batch_size or _default_batch_size(call.n_obs)
    if size >= call.n_obs:
        order = None  # one batch of all rows, in their own order
    batches = ArrayBatches(rows, size, order) if order is not None else ArrayBatches(rows, size)
    scalars = {name: np.asarray(array).item() for name, array in call.arrays.items() if not array.ndim}
    loader = X if isinstance(X, ArrayLoader) else None
    described = "the order given" if order is None else "shuffled"
    if loader is not None and loader.shuffle:
        described = f"shuffled by the loader, {key_to_text(loader.rng_key)}, from epoch {loader.epoch}"
    static, order_text = {**call.static, **scalars}, {"order": described}
    labels = call.tables, call.axes, call.categories
    return TrainingData(batches, static, rows, *labels, order_text, loader, index=call.index)


def fits_at_once(
    engine: KernelEngine, fit: Fit, X: Any, y: Any, kwargs: Mapping[str, Any], options: FitOptions
) -> bool:
    """Return whether all rows are fitted at once: by MCMC, or if they are in memory and few enough, or inseparable."""
    if isinstance(fit, MCMCFit) or (isinstance(fit, DeferredFit) and fit.requested == "nuts"):
        return True
    engine, X, y = with_outcome(engine, X, y)
    source = open_chunked_table(X, engine.parameters) or X
    if (
        options.in_batches
        or isinstance(X, ArrayDataset | ArrayLoader)
        or _yields_batches(source, engine.signature.param_input)
    ):
        return False
    call = engine.read_call(X, kwargs, in_parts=True, output=y)
    if FitData.is_stored(call):
        return False
    if sum(prod(array.shape) for array in call.arrays.values()) <= _MAX_AT_ONCE:
        return True
    training = read_training(engine, X, y, kwargs, options, jax.random.key(0))
    try:
        plan_fit(engine, fit, training, options, "")
    except ValueError:  # rows depend on one another, or have latent values
        return True
    return False


def _yields_batches(X: Any, name: str) -> bool:
    """Return whether the input is read as an iterable of batches."""
    return isinstance(X, ChunkedTable) or (open_table(X, name) is None and is_batches(X))


def _raise_passed_twice(name: str, param_input: str) -> Never:
    """Raise because an argument is also a field of the data set or the loader."""
    msg = (
        f"`{name}` must be given once; got it as an argument and in the data set passed as `{param_input}`. Leave one "
        "out."
    )
    raise TypeError(msg)


def _of_iterable(engine: KernelEngine, X: Any, kwargs: Mapping[str, Any], options: FitOptions) -> TrainingData:
    """Return the data of a fit to an iterable of batches, after checking the arguments."""
    aligned = [n for n, value in kwargs.items() if is_array(value) and np.ndim(value) and n not in engine.whole]
    if aligned:
        msg = (
            f"`{aligned[0]}` has rows, and so has each batch, and they cannot be matched. Add it to each batch, as a "
            "field of that name."
        )
        raise TypeError(msg)
    once = isinstance(X, Iterator)
    if once and options.epochs not in (None, 1):
        msg = (
            f"`epochs` must be 1 for an iterator, which can be read only once; got {options.epochs}. Pass an iterable "
            "that can be read repeatedly: a loader, a list, an object whose `__iter__` returns a new generator."
        )
        raise ValueError(msg)
    n_obs = options.total_size or _length(X)
    if n_obs is None and once:
        msg = (
            "`total_size` must be given with an iterator: the scale of a batch depends on the number of all rows, and "
            "counting them would exhaust the iterator. Pass `total_size=`, the number of rows of the whole data."
        )
        raise ValueError(msg)
    parameters = with_categories(X, engine.parameters)
    count = partial(count_rows, X, parameters) if n_obs is None else lambda: n_obs
    # The chunks of a table are chosen for reading, not for fitting.
    size = options.batch_size or (_default_batch_size if isinstance(X, ChunkedTable) else None)
    batches = IterableBatches(X, parameters, size, count)
    shuffled = is_shuffled(X)
    order = {"order": "of the iterable, shuffled" if shuffled else "of the iterable"}
    reordered = shuffled or (options.epochs != 1 and not isinstance(X, list | tuple))
    static = with_counts(kwargs, batches.categories, engine.signature)
    labels = batches.tables, batches.axes, batches.categories
    return TrainingData(batches, static, None, *labels, order, once=once, reordered=reordered)


def _length(X: Iterable[Any]) -> int | None:
    """Return the number of rows in an epoch, of a table or a loader (sampler or data set); None if not known."""
    if isinstance(X, ChunkedTable):
        return X.n_obs
    for source in (getattr(X, "sampler", None), getattr(X, "dataset", None)):
        if isinstance(source, Sized):
            return len(source)
    return None


def _default_batch_size(n_obs: int) -> int:
    """Return the default batch size: about a hundredth of the rows, as a power of two from 64 to 4,096."""
    return int(min(n_obs, 2 ** int(np.clip(np.round(np.log2(max(1, n_obs / 100))), 6, 12))))


def _order_of_key(words: tuple[int, ...], n_obs: int, epoch: int) -> np.ndarray:
    """Return the order of the rows in an epoch; computed on the host, where the rows are."""
    return np.random.Generator(np.random.PCG64([*words, epoch])).permutation(n_obs)


def _order_of_loader(loader: ArrayLoader, first: int, epoch: int) -> np.ndarray | None:
    """Return the order of the rows in an epoch of a loader."""
    return loader.order(first + epoch)


def _check_data(engine: KernelEngine, call: KernelArguments, spec: KernelSpec, training: TrainingData) -> None:
    """Check the indices of all rows, or of each batch of an iterable when it is read; ``call`` is the first batch."""
    if training.rows is not None:
        engine.check_data(replace(call, arrays={**call.arrays, **training.rows}, n_obs=training.n_obs), spec)
        return
    assert isinstance(training.batches, IterableBatches)

    def check(batch: Mapping[str, Any], first_row: int) -> None:
        n_obs = len(next(iter(batch.values())))
        engine.check_data(replace(call, arrays={**call.arrays, **batch}, n_obs=n_obs), spec, first_row)

    training.batches.check = check


def plan_fit(
    engine: KernelEngine, fit: Fit, training: TrainingData, options: FitOptions, key_text: str
) -> tuple[SVIFit, MinibatchPlan, KernelSpec]:
    """Return the fit, its plan and the structure of the kernel.

    Raises
    ------
    KernelValidationError
        If the kernel does not observe the output.
    ValueError
        If the loss of a batch is not an unbiased estimate of the loss of all rows.
    """
    batches, tables = training.batches, training.tables
    first, names = batches.first(), (engine.signature.param_input, engine.signature.param_output)
    extra = {name: array for name, array in first.items() if name not in names} | dict(training.static)
    engine.signature.check_call(extra)
    call = read_call({name: first.get(name) for name in names}, extra, whole=engine.whole)
    call = replace(call, tables=tables, columns=tables.get(names[0], ()), axes=training.axes)
    call = check_used(replace(call, categories=training.categories), engine.reader)
    spec = engine.read_fit(call)
    _check_data(engine, call, spec, training)
    steps, scale = -(-training.n_obs // batches.batch_size), training.n_obs / call.n_obs
    rounds = Epochs.of(1 if training.once else options.epochs, steps, scale)
    fit = fit_for_data(fit, call, spec, in_batches=True, cycle=rounds.cycle)
    assert isinstance(fit, SVIFit)
    scaled = batch_scale(engine, fit, call, spec, training.n_obs)
    if training.reordered and training.n_obs <= call.n_obs:
        check_batch(engine, fit, call, spec, training.n_obs)  # raises if the order of the rows matters
    fit.check_run(replace(call, n_obs=training.n_obs), spec)
    observe_support(batches, names[1], tables, training.categories)
    kinds = {name: f"{array.dtype}{list(array.shape[1:])}" for name, array in sorted(batches.templates.items())}
    described = {
        **training.order,
        "data size": str(training.n_obs),
        "fields": str(kinds),
        "batch_size": str(batches.batch_size),
        "rng_key": key_text,
        "versions": versions(),
    }
    if "of the iterable, shuffled" not in described["order"]:
        described["data"] = " ".join(fingerprint([array]) for _, array in sorted(first.items()))
    plan = MinibatchPlan(
        batches,
        call,
        scaled,
        rounds.total,
        progress=options.progress,
        epochs_per_round=rounds.per_round,
        on_epoch_end=options.on_epoch_end,
        checkpoint_dir=options.checkpoint_dir,
        described=described,
    )
    return fit, plan, spec
