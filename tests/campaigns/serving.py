"""Requests of concurrent clients to a served model, with malformed ones in between.

A valid request must get the numbers that the server returned before, a malformed one a response of status 400 with a
message.  Run as ``python tests/campaigns/serving.py --minutes 60``.
"""

import json
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from random import Random
from typing import Any

import jax
import numpy as np
import numpyro
import pandas as pd
from _calls import Tally, options
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal
from servers import free_port, running

import importable_kernels
from aimz import ImpactModel
from aimz import mlflow as flavor

N_CLIENTS = 8
COLUMNS = ["months", "price", "mail"]
ROWS = [[0.5, 1.0, 1], [4.0, 0.2, 0], [2.0, 0.0, 1], [7.5, 1.4, 0]]

Reply = tuple[int, Any]


def frame(rows: list[list[Any]], columns: list[str] = COLUMNS, **params: Any) -> dict[str, Any]:
    """Return the body of a request."""
    return {"dataframe_split": {"columns": columns, "data": rows}} | ({"params": params} if params else {})


VALID = {
    "one row": frame(ROWS[:1]),
    "all rows": frame(ROWS),
    "statistics": frame(ROWS, statistics='["mean", "sd", 0.1, 0.9]'),
    "intervention": frame(ROWS[1:], intervention='{"price": 1.2}'),
    "effect": frame(ROWS, baseline='{"mail": 0}', intervention='{"mail": 1}'),
    "few draws": frame(ROWS, num_samples=7),
    "seed": frame(ROWS, seed=3),
    "null": frame([[None, 1.0, 1], *ROWS[1:]]),
}
MALFORMED: dict[str, Any] = {
    "no JSON": b"{",
    "no rows": {"columns": COLUMNS},
    "missing column": frame([row[:2] for row in ROWS], COLUMNS[:2]),
    "text": frame([["a", 1.0, 1]]),
    "ragged": frame([[0.5, 1.0]]),
    "unknown site": frame(ROWS, intervention='{"prise": 1}'),
    "broken intervention": frame(ROWS, intervention="{"),
    "unknown statistic": frame(ROWS, statistics='["middle"]'),
    "negative number of draws": frame(ROWS, num_samples=-1),
    "integer that overflows": frame([[0.5, 1.0, 1e12]]),
}


def post(url: str, body: Any) -> Reply:
    """Return the status and the body of a response, read as strict JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            status, text = response.status, response.read()
    except urllib.error.HTTPError as error:
        status, text = error.code, error.read()
    return status, json.loads(text, parse_constant=lambda name: f"invalid JSON: {name}")


def save(path: Path) -> None:
    """Save a fitted model for MLflow."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"months": rng.uniform(0, 8, 80), "price": rng.normal(size=80), "mail": rng.integers(0, 2, 80)})
    rows["y"] = 20 - rows["months"] + 3 * rows["mail"] + rng.normal(size=80)
    kernel = importable_kernels.shop
    model = ImpactModel(
        kernel, jax.random.key(0), SVI(kernel, AutoNormal(kernel), numpyro.optim.Adam(0.05), Trace_ELBO())
    )
    model.fit_on_batch(rows, num_steps=500, num_samples=100, progress=False)
    flavor.save_model(model, path)


def client(url: str, rng: Random, expected: dict[str, Reply], end: float, tally: Tally, lock: threading.Lock) -> None:
    """Send requests until the time is over."""
    while time.monotonic() < end:
        malformed = rng.random() < 0.5
        name = rng.choice(list(MALFORMED if malformed else VALID))
        try:
            status, found = post(url, (MALFORMED if malformed else VALID)[name])
        except (OSError, ValueError) as error:
            status, found = 0, repr(error)
        with lock:
            tally.tried += 1
            if malformed and status == 400 and found.get("message"):
                tally.detected += 1
            elif malformed or (status, found) != expected[name]:
                tally.lose(f"{name}: status {status}, {str(found)[:200]}")


def main() -> int:
    """Serve a model and send requests until the time is over."""
    given = options(__doc__)
    warnings.simplefilter("ignore")
    tally, lock = Tally(), threading.Lock()
    with tempfile.TemporaryDirectory() as directory:
        save(Path(directory) / "model")
        url = f"http://127.0.0.1:{(port := free_port())}"
        serve = ["models", "serve", "-m", f"{directory}/model", "--env-manager", "local", "--workers", "1"]
        with running([*serve, "--host", "127.0.0.1", "--port", str(port)], f"{url}/ping", Path(directory) / "server"):
            url = f"{url}/invocations"
            expected = {name: post(url, body) for name, body in VALID.items()}
            for name, (status, found) in expected.items():
                if status != 200:
                    tally.lose(f"{name}: status {status}, {str(found)[:200]}")
            end = time.monotonic() + 60 * given.minutes
            threads = [
                threading.Thread(target=client, args=(url, Random(f"{given.seed} {i}"), expected, end, tally, lock))
                for i in range(N_CLIENTS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    return tally.end()


if __name__ == "__main__":
    sys.exit(main())
