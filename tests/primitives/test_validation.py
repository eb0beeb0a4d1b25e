"""Tests of the findings of `validate_model` and `inspect_fn`."""

import copy
import pickle
import re
import shutil
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.infer import MCMC, NUTS
from numpyro.infer.inspect import get_dependencies

from aimz import ImpactModel
from aimz.primitives import inspect_fn, validate_model
from kernels import BY_NAME, CASES, N_OBS


def shape(*sizes, dtype="float32"):
    return jax.ShapeDtypeStruct(sizes, dtype)


ROWS = shape(12)


def kinds(findings):
    return {(finding.kind, finding.site) for finding in findings}


# Models of the catalogue of which there is something to say.
EXPECTED = {
    "gaussian_process": {("rows", None), ("minibatches", None)},
    "state_space": {("rows", None), ("minibatches", None), ("no plate", "y")},
    "factor_only": {("minibatches", None), ("one event", "y")},
    "subsampled": {("subsampled", "obs")},
    "closed_over": {("fixed size", None)},
    "improper": {("improper", "b")},
}


# Without data they are made up, so that the model runs with some in any case.
GIVEN = [BY_NAME[name] for name in ("multi_output", "hierarchical", "factor_only", "subsampled", "masked")]


@pytest.mark.parametrize(
    ("case", "with_data"),
    [*((case, False) for case in CASES), *((case, True) for case in GIVEN)],
    ids=lambda v: getattr(v, "name", "with data" if v else "without data"),
)
def test_valid_models_have_no_findings(case, with_data):
    arguments = {
        name: shape(*value.shape, dtype=value.dtype) if hasattr(value, "shape") else value
        for name, value in {**case.arguments(), **({"y": case.y} if with_data else {})}.items()
    }
    result = validate_model(case.kernel, **arguments)
    assert result.is_valid, result
    assert kinds(result.warnings) == EXPECTED.get(case.name, set())
    local = {name for name, site in result.sites.items() if site.role == "local"}
    assert local == set(case.local)
    along = {name for name, site in result.sites.items() if "n_obs" in site.shape}
    assert along == set(case.row_sites) - (set() if set(case.row_sites) <= set(result.sites) else {"y"})


@pytest.mark.parametrize("name", ["linear", "hierarchical", "chain", "param_site", "nested_plates"])
def test_sites_equal_numpyro(name):
    """Names, types, shapes, distributions and scales equal those of a NumPyro trace."""
    case = BY_NAME[name]
    arguments = {k: jnp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in case.arguments().items()}
    y = jnp.asarray(case.y)
    trace = handlers.trace(handlers.seed(case.kernel, 0)).get_trace(**arguments, y=y)
    sites = {name: site for name, site in trace.items() if site["type"] != "plate"}
    found = validate_model(case.kernel, **arguments, y=y).sites
    assert list(found) == list(sites)
    for name, site in sites.items():
        assert found[name].type == site["type"]
        assert found[name].is_observed == site.get("is_observed", False)
        assert found[name].value == jax.ShapeDtypeStruct(jnp.shape(site["value"]), jnp.result_type(site["value"]))
        assert found[name].scale == site.get("scale")
        if site["type"] == "sample":
            assert type(found[name].fn) is type(site["fn"])
            assert found[name].fn.batch_shape == site["fn"].batch_shape
            assert found[name].plates == tuple(frame.name for frame in site["cond_indep_stack"])


@pytest.mark.parametrize("name", ["hierarchical", "local_latents", "mixture", "horseshoe", "nested_plates"])
def test_dependencies_equal_numpyro(name):
    """Only among sites, since NumPyro does not track arguments."""
    case = BY_NAME[name]
    arguments = {k: jnp.asarray(v) if isinstance(v, np.ndarray) else v for k, v in case.arguments().items()}
    theirs = get_dependencies(case.kernel, model_kwargs={**arguments, "y": jnp.asarray(case.y)})["prior_dependencies"]
    ours = validate_model(case.kernel, **arguments, y=case.y).dependencies
    assert {name: set(parents) - set(case.arguments()) for name, parents in ours.items()} == {
        name: set(parents) - {name} for name, parents in theirs.items()
    }


