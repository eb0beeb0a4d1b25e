"""Table of ``diagnose()``: R-hat, ESS and divergences of chains; ELBO trend and importance weights of a fit by SVI."""

__all__ = ["check_chains", "check_variational"]

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from scipy.special import logsumexp

import aimz
from aimz._imports import pandas as pd
from aimz.data import KernelArguments, Posterior, differences
from aimz.errors import NotFittedError
from aimz.inference.fit_data import FitData
from aimz.inference.guide_scales import worst_sd_ratio
from aimz.inference.importance_ratios import NotCheckedError, check_ratios, draw_guide
from aimz.inference.svi import SVIFit

if TYPE_CHECKING:
    import xarray as xr

_RHAT = 1.01
_ESS = 100
"""Least effective sample size for each chain (Vehtari et al. 2021)."""
_TAILS = (0.05, 0.95)
_MAX_VALUES = 1000
"""Largest number of values checked per site: ArviZ takes a few milliseconds for each."""
_MIN_STEPS = 100
_ERRORS = 2
"""Number of standard errors that a trend must exceed; one in twenty converged fits does, slightly."""
_NATS = 0.1
"""Trend that is immaterial: the loss from an error in one mean of 0.45 of its standard deviation."""
_NOISE_NATS, _NOISE_SHARE = 1.0, 0.05
"""Standard errors, in nats and as a share of all progress, above both of which a trend cannot be detected."""
_MIN_DRAWS, _MAX_DRAWS = 1000, 16000
"""Smallest and largest number of draws of the guide."""
_MAX_EVALUATIONS = 2**28
"""Number of rows, over all draws, above which fewer draws are evaluated."""
_MIN_SHARE = 0.1
"""Least effective share of the importance weights; verdicts of different keys then agree."""
_SD_RATIOS = 0.75, 1.6
"""Smallest and largest ratio of standard deviations: weights of a narrow guide underestimate a large ratio."""
_MAX_GAP = 2.0
"""Largest gap, in nats, between the ELBO and the evidence that the weights estimate."""
_MIN_EPOCHS = 5
"""Number of epochs in each window of the ELBO trend from which their means are compared instead of single steps."""
_MIN_RANGE = 0.01
"""Range of log importance ratios below which they are equal: the weights agree to one per cent."""
_MAX_SPACING = 0.25
"""Spacing of floating-point numbers, in nats, above which rounding would appear as a tail."""


class Line(NamedTuple):
    """A line of the table."""

    check: str
    value: float
    threshold: str
    site: str
    verdict: str


def _unchecked(check: str, threshold: str, why: str) -> Line:
    return Line(check, np.nan, threshold, "", f"not checked: {why}")


def _table(lines: Iterable[Line]) -> "pd.DataFrame":
    return pd.DataFrame(list(lines), columns=list(Line._fields)).set_index("check").rename_axis(index=None)


def _arviz() -> Any:
    """Return ArviZ's statistics of plain arrays.

    Raises
    ------
    ImportError
        If ArviZ is not installed.
    """
    return aimz.output.import_arviz_stats("diagnose").base.array_stats


# -------------------------------------------------------------------------------------------------- chains


class _Values(NamedTuple):
    """Draws of the values to check, and the sites that are left out."""

    draws: np.ndarray
    """Array of shape ``(n_values, n_chains, n_draws / n_chains)``."""
    positions: list[tuple[str, int]]
    """Site and number of each value."""
    constant: list[str]
    not_finite: list[str]
    is_complete: bool
    """Whether all values of each site are included."""


def check_chains(posterior: Posterior, dataset: "xr.Dataset", left_out: str = "") -> "pd.DataFrame":
    """Return the table for draws of chains; ``dataset`` holds the same draws with labels, ``left_out`` is a site."""
    stats, values, chains = _arviz(), _select_values(dataset.drop_vars(left_out, errors="ignore")), posterior.num_chains
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
        elif values.not_finite:
            site = values.not_finite[0]
            lines.append(Line(check, np.nan, threshold, site, "bad: draws are not finite"))
        elif values.draws.shape[2] < 4:
            lines.append(_unchecked(check, threshold, "fewer than 4 draws"))
        elif not values.positions:
            lines.append(Line(check, np.nan, threshold, "", "bad: the sampler never moves"))
        else:
            lines.append(_worst(check, threshold, values, function, dataset, chains))
    return _table([*lines, _divergences(posterior)])


