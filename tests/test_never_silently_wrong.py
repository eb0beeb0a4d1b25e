"""Situations in which a plausible number used to come out, and was wrong; each with an outside witness."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from arviz_stats import rhat
from jax import random
from numpyro.contrib.control_flow import scan
from numpyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from numpyro.infer.reparam import LocScaleReparam
from numpyro.infer.util import log_density
from numpyro.primitives import mutable

from aimz import ImpactModel
from kernels import chain


def svi_model(kernel, steps=None, **options):
    svi = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.03), Trace_ELBO())
    return ImpactModel(kernel, random.key(0), svi, **options)


def injected(kernel, **draws):
    return svi_model(kernel).set_posterior_sample({k: np.asarray(v, np.float32) for k, v in draws.items()})


def test_learned_parameters_count():
    """Data of sd 5, a scale that starts at 1: the predictive sd is the learned one, not the initial one."""

    def kernel(X, y=None):
        m = numpyro.sample("m", dist.Normal(0, 10))
        s = numpyro.param("s", 1.0, constraint=dist.constraints.positive)
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(m, s), obs=y)

    n = 2000
    y = np.asarray(5 * random.normal(random.key(1), (n,)))
    X = np.zeros(n, np.float32)
    model = svi_model(kernel).fit_on_batch(X, y, num_steps=2000, progress=False)

    # The maximum-likelihood scale is the sd of the data; SVI finds it to a few per cent.
    assert abs(model.vi_result.params["s"] / y.std() - 1) < 0.05
    predicted = model.predict_on_batch(X)["posterior_predictive"]["y"]
    assert abs(float(predicted.std()) / float(model.vi_result.params["s"]) - 1) < 0.01
    prior = model.sample_prior_predictive_on_batch(X, return_sites="y")["prior_predictive"]["y"]
    # In the prior predictive the mean has sd 10 beside the learned scale.
    assert abs(float(prior.std(("chain", "draw")).mean()) - np.hypot(10, y.std())) < 1.0


def test_initial_parameters_are_announced():
    def kernel(X, y=None):
        s = numpyro.param("s", 1.0, constraint=dist.constraints.positive)
        m = numpyro.sample("m", dist.Normal())
        numpyro.sample("y", dist.Normal(m, s).expand([X.shape[0]]), obs=y)

    with pytest.warns(UserWarning, match="`s`, which have no fitted value"):
        injected(kernel, m=[0.0, 1.0]).predict_on_batch(np.zeros(3))


@pytest.mark.parametrize("observed", [True, False])
def test_intervention_reaches_latent_descendants(observed):
    """z -> m -> y with latent m about 3 z: under do(z = 0) the mean of y is 0, not the 3 of the posterior."""
    t = np.ones(50, np.float32)
    draws = {"m": 3 + 0.1 * random.normal(random.key(0), (200, 50))}
    if not observed:
        draws["z"] = np.ones((200, 50))
    model = injected(chain, **draws)
    arguments = {"X": np.zeros(50), "t": t if observed else None}
    with pytest.warns(UserWarning, match="keep their posterior draws"):
        factual = model.predict_on_batch(**arguments)["posterior_predictive"]
    assert abs(float(factual["y"].mean()) - 3) < 0.05
    done = model.predict_on_batch(**arguments, intervention={"z": 0.0})["posterior_predictive"]
    # y ~ Normal(3 z, 0.1 sqrt 2): the mean of 10,000 has a standard error of 0.0014.
    assert abs(float(done["y"].mean())) < 0.01
    assert abs(float(done["y"].std()) - 0.1 * np.sqrt(2)) < 0.01
    assert done.attrs["drawn_anew"] == ["m"]

    # NumPyro's own: the intervened kernel, with no posterior draw of `m` to block the way.
    theirs = Predictive(numpyro.handlers.do(chain, {"z": jnp.zeros(50)}), num_samples=200)(
        random.key(1), jnp.zeros(50), jnp.asarray(t) if observed else None
    )
    assert abs(float(theirs["y"].mean()) - float(done["y"].mean())) < 0.01


def test_intervention_on_an_argument_reaches_latent_descendants():
    """The same through the argument the treatment is observed from."""
    t = np.ones(50, np.float32)
    model = injected(chain, m=3 + 0.1 * random.normal(random.key(0), (200, 50)))
    done = model.predict_on_batch(np.zeros(50), t=t, intervention={"t": 0.0})["posterior_predictive"]
    assert abs(float(done["y"].mean())) < 0.01
    assert done.attrs["drawn_anew"] == ["m"]


def test_intervention_on_a_plain_number_reaches_latent_descendants():
    """The same through an argument that is a number and no array."""

    def kernel(X, dose, y=None):
        with numpyro.plate("obs", X.shape[0]):
            m = numpyro.sample("m", dist.Normal(dose * X, 0.1))
            numpyro.sample("y", dist.Normal(m, 0.1), obs=y)

    model = injected(kernel, m=np.full((200, 50), 3.0))
    done = model.predict_on_batch(np.ones(50), dose=3.0, intervention={"dose": 0.0})["posterior_predictive"]
    assert abs(float(done["y"].mean())) < 0.01  # 10,000 draws of sd 0.14
    assert done.attrs["drawn_anew"] == ["m"]


def test_observed_mediator_gives_way_to_an_intervention_upstream():
    """A mediator with data would block the way as a latent one does."""

    def kernel(X, mediator, y=None):
        z = numpyro.sample("z", dist.Normal().expand([X.shape[0]]))
        m = numpyro.sample("m", dist.Normal(3 * z, 0.1), obs=mediator)
        numpyro.sample("y", dist.Normal(m, 0.1), obs=y)

    model = injected(kernel, z=np.ones((100, 20)))
    done = model.predict_on_batch(np.zeros(20), mediator=3 * np.ones(20), intervention={"z": 0.0})
    assert abs(float(done["posterior_predictive"]["y"].mean())) < 0.03
    assert done["posterior_predictive"].attrs["drawn_anew"] == ["m"]


def random_intercepts(X, y=None):
    mu = numpyro.sample("mu", dist.Normal(0, 10))
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Normal(mu, 2.0))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


def test_local_latents_of_other_rows_are_drawn_anew():
    """Fitted on 2,000 rows, predicted for 500 others: y ~ Normal(mu, sqrt(2^2 + 1^2))."""
    y = np.asarray(4 + np.sqrt(5) * random.normal(random.key(1), (2000,)))
    model = svi_model(random_intercepts).fit_on_batch(np.zeros(2000), y, num_steps=2000, progress=False)
    with pytest.warns(UserWarning, match=r"`z` are resampled given the sites they depend on"):
        tree = model.predict_on_batch(np.zeros(500), in_sample=False)
    group = tree["predictions"]
    assert group.sizes["obs"] == 500
    assert tree["posterior"].sizes["obs"] == 2000
    assert group.attrs["local_latents"] == "drawn anew"
    predicted = group["y"].values
    # 500,000 draws; the mean is that of mu, whose posterior sd is 0.05.
    assert abs(predicted.mean() - y.mean()) < 0.1
    assert abs(predicted.std() - np.sqrt(5)) < 0.05
    # As many other rows as fitted ones are still others, if one says so.
    with pytest.warns(UserWarning, match="resampled"):
        other = model.predict_on_batch(np.zeros(2000), in_sample=False, return_sites="z")["predictions"]
    assert abs(float(other["z"].std()) - 2) < 0.05


def test_local_latents_of_the_fitted_rows_travel_with_them():
    model = injected(random_intercepts, mu=np.zeros(300), z=np.tile(np.arange(4.0), (300, 1)))
    with pytest.warns(UserWarning, match="keep their posterior draws, row by row"):
        group = model.predict_on_batch(np.zeros(4))["posterior_predictive"]
    np.testing.assert_allclose(group["y"].mean(("chain", "draw")), np.arange(4.0), atol=4.5 / np.sqrt(300))
    assert group.attrs["local_latents"] == "posterior"


def test_two_features_and_two_rows_are_told_apart():
    """A coefficient per feature is global although there are as many rows as features."""

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(X @ b, 0.1), obs=y)

    model = injected(kernel, b=np.tile([1.0, 2.0], (50, 1)))
    X = np.eye(2, dtype=np.float32)
    group = model.predict_on_batch(X)["posterior_predictive"]  # and no warning, which would be an error here
    assert model.kernel_spec.local_sites == ()
    assert "local_latents" not in group.attrs
    np.testing.assert_allclose(group["y"].mean(("chain", "draw")), [1, 2], atol=0.1)
    five = model.predict_on_batch(np.ones((5, 2)))["posterior_predictive"]
    np.testing.assert_allclose(five["y"].mean(("chain", "draw")), 3, atol=0.1)


def test_chains_are_kept_apart():
    """R-hat needs the chains: two that disagree must look so."""

    def kernel(X, y=None):
        m = numpyro.sample("m", dist.Normal(0, 10))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(m, 1.0), obs=y)

    mcmc = MCMC(NUTS(kernel), num_warmup=100, num_samples=150, num_chains=2, chain_method="vectorized")
    model = ImpactModel(kernel, random.key(0), mcmc)
    X, y = np.zeros(20), np.ones(20)
    model.fit_on_batch(X, y, progress=False)
    tree = model.log_likelihood(X, y)
    trees = [tree, model.predict_on_batch(X), model.sample(num_samples=30, X=X, y=y)]
    for each in trees:
        for name in each.children:
            if name != "observed_data":
                assert each[name].sizes["chain"] == 2, name
        assert {"lp", "energy", "diverging", "n_steps", "tree_depth", "acceptance_rate", "step_size"} == set(
            each["sample_stats"].data_vars
        )
    theirs = mcmc.get_samples(group_by_chain=True)["m"]  # of the last run: that of `sample`
    np.testing.assert_array_equal(trees[2]["posterior"]["m"], theirs)
    # `lp` is the log joint density, with its sign; the site is unconstrained, so no Jacobian comes in.
    stats = trees[0]["sample_stats"]["lp"].values.ravel()
    expected = [
        float(log_density(kernel, (jnp.asarray(X), jnp.asarray(y)), {}, {"m": m})[0])
        for m in trees[0]["posterior"]["m"].values.ravel()[:5]
    ]
    np.testing.assert_allclose(stats[:5], expected, rtol=1e-4)

    noise = np.asarray(0.01 * random.normal(random.key(1), (100,)))
    apart = model.set_posterior_sample({"m": np.r_[np.zeros(50), np.ones(50)] + noise}, num_chains=2)
    assert float(rhat(apart.predict_on_batch(X)["posterior"].to_dataset())["m"]) > 1.5


@pytest.mark.parametrize("name", ["zz", "Y", "mu_"])
def test_misspelt_intervention_is_refused(name):
    model = injected(chain, m=np.zeros((3, 5)), z=np.zeros((3, 5)))
    with pytest.raises(ValueError, match=rf"Cannot intervene on '{name}'.*Sites: z, m, y\. Arguments: X, t\."):
        model.predict_on_batch(np.zeros(5), t=None, intervention={name: 0.0})


def test_scenarios_share_their_noise():
    """The difference of a Gaussian outcome is exact in every draw, also where other sites are drawn anew."""

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            z = numpyro.sample("z", dist.Normal(X, 1.0))
            w = numpyro.sample("w", dist.Normal(z, 1.0))
            numpyro.sample("y", dist.Normal(b * z + 0 * w, 1.0), obs=y)

    n_draws, n = 20, 30
    z = random.normal(random.key(2), (n_draws, n))
    b = np.linspace(-1, 1, n_draws)
    model = injected(kernel, b=b, z=z, w=z)
    X = np.zeros(n)
    with pytest.warns(UserWarning, match="keep their posterior draws"):
        effect = model.estimate_effect(args_baseline={"X": X}, args_intervention={"X": X, "intervention": {"z": 2.0}})
    # `w` keeps its posterior draws in the baseline and is drawn anew under do(z): y's noise is the same still.
    got = effect["posterior_predictive"]["y"].values[0]
    np.testing.assert_allclose(got, b[:, None] * (2 - np.asarray(z)), atol=1e-5)


def mediated(X, y=None):
    with numpyro.plate("obs", X.shape[0]):
        visits = numpyro.sample("visits", dist.Normal(2 * X, 1.0))
        numpyro.sample("y", dist.Normal(3 * visits, 1.0), obs=y)


def test_both_scenarios_draw_the_same_sites_anew():
    """X moves y by 6 through a local latent, wherever the posterior has that latent.

    Were the mediator kept in the baseline and drawn anew under the intervention, the effect would be
    6 (X + 1) - 15 instead.
    """
    X = np.array([1.0, 2.0, 3.0])
    model = injected(mediated, visits=np.full((400, 3), 5.0))
    tree = model.estimate_effect(args_baseline={"X": X}, args_intervention={"X": X, "intervention": {"X": X + 1}})
    effect = tree["posterior_predictive"]
    np.testing.assert_allclose(effect["y"], 6.0, atol=1e-4)  # the noise is common, so every draw is exact
    assert effect.attrs["drawn_anew"] == ["visits"]

    with pytest.warns(UserWarning, match="keep their posterior draws"):
        kept = model.predict_on_batch(X, rng_key=random.key(1))
    done = model.predict_on_batch(X, intervention={"X": X + 1}, rng_key=random.key(1))
    with pytest.warns(UserWarning, match="visits were resampled in one scenario"):
        model.estimate_effect(kept, done)
    again = model.estimate_effect(done, args_intervention={"X": X, "intervention": {"X": X + 2}})
    np.testing.assert_allclose(again["posterior_predictive"]["y"], 6.0, atol=1e-4)


def test_changed_inputs_do_not_keep_latents_that_depend_on_them():
    """Passing X + 1 in place of the fitted X, without calling it an intervention, has the same effect."""
    X = np.linspace(0, 1, 200, dtype=np.float32)
    y = 6 * X + np.sqrt(10) * np.asarray(random.normal(random.key(1), X.shape))
    model = svi_model(mediated).fit_on_batch(X, y, num_steps=500, progress=False)
    with pytest.warns(UserWarning, match="keep their posterior draws"):
        assert model.predict_on_batch(X)["posterior_predictive"].attrs["local_latents"] == "posterior"
    with pytest.warns(UserWarning, match="resampled given the sites they depend on"):
        tree = model.estimate_effect(args_baseline={"X": X}, args_intervention={"X": X + 1})
    np.testing.assert_allclose(tree["posterior_predictive"]["y"], 6.0, atol=1e-4)


def test_an_argument_of_the_fit_that_is_left_out_has_changed():
    def kernel(X, w=None, y=None):
        with numpyro.plate("obs", X.shape[0]):
            z = numpyro.sample("z", dist.Normal(0.0 if w is None else w, 0.1))
            numpyro.sample("y", dist.Normal(z, 0.1), obs=y)

    X, w = np.zeros(30), np.full(30, 5.0)
    model = svi_model(kernel).fit_on_batch(X, w, w=w, num_steps=1000, progress=False)
    with pytest.warns(UserWarning, match="resampled given the sites they depend on"):
        group = model.predict_on_batch(X)["posterior_predictive"]
    assert abs(float(group["y"].mean())) < 0.05


def test_latents_that_do_not_depend_on_what_changed_stay_with_their_rows():
    def kernel(X, y=None):
        with numpyro.plate("obs", X.shape[0]):
            frailty = numpyro.sample("frailty", dist.Normal())
            numpyro.sample("y", dist.Normal(frailty + X, 0.1), obs=y)

    X = np.zeros(50, np.float32)
    y = np.linspace(-2, 2, 50)
    model = svi_model(kernel).fit_on_batch(X, y, num_steps=2000, progress=False)
    with pytest.warns(UserWarning, match="keep their posterior draws"):
        moved = model.predict_on_batch(X + 1, in_sample=True)["posterior_predictive"]
    # Each row's own level, shifted by 1: had the levels been drawn anew, the mean of each row would be 1.
    np.testing.assert_allclose(moved["y"].mean(("chain", "draw")), y + 1, atol=0.15)


def test_other_observations_are_scored_with_latents_of_their_own():
    """With z integrated out, y ~ Normal(6 X, sqrt 10), whatever the fitted rows' latents were."""
    X = np.linspace(0, 1, 100, dtype=np.float32)
    model = svi_model(mediated).fit_on_batch(X, 6 * X, num_steps=300, num_samples=4000, progress=False)
    y = 6 * (X + 2)
    with pytest.warns(UserWarning, match="resampled given the sites they depend on"):
        scores = model.log_likelihood(X + 2, y)["log_likelihood"]["y"]
    density = np.exp(scores.values[0]).mean(0)
    # Averaged over the latent: the closed form.  4,000 draws of a density that varies by its own size give 2.5 %.
    np.testing.assert_allclose(density, 1 / np.sqrt(2 * np.pi * 10), rtol=0.15)


