"""Whether an inference has found the posterior: what the chains say, or the loss and the guide.

The statistics are ArviZ's; here is decided what they are computed on, and what is said of them.
"""

__all__ = ["check_chains", "check_variational", "data_of_fit"]

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from aimz.data import KernelArguments, Posterior, differences
from aimz.errors import NotFittedError
from aimz.inference.fit_data import FitData
from aimz.inference.importance_ratios import log_ratios, ratio_obstacle
from aimz.inference.svi import SVIFit

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

_RHAT = 1.01
_ESS = 100
"""Effective draws wanted for each chain (Vehtari et al. 2021)."""
_TAILS = (0.05, 0.95)
_LOOK = 1000
"""Most values of a site that are looked at: ArviZ takes a few milliseconds for each."""
_STEPS = 100
_ERRORS = 2
"""Standard errors that a trend has to exceed: of fits that have settled, one in twenty does, by little."""
_NATS = 0.1
"""A trend smaller than this is immaterial: what it costs to have one mean wrong by 0.45 of its standard deviation."""
_HIDING_NATS, _HIDING_SHARE = 1.0, 0.05
"""An error larger than both, in nats and in shares of all progress so far, hides whatever trend there may be."""
_DRAWS = 1000
"""Draws of the guide."""
_ALIKE = 0.01
"""Log importance ratios that differ by less are the same: the weights then agree to one per cent."""
_COARSE = 0.25
"""Distance of neighbouring floating-point numbers, in nats, from which rounding would be taken for a tail."""


class Line(NamedTuple):
    """One line of the table."""

    check: str
    value: float
    threshold: str
    site: str
    verdict: str


def _unchecked(check: str, threshold: str, why: str) -> Line:
    return Line(check, np.nan, threshold, "", f"not checked: {why}")


def _table(lines: Iterable[Line]) -> "pd.DataFrame":
    import pandas as pd

    return pd.DataFrame(list(lines), columns=list(Line._fields)).set_index("check").rename_axis(index=None)


def _arviz() -> Any:
    """Return ArviZ's statistics of plain arrays.

    Raises
    ------
    ImportError
        If ArviZ is not installed.
    """
    from aimz.output import import_arviz_stats

    return import_arviz_stats("diagnose").base.array_stats


# -------------------------------------------------------------------------------------------------- chains


class _Moving(NamedTuple):
    """The values of all sites that are looked at, with what was left out."""

    draws: np.ndarray
    """Array of shape ``(n_values, n_chains, n_draws / n_chains)``."""
    places: list[tuple[str, int]]
    """Site and number of each value."""
    constant: list[str]
    not_finite: list[str]
    all_of_them: bool
    """Whether no site has more values than are looked at."""


def check_chains(posterior: Posterior, dataset: "xr.Dataset") -> "pd.DataFrame":
    """Return the table of draws that chains have made; ``dataset`` holds the same draws, labelled."""
    stats, moving, chains = _arviz(), _moving(dataset), posterior.num_chains
    enough = f">= {_ESS * chains}"
    checks: list[tuple[str, str, Callable[[np.ndarray], np.ndarray]]] = [
        ("R-hat", f"< {_RHAT}", stats.rhat),
        ("bulk ESS", enough, lambda draws: stats.ess(draws, method="bulk")),
        ("tail ESS", enough, lambda draws: stats.ess(draws, method="tail", prob=_TAILS)),
    ]
    lines = []
    for check, threshold, function in checks:
        if check == "R-hat" and chains < 2:
            lines.append(_unchecked(check, threshold, "one chain, run 4"))
        elif moving.not_finite:
            site = moving.not_finite[0]
            lines.append(Line(check, np.nan, threshold, site, "bad: draws are not finite"))
        elif moving.draws.shape[2] < 4:
            lines.append(_unchecked(check, threshold, "fewer than 4 draws"))
        elif not moving.places:
            lines.append(Line(check, np.nan, threshold, "", "bad: the sampler never moves"))
        else:
            lines.append(_worst(check, threshold, moving, function, dataset, chains))
    return _table([*lines, _divergences(posterior)])