def test_dependencies_name_arguments_and_sites():
    case = BY_NAME["hierarchical"]
    found = validate_model(case.kernel, shape(9, 3), group=shape(9, dtype="int32"), n_groups=4)
    assert found.dependencies == {"mu": [], "tau": [], "alpha": ["mu", "tau"], "y": ["X", "group", "alpha"]}
    assert [(p.name, p.size, p.dim, p.is_rows) for p in found.plate_stack] == [
        ("groups", 4, -1, False),
        ("obs", 9, -1, True),
    ]


def column_of_data(X, y=None):
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X, 1), obs=y)


def not_observed(X, y=None):
    numpyro.sample("y", dist.Normal(X, 1))


def observed_elsewhere(X, y=None):
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("outcome", dist.Normal(X, 1), obs=y)


def no_rows(X, y=None):
    mu = numpyro.sample("mu", dist.Normal())
    numpyro.sample("y", dist.Normal(mu, 1), obs=y)


def no_plate(X, y=None):
    z = numpyro.sample("z", dist.Normal().expand([X.shape[0]]))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X + z, 1), obs=y)


def discrete(X, y=None):
    with numpyro.plate("obs", X.shape[0]):
        z = numpyro.sample("z", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Normal(z + X, 1), obs=y)


def counted(X, y=None):
    n = numpyro.sample("n", dist.Poisson(3.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(n + X, 1), obs=y)


def branches(X, y=None):
    slope = numpyro.sample("slope", dist.Normal())
    if slope > 0:
        slope = -slope
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(slope * X, 1), obs=y)


def counts_groups(X, y=None, *, group):
    with numpyro.plate("groups", int(group.max()) + 1):
        a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a[group], 1), obs=y)


def raises(X, y=None):
    numpyro.sample("a", dist.Normal())
    numpyro.sample("y", dist.Normal(X @ jnp.ones(5)), obs=y)


def needs_data(X, y=None):
    with numpyro.plate("obs", y.shape[0]):
        numpyro.sample("y", dist.Normal(X), obs=y)


def named_twice(X, y=None):
    numpyro.sample("a", dist.Normal())
    numpyro.sample("a", dist.Normal())
    numpyro.sample("y", dist.Normal(X), obs=y)


def named_like_argument(X, y=None, *, group=None):
    a = numpyro.sample("group", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X + a), obs=y)


def named_like_plate(X, y=None):
    a = numpyro.sample("obs", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X + a), obs=y)


def not_storable(X, y=None):
    a, b = numpyro.sample("a/b", dist.Normal()), numpyro.sample("__c", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X + a + b), obs=y)


def two_outputs_in_one(X, y=None):
    numpyro.sample("y", dist.Normal(X).to_event(1), obs=y)


def demeaned(X, y=None):
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X - X.mean(), 1), obs=y)


def by_row(X, y=None):
    offset = numpyro.param("offset", jnp.zeros(X.shape[0]))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X + offset, 1), obs=y)


def plate_of_ten(X, y=None):
    with numpyro.plate("obs", 12):
        numpyro.sample("y", dist.Normal(X, 1), obs=y)


def scalar_factor(X, y=None):
    a = numpyro.sample("a", dist.Normal())
    numpyro.deterministic("mu", a + X)
    if y is not None:
        numpyro.factor("score", -jnp.sum((y - a - X) ** 2))


def leaks(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        mu = numpyro.deterministic("mu", X * b + (0.0 if y is None else y))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def leaks_at_once(X, y=None):
    """Site and data have the same name and are distinguished."""
    b = numpyro.sample("b", dist.Normal())
    before = 0.0 if y is None else jnp.concatenate([jnp.zeros(1), y[:-1]])
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X + b * before, 1.0), obs=y)