def test_a_static_intervention_that_changes_a_shape_is_refused():
    def kernel(X, n_groups, y=None):
        a = numpyro.sample("a", dist.Normal().expand([n_groups]))
        numpyro.sample("y", dist.Normal(a.sum() * X), obs=y)

    model = injected(kernel, a=np.ones((5, 3)))
    with pytest.raises(ValueError, match="Cannot determine the sites that descend from argument `n_groups`"):
        model.predict_on_batch(np.ones(4), n_groups=3, intervention={"n_groups": 2})
    with pytest.raises(ValueError, match=r"site `a` must have shape \('n_draws', 2\)"):
        model.predict_on_batch(np.ones(4), n_groups=2)


def test_a_prior_that_borrows_from_the_data_is_announced():
    """Setting X changes the prior of b, so b counts as downstream, and what was learned of it is lost."""

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal(0, 1 / X.std()))
        numpyro.sample("y", dist.Normal(b * X), obs=y)

    model = injected(kernel, b=np.full(5, 3.0))
    X = np.linspace(0, 1, 4)
    with pytest.warns(
        UserWarning, match="posterior of global site.*`b`, which descend from the intervention on `X` and are resampled"
    ):
        done = model.predict_on_batch(X, intervention={"X": X + 1}, return_sites="b")["posterior_predictive"]
    assert done.attrs["drawn_anew"] == ["b"]
    assert float(done["b"].std()) > 0
    # Data that merely are others are no intervention, and b keeps what was learned.
    other = model.predict_on_batch(X + 1, return_sites="b")["posterior_predictive"]
    np.testing.assert_array_equal(other["b"], 3.0)


