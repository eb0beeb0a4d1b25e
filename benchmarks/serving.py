"""Time requests to a served model, the overhead of logging a fit, and loading a model.

    python benchmarks/serving.py [--requests 500] [--draws 1000] [--losses 10000]

MLflow's own server serves a model of three columns on the loopback interface to one client, which sends one request at
a time.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import mlflow
import numpy as np
import numpyro
import pandas as pd
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import aimz.mlflow
from shop_kernel import shop

COLUMNS = ["months", "age", "mail"]


def customers(n):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"months": rng.exponential(2.0, n), "age": rng.normal(size=n), "mail": rng.integers(0, 2, n)})
    table["y"] = 20.0 - table["months"] + 3.0 * table["mail"] + rng.normal(0.0, 5.0, n)
    return table


def new_model():
    svi = SVI(shop, AutoNormal(shop), numpyro.optim.Adam(0.02), Trace_ELBO())
    return aimz.ImpactModel(shop, random.key(0), svi)


def post(url, body):
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return response.read()


def describe(name, seconds):
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    print(
        f"{name:<44} first {1e3 * seconds[0]:7.1f}   p50 {1e3 * statistics.median(seconds):6.1f}   "
        f"p99 {1e3 * p99:6.1f}   max {1e3 * ordered[-1]:6.1f}  ms"
    )


def time_requests(url, requests):
    rows = customers(200)[COLUMNS]

    def body(n, **params):
        return json.dumps({"dataframe_split": rows.head(n).to_dict("split", index=False), "params": params}).encode()

    def run(bodies):
        seconds = []
        for content in bodies:
            start = time.perf_counter()
            post(url, content)
            seconds.append(time.perf_counter() - start)
        return seconds

    rng = np.random.default_rng(1)
    describe("100 rows", run([body(100)] * requests))
    describe("1 to 200 rows, random", run([body(int(n)) for n in rng.integers(1, 201, requests)]))
    ages = rng.normal(size=requests).round(3).tolist()
    changed = [body(100, intervention=json.dumps({"age": age})) for age in ages]
    describe("100 rows, a different intervention each time", run(changed))
    effect = {"baseline": '{"mail": 0}', "intervention": '{"mail": 1}'}
    describe("100 rows, the effect of two scenarios", run([body(100, **effect)] * requests))


def time_serving(path, requests):
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", path, "--env-manager", "local"]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        print(f"{'server start':<44} {time.perf_counter() - start:.1f} s")
        time_requests(f"http://127.0.0.1:{port}/invocations", requests)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def time_logging(folder, losses, draws):
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.create_experiment("bench", artifact_location=str(Path(folder) / "artifacts"))
    mlflow.set_experiment("bench")
    data = customers(2000)
    seconds = {"without": [], "with": []}
    for turn in range(4):
        for name in seconds:
            aimz.mlflow.autolog(disable=name == "without", silent=True)
            model = new_model()
            start = time.perf_counter()
            model.fit_on_batch(data, num_steps=losses, num_samples=draws, progress=False)
            if turn:  # the first imports and compiles
                seconds[name].append(time.perf_counter() - start)
    aimz.mlflow.autolog(disable=True)
    without, logged = (statistics.median(seconds[name]) for name in seconds)
    print(f"{f'fit of {losses:,} steps, without and with logging':<44} {without:.2f} s, {logged:.2f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--losses", type=int, default=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(action="ignore"):
        data, path = customers(2000), f"{folder}/model"
        model = new_model().fit_on_batch(data, num_steps=2000, num_samples=given.draws, progress=False)
        start = time.perf_counter()
        aimz.mlflow.save_model(model, path, input_example=data.head())
        print(f"{'save a model':<44} {time.perf_counter() - start:.2f} s")
        for what, load in {
            "load a model": aimz.mlflow.load_model,
            "load a model for serving, and compile": mlflow.pyfunc.load_model,
        }.items():
            seconds = []
            for _ in range(3):
                start = time.perf_counter()
                load(path)
                seconds.append(time.perf_counter() - start)
            print(f"{what:<44} first {seconds[0]:.2f}, then {statistics.median(seconds[1:]):.2f} s")
        time_serving(path, given.requests)
        time_logging(folder, given.losses, given.draws)


if __name__ == "__main__":
    main()
