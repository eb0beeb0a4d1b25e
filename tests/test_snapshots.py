"""Snapshots of what must not change: public signatures, stored files and numbers for fixed keys.

The files in ``snapshots`` were recorded with version 0.1.0.  A change that makes one of these tests fail breaks code or
files of users.  ``python tests/snapshots/recorder.py --update`` records them again after an intended change.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import numpyro
import pytest

SNAPSHOTS = Path(__file__).parent / "snapshots"
sys.path.insert(0, str(SNAPSHOTS))

import recorder  # noqa: E402


@pytest.fixture(scope="module")
def recorded(plain_code, tmp_path_factory):
    directory = tmp_path_factory.mktemp("snapshots") / "recorded"
    return recorder.record(directory), recorder.summarise(directory)


def test_public_signatures_unchanged():
    expected = json.loads((SNAPSHOTS / "signatures.json").read_text())
    found = json.loads(json.dumps(recorder.public_signatures()))
    assert found.keys() == expected.keys()
    for name, signature in expected.items():
        assert found[name] == signature, name


def text_of(content, digests):
    """Return JSON content as text, with or without the digests in it."""
    text = json.dumps(content, indent=1)
    return text if digests else recorder.DIGEST.sub("DIGEST", text)


def test_stored_files_unchanged(recorded):
    expected = json.loads((SNAPSHOTS / "files.json").read_text())
    _, found = recorded
    assert found["files"] == expected["files"]
    assert found["metadata"].keys() == expected["metadata"].keys()
    # Digests of programs depend on the text of jaxprs, which other versions write differently.
    same = expected["versions"] == {package.__name__: package.__version__ for package in (jax, numpyro)}
    for name, content in expected["metadata"].items():
        assert text_of(found["metadata"][name], same) == text_of(content, same), name


def test_numbers_unchanged(recorded):
    found = dict(recorder.thinned(recorded[0]))
    with np.load(SNAPSHOTS / "numbers.npz") as expected:
        assert found.keys() == set(expected.files)
        for name in expected.files:
            assert found[name].dtype == expected[name].dtype, name
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=1e-5, err_msg=name)