def _moving(dataset: "xr.Dataset") -> _Moving:
    """Return the draws without values that never change, of which ArviZ knows neither R-hat nor ESS."""
    parts, places, constant, not_finite, whole = [], [], [], [], True
    for name, array in dataset.data_vars.items():
        draws = np.asarray(array.values, np.int8 if array.dtype == bool else None).reshape(*array.shape[:2], -1)
        n_values = draws.shape[2]
        looked = np.unique(np.linspace(0, n_values - 1, min(n_values, _LOOK)).astype(int))
        whole &= len(looked) == n_values
        draws = np.moveaxis(draws[:, :, looked], 2, 0)
        if not np.isfinite(draws).all():
            not_finite.append(str(name))
        moves = draws.max((1, 2)) != draws.min((1, 2))
        if n_values and not moves.any():
            constant.append(str(name))
        parts.append(draws[moves])
        places += [(str(name), int(number)) for number in looked[moves]]
    return _Moving(np.concatenate(parts), places, constant, not_finite, whole)


def _worst(
    check: str,
    threshold: str,
    moving: _Moving,
    function: Callable[[np.ndarray], np.ndarray],
    dataset: "xr.Dataset",
    chains: int,
) -> Line:
    """Return the line of the value that fares worst."""
    with np.errstate(all="ignore"):  # chains that are stuck divide by a variance of zero
        values = np.atleast_1d(function(moving.draws))
    # A statistic that is not a number counts as the worst.
    worst = int(np.argmax(values) if check == "R-hat" else np.argmin(values))
    value = float(values[worst])
    if np.isnan(value):
        verdict = "not checked: no value found"
    elif check == "R-hat":
        verdict = "ok" if value < _RHAT else "bad: chains differ; run longer"
    else:
        verdict = "ok" if value >= _ESS * chains else "bad: too few; run longer"
    if verdict == "ok" and moving.constant:
        verdict = f"ok, but `{moving.constant[0]}` never moves"
    elif verdict == "ok" and not moving.all_of_them:
        verdict = f"ok, of {_LOOK:,} values a site"
    return Line(check, value, threshold, _label(dataset, *moving.places[worst]), verdict)


def _label(dataset: "xr.Dataset", name: str, number: int) -> str:
    """Return a site's name with the labels of one of its values, as in ``beta[age]``."""
    array = dataset[name]
    place = np.unravel_index(number, array.shape[2:])
    labels = [str(array[dim].values[i]) for dim, i in zip(array.dims[2:], place, strict=True)]
    return f"{name}[{', '.join(labels)}]" if labels else name


def _divergences(posterior: Posterior) -> Line:
    found = (posterior.sample_stats or {}).get("diverging")
    if found is None:
        return _unchecked("divergences", "0", "not recorded")
    number = int(np.sum(found))
    verdict = "bad: reparametrise the kernel" if number else "ok"
    return Line("divergences", float(number), "0", "", verdict)


# ---------------------------------------------------------------------------------------------- variational


def check_variational(fit: SVIFit, data: KernelArguments | str, key: jax.Array) -> "pd.DataFrame":
    """Return the table of a fit by SVI; ``data`` are those of the fit, or say why they are not at hand.

    Raises
    ------
    NotFittedError
        If SVI has not run.
    """
    if fit.vi_result is None:
        msg = (
            "`diagnose` looks at what SVI has found, and it has not run here; draws that were set say nothing of it. "
            "Call `fit_on_batch(X, y)`, or set `vi_result` after a loop of your own."
        )
        raise NotFittedError(msg)
    losses = fit.vi_result.losses
    trend = _trend(np.zeros(0) if losses is None else np.asarray(losses, np.float64).ravel())
    return _table([trend, _pareto(fit, data, key, settled=trend.verdict == "ok")])


def data_of_fit(given: KernelArguments | None, observed: FitData | None, rows: int | None) -> KernelArguments | str:
    """Return the data that the guide was fitted to, or say why they are not at hand.

    Parameters
    ----------
    given
        What the call was given.
    observed
        What is remembered of the fit.
    rows
        For how many rows the posterior has local latents, if it has any.

    Raises
    ------
    ValueError
        If what was given is known to be something else.
    """
    held = None if observed is None else observed.call
    if given is None:
        if held is None or observed is None:
            return "pass X and y of the fit"
        changed = sorted(observed.changed(held) & set(observed.digests))  # the output has none
        return f"`{changed[0]}` was changed in place" if changed else held
    static = None if observed is None else observed.other_static(given)
    if static is not None:
        msg = (
            f"`{static}` is not what it was in the fit, and the guide stands for the posterior of that fit alone. Call "
            "`diagnose` with what the model was fitted with."
        )
        raise ValueError(msg)
    if held is not None:
        here, there = (_fingerprints(call) for call in (given, held))
        other = next(iter(differences(here, there)), None)
        if other is not None:
            msg = (
                f"`{other}` is not that of the fit, and the guide stands for the posterior of the data of the fit "
                "alone. Call `diagnose()`: the model still has them."
            )
            raise ValueError(msg)
    elif rows is not None and rows != given.n_obs:
        msg = (
            f"The data of the fit must be passed, which have {rows} rows: so many have local latents in the posterior; "
            f"got {given.n_obs}. Call `diagnose(X, y)` with all of them."
        )
        raise ValueError(msg)
    elif observed is not None and not observed.moved and (other := observed.first_difference(given)) is not None:
        msg = (
            f"`{other}` is not that of the fit, and the guide stands for the posterior of the data of the fit alone. "
            "Call `diagnose` with what the model was fitted with."
        )
        raise ValueError(msg)
    return given