def test_handlers_around_a_kernel():
    """A reparameterised kernel: what was latent is computed, and can be intervened on by its name all the same."""

    @numpyro.handlers.reparam(config={"theta": LocScaleReparam(0)})
    def kernel(X, y=None):
        mu = numpyro.sample("mu", dist.Normal())
        theta = numpyro.sample("theta", dist.Normal(mu, 2.0))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(theta + X), obs=y)

    model = injected(kernel, mu=[1.0, 2.0], theta_decentered=[0.5, -0.5])
    X = np.zeros(3)
    theta = model.predict_on_batch(X, return_sites="theta", return_datatree=False)["theta"]
    np.testing.assert_allclose(theta, [2.0, 1.0])
    for site, change in (("theta", 1.0), ("mu", 1.0)):
        effect = model.estimate_effect(
            args_baseline={"X": X, "intervention": {site: 0.0}},
            args_intervention={"X": X, "intervention": {site: change}},
        )
        np.testing.assert_allclose(effect["posterior_predictive"]["y"], change, atol=1e-6)


def test_predictions_do_not_depend_on_earlier_calls():
    """A site with posterior draws keeps them, also after another call had data for it."""

    def kernel(X, t=None, y=None):
        z = numpyro.sample("z", dist.Normal().expand([X.shape[0]]), obs=t)
        numpyro.sample("y", dist.Normal(z, 0.1), obs=y)

    model = injected(kernel, z=np.full((50, 4), 5.0))
    X = np.zeros(4)
    key = {"rng_key": random.key(1), "return_datatree": False}
    with pytest.warns(UserWarning, match="keep their posterior draws"):
        first = model.predict_on_batch(X, **key)["y"]
    assert abs(float(model.predict_on_batch(X, t=np.ones(4), **key)["y"].mean()) - 1) < 0.05
    with pytest.warns(UserWarning, match="keep their posterior draws"):
        np.testing.assert_array_equal(model.predict_on_batch(X, **key)["y"], first)


