"""The tiny tower costs what it says and its CLS row is exact."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from eramv_lab.slots.contracts import Need
from eramv_lab.slots.vision.tiny import TinyVision, TinyVisionConfig

EVERYTHING = Need.CLS | Need.CLS_ATTENTION | Need.KEYS | Need.CLS_LOGITS | Need.LEVELS
SIZES = [{}, {"image": 64, "patch": 16, "width": 32, "heads": 2, "layers": 1}, {"patch": 4}]


@pytest.mark.parametrize("keys", SIZES)
@pytest.mark.parametrize("need", [Need.NONE, Need.CLS | Need.CLS_ATTENTION, EVERYTHING])
def test_price_and_parameters_equal_the_meta_count(keys: dict[str, int], need: Need) -> None:
    config = TinyVisionConfig(**keys)
    with torch.device("meta"):
        tower = TinyVision(config)
        with FlopCounterMode(display=False) as counter:
            tower(torch.empty(1, 3, config.image, config.image), need)
    ops = config.ops(need)
    assert sum(op.flops for op in ops) == counter.get_total_flops()
    assert config.parameters() == sum(p.numel() for p in tower.parameters())


def test_the_cls_row_is_the_row_of_the_full_map() -> None:
    config = TinyVisionConfig(layers=1)
    tower = TinyVision(config)
    pixels = torch.randn(2, 3, 96, 96)
    row = tower(pixels, Need.CLS_ATTENTION).cls_attention_NHP
    assert row is not None and row.shape == (2, 4, 144)
    seen = {}
    tower.layers[0].register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    tower(pixels)
    layer = tower.layers[0]
    q, k, _ = layer.qkv(layer.norm_1(seen["x"])).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4)
    full = (q @ k.transpose(-1, -2) / 4).softmax(-1)
    torch.testing.assert_close(row, full[:, :, 0, 1:])


def test_only_what_is_asked_for_is_returned_and_it_changes_nothing_else() -> None:
    tower, pixels = TinyVision(TinyVisionConfig()), torch.randn(1, 3, 96, 96)
    bare, full = tower(pixels), tower(pixels, Need.CLS | Need.CLS_ATTENTION)
    assert bare.cls_NV is None and bare.cls_attention_NHP is None
    assert bare.grid == (12, 12) and full.cls_NV.shape == (1, 64)
    torch.testing.assert_close(bare.states_NPV, full.states_NPV)


def test_bf16_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        patches = TinyVision(TinyVisionConfig())(
            torch.randn(1, 3, 96, 96), Need.CLS | Need.CLS_ATTENTION
        )
    assert patches.states_NPV.isfinite().all()


@pytest.mark.parametrize(
    "keys", [{"patch": 7}, {"image": 90}, {"width": 30}, {"heads": 3}, {"layers": 0}, {"ffn": 0}]
)
def test_bad_values_are_named(keys: dict[str, int]) -> None:
    name = next(iter(keys))
    assert any(name in text for text in TinyVisionConfig(**keys).check(None))  # type: ignore[arg-type]


def test_keys_levels_and_logits_are_the_blocks_own() -> None:
    tower, pixels = TinyVision(TinyVisionConfig(layers=2)), torch.randn(2, 3, 96, 96)
    blocks = []
    for layer in tower.layers:
        layer.register_forward_pre_hook(lambda _, args: blocks.append(args[0]))
    found = tower(pixels, EVERYTHING, (0, 1, 2))
    q, k, _ = tower.layers[1].qkv(tower.layers[1].norm_1(blocks[1])).chunk(3, dim=-1)
    torch.testing.assert_close(found.keys_NPV, k[:, 1:])
    assert torch.equal(found.keys_NPV, found.logit_keys_NPV)
    row = (q[:, :1] @ k.transpose(1, 2) / 8).softmax(-1)[:, 0, 1:]
    torch.testing.assert_close(found.cls_logits_NP.exp(), row)
    for level, states in zip(found.levels, blocks, strict=False):
        assert torch.equal(level, states[:, 1:])
    assert torch.equal(found.levels[2], found.states_NPV)
