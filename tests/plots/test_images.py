"""Every picture: it looks as it did, its text can be read, and it leaves nothing behind."""

import io
import pickle
import subprocess
import sys

import example_plots
import matplotlib
import numpy as np
import pytest
from image_comparison import REFERENCE, distance, out_of_place, pixels
from IPython.core.formatters import DisplayFormatter
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from aimz import plots

TOLERANCE = 0.12
"""Of 1, which is black against white: other versions of fonts and of matplotlib stay far below."""
_drawn: dict[str, Figure] = {}


def picture(name: str) -> Figure:
    """Return a picture of the example_plots, drawn once."""
    if name not in _drawn:
        _drawn[name] = {**example_plots.REFERENCES, **example_plots.AWKWARD}[name]()
    return _drawn[name]


@pytest.mark.parametrize("name", [*example_plots.REFERENCES, *example_plots.AWKWARD])
def test_every_text_can_be_read(name):
    assert out_of_place(picture(name)) == []


LACKS = {
    "loss": lambda ax: ax.lines[:1],
    "predictive_density": lambda ax: ax.lines[-1:],  # what was observed
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
"""Reference to what is taken away from its first axes: an interval, a band or a line."""


@pytest.mark.parametrize("name", example_plots.REFERENCES)
def test_it_looks_as_it_did_and_not_as_if_something_lacked(name):
    figure, reference = picture(name), pixels(REFERENCE / f"{name}.png")
    assert distance(pixels(figure), reference) < TOLERANCE
    missing = [artist for artist in LACKS[name](figure.axes[0]) if artist.get_visible()]
    for artist in missing:
        artist.set_visible(False)
    found = distance(pixels(figure), reference)
    for artist in missing:  # the picture is kept
        artist.set_visible(True)
    assert found > 1.3 * TOLERANCE


def test_a_picture_of_other_numbers_looks_different():
    other = plots.plot_effect(example_plots.compared([2.2, 0.2, -0.2], 0.25, scenario=["men's", "women's", "both"]))
    assert distance(pixels(other), pixels(REFERENCE / "effect_scenarios.png")) > 1.3 * TOLERANCE


def test_texts_out_of_place_are_found():
    figure = Figure(figsize=(4, 3))
    ax = figure.subplots()
    ax.set_ylabel("y")
    assert out_of_place(figure) == []
    ax.set_title("a title that is far too long for a figure of no more than four inches, and cut off")
    assert any(found.startswith("clipped") for found in out_of_place(figure))
    ax.set_title("")
    ax.set_xticks(np.linspace(0, 1, 15), [f"label {i}" for i in range(15)])
    assert any(found.startswith("overlap") for found in out_of_place(figure))


def test_no_figure_is_left_with_pyplot():
    assert not plt.get_fignums()
    assert isinstance(picture("groups"), Figure)


def test_a_notebook_shows_the_picture():
    """Also where pyplot was never asked for anything, so that nobody told the notebook about figures."""
    shown, _ = DisplayFormatter().format(plots.plot_loss([3.0, 2.0, 1.0]))
    assert Image.open(io.BytesIO(shown["image/png"])).size == (900, 380)


def test_a_picture_survives_pickling():
    figure = pickle.loads(pickle.dumps(picture("effect_average")))
    assert distance(pixels(figure), pixels(picture("effect_average"))) < TOLERANCE


def test_style_of_the_user_changes_neither_picture_nor_itself():
    plain = pixels(picture("groups"))
    style = {"font.size": 20, "axes.facecolor": "black", "xtick.color": "red", "lines.linewidth": 9, "axes.grid": False}
    with matplotlib.rc_context(style):
        before = dict(matplotlib.rcParams)
        figure = example_plots.REFERENCES["groups"]()
        assert distance(pixels(figure), plain) == 0
        assert dict(matplotlib.rcParams) == before


def test_axes_of_the_user_are_drawn_on():
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    effects = example_plots.compared([[1.0, 2.0, -0.5]], 0.3, scenario=["up"], region=["North", "South", "West"])
    assert plots.plot_groups(effects, ax=left) is figure
    assert plots.plot_effect(example_plots.compared([1.0, 2.0], 0.3, scenario=["a", "b"]), ax=right) is figure
    assert "89 % equal-tailed interval" in " ".join(left.get_xlabel().split())
    assert "Effect on spent by region" in left.get_title(loc="left")
    assert out_of_place(figure) == []


def test_importing_the_room_does_not_import_matplotlib():
    code = "import sys, aimz.plots; print('matplotlib' in sys.modules, 'arviz_plots' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("missing", ["matplotlib", "arviz_plots"])
def test_without_the_extra_it_is_said_what_to_install(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r'pip install "aimz\[plots\]"'):
        plots.plot_loss([3.0, 2.0, 1.0])


if __name__ == "__main__":  # keep how pictures look now
    REFERENCE.mkdir(exist_ok=True)
    for name in example_plots.REFERENCES:
        image = Image.fromarray((255 * pixels(picture(name))).round().astype(np.uint8))
        image.quantize(64).save(REFERENCE / f"{name}.png", optimize=True)
