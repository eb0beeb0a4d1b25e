"""Structure of the package: import order, public names, sizes, and the cost of an import."""

import ast
import base64
import hashlib
import inspect
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import aimz
from aimz import _distribution
from aimz.engine.options import METHOD_PARAMETERS, RESERVED_PARAMETERS
from slow_cases import slow_except

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "aimz"
# The order in which data flow: a package imports only from itself and from earlier packages.
PACKAGES = [
    "errors",
    "_distribution",
    "types",
    "_imports",
    "compilation_cache",
    "progress",
    "samplers",
    "kernel",
    "causal_graph",
    "data",
    "persistence",
    "utils",
    "statistics",
    "forward",
    "store",
    "stream",
    "output",
    "plots",
    "report",
    "inference",
    "engine",
    "distributed",
    "methods",
    "timeseries",
    "validation",
    "model",
    "primitives",
    "mlflow",
]
FILES = sorted(SOURCE.rglob("*.py"))


def package(path: Path) -> str:
    """Return the top-level module or package that a file belongs to."""
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def imported(path: Path) -> set[str]:
    """Return the modules of aimz that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "aimz":
            found.add(f"aimz.{node.attr}")  # imported on first use by `aimz.__getattr__`
    own = {name for name in found if name.split(".")[0] == "aimz"}
    return own - {"aimz"} if own & {"aimz.output", "aimz.plots", "aimz.store"} else own


def test_every_package_is_in_the_order():
    assert {package(path) for path in FILES} - {"__init__"} == set(PACKAGES)


@pytest.mark.parametrize("here", PACKAGES)
def test_imports_run_one_way(here):
    for path, name in [(file, name) for file in FILES if package(file) == here for name in imported(file)]:
        other = name.split(".")[1] if "." in name else None
        assert other is not None, f"{path} imports the top of the package"
        assert PACKAGES.index(other) <= PACKAGES.index(here), f"{here} imports {name}, which is later in the order"
        # Other packages are imported through their `__init__` only.
        if other != here and name.count(".") > 1:
            assert name == "aimz.utils.data", f"{path} imports {name} past the package's __init__"


def test_modules_import_without_cycles():
    modules = {".".join(("aimz", *path.relative_to(SOURCE).with_suffix("").parts)): path for path in FILES}
    graph = {name: imported(path) & modules.keys() - {name} for name, path in modules.items()}
    list(TopologicalSorter(graph).static_order())


def test_sizes():
    for path in FILES:
        assert path.read_text().count("\n") <= 400, path
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                docstring = ast.get_docstring(node, clean=False)
                written = 0 if docstring is None else docstring.count("\n") + 1
                assert node.end_lineno - node.lineno + 1 - written <= 60, f"{path}: {node.name}"


def test_every_module_says_what_is_public():
    for path in FILES:
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), path
        names = [t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
        if path != SOURCE / "utils" / "__init__.py":
            assert "__all__" in names, path


def test_public_names():
    from aimz import errors, model

    own = {
        "AssuranceResult",
        "BacktestResult",
        "CheckResult",
        "EffectResult",
        "FalsificationResult",
        "IdentificationResult",
        "ImpactModel",
        "PriorSensitivityResult",
        "RehearsalResult",
        "__version__",
        "as_in",
        "describe_result",
        "grid",
        "in_words",
        "open_result",
        "share_mediated",
        "summary",
    }
    assert set(aimz.__all__) == own | set(errors.__all__)
    assert all(getattr(aimz, name) is getattr(errors, name) for name in set(aimz.__all__) - own)
    assert aimz.ImpactModel is model.ImpactModel
    assert aimz.EffectResult is model.EffectResult
    assert aimz.CheckResult is model.CheckResult
    assert set(dir(aimz)) == set(aimz.__all__) | {"mlflow", "plots", "primitives", "utils"}
    assert all(hasattr(aimz, name) for name in dir(aimz))
    assert model.KernelSpec.__name__ == "KernelSpec"
    assert issubclass(errors.NotFittedError, ValueError)
    assert issubclass(errors.KernelValidationError, ValueError)
    assert (SOURCE / "py.typed").exists()


def test_every_warning_has_a_category_of_ours():
    """Only the helper calls `warnings.warn`, and each use of the helper names a category."""
    from aimz import errors

    categories = {n for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, aimz.AimzWarning)}
    assert categories >= {"AimzWarning", "FitWarning", "OutputWarning", "PerformanceWarning"}
    assert issubclass(aimz.AimzWarning, UserWarning)
    assert issubclass(aimz.FitWarning, RuntimeWarning)  # a loss that is not finite
    found = set()
    for path in FILES:
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        for call in calls:
            where = f"{path}:{call.lineno}"
            if ast.unparse(call.func) in ("warnings.warn", "warnings.warn_explicit"):
                assert path.name == "errors.py", where
            elif ast.unparse(call.func) == "warn":
                assert len(call.args) == 2, where
                assert ast.unparse(call.args[1]) in categories, where
                found.add(path)
    assert len(found) > 15


def test_name_and_version_are_written_once():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["name"] == _distribution.NAME == "aimz-whatif"
    assert project["tool"]["hatch"]["version"]["path"] == "src/aimz/_distribution.py"
    assert aimz.__version__ == _distribution.VERSION
    written = [p for p in ROOT.glob("*.toml") if f'"{aimz.__version__}"' in p.read_text()]
    assert written == []
    extras = [line for lines in project["project"]["optional-dependencies"].values() for line in lines]
    assert "jax[cuda13]>=0.11" in extras
    assert not [line for line in extras if line.startswith("aimz[")]


def test_nothing_advises_to_install_the_other_distribution():
    """`pip install aimz` would replace this package; only the pages about installation mention the command."""
    pages = [p for p in ROOT.glob("docs/**/*.md") if "_build" not in p.parts and p.name != "install.md"]
    for path in [*FILES, *pages, *ROOT.glob("examples/*")]:
        if path.is_file():
            assert not re.search(r"pip install (\\?['\"])?aimz", path.read_text()), path


@pytest.mark.parametrize("other_is_last", [False, True])
def test_files_of_the_other_distribution_are_detected(tmp_path, other_is_last):
    def record(content: bytes) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")

    package, info = tmp_path / "aimz", tmp_path / "aimz-0.17.0.dist-info"
    package.mkdir()
    (package / "__init__.py").write_bytes(b"theirs" if other_is_last else b"ours")
    _distribution.check_distribution(package)
    info.mkdir()
    _distribution.check_distribution(package)  # an editable installation has no files here
    (info / "RECORD").write_text(f"aimz/__init__.py,sha256={record(b'theirs')},6\n")
    advice = "`aimz-whatif` 0.1.0 and `aimz` 0.17.0, another project.*`pip uninstall aimz aimz-whatif`"
    with pytest.raises(ImportError, match=advice) if other_is_last else pytest.warns(aimz.AimzWarning, match=advice):
        _distribution.check_distribution(package)


@pytest.mark.parametrize("before", slow_except(["arviz_base", "arviz_stats", "arviz_plots"], "arviz_plots"))
def test_numpyro_is_loaded_once_whatever_was_imported_before(before):
    """A package that loads NumPyro at the first touch would leave a kernel's sites and our handlers strangers."""
    code = (
        f"import {before}, sys; lazy = 'numpyro' in sys.modules; import aimz, numpyro, numpyro.primitives as p; "
        "print(lazy, numpyro.sample.__globals__ is vars(p), numpyro.handlers.seed.__mro__[1] is p.Messenger)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.split()[1:] == ["True", "True"]


def test_importing_aimz_is_light():
    """None of the heavy ones; and hardly anything that JAX and NumPyro had not imported already."""
    code = (
        "import sys, jax, numpyro, numpyro.infer.autoguide, tqdm.auto; before = set(sys.modules); import aimz; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    new = set(done.stdout.split())
    assert "aimz" in new
    heavy = {"mlflow", "matplotlib", "pandas", "dask", "xarray", "zarr", "arviz_base", "arviz_stats", "polars", "flax"}
    assert not new & heavy
    third_party = {m for m in new if m not in sys.stdlib_module_names and m.lstrip("_") != "aimz"}
    # Both are small: 1 ms and some 20 ms, where JAX and NumPyro take a second.
    assert third_party <= {"narwhals", "safetensors"}, third_party


def test_module_of_a_store_is_imported_while_zarr_is():
    """A worker that unpickles a store imports its module while another thread still imports zarr."""
    code = (
        "import importlib, sys, aimz; from aimz._imports import await_imports, begin_imports; begin_imports()\n"
        "while 'zarr' not in sys.modules: pass\n"
        "importlib.import_module('aimz.store.chunk_writer'); await_imports(); print('imported')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == ["imported"], done.stderr


def test_kernel_arguments_with_names_of_parameters_can_be_passed_in_args():
    """`args` has the arguments whose names are parameters; `check_unambiguous` checks the others in each call."""
    checked = {"baseline", "by", "contrast", "coupling", "given", "kind", "nan_policy", "scenarios", "weights"}
    of_slopes = {"by", "kind", "levers", "nan_policy", "weights", "where"}
    for name, method in inspect.getmembers(aimz.ImpactModel, inspect.isfunction):
        parameters = inspect.signature(method).parameters
        if not name.startswith("_") and any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            assert "args" in parameters, name
            given = {p.name for p in parameters.values() if p.kind is not p.VAR_KEYWORD}
            # The keyword arguments of `effect` are interventions, which may also be passed as a mapping.
            further: dict[str, set[str]] = {"compare_scenarios": checked, "slopes": of_slopes, "effect": given}
            further |= {
                "support": {"treatment", "by", "weights", "where"},
                "counterfactual": {"coupling"},
                "forecast": {"kind"},
            }
            further["estimate_impact"] = {"aggregate", "baseline", "by", "end", "fit_options", "period", "start"}
            further |= {"sensitivity": {"benchmark", "covariates", "effect", "outcome", "scale", "treatment"}}
            further["estimate_impact"] |= {"placebo", "placebos", "treated", "unit"}
            further["backtest"] = {
                "ci_kind",
                "ci_prob",
                "fit_options",
                "horizon",
                "origins",
                "period",
                "refit",
                "season",
            }
            further["backtest"] |= {"unit"}
            question = {"baseline", "by", "contrast", "effect", "fit_options", "num_simulations", "source", "truth"}
            question |= {"values", "weights"}
            further["rehearse"] = question | {"kind", "parameters", "permute", "within"}
            further["prior_sensitivity"] = question | {"parameters", "threshold"}
            further["assurance"] = question | {"alternative", "probability", "threshold"}
            confounder = {"covariates", "inference", "outcome", "treatment"}
            further |= {"with_confounder": confounder | {"strength"}}
            further |= {"refit_with_confounder": confounder | {"effect_options", "fit_options", "strengths"}}
            assert given <= METHOD_PARAMETERS | RESERVED_PARAMETERS | further.get(name, set()), name