def _select_values(dataset: "xr.Dataset") -> _Values:
    """Return draws without values that never change, for which R-hat and ESS are undefined."""
    parts, positions, constant, not_finite, is_complete = [], [], [], [], True
    for name, array in dataset.data_vars.items():
        draws = np.asarray(array.values, np.int8 if array.dtype == bool else None).reshape(*array.shape[:2], -1)
        n_values = draws.shape[2]
        selected = np.unique(np.linspace(0, n_values - 1, min(n_values, _MAX_VALUES)).astype(int))
        is_complete &= len(selected) == n_values
        draws = np.moveaxis(draws[:, :, selected], 2, 0)
        if not np.isfinite(draws).all():
            not_finite.append(str(name))
        varies = draws.max((1, 2)) != draws.min((1, 2))
        if n_values and not varies.any():
            constant.append(str(name))
        parts.append(draws[varies])
        positions += [(str(name), int(number)) for number in selected[varies]]
    return _Values(np.concatenate(parts), positions, constant, not_finite, is_complete)


def _worst(
    check: str,
    threshold: str,
    values: _Values,
    function: Callable[[np.ndarray], np.ndarray],
    dataset: "xr.Dataset",
    chains: int,
) -> Line:
    """Return the line for the value with the worst statistic."""
    with np.errstate(all="ignore"):  # chains that are stuck have zero variance
        statistics = np.atleast_1d(function(values.draws))
    # `argmax` and `argmin` return the first NaN, which counts as the worst.
    worst = int(np.argmax(statistics) if check == "R-hat" else np.argmin(statistics))
    value = float(statistics[worst])
    if np.isnan(value):
        verdict = "not checked: no value found"
    elif check == "R-hat":
        verdict = "ok" if value < _RHAT else "bad: chains differ; run longer"
    else:
        verdict = "ok" if value >= _ESS * chains else "bad: too few; run longer"
    if verdict == "ok" and values.constant:
        verdict = f"ok, but `{values.constant[0]}` never moves"
    elif verdict == "ok" and not values.is_complete:
        verdict = f"ok, of {_MAX_VALUES:,} values a site"
    return Line(check, value, threshold, _label(dataset, *values.positions[worst]), verdict)


def _label(dataset: "xr.Dataset", name: str, number: int) -> str:
    """Return a site's name with the labels of one of its values, as in ``beta[age]``."""
    array = dataset[name]
    index = np.unravel_index(number, array.shape[2:])
    labels = [str(array[dim].values[i]) for dim, i in zip(array.dims[2:], index, strict=True)]
    return f"{name}[{', '.join(labels)}]" if labels else name


def _divergences(posterior: Posterior) -> Line:
    diverging = (posterior.sample_stats or {}).get("diverging")
    if diverging is None:
        return _unchecked("divergences", "0", "not recorded")
    number = int(np.sum(diverging))
    verdict = "bad: reparametrise the kernel" if number else "ok"
    return Line("divergences", float(number), "0", "", verdict)


# ---------------------------------------------------------------------------------------------- variational


def check_variational(
    fit: SVIFit, given: KernelArguments | None, fit_data: FitData | None, local_rows: int | None, key: jax.Array
) -> "pd.DataFrame":
    """Return the table for a fit by SVI.

    Parameters
    ----------
    fit
        Fit to check.
    given
        Data passed to ``diagnose``, if any.
    fit_data
        Digests of the data of the fit, if known.
    local_rows
        Number of rows for which the posterior has local latents, if any.
    key
        PRNG key for draws of the guide.

    Raises
    ------
    NotFittedError
        If SVI has not run.
    ValueError
        If ``given`` is known to differ from the data of the fit.
    """
    if given is not None:
        _check_fit_data(given, fit_data, local_rows)
    if fit.vi_result is None:
        msg = (
            "`diagnose` checks the result of SVI, and SVI has not run here; draws that were set are not its result. "
            "Call `fit(X, y)`, or set `vi_result` after running your own training loop."
        )
        raise NotFittedError(msg)
    losses = fit.vi_result.losses
    losses = np.zeros(0) if losses is None else np.asarray(losses, np.float64).ravel()
    trend = _trend(losses, fit.steps_per_epoch)
    return _table([trend, *_weights(fit, given, fit_data, key, converged=trend.verdict == "ok")])