def leaks_in_part(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b + (0.0 if y is None else y)), obs=y, obs_mask=X > 0)


def prior_from_data(X, y=None):
    b = numpyro.sample("b", dist.Normal(0.0 if y is None else y.mean(), 1.0))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X + b, 1.0), obs=y)


BAD = [
    (leaks, (ROWS, ROWS), {}, "warning", "data in the model", "y"),
    (leaks, (ROWS,), {}, "warning", "data in the model", "y"),
    (leaks_at_once, (ROWS, ROWS), {}, "warning", "data in the model", "y"),
    (leaks_in_part, (ROWS, ROWS), {}, "warning", "data in the model", "y_observed"),
    (prior_from_data, (ROWS, ROWS), {}, "warning", "data in the model", "b"),
    (column_of_data, (shape(12, 1), ROWS), {}, "error", "shapes", "y"),
    (column_of_data, (ROWS, shape(12, 1)), {}, "error", "shapes", "y"),
    (column_of_data, (shape(12, 1),), {}, "error", "shapes", "y"),
    (not_observed, (ROWS, ROWS), {}, "error", "unobserved", "y"),
    (not_observed, (ROWS,), {}, "error", "unobserved", "y"),
    (observed_elsewhere, (ROWS, ROWS), {}, "warning", "observed elsewhere", "outcome"),
    (observed_elsewhere, (ROWS,), {}, "warning", "observed elsewhere", "outcome"),
    (no_rows, (ROWS, ROWS), {}, "error", "no rows", "y"),
    (no_rows, (ROWS,), {}, "error", "no rows", "y"),
    (no_plate, (ROWS,), {}, "warning", "no plate", "z"),
    (discrete, (ROWS,), {}, "warning", "discrete latent", "z"),
    (counted, (ROWS,), {}, "warning", "discrete latent", "n"),
    (branches, (ROWS,), {}, "error", "values", None),
    (counts_groups, (ROWS,), {"group": shape(12, dtype="int32")}, "error", "values", None),
    (raises, (ROWS,), {}, "error", "raises", None),
    (needs_data, (ROWS, ROWS), {}, "error", "raises", None),
    (named_twice, (ROWS,), {}, "error", "names", None),
    (named_like_argument, (ROWS,), {}, "error", "names", None),
    (named_like_plate, (ROWS,), {}, "error", "names", None),
    (not_storable, (ROWS,), {}, "error", "names", None),
    (two_outputs_in_one, (ROWS,), {}, "warning", "one event", "y"),
    (demeaned, (ROWS,), {}, "warning", "rows", None),
    (demeaned, (ROWS,), {}, "warning", "minibatches", None),
    (by_row, (ROWS,), {}, "warning", "parameter by row", "offset"),
    (plate_of_ten, (ROWS,), {}, "warning", "fixed size", None),
    (scalar_factor, (ROWS, ROWS), {}, "warning", "minibatches", None),
    (column_of_data, (), {}, "error", "call", None),
    (column_of_data, (ROWS,), {"x": 1}, "error", "call", None),
    (column_of_data, ({"a": ROWS},), {}, "error", "raises", None),
    ("a model", (), {}, "error", "call", None),
    (print, (), {}, "warning", "signature", None),
]


@pytest.mark.parametrize(
    ("model", "args", "kwargs", "degree", "kind", "site"), BAD, ids=lambda v: getattr(v, "__name__", None)
)
def test_each_problem_is_found(model, args, kwargs, degree, kind, site):
    result = validate_model(model, *args, **kwargs)
    found = result.errors if degree == "error" else result.warnings
    assert (kind, site) in kinds(found), result
    assert result.is_valid == (not result.errors)
    assert all(isinstance(finding, str) and finding.endswith(".") for finding in result.errors + result.warnings)
    for line in str(result).splitlines():
        assert len(line) <= 80, line


