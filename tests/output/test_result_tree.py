"""The text of results, and that their trees work as trees of xarray do."""

import copy
import pickle

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
  Rows:   30 along 'customer'
  Draws:  40 (2 chains of 20)
  Stored: {place}, 5.48 kB
  Groups: posterior, posterior_predictive
  Table:  result['posterior_predictive'].to_dataset().mean(('chain', 'draw')).to_dataframe()"""
    size = sum(array.nbytes for group in result.children.values() for array in group.data_vars.values())
    expected = expected.replace("5.48", f"{size / 1000:.3g}")
    assert repr(result) == str(result) == expected
    assert result._repr_html_().startswith("<pre>&lt;Result: ")
    assert repr(result["posterior"]).startswith("<xarray.DataTree 'posterior'>")
    namespace = {"result": result}
    table = eval(expected.splitlines()[-1].partition(":")[2].strip(), namespace)
    assert len(table) == 30
    if stored:
        assert repr(aimz.open_result(place)).splitlines()[0] == expected.splitlines()[0]


def test_text_of_effects(model):
    effects = model.effect("mail", X=X, args={"mail": X > 0.2}, by={"half": X > 0.5}, progress=False).tree
    assert repr(effects).splitlines()[:3] == [
        "<Result: effects on `y`>",
        "  Rows:   averages over 30, by half",
        "  Draws:  40 (2 chains of 20)",
    ]
    assert repr(effects).endswith("Table:  aimz.summary(result)")
    rows = model.predict(X, progress=False, store="memory", statistics=("mean", 0.05))
    assert "statistics mean, 0.05 of 40 draws" in repr(rows)
    assert repr(model.posterior_tree()).splitlines()[-1] == "  Table:  arviz_stats.summary(result)"


def test_operations_of_xarray(model):
    import arviz_base

    result = model.predict_on_batch(X)
    assert isinstance(result, xr.DataTree)
    for same in (copy.deepcopy(result), pickle.loads(pickle.dumps(result)), result.copy(), result.load()):
        assert repr(same) == repr(result)
        assert same.identical(result)
    plain = xr.DataTree.from_dict({name: group.to_dataset() for name, group in result.children.items()})
    plain.attrs = result.attrs
    assert plain.identical(result)
    assert result.identical(plain)
    assert result.isel(draw=0)["posterior"].sizes == {"chain": 2}
    doubled = result.map_over_datasets(lambda group: 2 * group)
    np.testing.assert_allclose(doubled["posterior"]["gain"], 2 * result["posterior"]["gain"])
    assert arviz_base.convert_to_datatree(result) is result
    changed = result.assign(extra=plain["posterior"])
    assert "Groups: posterior, posterior_predictive, extra" in repr(changed)
