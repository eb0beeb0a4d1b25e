"""Predictions of a loaded pyfunc model, in this process."""

import json
from concurrent.futures import ThreadPoolExecutor

import jax
import mlflow
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server

import boundary_cases
import importable_kernels
from aimz import mlflow as flavor
from boundary_cases import CASES, COLUMNS, check_outcome

DEFAULT = ["mean", "sd", "q0.05", "q0.5", "q0.95"]
ROWS = ["months", "price", "mail"]


@pytest.fixture(scope="module")
def served(fitted, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("scoring") / "model")
    flavor.save_model(fitted, path)
    return mlflow.pyfunc.load_model(path)


@pytest.fixture(scope="module")
def switches(tmp_path_factory):
    """Return served models of ``switches``: one that knows columns, and one that knows arrays."""
    found = {}
    for kind, X in {"frame": boundary_cases.frame(), "array": boundary_cases.X}.items():
        path = str(tmp_path_factory.mktemp("switches") / kind)
        group = {"group": boundary_cases.GROUP}
        example = X.assign(**group) if kind == "frame" else {"X": X, **group}
        flavor.save_model(boundary_cases.new_model(X), path, input_example=example)
        found[kind] = mlflow.pyfunc.load_model(path)
    return found


def respond(model, body, **params):
    """Return the mean of each row in the response of a scoring server, or the text of its error."""
    params = {"statistics": '["mean"]'} | {name: json.dumps(value) for name, value in params.items()}
    text = json.dumps({**body, "params": params})
    try:
        answer = scoring_server.invocations(text, "application/json", model, model.metadata.get_input_schema())
    except MlflowException as error:
        return error.message
    return [row["mean"] for row in json.loads(answer.response, parse_constant=pytest.fail)["predictions"]]


def json_rows(X):
    """Return rows as JSON has them: missing and masked values are null."""
    rows = np.ma.array(X.values if hasattr(X, "values") else X)
    return [[None if np.ma.is_masked(x) or x != x else x for x in row] for row in rows.tolist()]


@pytest.fixture
def loaded(tmp_path):
    """Return a function that sets the draws of a model, saves it, and loads it as a pyfunc."""

    def load(model, draws, **options):
        model.set_posterior_sample(draws)
        flavor.save_model(model, str(tmp_path / "model"), **options)
        return mlflow.pyfunc.load_model(str(tmp_path / "model"))

    return load


def means_of(model, rows):
    """Return the mean of each row for each draw in closed form, of shape (n_draws, n_rows)."""
    draws = {name: np.asarray(value, np.float64) for name, value in model.posterior.items()}
    X = rows[["months", "price"]].to_numpy()
    return draws["level"][:, None] + draws["slope"] @ X.T + draws["gain"][:, None] * rows["mail"].to_numpy()


def test_predict_default_statistics(served, fitted, customers):
    rows = customers[ROWS].head(50)
    answer = served.predict(rows)
    assert list(answer.columns) == DEFAULT
    assert answer.index.equals(rows.index)
    means = means_of(fitted, rows)
    spread = np.sqrt(means.var(0) + 1.0)
    error = (answer["mean"] - means.mean(0)) / (spread / np.sqrt(400))
    assert np.abs(error).max() < 4.5
    assert np.allclose(answer["sd"], spread, rtol=4.5 / np.sqrt(800))
    assert (answer["q0.05"] < answer["q0.5"]).all()
    assert np.allclose(answer["q0.95"] - answer["q0.05"], 2 * 1.645 * spread, rtol=0.3)


def test_predict_effect_cancels_noise(served, fitted, customers):
    rows = customers[ROWS].iloc[[0, 1, 10, 11, 12, 13, 14, 15]]
    asked = {"baseline": '{"mail": 0}', "intervention": '{"mail": 1}', "statistics": '["mean", "sd", 0.1, 0.9]'}
    answer = served.predict(rows, params=asked)
    gain = np.asarray(fitted.posterior["gain"], np.float64)
    expected = [gain.mean(), gain.std(), *np.quantile(gain, [0.1, 0.9])]
    assert np.allclose(answer.to_numpy(), np.tile(expected, (8, 1)), atol=2e-4)
    untouched = served.predict(rows, params={**asked, "baseline": "{}"})
    treated = (rows["mail"] == 1).to_numpy()
    assert 0 < treated.sum() < 8
    assert (untouched[treated] == 0).all(axis=None)


