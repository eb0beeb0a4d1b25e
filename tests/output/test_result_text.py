"""The text of results, and its display by IPython and by Python's prompt."""

import builtins
import sys

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from jax import random
from numpyro.infer import MCMC, NUTS

import aimz

X = np.linspace(0, 1, 30, dtype=np.float32)


def kernel(X, mail=0, y=None):
    gain = numpyro.sample("gain", dist.Normal())
    with numpyro.plate("customer", X.shape[0]):
        numpyro.sample("y", dist.Normal(X + gain * mail, 1.0), obs=y)


@pytest.fixture(scope="module")
def model():
    model = aimz.ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    return model.set_posterior_sample({"gain": np.linspace(0, 1, 40)}, num_chains=2)


@pytest.mark.parametrize("stored", [True, False])
def test_text_of_predictions(model, stored, tmp_path):
    where = {"output_dir": tmp_path} if stored else {"store": "memory"}
    result = model.predict(X, progress=False, **where)
    place = result.attrs["artifact_path"] if stored else "in memory"
    expected = f"""\
<Result: posterior predictions of `y`>
  Rows:   30 along 'customer', taken as the rows of the fit
  Draws:  40 (2 chains of 20)
  Stored: {place}, 5.48 kB
  Groups: posterior, posterior_predictive
  Table:  result['posterior_predictive'].to_dataset().mean(('chain', 'draw')).to_dataframe()"""
    size = sum(array.nbytes for group in result.children.values() for array in group.data_vars.values())
    expected = expected.replace("5.48", f"{size / 1000:.3g}")
    assert aimz.describe_result(result) == expected
    namespace = {"result": result}
    table = eval(expected.splitlines()[-1].partition(":")[2].strip(), namespace)
    assert len(table) == 30
    if stored:
        assert aimz.describe_result(aimz.open_result(place)).splitlines()[0] == expected.splitlines()[0]


def test_text_of_effects(model):
    effects = model.effect("mail", X=X, args={"mail": X > 0.2}, by={"half": X > 0.5}, progress=False)
    text = aimz.describe_result(effects)
    assert text == aimz.describe_result(effects.tree)
    assert text.splitlines()[:3] == [
        "<Result: effects on `y`>",
        "  Rows:   averages over 30, by half",
        "  Draws:  40 (2 chains of 20)",
    ]
    assert text.endswith("Table:  aimz.summary(result)")
    rows = model.predict(X, in_sample=False, progress=False, store="memory", statistics=("mean", 0.05))
    assert "Rows:   30 along 'customer', taken as new observations" in aimz.describe_result(rows)
    assert "statistics mean, 0.05 of 40 draws" in aimz.describe_result(rows)
    assert aimz.describe_result(model.posterior_tree()).splitlines()[-1] == "  Table:  arviz_stats.summary(result)"


def test_ipython_displays_the_text_of_results_only(model):
    from IPython.core.formatters import DisplayFormatter

    from aimz.output import register_displays

    display = DisplayFormatter()
    register_displays(display.formatters)
    result = model.predict_on_batch(X)
    shown, _ = display.format(result)
    assert shown["text/plain"] == aimz.describe_result(result)
    assert shown["text/html"].startswith("<pre>&lt;Result: posterior predictions of `y`&gt;")
    for other in (result["posterior"], xr.DataTree.from_dict({"posterior": result["posterior"].to_dataset()})):
        shown, _ = display.format(other)
        assert shown["text/plain"] == repr(other)
        assert not shown["text/html"].startswith("<pre>&lt;Result")


def test_the_prompt_displays_the_text_of_results_only(model, monkeypatch, capsys):
    from aimz.output import register_prompt

    monkeypatch.setattr("builtins._", None, raising=False)
    monkeypatch.setattr(sys, "displayhook", sys.__displayhook__)
    register_prompt()
    result = model.predict_on_batch(X)
    for value, text in ((result, aimz.describe_result(result)), (result["posterior"], repr(result["posterior"]))):
        sys.displayhook(value)
        assert capsys.readouterr().out == f"{text}\n"
        assert builtins._ is value


@pytest.mark.parametrize("other", [3, xr.DataTree(), xr.Dataset()])
def test_other_objects_are_errors(other):
    with pytest.raises(TypeError, match="`result` must be a tree that a method of `ImpactModel` returned"):
        aimz.describe_result(other)
