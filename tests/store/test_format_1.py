"""Results of format 1, which has no checksums of metadata and of positions of chunks: all of them stay readable.

The files in ``format_1`` were written once, by the first version of the store, and stay as they are.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import aimz
from aimz.errors import IncompleteResultError
from aimz.output import as_group
from aimz.store import JOURNAL, Directory, Group, Journal, Variable, ZarrStore, check_result

HERE = Path(__file__).parent / "format_1"
GROUP = "posterior_predictive"
N_ROWS, CHUNK = 10, 4
Y = np.arange(60, dtype=np.int32).reshape(2, 3, N_ROWS) * 7 % 13
Y[0, 0, 0] = np.iinfo(np.int32).min
WHOLE = {"mu": np.linspace(-1, 1, 60, dtype=np.float32).reshape(2, 3, N_ROWS), "y": Y}
EXPECTED = {"mu": WHOLE["mu"], "y": np.where(Y < 0, np.nan, Y)}


def posterior() -> xr.Dataset:
    """Return the group that is written as a whole."""
    days = np.array(["2024-02-28", "2024-02-29", "2024-03-01", "2024-03-02"], "datetime64[ns]")
    return xr.Dataset(
        {"beta": (("chain", "draw", "feature"), np.arange(24.0, dtype=np.float32).reshape(2, 3, 4))},
        coords={"chain": range(2), "draw": range(3), "feature": ["age", "größe", "", "Δ"], "day": ("feature", days)},
        attrs={"created_at": "2024-01-01"},
    )


def copy_of(name: str, directory: Path) -> Path:
    return Path(shutil.copytree(HERE / name, directory / name))


def check_values(path: Path) -> None:
    with xr.open_datatree(path, engine="zarr") as plain:
        for tree in (aimz.open_result(path), plain):
            for name, values in EXPECTED.items():
                np.testing.assert_array_equal(tree[GROUP][name].values, values)
            assert tree["posterior"]["feature"].values.tolist() == ["age", "größe", "", "Δ"]
            assert str(tree["posterior"]["day"].values[1]) == "2024-02-29T00:00:00.000000000"


def test_complete_result_opens(tmp_path):
    check_values(HERE / "complete")
    assert check_result(HERE / "complete").checksums is None
    # Attributes of groups could be changed.
    path = copy_of("complete", tmp_path)
    zarr.open_group(path)["posterior"].attrs["note"] = "mine"
    check_values(path)


@pytest.mark.parametrize("name", ["interrupted", "interrupted_growing"])
@pytest.mark.parametrize("opened", [False, True])
def test_interrupted_result_is_finished(tmp_path, name, opened):
    path = copy_of(name, tmp_path)
    if opened:  # this creates a root, with which xarray reads the result as complete
        zarr.open_group(path)
    with pytest.raises(IncompleteResultError, match="did not finish"):
        aimz.open_result(path)
    journal = Journal.read(Directory(path))
    assert journal.chunks is None
    assert journal.rows == {0: "digest 0", 4: "digest 1"}
    store = ZarrStore(path, GROUP, root_attrs={"output_dir": "there"}, journal=journal)
    length = None if "growing" in name else N_ROWS
    variables = {
        site: Variable(("chain", "draw", "obs"), (2, 3, length), whole.dtype, (2, 3, CHUNK), 2, site == "y")
        for site, whole in WHOLE.items()
    }
    labels = {"chain": (("chain",), np.arange(2), {}), "draw": (("draw",), np.arange(3), {})}
    store.open(Group(variables, labels, {"rng_key": "1"}))
    store.write_group("posterior", *as_group(posterior()))
    for site, whole in WHOLE.items():
        assert [position[2] for position in store.missing(site)] == ([2] if length else [])
        store.write(site, whole.reshape(6, N_ROWS)[:, 8:], 8)
    store.finish(N_ROWS)
    assert not (path / JOURNAL).exists()
    check_values(path)
    assert check_result(path).checksums.keys() >= {f"{GROUP}/mu", f"{GROUP}/y", "posterior/beta"}
    for file in (HERE / "complete").rglob("c/**/*"):  # the chunks are those of the uninterrupted run
        if file.is_file():
            assert (path / file.relative_to(HERE / "complete")).read_bytes() == file.read_bytes()


EDITS = {
    "not complete": lambda root, state: state.update(complete=False),
    "no chunks": lambda root, state: state.pop("chunks"),
    "no nodes": lambda root, state: root.pop("consolidated_metadata"),
    "a list": lambda root, state: root.update(attributes=[1]),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_root_raises(tmp_path, edit):
    path = copy_of("complete", tmp_path)
    root = json.loads((path / "zarr.json").read_text())
    state = json.loads(root["attributes"]["aimz_store"])
    EDITS[edit](root, state)
    if isinstance(root["attributes"], dict):
        root["attributes"]["aimz_store"] = json.dumps(state)
    (path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(IncompleteResultError, match=r"predict again|is no result"):
        aimz.open_result(path)


def test_edited_dtype_of_a_child_raises(tmp_path):
    path = copy_of("complete", tmp_path)
    child = path / GROUP / "mu" / "zarr.json"
    child.write_text(child.read_text().replace('"float32"', '"int32"'))
    with pytest.raises(IncompleteResultError, match=r"posterior_predictive/mu/zarr\.json: .*not the one that was"):
        aimz.open_result(path)
