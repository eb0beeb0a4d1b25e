"""Laws 4 and 5: what an effect is, and that an intervention reaches every descendant."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from numpyro import handlers

from aimz.kernel import Role
from kernels import BY_NAME, QUICK_CASES, Case, each_kernel, fitted_model, fitted_params, on_device, posterior_draws

pytestmark = pytest.mark.usefixtures("quiet_local_latents")


@cache
def shared_model(case_name: str):
    """One model per kernel for the whole file, so that each program is compiled once."""
    return fitted_model(BY_NAME[case_name])


def effect(case: Case, baseline: dict, intervention: dict):
    model = shared_model(case.name)
    arguments = case.arguments()
    tree = model.estimate_effect(
        args_baseline={**arguments, "intervention": baseline, "rng_key": random.key(9)},
        args_intervention={**arguments, "intervention": intervention},
    )
    return tree["posterior_predictive"].to_dataset()


@each_kernel(QUICK_CASES)
def test_effect_of_nothing_is_zero(case):
    for given in ({}, case.intervention):
        assert all((value == 0).all() for value in effect(case, given, given).values())


@each_kernel(QUICK_CASES)
def test_effect_is_antisymmetric(case):
    there, back = effect(case, {}, case.intervention), effect(case, case.intervention, {})
    assert set(there.data_vars) == set(case.returns)
    for name in there.data_vars:
        np.testing.assert_array_equal(there[name], -back[name])


@each_kernel(QUICK_CASES)
def test_intervention_moves_the_output(case):
    assert (effect(case, {}, case.intervention)["y"] != 0).any()


@pytest.mark.parametrize("delta", [1.0, -2.5])
def test_shift_of_a_linear_kernel_is_exact(delta):
    """do(x + delta) moves y by b delta in every row of every draw: the noise is common."""
    case = BY_NAME["linear"]
    shift = np.array([delta, 0, 0], np.float32)
    got = effect(case, {}, {"X": lambda X: X + shift})["y"].values[0]
    expected = posterior_draws(case)["b"][:, :1] * delta
    np.testing.assert_allclose(got, np.broadcast_to(expected, got.shape), rtol=1e-4, atol=1e-4)


def changed_children(case: Case) -> dict[str, set[str]]:
    """Site -> sites whose distribution or value changes when it does, found by changing it.

    Every other sample site is held, so these are the children, with deterministic sites in between seen
    through.  NumPyro's own handlers; nothing of ours.
    """
    kernel = handlers.substitute(case.numpyro_kernel, data=fitted_params(case))

    def run(held):
        model = handlers.substitute(handlers.seed(kernel, 0), data=held)
        return handlers.trace(model).get_trace(**on_device(case))

    draws = {name: jnp.asarray(value) for name, value in posterior_draws(case, 2).items()}
    start = run({name: value[0] for name, value in draws.items()})
    held = {name: site["value"] for name, site in start.items() if site["type"] == "sample"}

    def fingerprint(sites):
        return {
            name: site["value"] if site["type"] == "deterministic" else site["fn"].log_prob(held[name])
            for name, site in sites.items()
            if site["type"] in ("sample", "deterministic")
        }

    before = fingerprint(run(held))
    children = {}
    for name in held:
        new = draws[name][1] if name in draws else jnp.flip(held[name])
        after = fingerprint(run({**held, name: new}))
        children[name] = {s for s in after if s != name and not np.array_equal(after[s], before[s])}
    return children


@each_kernel([case for case in QUICK_CASES if case.name not in ("factor_only", "improper")])
def test_descendants_are_those_that_change(case):
    shared_model(case.name).describe(**case.arguments())
    spec = shared_model(case.name).kernel_spec
    children = changed_children(case)
    assert any(children.values())
    for name in children:
        reached: set[str] = set()
        frontier = children[name]
        while frontier:
            reached |= frontier
            frontier = set().union(*(children.get(child, set()) for child in frontier)) - reached
        found = spec.descendants([name]) - {name}
        if case.name == "state_space":  # inside a `scan` every site counts as depending on every other
            assert reached <= found
        else:
            assert reached == found, name


@each_kernel(QUICK_CASES)
def test_what_is_not_downstream_keeps_its_value(case):
    """An intervention leaves every site upstream of it, and beside it, as it was."""
    model = shared_model(case.name)
    model.describe(**case.arguments())
    spec = model.kernel_spec
    sites = [s.name for s in spec.sites if s.is_sample or s.role is Role.DETERMINISTIC]
    options = {"return_sites": sites, "return_datatree": False, "rng_key": random.key(4)}
    before = model.predict_on_batch(**case.arguments(), **options)
    after = model.predict_on_batch(**case.arguments(), **options, intervention=case.intervention)
    reached = spec.descendants(case.intervention) | set(case.intervention)
    for name in sites:
        if name not in reached:
            np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    assert "y" in reached
    assert jax.tree.structure(before) == jax.tree.structure(after)