def test_predict_intervention_by_row(served, fitted, customers):
    rows = customers[ROWS].head(2)
    prices = [1.0, -2.0]
    by_params = served.predict(rows, params={"intervention": json.dumps({"price": prices})})
    assert by_params.equals(served.predict(rows.assign(price=prices)))
    # A site whose length happens to be the number of rows is not treated as a column.
    slopes = {"slope": [0.0, 0.0], "level": 0.0, "gain": 0.0}
    none = served.predict(rows, params={"intervention": json.dumps(slopes)})
    assert np.abs(none["mean"]).max() < 5 / np.sqrt(400)


def test_predict_does_not_depend_on_other_rows(served, customers):
    rows = customers[ROWS]
    many, one = served.predict(rows), served.predict(rows.head(1))
    assert many.head(1).equals(one)
    assert served.predict(rows.head(1)).equals(one)
    other = served.predict(rows.head(1), params={"seed": 1})
    assert not other.equals(one)
    assert served.predict(rows.head(1), params={"seed": 1}).equals(other)


def test_predict_matches_the_model(served, fitted, customers):
    rows = customers[ROWS]
    answer = served.predict(pd.concat([rows, rows.head(55)]))
    tree = fitted.predict(
        pd.concat([rows, rows.head(55)]).reset_index(drop=True),
        in_sample=False,
        rng_key=jax.random.key(0),
        statistics=("mean", "sd", 0.05, 0.5, 0.95),
        store="memory",
        progress=False,
    )
    assert np.array_equal(answer.to_numpy().T, tree["predictions"]["y"].values)


def test_fewer_draws(served, customers):
    rows = customers[ROWS].head(3)
    fewer = served.predict(rows, params={"num_samples": 10, "statistics": '["mean", ["exceeds", 1000]]'})
    assert list(fewer.columns) == ["mean", "exceeds_1000"]
    assert not np.allclose(fewer["mean"], served.predict(rows)["mean"])
    assert (fewer["exceeds_1000"] == 0).all()
    assert served.predict(rows, params={"num_samples": 400}).equals(served.predict(rows))


def test_requests_share_one_program(served, customers, compilations):
    rows = customers[ROWS]
    served.predict(rows, params={"intervention": '{"price": 1.0}'})
    served.predict(rows, params={"baseline": "{}", "intervention": '{"price": 1.0}'})
    compilations.clear()
    for n in (1, 7, 100, 199):
        served.predict(rows.head(n))
        served.predict(rows.head(n), params={"intervention": f'{{"price": {n}}}', "seed": n})
        served.predict(rows.head(n), params={"intervention": json.dumps({"price": [1.5] * n}), "baseline": "{}"})
    assert len(compilations) <= 3  # key and scalar of the first request of each kind
    compilations.clear()
    for n in (2, 50, 150):
        served.predict(rows.head(n), params={"intervention": f'{{"price": {n}}}', "seed": n})
    assert compilations == []


def test_dependent_rows_are_not_padded(new_model, loaded):
    draws = {"slope": np.linspace(1.0, 2.0, 300)}
    X = np.array([0.0, 1.0, 5.0])
    served = loaded(new_model(importable_kernels.centred), draws, input_example=X)
    meaning = "Means are computed over the rows of this call"
    with pytest.warns(UserWarning, match=meaning):
        answer = served.predict(X)
    assert np.allclose(answer["mean"], 1.5 * (X - 2.0), atol=5 * 1.2 / np.sqrt(300))
    with pytest.warns(UserWarning, match=meaning):
        alone = served.predict(X[:1])
    assert abs(alone["mean"][0]) < 5 / np.sqrt(300)


