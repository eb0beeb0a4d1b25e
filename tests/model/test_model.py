"""Representations, properties and small conveniences of ``ImpactModel``."""

import inspect
from html.parser import HTMLParser

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS

from aimz import ImpactModel
from aimz.data import key_from_text, key_to_text
from aimz.errors import NotFittedError
from kernels import BY_NAME, CASES, fitted_model, new_model


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_describe_fits_80_columns_and_names_all_sites(case):
    model = new_model(case)
    assert "not traced yet" in repr(model)
    assert "has not been traced yet" in model.describe()
    text = model.describe(**case.arguments(), y=case.y)
    assert max(map(len, text.splitlines())) <= 80
    for site in model.kernel_spec.sites:
        assert site.name in text
    for shown in (model, model.kernel_spec):
        assert max(map(len, repr(shown).splitlines())) <= 80
        assert str(shown) == repr(shown)
    for site in model.kernel_spec.sites:
        assert site.name in repr(model.kernel_spec)
    assert model.rng_key == random.key(1)


def test_describe_raises_for_arguments_without_the_input():
    case = CASES[0]
    model = new_model(case)
    with pytest.raises(TypeError, match="got `X=None` with other arguments"):
        model.describe(y=case.y)


def test_describe_mentions_local_sites_and_parameters():
    text = new_model(BY_NAME["local_latents"]).describe(BY_NAME["local_latents"].X)
    assert "latent, local" in text
    assert "there was none yet" in text
    assert "Parameters (s) take their fitted values" in new_model(BY_NAME["param_site"]).describe(
        BY_NAME["param_site"].X
    )
    closed = BY_NAME["closed_over"]
    assert "could only be traced at the number of rows" in new_model(closed).describe(closed.X)


class StudentTDistributionWithANameThatIsLongEnoughToFillAWholeLineOfTheTableOfSites(dist.StudentT):
    """Distribution with a name as long as a line."""


def awkward(input_with_a_name_that_is_much_too_long_for_a_single_line_of_text, output_with_another_long_name=None):
    """Kernel with long names, many parents and no spaces where lines could be broken."""
    X, y = input_with_a_name_that_is_much_too_long_for_a_single_line_of_text, output_with_another_long_name
    mu = X
    for i in range(30):
        mu = mu + numpyro.sample(
            f"a_site_with_a_name_that_leaves_no_room_for_other_columns_of_the_table_{i}", dist.Normal()
        )
    numpyro.sample("a" * 200, dist.Normal().expand([2, 3, 4, 5, 6, 7, 8]))
    with numpyro.plate("a_plate_with_a_long_name_that_describes_its_rows_in_every_detail", X.shape[0]):
        tail = StudentTDistributionWithANameThatIsLongEnoughToFillAWholeLineOfTheTableOfSites(3.0, mu, 1.0)
        numpyro.sample("output_with_another_long_name", tail, obs=y)


def html_named(X, y=None):
    b = numpyro.sample("<b>", dist.Normal())
    numpyro.sample("y", dist.Normal(b).expand([X.shape[0]]), obs=y)


def make(kernel, **names):
    return ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1), **names)


def test_long_names_fit_80_columns():
    param_input, param_output = inspect.signature(awkward).parameters
    model = make(awkward, param_input=param_input, param_output=param_output)
    texts = [model.describe(), repr(model), model.describe(np.zeros(3)), repr(model), repr(model.kernel_spec)]
    for text in texts:
        assert max(map(len, text.splitlines())) <= 80
    for i in range(30):  # shortened names keep both ends, which distinguish them
        assert any(line.split()[0].endswith(f"_{i}") for line in texts[2].splitlines() if line.startswith("a_site"))


def test_html_escapes_names():
    model = make(html_named)
    model.describe(np.zeros(3))
    for shown in (model, model.kernel_spec):
        page = shown._repr_html_()
        assert "<td>&lt;b&gt;</td>" in page
        assert "<td><b></td>" not in page
        Balanced().feed(page)


