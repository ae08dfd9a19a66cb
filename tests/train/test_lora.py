"""Low-rank differences in a model: which, how they start and learn, and that merging is exact."""

import pytest
import torch
from torch import nn

from eramv_lab.errors import LabError, UserError
from eramv_lab.model import build_model
from eramv_lab.train import lora
from eramv_lab.train.lora import add_differences, merge, require_bits, summary
from eramv_lab.train.optim import build_optimizer
from eramv_lab.train.roles import counts, is_difference, role_of, set_trainable
from tests.cost.shapes import tiny

FULL = dict.fromkeys(("connector", "bridge", "band"), "full")
BAND = {**FULL, "language": {"lora": {"rank": 2, "layers": "band", "targets": ["k", "up"]}}}


def made(roles, seed=0, **changes):
    """A tiny model with the differences of `roles`, what learns set; loud, so that all is seen."""
    spec = tiny(**changes)
    model = build_model(spec, seed=1)
    add_differences(model, roles, spec, seed)
    set_trainable(model, roles)
    return model


def loud(model: nn.Module, scale: float = 0.3) -> None:
    """Give every B something to say."""
    generator = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data = scale * torch.randn(p.shape, generator=generator)


def batch(model):
    marks = [3] * model.visual_rows
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 96, 96, generator=generator)
    return {"input_ids": torch.tensor([[1, 9, 8, *marks, 7], [1, 5, 6, *marks, 4]]),
            "pixel_values": pixels}  # fmt: skip


@torch.no_grad()
def logits(model, **kwargs):
    return model.eval()(**batch(model), **kwargs).logits


def differences_of(model):
    return {name for name, _ in model.named_parameters() if is_difference(name)}


def test_exactly_what_was_asked_for_learns_and_is_told():
    model = made(BAND)
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    beside = {
        f"language_model.layers.{layer}.{where}.lora_{half}.default.weight"
        for layer in (2, 3)
        for where in ("self_attn.k_proj", "mlp.up_proj")
        for half in "AB"
    }
    assert differences_of(model) == beside
    whole = {n for n, _ in model.named_parameters() if role_of(n) in ("connector", "bridge")}
    assert learning == beside | whole and any(".band.bridge." in name for name in whole)
    assert summary(BAND, tiny()) == [
        "lora beside language_model.layers.2,3.self_attn.k_proj",
        "lora beside language_model.layers.2,3.mlp.up_proj",
    ]
    total, trained = counts(model)["language"]
    assert total == tiny().language.parameters()
    assert trained == 2 * 2 * (2 * 96 + 96 + 256)


def test_the_tower_s_matrices_by_the_names_of_its_family():
    own = {"vision": {"lora": {"targets": ["q", "k", "v", "down"], "layers": [0]}}}
    assert {n.split(".lora_")[0] for n in differences_of(made(own))} == {
        "vision_tower.layers.0.qkv", "vision_tower.layers.0.down"
    }  # fmt: skip
    both = {"vision": {"lora": {"rank": 3, "targets": ["o"], "alpha": 3, "dropout": 0.2}},
            "language": {"lora": {"rank": 2, "layers": "outside", "dropout": 0.2}}}  # fmt: skip
    model = made(both)
    tower, language = model.vision_tower.layers[0].out, model.language_model.layers[0].self_attn
    assert (tower.r["default"], tower.scaling["default"]) == (3, 1)
    assert (language.q_proj.r["default"], language.q_proj.scaling["default"]) == (2, 8)
    assert language.q_proj.lora_dropout["default"].p == 0.2
    assert not hasattr(model.language_model.layers[2].self_attn.q_proj, "lora_A")


def test_they_start_as_nothing_each_from_a_stream_of_its_own():
    plain = build_model(tiny(), seed=1)
    torch.manual_seed(7)
    model = made({"language": {"lora": {"targets": ["q", "v"]}}})
    drawn = torch.rand(1)
    assert torch.equal(logits(model), logits(plain))
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(1))  # nothing was drawn from the common stream
    other = made({"language": {"lora": {"targets": ["v"], "layers": [4]}}})
    name = "language_model.layers.4.self_attn.v_proj.lora_A.default.weight"
    assert torch.equal(model.get_parameter(name), other.get_parameter(name))
    third = made({"language": {"lora": {}}}, seed=1)
    assert not torch.equal(model.get_parameter(name), third.get_parameter(name))


def test_one_adapter_serves_a_shared_projection_in_both_its_uses():
    """Self-attention and the band go through one difference, and each use moves the logits."""
    roles = {"language": {"lora": {"rank": 2, "targets": ["k"], "layers": [2]}}}
    model = made(roles)
    loud(model)
    wrapped, rows = model.language_model.layers[2].self_attn.k_proj, []
    handle = wrapped.lora_A["default"].register_forward_hook(
        lambda _m, given, _o: rows.append(given[0].shape[1])
    )
    both = logits(model)
    handle.remove()
    assert sorted(rows) == [model.dims.visual + 4, model.dims.fine]
    for spared in (0, 1):  # without the difference in one of the uses
        calls = []

        def use(module, given, out, spared=spared, calls=calls):
            calls.append(1)
            return out * 0 if len(calls) - 1 == spared else out

        handle = wrapped.lora_B["default"].register_forward_hook(use)
        assert (logits(model) - both).abs().max() > 1e-5
        handle.remove()


@pytest.mark.parametrize("sharing", ["shared", "own_norm", "lora"])
def test_merging_is_exact_and_leaves_the_model_as_it_was(sharing):
    targets = ["q", "k", "v", "o", "gate", "up", "down"]
    roles = {**FULL, "language": {"lora": {"rank": 4, "targets": targets}},
             "vision": {"lora": {"rank": 4, "targets": ["q", "k", "v", "o"]}}}  # fmt: skip
    model = made(roles, sharing=sharing)
    before = logits(model)
    loud(model, 0.05)
    expected = logits(model)
    merge(model)
    found = logits(model)
    assert (expected - before).abs().max() > 1e-2
    assert (found - expected).norm() <= 2e-6 * expected.norm()
    names = [n for n, _ in build_model(tiny(sharing=sharing)).named_parameters()]
    assert [n for n, _ in model.named_parameters()] == names


def test_what_was_not_asked_for_is_an_error(monkeypatch):
    monkeypatch.setattr(lora, "expected", lambda *_: ["language_model.nothing"])
    with pytest.raises(LabError, match="other matrices"):
        made(BAND)


def test_muon_leaves_the_halves_to_adamw_at_their_own_rate():
    model = made({**BAND, "band": "frozen"})
    learning = [(n, role_of(n), p) for n, p in model.named_parameters() if p.requires_grad]
    optimizer = build_optimizer(learning, lr=1e-3, muon_lr=0.1, lora_lr={"language": 0.02})
    rates = {(g["kind"], g["role"]): g["lr"] for g in optimizer.param_groups}
    assert rates["lora", "language"] == 0.02
    assert rates["muon", "connector"] == 0.1 and rates["plain", "connector"] == 1e-3
    group = next(g for g in build_optimizer(learning, lr=1e-3, muon_lr=0.1).param_groups
                 if g["kind"] == "lora")  # fmt: skip
    assert group["lr"] == 1e-3 and len(group["params"]) == len(differences_of(model))


def test_four_bits_say_what_is_missing(monkeypatch):
    roles = {"language": {"lora": {"bits": 4}}}
    monkeypatch.setattr(lora.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"need bitsandbytes .* and a CUDA device") as caught:
        require_bits(roles)
    assert caught.value.problems[0].key == "train.roles.language.lora.bits"
    require_bits({"language": {"lora": {}}})