@pytest.mark.parametrize(
    ("model", "args", "kwargs", "degree", "kind", "site"),
    [bad for bad in BAD if bad[3] == "error" and bad[4] in ("values", "names", "unobserved")],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_model_raises_for_each_error(model, args, kwargs, degree, kind, site):
    """The engine raises for the same models."""
    given = {k: np.zeros(12, v.dtype) for k, v in kwargs.items()}
    sampler = MCMC(NUTS(model), num_warmup=1, num_samples=1, progress_bar=False)
    with pytest.raises(ValueError):
        ImpactModel(model, random.key(0), sampler).fit_on_batch(np.zeros(12), np.zeros(12), progress=False, **given)


def missing_by_mask(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    seen = True if y is None else jnp.isfinite(y)
    with numpyro.plate("obs", X.shape[0]), numpyro.handlers.mask(mask=seen):
        numpyro.sample("y", dist.Normal(b + X), obs=None if y is None else jnp.where(seen, y, 0.0))


def missing_by_obs_mask(X, y=None):
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b + X), obs=y, obs_mask=None if y is None else jnp.isfinite(y))


def starts_at_data(X, y=None):
    a = numpyro.param("a", 0.0 if y is None else y.mean())
    b = numpyro.param("b", lambda key: jnp.zeros(()) if y is None else y.mean())
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(a + b + X), obs=y)


def goes_on_from_data(X, y=None):
    """Values computed from the site are drawn with it, and a residual has no effect."""
    b = numpyro.sample("b", dist.Normal())
    with numpyro.plate("obs", X.shape[0]):
        seen = numpyro.sample("y", dist.Normal(b + X), obs=y)
        numpyro.sample("later", dist.Normal(seen))
    numpyro.deterministic("residual", (0.0 if y is None else y) - b)


def walks(X, y=None):
    b = numpyro.sample("b", dist.Normal())

    def step(before, now):
        here = numpyro.sample("y", dist.Normal(b * before), obs=now)
        return here, None

    scan(step, 0.0, y, length=X.shape[0])


@pytest.mark.parametrize("model", [missing_by_mask, missing_by_obs_mask, starts_at_data, goes_on_from_data, walks])
def test_observed_data_are_no_dependency(model):
    found = validate_model(model, ROWS, ROWS)
    assert found.is_valid, found
    assert "data in the model" not in {kind for kind, _ in kinds(found.warnings)}


def test_all_invalid_names_are_reported():
    assert len(validate_model(not_storable, ROWS).errors) == 2
    assert len(validate_model(named_twice, ROWS).errors) == 1


def test_error_contains_the_line_of_the_model():
    (error,) = validate_model(branches, ROWS).errors
    assert re.search(r"line \d+ of test_validation\.py, `if slope > 0:`", error)
    (error,) = validate_model(raises, ROWS).errors
    assert '`numpyro.sample("y", dist.Normal(X @ jnp.ones(5)), obs=y)`' in error
    assert list(validate_model(raises, ROWS).sites) == ["a"]


def test_advice_on_shapes():
    assert "`y[:, 0]`" in validate_model(column_of_data, ROWS, shape(12, 1)).errors[0]
    assert "`mu[:, 0]`" in validate_model(column_of_data, shape(12, 1), ROWS).errors[0]


def no_arguments():
    x = numpyro.sample("x", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(x, 1))


def other_names(area, price=None):
    with numpyro.plate("house", area.shape[0]):
        numpyro.sample("price", dist.Normal(area, 1), obs=price)


def only_data(data):
    p = numpyro.sample("p", dist.Beta(1, 1))
    with numpyro.plate("toss", data.shape[0]):
        numpyro.sample("data", dist.Bernoulli(p), obs=data)


def required_output(X, y):
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(X, 1), obs=y)


