"""The notebooks run from the first cell to the last, complain of nothing, and their numbers are right."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import nbformat
import numpy as np
import pytest
import statsmodels.api as sm

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
BAR = re.compile(r"\|.*\| [\d.]+/[\d.?]+ \[.*\]\s*$")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT / "src")}


def complaints(text):
    """What is on standard error besides progress bars: these begin their line anew, and end it when they close."""
    pieces = re.split(r"[\r\n]|\x1b\[A", text)
    return [piece for piece in pieces if piece.strip() and not BAR.search(piece)]


def run(cells, folder):
    """Execute cells in a process of their own, with this interpreter and these sources."""
    import nbclient

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    resources = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources=resources).execute(env=ENVIRONMENT)
    return [cell.outputs for cell in notebook.cells]


def execute(name, folder, *told, **replaced):
    """Execute a notebook, some of its text replaced; check what it shows; return what is told of it at the end."""
    stored = nbformat.read(ROOT / "examples" / f"{name}.ipynb", as_version=4)
    cells = [cell.source for cell in stored.cells if cell.cell_type == "code"]
    for old, new in replaced.get("instead", {}).items():
        assert sum(old in cell for cell in cells) == 1, old
        cells = [cell.replace(old, new) for cell in cells]
    last = f"import json, sys\nprint(json.dumps([sys.executable, aimz.__file__, {', '.join(told)}]))"
    *outputs, answer = run([*cells, last], folder)
    assert [o.data for cell in outputs for o in cell if o.output_type == "display_data"] == []  # no widgets
    said = "".join(o.text for cell in outputs for o in cell if o.get("name") == "stderr")
    assert complaints(said) == []
    drawn = sum("image/png" in o.data for cell in outputs for o in cell if o.output_type == "execute_result")
    executable, source, *values = json.loads(answer[-1].text)
    assert executable == sys.executable
    assert Path(source).is_relative_to(ROOT)
    return drawn, values


def test_a_complaint_is_told_from_a_bar():
    bars = "\r  0%|          | 0/10 [00:00<?, ?it/s]\rSVI: 100%|███| 10/10 [00:01<00:00, 9.1it/s, loss=3]\n\x1b[A"
    assert complaints(bars) == []
    assert complaints(bars + "a.py:1: UserWarning: careful\n") == ["a.py:1: UserWarning: careful"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path):
    written = path.read_text(encoding="utf-8")
    notebook = json.loads(written)
    assert written == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    nbformat.validate(nbformat.read(path, as_version=4))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert notebook["metadata"] == {"kernelspec": kernel, "language_info": {"name": "python"}}
    cells = notebook["cells"]
    assert [cell["id"] for cell in cells] == [f"cell-{i:02d}" for i in range(1, len(cells) + 1)]
    assert all(cell["metadata"] == {} for cell in cells)
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all((cell["outputs"], cell["execution_count"]) == ([], None) for cell in code)


@pytest.mark.slow
def test_the_insurance_experiment(tmp_path):
    """Steps and draws are fewer than those of the notebook; the data are all there."""
    drawn, values = execute(
        "insurance",
        tmp_path,
        *("len(frame)", "by_plan['mean'].to_list()", "answer['mean'].to_dict()", "answer['sd'].to_dict()"),
        *("comparison['raw difference'].to_dict()", "comparison['standard error'].to_dict()"),
        "found['effect']['rate'].mean(('chain', 'draw')).sel(scenario='95 % plan').values.tolist()",
        instead={"STEPS, DRAWS = 6000, 400": "STEPS, DRAWS = 2000, 100"},
    )
    n_rows, means, model, sd, raw, error, by_health = values
    assert drawn == 4
    data = sm.datasets.randhie.load_pandas().data
    # The arms by another route: coinsurance rates in per cent, and the individual deductible apart.
    own = data["idp"] == 1
    visits = [data["mdvis"][~own & np.isclose(data["lncoins"], np.log1p(rate), atol=1e-3)] for rate in (0, 25, 50, 95)]
    visits.append(data["mdvis"][own])
    assert n_rows == len(data) == sum(map(len, visits))
    np.testing.assert_allclose(means, [arm.mean() for arm in visits])
    for (plan, difference), arm in zip(raw.items(), visits[1:], strict=True):
        np.testing.assert_allclose(difference, arm.mean() - visits[0].mean())
        np.testing.assert_allclose(error[plan] ** 2, arm.var() / len(arm) + visits[0].var() / len(visits[0]))
        # The model also corrects for health and illness, which the lot left a little uneven.
        assert abs(model[plan] - difference) < 2.5 * error[plan]
        assert 0.3 * error[plan] < sd[plan] < 2.5 * error[plan]
    assert max(by_health) < -0.5


@pytest.mark.slow
def test_a_posterior_from_elsewhere(tmp_path):
    drawn, values = execute(
        "bring_your_own_posterior",
        tmp_path,
        *("m.tolist()", "S.tolist()", "A.tolist()", "y.tolist()", "effects.T.to_dict()", "predictions.T.to_dict()"),
        *("float(scores.elpd)", "exact_elpd", "[str(warning.message) for warning in caught]"),
    )
    m, S, A, y, effects, predictions, elpd, exact_elpd, warned = values
    assert drawn == 1
    assert warned == [
        "The answer depends on the prior of site(s) `slope`, which are not in the posterior and are drawn from their "
        "prior."
    ]
    # The closed form is that of a least-squares fit with one more row for each prior.
    augmented = np.vstack([np.array(A) / 2.0, np.eye(5) / 30.0])
    np.testing.assert_allclose(m, np.linalg.lstsq(augmented, np.r_[np.array(y) / 2.0, np.zeros(5)], rcond=None)[0])
    np.testing.assert_allclose(np.linalg.inv(S), augmented.T @ augmented, rtol=1e-6, atol=1e-9)
    n_draws = 4000
    for effect in effects.values():
        assert abs(effect["mean"] - effect["exact mean"]) < 4 * effect["exact sd"] / np.sqrt(n_draws)
        assert abs(effect["sd"] / effect["exact sd"] - 1) < 4 / np.sqrt(2 * n_draws)
    np.testing.assert_allclose([effects["city"]["exact mean"], effects["country"]["exact mean"]], m[3:])
    for row in predictions.values():
        assert abs(row["mean"] - row["exact mean"]) < 4 * row["exact sd"] / np.sqrt(n_draws)
        assert abs(row["sd"] / row["exact sd"] - 1) < 4 / np.sqrt(2 * n_draws)
    # The densities sum to the exact score but for the error of importance sampling.
    assert abs(elpd - exact_elpd) < 0.2


FITS = """
import jax, numpyro, numpyro.distributions as dist
import numpy as np
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal(0, 5))
    with numpyro.plate("obs", X.shape[0]):
        numpyro.sample("y", dist.Normal(b * X, 1), obs=y)