def _check_fit_data(given: KernelArguments, fit_data: FitData | None, local_rows: int | None) -> None:
    """Raise if ``given`` is known to differ from the data of the fit, as far as they are stored."""
    if fit_data is None:
        name, advice = None, ""
    elif (static := fit_data.other_static(given)) is not None:
        name, advice = static, "Call `diagnose` with the arguments of the fit."
    elif fit_data.call is not None:
        here, there = (_fingerprints(call) for call in (given, fit_data.call))
        name = next(iter(differences(here, there)), None)
        advice = "Call `diagnose()`: the model still has the data."
    else:
        is_comparable = not fit_data.stale and local_rows in (None, given.n_obs)
        name = fit_data.first_difference(given) if is_comparable else None
        advice = "Call `diagnose` with the data of the fit."
    if name is not None:
        msg = f"`{name}` differs from the fit, and the guide approximates the posterior of that fit only. {advice}"
        raise ValueError(msg)
    if local_rows not in (None, given.n_obs) and (fit_data is None or fit_data.call is None):
        msg = (
            f"The data of the fit must be passed, which have {local_rows} rows, as the local latents of the posterior; "
            f"got {given.n_obs}. Call `diagnose(X, y)` with all rows."
        )
        raise ValueError(msg)


def _stored_data(fit_data: FitData | None) -> KernelArguments:
    """Return the data of the fit, if they are in memory and unchanged."""
    if fit_data is None or fit_data.call is None:
        raise NotCheckedError("pass X and y of the fit")
    changed = sorted(fit_data.changed(fit_data.call) & set(fit_data.digests))  # the output has no digest
    if changed:
        raise NotCheckedError(f"`{changed[0]}` was changed in place")
    return fit_data.call


def _fingerprints(call: KernelArguments) -> dict[str, str]:
    return {name: call.fingerprint(name) for name, array in call.arrays.items() if array.ndim}


def _trend(losses: np.ndarray, steps_per_epoch: int = 1) -> Line:
    """Compare the last tenth of the steps with the tenth before.

    Means of epochs, if there are enough, are free of the noise of which rows are in a batch.
    """
    check, tenth = "ELBO trend", len(losses) // 10
    recent = losses[-2 * tenth :] if len(losses) >= _MIN_STEPS else losses
    if not np.isfinite(recent).all():
        return Line(check, np.nan, "finite", "", "bad: not finite; lower learning rate")
    if len(losses) < _MIN_STEPS:
        return _unchecked(check, f"± {_NATS}", f"fewer than {_MIN_STEPS} steps")
    before, last = recent[:tenth], recent[tenth:]
    if steps_per_epoch > 1 and tenth >= _MIN_EPOCHS * steps_per_epoch:
        before, last = (w[len(w) % steps_per_epoch :].reshape(-1, steps_per_epoch).mean(1) for w in (before, last))
    rise = float(before.mean() - last.mean())
    error = _ERRORS * float(np.hypot(_standard_error(before), _standard_error(last)))
    if np.isnan(error):
        return _unchecked(check, f"± {_NATS}", "no error found")
    limit = max(error, _NATS, float(np.spacing(np.float32(np.abs(recent).max()))))
    first = losses[:tenth]
    progress = float(first.mean(where=np.isfinite(first)) - last.mean()) if np.isfinite(first).any() else 0.0
    if rise > limit:
        verdict = "bad: still rising; take more steps"
    elif rise < -limit:
        verdict = "bad: falling; lower the learning rate"
    elif error > _NOISE_NATS and error > _NOISE_SHARE * progress:
        verdict = "not checked: noisy; take more steps"
    else:
        verdict = "ok"
    return Line(check, rise, f"± {limit:.3g}", "", verdict)


