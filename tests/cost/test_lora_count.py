"""What learning by LoRA costs: the closed form and the FLOPs counted are one number."""

import pytest

from eramv_lab.cost.count import count_prefill, meta_model
from eramv_lab.cost.formula import price
from eramv_lab.train.lora import add_differences, merge

from .shapes import scale, tiny
from .test_count import VARIANTS, check_training

ALL = ["q", "k", "v", "o", "gate", "up", "down"]
TOWER = {"tiny": ["q", "k", "v", "o", "up", "down"], "clip": ["k"], "siglip": ["v", "up"]}
"""Targets in the tower of a variant."""
LEARN = {"connector": "full", "bridge": "full", "band": "full"}
ROLES = {
    "all": {**LEARN, "language": {"lora": {"rank": 3, "targets": ALL}}},
    "nothing_else": {
        "language": {"lora": {"rank": 2, "layers": [1, 2, 3], "targets": ["v", "up"]}}
    },
    "queries": {"band": "full", "language": {"lora": {"targets": ["q"], "layers": [2]}}},
}


def check(spec, model, roles):
    add_differences(model, roles, spec, 0)
    check_training(spec, model, 20, roles)


@pytest.mark.slow
@pytest.mark.parametrize("roles", ROLES)
@pytest.mark.parametrize("name", sorted(VARIANTS.keys() - {"skip"}))
def test_formula_equals_count(name, roles, built):
    spec = tiny(**VARIANTS[name])
    check(spec, built(spec), ROLES[roles])


@pytest.mark.parametrize(
    ("name", "roles"),
    [("reference", "all"), ("joint", "nothing_else"), ("after_lora", "nothing_else"),
     ("bridge_ffn", "nothing_else"), ("before_separate", "queries"), ("no_band", "nothing_else")],
)  # fmt: skip
def test_a_choice_of_them(name, roles, built):
    spec = tiny(**VARIANTS[name])
    check(spec, built(spec), ROLES[roles])


@pytest.mark.parametrize("name", ["reference", "clip", "siglip", "dinov2"])
@pytest.mark.parametrize("also", [{}, LEARN])
def test_the_tower_learns_by_differences(name, also, built):
    targets, spec = TOWER.get(name, TOWER["tiny"]), tiny(**VARIANTS[name])
    lora = {"rank": 2, "targets": targets, "layers": [1]}
    check(spec, built(spec), {**also, "vision": {"lora": lora}})


def test_differences_are_what_is_trained_and_cost_nothing_once_merged():
    spec = tiny()
    cost = price(spec, train={"language": {"lora": {"rank": 4, "layers": "band"}}})
    width = spec.dims().language.width
    assert cost.trainable == 2 * 4 * 4 * 2 * width  # two layers, four matrices, A and B
    assert cost.prefill == price(spec).prefill and cost.parameters == price(spec).parameters
    model = meta_model(spec)
    before = count_prefill(model, 20)
    add_differences(model, {"language": {"lora": {}}}, spec, 0)
    assert sum(count_prefill(model, 20).values()) > sum(before.values())
    names = [name for name, _ in meta_model(spec).named_parameters()]
    from eramv_lab.model import build_model

    real = build_model(spec)
    add_differences(real, {"language": {"lora": {}}}, spec, 0)
    merge(real)
    assert [name for name, _ in real.named_parameters()] == names


def test_lora_at_scale_is_two_forwards_and_a_little():
    spec, lora = scale("llava15_7b"), {"rank": 64, "targets": ALL}
    cost = price(spec, train={"connector": "full", "language": {"lora": lora}}, cached_vision=True)
    ratio = cost.train / (cost.prefill - cost.column("vision"))
    assert ratio == pytest.approx(2.10, abs=0.01)
