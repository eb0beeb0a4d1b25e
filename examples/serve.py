"""Fit, log, register and serve a model, and query it over REST; each step is timed.

    python examples/serve.py [--folder DIRECTORY] [--steps 3000]

The fit is logged automatically, to a database in the folder.  MLflow's own server then serves the model on the loopback
interface and answers requests for predictions and for the effect of an email; it stops at the end of the example.
Afterwards, ``mlflow server`` shows the fit in a browser: the last line of the output is the command.
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
    """Return simulated customers, a random half of whom received an email, which adds 3."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"months": rng.exponential(2.0, n), "age": rng.normal(40.0, 10.0, n).round()})
    table["age"] = (table["age"] - 40.0) / 10.0
    table["mail"] = rng.integers(0, 2, n)
    table["y"] = 20.0 - table["months"] + 0.5 * table["age"] + 3.0 * table["mail"] + rng.normal(0.0, 5.0, n)
    return table


def fit(steps: int) -> str:
    """Fit and log the model, and return its URI."""
    aimz.mlflow.autolog(registered_model_name="shop", silent=True)
    guide = AutoMultivariateNormal(shop, init_loc_fn=init_to_median)
    svi = SVI(shop, guide, numpyro.optim.Adam(lambda step: 0.1 * 0.997**step), Trace_ELBO())
    model = aimz.ImpactModel(shop, random.key(0), svi)
    model.fit_on_batch(customers(2000), num_steps=steps, progress=False)
    versions = mlflow.MlflowClient().search_model_versions("name = 'shop'")
    return f"models:/shop/{max(int(version.version) for version in versions)}"


def query(url: str, rows: pd.DataFrame, **params: Any) -> Any:
    """Send rows to the server and return its predictions."""
    body = json.dumps({"dataframe_split": rows.to_dict("split", index=False), "params": params})
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.loads(response.read())["predictions"]


def wait(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the server responds."""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    sys.exit(f"The server did not start; see {Path('server.log').absolute()}.")


def main() -> None:
    """Run all steps and print how long each took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=None, help="directory for the fit; temporary by default")
    parser.add_argument("--steps", type=int, default=3000)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    start = time.perf_counter()

    def log(message: str) -> None:
        print(f"{time.perf_counter() - start:6.1f} s  {message}", flush=True)

    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    uri = fit(given.steps)
    log(f"fitted and logged: {uri}")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with Path("server.log").open("wb") as log_file:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            env={**os.environ, "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db", "PATH": path},
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait(f"http://127.0.0.1:{port}/ping", process)
        log("the server is running")
        url, rows = f"http://127.0.0.1:{port}/invocations", customers(2)[["months", "age", "mail"]]
        answer = query(url, rows)
        log("predictions, one line per row:")
        for line in answer:
            print(" " * 10, {name: round(value, 2) for name, value in line.items()})
        answer = query(url, rows, baseline='{"mail": 0}', intervention='{"mail": 1}')
        log("effect of an email on each row:")
        for line in answer:
            print(" " * 10, {name: round(value, 2) for name, value in line.items()})
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
    print(f"To browse the fit: mlflow server --backend-store-uri sqlite:///{folder.absolute() / 'mlflow.db'}")


if __name__ == "__main__":
    main()
