"""Support of questions about rows in categories: ranges of columns by category, and interventions on categories."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax import random
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal

import aimz
from aimz.engine.support_report import report_of
from aimz.statistics import FitSupport, RowSupport, SupportCounts

pytestmark = [
    pytest.mark.usefixtures("plain_code"),
    pytest.mark.filterwarnings("error:The answer extrapolates"),
    pytest.mark.filterwarnings("ignore:The draws are not from the posterior yet"),
]

N = 600
RNG = np.random.default_rng(5)
Y = RNG.normal(size=N)


def kernel(X, y=None):
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ b / 1e3, 1.0), obs=y)


def by_svi(function):
    svi = SVI(function, AutoNormal(function), numpyro.optim.Adam(0.01), Trace_ELBO())
    return aimz.ImpactModel(function, random.key(0), svi)


def shop_kernel(X, shop, n_shop, y=None):
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    with numpyro.plate("shops", n_shop):
        a = numpyro.sample("a", dist.Normal())
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(a[shop] + X @ b / 1e3, 1.0), obs=y)


SHOP = np.array([f"shop {i:02d}" for i in range(15)])[RNG.permutation(np.arange(N) % 15)]
PRICES = pd.DataFrame(
    {"price": RNG.uniform(4.0, 6.0, N) + 2.5 * (SHOP >= "shop 09"), "mail": RNG.integers(0, 2, N).astype(float)}
)
PRICES.loc[SHOP == "shop 03", "mail"] = 0.0


def shops(**options):
    model = by_svi(shop_kernel)
    common = {"shop": SHOP, "num_samples": 5, "progress": False}
    if options:
        return model.fit(PRICES, Y, epochs=1, **common, **options)
    return model.fit_on_batch(PRICES, Y, num_steps=5, **common)


def test_rows_are_compared_with_rows_of_their_category(tmp_path):
    """Cheap shops, and a shop without mail, have no rows like those that are asked about; in memory and streamed."""
    model = shops()
    model.save(tmp_path / "model")
    loaded = aimz.ImpactModel.load(tmp_path / "model", shop_kernel)
    lowest = PRICES["price"].groupby(SHOP).min()
    highest = PRICES["price"].groupby(SHOP).max()
    assert lowest.max() < 8.0
    outside = (highest < 7.0)[SHOP].mean()
    reason = f"{100 * outside:.3g} % of the rows are asked about a `price` that no row with the same `shop` had"
    for one in (model, loaded, shops(batch_size=70)):
        found = one.support(intervention={"price": 8.0}, X=PRICES, shop=SHOP)
        assert found.reasons == (reason,)
        assert found.table.loc[0, "in"] == "shop"
        assert one.support(intervention={"price": 6.3}, X=PRICES, shop=SHOP).verdict == "supported"
    mailed = model.support(intervention={"mail": 1.0})
    assert mailed.reasons == (
        f"{100 / 15:.3g} % of the rows are asked about a `mail` that no row with the same `shop` had",
    )
    # The rows of a batch are checked while they are computed.
    asked = {"intervention": {"price": 8.0}, "progress": False, "store": "memory"}
    with pytest.warns(aimz.SupportWarning, match="with the same `shop` had"):
        model.predict([{"X": PRICES.to_numpy(np.float32), "shop": SHOP}], **asked)


def test_groups_are_named_by_a_text_column_that_is_no_argument(monkeypatch):
    monkeypatch.setattr("aimz.engine.support_checks._BLOCK", 100)
    frame = PRICES.assign(region=np.where(SHOP >= "shop 09", "north", "south"))
    model = by_svi(kernel).fit_on_batch(PRICES, Y, num_steps=5, num_samples=5, progress=False)
    found = model.support(intervention={"price": 7.5}, X=frame, by="region")
    assert found.table["region"].tolist() == ["north", "south"]
    assert found.table["unlike"].tolist() == [0, 1]
    south = (frame["region"] == "south").mean()
    assert found.reasons == (
        f"{100 * south:.3g} % of the rows are asked about a `price` that no row with the same `region` had",
    )
    only = model.support(intervention={"price": 7.5}, X=frame, by="region", where=(frame["region"] == "north"))
    assert only.verdict == "supported"
    # Groups of new rows are not compared with the fit, and groups drawn at random have the same prices.
    assert (
        model.support(intervention={"price": 7.5}, X=frame[:300], in_sample=False, by="region").verdict == "supported"
    )
    assert model.support(intervention={"price": 8.2}, by=RNG.integers(0, 60, N)).verdict == "supported"


# ------------------------------------------------------------------------------------ interventions on categories


def counts_of(description, rows, *asked):
    found = SupportCounts(RowSupport(description, asked))
    found.add(rows)
    return found


def test_shop_that_is_set_needs_rows_like_those_that_are_asked_about(tmp_path):
    """Shop 03 is cheap and has no rows with mail; in memory, read once, and one value for each row."""
    model = shops()
    model.save(tmp_path / "model")
    loaded = aimz.ImpactModel.load(tmp_path / "model", shop_kernel)
    mailed = (PRICES["mail"] == 1).mean()
    reason = f"{100 * mailed:.3g} % of the rows are asked about a `shop` that no row with the same `mail` had"
    for one in (model, loaded, shops(batch_size=70)):
        found = one.support(intervention={"shop": "shop 03"}, X=PRICES, shop=SHOP)
        assert (found.verdict, found.reasons) == ("extrapolates", (reason,))
        line = found.table.iloc[0]
        assert (line["column"], line["in"], line["similar_rows"], line["outside"]) == ("shop", "mail", 40, 0)
        assert line["unlike"] == pytest.approx(mailed)
    dear = PRICES[SHOP >= "shop 09"]
    share = (PRICES["price"] < dear["price"].min() - 0.1 * np.ptp(PRICES["price"])).mean()
    found = model.support("shop").table.set_index("scenario")["unlike"]
    assert len(found) == 15
    assert found["shop = shop 12"] == pytest.approx(share, abs=0.02)
    swapped = np.where(SHOP == "shop 00", "shop 01", SHOP)
    assert model.support(intervention={"shop": swapped}, X=PRICES, shop=SHOP).verdict == "supported"
    asked = {"intervention": {"shop": "shop 03"}, "progress": False, "store": "memory"}
    with pytest.warns(aimz.SupportWarning, match="asked about a `shop` that no row with the same `mail` had"):
        model.predict([{"X": PRICES.to_numpy(np.float32), "shop": SHOP}], in_sample=True, **asked)


def test_shop_that_is_set_is_compared_within_groups_of_the_fit():
    """The group of a row is a text column that the kernel does not read."""
    frame = PRICES.assign(price=PRICES["price"].mean(), region=np.where(SHOP >= "shop 09", "north", "south"))
    model = by_svi(shop_kernel).fit_on_batch(
        frame[["price", "mail"]], Y, shop=SHOP, num_steps=5, num_samples=5, progress=False
    )
    found = model.support(intervention={"shop": "shop 12"}, X=frame, shop=SHOP, by="region")
    south = (frame["region"] == "south").mean()
    assert found.reasons == (
        f"{100 * south:.3g} % of the rows are asked about a `shop` that no row with the same `region` had",
    )
    assert found.table["unlike"].tolist() == [0, 1]


def described(pieces):
    """Return the description of rows with a price, a shop and a brand, added in pieces that are merged."""
    found = [FitSupport.of({"price": ROWS[:, 0], "shop": ROWS[:, 1], "brand": ROWS[:, 2]}, {}, ("shop", "brand"))]
    found += [FitSupport.of({"price": ROWS[:, 0], "shop": ROWS[:, 1], "brand": ROWS[:, 2]}, {}, ("shop", "brand"))]
    for part, rows in zip(found, np.split(ROWS, [pieces]), strict=True):
        part.add({"price": rows[:, 0], "shop": rows[:, 1], "brand": rows[:, 2]})
    found[0].merge(found[1])
    return found[0].finished()


ROWS = np.column_stack([RNG.uniform(0, 1, N), RNG.integers(0, 6, N), RNG.integers(0, 4, N)]).astype(float)
ROWS = ROWS[(ROWS[:, 1] > 1) | (ROWS[:, 2] != 3)]
ROWS[0, 1:] = 6, 0  # a single row of a seventh shop


@pytest.mark.parametrize("pieces", [5, 400])
def test_pairs_of_categories_without_rows_are_counted(pieces):
    """Shops 0 and 1 do not sell brand 3; the expected numbers of rows come from `pandas.crosstab`."""
    fit = described(pieces)
    table = pd.crosstab(ROWS[:, 1], ROWS[:, 2]).to_numpy()
    saved = FitSupport.from_arrays(fit.names, fit.places, fit.categories, fit.to_arrays())
    for one in (fit, saved):
        np.testing.assert_array_equal(one.ranges[1].pairs[0], table.T)
    shop_0 = np.column_stack([ROWS[:, 0], np.zeros(len(ROWS)), ROWS[:, 2]])
    brand_3 = np.column_stack([ROWS[:, :2], np.full(len(ROWS), 3)])
    for rows, asked, expected in (
        (shop_0, 1, (ROWS[:, 2] == 3).sum()),
        (brand_3, 2, (ROWS[:, 1] < 2).sum()),
    ):
        (line,) = counts_of(fit, rows, asked).whole.columns.values()
        assert line.apart[{1: "brand", 2: "shop"}[asked]] == expected
    # The seventh shop has one row, which is of one brand by chance.
    (line,) = counts_of(fit, np.column_stack([ROWS[:, 0], np.full(len(ROWS), 6), ROWS[:, 2]]), 1).whole.columns.values()
    assert (line.outside, line.worst[1], line.similar_rows) == (0, 0, 1)
    report = report_of(counts_of(fit, shop_0, 1), (), {})
    share = 100 * (ROWS[:, 2] == 3).mean()
    assert report.reasons == (
        f"{share:.3g} % of the rows are asked about a `shop` that no row with the same `brand` had",
    )


def test_category_without_rows_in_the_fit_extrapolates():
    rows = ROWS.copy()
    rows[:300, 1] = 9
    report = report_of(counts_of(described(100), rows, 1), (), {})
    share = 100 * 300 / len(rows)
    assert report.reasons == (f"{share:.3g} % of the rows are asked about a `shop` that no row of the fit had",)


def arm_kernel(X, arm, n_arm, y=None):
    b = numpyro.sample("b", dist.Normal().expand([X.shape[1]]).to_event(1))
    a = numpyro.sample("a", dist.Normal().expand([n_arm]).to_event(1))
    with numpyro.plate("row", X.shape[0]):
        numpyro.sample("y", dist.Normal(a[arm] + X @ b / 1e3, 1.0), obs=y)


def test_overlap_of_a_treatment_of_two_texts_equals_that_of_numbers():
    age = np.r_[RNG.normal(40, 6, 400), RNG.normal(24, 6, 200)]
    X = pd.DataFrame({"age": age, "mail": PRICES["mail"]})
    treated = np.repeat([0.0, 1.0], [400, 200])
    options = {"num_steps": 5, "num_samples": 5, "progress": False}
    numbers = by_svi(kernel).fit_on_batch(X.assign(treated=treated), Y, **options).support("treated")
    arm = np.where(treated == 1, "pill", "none")
    texts = by_svi(arm_kernel).fit_on_batch(X, Y, arm=arm, **options).support("arm")
    assert numbers.verdict == texts.verdict == "extrapolates"
    assert texts.table["effective_controls"].iloc[0] == pytest.approx(numbers.table["effective_controls"].iloc[0])
    assert [one.replace("`arm` = none", "`treated` = 0") for one in texts.reasons if "= none" in one] == [
        one for one in numbers.reasons if "= 0" in one
    ]
