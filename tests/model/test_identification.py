"""The graph of a kernel, and whether its effects are identified under the user's graph."""

import pickle
from pathlib import Path

import networkx as nx
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from numpyro.contrib.control_flow import scan

from aimz import ImpactModel

pytestmark = pytest.mark.filterwarnings("ignore:.*local latent site")

NHEFS = Path(__file__).resolve().parents[3] / "shared" / "data" / "nhefs.csv"
ROWS = np.linspace(-1.0, 1.0, 6).astype("float32")
DATA = pd.DataFrame({"campaign": ROWS, "demand": ROWS**2, "price": ROWS[::-1]})


def sales(X, shop, n_shops, y=None, *, visits=None):
    """Sales of a campaign, which works through visitors, in shops with levels of their own."""
    spread = numpyro.sample("spread", dist.HalfNormal())
    gain = numpyro.sample("gain", dist.Normal().expand([5]))
    with numpyro.plate("shops", n_shops):
        level = numpyro.sample("level", dist.Normal(0.0, spread))
    twice = numpyro.deterministic("twice", 2 * level)
    with numpyro.plate("week", X.shape[0]):
        mean = numpyro.deterministic("mean", gain[0] * X[:, 0] + gain[1] * X[:, 1])
        shock = numpyro.sample("shock", dist.Normal())
        visitors = numpyro.sample("visitors", dist.Normal(mean), obs=visits)
        numpyro.sample(
            "y", dist.Normal(gain[2] * visitors + gain[3] * X[:, :2] @ gain[:2] + twice[shop] + shock), obs=y
        )


CALL = {"X": DATA, "args": {"shop": np.arange(6) % 2, "n_shops": 2, "visits": ROWS}}


@pytest.fixture
def model():
    draws = {"spread": np.ones(4), "gain": np.ones((4, 5)), "level": np.zeros((4, 2)), "shock": np.zeros((4, 6))}
    return ImpactModel(sales, 0).set_posterior_sample(draws)


def test_graph_has_sites_arguments_and_columns(model):
    graph = model.graph(**CALL)
    assert isinstance(graph, nx.DiGraph)
    assert set(graph.edges) == {
        ("campaign", "mean"),
        ("demand", "mean"),
        ("mean", "visitors"),
        ("visitors", "y"),
        ("campaign", "y"),
        ("demand", "y"),
        ("shock", "y"),
        ("shop", "y"),
    }
    # `price` is read by no site; data of `visitors` are no variable of their own, and `n_shops` is a number.
    assert set(graph) == {"campaign", "demand", "price", "shop", "mean", "shock", "visitors", "y"}
    assert graph.nodes["campaign"] == {
        "kind": "column",
        "observed": True,
        "local": True,
        "parameter": False,
        "role": None,
        "distribution": None,
    }
    assert graph.nodes["shop"]["kind"] == "argument"
    assert graph.nodes["visitors"]["observed"]
    assert graph.nodes["visitors"]["distribution"] == "Normal"
    assert not graph.nodes["shock"]["observed"]
    assert graph.nodes["shock"]["local"]


def test_parameters_are_left_out_unless_requested(model):
    graph = model.graph(**CALL, parameters=True)
    parameters = {name for name, about in graph.nodes(data=True) if about["parameter"]}
    assert parameters == {"spread", "gain", "level", "twice"}
    assert {("spread", "level"), ("level", "twice"), ("twice", "y"), ("gain", "mean")} <= set(graph.edges)


def test_columns_without_names_are_numbered(model):
    graph = model.graph(DATA.to_numpy(), args=CALL["args"])
    assert set(graph.pred["mean"]) == {"X[:, 0]", "X[:, 1]"}
    assert model.identify("X[:, 0]", graph='"X[:,1]" -> y; X[:, 0] -> visitors -> y').answer == "yes"


def test_graph_of_a_masked_output():
    def kernel(X, seen, y=None):
        numpyro.sample("y", dist.Normal(X), obs=y, obs_mask=seen)

    model = ImpactModel(kernel, 0)
    graph = model.graph(ROWS, args={"seen": np.ones(6, bool)})
    assert set(graph.pred["y"]) == {"X", "seen"}
    assert set(graph) == {"X", "seen", "y"}


