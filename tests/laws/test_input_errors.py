"""Law 11: every method refuses the same bad input in the same words, and before anything has changed."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

from aimz import ImpactModel
from aimz.errors import KernelValidationError, NotFittedError

N = 5
X = np.linspace(0, 1, N, dtype=np.float32)
Y = 2 * X


def kernel(X, c, flag=True, y=None):
    b = numpyro.sample("b", dist.Normal())
    mu = numpyro.deterministic("mu", b * X + c)
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(mu), obs=y)


def new_model() -> ImpactModel:
    return ImpactModel(kernel, random.key(0), SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.1), Trace_ELBO()))


def fitted_model() -> ImpactModel:
    return new_model().set_posterior_sample({"b": np.arange(3.0)})


def effect(model, X, **kwargs):
    return model.estimate_effect(args_baseline={"X": X, **kwargs}, args_intervention={"X": X, **kwargs})


QUIET = {"progress": False}


# Each method as a function of (model, X, y, further arguments); those without an output ignore `y`.
STREAMING = {
    "predict": lambda m, X, _output, **k: m.predict(X, **QUIET, **k),
    "sample_posterior_predictive": lambda m, X, _output, **k: m.sample_posterior_predictive(X, **QUIET, **k),
    "sample_prior_predictive": lambda m, X, _output, **k: m.sample_prior_predictive(X, num_samples=2, **QUIET, **k),
    "log_likelihood": lambda m, X, output, **k: m.log_likelihood(X, output, **QUIET, **k),
}
METHODS = {
    "fit_on_batch": lambda m, X, output, **k: m.fit_on_batch(
        X, output, num_steps=2, num_samples=2, progress=False, **k
    ),
    "predict_on_batch": lambda m, X, _output, **k: m.predict_on_batch(X, **k),
    "sample_posterior_predictive_on_batch": lambda m, X, _output, **k: m.sample_posterior_predictive_on_batch(X, **k),
    "sample_prior_predictive_on_batch": lambda m, X, _output, **k: m.sample_prior_predictive_on_batch(X, **k),
    "estimate_effect": lambda m, X, _output, **k: effect(m, X, **k),
    "describe": lambda m, X, output, **k: m.describe(X, output, **k),
    **STREAMING,
}
WITH_OUTPUT = ("fit_on_batch", "log_likelihood", "describe")
PREDICTING = (
    "predict_on_batch",
    "sample_posterior_predictive_on_batch",
    "sample_prior_predictive_on_batch",
    "estimate_effect",
    "predict",
    "sample_posterior_predictive",
    "sample_prior_predictive",
)
INTERVENING = (
    "predict_on_batch",
    "sample_posterior_predictive_on_batch",
    "estimate_effect",
    "predict",
    "sample_posterior_predictive",
)


@dataclass(frozen=True)
class Bad:
    """An input and how it is refused."""

    name: str
    error: type[Exception]
    match: str
    X: Any = field(default_factory=lambda: X)
    y: Any = field(default_factory=lambda: Y)
    kwargs: Any = None
    methods: tuple[str, ...] = tuple(METHODS)


ROWS = "must have the same number of rows"
BAD = [
    Bad("empty", ValueError, "must not be empty; got no rows", X=X[:0], y=Y[:0], kwargs={"c": X[:0]}),
    Bad("0-d", ValueError, "`X` must have a row axis; got a 0-d array", X=np.float32(1)),
    Bad("scalar", ValueError, "`X` must have a row axis; got a 0-d array", X=1.0),
    Bad("argument misaligned", ValueError, rf"{ROWS}.*`X`: 5.*`c`: 4", kwargs={"c": X[:4]}),
    Bad("y misaligned", ValueError, rf"{ROWS}.*`X`: 5, `y`: 3, `c`: 5", y=Y[:3], methods=WITH_OUTPUT),
    Bad("text", TypeError, "`X` must be numeric; got dtype", X=np.array(list("abcde"))),
    Bad("objects", TypeError, "`X` must be numeric; got dtype object", X=np.array([None] * N)),
    Bad("complex", TypeError, "`X` must be numeric; got dtype complex64", X=X.astype(np.complex64)),
    Bad("complex JAX array", TypeError, "`X` must be numeric; got dtype complex64", X=jnp.asarray(X) * 1j),
    Bad("complex argument", TypeError, "`c` must be numeric; got dtype complex128", kwargs={"c": 1j}),
    Bad("complex list", TypeError, "`c` must be numeric; got dtype complex128", kwargs={"c": [1j] * N}),
    Bad("structured", TypeError, r"`X` must be numeric; got dtype \[\('a'", X=np.zeros(N, [("a", "f4"), ("b", "f4")])),
    Bad("keys", TypeError, r"`X` must be numeric; got dtype key<", X=random.split(random.key(0), N)),
    Bad("objects as argument", TypeError, "`c` must be numeric; got dtype object", kwargs={"c": X.astype(object)}),
    Bad(
        "text as in_sample",
        TypeError,
        "`in_sample` must be True or False; got 'False'",
        kwargs={"c": X, "in_sample": "False"},
        methods=("predict", "predict_on_batch", "estimate_effect"),
    ),
    Bad("no columns", ValueError, "`c` must have at least one column; got none", kwargs={"c": pd.DataFrame()}),
    Bad(
        "number as return site",
        TypeError,
        r"`return_sites` must be a name or names of sites; got 3\. Known: b, y, mu\.",
        kwargs={"c": X, "return_sites": 3},
        methods=PREDICTING,
    ),
    Bad("dates", TypeError, "`X` must be numeric; got dtype datetime64", X=np.zeros(N, "datetime64[D]")),
    Bad("durations", TypeError, "`X` must be numeric; got dtype timedelta64", X=np.zeros(N, "timedelta64[D]")),
    Bad("ragged", TypeError, "`X` must be an array; got something ragged", X=[[1.0], [1.0, 2.0]]),
    Bad("text argument", TypeError, "`c` must be numeric; got dtype", kwargs={"c": np.array(list("abcde"))}),
    Bad("64-bit integers", ValueError, "`X` holds values that do not fit int32", X=np.arange(N) + 2**40),
    Bad("64-bit argument", ValueError, "`c` holds values that do not fit int32", kwargs={"c": np.arange(N) - 2**40}),
    Bad(
        "huge floats",
        ValueError,
        "`y` holds values that do not fit float32",
        y=Y.astype(float) + 1e300,
        methods=WITH_OUTPUT,
    ),
    Bad("missing argument", TypeError, "Missing kernel argument.*`c`.*`kernel` has no default", kwargs={}),
    Bad("unknown argument", TypeError, "Unknown kernel argument.*`d`.*takes `c`, `flag`", kwargs={"c": X, "d": 1}),
    Bad(
        "output by keyword",
        TypeError,
        "`y` is a reserved kernel parameter and cannot be passed as a keyword argument",
        kwargs={"c": X, "y": Y},
        methods=PREDICTING,
    ),
    Bad(
        "missing output",
        TypeError,
        "`y` must be an array; got None",
        y=None,
        methods=("fit_on_batch", "log_likelihood"),
    ),
    Bad(
        "no input",
        TypeError,
        "`X` must be an array; got None",
        X=None,
        methods=tuple(m for m in METHODS if m != "describe"),
    ),
    Bad(
        "unknown return site",
        ValueError,
        r"`return_sites` must name sites of the kernel; got 'mv'. Known: b, y, mu\.",
        kwargs={"c": X, "return_sites": "mv"},
        methods=PREDICTING,
    ),
    Bad(
        "misspelt intervention",
        ValueError,
        r"Cannot intervene on 'd'.*Sites: b, mu, y\. Arguments: X, c, flag\.",
        kwargs={"c": X, "intervention": {"d": 1.0}},
        methods=INTERVENING,
    ),
    Bad(
        "intervention of another type",
        TypeError,
        "`intervention` must be a mapping",
        kwargs={"c": X, "intervention": [("b", 1.0)]},
        methods=INTERVENING,
    ),
    Bad(
        "intervention of another shape",
        ValueError,
        r"intervention on site `mu` must broadcast to its shape \(5,\); got shape \(4,\)",
        kwargs={"c": X, "intervention": {"mu": np.zeros(4)}},
        methods=INTERVENING,
    ),
    Bad(
        "intervention by text",
        TypeError,
        r"`intervention\['b'\]` must be numeric; got dtype",
        kwargs={"c": X, "intervention": {"b": "high"}},
        methods=INTERVENING,
    ),
    Bad(
        "intervention that would wrap",
        ValueError,
        r"`intervention\['b'\]` holds values that do not fit int32",
        kwargs={"c": X, "intervention": {"b": 2**40}},
        methods=INTERVENING,
    ),
    Bad(
        "key that is neither a key nor a seed",
        TypeError,
        "`rng_key` must be one typed JAX key, or a whole number as its seed; got 0.5",
        kwargs={"c": X, "rng_key": 0.5},
        methods=("fit_on_batch", *PREDICTING),
    ),
    Bad(
        "several keys",
        TypeError,
        r"`rng_key` must be one typed JAX key, or .*; got an array",
        kwargs={"c": X, "rng_key": random.split(random.key(0), 2)},
        methods=("fit_on_batch", *PREDICTING),
    ),
]


@pytest.mark.parametrize(
    ("bad", "method"), [(b, m) for b in BAD for m in b.methods], ids=lambda p: getattr(p, "name", p)
)
def test_every_method_refuses_in_the_same_words(bad, method):
    model = fitted_model()
    key = model.rng_key
    kwargs = {"c": X} if bad.kwargs is None else bad.kwargs
    with pytest.raises(bad.error, match=bad.match):
        METHODS[method](model, bad.X, bad.y, **kwargs)
    assert_untouched(model, key)


SAME = {
    "big-endian": {"X": X.astype(">f4"), "y": Y.astype(">f8"), "c": np.arange(N, dtype=">i4")},
    "lists": {"X": X.tolist(), "y": Y.tolist(), "c": list(range(N))},
    "tuples": {"X": tuple(X), "y": tuple(Y), "c": tuple(range(N))},
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("method", ["predict_on_batch", "predict", "log_likelihood", "fit_on_batch"])
def test_other_representations_of_numbers_are_converted(name, method):
    given = SAME[name]
    found = [
        METHODS[method](fitted_model(), *rows, c=c)
        for *rows, c in ((X, Y, np.arange(N)), (given["X"], given["y"], given["c"]))
    ]
    if method == "fit_on_batch":
        np.testing.assert_array_equal(found[1].posterior["b"], found[0].posterior["b"])
    else:
        group = list(found[0].children)[-1]
        np.testing.assert_array_equal(found[1][group]["y"], found[0][group]["y"])


def test_lists_of_another_length_stay_lists():
    """A list is an argument without rows until it is as long as the rows, and then keeps its meaning."""

    def static_kernel(X, sizes=(1,), y=None):
        assert isinstance(sizes, list | tuple)
        numpyro.sample("y", dist.Normal(numpyro.sample("b", dist.Normal()) * X + sum(sizes)), obs=y)

    svi = SVI(static_kernel, AutoNormal(static_kernel), numpyro.optim.Adam(0.1), Trace_ELBO())
    model = ImpactModel(static_kernel, random.key(0), svi).set_posterior_sample({"b": np.zeros(2)})
    for rows in (X, X[:2]):
        assert model.predict_on_batch(rows, sizes=[3, 4])["posterior_predictive"].sizes["draw"] == 2
    other = fitted_model()
    other.predict_on_batch(X, c=X)
    with pytest.raises(ValueError, match=rf"{ROWS}.*`X`: 5, `c`: 2"):
        other.predict_on_batch(X, c=[1.0, 2.0])


@pytest.mark.parametrize("method", ["predict_on_batch", "predict", "log_likelihood", "estimate_effect"])
def test_other_columns_than_in_the_fit(method, tmp_path):
    """A kernel that sums over columns accepts any number of them, but the draws belong to those of the fit."""

    def sums(X, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(b * X.sum(axis=1)), obs=y)

    svi = SVI(sums, AutoNormal(sums), numpyro.optim.Adam(0.1), Trace_ELBO())
    rows = np.stack([X, X**2], axis=1)
    model = ImpactModel(sums, random.key(0), svi).fit_on_batch(rows, Y, num_steps=2, num_samples=2, progress=False)
    model.save(tmp_path / "model")
    for one in (model, ImpactModel.load(tmp_path / "model", sums, svi)):
        for other, shape in ((rows[:, :1], r"\(n_obs, 1\)"), (rows[:, [0, 1, 1]], r"\(n_obs, 3\)")):
            with pytest.raises(ValueError, match=rf"`X` must have the shape \(n_obs, 2\), as in the fit; got {shape}"):
                METHODS[method](one, other, Y)


def assert_untouched(model, key):
    """Nothing was used, and no directory made."""
    assert model.rng_key == key
    np.testing.assert_array_equal(model.posterior["b"], np.arange(3.0))
    assert model.vi_state is None
    assert model.temp_dir is None


@pytest.mark.parametrize("method", STREAMING)
def test_bad_input_makes_no_directory(method, tmp_path):
    """Whatever is wrong, what was asked for as `output_dir` is not made, and nothing is put into it."""
    model = fitted_model()
    key = model.rng_key
    there = tmp_path / "there"
    there.mkdir()
    for bad in (b for b in BAD if method in b.methods):
        kwargs = {"c": X} if bad.kwargs is None else bad.kwargs
        for path in (tmp_path / "new" / "er", there):
            with pytest.raises(bad.error, match=bad.match):
                STREAMING[method](model, bad.X, bad.y, output_dir=path, **kwargs)
    assert list(tmp_path.iterdir()) == [there]
    assert not list(there.iterdir())
    assert_untouched(model, key)


POSITIVE = "`batch_size` must be a positive integer; got "
OPTIONS = [
    ({"batch_size": 0}, ValueError, POSITIVE + "0"),
    ({"batch_size": -3}, ValueError, POSITIVE + "-3"),
    ({"batch_size": 2.5}, ValueError, POSITIVE + r"2\.5"),
    ({"batch_size": True}, ValueError, POSITIVE + "True"),
    ({"batch_size": "10"}, ValueError, POSITIVE + "'10'"),
    ({"batch_size": 2**63}, ValueError, "`batch_size` must be a positive integer of at most 2,147,483,647; got 92"),
    ({"store": "disk"}, ValueError, "`store` must be 'persistent' or 'memory'; got 'disk'"),
    ({"store": None}, ValueError, "`store` must be 'persistent' or 'memory'; got None"),
    ({"shard_axis": "rows"}, ValueError, "`shard_axis` must be 'obs' or 'draw'; got 'rows'"),
    ({"shard_axis": 0}, ValueError, "`shard_axis` must be 'obs' or 'draw'; got 0"),
    ({"store": "memory", "output_dir": "{}/new"}, ValueError, "`output_dir` must be left out where `store='memory'`"),
    ({"store": "memory", "resume": "{}/new"}, ValueError, "`resume` must be left out where `store='memory'`"),
    ({"output_dir": 3}, TypeError, "`output_dir` must be a path, a URL or a zarr store; got 3"),
    ({"output_dir": "{}/a\0b"}, ValueError, "`output_dir` must be a path; got .*a null character"),
    ({"output_dir": "{}/file"}, NotADirectoryError, "`output_dir` must be a directory; got .*file is a file"),
    ({"output_dir": "{}/file/under"}, NotADirectoryError, "`output_dir` must be a directory; got .*file is a file"),
    ({"output_dir": "{}/link"}, FileNotFoundError, "`output_dir` must be a directory; .*link is a link to gone, which"),
    ({"resume": 3}, TypeError, "must be a path, a URL or a zarr store; got 3"),
    ({"resume": "{}/nowhere"}, FileNotFoundError, "`resume` must be the directory of an interrupted call; there is no"),
    ({"resume": "{}/file"}, OSError, "must be (the|a) directory"),
    ({"resume": "{}/empty"}, ValueError, "`resume` must be the directory of an interrupted call; .*no journal"),
    ({"resume": "{}/empty", "output_dir": "{}/elsewhere"}, ValueError, "`resume` must be inside `output_dir`"),
]


@pytest.mark.parametrize("method", STREAMING)
@pytest.mark.parametrize(("options", "error", "match"), OPTIONS, ids=lambda p: str(p) if isinstance(p, dict) else "")
def test_options_of_streams(method, options, error, match, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("gone")
    before = sorted(tmp_path.rglob("*"))
    given = {name: v.format(tmp_path) if isinstance(v, str) else v for name, v in options.items()}
    model = fitted_model()
    key = model.rng_key
    for rows in (X, (row[None] for row in X)):  # an iterable is not begun, either
        with pytest.raises(error, match=match):
            STREAMING[method](model, rows, Y, c=X, **given)
    assert len(list(rows)) == N
    assert sorted(tmp_path.rglob("*")) == before
    assert_untouched(model, key)


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/proc/self").exists(), reason="root may write anywhere")
@pytest.mark.parametrize("method", STREAMING)
def test_a_directory_that_cannot_be_written(method, tmp_path):
    if os.geteuid() == 0:
        path = Path("/proc/self/aimz")  # not even root makes a directory there
    else:
        path = tmp_path / "locked" / "aimz"
        path.parent.mkdir(mode=0o500)
    model = fitted_model()
    key = model.rng_key
    with pytest.raises(OSError, match=str(path)):
        STREAMING[method](model, X, Y, c=X, output_dir=path)
    assert_untouched(model, key)


@pytest.mark.parametrize("method", STREAMING)
def test_batches_that_do_not_fit(method):
    """What is wrong with an iterable is said in the words for arrays, where there are such."""
    model = fitted_model()
    key = model.rng_key
    for batches, error, match in (
        ([], ValueError, "`X` must not be empty"),
        ([{"X": X[:0], "c": X[:0]}], ValueError, "`X` must not be empty"),
        ([{"X": X, "c": X[:4]}], ValueError, f"{ROWS}.*`X`: 5"),
        ([{"X": np.array(list("abcde")), "c": X}], TypeError, "`X` must be numeric; got dtype"),
        ([{"X": np.arange(N) + 2**40, "c": X}], ValueError, "`X` holds values that do not fit int32"),
        ([{"c": X}], ValueError, "Batches must have a field `X`"),
        ([{"X": X, "c": X, "d": X}], TypeError, "Unknown kernel argument.*`d`"),
        ([(X, Y, X)], ValueError, "A batch without names must be"),
        ([{"X": X}], TypeError, "Missing kernel argument.*`c`"),
    ):
        if method == "log_likelihood":
            batches = [{**b, "y": Y[: len(b.get("X", Y))]} if isinstance(b, dict) else b for b in batches]
        with pytest.raises(error, match=match):
            STREAMING[method](model, iter(batches), None)
    with pytest.raises(TypeError, match="`c` must be given once"):
        STREAMING[method](model, iter([{"X": X, "y": Y, "c": X}]), None, c=X)
    assert_untouched(model, key)


@pytest.mark.parametrize(
    "method",
    [
        "predict_on_batch",
        "sample_posterior_predictive_on_batch",
        "predict",
        "sample_posterior_predictive",
        "log_likelihood",
    ],
)
def test_not_fitted(method):
    with pytest.raises(NotFittedError, match=r"needs a posterior, and this model has none yet\. Call `fit\(X, y\)`"):
        METHODS[method](new_model(), X, Y, c=X)


def test_nothing_to_sample_from():
    with pytest.raises(NotFittedError, match="no inference result to sample from"):
        new_model().sample()
    mcmc = MCMC(NUTS(kernel), num_warmup=2, num_samples=2)
    with pytest.raises(NotFittedError, match="no inference result to sample from"):
        ImpactModel(kernel, random.key(0), mcmc).sample(X=X, y=Y, c=X)


def test_sample_refuses_what_it_cannot_use():
    mcmc = MCMC(NUTS(kernel), num_warmup=2, num_samples=2, progress_bar=False)
    model = ImpactModel(kernel, random.key(0), mcmc).fit_on_batch(X, Y, c=X, progress=False)
    with pytest.raises(TypeError, match="`y` must be an array; got None"):
        model.sample(X=X, c=X)
    fitted = new_model().fit_on_batch(X, Y, c=X, num_steps=2, num_samples=2, progress=False)
    with pytest.raises(TypeError, match="Unknown kernel argument"):
        fitted.sample(X=X, c=X, junk=3)
    with pytest.raises(TypeError, match="Unknown kernel argument"):
        fitted.sample(junk=3)


@pytest.mark.parametrize("function", [lambda c: 1 / 0, lambda: 0, lambda c: c.other])
def test_errors_of_functions_of_the_user_name_them(function):
    with pytest.raises((ZeroDivisionError, TypeError, AttributeError)) as caught:
        fitted_model().predict_on_batch(X, c=jnp.asarray(X), intervention={"c": function})
    assert "This was raised by the function in `intervention['c']`" in caught.value.__notes__[0]


def test_flags(tmp_path):
    model = fitted_model()
    for name, call in {
        "progress": lambda: model.predict(X, c=X, progress="no"),
        "return_datatree": lambda: model.predict_on_batch(X, c=X, return_datatree=0),
        "shuffle": lambda: model.fit(X, Y, c=X, shuffle="False"),
        "as_dict": lambda: model.describe(as_dict="yes"),
        "overwrite": lambda: model.save(tmp_path / "model", overwrite="False"),
        "on_batch": lambda: model.estimate_effect(on_batch="True"),
    }.items():
        with pytest.raises(TypeError, match=f"`{name}` must be True or False; got .*Pass a Boolean"):
            call()
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("count", [0, -3, 2.5, True, "10", 2**63])
def test_counts(count):
    words = rf"must be a positive integer{' of at most 2,147,483,647' if count == 2**63 else ''}; got {count!r}"
    model = fitted_model()
    with pytest.raises(ValueError, match="`num_samples` " + words):
        model.sample_prior_predictive_on_batch(X, c=X, num_samples=count)
    with pytest.raises(ValueError, match="`num_samples` " + words):
        model.sample_prior_predictive(X, c=X, num_samples=count)
    with pytest.raises(ValueError, match="`num_samples` " + words):
        model.fit_on_batch(X, Y, c=X, num_samples=count)
    with pytest.raises(ValueError, match="`num_steps` " + words):
        model.fit_on_batch(X, Y, c=X, num_steps=count)
    with pytest.raises(ValueError, match="`num_samples` " + words):
        model.sample(num_samples=count)
    with pytest.raises(ValueError, match="`num_chains` " + words):
        model.set_posterior_sample({"b": np.zeros(4)}, num_chains=count)


@pytest.mark.parametrize(
    ("samples", "error", "match"),
    [
        ({}, ValueError, "`samples` must not be empty"),
        ([1.0], TypeError, "`samples` must be a mapping"),
        ({"b": 1.0}, ValueError, "`b`: a scalar"),
        ({"b": np.zeros(0)}, ValueError, "`b`: 0"),
        ({"b": np.zeros(3), "c": np.zeros(4)}, ValueError, "`b`: 3, `c`: 4"),
        ({"b": np.zeros(3, complex)}, TypeError, r"`samples\['b'\]` must be numeric; got dtype complex128"),
        ({"b": np.array(["a"])}, TypeError, r"`samples\['b'\]` must be numeric"),
    ],
)
def test_injected_draws(samples, error, match):
    model = fitted_model()
    with pytest.raises(error, match=match):
        model.set_posterior_sample(samples)
    np.testing.assert_array_equal(model.posterior["b"], np.arange(3.0))


def test_draws_of_the_output_are_dropped():
    model = new_model()
    with pytest.warns(UserWarning, match="Draws of the output `y` were dropped"):
        model.set_posterior_sample({"b": np.zeros(3), "y": np.zeros((3, N))})
    assert list(model.posterior) == ["b"]
    with pytest.warns(UserWarning, match="dropped"), pytest.raises(ValueError, match="another site than the output"):
        model.set_posterior_sample({"y": np.zeros((3, N))})
    with pytest.raises(ValueError, match="`num_chains` must divide the number of draws, 3; got 2"):
        model.set_posterior_sample({"b": np.zeros(3)}, num_chains=2)


SVI_OBJECT = SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.1), Trace_ELBO())
FAQ = (
    "Kernel must accept 'X' and 'y' as argument(s). Modify the kernel signature or set `param_input` and "
    "`param_output` accordingly."
)


def test_the_inference_object():
    with pytest.raises(TypeError, match="At most one of `inference` and `svi`"):
        ImpactModel(kernel, random.key(0), SVI_OBJECT, svi=SVI_OBJECT)
    with pytest.raises(TypeError, match=r"`inference` must be 'nuts', 'svi', .*; got 'hmc'"):
        ImpactModel(kernel, random.key(0), "hmc")
    with pytest.raises(TypeError, match="Unsupported inference object: `int`"):
        ImpactModel(kernel, random.key(0), 3)
    with pytest.raises(TypeError, match="`potential_fn`"):
        ImpactModel(kernel, random.key(0), MCMC(NUTS(potential_fn=lambda z: z), num_warmup=1, num_samples=1))
    with pytest.warns(UserWarning, match="is not the object `other`"):
        ImpactModel(other, random.key(0), svi=SVI_OBJECT)
    assert ImpactModel(kernel, random.key(0), svi=SVI_OBJECT).inference is SVI_OBJECT


def other(X, y=None):
    pass


def no_output(X):
    pass


def star(X, y=None, *args):
    pass


def double_star(X, y=None, **options):
    pass


def positional(X, /, y=None):
    pass


def input_default(X=None, y=None):
    pass


def output_required(X, y):
    pass


def unreachable(X, rng_key, y=None):
    pass


@pytest.mark.parametrize(
    ("bad_kernel", "match"),
    [
        (no_output, "Kernel must accept 'X' and 'y' as argument"),
        (star, r"must not take `\*args`"),
        (double_star, r"must not take `\*\*options`"),
        (positional, "must not be positional-only"),
        (input_default, "`X` must have no default"),
        (output_required, "`y` must have the default None"),
        (unreachable, "`rng_key` could never be reached: functions of NumPyro"),
    ],
)
def test_kernel_signatures(bad_kernel, match):
    svi = SVI(bad_kernel, AutoNormal(bad_kernel), numpyro.optim.Adam(0.1), Trace_ELBO())
    with pytest.raises(KernelValidationError, match=match) as caught:
        ImpactModel(bad_kernel, random.key(0), svi)
    assert isinstance(caught.value, ValueError)
    if bad_kernel is no_output:
        assert str(caught.value) == FAQ


def test_keys_at_construction():
    for key in (True, 0.0, "0", 2**64):
        with pytest.raises(TypeError, match=f"`rng_key` must be one typed JAX key, or .*; got {key!r}"):
            ImpactModel(kernel, key, SVI_OBJECT)
    for seed in (3, np.int64(3)):
        assert ImpactModel(kernel, seed, SVI_OBJECT).rng_key == random.key(3)
    with pytest.warns(UserWarning, match="legacy `uint32` key was converted"):
        model = ImpactModel(kernel, jnp.array([0, 3], jnp.uint32), SVI_OBJECT)
    assert model.rng_key == random.key(3)


def test_scenarios():
    model = fitted_model()
    tree = model.predict_on_batch(X, c=X)
    args = {"X": X, "c": X}
    for name, options in {
        "baseline; got neither": {"args_intervention": args},
        "intervention; got neither": {"args_baseline": args},
    }.items():
        which, got = name.split("; ")
        with pytest.raises(TypeError, match=rf"`output_{which}` and `args_{which}` must be given; {got}"):
            model.estimate_effect(**options)
    with pytest.raises(TypeError, match="`output_baseline` and `args_baseline` must be given; got both"):
        model.estimate_effect(tree, tree, args)
    with pytest.raises(TypeError, match=r"`args_baseline` must be a mapping .* with `X` among them"):
        model.estimate_effect(args_baseline={"c": X}, args_intervention=args)
    with pytest.raises(ValueError, match="`return_datatree`"):
        model.estimate_effect(args_baseline={**args, "return_datatree": False}, args_intervention=args)
    with pytest.raises(TypeError, match="`output_intervention` must be a DataTree"):
        model.estimate_effect(tree, {"y": 0})
    key = model.rng_key
    for other in ({**args, "in_sample": False}, {"X": X[:3], "c": X[:3]}):
        with pytest.raises(ValueError, match="The scenarios must have the same rows; got 5 in the baseline"):
            model.estimate_effect(args_baseline=args, args_intervention=other)
    assert model.rng_key == key
    with pytest.raises(ValueError, match="must share a group of predictions"):
        model.estimate_effect(tree, model.predict_on_batch(X, c=X, in_sample=False))
    with pytest.raises(ValueError, match="obs: 5 in the baseline, 3 with the intervention"):
        model.estimate_effect(tree, model.predict_on_batch(X[:3], c=X[:3]))
    with pytest.raises(ValueError, match="share no variable"):
        model.estimate_effect(tree, model.predict_on_batch(X, c=X, return_sites="b"))


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"dims": ["a"]}, TypeError, "`dims` must be a mapping"),
        ({"coords": 3}, TypeError, "`coords` must be a mapping"),
        ({"dims": {"b": ["chain"]}}, ValueError, "must not use 'chain'"),
        ({"dims": {"b": ["b"]}}, ValueError, "must not use 'b'"),
    ],
)
def test_labels_at_construction(options, error, match):
    with pytest.raises(error, match=match):
        ImpactModel(kernel, random.key(0), SVI_OBJECT, **options)


def test_vi_result():
    with pytest.raises(TypeError, match="`vi_result` must have `params` and `losses`"):
        new_model().vi_result = {"params": {}}
