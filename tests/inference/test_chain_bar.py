"""The progress bar of chains."""

import time

import numpyro.util
import pytest
import tqdm

from aimz.inference.chain_bar import chain_bar
from aimz.progress import ProgressBar


def test_clock_starts_after_the_first_step():
    with chain_bar():
        bar = numpyro.util.tqdm.trange(3, miniters=1)
        steps, start = iter(bar), bar.start_t
        assert isinstance(bar, ProgressBar)
        next(steps)
        time.sleep(0.01)  # compilation
        assert next(steps) == 1
        assert bar.start_t >= start + 0.01
        bar.close()


def test_numpyro_has_its_own_bar_afterwards():
    with pytest.raises(KeyError), chain_bar():
        raise KeyError
    assert numpyro.util.tqdm is tqdm


def test_short_runs_show_no_bar(capsys):
    with chain_bar():
        assert list(numpyro.util.tqdm.trange(5)) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""