X = np.linspace(-1, 1, 120, dtype=np.float32)
new = {
    "svi": lambda: SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.01), Trace_ELBO()),
    "mcmc": lambda: MCMC(NUTS(kernel), num_warmup=50, num_samples=50, num_chains=2, chain_method="sequential"),
}


def fit(how, progress=True):
    model = aimz.ImpactModel(kernel, jax.random.key(0), new[how]())
    if how == "svi":
        model.fit(X, 2 * X, epochs=200, batch_size=30, progress=progress)
        model.fit_on_batch(X, 2 * X, num_steps=500, progress=progress)
    else:
        model.fit_on_batch(X, 2 * X, progress=progress)
    return np.asarray(model.posterior["b"])
"""


@pytest.mark.slow
def test_bars_in_a_notebook(tmp_path):
    """They are lines of text, few of them, also where warnings are errors; and the numbers are those without bars."""
    cells = [
        "import warnings; warnings.simplefilter('error')\nimport aimz",
        FITS,
        "svi = fit('svi')",
        "mcmc = fit('mcmc')",
        "print((svi == fit('svi', progress=False)).all(), (mcmc == fit('mcmc', progress=False)).all())",
    ]
    outputs = run(cells, tmp_path)
    assert outputs[0] == outputs[1] == []
    for cell, n_bars in ((outputs[2], 2), (outputs[3], 2)):
        assert {(o.output_type, o.name) for o in cell} == {("stream", "stderr")}
        text = "".join(o.text for o in cell)
        assert complaints(text) == []
        assert text.count("\n") == n_bars  # each bar ends its line once
        assert text.count("100%") >= n_bars
        assert text.count("\r") < 150
    assert [o.text for o in outputs[4]] == ["True True\n"]


INTERRUPTED = f"""
import warnings; warnings.simplefilter('error')
import aimz, aimz.progress
aimz.progress._DELAY = 0.0
{FITS}
def stop(epoch, loss):
    if epoch == 2:
        raise KeyError("enough")

fit("svi")
try:
    aimz.ImpactModel(kernel, jax.random.key(0), new["svi"]()).fit(X, 2 * X, epochs=9, batch_size=30, on_epoch_end=stop)
except KeyError:
    print("stopped", file=__import__("sys").stderr)
"""


def test_bars_in_a_terminal(tmp_path):
    """They keep to the width of the terminal, and an error finds its line ended."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    seen = tmp_path / "seen"
    with seen.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED], stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT
        )
        os.close(theirs)
        try:
            while data := os.read(ours, 4096):
                file.write(data)
        except OSError:  # how Linux says that the other side is closed
            pass
        finally:
            os.close(ours)
    assert process.wait(timeout=60) == 0
    text = seen.read_bytes().decode().replace("\r\n", "\n")
    ended = "The fit has settled"
    assert [piece.split(":")[0] for piece in complaints(text)] == [ended, ended, "stopped"]
    lines = [line.rsplit("\r", 1)[-1].split(":")[0] for line in text.rstrip("\n").split("\n")]
    assert lines == ["Epoch 200/200", ended, "SVI", ended, "Epoch 3/9", "stopped"]
    assert max(len(drawn) for line in text.split("\n") for drawn in line.split("\r")) <= 80
