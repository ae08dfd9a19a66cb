"""Law 6: the closed form, the FLOPs counted and the parameter count agree to the last digit."""

import pytest
import torch

from eramv_lab.cost.count import count_decode, count_parameters, count_prefill
from eramv_lab.cost.formula import price
from eramv_lab.model import build_model
from laws.probes import spec_of
from laws.whole import EACH, OPTIONS, SYSTEMS

COUNTED = [
    *EACH,
    *(pytest.param(name, marks=pytest.mark.slow) for name in OPTIONS),
]
WINDOWED = ("mistral_window", "window_joint")


@pytest.mark.parametrize("place", ["cpu", pytest.param("meta", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", COUNTED)
def test_formula_count_and_parameters_agree(name: str, place: str):
    spec, text = spec_of((SYSTEMS | OPTIONS)[name]), 11
    with torch.device(place):  # so small a model runs for real in a fifth of the time
        model = build_model(spec).eval()
    cost = price(spec, text_tokens=text)
    counted = count_prefill(model, text)
    assert counted == {column: cost.column(column) for column in counted}
    assert cost.parameters == count_parameters(model)
    if name in WINDOWED:  # the cache forgets what is behind the window, the formula does not
        assert cost.decode > count_decode(model, text)
    else:
        assert cost.decode == count_decode(model, text)
