"""Results of rehearsals and of planned studies."""

__all__ = ["AssuranceResult", "RehearsalResult"]

import html
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import aimz
from aimz._imports import pandas as pd
from aimz.statistics import coverage_of, read_ci

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_WIDTH = 76


@dataclass(frozen=True, repr=False)
class RehearsalResult:
    """Answers of an analysis to data whose true effects are known, as :meth:`ImpactModel.rehearse` returns them.

    Printed, it is a sentence for each effect and a table.

    Attributes
    ----------
    simulations : xarray.Dataset
        For each simulation and quantity: ``truth``, posterior ``mean`` and ``sd``, ``rank`` of the truth among
        ``n_ranks - 1`` thinned draws, ``pit`` (share of all draws below the truth), and ``above`` (share of draws above
        no effect, or above 0). ``settled`` is whether the refit settled. ``prior_sd`` and ``prior_above`` describe the
        prior of each quantity; a placebo rehearsal also has ``estimate`` and ``estimate_sd`` of the actual data.
    """

    simulations: "xr.Dataset"

    @property
    def kind(self) -> str:
        """Kind of the rehearsal: "recovery", "sbc" or "placebo"."""
        return str(self.simulations.attrs["kind"])

    @property
    def ok(self) -> bool | None:
        """Whether all verdicts are good; None if there are too few simulations to judge."""
        verdicts = set(self.summary()["verdict"]) - {"", "constant", "no rows"}
        if not verdicts or "not enough to judge" in verdicts:
            return None
        return verdicts == {"ok"}

    def summary(self, *, ci_prob: float | None = None) -> "pd.DataFrame":
        """Return a table with a line for each quantity.

        Parameters
        ----------
        ci_prob : float, optional
            Probability of the equal-tailed intervals whose coverage is found; ArviZ's default, 0.89 unless it was
            changed.

        Returns
        -------
        pandas.DataFrame
            Number of ``simulations``, ``bias`` and ``coverage`` with their Monte Carlo errors, ``contraction`` (one
            minus the ratio of posterior and prior variance), mean and standard deviation of the z-scores ``(mean -
            truth) / sd``, and the ``verdict``. Of a placebo rehearsal: ``estimate`` and ``sd`` of the actual data,
            mean of the placebo effects with its error, root mean square of their posterior standard deviations
            (``placebo_sd``), their ``placebo_spread`` beyond these, and ``z``.
        """
        if self.kind == "placebo":
            return aimz.output.placebo_table(self.simulations)
        return aimz.output.recovery_table(self.simulations, read_ci(ci_prob, "eti").at)

    def to_pandas(self) -> "pd.DataFrame":
        """Return the simulations as a data frame with a row for each simulation and quantity."""
        return self.simulations.to_dataframe().reset_index()

    def plot(self, **options: Any) -> "Figure":
        """Plot the rehearsal; see :func:`aimz.plots.plot_rehearsal`.

        Parameters
        ----------
        **options
            Options of :func:`aimz.plots.plot_rehearsal`.

        Returns
        -------
        matplotlib.figure.Figure
            The figure, which a notebook displays.
        """
        return aimz.plots.plot_rehearsal(self.simulations, **options)

    def __repr__(self) -> str:
        """Return sentences and a table."""
        return aimz.output.rehearsal_text(self.simulations, self.summary(), read_ci(None, "eti").at)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


@dataclass(frozen=True, repr=False)
class AssuranceResult:
    """Probability that a planned study finds an effect, as :meth:`ImpactModel.assurance` returns it.

    Attributes
    ----------
    simulations : xarray.Dataset
        As in :class:`RehearsalResult`, with ``found``: whether the simulated study meets the criterion.
    criterion : str
        The criterion in words.
    """

    simulations: "xr.Dataset"
    criterion: str

    def summary(self) -> "pd.DataFrame":
        """Return a table with a line for each effect.

        Returns
        -------
        pandas.DataFrame
            The ``assurance``, its Monte Carlo error and exact 95 % bounds, the mean and standard deviation of the true
            effects, and the number of simulated studies.
        """
        lines = []
        for name in self.simulations["quantity"].values.tolist():
            one = self.simulations.sel(quantity=name)
            found, truth = one["found"].values, one["truth"].values
            share, error, low, high = coverage_of(np.where(found, 0.5, 0.0), 0.5)
            lines.append(
                {
                    "assurance": share,
                    "error": error,
                    "low": low,
                    "high": high,
                    "truth_mean": float(truth.mean()),
                    "truth_sd": float(truth.std(ddof=1)) if len(truth) > 1 else np.nan,
                    "studies": len(found),
                }
            )
        return pd.DataFrame(lines, index=pd.Index(self.simulations["quantity"].values, name="quantity"))

    def to_pandas(self) -> "pd.DataFrame":
        """Return the simulated studies as a data frame with a row for each study and effect."""
        return self.simulations.to_dataframe().reset_index()

    def plot(self, **options: Any) -> "Figure":
        """Plot the share of studies that find the effect by its true value; see :func:`aimz.plots.plot_assurance`.

        Parameters
        ----------
        **options
            Options of :func:`aimz.plots.plot_assurance`.

        Returns
        -------
        matplotlib.figure.Figure
            The figure, which a notebook displays.
        """
        return aimz.plots.plot_assurance(self.simulations, **options)

    def __repr__(self) -> str:
        """Return a sentence for each effect."""
        texts = [
            f"{name}: {100 * line['assurance']:.1f} % of {line['studies']:,.0f} simulated studies find it "
            f"({self.criterion}), with a Monte Carlo error of {100 * line['error']:.1f} points; the true effect is "
            f"{line['truth_mean']:.3g} on average (sd {line['truth_sd']:.2g})."
            for name, line in self.summary().iterrows()
        ]
        lost = int((~self.simulations["settled"].values).sum())
        if lost:
            texts.append(f"{lost} of {self.simulations.sizes['simulation']} fits had not settled; they are included.")
        return "\n".join(textwrap.fill(text, _WIDTH) for text in texts)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"
