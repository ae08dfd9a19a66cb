"""Every parameter has a role, and exactly the roles that a recipe names learn."""

import pytest
from torch import nn

from eramv_lab.errors import UserError
from eramv_lab.train.roles import counts, role_of, set_trainable, table

FULL = dict.fromkeys(("connector", "language", "bridge", "band"), "full")


def model() -> nn.Module:
    layer = nn.ModuleDict(
        {
            "self_attn": nn.Linear(2, 2),
            "band": nn.ModuleDict({"bridge": nn.Linear(2, 3), "gate": nn.Linear(2, 1)}),
        }
    )
    parts = {
        "vision_tower": nn.Linear(4, 2),
        "connector": nn.Linear(2, 2, bias=False),
        "language_model": nn.ModuleDict({"layers": nn.ModuleList([layer])}),
        "lm_head": nn.Linear(2, 5, bias=False),
    }
    return nn.ModuleDict(parts)


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("vision_tower.layers.0.up.weight", "vision"),
        ("connector.0.weight", "connector"),
        ("selector.score.weight", "connector"),
        ("language_model.layers.1.self_attn.q_proj.weight", "language"),
        ("language_model.embed_tokens.weight", "language"),
        ("lm_head.weight", "language"),
        ("language_model.layers.1.band.bridge.up.weight", "bridge"),
        ("bands.shared_bridge.up.weight", "bridge"),
        ("language_model.layers.1.band.gate.value", "band"),
        ("language_model.layers.1.band.sharing.k_proj.weight", "band"),
        ("language_model.layers.1.self_attn.q_proj.lora_A.default.weight", "language"),
        ("vision_tower.layers.0.qkv.base_layer.weight", "vision"),
        ("base_model.model.connector.modules_to_save.default.0.weight", "connector"),
    ],
)
def test_role_of(name: str, role: str) -> None:
    assert role_of(name) == role


def test_no_role() -> None:
    with pytest.raises(ValueError, match=r"something\.weight"):
        role_of("something.weight")


def test_only_what_is_full_learns() -> None:
    net = model()
    learning = set_trainable(net, FULL | {"vision": "frozen", "bridge": "frozen"})
    assert {role for _, role, _ in learning} == {"connector", "language", "band"}
    assert {n for n, _, _ in learning} == {n for n, p in net.named_parameters() if p.requires_grad}
    counted = counts(net)
    assert counted["vision"] == (10, 0)
    assert counted["bridge"] == (9, 0)
    assert counted["band"] == (3, 3)
    assert table(counted).splitlines()[-1].split() == ["all", "42", "23"]


def test_set_trainable_frees_again() -> None:
    net = model()
    set_trainable(net, {"vision": "full"})
    assert len(set_trainable(net, FULL)) == 8


def test_of_a_role_with_lora_the_differences_learn_and_count_as_no_parameters():
    net = model()
    net["connector"] = nn.ModuleDict(
        {"base_layer": nn.Linear(2, 2), "lora_A": nn.ModuleDict({"default": nn.Linear(2, 1)})}
    )
    learning = set_trainable(net, {"connector": {"lora": {}}})
    assert [name for name, _, _ in learning] == [
        "connector.lora_A.default.weight", "connector.lora_A.default.bias"
    ]  # fmt: skip
    assert counts(net)["connector"] == (6, 3)


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ({"langage": "full"}, "did you mean: language"),
        ({"language": "lora"}, "allowed: full, frozen"),
        ({"language": "frozen"}, "nothing is left to learn"),
    ],
)
def test_bad_roles(roles: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        set_trainable(model(), roles)


def test_a_tensor_under_two_roles() -> None:
    net = model()
    net["connector"].weight = net["lm_head"].weight
    with pytest.raises(ValueError, match="two roles"):
        set_trainable(net, {"language": "full"})
