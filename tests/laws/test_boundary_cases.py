"""Inputs whose meaning is easily lost keep it in this process; other tests send them to devices and over HTTP."""

import numpy as np
import pytest

from boundary_cases import CASES, check_outcome, new_model, outcome_of, predicted_means

pytestmark = [
    pytest.mark.usefixtures("plain_code"),
    pytest.mark.filterwarnings("ignore:Arguments have NaN"),
]


@pytest.mark.parametrize("name", CASES)
def test_inputs_keep_their_meaning(name):
    case = CASES[name]
    check_outcome(predicted_means(case), case)
    model = new_model(None if case.fitted is None else case.fitted())
    tree = outcome_of(
        lambda: (
            model.predict_on_batch(case.X(), group=np.array(case.group), in_sample=False)["predictions"]["y"]
            .mean(("chain", "draw"))
            .values
        )
    )
    check_outcome(tree, case)
