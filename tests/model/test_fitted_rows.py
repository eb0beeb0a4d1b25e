"""References to the rows of the last fit."""

import copy
import gc
import pickle
import weakref

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pytest
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDelta

from aimz import ImpactModel
from aimz.methods.fitted_rows import FittedRows
from aimz.utils.data import ArrayDataset, ArrayLoader

X = np.linspace(-1.0, 1.0, 20, dtype=np.float32)
TREATED = (np.arange(20) % 2).astype(np.float32)
Y = 2.0 * X + TREATED


def kernel(X, treated=0.0, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 5.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(jnp.reshape(X, (X.shape[0], -1))[:, 0] * slope + treated, 1.0), obs=y)


def unfitted() -> ImpactModel:
    return ImpactModel(kernel, random.key(0), SVI(kernel, AutoDelta(kernel), numpyro.optim.Adam(0.05), Trace_ELBO()))


@pytest.mark.filterwarnings("ignore::aimz.FitWarning")
def test_the_model_refers_to_what_the_caller_passed(tmp_path):
    model = unfitted()
    with pytest.raises(TypeError, match="has not been fitted"):
        model._rows.require("effect")
    given = X.copy()
    model.fit_on_batch(given, Y, treated=TREATED, num_steps=2, num_samples=2, progress=False)
    rows = model._rows.require("effect")
    assert rows.X is given
    assert rows.y is Y
    assert rows.arguments["treated"] is TREATED
    assert copy.copy(model)._rows is rows  # of `thin_posterior`
    with pytest.raises(TypeError, match=r"`check` needs rows.*pickled.*Pass the input as `X`"):
        pickle.loads(pickle.dumps(rows)).require("check")
    model.save(tmp_path / "model")
    with pytest.raises(TypeError, match="loaded"):
        ImpactModel.load(tmp_path / "model", kernel)._rows.require("effect")
    model.cleanup()
    with pytest.raises(TypeError, match="`cleanup` released them"):
        model._rows.require("effect")

    frame = pd.DataFrame({"x": X, "treated": TREATED, "y": Y})
    of_frame = unfitted().fit(frame, epochs=1, batch_size=10, num_samples=2, progress=False)
    assert of_frame._rows.require("effect").X is frame
    lazy = pl.from_pandas(frame).lazy()  # read in chunks, each time
    assert unfitted().fit(lazy, num_samples=2, progress=False)._rows.require("effect").X is lazy
    loader = ArrayLoader(ArrayDataset(X=X, y=Y), random.key(1), batch_size=5)
    model.fit(loader, num_samples=2, progress=False)
    assert model._rows.require("effect").X is loader.dataset
    model.fit([{"X": X, "y": Y}], num_samples=2, progress=False)
    with pytest.raises(TypeError, match="iterable of batches"):
        model._rows.require("effect")
    model.train_on_batch(X, Y)
    with pytest.raises(TypeError, match="train_on_batch"):
        model._rows.require("effect")
    model.set_posterior_sample({"slope": np.zeros(3)})
    with pytest.raises(TypeError, match="set_posterior_sample"):
        model._rows.require("effect")


@pytest.mark.filterwarnings("ignore::aimz.FitWarning")
def test_a_new_fit_releases_the_rows_of_the_previous_one():
    model = unfitted()
    first = X.copy()
    gone = weakref.ref(first)
    model.fit_on_batch(first, Y, num_steps=2, num_samples=2, progress=False)
    del first
    gc.collect()
    assert gone() is not None
    model.fit_on_batch(X, Y, num_steps=2, num_samples=2, progress=False)
    gc.collect()
    assert gone() is None


@pytest.mark.filterwarnings("ignore::aimz.FitWarning")
def test_rows_modified_in_place_raise():
    model = unfitted()
    given = X.copy()
    model.fit_on_batch(given, Y, num_steps=2, num_samples=2, progress=False)
    call = model._engine.read_call(given, {})
    FittedRows.check_unchanged(model._observed, call)
    given += 1
    with pytest.raises(ValueError, match=r"modified in place.*`X` has other values.*fit again"):
        FittedRows.check_unchanged(model._observed, model._engine.read_call(given, {}))
