"""From a fit to an answer over REST, timed: fit, log, register, serve, ask.

    python examples/serve.py [--folder DIRECTORY] [--steps 3000]

The fit is logged by itself, into a database in the folder.  MLflow's own server then serves the model, on loopback, and
is asked for predictions and for the effect of a mail; it ends with the example.  ``mlflow server`` shows the fit in a
browser afterwards: the last line printed says how.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpyro
import pandas as pd
from jax import random
from numpyro.infer import SVI, Trace_ELBO, init_to_median
from numpyro.infer.autoguide import AutoMultivariateNormal

import aimz.mlflow
from shop_kernel import shop


def customers(n: int) -> pd.DataFrame:
    """Return customers who got a mail by lot; it brings 3."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"months": rng.exponential(2.0, n), "age": rng.normal(40.0, 10.0, n).round()})
    table["age"] = (table["age"] - 40.0) / 10.0
    table["mail"] = rng.integers(0, 2, n)
    table["y"] = 20.0 - table["months"] + 0.5 * table["age"] + 3.0 * table["mail"] + rng.normal(0.0, 5.0, n)
    return table


def fit(steps: int) -> str:
    """Fit and log; return where the model is."""
    aimz.mlflow.autolog(registered_model_name="shop", silent=True)
    guide = AutoMultivariateNormal(shop, init_loc_fn=init_to_median)
    svi = SVI(shop, guide, numpyro.optim.Adam(0.05), Trace_ELBO())
    model = aimz.ImpactModel(shop, random.key(0), svi)
    model.fit_on_batch(customers(2000), num_steps=steps, progress=False)
    found = mlflow.MlflowClient().search_model_versions("name = 'shop'")
    return f"models:/shop/{max(int(one.version) for one in found)}"


def ask(url: str, rows: pd.DataFrame, **params: Any) -> Any:
    """Send rows, and return what is answered."""
    body = json.dumps({"dataframe_split": rows.to_dict("split", index=False), "params": params})
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())["predictions"]


def wait(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a server answers."""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    sys.exit(f"The server did not start; see {Path('server.log').absolute()}.")


def main() -> None:
    """Do it, and say how long each step took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="where to keep the fit; a temporary one by default")
    parser.add_argument("--steps", type=int, default=3000)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    start = time.perf_counter()

    def say(what: str) -> None:
        print(f"{time.perf_counter() - start:6.1f} s  {what}", flush=True)

    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    uri = fit(given.steps)
    say(f"fitted and logged: {uri}")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with Path("server.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            env={**os.environ, "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db", "PATH": path},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait(f"http://127.0.0.1:{port}/ping", process)
        say("the server is up")
        url, rows = f"http://127.0.0.1:{port}/invocations", customers(2)[["months", "age", "mail"]]
        answer = ask(url, rows)
        say("answered: a line for each row")
        for line in answer:
            print(" " * 10, {name: round(value, 2) for name, value in line.items()})
        answer = ask(url, rows, baseline='{"mail": 0}', intervention='{"mail": 1}')
        say("answered: the effect of a mail on each")
        for line in answer:
            print(" " * 10, {name: round(value, 2) for name, value in line.items()})
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
    print(f"To look at the fit: mlflow server --backend-store-uri sqlite:///{folder.absolute() / 'mlflow.db'}")


if __name__ == "__main__":
    main()