@pytest.mark.parametrize(
    ("model", "args", "warned"),
    [
        (no_arguments, (), "no parameter for its input and its output"),
        (other_names, (ROWS,), "`param_input='area'` and `param_output='price'`"),
        (other_names, (ROWS, ROWS), "`param_input='area'` and `param_output='price'`"),
        (only_data, (shape(12, dtype="int32"),), "def only_data(X, data=None)"),
        (required_output, (ROWS, ROWS), "Write `y=None`"),
    ],
)
def test_any_signature_is_a_model(model, args, warned):
    """An option that `ImpactModel` needs is a warning, not an error."""
    result = validate_model(model, *args)
    assert result.is_valid, result
    (warning,) = result.warnings
    assert warning.kind == "signature"
    assert warned in warning


def with_options(area, group=None, offset=None, *, price=None):
    shift = 0.0 if group is None else group
    with numpyro.plate("house", area.shape[0]):
        numpyro.sample("observed", dist.Normal(area + shift, 1), obs=price)


def without_output(area, group=None):
    shift = 0.0 if group is None else group
    with numpyro.plate("house", area.shape[0]):
        numpyro.sample("observed", dist.Normal(area + shift, 1))


@pytest.mark.parametrize("given", [{}, {"group": ROWS}, {"price": ROWS}, {"group": ROWS, "price": ROWS}], ids=sorted)
def test_observed_parameter_is_the_output(given):
    result = validate_model(with_options, ROWS, **given)
    assert result.is_valid
    assert kinds(result.warnings) == {("signature", None), ("observed elsewhere", "observed")}
    assert "`param_input='area'` and `param_output='price'`" in result.warnings[0]


def test_option_with_default_none_is_no_output():
    result = validate_model(without_output, ROWS)
    assert result.is_valid
    (warning,) = result.warnings
    assert "no parameter for its output" in warning


def test_frames_and_lists_are_arrays():
    pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")

    def model(X, y=None, *, weight):
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(X.sum(-1) * weight, 1), obs=y)

    columns = {"a": [1.0, 2.0, 3.0], "b": [1, 2, 3]}
    for frame in (pandas.DataFrame(columns), polars.DataFrame(columns), np.ones((3, 2)).tolist()):
        for series in (pandas.Series([1, 2, 3], dtype="Int64"), polars.Series([1.0, 2.0, 3.0])):
            result = validate_model(model, frame, [0.0, 1.0, 2.0], weight=series)
            assert result.is_valid, result
            assert result.dependencies == {"y": ["X", "weight"]}
            assert result.warnings == []


def test_non_numeric_arguments_are_passed_unchanged():
    def model(X, y=None, *, names, key, flag=True):
        assert names.dtype.kind == "U"
        assert flag is False
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(X + random.normal(key), len(names)), obs=y)

    assert validate_model(model, ROWS, names=np.array(["a", "b"]), key=random.key(0), flag=np.bool_(False)).is_valid


def test_reported_names_work_in_the_model():
    sampler = MCMC(NUTS(other_names), num_warmup=1, num_samples=1, progress_bar=False)
    ImpactModel(other_names, random.key(0), sampler, param_input="area", param_output="price")


def test_tables_of_another_length_and_arrays_inside_arguments():
    def model(X, y=None, *, table, more):
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(X + table.sum() + more["z"], 1), obs=y)

    result = validate_model(model, ROWS, table=shape(3), more={"z": ROWS, "k": 2})
    assert result.is_valid
    assert kinds(result.warnings) == {("lengths", "table"), ("inside arguments", None)}
    assert result.dependencies["y"] == ["X", "table", "more['z']"]


def test_numpyro_warnings_are_reported_once():
    def model(X, y=None):
        warnings.warn("mind the gap", stacklevel=2)
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(X, 1), obs=y)

    (warning,) = validate_model(model, ROWS).warnings
    assert warning.kind == "warned"
    assert "mind the gap" in warning


def test_no_data_are_read():
    """The number of rows does not matter, and values are never read."""
    huge = shape(10**12)
    assert validate_model(column_of_data, huge, huge).is_valid
    nans = np.full(12, np.nan)
    assert str(validate_model(column_of_data, nans, nans)) == str(validate_model(column_of_data, ROWS, ROWS))


