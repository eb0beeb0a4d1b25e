"""Inputs whose meaning is easily lost keep it on a batch; tests of devices and of requests use the same table."""

import numpy as np
import pytest

from boundary_cases import CASES, check_outcome, new_model, outcome_of

pytestmark = [
    pytest.mark.usefixtures("plain_code"),
    pytest.mark.filterwarnings("ignore:Arguments have NaN"),
]


@pytest.mark.parametrize("name", CASES)
def test_inputs_keep_their_meaning(name):
    case = CASES[name]
    model = new_model(None if case.fitted is None else case.fitted())
    tree = outcome_of(
        lambda: (
            model.predict_on_batch(case.X(), group=np.array(case.group), in_sample=False)["predictions"]["y"]
            .mean(("chain", "draw"))
            .values
        )
    )
    check_outcome(tree, case)
