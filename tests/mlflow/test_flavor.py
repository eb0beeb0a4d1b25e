"""Saving, logging and loading models and their kernels."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import mlflow
import mlflow.statsmodels
import numpy as np
import numpyro
import pandas as pd
import pytest
import yaml
from mlflow.models import infer_signature
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import aimz
import importable_kernels
from aimz import ImpactModel
from aimz import mlflow as flavor
from aimz.errors import NotFittedError, SavedModelError
from aimz.mlflow.requirements import find_dependencies

ROWS = ["months", "price", "mail"]
SOURCE = Path(aimz.__file__).parents[1]


def svi_of(kernel):
    return SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.05), Trace_ELBO())


def read_metadata(path):
    return yaml.safe_load((Path(path) / "MLmodel").read_text())


@pytest.fixture
def local_kernel(fitted):
    """Model whose kernel is defined in a function, so it cannot be imported."""
    shift = 0.0

    def kernel(X, mail, y=None):
        importable_kernels.shop(X + shift, mail, y)

    model = ImpactModel(kernel, jax.random.key(0), svi_of(kernel))
    return model.set_posterior_sample(fitted.posterior)


def test_save_and_load_round_trip(fitted, customers, tmp_path):
    flavor.save_model(fitted, tmp_path / "model")
    loaded = flavor.load_model(str(tmp_path / "model"))
    assert loaded.kernel is importable_kernels.shop
    assert loaded.inference.optim is importable_kernels.svi.optim  # SVI objects are copied before a fit
    for name, draws in fitted.posterior.items():
        assert np.array_equal(loaded.posterior[name], draws)
    key = jax.random.key(5)
    before, after = (
        model.predict_on_batch(customers, in_sample=False, rng_key=key, return_datatree=False)
        for model in (fitted, loaded)
    )
    assert np.array_equal(before["y"], after["y"])
    about = read_metadata(tmp_path / "model")
    assert about["flavors"]["aimz"]["kernel"] == "importable_kernels:shop"
    assert about["flavors"]["python_function"]["loader_module"] == "aimz.mlflow"
    kinds = {file.suffix for file in (tmp_path / "model" / "data").rglob("*") if file.is_file()}
    assert kinds == {".json", ".safetensors"}


def test_signatures_match_other_flavors():
    for name, theirs in {"save_model": {"remove_data"}, "log_model": {"remove_data"}, "load_model": set()}.items():
        own = list(inspect.signature(getattr(flavor, name)).parameters)
        known = [p for p in inspect.signature(getattr(mlflow.statsmodels, name)).parameters if p not in theirs]
        assert [p for p in own if p in known][0 if name == "load_model" else 1 :] or name
        assert own[1 : len(known)] == known[1:], name
    own, known = (set(inspect.signature(f.autolog).parameters) for f in (flavor, mlflow.statsmodels))
    assert own - known == {"log_input_examples", "log_model_signatures", "log_reports"}
    assert known <= own


def test_signature_from_example(fitted, customers, tmp_path):
    flavor.save_model(fitted, tmp_path / "model", input_example=customers.head(3))
    about = read_metadata(tmp_path / "model")
    read = {column["name"]: column["type"] for column in json.loads(about["signature"]["inputs"])}
    assert read == {"months": "double", "price": "double", "mail": "any"}
    params = {param["name"]: param["default"] for param in json.loads(about["signature"]["params"])}
    assert list(params) == ["statistics", "intervention", "baseline", "num_samples", "seed", "arguments"]
    answers = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(customers[ROWS].head(2))
    assert [column["name"] for column in json.loads(about["signature"]["outputs"])] == list(answers.columns)
    example = json.loads((tmp_path / "model" / "input_example.json").read_text())
    assert example["columns"] == ROWS


def test_signature_from_user(fitted, customers, tmp_path):
    given = infer_signature(customers[["months", "price"]].assign(mail=1.0))
    flavor.save_model(fitted, tmp_path / "given", signature=given)
    about = read_metadata(tmp_path / "given")["signature"]
    assert json.loads(about["inputs"]) == given.inputs.to_dict()
    assert len(json.loads(about["params"])) == 6
    flavor.save_model(fitted, tmp_path / "none", signature=False)
    assert "signature" not in read_metadata(tmp_path / "none")


def test_save_model_stores_metadata_and_extra_files(fitted, tmp_path):
    note = tmp_path / "note.txt"
    note.write_text("read me")
    flavor.save_model(
        fitted,
        tmp_path / "model",
        metadata={"team": "pricing"},
        extra_files=[str(note)],
        extra_pip_requirements=["requests"],
        code_paths=[str(note)],
    )
    about = read_metadata(tmp_path / "model")
    assert about["metadata"] == {"team": "pricing"}
    assert about["flavors"]["aimz"]["extra_files"] == [{"path": "extra_files/note.txt"}]
    assert (tmp_path / "model" / "extra_files" / "note.txt").read_text() == "read me"
    assert {file.name for file in (tmp_path / "model" / "code").iterdir()} == {"note.txt", "importable_kernels.py"}
    required = (tmp_path / "model" / "requirements.txt").read_text().splitlines()
    assert "requests" in required
    assert f"aimz-whatif=={aimz.__version__}" in required
    assert flavor.get_default_conda_env()["dependencies"][-1] == {"pip": flavor.get_default_pip_requirements()}
    assert any(line.startswith("cloudpickle==") for line in flavor.get_default_pip_requirements(True))


def test_save_model_with_user_requirements(fitted, tmp_path):
    flavor.save_model(fitted, tmp_path / "pip", pip_requirements=["mlflow", "aimz-whatif[mlflow]"])
    assert (tmp_path / "pip" / "requirements.txt").read_text().splitlines() == ["mlflow", "aimz-whatif[mlflow]"]
    environment = {"name": "mine", "dependencies": ["python=3.12", {"pip": ["mlflow", "aimz"]}]}
    flavor.save_model(fitted, tmp_path / "conda", conda_env=environment)
    assert yaml.safe_load((tmp_path / "conda" / "conda.yaml").read_text())["name"] == "mine"


def test_uninstalled_code_is_saved_and_loaded_in_a_new_process(fitted, customers, tmp_path, monkeypatch):
    project = tmp_path / "project"
    (project / "shop_code").mkdir(parents=True)
    (project / "shop_code" / "__init__.py").write_text("")
    (project / "shop_code" / "kernels.py").write_text(
        "import shop_parts\n\n\ndef make():\n    def kernel(X, mail, y=None):\n        shop_parts.rows(X, mail, y)\n"
        "    return kernel\n\n\nkernel = make()\n"
    )
    (project / "shop_parts.py").write_text(
        Path(importable_kernels.__file__).read_text().replace("def shop(", "def rows(").partition("\n\nsvi = ")[0]
        + "\n"
    )
    monkeypatch.syspath_prepend(str(project))
    import shop_code.kernels

    kernel = shop_code.kernels.kernel
    model = ImpactModel(kernel, jax.random.key(0), svi_of(kernel))
    model.set_posterior_sample(fitted.posterior)
    flavor.save_model(model, tmp_path / "model", input_example=customers[ROWS].head(2))
    assert read_metadata(tmp_path / "model")["flavors"]["aimz"]["kernel"] == "shop_code.kernels:kernel"
    code = {file.name for file in (tmp_path / "model" / "code").iterdir()}
    assert code == {"shop_code", "shop_parts.py"}
    here = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(customers[ROWS].head(2))
    program = (
        "import json, mlflow, pandas as pd, aimz.mlflow, sys\n"
        f"rows = pd.DataFrame({customers[ROWS].head(2).to_dict('list')})\n"
        f"print(mlflow.pyfunc.load_model({str(tmp_path / 'model')!r}).predict(rows).to_json(double_precision=15))\n"
        f"print(aimz.mlflow.load_model({str(tmp_path / 'model')!r}).kernel.__module__)\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    clean = {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=elsewhere, env=clean, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    answer, module = done.stdout.splitlines()[-2:]
    assert module == "shop_code.kernels"
    there = pd.DataFrame(json.loads(answer))
    assert np.allclose(there.to_numpy(), here.to_numpy(), atol=1e-6)


def test_local_kernel_is_pickled_only_if_mlflow_allows_it(local_kernel, fitted, customers, tmp_path, monkeypatch):
    flavor.save_model(local_kernel, tmp_path / "model", input_example=customers[ROWS].head(2))
    assert read_metadata(tmp_path / "model")["flavors"]["aimz"]["kernel"] == "cloudpickle"
    assert any(
        line.startswith("cloudpickle==") for line in (tmp_path / "model" / "requirements.txt").read_text().splitlines()
    )
    loaded = flavor.load_model(str(tmp_path / "model"))
    assert loaded.kernel is not local_kernel.kernel
    assert np.array_equal(loaded.posterior["gain"], fitted.posterior["gain"])
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    given = flavor.load_model(str(tmp_path / "model"), kernel=local_kernel.kernel)
    assert given.kernel is local_kernel.kernel
    with pytest.raises(ValueError, match="stored as a pickle, and pickles are switched off"):
        flavor.load_model(str(tmp_path / "model"))
    with pytest.raises(ValueError, match="Move it to a module of its own"):
        flavor.save_model(local_kernel, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_load_model_rejects_a_changed_kernel(new_model, customers, tmp_path, monkeypatch):
    model = new_model().fit_on_batch(customers, num_steps=2, num_samples=2, progress=False)
    flavor.save_model(model, tmp_path / "model")
    monkeypatch.setattr(importable_kernels, "shop", importable_kernels.other_shop)
    with pytest.raises(SavedModelError):
        flavor.load_model(str(tmp_path / "model"))


def test_load_model_without_inference(new_model, fitted, customers, tmp_path):
    model = new_model().set_posterior_sample(fitted.posterior)  # no module has a name for its inference
    flavor.save_model(model, tmp_path / "model")
    loaded = flavor.load_model(str(tmp_path / "model"))
    assert loaded.predict_on_batch(customers, return_datatree=False)["y"].shape == (400, 200)
    with pytest.raises(NotFittedError, match="inference="):
        loaded.fit_on_batch(customers, num_steps=1, progress=False)
    again = flavor.load_model(str(tmp_path / "model"), inference=importable_kernels.svi)
    assert again.inference.optim is importable_kernels.svi.optim
    flavor.save_model(loaded, tmp_path / "again")
    twice = flavor.load_model(str(tmp_path / "again"))
    assert np.array_equal(twice.posterior["gain"], fitted.posterior["gain"])


@pytest.mark.parametrize(
    ("reference", "words"), [("no_such_module:kernel", "importing `no_such_module` failed"), ("json:kernel", "no `ker")]
)
def test_load_model_with_missing_kernel(fitted, tmp_path, reference, words):
    flavor.save_model(fitted, tmp_path / "model")
    about = next((tmp_path / "model").rglob("kernel.json"))
    known = json.loads(about.read_text())
    known["kernel"]["reference"] = reference
    about.write_text(json.dumps(known))
    with pytest.raises(ImportError, match=words):
        flavor.load_model(str(tmp_path / "model"))


def test_find_dependencies():
    found = find_dependencies(importable_kernels.shop)
    assert found.distributions >= {"jax", "numpyro"}
    assert set(found.code) == {"importable_kernels"}


def test_save_and_log_check_the_model(fitted, new_model, tmp_path, store):
    with pytest.raises(NotFittedError, match="this one has none yet"):
        flavor.log_model(new_model(), name="unfitted")
    with pytest.raises(TypeError, match="must be an ImpactModel; got dict"):
        flavor.save_model({}, tmp_path / "model")
    experiment = store.get_experiment_by_name("tests").experiment_id
    assert [m for m in mlflow.search_logged_models([experiment], output_format="list") if m.name == "unfitted"] == []


def test_load_model_rejects_another_flavor(tmp_path):
    mlflow.models.Model().save(str(tmp_path / "MLmodel"))
    with pytest.raises(ValueError, match="does not have the flavor `aimz`"):
        flavor.load_model(str(tmp_path))


def test_log_and_register_model(fitted, customers, store):
    with mlflow.start_run() as run:
        info = flavor.log_model(
            fitted,
            name="shop",
            input_example=(customers[ROWS].head(2), {"seed": 3}),
            registered_model_name="shop",
            await_registration_for=0,
            params={"season": "winter"},
            tags={"team": "pricing"},
        )
    logged = mlflow.get_logged_model(info.model_id)
    assert (logged.name, logged.params["season"], logged.tags["team"]) == ("shop", "winter", "pricing")
    assert logged.source_run_id == run.info.run_id
    assert info.registered_model_version == 1
    for uri in (info.model_uri, "models:/shop/1"):
        assert np.array_equal(flavor.load_model(uri).posterior["gain"], fitted.posterior["gain"])
    served = mlflow.pyfunc.load_model(info.model_uri)
    assert served.get_raw_model().posterior.keys() == fitted.posterior.keys()


def test_import_without_mlflow():
    program = (
        "import sys; sys.modules['mlflow'] = None; import aimz\n"
        "try:\n    aimz.mlflow\nexcept ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert "`aimz.mlflow` needs MLflow, which is not installed" in done.stdout
    assert "pip install mlflow cloudpickle" in done.stdout
