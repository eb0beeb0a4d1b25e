"""Data, a fitted model and a tracking store, shared by the tests of the flavor."""

import warnings

import numpy as np
import numpyro
import pandas as pd
import pytest
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import aimz.mlflow
import importable_kernels
from aimz import ImpactModel

import mlflow  # isort: skip  (aimz.mlflow imports it without its warnings)


@pytest.fixture(scope="session")
def customers():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"months": rng.exponential(2.0, 200), "price": rng.normal(size=200)})
    table["mail"] = rng.integers(0, 2, 200)
    table["y"] = 5 - table["months"] + 2 * table["price"] + 3 * table["mail"] + rng.normal(size=200)
    table.index = [f"customer {i}" for i in range(200)]
    return table


@pytest.fixture
def new_model():
    """Return a function that creates a model with an inference of its own."""

    def make(kernel=importable_kernels.shop, **names):
        svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.05), Trace_ELBO())
        return ImpactModel(kernel, random.key(0), svi, **names)

    return make


@pytest.fixture(scope="session")
def fitted(customers):
    model = ImpactModel(importable_kernels.shop, random.key(0), importable_kernels.svi)
    return model.fit_on_batch(customers, num_steps=500, num_samples=400, progress=False)


@pytest.fixture(scope="session")
def database(tmp_path_factory):
    """Tracking store on disk, created once because that takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    uri = f"sqlite:///{folder}/mlflow.db"
    with warnings.catch_warnings(action="ignore"):
        mlflow.MlflowClient(uri).create_experiment("tests", artifact_location=str(folder / "artifacts"))
    return uri


@pytest.fixture
def store(database, monkeypatch):
    """Client of the tracking store; MLflow's settings are restored after the test."""
    before = mlflow.get_tracking_uri()
    monkeypatch.setenv("MLFLOW_AUTOLOGGING_TESTING", "true")
    mlflow.set_tracking_uri(database)
    mlflow.set_experiment("tests")
    yield mlflow.MlflowClient()
    aimz.mlflow.autolog(disable=True)
    while mlflow.active_run() is not None:
        mlflow.end_run()
    mlflow.set_tracking_uri(before)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
