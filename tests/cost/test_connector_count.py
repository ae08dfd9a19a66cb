"""What a connector of many rows costs to train: the closed form is the count, whatever learns."""

import pytest

from .shapes import tiny
from .test_count import LEARN, STAGE_1, check_inference, check_training

SMALL = {"layers": 2, "heads": 2, "head_dim": 8, "ffn": 1.5}
FORMER = {"queries": 5, "layers": 3, "width": 24, "heads": 2, "ffn": 20, "words": 32}
PLAIN = {"band": "none", "anchors": {"type": "all", "cls": True}}
VARIANTS = {
    "acformer": {"connector": {"type": "acformer", **SMALL}, "fine_connector": "linear"},
    "perceiver": {"connector": {"type": "perceiver", **SMALL}, "fine_connector": "mlp2x_gelu"},
    "flamingo": {"anchors": "none", "fine_connector": {"type": "perceiver", **SMALL}},
    "qformer": {"connector": {"type": "qformer", **FORMER}, **PLAIN},
    "qformer_raw": {"connector": {"type": "qformer", **FORMER, "norm": False}, **PLAIN},
    "instructblip": {"connector": {"type": "qformer", **FORMER, "question": True}, **PLAIN},
    "resampler": {"connector": {"type": "resampler", "queries": 9, "head_dim": 16}, **PLAIN},
    "tokenpacker": {
        "connector": {"type": "tokenpacker", "levels": (1, 2), "head_dim": 16},
        "anchors": "all",
        "band": "none",
    },
}
QUICK = ("flamingo-stage_1", "instructblip-tower")
ROLES = {
    "cached": LEARN,
    "stage_1": STAGE_1,
    "all": {**LEARN, "vision": "full"},
    "tower": {"vision": "full"},
    "language": {"language": "full"},
}
CASES = [f"{name}-{what}" for name in VARIANTS for what in ROLES]


@pytest.mark.parametrize(
    "case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES]
)
def test_formula_equals_count(case: str, built):
    name, what = case.split("-")
    spec = tiny(**VARIANTS[name])
    model = built(spec)
    check_inference(spec, model, 20)
    check_training(spec, model, 20, ROLES[what], cached_vision=what == "cached")
