"""Law 2 for scores: leave-one-out is ArviZ's, number by number, without a stored draw."""

import warnings
from typing import Any

import arviz_stats
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray as xr
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from scipy import stats

from aimz import ImpactModel
from aimz.errors import KernelValidationError, NotFittedError
from kernels import BY_NAME, Case, long, long_draws
from stream_helpers import new_model, padded_batches

pytestmark = pytest.mark.usefixtures("quiet_local_latents")

N = 1100  # A whole block, and a part of one.
QUIET = {"progress": False}
BAD_K = "Estimated shape parameter of Pareto|The Pareto k of"


def model_of(name: str, n_obs: int, n_draws: int, num_chains: int = 1) -> tuple[Case, ImpactModel]:
    """A kernel with draws that are one another's neighbours, as those of a chain are."""
    case = long(BY_NAME[name], n_obs)
    draws = long_draws(BY_NAME[name], n_obs, n_draws)
    # Close together, so that a row does not decide on its own; and each near the one before.
    draws = {site: value.mean(0) + 0.05 * smoothed(value - value.mean(0)) for site, value in draws.items()}
    return case, new_model(case.kernel, draws, num_chains=num_chains)


def smoothed(value: np.ndarray) -> np.ndarray:
    return (value + 0.7 * np.roll(value, 1, axis=0)).astype(value.dtype)


def arviz_loo(model: ImpactModel, X: Any, y: Any, **arguments: Any):
    """ArviZ on the stored log-likelihood, in doubles."""
    tree = model.log_likelihood(X, y, store="memory", **QUIET, **arguments)
    tree["log_likelihood"] = xr.DataTree(tree["log_likelihood"].to_dataset().astype(np.float64))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=BAD_K, category=UserWarning)
        return arviz_stats.loo(tree, pointwise=True)


def ours_and_theirs(case: Case, model: ImpactModel) -> tuple[Any, Any]:
    arguments = {**case.arguments(), "y": case.y}
    theirs = arviz_loo(model, **arguments)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        ours = model.loo(**arguments, **QUIET)
    about_k = [str(one.message) for one in said if "Pareto k" in str(one.message)]
    assert len(about_k) == theirs.warning
    return ours, theirs


def assert_same(ours: Any, theirs: Any) -> None:
    assert type(ours) is type(theirs)
    for name in ("elpd", "se", "p", "good_k"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-6, err_msg=name)
    for name in ("n_samples", "n_data_points", "scale", "kind"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert bool(ours.warning) == bool(theirs.warning)
    for name in ("elpd_i", "pareto_k"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert mine.dims == other.dims
        assert mine.shape == other.shape
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-9, err_msg=name)
        for dim in other.dims:
            np.testing.assert_array_equal(mine[dim], other[dim])
    assert str(ours) == str(theirs)


@pytest.mark.parametrize("num_chains", [1, 4])
@pytest.mark.parametrize(
    "name", ["linear", "hierarchical", "local_latents", "logistic", "nested_plates", "state_space"]
)
def test_numbers_are_arvizs(name, num_chains):
    """Of chains too, whose draws depend on one another; of several scores to a row; where rows mix."""
    case, model = model_of(name, {"state_space": 60, "hierarchical": N}.get(name, 150), 400, num_chains)
    ours, theirs = ours_and_theirs(case, model)
    assert_same(ours, theirs)
    assert ours.n_samples == 400
    assert ours.n_data_points == np.size(case.y)
    assert np.isfinite(ours.elpd_i).all()


def test_chains_count_by_their_effective_size():
    """The same draws as four chains and as one have other tails, so other scores."""
    (case, four), (_, one) = (model_of("linear", 300, 400, chains) for chains in (4, 1))
    ours, alone = (model.loo(case.X, case.y, **QUIET) for model in (four, one))
    assert_same(ours, arviz_loo(four, case.X, case.y))
    assert_same(alone, arviz_loo(one, case.X, case.y))
    assert (ours.pareto_k != alone.pareto_k).any()


def location(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0, 10.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X, 1.0), obs=y)