OFFSET = np.linspace(0, 1, 6, dtype=np.float32)


def test_local_latents_of_a_kernel_that_takes_one_number_of_rows():
    """It closes over an array as long as the data: its plate is the rows, and what is in it is local."""

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        mu = numpyro.deterministic("mu", b * X)
        with numpyro.plate("week", 6):
            z = numpyro.sample("z", dist.Normal(0, 0.01))
            numpyro.sample("y", dist.Normal(mu + z + OFFSET, 0.01), obs=y)

    model = injected(kernel, b=np.ones(40), z=np.full((40, 6), 5.0))
    X = np.zeros(6)
    with pytest.warns(UserWarning, match="keep their posterior draws"):
        tree = model.predict_on_batch(X)
    group = tree["posterior_predictive"]
    assert group["y"].dims == group["mu"].dims == tree["posterior"]["z"].dims == ("chain", "draw", "week")
    assert abs(float(group["y"].mean()) - 5.5) < 0.05
    with pytest.warns(UserWarning, match="resampled given the sites they depend on"):
        other = model.predict_on_batch(X, in_sample=False)["predictions"]
    assert abs(float(other["y"].mean()) - 0.5) < 0.05


def test_a_latent_that_may_have_rows_is_not_guessed_at():
    def kernel(X, y=None):
        z = numpyro.sample("z", dist.Normal().expand([6]))
        with numpyro.plate("week", 6):
            numpyro.sample("y", dist.Normal(z + X + OFFSET), obs=y)

    model = injected(kernel, z=np.zeros((3, 6)))
    model.predict_on_batch(np.zeros(6))
    with pytest.raises(ValueError, match="Cannot tell whether site `z`"):
        model.predict_on_batch(np.zeros(6), in_sample=False)