def _standard_error(losses: np.ndarray) -> float:
    """Return the standard error of the mean of detrended losses, since a linear trend is not noise."""
    steps = np.arange(len(losses)) - (len(losses) - 1) / 2
    noise = losses - losses.mean() - steps * (steps @ losses) / (steps @ steps)
    return float(_arviz().mcse(noise[None], method="mean"))


def _pareto_limit(num_draws: int) -> float:
    """Return the largest k that does not exceed its limit by two standard errors of a fit to the tail."""
    limit, tail = min(1 - 1 / np.log10(num_draws), 0.7), 3 * np.sqrt(num_draws)
    return float(limit + _ERRORS * (1 + limit) / np.sqrt(tail))


def _weights(
    fit: SVIFit, given: KernelArguments | None, fit_data: FitData | None, key: jax.Array, *, converged: bool
) -> list[Line]:
    """Return lines for the guide: Pareto k of its importance ratios, effective share, and ratio of spreads.

    Weights of a guide that is too wide are bounded and have a low k, but most draws have no weight. All lines are bad
    if one is, since k and spreads are unreliable if few draws count.
    """
    num_draws, limit, site = _MAX_DRAWS, _pareto_limit(_MAX_DRAWS), ""

    def lines(values: tuple[float, float, float], verdict: str) -> list[Line]:
        thresholds = f"< {limit:.2f}", f">= {_MIN_SHARE}", "{}-{}".format(*_SD_RATIOS)
        return [
            Line(check, value, threshold, site if check == "sd ratio" else "", verdict)
            for check, value, threshold in zip(
                ("Pareto k", "effective share", "sd ratio"), values, thresholds, strict=True
            )
        ]

    unknown = np.nan, np.nan, np.nan
    try:
        data = _stored_data(fit_data) if given is None else given
        check_ratios(fit, data, key)
    except NotCheckedError as error:
        return lines(unknown, f"not checked: {error}")
    num_draws = int(np.clip(_MAX_EVALUATIONS // data.n_obs, _MIN_DRAWS, _MAX_DRAWS)) // 1000 * 1000
    limit = _pareto_limit(num_draws)
    draws = draw_guide(fit, data, key, num_draws=num_draws)
    ratios = draws.log_ratios
    # A draw where the joint density is zero has weight zero; other values that are not finite are errors.
    finite = ratios[np.isfinite(ratios)]
    if len(finite) < 0.9 * num_draws or (np.isnan(ratios) | np.isposinf(ratios)).any():
        return lines(unknown, "bad: densities are not finite")
    spacing = float(np.spacing(np.abs(finite).max()))
    if spacing > _MAX_SPACING:
        return lines(unknown, "not checked: too many rows for 32 bits")
    if np.ptp(ratios) < max(_MIN_RANGE, 8 * spacing):
        return lines((0.0, 1.0, 1.0), "ok")  # there is no tail to fit
    try:
        with np.errstate(all="ignore"):
            # `psislw` takes log-likelihoods, whose negatives are the log ratios.
            smoothed, value = _arviz().psislw(-ratios.astype(np.float64))
    except ValueError:  # all values in the tail are equal
        value = np.nan
    if np.isnan(value):
        return lines(unknown, "not checked: ratios too alike")
    weights = np.exp(np.asarray(smoothed) - np.max(smoothed))
    share = float(weights.sum() ** 2 / (weights**2).sum() / len(weights))
    gap = float(logsumexp(finite.astype(np.float64)) - np.log(num_draws) - finite.mean(dtype=np.float64))
    site, spread = worst_sd_ratio(draws.values, weights)
    if not converged:
        bad = "bad: the fit has to settle first"
    else:
        bad = "bad: too wide; take more steps" if spread < _SD_RATIOS[0] else "bad: try a richer guide, or MCMC"
    sound = value < limit and share >= _MIN_SHARE and gap <= _MAX_GAP and _SD_RATIOS[0] <= spread <= _SD_RATIOS[1]
    return lines((float(value), share, spread), "ok" if sound else bad)
