"""The scenarios whose contrasts are the direct and indirect effects of a treatment."""

__all__ = ["Decomposition", "read_decomposition"]

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from aimz.data import KernelArguments
from aimz.engine.kernel_engine import KernelEngine
from aimz.kernel import AsIn, KernelSpec, check_mediators, induced_confounders

_REFERENCE, _TREATED, _CROSSED = "reference", "treated", "crossed"
_LAWS = "mediators of the reference", "mediators of the treated"
"""Names of the scenarios that mediators are drawn from."""
_HELD = "reference, mediators held", "treated, mediators held"


@dataclass(frozen=True)
class Decomposition:
    """Scenarios, and the effect along each path as a sum of them."""

    scenarios: Mapping[str, Mapping[str, Any]]
    """Name of each scenario to its intervention."""
    paths: Mapping[str, Mapping[str, int]]
    """Path to the sign of each scenario in its effect."""
    through: tuple[str, ...]
    reference: str = _REFERENCE


def read_decomposition(
    treatment: Any, through: Any, kind: Any, call: KernelArguments, engine: KernelEngine
) -> Decomposition:
    """Return the scenarios of a decomposition.

    Raises
    ------
    TypeError, ValueError
        If arguments have another form, or the effects cannot be identified in the graph of the kernel.
    """
    low, high = _read_treatment(treatment)
    mediators = _read_mediators(through, kind)
    names, spec, outcome = [*map(str, low)], engine.read_spec(call), engine.signature.param_output
    if any(name in call.columns and name not in spec for name in names):
        spec = _with_columns(spec, call, engine)
    check_mediators(spec, names, mediators, outcome)
    if kind == "controlled":
        held = dict(through)
        return Decomposition(
            {_REFERENCE: low, _TREATED: high, _HELD[0]: low | held, _HELD[1]: high | held},
            {
                "total": {_TREATED: 1, _REFERENCE: -1},
                "direct": {_HELD[1]: 1, _HELD[0]: -1},
                "eliminated": {_TREATED: 1, _REFERENCE: -1, _HELD[1]: -1, _HELD[0]: 1},
            },
            mediators,
        )
    paths = {
        "total": {_TREATED: 1, _REFERENCE: -1},
        "direct": {_CROSSED: 1, _REFERENCE: -1},
        "indirect": {_TREATED: 1, _CROSSED: -1},
    }
    if kind == "natural":
        _check_identified(spec, names, mediators, outcome)
        crossed = high | dict.fromkeys(mediators, AsIn(_REFERENCE))
        return Decomposition({_REFERENCE: low, _CROSSED: crossed, _TREATED: high}, paths, mediators)
    drawn = [dict.fromkeys(mediators, AsIn(_LAWS[i], redrawn=True)) for i in (0, 1)]
    scenarios = {
        _REFERENCE: low | drawn[0],
        _CROSSED: high | drawn[0],
        _TREATED: high | drawn[1],
        _LAWS[0]: low,
        _LAWS[1]: high,
    }
    return Decomposition(scenarios, paths, mediators)


def _with_columns(spec: KernelSpec, call: KernelArguments, engine: KernelEngine) -> KernelSpec:
    """Return the structure of the kernel with the columns of the input in place of the input."""
    reaching, param_input = engine.reader.columns_of_sites(call.arrays, call.static), spec.param_input
    columns = {site: {call.columns[i] for i in numbers} for site, numbers in reaching.items()}
    sites = [
        replace(site, parents=site.parents - {param_input} | columns.get(site.name, set()))
        if param_input in site.parents
        else site
        for site in spec.sites
    ]
    return replace(spec, sites=tuple(sites))


def _read_treatment(treatment: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the interventions of the reference and of the treatment."""
    pairs = treatment.values() if isinstance(treatment, Mapping) else ()
    if not pairs or not all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs):
        msg = (
            f"`treatment` must map a name to two values, the reference first; got {treatment!r}. Write "
            "`treatment={'campaign': (0, 1)}`."
        )
        raise TypeError(msg)
    return {n: pair[0] for n, pair in treatment.items()}, {n: pair[1] for n, pair in treatment.items()}


def _read_mediators(through: Any, kind: Any) -> tuple[str, ...]:
    """Return the names of the mediators."""
    if kind not in ("natural", "interventional", "controlled"):
        msg = f"`kind` must be 'natural', 'interventional' or 'controlled'; got {kind!r}. Omit it for natural effects."
        raise ValueError(msg)
    names = (through,) if isinstance(through, str) else tuple(through) if isinstance(through, Iterable) else ()
    if not names or isinstance(through, Mapping) != (kind == "controlled"):
        form = (
            "map each mediator to the value that it is held at, `through={'visits': 2.0}`"
            if kind == "controlled"
            else "name one or more mediators, `through='visits'`; values belong to `kind='controlled'`"
        )
        msg = f"`through` must {form}; got {through!r} with `kind={kind!r}`."
        raise TypeError(msg)
    return names


def _check_identified(spec: KernelSpec, treatment: list[str], through: tuple[str, ...], outcome: str) -> None:
    """Raise if a random site that descends from the treatment confounds mediators and outcome."""
    found = induced_confounders(spec, treatment, through, outcome)
    if found:
        msg = (
            f"Natural effects through {', '.join(f'`{name}`' for name in through)} cannot be identified: "
            f"{', '.join(f'`{name}`' for name in found)} descends from the treatment, and affects a mediator "
            f"and `{outcome}` on separate paths. Use `kind='interventional'`, or name it as a mediator, too: "
            f"`through={[*through, *found]}`."
        )
        raise ValueError(msg)
