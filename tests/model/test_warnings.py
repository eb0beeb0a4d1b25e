"""Warnings of models: each is shown once until the model has another posterior."""

import warnings

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import aimz

X = np.ones(5, np.float32)


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        u = numpyro.sample("u", dist.Normal())
        numpyro.sample("y", dist.Normal(b * X + u), obs=y)


def new_model():
    return aimz.ImpactModel(kernel, 0).set_posterior_sample({"b": np.ones(4)})


def messages(*calls):
    """Return the messages that Python shows by default during calls on different lines."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        for call in calls:
            call()
    return [str(one.message) for one in found]


def calls_of(model):
    return (
        lambda: model.predict_on_batch(X),
        lambda: model.predict(X, store="memory", progress=False),
        lambda: model.predict_on_batch(X + 1),
    )


def test_default_filter_shows_a_warning_once_for_each_model():
    first, second = new_model(), new_model()
    found = messages(*calls_of(first), *calls_of(second))
    assert len(found) == 2
    assert len(set(found)) == 1
    assert found[0].startswith("The answer depends on the prior of site(s) `u`")


def test_warning_is_shown_again_for_another_posterior():
    model = new_model()
    calls = calls_of(model)
    assert len(messages(*calls)) == 1
    assert not messages(*calls)
    model.set_posterior_sample({"b": np.ones(4)})
    assert len(messages(*calls)) == 1


def test_other_reasons_are_shown():
    model = new_model()
    assert len(messages(*calls_of(model))) == 1
    found = messages(lambda: model.predict_on_batch(np.array([1, np.nan, 1, 1, 1], np.float32)))
    assert [text[:18] for text in found] == ["Arguments have NaN"]


@pytest.mark.parametrize(("action", "count"), [("always", 3), ("ignore", 0), ("once", 1), ("module", 1)])
def test_filters_of_the_user_decide(action, count):
    model = new_model()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("ignore")
        warnings.filterwarnings(action, message="The answer depends", category=aimz.errors.OutputWarning)
        for call in calls_of(model):
            call()
    assert len(found) == count


def test_every_call_raises_if_warnings_are_errors():
    model = new_model()
    for _ in range(2):
        with pytest.raises(aimz.errors.OutputWarning, match="depends on the prior"):
            model.predict_on_batch(X)
