"""The result of a question about an effect."""

__all__ = ["EffectResult"]

import base64
import html
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import aimz

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure

_MAX_SENTENCES, _MAX_LINES = 6, 20
"""Largest numbers of sentences and of lines of the table that are printed."""


@dataclass(frozen=True, repr=False)
class EffectResult:
    """An effect with its uncertainty, as :meth:`ImpactModel.effect` returns it.

    Printed, it is a sentence and a table, and in a notebook also a plot.  :func:`aimz.summary`, :func:`aimz.in_words`
    and the functions of :mod:`aimz.plots` accept it.

    Attributes
    ----------
    tree : xarray.DataTree
        The result of :meth:`ImpactModel.compare_scenarios` that the effect is part of.
    rows : str
        Description of the rows that are averaged over.
    """

    tree: "xr.DataTree"
    rows: str

    @property
    def draws(self) -> "xr.DataArray | xr.Dataset":
        """Draws of the effect, with dimensions ``(chain, draw, scenario, <groups>)``; a data set for several sites."""
        effects = self.tree["effect"].to_dataset()
        names = list(effects.data_vars)
        return effects[names[0]] if len(names) == 1 else effects

    def summary(
        self,
        *,
        ci_prob: float | None = None,
        ci_kind: str | None = None,
        rope: tuple[float, float] | None = None,
    ) -> "pd.DataFrame":
        """Return a table with a line for each effect; see :func:`aimz.summary`.

        Parameters
        ----------
        ci_prob : float, optional
            Probability of the interval; ArviZ's default, 0.89 unless it was changed.
        ci_kind : {"eti", "hdi"}, optional
            Kind of the interval; ArviZ's default, "eti" (equal-tailed) unless it was changed.
        rope : (float, float), optional
            Region of practical equivalence.

        Returns
        -------
        pandas.DataFrame
            The table.
        """
        return aimz.output.summary(self.tree, ci_prob=ci_prob, ci_kind=ci_kind, rope=rope)

    def plot(self, **options: Any) -> "Figure":
        """Plot the effect: its density, a curve for a sweep of values, or a line for each group.

        Parameters
        ----------
        **options
            Options of :func:`aimz.plots.plot_effect`, or with groups of :func:`aimz.plots.plot_groups`.

        Returns
        -------
        matplotlib.figure.Figure
            The figure, which a notebook displays.
        """
        plot = aimz.plots.plot_groups if self.tree["groups"]["rows"].ndim else aimz.plots.plot_effect
        return plot(self.tree, **options)

    def to_pandas(self) -> "pd.DataFrame":
        """Return the draws as a data frame.

        Returns
        -------
        pandas.DataFrame
            A row for each draw, scenario and group, with their labels as columns, and a column for each site.
        """
        return self.tree["effect"].to_dataset().to_dataframe().reset_index()

    def __repr__(self) -> str:
        """Return the effect as sentences and as a table."""
        return aimz.output.effect_text(self.tree, self.rows, _MAX_SENTENCES, _MAX_LINES)

    def _repr_html_(self) -> str:
        """Return the text, and the plot if matplotlib and arviz-plots are installed."""
        text = f"<pre>{html.escape(repr(self))}</pre>"
        if find_spec("matplotlib") is None or find_spec("arviz_plots") is None:
            return text
        try:
            image = self.plot()._repr_png_()  # type: ignore[attr-defined]
        except ValueError:  # several sites, or further dimensions, of which one has to be chosen
            return text
        return f"{text}<img alt='Plot of the effect' src='data:image/png;base64,{base64.b64encode(image).decode()}'>"
