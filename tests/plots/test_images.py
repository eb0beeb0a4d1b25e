"""Appearance of the plots: reference images, readable text, and the user's style."""

import io
import pickle
import subprocess
import sys

import example_plots
import matplotlib
import numpy as np
import pytest
from image_comparison import REFERENCE, distance, misplaced_texts, pixels
from IPython.core.formatters import DisplayFormatter
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from aimz import plots

TOLERANCE = 0.12
"""Maximum distance, where 1 is black against white; other versions of fonts and matplotlib stay far below."""
_drawn: dict[str, Figure] = {}


def example(name: str) -> Figure:
    """Return an example plot, which is cached."""
    if name not in _drawn:
        _drawn[name] = {**example_plots.REFERENCES, **example_plots.EDGE_CASES}[name]()
    return _drawn[name]


@pytest.mark.parametrize("name", [*example_plots.REFERENCES, *example_plots.EDGE_CASES])
def test_texts_are_readable(name):
    assert misplaced_texts(example(name)) == []


HIDDEN = {
    "loss": lambda ax: ax.lines[:1],
    "predictive_density": lambda ax: ax.lines[-1:],  # the observations
    "predictive_ecdf": lambda ax: ax.lines[-1:],
    "predictive_counts": lambda ax: ax.collections[:1],
    "predictive_rows": lambda ax: ax.patches,
    "effect_scenarios": lambda ax: ax.collections[:1],
    "effect_dose": lambda ax: ax.collections[:1],
    "effect_average": lambda ax: ax.collections[:1],
    "effect_rows": lambda ax: ax.patches,
    "groups": lambda ax: ax.collections[:1],
    "uplift": lambda ax: ax.collections[:1],
}
"""Name of a plot to artists to hide: an interval, a band or a line of its first axes."""


@pytest.mark.parametrize("name", example_plots.REFERENCES)
def test_plot_matches_reference_only_if_complete(name):
    figure, reference = example(name), pixels(REFERENCE / f"{name}.png")
    assert distance(pixels(figure), reference) < TOLERANCE
    missing = [artist for artist in HIDDEN[name](figure.axes[0]) if artist.get_visible()]
    for artist in missing:
        artist.set_visible(False)
    found = distance(pixels(figure), reference)
    for artist in missing:  # the figure is cached
        artist.set_visible(True)
    assert found > 1.3 * TOLERANCE


def test_other_numbers_do_not_match_reference():
    other = plots.plot_effect(example_plots.compared([2.2, 0.2, -0.2], 0.25, scenario=["men's", "women's", "both"]))
    assert distance(pixels(other), pixels(REFERENCE / "effect_scenarios.png")) > 1.3 * TOLERANCE


def test_misplaced_texts_detects_clipping_and_overlap():
    figure = Figure(figsize=(4, 3))
    ax = figure.subplots()
    ax.set_ylabel("y")
    assert misplaced_texts(figure) == []
    ax.set_title("a title that is far too long for a figure of no more than four inches, and cut off")
    assert any(found.startswith("clipped") for found in misplaced_texts(figure))
    ax.set_title("")
    ax.set_xticks(np.linspace(0, 1, 15), [f"label {i}" for i in range(15)])
    assert any(found.startswith("overlap") for found in misplaced_texts(figure))


def test_figures_are_not_registered_with_pyplot():
    plt.close("all")  # figures of other tests
    assert isinstance(example("groups"), Figure)
    assert not plt.get_fignums()


def test_notebook_displays_a_plot():
    """Also without pyplot, which would register the representation of figures."""
    shown, _ = DisplayFormatter().format(plots.plot_loss([3.0, 2.0, 1.0]))
    assert Image.open(io.BytesIO(shown["image/png"])).size == (900, 380)


def test_plot_can_be_pickled():
    figure = pickle.loads(pickle.dumps(example("effect_average")))
    assert distance(pixels(figure), pixels(example("effect_average"))) < TOLERANCE


def test_user_style_is_ignored_and_kept():
    plain = pixels(example("groups"))
    style = {"font.size": 20, "axes.facecolor": "black", "xtick.color": "red", "lines.linewidth": 9, "axes.grid": False}
    with matplotlib.rc_context(style):
        before = dict(matplotlib.rcParams)
        figure = example_plots.REFERENCES["groups"]()
        assert distance(pixels(figure), plain) == 0
        assert dict(matplotlib.rcParams) == before


def test_plot_on_user_axes():
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    effects = example_plots.compared([[1.0, 2.0, -0.5]], 0.3, scenario=["up"], region=["North", "South", "West"])
    assert plots.plot_groups(effects, ax=left) is figure
    assert plots.plot_effect(example_plots.compared([1.0, 2.0], 0.3, scenario=["a", "b"]), ax=right) is figure
    assert "89 % equal-tailed interval" in " ".join(left.get_xlabel().split())
    assert "Effect on spent by region" in left.get_title(loc="left")
    assert misplaced_texts(figure) == []


def test_import_of_plots_does_not_import_matplotlib():
    code = "import sys, aimz.plots; print('matplotlib' in sys.modules, 'arviz_plots' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("missing", ["matplotlib", "arviz_plots"])
def test_missing_extra_raises_with_advice(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match="pip install arviz-stats arviz-plots matplotlib"):
        plots.plot_loss([3.0, 2.0, 1.0])


if __name__ == "__main__":  # update the reference images
    REFERENCE.mkdir(exist_ok=True)
    for name in example_plots.REFERENCES:
        image = Image.fromarray((255 * pixels(example(name))).round().astype(np.uint8))
        image.quantize(64).save(REFERENCE / f"{name}.png", optimize=True)