def test_an_object_changed_in_place_is_not_served_an_old_program():
    class Settings:
        shift = 0.0

    def kernel(X, settings, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.deterministic("mu", b * X + settings.shift)
        numpyro.sample("y", dist.Normal().expand([X.shape[0]]), obs=y)

    model, settings = injected(kernel, b=np.zeros(2)), Settings()
    for shift in (0.0, 10.0):
        settings.shift = shift
        got = model.predict_on_batch(np.zeros(3), settings=settings, return_sites="mu", return_datatree=False)["mu"]
        np.testing.assert_array_equal(got, shift)


def walk(X, seen=None, y=None):
    start = numpyro.sample("start", dist.Normal())

    def step(level, x):
        level = numpyro.sample("level", dist.Normal(level, 0.1))
        mu = numpyro.deterministic("mu", level + x[0])
        numpyro.sample("med", dist.Normal(mu, 0.1), obs=None if seen is None else x[1])
        return level, mu

    _, mean = scan(step, start, jnp.stack([X, X if seen is None else seen], 1))
    numpyro.sample("y", dist.Normal(mean, 0.1), obs=y)


def test_interventions_inside_a_scan():
    """What NumPyro can hand in is set; the rest is refused rather than half done."""
    X = np.zeros(8, np.float32)
    model = injected(walk, start=np.zeros(20), level=np.full((20, 8), 5.0), med=np.zeros((20, 8)))
    with pytest.warns(UserWarning, match="inside a `scan` or `cond`, which are resampled"):
        done = model.predict_on_batch(X, intervention={"level": np.full(8, 2.0)})["posterior_predictive"]
    assert abs(float(done["y"].mean()) - 2) < 0.05
    for bad in ({"level": lambda v: v}, {"mu": 0.0}, {"mu": lambda v: v}):
        with pytest.raises(ValueError, match="inside a `scan` or `cond`: NumPyro substitutes only values"):
            model.predict_on_batch(X, intervention=bad)
    with pytest.raises(ValueError, match="`med` descend from the intervention and are observed inside"):
        model.predict_on_batch(X, seen=X, intervention={"start": 0.0})


@pytest.mark.parametrize("shape", [(5,), (5, 4, 1), (5, 4, 2)])
def test_local_draws_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="Posterior draws of site `z` must have shape"):
        injected(random_intercepts, mu=np.zeros(5), z=np.zeros(shape)).predict_on_batch(np.zeros(4))