def _fingerprints(call: KernelArguments) -> dict[str, str]:
    return {name: call.fingerprint(name) for name, array in call.arrays.items() if array.ndim}


def _trend(losses: np.ndarray) -> Line:
    """Compare the last tenth of the steps with the tenth before."""
    check, tenth = "ELBO trend", len(losses) // 10
    looked = losses[-2 * tenth :] if len(losses) >= _STEPS else losses
    if not np.isfinite(looked).all():
        return Line(check, np.nan, "finite", "", "bad: not finite; lower learning rate")
    if len(losses) < _STEPS:
        return _unchecked(check, f"± {_NATS}", f"fewer than {_STEPS} steps")
    before, last = looked[:tenth], looked[tenth:]
    rise = float(before.mean() - last.mean())
    error = _ERRORS * float(np.hypot(_error(before), _error(last)))
    if np.isnan(error):
        return _unchecked(check, f"± {_NATS}", "no error found")
    limit = max(error, _NATS, float(np.spacing(np.float32(np.abs(looked).max()))))
    first = losses[:tenth]
    progress = float(first.mean(where=np.isfinite(first)) - last.mean()) if np.isfinite(first).any() else 0.0
    if rise > limit:
        verdict = "bad: still rising; take more steps"
    elif rise < -limit:
        verdict = "bad: falling; lower the learning rate"
    elif error > _HIDING_NATS and error > _HIDING_SHARE * progress:
        verdict = "not checked: noisy; take more steps"
    else:
        verdict = "ok"
    return Line(check, rise, f"± {limit:.3g}", "", verdict)


def _error(losses: np.ndarray) -> float:
    """Return the standard error of a mean of losses that may still be moving.

    A trend is no noise, and would be taken for much of it; what is left beside a straight line is.
    """
    steps = np.arange(len(losses)) - (len(losses) - 1) / 2
    noise = losses - losses.mean() - steps * (steps @ losses) / (steps @ steps)
    return float(_arviz().mcse(noise[None], method="mean"))


def _pareto(fit: SVIFit, data: KernelArguments | str, key: jax.Array, *, settled: bool) -> Line:
    """Return the line of the guide: how heavy the tail of its importance ratios is."""
    check, limit = "Pareto k", min(1 - 1 / np.log10(_DRAWS), 0.7)
    threshold = f"< {limit:.2f}"
    obstacle = data if isinstance(data, str) else ratio_obstacle(fit, data, key)
    if isinstance(data, str) or obstacle is not None:
        return _unchecked(check, threshold, str(obstacle))
    ratios = log_ratios(fit, data, key, num_draws=_DRAWS)
    # A draw where the joint density is zero has the weight zero; anything else that is not finite is a fault.
    sound = ratios[np.isfinite(ratios)]
    if len(sound) < 0.9 * _DRAWS or (np.isnan(ratios) | np.isposinf(ratios)).any():
        return Line(check, np.nan, threshold, "", "bad: densities are not finite")
    # No difference can be told that is finer than the numbers.
    finest = float(np.spacing(np.abs(sound).max()))
    if finest > _COARSE:
        return _unchecked(check, threshold, "too many rows for 32 bits")
    if np.ptp(ratios) < max(_ALIKE, 8 * finest):
        return Line(check, 0.0, threshold, "", "ok")  # there is no tail to fit
    try:
        with np.errstate(all="ignore"):
            # ArviZ takes log likelihoods here and weighs by one over them: it changes the sign of what it gets.
            value = float(_arviz().psislw(-ratios.astype(np.float64))[1])
    except ValueError:  # all values in the tail are the same
        value = np.nan
    if np.isnan(value):
        return _unchecked(check, threshold, "ratios too alike")
    bad = "bad: try a richer guide, or MCMC" if settled else "bad: the fit has to settle first"
    return Line(check, value, threshold, "", "ok" if value < limit else bad)
