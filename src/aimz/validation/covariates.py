"""Columns of a treatment and its covariates, and their moments, read on the host in blocks of rows."""

__all__ = ["ColumnRows", "Covariates", "read_covariates"]

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, override

import numpy as np

from aimz.data import BatchReader, KernelArguments
from aimz.engine import InputSource, KernelEngine
from aimz.kernel import Column, KernelSpec
from aimz.statistics import Moments, ResidualSums, inverse_products, treatment_left

_MAX_COLUMNS = 1024
"""Largest number of columns, with one for each category."""
_ROWS = 2**15
"""Number of rows that are read together."""


@dataclass(frozen=True)
class Covariates:
    """Columns of the treatment and of the covariates."""

    treatment: Column
    columns: tuple[Column, ...]
    """Columns of the covariates."""
    benchmarks: Mapping[str, tuple[int, ...]]
    """Numbers of the columns of each benchmark; 0 is the treatment, 1 the first covariate."""

    @property
    def all(self) -> tuple[Column, ...]:
        """The treatment, then the covariates."""
        return (self.treatment, *self.columns)

    @property
    def compared(self) -> list[int]:
        """Numbers of the columns of all benchmarks."""
        return sorted({i for group in self.benchmarks.values() for i in group})

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the covariates; a categorical one has a single name."""
        return tuple(dict.fromkeys(column.name for column in self.columns))


class ColumnRows:
    """Moments of the treatment, the covariates and the outcome over rows with an outcome."""

    def __init__(self, covariates: Covariates, call: KernelArguments, output: str) -> None:
        self._covariates, self._output = covariates, output
        needed = {column.argument for column in covariates.all} | {output}
        self._readers = {name: reader for name, reader in call.rows.items() if name in needed}
        self._n_obs, self._next, self._missing = call.n_obs, 0, (0, 0)
        self.binary = True
        """Whether all values of the treatment are 0 or 1."""
        self.moments = Moments(0, np.zeros(len(covariates.all) + 1), np.zeros((len(covariates.all) + 1,) * 2))

    @property
    def from_batches(self) -> bool:
        """Whether an iterable of batches supplies the rows."""
        return any(reader.from_batches for reader in self._readers.values())

    def observed(self, source: InputSource) -> InputSource:
        """Return a source of batches whose rows are added to the moments when they are read."""
        assert source.reader is not None
        return replace(source, reader=_ObservedBatches(source.reader, self))

    def read_all(self) -> None:
        """Add all rows, from arrays that can be read more than once."""
        for start in range(0, self._n_obs, _ROWS):
            stop = min(start + _ROWS, self._n_obs)
            self.add(start, {name: reader.read(start, stop) for name, reader in self._readers.items()})
            for reader in self._readers.values():
                reader.release(start, stop)

    def add_batch(self, start: int, batch: Mapping[str, np.ndarray]) -> None:
        """Add the rows of a batch from row ``start`` on."""
        stop = start + len(next(iter(batch.values())))
        self.add(start, {name: reader.read(start, stop, batch) for name, reader in self._readers.items()})

    def first(self, source: InputSource) -> np.ndarray:
        """Return the columns of the first rows, ``(n_rows, n_columns)``."""
        batch = None if source.reader is None else source.reader.first
        stop = min(_ROWS, self._n_obs) if not batch else len(next(iter(batch.values())))
        rows = {name: reader.read(0, stop, batch) for name, reader in self._readers.items()}
        return self._matrix(rows)

    def add(self, start: int, rows: Mapping[str, np.ndarray]) -> None:
        """Add rows from row ``start`` on, except those that were added before."""
        matrix, outcome = self._matrix(rows), np.asarray(rows[self._output], np.float64)
        begin = max(self._next - start, 0)
        self._next = max(self._next, start + len(outcome))
        matrix, outcome = matrix[begin:], outcome[begin:]
        missing = np.isnan(matrix).any(axis=1)
        if missing.any():
            n, first = self._missing
            self._missing = n + int(missing.sum()), first if n else start + begin + int(missing.argmax())
        self.binary = self.binary and bool(np.isin(matrix[:, 0], (0, 1)).all())
        both = np.column_stack([matrix, outcome])[~np.isnan(outcome)]
        self.moments = self.moments.merged(Moments.of(both)) if self.moments.n else Moments.of(both)

    def _matrix(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.column_stack([np.asarray(column.read(rows), np.float64) for column in self._covariates.all])

    def weights(self) -> np.ndarray:
        """Return the combinations of columns whose sums with a residual are its coefficients, of benchmarks."""
        found: np.ndarray = inverse_products(self.moments.products[:-1, :-1])[0][:, self._covariates.compared]
        return found * self.moments.n

    def residual_sums(self, products: np.ndarray, centers: np.ndarray) -> ResidualSums:
        """Return the sums of a pass, ``(n_draws, 3 + n_combined)``, with the columns centered at ``centers``."""
        residual, compared, slopes = products[:, 1], self._covariates.compared, products[:, 3:] / self.moments.n
        if self.from_batches and compared:
            shift = centers - self.moments.mean[:-1]
            inverse = inverse_products(self.moments.products[:-1, :-1])[0][:, compared]
            slopes = (products[:, 3:] + residual[:, None] * shift) @ inverse
        return ResidualSums(
            round(float(products[0, 0])), residual, products[:, 2], dict(zip(compared, slopes.T, strict=True))
        )

    def check(self) -> None:
        """Raise if rows have NaN in the treatment or a covariate, or if these leave nothing of the treatment."""
        n, first = self._missing
        if n:
            msg = (
                f"{n:,} of {self._next:,} rows have NaN in the treatment or a covariate (row {first:,} is the first), "
                "so their share of a hidden cause is not known. Leave these rows out, or the column with "
                "`covariates=[...]`."
            )
            raise ValueError(msg)
        treatment_left(self.moments)


class _ObservedBatches(BatchReader):
    """Reader of batches that adds the rows it reads to moments."""

    def __init__(self, reader: BatchReader, rows: ColumnRows) -> None:
        vars(self).update(vars(reader))
        self._rows = rows

    @override
    def read(self, start: int, stop: int) -> dict[str, np.ndarray]:
        batch = super().read(start, stop)
        if batch:
            self._rows.add_batch(start, batch)
        return batch


def read_covariates(
    engine: KernelEngine,
    spec: KernelSpec,
    call: KernelArguments,
    *,
    treatment: Any,
    covariates: Iterable[str] | None,
    benchmark: Any,
    lookups: Mapping[str, Mapping[int | None, int]],
) -> Covariates:
    """Return the columns of a treatment and of its covariates.

    Parameters
    ----------
    engine, spec, call
        The kernel, its structure and its arguments with the output.
    treatment
        Name of a column, an argument, or a site with data.
    covariates
        Names of the covariates; by default all columns and arguments that the output depends on, and that do not
        descend from the treatment.
    benchmark
        Names of covariates to compare with, or tuples of names to compare with together.
    lookups
        Largest index of each column of an argument that the kernel uses as an index.

    Raises
    ------
    ValueError
        If a name is unknown, is the treatment itself, or descends from it.
    """
    output = spec.param_output
    known = {name: tuple(found) for name, found in _known(engine, call, lookups, output).items()}
    own = _treatment_column(treatment, spec, known, call, output)
    below = spec.descendants({str(treatment), own.argument})
    _check_mediators(spec, below, call, output, treatment)
    used = _used(spec, output)
    usable = {
        name: columns
        for name, columns in known.items()
        if (columns[0].argument, columns[0].number) != (own.argument, own.number) and name != treatment
    }
    chosen = _names(covariates, "covariates") if covariates is not None else None
    wanted = _benchmarks(benchmark)
    for name in (*(chosen or ()), *(one for names in wanted.values() for one in names)):
        _check_name(name, usable, spec, below, treatment, own)
    kept = chosen if chosen is not None else [name for name, found in usable.items() if found[0].argument in used]
    columns = [
        column
        for name in dict.fromkeys(one for name in kept for one in _expanded(name, usable))
        for column in usable[name]
    ]
    if len(columns) > _MAX_COLUMNS:
        msg = (
            f"Sensitivity compares a hidden cause with at most {_MAX_COLUMNS:,} columns, with one for each category; "
            f"got {len(columns):,}. Name the covariates to use, as `covariates=[...]`."
        )
        raise ValueError(msg)
    numbers: dict[str, list[int]] = {}
    for i, column in enumerate(columns, 1):
        numbers.setdefault(column.name, []).append(i)
    groups = {}
    for label, names in wanted.items():
        parts = [one for name in names for one in _expanded(name, usable)]
        left = [one for one in parts if one not in numbers]
        if left:
            msg = (
                f"`benchmark` must be a covariate that the outcome is adjusted for; got {left[0]!r}, which the "
                f"{'list `covariates` leaves out' if chosen is not None else 'outcome does not depend on'}. "
                f"Covariates: {', '.join(numbers) or 'none'}."
            )
            raise ValueError(msg)
        groups[label] = tuple(i for one in parts for i in numbers[one])
    return Covariates(own, tuple(columns), groups)


def _known(
    engine: KernelEngine, call: KernelArguments, lookups: Mapping[str, Mapping[int | None, int]], output: str
) -> dict[str, list[Column]]:
    """Return the columns of each name that rows have; a categorical one has a column for each category but one."""
    found: dict[str, list[Column]] = {}
    for argument, reader in call.rows.items():
        if argument == output or reader.ndim > 2 or np.dtype(reader.dtype).kind not in "biuf":
            continue
        width = None if reader.ndim == 1 else reader.shape[1]
        names: Sequence[Any] = [argument]
        if width is not None:
            names = call.tables.get(argument) or (call.columns if argument == engine.signature.param_input else ())
            names = names or [f"{argument}[{i}]" for i in range(width)]
        for i, name in enumerate(names):
            number = None if width is None else i
            last = len(call.categories[argument]) - 1 if argument in call.categories else None
            last = lookups.get(argument, {}).get(number) if last is None else last
            levels: Sequence[int | None] = [None] if last is None else range(1, last + 1)
            found[str(name)] = [Column(str(name), argument, number, level) for level in levels]
            found[str(name)] = found[str(name)] or [Column(str(name), argument, number)]
    return found


def _expanded(name: str, usable: Mapping[str, Sequence[Column]]) -> list[str]:
    """Return a name, or the names of the columns of an argument."""
    return [name] if name in usable else [one for one, found in usable.items() if found[0].argument == name]


def _treatment_column(
    treatment: Any, spec: KernelSpec, known: Mapping[str, Sequence[Column]], call: KernelArguments, output: str
) -> Column:
    """Return the column of the treatment."""
    site = spec.get(treatment) if isinstance(treatment, str) else None
    data = sorted(site.data) if site is not None and treatment != output else []
    parts = known.get(treatment) or known.get(data[0] if data else "") or ()
    alone = [found for found in known.values() if found[0].argument == treatment]
    parts = parts or (alone[0] if len(alone) == 1 else ())
    if len(parts) == 1 and parts[0].level is None and parts[0].argument not in call.categories:
        return parts[0]
    if parts:
        what = f"a treatment of categories, {treatment!r}"
        how = "Pass one of 0 and 1 for the two categories to compare"
    elif treatment == output:
        what, how = f"the outcome {output!r} itself", "Pass a cause of it"
    else:
        what = f"{treatment!r}" + (", a site without data" if site is not None else "")
        how = "Pass one of them"
    msg = (
        f"`treatment` must name a column, an argument or a site with data, with one number for each row; got {what}. "
        f"{how}. Known: {', '.join(known) or 'none'}."
    )
    raise ValueError(msg)


def _used(spec: KernelSpec, output: str) -> set[str]:
    """Return the arguments that the output depends on, directly or through other sites."""
    above = [spec[name] for name in spec.ancestors([output, f"{output}_observed"])]
    return {name for site in above for name in (*site.arguments, *(site.data if site.name != output else ()))}


def _check_mediators(
    spec: KernelSpec, below: frozenset[str], call: KernelArguments, output: str, treatment: str
) -> None:
    """Raise if a site between treatment and output has data, which the outcome would be compared given."""
    between = (spec.ancestors([output]) & below) - {output, f"{output}_observed"}
    held = [name for name in sorted(between) if spec[name].data & call.rows.keys()]
    if held:
        msg = (
            f"Sensitivity is about the whole effect of `{treatment}`, given the covariates; but `{held[0]}` descends "
            f"from it and is passed as data, so the residual of `{output}` would be what `{held[0]}` leaves. Use a "
            f"kernel in which `{output}` does not depend on `{held[0]}`, fitted to the same rows."
        )
        raise ValueError(msg)


def _names(given: Any, option: str) -> list[str]:
    """Return a list of names."""
    names = [given] if isinstance(given, str) else list(given)
    if not all(isinstance(name, str) for name in names):
        msg = f"`{option}` must be names of columns or arguments; got {given!r}. Pass a list, such as ['demand']."
        raise TypeError(msg)
    return names


def _benchmarks(given: Any) -> dict[str, list[str]]:
    """Return the names of the columns of each benchmark."""
    found = {}
    for one in [given] if isinstance(given, str) else list(given):
        names = _names(one, "benchmark")
        found[" + ".join(names)] = names
    return found


def _check_name(
    name: str,
    usable: Mapping[str, Sequence[Column]],
    spec: KernelSpec,
    below: frozenset[str],
    treatment: str,
    own: Column,
) -> None:
    """Raise if a name is no covariate."""
    columns = [one for part in _expanded(name, usable) for one in usable[part]]
    holders = {name, *(site.name for site in spec.sites for one in columns if one.argument in site.data)}
    if holders & below:
        msg = (
            f"A benchmark or covariate must not be an effect of the treatment; got {name!r}, which descends from "
            f"`{treatment}` in the kernel, so it measures part of the effect. Name a cause of both."
        )
        raise ValueError(msg)
    if columns:
        return
    what = "the treatment itself" if name in (treatment, own.name) else "neither"
    msg = (
        f"A benchmark or covariate must be a column or an argument with one number for each row; got {name!r}, "
        f"{what}. Known: {', '.join(usable) or 'none'}."
    )
    raise ValueError(msg)