def test_graph_before_any_call():
    with pytest.raises(TypeError, match="read from a call, and there was none"):
        ImpactModel(sales, 0).graph()


def test_effects_have_the_verdict(model, tmp_path):
    with pytest.raises(TypeError, match="got no `graph`"):
        model.identify("campaign", unobserved="weather", **CALL)
    options = {**CALL, "progress": False}
    assert "identified" not in model.effect("campaign", **options).tree["effect"].attrs
    graph = "demand -> campaign -> visits -> y; demand -> {visits y}; campaign -> y; campaign <-> budget"
    found = model.identify("campaign", graph=graph, observed="budget", **CALL)
    assert found.ok
    assert found.answer == "yes"
    assert found.adjusted == ("demand", "shop")
    assert found.modeled == ("visitors", "y")
    assert found.adjustment_sets == (("demand",),)
    assert found.identifiable
    assert found.to_pandas()["check"].tolist() == ["treatment not modeled", "not in the graph"]
    assert str(found).startswith("Under the given graph, the kernel computes the effect of `campaign` on `y`")
    assert "budget" in model.causal_graph
    verdicts = {
        name: model.effect(name, **options).tree["effect"].attrs["identified"]
        for name in ("campaign", "demand", "price", "visitors")
    }
    assert verdicts["campaign"] == "yes, under the given graph"
    # `campaign` is a mediator of `demand`, held fixed; `campaign` and `demand` are held fixed for `visitors`.
    assert verdicts["demand"] == "no, under the given graph: mediator held fixed (campaign)"
    assert verdicts["price"].startswith("not checked: Treatment and outcome must be in the graph")
    assert verdicts["visitors"] == "yes, under the given graph"
    predicted = model.predict_on_batch(DATA, intervention={"campaign": 0.0}, **CALL["args"])
    assert predicted["posterior_predictive"].attrs["identified"] == verdicts["campaign"]
    assert "identified" not in model.predict_on_batch(DATA, **CALL["args"])["posterior_predictive"].attrs
    model.save(tmp_path / "model")
    for other in (ImpactModel.load(tmp_path / "model", sales), pickle.loads(pickle.dumps(model))):
        assert nx.utils.graphs_equal(other.causal_graph, model.causal_graph)
        assert other.effect("campaign", **options).tree["effect"].attrs["identified"] == verdicts["campaign"]
        assert other.identify("demand", **CALL).answer == "no"


def test_without_a_graph_the_answer_is_not_known(model):
    found = model.identify("campaign", **CALL)
    assert found.answer == "not known"
    assert not found.ok
    assert "cannot vouch for itself" in found.sentence
    assert "nothing except `demand`, `shop` affects both `campaign` and `y`" in found.findings[0].text
    assert model.causal_graph is None