def test_predict_several_values_for_each_row(new_model, loaded):
    model = new_model(importable_kernels.pairs, param_input="design", param_output="sales")
    design = np.array([1.0, -3.0])
    served = loaded(model, {"slope": np.tile([[1.0, 10.0]], (50, 1))}, input_example=design)
    asked = {"statistics": '["mean", "sd"]', "baseline": "{}", "intervention": '{"design": 0.0}'}
    answer = served.predict(design, params=asked)
    assert list(answer.columns) == ["mean[0]", "mean[1]", "sd[0]", "sd[1]"]
    assert np.allclose(answer.to_numpy(), [[-1.0, -10.0, 0.0, 0.0], [3.0, 30.0, 0.0, 0.0]], atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*validate_serving_input`` is deprecated:FutureWarning")
def test_predict_arguments_by_name(new_model, loaded, fitted, customers, tmp_path):
    rows = customers[ROWS].head(6)
    arrays = {"X": rows[["months", "price"]].to_numpy(), "mail": rows["mail"].to_numpy()}
    served = loaded(new_model(), fitted.posterior, input_example=arrays)
    answer = served.predict(arrays)
    assert np.allclose(answer["mean"], means_of(fitted, rows).mean(0), atol=0.3)
    body = json.dumps({"inputs": {name: array.tolist() for name, array in arrays.items()}})
    assert mlflow.models.validate_serving_input(str(tmp_path / "model"), body).equals(answer)
    with pytest.raises(MlflowException, match="Arrays must have the same number of rows"):
        served.predict({**arrays, "mail": arrays["mail"][:2]})


@pytest.mark.filterwarnings("ignore:.*validate_serving_input`` is deprecated:FutureWarning")
@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
def test_arrays_of_any_number_type_are_accepted_whatever_the_example_is(dtype, new_model, loaded, recwarn, tmp_path):
    X = np.array([1, 3, 5])
    model = new_model(importable_kernels.pairs, param_input="design", param_output="sales")
    served = loaded(model, {"slope": np.ones((50, 2))}, input_example=X.astype(dtype))
    assert not [str(one.message) for one in recwarn if "example" in str(one.message)]
    answers = [served.predict(X.astype(kind)) for kind in ("float32", "float64", "int32", "int64", "uint8")]
    for answer in answers[1:]:
        pd.testing.assert_frame_equal(answer, answers[0])
    body = json.dumps({"inputs": X.tolist()})
    pd.testing.assert_frame_equal(mlflow.models.validate_serving_input(str(tmp_path / "model"), body), answers[0])


def test_concurrent_requests(served, customers):
    rows = customers[ROWS]
    alone = [served.predict(rows.head(n), params={"seed": n}) for n in range(1, 9)]
    with ThreadPoolExecutor(4) as pool:
        concurrent = list(pool.map(lambda n: served.predict(rows.head(n), params={"seed": n}), range(1, 9)))
    assert all(a.equals(b) for a, b in zip(alone, concurrent, strict=True))


WRONG = {
    "statistic": ({"statistics": '["median"]'}, "`statistics` must be known; got 'median'"),
    "no list": ({"statistics": '"mean"'}, "`statistics` must be JSON of a list"),
    "no JSON": ({"intervention": "{price: 1}"}, "`intervention` must be JSON; got '{price: 1}'"),
    "site": ({"intervention": '{"prise": 1}'}, "Cannot intervene on 'prise'"),
    "text": ({"intervention": '{"price": "low"}'}, "must be numeric"),
    "baseline": ({"baseline": "[]"}, "`baseline` must be JSON of names and values"),
    "draws": ({"num_samples": 1000}, "at most the number of posterior draws, 400"),
    "no draws": ({"num_samples": 0}, "`num_samples` must be an integer of at least 1"),
    "seed": ({"seed": -1}, "`seed` must be an integer of at least 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_predict_rejects_invalid_parameters(served, customers, name):
    params, words = WRONG[name]
    with pytest.raises(MlflowException) as caught:
        served.predict(customers[ROWS].head(2), params=params)
    assert words in caught.value.message
    assert caught.value.get_http_status_code() == 400


def test_predict_rejects_invalid_rows(served, customers):
    for rows, words in {
        "lacking": (customers[["months", "mail"]], "price"),
        "text": (customers[ROWS].head(2).assign(price="low"), "price"),
        "none": (customers[ROWS].head(0), "at least one row"),
    }.values():
        with pytest.raises(MlflowException) as caught:
            served.predict(rows)
        assert words in caught.value.message
        assert caught.value.get_http_status_code() == 400


def test_predict_rejects_an_unknown_group(new_model, loaded):
    X = np.array([0, 2, 1])
    served = loaded(new_model(importable_kernels.regions), {"level": np.zeros((50, 3))}, input_example=X)
    served.predict(X)
    with pytest.raises(MlflowException) as caught:
        served.predict(np.array([0, 2, -1]))
    assert "1 of 3 rows have an index outside of site `level`" in caught.value.message
    assert "row 2 with -1" in caught.value.message
    assert caught.value.get_http_status_code() == 400


@pytest.mark.parametrize("form", ["dataframe_split", "dataframe_records", "inputs"])
@pytest.mark.filterwarnings("ignore:Arguments have NaN")
def test_fractions_and_nulls_in_columns_of_integers(form, new_model, loaded):
    """The noise of two requests is the same, so that means differ by half of the slope, 3."""
    example = pd.DataFrame({"months": [1, 2], "price": [3, 5], "mail": [0, 1]})
    draws = {"level": np.zeros(8), "slope": np.full((8, 2), 3.0), "gain": np.ones(8)}
    served = loaded(new_model(), draws, input_example=example)

    def means(months):
        rows = example.astype(object)
        rows["months"] = months
        records = rows.to_dict("records")
        body = {"dataframe_split": rows.to_dict("split", index=False), "dataframe_records": records}
        return respond(served, {form: body.get(form, rows.to_dict("list"))})

    whole, half, missing = means([1, 2]), means([1.5, 2]), means([None, 2])
    np.testing.assert_allclose(np.subtract(half, whole), [1.5, 0.0], atol=1e-5)
    assert missing[0] is None  # `respond` reads the response strictly
    assert isinstance(missing[1], float)
    np.testing.assert_allclose(served.predict(example)["mean"], whole, rtol=1e-6)
    assert "must be numeric" in means(["a", "b"])


def test_whole_floats_are_indices(new_model, loaded):
    served = loaded(new_model(importable_kernels.regions), {"level": np.zeros((8, 3))}, input_example=np.array([0, 1]))
    assert respond(served, {"inputs": [0.0, 2.0]}) == respond(served, {"inputs": [0, 2]})
    assert isinstance(respond(served, {"inputs": [0.5, 2.0]}), str)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["frame", pytest.param("array", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:Arguments have NaN")
def test_inputs_keep_their_meaning_in_requests(switches, name, kind):
    """A masked integer is null in JSON, and so becomes a missing value; JSON has no labels but those of columns."""
    case = CASES[name]
    rows = case.X()
    if kind == "frame":
        columns = rows.indexes["column"] if isinstance(rows, xr.DataArray) else getattr(rows, "columns", COLUMNS)
        data = [[*row, group] for row, group in zip(json_rows(rows), case.group, strict=True)]
        body = {"dataframe_split": {"columns": [*columns, "group"], "data": data}}
    elif case.fitted is None:
        body = {"inputs": {"X": json_rows(rows), "group": list(map(int, case.group))}}
    else:
        pytest.skip("arrays in JSON have no labels")
    found = respond(switches[kind], body)
    expected = CASES["missing value"] if name == "masked integer" else case
    check_outcome(found, expected)


@pytest.mark.filterwarnings("ignore:The answer for new entries")
def test_requests_predict_new_groups_as_the_model_does(switches):
    """A new level is standard normal, so that its rows are 1 with probability 0.159, that it exceeds 1."""
    group = np.array([0, 4, 3, 4])
    rows = boundary_cases.frame(group=group)
    body = {"dataframe_split": rows.to_dict("split", index=False)}
    assert "which has 3 entries along plate `groups`" in respond(switches["frame"], body)
    found = respond(switches["frame"], body, arguments={"n_groups": 5})
    model = switches["frame"].get_raw_model()
    with pytest.warns(UserWarning, match="there are more than in the posterior"):
        tree = model.predict(
            rows, n_groups=5, in_sample=False, store="memory", progress=False, rng_key=jax.random.key(0)
        )
    np.testing.assert_allclose(found, tree["predictions"]["y"].mean(("chain", "draw")))
    error = 4.5 * np.sqrt(0.84 * 0.16 / boundary_cases.N_DRAWS)
    np.testing.assert_allclose(found, [1.0, 0.159, 0.159, 0.159], atol=error)
    in_body = {"inputs": {"X": boundary_cases.X.tolist(), "group": group.tolist()}}
    assert respond(switches["array"], in_body, arguments={"n_groups": 5}) == found
    assert "must be given once" in respond(switches["frame"], body, arguments={"X": 1})