class Balanced(HTMLParser):
    """Parser that checks that every open tag is closed."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_html_contains_facts_and_table_of_sites():
    case = BY_NAME["linear"]
    model = fitted_model(case)
    assert "Results" not in model._repr_html_()
    model.predict(**case.arguments(), progress=False)
    page = model._repr_html_()
    for text in ("linear", "X, y", "MCMC with NUTS", "6 posterior draws", model.temp_dir, "<td>sigma</td>", "(n_obs,)"):
        assert text in page
    assert model.temp_dir in repr(model)
    model.cleanup()
    assert "Results" not in repr(model)


def test_repr_of_a_spec_is_a_table():
    model = new_model(BY_NAME["hierarchical"])
    model.describe(**BY_NAME["hierarchical"].arguments())
    lines = repr(model.kernel_spec).splitlines()
    assert lines[0] == "<KernelSpec: 4 sites of a kernel of X and y, rows along 'obs'>"
    assert lines[4].split() == ["alpha", "latent", "(4,)", "Normal", "mu,", "tau"]
    page = model.kernel_spec._repr_html_()
    assert "<tr><td>alpha</td><td>latent</td><td>(4,)</td><td>Normal</td><td>mu, tau</td></tr>" in page


def test_properties():
    case = BY_NAME["linear"]
    model = new_model(case)
    assert model.kernel is case.kernel
    assert (model.param_input, model.param_output) == ("X", "y")
    assert (
        model.posterior
        is model.kernel_spec
        is model.vi_result
        is model.vi_state
        is model._vi_state
        is model.temp_dir
        is None
    )
    assert not model.is_fitted()
    model = fitted_model(case)
    assert model.is_fitted()
    assert set(model.posterior) == {"a", "b", "sigma"}
    model.posterior.clear()  # a copy
    assert model.posterior


def test_inputs_are_those_of_the_last_fit():
    case = BY_NAME["linear"]
    model = new_model(case)
    empty = model.inputs
    assert (empty.extra, empty.columns, empty.static, empty.arrays, empty.n_obs) == ((), (), {}, None, None)
    frame = pd.DataFrame({"a": case.X[:, 0], "b": case.X[:, 1], "c": case.X[:, 2]})
    model.fit_on_batch(frame, case.y, progress=False)
    inputs = model.inputs
    assert (inputs.columns, inputs.n_obs, set(inputs.arrays)) == (("a", "b", "c"), len(frame), {"X"})
    np.testing.assert_allclose(inputs.arrays["X"], frame)
    model.set_posterior_sample(model.posterior)
    assert (model.inputs.columns, model.inputs.arrays, model.inputs.n_obs) == (("a", "b", "c"), None, None)


def test_posterior_tree_has_chains_and_sample_stats():
    with pytest.raises(NotFittedError, match="`posterior_tree` needs a posterior"):
        new_model(BY_NAME["linear"]).posterior_tree()
    model = fitted_model(BY_NAME["linear"])
    tree = model.posterior_tree()
    assert set(tree["posterior"].data_vars) == set(model.posterior)
    np.testing.assert_array_equal(tree["posterior"]["sigma"].values.ravel(), model.posterior["sigma"])
    assert ("sample_stats" in tree) == (model._posterior.sample_stats is not None)


def test_thin_posterior_keeps_evenly_spaced_draws():
    case = BY_NAME["linear"]
    model = fitted_model(case)
    thinned = model.thin_posterior(2)
    np.testing.assert_array_equal(thinned.posterior["sigma"], model.posterior["sigma"][np.array([0, 5])])
    assert model.posterior["sigma"].shape == (6,)
    assert thinned.predict_on_batch(case.X)["posterior_predictive"]["y"].shape == (1, 2, len(case.X))
    with pytest.raises(ValueError, match="`num_draws` must be at most the number of posterior draws, 6; got 7"):
        model.thin_posterior(7)


def test_other_names_of_input_and_output():
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import MCMC, NUTS

    from aimz import ImpactModel

    def kernel(features, extra, target=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("row", features.shape[0]):
            numpyro.sample("target", dist.Normal(b * features + extra), obs=target)

    mcmc = MCMC(NUTS(kernel), num_warmup=5, num_samples=4, progress_bar=False)
    model = ImpactModel(kernel, random.key(0), mcmc, param_input="features", param_output="target")
    x = np.arange(5.0)
    model.fit_on_batch(x, x, extra=x, progress=False)
    assert model.predict_on_batch(x, extra=x)["posterior_predictive"]["target"].shape == (1, 4, 5)
    assert model.sample(num_samples=3, features=x, target=x, extra=x)["posterior"]["b"].shape == (1, 3)
    with pytest.raises(TypeError, match="`target` is a reserved kernel parameter"):
        model.predict_on_batch(x, extra=x, target=x)
    effect = model.estimate_effect(
        args_baseline={"features": x, "extra": x}, args_intervention={"features": x, "extra": x + 1}
    )
    np.testing.assert_allclose(effect["posterior_predictive"]["target"], 1, atol=1e-5)


@pytest.mark.parametrize("seed", [0, 7, 2**31])
def test_keys_survive_conversion_to_text(seed):
    for key in (random.key(seed), random.key(seed, impl="rbg")):
        back = key_from_text(key_to_text(key))
        assert back == key
        assert jax.random.key_impl(back) == jax.random.key_impl(key)


def test_return_sites():
    case = BY_NAME["linear"]
    model = fitted_model(case)
    for return_sites, expected in (
        (None, {"y", "mu"}),
        ("mu", {"mu"}),
        (["b", "y", "b"], {"b", "y"}),
        ([], set()),
        (iter(["a"]), {"a"}),
    ):
        tree = model.predict_on_batch(case.X, return_sites=return_sites)
        assert set(tree["posterior_predictive"].data_vars) == expected


def test_intervention_values():
    case = BY_NAME["multi_output"]
    model = fitted_model(case)
    n = len(case.X)
    by_row = np.arange(n, dtype=float)

    def mu(value):
        return model.predict_on_batch(case.X, intervention={"mu": value}, return_sites="mu", return_datatree=False)[
            "mu"
        ]

    for value in (by_row, by_row[:, None], np.repeat(by_row[:, None], 2, 1), list(by_row)):
        np.testing.assert_array_equal(mu(value)[0], np.repeat(by_row[:, None], 2, 1))
    np.testing.assert_array_equal(mu([1.0, 2.0])[0], np.tile([1.0, 2.0], (n, 1)))
    factual = mu(lambda value: value)
    np.testing.assert_allclose(mu(lambda value: value + 1), factual + 1, atol=1e-6)
    two = {"X": case.X[:2], "intervention": {"mu": [1.0, 2.0]}}
    with pytest.raises(ValueError, match=r"could run along the first or the last axes of \(2, 2\)"):
        model.predict_on_batch(**two)


def test_intervention_on_an_integer_site_keeps_fractions():
    case = BY_NAME["logistic"]
    for value, dtype in ((0.5, np.float32), (1.0, np.int32), (1, np.int32), (True, np.int32)):
        got = fitted_model(case).predict_on_batch(case.X, intervention={"y": value}, return_datatree=False)["y"]
        assert (got.dtype, float(got[0, 0])) == (dtype, float(value))


def test_callable_intervention_receives_posterior_draws():
    case = BY_NAME["linear"]
    model = fitted_model(case)
    got = model.predict_on_batch(
        case.X, intervention={"b": lambda b: 2 * b}, return_sites=["b", "mu"], return_datatree=False
    )
    np.testing.assert_allclose(got["b"], 2 * model.posterior["b"], rtol=1e-6)
    expected = model.posterior["a"][:, None] + 2 * model.posterior["b"] @ case.X.T
    np.testing.assert_allclose(got["mu"], expected, rtol=1e-4, atol=1e-4)


def test_static_arguments_reach_the_kernel_as_plain_values():
    import numpyro
    import numpyro.distributions as dist

    from aimz import ImpactModel

    seen = []

    def kernel(X, n_groups, size, names=("a",), scale=None, y=None):
        seen.append((n_groups, type(n_groups), size, type(size), names, scale))
        numpyro.sample("a", dist.Normal().expand([n_groups]))
        numpyro.sample("y", dist.Normal().expand([X.shape[0]]), obs=y)

    from numpyro.infer import MCMC, NUTS

    model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    model.set_posterior_sample({"a": np.zeros((2, 3))})
    model.predict_on_batch(np.zeros(4), n_groups=np.int64(3), size=np.array(3), names=["b", "c"], scale=np.float32(0.5))
    assert all(arguments == (3, int, 3, int, ["b", "c"], 0.5) for arguments in seen)


def test_invalid_callables_raise_before_the_key_is_split():
    model = fitted_model(BY_NAME["linear"])
    key = model.rng_key
    for value, error, match in (
        (lambda b: np.minimum(np.asarray(b), 0), TypeError, "must use `jax.numpy`"),
        (lambda b: b.sum(), ValueError, r"must return an array of its shape \(3,\); it returns \(\)"),
    ):
        with pytest.raises(error, match=match):
            model.predict_on_batch(BY_NAME["linear"].X, intervention={"b": value})
    assert model.rng_key == key


def test_labels_do_not_change_with_the_objects_that_were_passed(tmp_path):
    coords = {"col": ["u", "v"]}

    def by_column(X, y=None):
        b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]))
        numpyro.sample("y", dist.Normal(X @ b, 1.0), obs=y)

    model = ImpactModel(by_column, random.key(0), coords=coords, dims={"b": ["col"]})
    model.set_posterior_sample({"b": np.ones((3, 2))})
    coords["col"] = ["s", "t"]
    model.save(tmp_path / "model")
    for one in (model, ImpactModel.load(tmp_path / "model", by_column)):
        result = one.predict_on_batch(np.ones((4, 2)))
        assert result["posterior"]["col"].values.tolist() == ["u", "v"]