def test_kernels_get_jax_arrays_from_mcmc_too():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * X.at[0].set(0.0)), obs=y)

    mcmc = MCMC(NUTS(kernel), num_warmup=3, num_samples=3, progress_bar=False)
    assert ImpactModel(kernel, random.key(0), mcmc).fit_on_batch(np.ones(4), np.ones(4), progress=False).is_fitted()


def test_draws_of_unknown_sites_are_announced():
    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        numpyro.sample("y", dist.Normal(b * X), obs=y)

    with pytest.warns(UserWarning, match="draws of `bta`, which belong to no site"):
        injected(kernel, b=[0, 0, 0], bta=[0, 0, 0]).predict_on_batch(np.zeros(5))


def test_independent_noise_is_announced():
    model = injected(random_intercepts, mu=np.zeros(10), z=np.zeros((10, 4)))
    with pytest.warns(UserWarning, match="keep their posterior draws"):
        one, other = model.predict_on_batch(np.zeros(4)), model.predict_on_batch(np.zeros(4))
    with pytest.warns(UserWarning, match="different keys"):
        model.estimate_effect(one, other)
    with pytest.warns(UserWarning, match="keep their posterior draws"):
        paired = model.estimate_effect(one, args_intervention={"X": np.zeros(4)})
    assert (paired["posterior_predictive"]["y"] == 0).all()


