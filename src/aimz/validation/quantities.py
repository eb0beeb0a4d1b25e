"""Quantities of a posterior whose recovery is tested: effects and parameters."""

__all__ = ["EffectQuestion", "effect_draws", "parameter_draws", "read_effect", "read_parameters"]

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from aimz.data import fingerprint
from aimz.kernel import KernelSpec
from aimz.methods import EffectResult

_MAX_ELEMENTS = 20
"""Number of elements of a vector that are tested, the first ones."""
_MAX_EFFECTS = 100


@dataclass(frozen=True)
class EffectQuestion:
    """An effect, as :meth:`ImpactModel.effect` or :meth:`ImpactModel.compare_scenarios` computes it."""

    effect: Any
    """Name of a treatment, an intervention, or scenarios."""
    options: Mapping[str, Any]
    """Options of the method, such as ``baseline`` and ``by``."""
    by_scenarios: bool
    """Whether ``effect`` are scenarios."""

    @property
    def null(self) -> float:
        """Value of the contrast if there is no effect."""
        return 1.0 if self.options.get("contrast") == "ratio" else 0.0

    def draws(self, model: Any, X: Any, arguments: Mapping[str, Any], key: jax.Array) -> dict[str, np.ndarray]:
        """Return the draws of each effect of a model on rows, by name."""
        common = {"rng_key": key, "progress": False, "client": False}
        if self.by_scenarios:
            tree = model.compare_scenarios(self.effect, X=X, args=arguments, **self.options, **common)
        else:
            tree = model.effect(self.effect, X=X, args=arguments, **self.options, **common).tree
        found = effect_draws(tree)
        if len(found) > _MAX_EFFECTS:
            msg = (
                f"At most {_MAX_EFFECTS} effects can be tested together; got {len(found):,}. Use coarser groups in "
                "`by`, fewer scenarios, or leave `by` out."
            )
            raise ValueError(msg)
        return found

    def describe(self) -> str:
        """Return the question as a text that is equal for equal questions, in any process."""
        return f"{_text(self.effect)} {_text(self.options)}"


def effect_draws(tree: Any) -> dict[str, np.ndarray]:
    """Return the draws of each effect in the tree of a comparison, by name."""
    found: dict[str, np.ndarray] = {}
    effects = tree["effect"].to_dataset()
    for site, array in effects.data_vars.items():
        flat = array.stack(place=[dim for dim in array.dims if dim not in ("chain", "draw")])
        values = flat.transpose("chain", "draw", "place").values.astype(np.float64)
        for i, place in enumerate(flat["place"].values.tolist()):
            labels = [str(label) if dim == "scenario" else f"{dim} {label}" for dim, label in _items(flat, place)]
            name = f"effect[{', '.join(labels)}]" if len(effects) == 1 else f"effect on {site}[{', '.join(labels)}]"
            found[name] = values[:, :, i].ravel()
    return found


def _items(flat: Any, place: Any) -> list[tuple[str, Any]]:
    """Return pairs of dimension and label of a place."""
    return list(zip(flat.indexes["place"].names, place, strict=True))


def _text(value: Any) -> str:
    """Return a value as text, without the addresses of objects."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_text(value[key])}" for key in value) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_text, value)) + "]"
    if callable(value):
        code = getattr(value, "__code__", None)
        inner = [] if getattr(value, "__closure__", None) is None else [c.cell_contents for c in value.__closure__]
        body = (
            "" if code is None else f"{code.co_code.hex()} {[c for c in code.co_consts if not hasattr(c, 'co_code')]}"
        )
        return f"{getattr(value, '__qualname__', type(value).__name__)} {body} {_text(inner)}"
    array = np.asarray(value)
    return fingerprint([array]) if array.ndim and array.dtype.kind in "biuf" else repr(array.tolist())


def read_effect(effect: Any, options: Mapping[str, Any]) -> EffectQuestion | None:
    """Return the effect that is tested; None for parameters only.

    Raises
    ------
    TypeError, ValueError
        If it is neither a treatment nor an intervention nor scenarios with their baseline.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if effect is None:
        if given:
            msg = f"`{next(iter(given))}` belongs to an effect; got no `effect`. Pass the treatment or the scenarios."
            raise TypeError(msg)
        return None
    if isinstance(effect, EffectResult) or not isinstance(effect, str | Mapping) or not effect:
        msg = (
            "`effect` must be the question, to which each refit has an answer of its own: the name of a treatment, an "
            f"intervention, or scenarios; got {type(effect).__name__}. Pass what you passed to `effect` or "
            "`compare_scenarios`, such as effect='campaign'."
        )
        raise TypeError(msg)
    by_scenarios = isinstance(effect, Mapping) and all(isinstance(value, Mapping) for value in effect.values())
    baseline = options.get("baseline")
    if by_scenarios and (isinstance(baseline, Mapping) or baseline not in effect):
        msg = (
            f"`baseline` must be the name of one of the scenarios, {', '.join(map(repr, effect))}; got {baseline!r}. "
            "Pass the scenario that the others are compared with."
        )
        raise ValueError(msg)
    if by_scenarios and "values" in given:
        msg = f"`values` belong to the name of a treatment; got {given['values']!r} with scenarios. Leave them out."
        raise TypeError(msg)
    return EffectQuestion(effect, given, by_scenarios)


def read_parameters(spec: KernelSpec, parameters: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return the latent sites that are tested: by default all without a row axis.

    Raises
    ------
    ValueError
        If a name is no such site.
    """
    known = tuple(name for name in spec.latent_sites if name not in spec.local_sites)
    if parameters is None:
        return known
    chosen = (parameters,) if isinstance(parameters, str) else tuple(parameters)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        msg = (
            f"`parameters` must name latent sites without a row axis; got {unknown[0]!r}. Choose from "
            f"{', '.join(known) or 'none'}."
        )
        raise ValueError(msg)
    return chosen


def parameter_draws(draws: Mapping[str, Any], parameters: Iterable[str]) -> dict[str, np.ndarray]:
    """Return the draws of each parameter; of a vector, of its first elements."""
    found: dict[str, np.ndarray] = {}
    for name in parameters:
        if name not in draws:
            continue
        array = np.asarray(draws[name], np.float64)
        if array.ndim == 1:
            found[name] = array
            continue
        for place in list(np.ndindex(array.shape[1:]))[:_MAX_ELEMENTS]:
            found[f"{name}[{', '.join(map(str, place))}]"] = array[(slice(None), *place)]
    return found