def test_handler_and_callable_object_as_model():
    class Model:
        def __call__(self, X, y=None):
            column_of_data(X, y)

    assert validate_model(Model(), ROWS).is_valid
    assert validate_model(handlers.scale(column_of_data, scale=2.0), ROWS, ROWS).sites["y"].scale == 2.0


def test_sites_in_control_flow():
    def model(X, y=None):
        def step(level, x):
            level = numpyro.sample("level", dist.Normal(level, 0.1))
            return level, level + x

        scan(step, 0.0, X)

    result = inspect_fn(model, ROWS)
    assert result.sites["level"].in_control_flow
    assert result.errors == []


def test_inspect_function_that_is_no_model():
    def function(x, *rest, **named):
        slope = numpyro.sample("slope", dist.Normal().expand([2]))
        return {"sum": slope.sum() * x + rest[0], "named": named["z"]}

    result = inspect_fn(function, ROWS, shape(12), z=shape(3, dtype="int32"))
    assert result.returned == {"sum": ROWS, "named": shape(3, dtype="int32")}
    assert result.dependencies == {"slope": []}
    assert result.is_valid
    assert result.warnings == []
    assert str(result).startswith("function: 1 site\n")


def test_exception_is_the_only_error_of_inspect_fn():
    result = inspect_fn(raises, ROWS)
    assert [error.kind for error in result.errors] == ["raises"]
    assert list(result.sites) == ["a"]
    assert inspect_fn(no_rows, ROWS, ROWS).errors == []  # however bad a model
    assert [error.kind for error in inspect_fn(raises).errors] == ["call"]


def strange_value(X, y=None):
    numpyro.sample("z", dist.Normal(X), obs={"a": X})
    numpyro.sample("y", dist.Normal(X), obs=[1.0, 2.0])


def strange_name(X, y=None):
    with numpyro.plate(5, 2):
        z = numpyro.sample(3, dist.Normal(), obs=y)
    numpyro.sample("z", dist.Normal(z))


def strange_distribution(X, y=None):
    numpyro.sample("y", lambda rng_key=None, sample_shape=(): X, obs=y)


def strange_plates(X, y=None):
    with numpyro.plate("p", X.shape[0], dim=-2), numpyro.plate("q", 0):
        numpyro.sample("y", dist.Normal(0, 1), obs=y)


def strange_return(X, y=None):
    return dist.Normal(X), lambda: X, {1, 2}, "text", None


def strange_keys(X, y=None):
    numpyro.sample("y", dist.Normal(X), obs=y, rng_key=random.key(1), infer={"hint": object(), "weights": jnp.ones(3)})


def without_end(X, y=None):
    without_end(X, y)


class Refuses:
    @property
    def __signature__(self):
        raise ValueError("no")

    def __call__(self, X):
        pass


@pytest.mark.parametrize("args", [(), (ROWS, ROWS), (shape(0), shape()), (1, None)])
@pytest.mark.parametrize(
    "model",
    [
        *(strange_value, strange_name, strange_distribution, strange_plates, strange_return, strange_keys, without_end),
        *(Refuses(), dist.Normal, dict, jnp.sum, lambda *a, **k: None, 3, None, no_rows, by_row, scalar_factor),
    ],
    ids=lambda model: getattr(model, "__name__", str(type(model))),
)
def test_validation_never_raises(model, args):
    """No model makes the validation raise, and every result can be printed."""
    for found in (validate_model(model, *args), inspect_fn(model, *args)):
        assert max(map(len, str(found).splitlines())) <= 80
        assert found._repr_html_().startswith("<div ")
        assert found.is_valid == (not found.errors)


def test_import_of_primitives_is_light():
    code = "import sys, numpyro.infer.autoguide, aimz.primitives; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert "aimz" in done.stdout.split()
    heavy = {"xarray", "pandas", "matplotlib", "graphviz", "flax", "haiku", "equinox", "funsor", "polars"}
    assert not heavy & set(done.stdout.split())