@pytest.mark.parametrize(
    ("treatment", "options", "message"),
    [
        ("campaing", {"graph": "campaign -> y"}, "Did you mean 'campaign'"),
        ("campaign", {"graph": "campaign -> y; demnad -> y"}, "got 'demnad'. Did you mean 'demand'"),
        ("campaign", {"graph": "campaign -> y; level -> y"}, "`level`|'level', a parameter of the kernel"),
        ("campaign", {"graph": "campaign -> y; n_shops -> y"}, "one value for all rows"),
        ("y", {"graph": "campaign -> y"}, "Treatment and outcome must differ"),
        ("campaign", {"graph": "y -> campaign"}, "`y` is a cause of `campaign`"),
        ("campaign", {"graph": "demand -> y"}, "must be in the graph"),
        ("campaign", {"graph": "campaign -> y; demand -> y", "unobserved": "demand"}, "cannot have data"),
        ("campaign", {"graph": "campaign -> y", "unobserved": "weather"}, "must list variables of the graph"),
        ("visitors", {"graph": "visitors -> campaign", "outcome": "campaign"}, "must not affect the treatment"),
        ([], {"graph": "campaign -> y"}, "empty list"),
    ],
)
def test_wrong_names_and_graphs(model, treatment, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        model.identify(treatment, **options, **CALL)
    assert model.causal_graph is None


def test_sites_in_a_scan_are_rejected():
    def kernel(X, y=None):
        def step(level, x):
            level = numpyro.sample("level", dist.Normal(level + x))
            return level, level

        _, levels = scan(step, 0.0, X)
        numpyro.sample("y", dist.Normal(levels), obs=y)

    model = ImpactModel(kernel, 0)
    assert ("level", "y") in model.graph(ROWS).edges
    with pytest.raises(ValueError, match="inside a `scan`"):
        model.identify("X", graph="X -> y", X=ROWS)


def test_latent_site_above_treatment_and_outcome():
    def kernel(X, y=None, *, dose=None):
        effect = numpyro.sample("effect", dist.Normal())
        with numpyro.plate("patient", X.shape[0]):
            frailty = numpyro.sample("frailty", dist.Normal())
            taken = numpyro.sample("taken", dist.Normal(frailty + X), obs=dose)
            numpyro.sample("y", dist.Normal(frailty + effect * taken + X), obs=y)

    model = ImpactModel(kernel, 0)
    found = model.identify("taken", graph="X -> taken -> y; X -> y; taken <-> y", X=ROWS, args={"dose": ROWS})
    assert [one.check for one in found.findings] == ["hidden common cause", "local latent above both"]
    assert not found.identifiable
    found = model.identify("taken", graph="X -> taken -> y; X -> y; frailty -> taken; frailty -> y")
    assert [(one.check, one.names) for one in found.findings] == [
        ("hidden common cause", ("frailty",)),
        ("local latent above both", ("frailty",)),
    ]


def test_parameters_are_no_common_causes():
    """Parameters are parents of every site; if they were in the graph, each pair of sites would be confounded."""

    def kernel(X, y=None, *, dose=None):
        scale = numpyro.sample("scale", dist.HalfNormal())
        with numpyro.plate("patient", X.shape[0]):
            taken = numpyro.sample("taken", dist.Normal(X, scale), obs=dose)
            numpyro.sample("y", dist.Normal(taken + X, scale), obs=y)

    assert ImpactModel(kernel, 0).identify("taken", graph="X -> taken -> y; X -> y", X=ROWS, args={"dose": ROWS}).ok


@pytest.mark.skipif(not NHEFS.exists(), reason="needs nhefs.csv of CausalPy")
def test_standardized_effect_of_quitting_smoking():
    """Weight gained by quitting smoking is 3.5 kg (Hernan and Robins, What If, program 13.3)."""
    rows = pd.read_csv(NHEFS)
    X, y = rows.drop(columns="outcome"), rows["outcome"].to_numpy()
    names = list(X)

    def gain(X, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 100.0).expand([len(names) + 2]).to_event(1))
        crossed = X[:, names.index("trt")] * X[:, names.index("smokeintensity")]
        with numpyro.plate("person", X.shape[0]):
            numpyro.sample("y", dist.Normal(b[0] + X @ b[1:-1] + b[-1] * crossed), obs=y)

    design = np.column_stack([np.ones(len(X)), X, X["trt"] * X["smokeintensity"]])
    coefficients = np.linalg.lstsq(design, y, rcond=None)[0]
    model = ImpactModel(gain, 0).set_posterior_sample({"b": np.tile(coefficients.astype("float32"), (4, 1))})
    others = "; ".join(f'"{name}" -> {{trt y}}' for name in names if name != "trt")
    found = model.identify("trt", graph=f"trt -> y; {others}", X=X)
    assert found.ok
    assert set(found.adjusted) == {*names} - {"trt"}
    effect = model.effect("trt", X=X, progress=False)
    assert float(effect.draws.mean()) == pytest.approx(3.517, abs=5e-4)
    assert effect.tree["effect"].attrs["identified"] == "yes, under the given graph"
