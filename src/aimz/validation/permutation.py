"""Permutations of a treatment within groups of rows, for placebo runs."""

__all__ = ["Permutation", "read_permutation"]

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from aimz.kernel import KernelSpec, Role
from aimz.validation.fitted_data import FitRows


@dataclass(frozen=True)
class Permutation:
    """Arguments or columns whose rows are permuted together."""

    names: tuple[str, ...]
    groups: np.ndarray | None
    """Number of the group of each row; None for one group."""
    n_obs: int

    def order(self, seed: Iterable[int]) -> np.ndarray:
        """Return the row from which each row receives its values."""
        rng = np.random.default_rng(list(seed))
        if self.groups is None:
            return rng.permutation(self.n_obs)
        order = np.arange(self.n_obs)
        for group in np.unique(self.groups):
            rows = np.flatnonzero(self.groups == group)
            order[rows] = rng.permutation(rows)
        return order


def read_permutation(permute: Any, within: Any, rows: FitRows, spec: KernelSpec, n_obs: int) -> Permutation:
    """Return the permutation of a treatment.

    Raises
    ------
    TypeError, ValueError
        If a name is no data with one value for each row, if its distribution depends on other data, if a permutation
        changes nothing, or if other data are computed from the treatment.
    """
    names = (permute,) if isinstance(permute, str) else tuple(permute or ())
    if not names:
        msg = "A placebo run permutes the treatment; got no `permute`. Pass the name of its argument or column."
        raise TypeError(msg)
    columns = {name: _read_column(name, rows, spec, n_obs) for name in names}
    groups = None
    if within is not None:
        labels = rows.get(within) if isinstance(within, str) else np.asarray(within)
        if labels is None or labels.shape != (n_obs,):
            got = f"{within!r}" if labels is None else f"an array of shape {labels.shape}"
            msg = (
                f"`within` must have one label for each of the {n_obs:,} rows, or be the name of an argument or a "
                f"column; got {got}. Known: {', '.join((*rows.arguments, *rows.columns)) or 'none'}."
            )
            raise ValueError(msg)
        groups = np.unique(labels.astype(str), return_inverse=True)[1]
    first = _codes(columns[names[0]])
    within_group = np.zeros(n_obs, int) if groups is None else groups
    if not any(len(np.unique(first[within_group == g])) > 1 for g in np.unique(within_group)):
        where = " within each group" if groups is not None else ""
        msg = (
            f"`{names[0]}` must have different values to permute; it is constant{where}. Permute over larger groups, "
            "or leave `within` out."
        )
        raise ValueError(msg)
    _check_derived(names, first, rows, n_obs)
    return Permutation(names, groups, n_obs)


def _read_column(name: str, rows: FitRows, spec: KernelSpec, n_obs: int) -> np.ndarray:
    """Return the values of an argument or a column that is permuted."""
    site = next((site for site in spec.sites if name in site.data and site.role is Role.OBSERVED), None)
    causes = sorted(set() if site is None else site.parents - {name})
    if site is not None and causes:
        msg = (
            f"`{name}` is observed at the site `{site.name}`, whose distribution depends on "
            f"{', '.join(f'`{cause}`' for cause in causes)}; a permutation breaks this dependence, so the kernel would "
            "be fitted to data that it cannot have generated. Permute an argument that has no site, or use "
            "kind='recovery', which draws the site from its distribution."
        )
        raise ValueError(msg)
    values = rows.get(name)
    if values is None:
        what = f"the {spec[name].role} site `{name}`" if name in spec else f"{name!r}"
        msg = (
            f"`permute` must name an argument or a column with one value for each row; got {what}. Choose from "
            f"{', '.join((*rows.arguments, *rows.columns)) or 'none'}."
        )
        raise ValueError(msg)
    if values.shape[:1] != (n_obs,):
        msg = (
            f"`permute` must name an argument with one value for each of the {n_obs:,} rows; `{name}` has shape "
            f"{values.shape}. Pass the treatment of each row as an argument."
        )
        raise ValueError(msg)
    return values


def _codes(values: np.ndarray) -> np.ndarray:
    """Return numbers that are equal for rows with equal values."""
    flat = values.reshape(len(values), -1)
    kind = flat if flat.dtype.kind in "biuf" else flat.astype(str)
    return np.unique(kind, axis=0, return_inverse=True)[1].ravel()


def _check_derived(names: tuple[str, ...], treatment: np.ndarray, rows: FitRows, n_obs: int) -> None:
    """Raise if an argument or a column changes with the treatment only, as a score or an interaction of it does."""
    others = [name for name in (*rows.arguments, *rows.columns) if name not in names]
    known = {name: rows.get(name) for name in others}
    found = [
        name
        for name, values in known.items()
        if values is not None and values.shape == (n_obs,) and _is_derived(values, treatment)
    ]
    if found:
        together = [*names, *found]
        msg = (
            f"`permute` must name all data that are computed from the treatment; {', '.join(f'`{n}`' for n in found)} "
            f"would keep the value of the actual `{names[0]}`, so that a placebo run is no placebo. Pass "
            f"permute={together!r}, which moves them together, or compute them in the kernel."
        )
        raise ValueError(msg)


def _is_derived(values: np.ndarray, treatment: np.ndarray) -> bool:
    """Return whether values are a function of the treatment, or are 0 exactly where it has its lowest value."""
    codes = _codes(values)
    n_values, n_levels = len(np.unique(codes)), len(np.unique(treatment))
    if n_values == 1:
        return False
    pairs = len(np.unique(np.stack([codes, treatment], axis=1), axis=0))
    if pairs == n_levels and n_levels < len(values):
        return True
    if values.dtype.kind not in "biuf":
        return False
    zero, lowest = values == 0, treatment == 0
    return bool(zero[lowest].all() and not zero[~lowest].any())
