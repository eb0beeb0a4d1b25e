"""Tests of the structure that is read from a kernel, and of its cost."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from aimz.errors import KernelValidationError
from aimz.kernel import KernelReader, Role, read_signature
from kernels import CASES, N_OBS, Case, new_model


def read(kernel, **arrays):
    reader = KernelReader(kernel, read_signature(kernel, "X", "y"))
    return reader.read(
        {name: jax.ShapeDtypeStruct(*a) if isinstance(a, tuple) else a for name, a in arrays.items()}, {}
    )


def names(case: Case) -> str:
    return case.name


@pytest.mark.parametrize("case", CASES, ids=names)
def test_catalogue(case):
    model = new_model(case)
    model.describe(**case.arguments(), y=case.y)
    spec = model.kernel_spec
    assert spec.traced
    assert spec.fixed_size == case.fixed_size
    assert {site.name for site in spec.sites if site.row_axes} == set(case.row_sites)
    assert spec.local_sites == case.local
    assert spec.param_sites == case.params
    assert spec.return_sites == case.returns
    assert spec.output_observed == case.scored
    assert spec.output_scored
    assert "y" in spec.sample_sites or case.name == "masked"
    if not case.fixed_size:
        assert spec["y"].shape[0] == "n_obs"
        assert spec["y"].traced_shape[0] == N_OBS


def test_ten_million_rows_allocate_nothing():
    """The kernel is read from shapes: the arrays do not exist."""

    def kernel(X, y=None):
        b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]))
        mu = numpyro.deterministic("mu", X @ b)
        with numpyro.plate("obs", X.shape[0]):
            numpyro.sample("y", dist.Normal(mu), obs=y)

    n = 10**9  # 80 GB of input, 4 GB for each site
    spec = read(kernel, X=((n, 20), "float32"), y=((n,), "float32"))
    assert spec.shapes == {"b": (20,), "mu": ("n_obs",), "y": ("n_obs",)}


def test_symbolic_shapes():
    def kernel(X, y=None):
        n = X.shape[0]
        numpyro.deterministic("steps", jnp.diff(X[:, 0]))
        numpyro.deterministic("pairs", jnp.zeros((2 * n + 1, 3)))
        numpyro.deterministic("gram", X @ X.T)
        numpyro.sample("y", dist.Normal().expand([n]), obs=y)

    spec = read(kernel, X=((7, 2), "float32"))
    assert spec.shapes == {
        "steps": ("n_obs - 1",),
        "pairs": ("2 n_obs + 1", 3),
        "gram": ("n_obs", "n_obs"),
        "y": ("n_obs",),
    }
    assert spec.row_dim == "obs"


def test_even_number_of_rows():
    """A kernel that takes an even number of rows only is traced at twice as many."""

    def kernel(X, y=None):
        if X.shape[0] % 2:
            raise ValueError("pairs only")
        with numpyro.plate("pair", X.shape[0] // 2):
            numpyro.sample("effect", dist.Normal())
        numpyro.sample("y", dist.Normal().expand([X.shape[0]]), obs=y)

    spec = read(kernel, X=((6, 2), "float32"))
    assert not spec.fixed_size
    assert spec.local_sites == ("effect",)


def test_roles_and_parents():
    def kernel(X, t, y=None):
        scale = numpyro.param("scale", 1.0)
        z = numpyro.sample("z", dist.Bernoulli(0.5).expand([X.shape[0]]), obs=t)
        m = numpyro.deterministic("m", z * 2.0)
        numpyro.factor("penalty", -(scale**2))
        numpyro.sample("y", dist.Normal(m, scale), obs=y)

    rows = ((4,), "float32")
    spec = read(kernel, X=rows, t=rows, y=rows)
    assert {s.name: s.role for s in spec.sites} == {
        "scale": Role.PARAM,
        "z": Role.OBSERVED,
        "m": Role.DETERMINISTIC,
        "penalty": Role.FACTOR,
        "y": Role.OBSERVED,
    }
    assert spec["y"].parents == {"m", "scale"}
    assert spec["m"].parents == {"z", "t"}
    assert spec["z"].parents == frozenset()
    assert spec["z"].data == {"t"}
    assert spec.sample_sites == ("z", "y")
    assert spec.descendants(["z"]) == {"m", "y"}


def test_specs_of_several_calls_are_merged():
    def kernel(X, w=None, y=None):
        numpyro.sample("w_site", dist.Normal().expand([X.shape[0]]), obs=w)
        if y is not None:
            numpyro.factor("extra", 0.0)
        numpyro.sample("y", dist.Normal().expand([X.shape[0]]), obs=y)

    reader = KernelReader(kernel, read_signature(kernel, "X", "y"))
    rows = jax.ShapeDtypeStruct((4,), "float32")
    first = reader.read({"X": rows}, {"w": None})
    assert (first["w_site"].role, first.output_observed) == (Role.LATENT, False)
    reader.read({"X": rows, "w": rows, "y": rows}, {})
    assert reader.spec["w_site"].role is Role.OBSERVED
    assert reader.spec.output_observed
    reader.read({"X": rows}, {"w": None})
    assert reader.spec["w_site"].role is Role.OBSERVED
    assert "extra" in reader.spec


@pytest.mark.parametrize("name", ["a/b", "a\\b", "a\nb", ".", "..", "", "__a", "c", "draw", "rows", "ä" * 128])
def test_names_that_cannot_be_stored(name):
    def kernel(X, c=None, y=None):
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(), obs=y)
        numpyro.sample(name, dist.Normal())

    with pytest.raises(KernelValidationError, match="Rename the"):
        read(kernel, X=((3,), "float32"))


def test_duplicate_site_name_raises():
    def kernel(X, y=None):
        numpyro.sample("a", dist.Normal())
        numpyro.sample("a", dist.Normal())

    with pytest.raises(KernelValidationError, match="Two sites of the kernel are named `a`"):
        read(kernel, X=((3,), "float32"))


def test_reserved_plate_name_raises():
    def kernel(X, y=None):
        with numpyro.plate("chain", X.shape[0]):
            numpyro.sample("y", dist.Normal(), obs=y)

    with pytest.raises(KernelValidationError, match="Plate name `chain`"):
        read(kernel, X=((3,), "float32"))


def test_dependence_on_values_raises():
    """The kernel computes its number of groups from values."""

    def kernel(X, y=None):
        with numpyro.plate("groups", len(jnp.unique(X))):
            numpyro.sample("a", dist.Normal())

    with pytest.raises(KernelValidationError, match="depends on the values of its arrays"):
        read(kernel, X=((3,), "int32"))


def test_kernel_errors_are_raised_unchanged():
    def kernel(X, y=None):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        read(kernel, X=((3, 2), "float32"))
    assert any("kernel `kernel`, called with X: float32[3, 2]" in note for note in caught.value.__notes__)


def test_plate_keeps_its_dimension():
    def kernel(X, y=None):
        with numpyro.plate("items", 3, dim=-1), numpyro.plate("obs", X.shape[0], dim=-2):
            numpyro.sample("y", dist.Normal(jnp.zeros((1, 1, 2)), 1.0).to_event(1), obs=y)

    spec = read(kernel, X=((5,), "float32"))
    assert spec["y"].shape == ("n_obs", 3, 2)
    assert dict(spec["y"].plates) == {"items": 1, "obs": 0}


@pytest.mark.parametrize("n_obs", [9, 10, 11])
def test_subsampled_plate_as_long_as_the_rows(n_obs):
    """A plate of ten of fifty groups at any number of rows, and a batch of any length as the subsample."""

    def kernel(X, y=None):
        with numpyro.plate("groups", 50, subsample_size=10):
            a = numpyro.sample("a", dist.Normal())
        with numpyro.plate("rows", 1000, subsample_size=X.shape[0]):
            numpyro.sample("y", dist.Normal(a.mean()), obs=y)

    spec = read(kernel, X=((n_obs,), "float32"))
    assert spec.row_plates == {"rows"}
    assert spec.shapes == {"a": (50,), "y": ("n_obs",)}
    assert spec.local_sites == ()


def test_no_tracer_leaks():
    case = CASES[0]
    with jax.checking_leaks():
        read(case.kernel, X=np.asarray(case.X), y=np.asarray(case.y))
