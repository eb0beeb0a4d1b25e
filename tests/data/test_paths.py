"""Directories passed as arguments: broken links raise an error before anything is written."""

import tempfile
from pathlib import Path

import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel
from aimz.data import read_output_dir
from aimz.store import Directory, TemporaryDirectory, new_call_location


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)


@pytest.fixture
def links(tmp_path) -> Path:
    """Return a directory with links to a missing directory, to each other, and to an existing directory."""
    (tmp_path / "dangling").symlink_to("gone")
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "real").mkdir()
    (tmp_path / "good").symlink_to("real")
    return tmp_path


@pytest.mark.parametrize("name", ["dangling", "dangling/below/it", "a", "b/below", "good/../dangling"])
def test_broken_links_raise(links, name):
    before = sorted(links.rglob("*"))
    with pytest.raises(
        FileNotFoundError, match=r"`place` must be a directory; got .* is a link to .*Create the target"
    ):
        read_output_dir(links / name, "place")
    assert sorted(links.rglob("*")) == before
    assert read_output_dir(links / "good" / "new") == links / "good" / "new"


def test_every_method_that_writes_raises_for_a_broken_link(links):
    X = np.ones(6, np.float32)
    model = ImpactModel(kernel, random.key(0), SVI(kernel, AutoNormal(kernel), optax.adam(0.1), Trace_ELBO()))
    model.set_posterior_sample({"b": np.ones(3, np.float32)})
    for argument, call in {
        "output_dir": lambda: model.predict(X, output_dir=links / "dangling"),
        "checkpoint_dir": lambda: model.fit(X, X, batch_size=3, epochs=1, checkpoint_dir=links / "dangling"),
        "path": lambda: model.save(links / "dangling"),
    }.items():
        with pytest.raises(FileNotFoundError, match=f"`{argument}` must be a directory; .* is a link to gone"):
            call()


def test_link_that_breaks_after_the_check_raises(links):
    """The loop over names of calls must end."""
    with pytest.raises(FileExistsError):
        new_call_location(Directory(links / "dangling"), "predict")


def test_missing_temporary_directory_raises(links, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(links / "dangling"))
    with pytest.raises(OSError, match=r"in the temporary directory; .*dangling cannot be written .*Set `TMPDIR`"):
        TemporaryDirectory()


def test_empty_path_raises():
    with pytest.raises(ValueError, match="`output_dir` must be a path; got an empty string"):
        read_output_dir("")
