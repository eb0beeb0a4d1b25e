"""The result of a sensitivity analysis."""

__all__ = ["SensitivityResult"]

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

import aimz
from aimz._imports import pandas as pd
from aimz._imports import xarray as xr
from aimz.statistics import ConfoundingBias, bounding_factor, e_value, read_ci

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False)
class SensitivityResult:
    """Strength that a hidden common cause would need, as :meth:`ImpactModel.sensitivity` returns it.

    Printed, it is a few sentences and a table. All numbers are computed draw by draw, so they have posteriors.

    Attributes
    ----------
    treatment, outcome : str
        Names of the treatment and the outcome.
    scale : {"difference", "ratio"}
        Scale of the effect: partial R² for differences, E-values for ratios.
    covariates : tuple of str
        Names of the covariates that a hidden cause is compared given.
    n_obs : int
        Number of rows with an outcome.
    unit : float
        Units of the treatment that the effect is of.

    Examples
    --------
    >>> import numpy as np
    >>> from aimz.statistics import ConfoundingBias
    >>> from aimz.validation import SensitivityResult
    >>> bias = ConfoundingBias(np.linspace(0.8, 1.2, 99), np.full(99, 2.0), 0.5, {})
    >>> found = SensitivityResult("mail", "y", "difference", ("age",), 800, 1, strengths=bias)
    >>> round(found.robustness_value(), 3)
    0.221
    >>> float(found.adjusted(r2_treatment=0.2, r2_outcome=0.3).mean().round(2))
    -0.1
    """

    treatment: str
    outcome: str
    scale: str
    covariates: tuple[str, ...]
    n_obs: int
    num_chains: int
    unit: float = 1.0
    ratio: np.ndarray = field(default_factory=lambda: np.empty(0))
    strengths: ConfoundingBias | None = None

    @property
    def effect(self) -> "xr.DataArray":
        """Draws of the effect, ``(chain, draw)``: of ``unit`` units of the treatment, or the ratio."""
        return self._array(self.ratio if self.strengths is None else self.unit * self.strengths.effect, self.outcome)

    @property
    def robustness(self) -> "xr.DataArray":
        """Draws of the robustness value, ``(chain, draw)``, or of the E-value on the scale of ratios.

        The robustness value is the partial R² that a hidden cause needs with both treatment and outcome to remove the
        effect; the E-value is the ratio that it needs with both. 0, or 1, in draws whose effect has another sign than
        the mean effect.
        """
        if self.strengths is None:
            return self._array(e_value(self._away), "e_value")
        return self._array(self.strengths.robustness(), "robustness_value")

    @property
    def partial_r2(self) -> "xr.DataArray":
        """Draws of the partial R² of the treatment with the outcome, given the covariates."""
        return self._array(self._bias("partial_r2").partial_r2, "partial_r2")

    def robustness_value(self, q: float = 1.0, alpha: float | None = None) -> float:
        """Return the partial R² with both treatment and outcome that a hidden cause needs.

        Parameters
        ----------
        q : float
            Share of the effect that it removes; 1 for all of it.
        alpha : float, optional
            Level: the cause leaves a probability of 1 - alpha / 2 that more than 1 - q of the effect remains. By
            default the median over the draws is returned.

        Returns
        -------
        float
            Robustness value.
        """
        if not q > 0 or (alpha is not None and not 0 < alpha < 1):
            msg = f"`q` must be above 0, and `alpha` between 0 and 1; got {q!r} and {alpha!r}. Pass q=1, alpha=0.05."
            raise ValueError(msg)
        draws = self._bias("robustness_value").robustness(q)
        return float(np.quantile(draws, 0.5 if alpha is None else alpha / 2))

    def tipping_point(self, r2_treatment: float) -> "xr.DataArray":
        """Return draws of the partial R² with the outcome that a cause needs to make the effect 0.

        Parameters
        ----------
        r2_treatment : float
            Partial R² of the cause with the treatment.

        Returns
        -------
        xarray.DataArray
            Draws, ``(chain, draw)``; above 1 where no cause can do so.
        """
        _check_share("r2_treatment", r2_treatment)
        return self._array(self._bias("tipping_point").tipping_point(r2_treatment), "r2_outcome")

    def adjusted(self, r2_treatment: float, r2_outcome: float) -> "xr.DataArray":
        """Return draws of the effect without the bias of a hidden cause.

        Parameters
        ----------
        r2_treatment, r2_outcome : float
            Partial R² of the cause with the treatment given the covariates, and with the outcome given the treatment
            and the covariates. The cause acts in the direction of the effect.

        Returns
        -------
        xarray.DataArray
            Draws, ``(chain, draw)``.
        """
        _check_share("r2_treatment", r2_treatment)
        _check_share("r2_outcome", r2_outcome)
        found = self._bias("adjusted").adjusted(r2_treatment, r2_outcome)
        return self._array(self.unit * found, self.outcome)

    def strength(self, r2_treatment: float, r2_outcome: float) -> tuple[float, float]:
        """Return the coefficients of a cause of variance 1 with these partial R², for ``with_confounder``.

        Parameters
        ----------
        r2_treatment, r2_outcome : float
            Partial R² of the cause, as in :meth:`adjusted`.

        Returns
        -------
        (float, float)
            Coefficients of the cause in linear models of the treatment and of the outcome.
        """
        _check_share("r2_treatment", r2_treatment)
        _check_share("r2_outcome", r2_outcome)
        bias = self._bias("strength")
        sd = float(bias.sd_outcome.mean())
        outcome = float(np.sqrt(r2_outcome / (1 - r2_treatment))) * sd
        return float(np.sqrt(r2_treatment)) * bias.sd_treatment, bias.sign * outcome

    def table(
        self,
        times: Iterable[float] = (1, 2, 3),
        *,
        risk_ratios: Iterable[float] = (1.5, 2.0, 3.0),
        ci_prob: float | None = None,
        ci_kind: str | None = None,
    ) -> "pd.DataFrame":
        """Return the effect that is left under hidden causes of several strengths.

        Parameters
        ----------
        times : iterable of float
            Strengths in multiples of each benchmark.
        risk_ratios : iterable of float
            Ratios of a hidden cause with both treatment and outcome, on the scale of ratios.
        ci_prob, ci_kind : optional
            Probability and kind of the interval; by default ArviZ's.

        Returns
        -------
        pandas.DataFrame
            A line without a hidden cause, and one for each strength: partial R² with treatment and outcome (mean over
            draws), mean, sd and interval of the effect that is left, and the probability that it is above 0 (or 1).
            NaN where no cause can be so strong.
        """
        interval, null = read_ci(ci_prob, ci_kind), float(self.strengths is None)
        lines: list[dict[str, Any]] = []
        for about, draws in self._strengths(list(times), list(risk_ratios)):
            lines.append({**about, **aimz.output.sensitivity_line(draws, interval, null)})
        return pd.DataFrame(lines)

    def _strengths(self, times: list[float], risk_ratios: list[float]) -> Iterable[tuple[dict[str, Any], np.ndarray]]:
        """Yield the description of hidden causes and the effects that they leave."""
        if self.strengths is None:
            yield {"hidden cause": "none", "risk_ratio": 1.0}, self.ratio
            for ratio in risk_ratios:
                factor = bounding_factor(ratio, ratio)
                left = self.ratio / factor if self.ratio.mean() >= 1 else self.ratio * factor
                yield {"hidden cause": f"{ratio:g} with both", "risk_ratio": ratio}, left
            return
        heads = ("times", "r2_treatment", "r2_outcome")
        yield {"hidden cause": "none", **dict.fromkeys(heads, 0.0)}, self.unit * self.strengths.effect
        for name, benchmark in self.strengths.benchmarks.items():
            for k in times:
                treatment, outcome = benchmark.bound(k)
                about = {"hidden cause": f"{k:g} x {name}", "times": float(k), "r2_treatment": treatment}
                about["r2_outcome"] = float(outcome.mean())
                yield about, self.unit * self.strengths.adjusted(treatment, outcome)

    def summary(self, *, ci_prob: float | None = None, ci_kind: str | None = None) -> "pd.DataFrame":
        """Return mean, sd and interval of the effect, the partial R² and the robustness value, or of the E-value.

        Parameters
        ----------
        ci_prob, ci_kind : optional
            Probability and kind of the interval; by default ArviZ's.

        Returns
        -------
        pandas.DataFrame
            A line for each quantity.
        """
        interval, ratio = read_ci(ci_prob, ci_kind), self.strengths is None
        found = {"ratio": self.effect} if ratio else {"effect": self.effect, "partial_r2": self.partial_r2}
        found[str(self.robustness.name)] = self.robustness
        lines = {
            name: aimz.output.sensitivity_line(array.values.ravel(), interval, None) for name, array in found.items()
        }
        return pd.DataFrame(lines.values(), index=list(lines))

    def to_pandas(self) -> "pd.DataFrame":
        """Return the draws as a data frame.

        Returns
        -------
        pandas.DataFrame
            A row for each draw, with the effect, the partial R² and the robustness value, or the E-value.
        """
        found = {"effect": self.effect, str(self.robustness.name): self.robustness}
        if self.strengths is not None:
            found["partial_r2"] = self.partial_r2
        frame = next(iter(found.values())).to_dataframe(name="effect").reset_index()[["chain", "draw"]]
        return frame.assign(**{name: array.values.ravel() for name, array in found.items()})

    def plot(self, **options: Any) -> "Figure":
        """Plot the effect that is left as contours over both partial R², with the benchmarks.

        Parameters
        ----------
        **options
            Options of :func:`aimz.plots.plot_sensitivity`.

        Returns
        -------
        matplotlib.figure.Figure
            The figure, which a notebook displays.
        """
        return aimz.plots.plot_sensitivity(self, **options)

    @property
    def sentences(self) -> list[str]:
        """Sentences that state what a hidden cause would have to be."""
        return aimz.output.sensitivity_sentences(self)

    def __repr__(self) -> str:
        """Return the sentences and the table as text."""
        return aimz.output.sensitivity_text(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"

    @property
    def _away(self) -> np.ndarray:
        """Ratio in the direction of the mean effect, at least 1."""
        return np.maximum(self.ratio if self.ratio.mean() >= 1 else 1 / self.ratio, 1.0)

    def _bias(self, name: str) -> ConfoundingBias:
        """Return the quantities of the bias of a difference."""
        if self.strengths is None:
            msg = (
                f"`{name}` is about the partial R² of a difference; this result is about a ratio. Use `robustness`, "
                "which has E-values, or call `sensitivity(..., scale='difference')`."
            )
            raise TypeError(msg)
        return self.strengths

    def _array(self, draws: np.ndarray, name: str) -> "xr.DataArray":
        by_chain = draws.reshape(self.num_chains, -1)
        coords: Mapping[str, Any] = {"chain": np.arange(len(by_chain)), "draw": np.arange(by_chain.shape[1])}
        return xr.DataArray(by_chain, dims=("chain", "draw"), coords=coords, name=name)


def _check_share(name: str, value: Any) -> None:
    """Raise if a partial R² is not from 0 to below 1."""
    if not 0 <= value < 1:
        msg = f"`{name}` must be a partial R², from 0 to below 1; got {value!r}. Pass 0.1 for 10 %."
        raise ValueError(msg)