def conjugate(n_obs: int, n_draws: int) -> tuple[ImpactModel, np.ndarray, np.ndarray]:
    """A model with exact posterior draws."""
    rng = np.random.default_rng(7)
    X = rng.normal(size=n_obs).astype(np.float32)
    y = (0.5 * X + rng.normal(size=n_obs)).astype(np.float32)
    variance = 1 / (1 / 100 + (X.astype(float) ** 2).sum())
    b = variance * (X.astype(float) * y).sum() + np.sqrt(variance) * rng.normal(size=n_draws)
    return new_model(location, {"b": b.astype(np.float32)}), X, y


def test_scores_are_those_of_leaving_each_out():
    """In closed form: the density of each row given all others, to the error of four thousand draws."""
    model, X, y = conjugate(200, 4000)
    scores = model.loo(X, y, **QUIET)
    x, target = X.astype(float), y.astype(float)
    precision = 1 / 100 + (x**2).sum() - x**2
    mean = ((x * target).sum() - x * target) / precision
    exact = stats.norm.logpdf(target, x * mean, np.sqrt(1 + x**2 / precision))
    assert not scores.warning
    np.testing.assert_allclose(scores.elpd_i, exact, atol=0.01)
    assert abs(scores.elpd - exact.sum()) < 0.05
    assert abs(scores.p - 1) < 0.3  # one parameter
    assert_same(scores, arviz_loo(model, X, y))


def test_batch_size_and_source_do_not_show():
    model, X, y = conjugate(2500, 400)
    whole = model.loo(X, y, **QUIET)
    ways: list[tuple[tuple[Any, ...], dict[str, Any]]] = [((X, y), {"batch_size": size}) for size in (1, 1500, 10**6)]
    ways += [((padded_batches({"X": X, "y": y}),), {})]
    ways += [((((X[i : i + 99], y[i : i + 99]) for i in range(0, 2500, 99)),), {})]
    for given, options in ways:
        found = model.loo(*given, **QUIET, **options)
        assert (found.elpd, found.se, found.p) == (whole.elpd, whole.se, whole.p)
        xr.testing.assert_equal(found.elpd_i, whole.elpd_i)
        xr.testing.assert_equal(found.pareto_k, whole.pareto_k)


def test_models_are_compared_by_arviz():
    """As if ArviZ had made the scores."""

    def intercept(X, y=None):
        a = numpyro.sample("a", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(a, 1.0), obs=y)

    model, X, y = conjugate(200, 1000)
    other = new_model(intercept, {"a": np.random.default_rng(1).normal(y.mean(), 0.07, 1000).astype(np.float32)})
    ours = arviz_stats.compare({"slope": model.loo(X, y, **QUIET), "intercept": other.loo(X, y, **QUIET)})
    theirs = arviz_stats.compare({"slope": arviz_loo(model, X, y), "intercept": arviz_loo(other, X, y)})
    assert list(ours.index) == list(theirs.index) == ["slope", "intercept"]
    for column in theirs.columns:
        if theirs[column].dtype.kind == "f":
            np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-5, atol=1e-7, err_msg=column)
        else:
            assert list(ours[column]) == list(theirs[column])


def test_rows_that_decide_on_their_own_are_warned_of():
    """How many, and above what."""
    model, X, y = conjugate(200, 1000)
    y = y.copy()
    y[:3] += 200 * np.sign(X[:3])
    theirs = arviz_loo(model, X, y)
    bad = int((theirs.pareto_k > theirs.good_k).sum())
    assert bad > 0
    with pytest.warns(UserWarning, match=rf"The Pareto k of {bad} of 200 observations is above 0\.67"):
        ours = model.loo(X, y, **QUIET)
    assert ours.warning
    assert "There has been a warning during the calculation" in str(ours)
    assert_same(ours, theirs)


@pytest.mark.parametrize("n_draws", [40, 99, 1000, 3000])
def test_what_is_good_depends_on_the_number_of_draws(n_draws):
    model, X, y = conjugate(50, n_draws)
    theirs = arviz_loo(model, X, y)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=BAD_K, category=UserWarning)
        ours = model.loo(X, y, **QUIET)
    assert ours.good_k == theirs.good_k
    assert_same(ours, theirs)


