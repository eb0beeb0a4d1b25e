"""Grids of rows: combinations of values, typical rows, and all rows repeated."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

import aimz

FRAME = pd.DataFrame(
    {
        "price": [4.0, 6.0, 8.0, 6.0],
        "size": [1.0, 2.0, 3.0, 6.0],
        "region": ["N", "S", "S", "S"],
        "kind": pd.Categorical(["b", "a", "b", "b"], categories=["b", "a", "c"]),
    }
)


def test_typical_rows():
    found = aimz.grid(FRAME, price=[5, 7], kind="each")
    assert list(found.columns) == list(FRAME.columns)
    assert found["price"].tolist() == [5.0, 5.0, 7.0, 7.0]
    assert found["kind"].tolist() == ["b", "a", "b", "a"]
    assert found["kind"].dtype == FRAME["kind"].dtype
    assert (found["size"] == FRAME["size"].mean()).all()
    assert (found["region"] == "S").all()


def test_all_rows_at_each_value():
    found = aimz.grid(FRAME, rows="all", price=9.0)
    pd.testing.assert_frame_equal(found, FRAME.assign(price=9.0))
    twice = aimz.grid(pl.from_pandas(FRAME[["price", "size"]]), rows="all", price=np.array([1, 2]))
    assert twice["price"].tolist() == [1.0] * 4 + [2.0] * 4
    assert twice["size"].tolist() == FRAME["size"].tolist() * 2


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"cost": 1.0}, ValueError, "Known: price, size, region, kind"),
        ({"region": "W"}, ValueError, "no value 'W'"),
        ({"price": []}, ValueError, "must be values, or 'each'"),
        ({}, ValueError, "4 rows and 0 columns"),
        ({"rows": "mean", "price": 1.0}, ValueError, "'typical' or 'all'"),
        ({"price": np.zeros(4000), "size": np.zeros(4000)}, ValueError, "16,000,000 rows"),
    ],
)
def test_invalid_grids(given, error, message):
    with pytest.raises(error, match=message):
        aimz.grid(FRAME, **given)
    with pytest.raises(TypeError, match="needs a data frame; got ndarray"):
        aimz.grid(np.zeros(3), price=1.0)