@pytest.mark.parametrize(
    ("value", "dtype"),
    [(2**31, np.int64), (-(2**31) - 1, np.int64), (2**32, np.uint64), (1e39, np.float64)],
)
def test_values_that_would_wrap_are_refused(value, dtype):
    model = injected(random_intercepts, mu=np.zeros(3), z=np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"`X` holds values that do not fit .*changed silently"):
        model.predict_on_batch(np.array([0, value], dtype))


def test_integers_that_fit_are_kept():
    def kernel(X, y=None):
        numpyro.deterministic("same", X)
        numpyro.sample("m", dist.Normal())

    X = np.array([2**31 - 1, -(2**31)], np.int64)
    same = injected(kernel, m=[0.0]).predict_on_batch(X, return_datatree=False)["same"]
    np.testing.assert_array_equal(same[0], X)


def test_draws_of_another_shape_are_refused():
    """NumPyro would broadcast one coefficient over three features."""

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]))
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(X @ b), obs=y)

    with pytest.raises(ValueError, match=r"site `b` must have shape \('n_draws', 3\)"):
        injected(kernel, b=np.zeros((10, 1))).predict_on_batch(np.zeros((4, 3)))


def test_a_site_missing_from_the_posterior_is_announced():
    with pytest.warns(UserWarning, match="`m`, which are not in the posterior"):
        injected(chain, z=np.zeros((3, 5))).predict_on_batch(np.zeros(5), t=np.zeros(5))


def test_a_kernel_that_ignores_the_data_is_refused():
    def kernel(X, y=None):
        m = numpyro.sample("m", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(m))

    with pytest.raises(ValueError, match="does not observe `y`"):
        svi_model(kernel).fit_on_batch(np.zeros(3), np.zeros(3))


def test_what_the_kernel_closes_over_stays_untouched():
    state = {"count": 0.0}

    def kernel(X, y=None):
        counter = mutable("counter", state)
        counter["count"] = counter["count"] + 1
        m = numpyro.sample("m", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(m), obs=y)

    with pytest.warns(UserWarning, match="`counter`, which have no fitted value"):
        injected(kernel, m=[0.0, 1.0]).predict_on_batch(np.zeros(3))
    assert state == {"count": 0.0}