def test_a_pareto_k_that_is_none_is_not_good():
    """Of so few draws no distribution can be fitted: ArviZ has NaN and says nothing, which reads as all is well."""
    model, X, y = conjugate(50, 25)
    theirs = arviz_loo(model, X, y)
    assert np.isnan(theirs.pareto_k).all()
    with pytest.warns(UserWarning, match="The Pareto k of 50 of 50 observations is above 0.28"):
        ours = model.loo(X, y, **QUIET)
    assert ours.warning
    assert np.isnan(ours.pareto_k).all()
    np.testing.assert_allclose(ours.elpd_i, theirs.elpd_i, rtol=1e-6)


# ------------------------------------------------------------------------------------------- refusals


def fitted(X: np.ndarray, y: np.ndarray, kind: str) -> ImpactModel:
    if kind == "SVI":
        svi = SVI(location, AutoNormal(location), numpyro.optim.Adam(0.1), Trace_ELBO())
        return ImpactModel(location, random.key(0), svi).fit_on_batch(X, y, num_steps=1000, num_samples=1000, **QUIET)
    mcmc = MCMC(
        NUTS(location), num_warmup=50, num_samples=30, num_chains=2, chain_method="sequential", progress_bar=False
    )
    return ImpactModel(location, random.key(0), mcmc).fit_on_batch(X, y, **QUIET)


@pytest.mark.parametrize("kind", ["SVI", "MCMC"])
def test_other_data_than_those_of_the_fit_are_refused(kind):
    """Inputs or outputs, some of them or more; there is nothing to leave out."""
    _, X, y = conjugate(40, 2)
    model = fitted(X, y, kind)
    assert_same(model.loo(X, y, **QUIET), arviz_loo(model, X, y))
    key = model.rng_key
    for other in ((X + 1, y), (X[:20], y[:20]), (np.tile(X, 2), np.tile(y, 2)), (X, y + 1), (X, y[::-1])):
        with pytest.raises(ValueError, match=r"`loo` leaves each observation out .* not the data of the fit"):
            model.loo(*other, **QUIET)
    assert model.rng_key == key
    model.loo(X.astype(np.float64), y.tolist(), **QUIET)  # the same numbers


def test_one_density_for_all_rows_is_refused():
    case, model = model_of("gaussian_process", 12, 40)
    with pytest.raises(ValueError, match="`loo` needs a density for each observation; this kernel has one for all"):
        model.loo(case.X, case.y, **QUIET)


def test_a_density_by_hand_is_refused():
    case, model = model_of("factor_only", 30, 40)
    with pytest.raises(KernelValidationError, match="scores `y` by a factor, which has no density for each"):
        model.loo(case.X, case.y, **QUIET)


def test_too_few_draws_are_refused():
    model, X, y = conjugate(50, 24)
    with pytest.raises(ValueError, match="The tail of 24 draws"):
        model.loo(X, y, **QUIET)


def test_not_fitted():
    mcmc = MCMC(NUTS(location), num_warmup=1, num_samples=1)
    with pytest.raises(NotFittedError, match="`loo` needs a posterior, and this model has none yet"):
        ImpactModel(location, random.key(0), mcmc).loo(np.ones(3), np.ones(3))


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"y": None}, TypeError, "`y` must be an array; got None"),
        ({"y": np.ones(3, np.float32)}, ValueError, "must have the same number of rows.*`X`: 50, `y`: 3"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be a positive integer; got 0"),
        ({"rng_key": 0.5}, TypeError, "`rng_key` must be one typed JAX key, or .*; got 0.5"),
        ({"c": 0}, TypeError, "Unknown kernel argument"),
    ],
)
def test_bad_input_is_refused_as_elsewhere(given, error, match):
    model, X, y = conjugate(50, 30)
    with pytest.raises(error, match=match):
        model.loo(**{"X": X, "y": y, **QUIET, **given})
