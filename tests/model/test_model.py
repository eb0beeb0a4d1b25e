"""The face of the model: what it says of itself, and small things users rely on."""

import jax
import numpy as np
import pytest
from jax import random

from aimz.model.keys import describe_key, parse_key
from kernels import BY_NAME, CASES, fitted_model, new_model


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_describe_is_readable_at_80_columns(case):
    model = new_model(case)
    assert "not traced yet" in repr(model)
    assert "has not been traced yet" in model.describe()
    text = model.describe(**case.arguments(), y=case.y)
    assert max(map(len, text.splitlines())) <= 80
    for site in model.kernel_spec.sites:
        assert site.name in text
    assert max(map(len, repr(model).splitlines())) <= 80
    assert model.rng_key == random.key(1)


def test_what_describe_says():
    text = new_model(BY_NAME["local_latents"]).describe(BY_NAME["local_latents"].X)
    assert "latent, local" in text
    assert "there was none yet" in text
    assert "Parameters (s) take their fitted values" in new_model(BY_NAME["param_site"]).describe(
        BY_NAME["param_site"].X
    )
    closed = BY_NAME["closed_over"]
    assert "could only be traced at the number of rows" in new_model(closed).describe(closed.X)


def test_html_escapes_what_the_user_wrote():
    def kernel(X, y=None):
        import numpyro
        import numpyro.distributions as dist

        b = numpyro.sample("<b>", dist.Normal())
        numpyro.sample("y", dist.Normal(b).expand([X.shape[0]]), obs=y)

    from numpyro.infer import MCMC, NUTS

    from aimz import ImpactModel

    model = ImpactModel(kernel, random.key(0), MCMC(NUTS(kernel), num_warmup=1, num_samples=1))
    model.describe(np.zeros(3))
    page = model._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<td><b></td>" not in page


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
def test_keys_are_recorded_and_read_back(seed):
    for key in (random.key(seed), random.key(seed, impl="rbg")):
        back = parse_key(describe_key(key))
        assert back == key
        assert jax.random.key_impl(back) == jax.random.key_impl(key)


def test_return_sites():
    case = BY_NAME["linear"]
    model = fitted_model(case)
    for asked, got in (
        (None, {"y", "mu"}),
        ("mu", {"mu"}),
        (["b", "y", "b"], {"b", "y"}),
        ([], set()),
        (iter(["a"]), {"a"}),
    ):
        tree = model.predict_on_batch(case.X, return_sites=asked)
        assert set(tree["posterior_predictive"].data_vars) == got


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


def test_half_a_dose_of_a_binary_treatment_is_half():
    case = BY_NAME["logistic"]
    for value, dtype in ((0.5, np.float32), (1.0, np.int32), (1, np.int32), (True, np.int32)):
        got = fitted_model(case).predict_on_batch(case.X, intervention={"y": value}, return_datatree=False)["y"]
        assert (got.dtype, float(got[0, 0])) == (dtype, float(value))


def test_callable_on_a_latent_site_acts_on_its_posterior_draw():
    case = BY_NAME["linear"]
    model = fitted_model(case)
    got = model.predict_on_batch(
        case.X, intervention={"b": lambda b: 2 * b}, return_sites=["b", "mu"], return_datatree=False
    )
    np.testing.assert_allclose(got["b"], 2 * model.posterior["b"], rtol=1e-6)
    expected = model.posterior["a"][:, None] + 2 * model.posterior["b"] @ case.X.T
    np.testing.assert_allclose(got["mu"], expected, rtol=1e-4, atol=1e-4)


def test_arguments_that_are_not_arrays():
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


def test_callables_are_checked_before_any_work():
    model = fitted_model(BY_NAME["linear"])
    key = model.rng_key
    for value, error, match in (
        (lambda b: np.minimum(np.asarray(b), 0), TypeError, "must use `jax.numpy`"),
        (lambda b: b.sum(), ValueError, r"must return an array of its shape \(3,\); it returns \(\)"),
    ):
        with pytest.raises(error, match=match):
            model.predict_on_batch(BY_NAME["linear"].X, intervention={"b": value})
    assert model.rng_key == key
