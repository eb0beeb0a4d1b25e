"""Law 1: the numbers do not depend on the number of devices."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import device_calls
from boundary_cases import CASES, check_outcome

PRODUCTS = ("streams flax_net", "streams prior")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return a function that computes all results on a number of devices, in one process for each number."""
    directory = tmp_path_factory.mktemp("devices")

    @cache
    def compute(n_devices: int) -> dict[str, np.ndarray]:
        environment = {
            **os.environ,
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={n_devices}",
            "PYTHONPATH": os.pathsep.join([str(Path(device_calls.__file__).parent), *sys.path]),
        }
        path = directory / f"{n_devices}.npz"
        command = [sys.executable, "-W", "error", device_calls.__file__, str(path)]
        subprocess.run(command, env=environment, check=True, timeout=280)
        with np.load(path) as saved:
            found = dict(saved)
        assert found.pop("devices") == n_devices
        return found

    return compute


def part_of(found: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    return {name: array for name, array in found.items() if name.startswith(f"{part} ")}


@pytest.mark.parametrize("part", ["batch", "comparisons", "counterfactuals"])
def test_results_have_same_bits_on_one_and_four_devices(results, part):
    one, four = part_of(results(1), part), part_of(results(4), part)
    assert one
    assert one.keys() == four.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], four[name], err_msg=name)
    if part == "comparisons":
        assert len(one) == 2 * (3 * 2 + 1 + 1 + 2) + 1


@pytest.mark.parametrize("name", CASES)
def test_inputs_keep_their_meaning_on_several_devices(results, name):
    check_outcome(results(4)[f"boundaries {name}"], CASES[name])


# Four devices represent two as well: some kernels have fewer blocks than devices, some as many, some more.
@pytest.mark.parametrize("n_devices", [4, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3, 8))])
def test_streams_have_same_bits_on_several_devices(results, n_devices):
    """Blocks and draws are divided evenly, whatever their number; padding is never visible.

    The exception is a matrix product within a row: where a device has one block or one draw rather than several, XLA
    may sum in another order, which changes the last bits.
    """
    one, several = part_of(results(1), "streams"), part_of(results(n_devices), "streams")
    assert one
    assert several.keys() == one.keys()
    for name, found in several.items():
        if name.startswith(PRODUCTS):
            np.testing.assert_allclose(found, one[name], rtol=1e-4, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(found, one[name], err_msg=name)


@pytest.mark.parametrize("n_devices", [1, 4])
def test_rows_and_draws_may_be_sharded_whichever_are_more(results, n_devices):
    """A kernel without a plate, with more draws than rows and more rows than draws, along both axes."""
    found = part_of(results(n_devices), "streams")
    for n_obs, n_draws in device_calls.SHAPES:
        by_rows, by_draws = (found[f"streams without_plate.{n_obs}.{axis}.y"] for axis in ("obs", "draw"))
        assert by_rows.shape == (1, n_draws, n_obs)
        np.testing.assert_array_equal(by_draws, by_rows)