def test_attributes_are_keys():
    result = validate_model(no_arguments)
    assert len(result["sites"]) == 2
    assert list(result) == ["sites", "dependencies", "plate_stack", "is_valid", "warnings", "errors", "returned"]
    assert len(result) == 7
    assert result["is_valid"] is True
    assert "sites" in result
    assert "site" not in result
    assert result.get("judged") is None
    assert dict(result)["dependencies"] == {"x": [], "y": ["x"]}


def test_findings_pickle_and_copy():
    (error,) = validate_model(branches, ROWS).errors
    for other in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert (other, other.kind, other.site) == (error, error.kind, error.site)


def test_report_width():
    def model(X, y=None):
        mu = X
        for i in range(6):
            mu = mu + numpyro.sample(f"a_site_with_a_name_that_is_rather_long_for_its_own_good_{i}", dist.Normal())
        with numpyro.plate("a_plate_with_a_long_name_that_says_what_it_runs_along", X.shape[0]):
            numpyro.sample("y", dist.Normal(mu), obs=y)

    lines = str(validate_model(model, ROWS)).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("a_site") and "…" in line for line in lines) == 6
    assert all(any(f"good_{i}" in line for line in lines) for i in range(6))


def test_html_escapes_text():
    def model(X, y=None):
        numpyro.sample("<script>alert(1)</script>", dist.Bernoulli(0.5))
        with numpyro.plate("<b>", X.shape[0]):
            numpyro.sample("y", dist.Normal(X), obs=y)

    html = validate_model(model, ROWS)._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert html.count("<b>") == html.count("</b>")
    assert html.index("<li>") < html.index("<table>")
    for column in ("site", "role", "shape", "distribution", "plates", "depends on"):
        assert f"<th>{column}</th>" in html


def test_graph_is_shown_if_graphviz_is_installed(monkeypatch):
    graphviz = pytest.importorskip("graphviz")
    result = validate_model(column_of_data, ROWS)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "<svg" not in result._repr_html_()
    drawn = []

    def pipe(self, **options):
        drawn.append((self.source, options))
        return '<?xml version="1.0"?><svg>picture</svg>'

    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(graphviz.Digraph, "pipe", pipe)
    assert "<svg>picture</svg></div>" in result._repr_html_()
    ((source, options),) = drawn
    assert options == {"format": "svg", "encoding": "utf-8"}
    assert "y ~ Normal" in source

    def broken(self, **options):
        raise graphviz.ExecutableNotFound(["dot"])

    monkeypatch.setattr(graphviz.Digraph, "pipe", broken)
    assert "<svg" not in result._repr_html_()


def test_primitives_are_numpyro_objects():
    from numpyro.contrib import module

    from aimz import primitives

    for name in ("sample", "param", "deterministic", "factor", "plate", "plate_stack", "subsample", "module"):
        assert getattr(primitives, name) is getattr(numpyro, name)
    for name in ("mutable", "prng_key", "get_mask", "CondIndepStackFrame"):
        assert getattr(primitives, name) is getattr(numpyro.primitives, name)
    for name in ("flax_module", "nnx_module", "eqx_module", "random_flax_module"):
        assert getattr(primitives, name) is getattr(module, name)
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        primitives.nosuch  # noqa: B018
    if not hasattr(module, "haiku_module"):
        with pytest.raises(AttributeError, match="pair of functions"):
            primitives.haiku_module  # noqa: B018


def test_minibatch_warning_agrees_with_the_engine():
    """The engine raises for minibatches if there is a warning; other kernels are fitted in `test_conformance`."""
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    case = BY_NAME["factor_only"]
    assert ("minibatches", None) in kinds(validate_model(case.kernel, **case.arguments()).warnings)
    svi = SVI(case.kernel, AutoNormal(case.kernel), numpyro.optim.Adam(0.01), Trace_ELBO())
    with pytest.raises(ValueError, match="minibatches"):
        ImpactModel(case.kernel, random.key(0), svi).fit(
            case.X, case.y, batch_size=N_OBS // 2, epochs=1, num_samples=2, progress=False
        )
