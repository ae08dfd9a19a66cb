"""Bridges: where they start, and what they compute."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu, silu

from eramv_lab.registry import BRIDGE, CONNECTOR
from eramv_lab.shapes import Dims, LanguageDims, VisionDims

DIMS = Dims(
    vision=VisionDims(image=32, grid=(4, 4), width=6, heads=2, ffn=8, layers=1, has_cls=True),
    language=LanguageDims(width=8, layers=2, heads=2, kv_heads=2, head_dim=4, ffn=12, vocab=9),
)
LAYER = nn.Identity()


def build(name: str, **options: object) -> nn.Module:
    component = BRIDGE.get(name)
    return component.factory(component.config(**options), DIMS)


@pytest.mark.parametrize("name", ["mlp", "low_rank"])
def test_a_residual_bridge_starts_as_the_identity_and_can_leave_it(name: str):
    bridge, memory = build(name), torch.randn(2, 5, 8)
    assert torch.equal(bridge(memory, layer=LAYER), memory)
    bridge(memory, layer=LAYER).square().sum().backward()
    moved = [n for n, p in bridge.named_parameters() if p.grad is not None and p.grad.any()]
    assert moved, "two zero factors of one product never learn"


def test_a_reset_brings_the_start_back():
    bridge, memory = build("mlp"), torch.randn(2, 5, 8)
    for parameter in bridge.parameters():
        nn.init.normal_(parameter)
    assert not torch.allclose(bridge(memory, layer=LAYER), memory)
    bridge.reset_parameters()
    assert torch.equal(bridge(memory, layer=LAYER), memory)


def test_mlp_is_written_out():
    bridge, x = build("mlp", hidden=5, activation="silu"), torch.randn(2, 5, 8)
    nn.init.normal_(bridge.down.weight)
    by_hand = x + silu(x @ bridge.up.weight.T + bridge.up.bias) @ bridge.down.weight.T
    torch.testing.assert_close(bridge(x, layer=LAYER), by_hand)


def test_low_rank_is_written_out():
    bridge, x = build("low_rank", rank=2), torch.randn(2, 5, 8)
    nn.init.normal_(bridge.up.weight)
    by_hand = x + silu(x @ bridge.down.weight.T) @ bridge.up.weight.T
    torch.testing.assert_close(bridge(x, layer=LAYER), by_hand)


def test_projector_takes_the_towers_width():
    bridge, x = build("projector"), torch.randn(2, 5, 6)
    torch.testing.assert_close(bridge(x, layer=LAYER), bridge.out(gelu(bridge.up(x))))
    bridge = build("projector", skip=True)
    by_hand = bridge.out(gelu(bridge.up(x))) + x @ bridge.skip.weight.T
    torch.testing.assert_close(bridge(x, layer=LAYER), by_hand)


def test_ffn_is_the_layers_own():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    config = LlamaConfig(
        hidden_size=8, intermediate_size=12, num_attention_heads=2, num_hidden_layers=1
    )
    layer, x = LlamaDecoderLayer(config, 0), torch.randn(2, 5, 8)
    nn.init.normal_(layer.post_attention_layernorm.weight)
    by_hand = x + layer.mlp(layer.post_attention_layernorm(x))
    torch.testing.assert_close(build("ffn")(x, layer=layer), by_hand)


def test_impossible_combinations_are_named():
    spec = SimpleNamespace()
    assert list(BRIDGE.get("mlp").config(carry=True, share="band").check(spec)) == []
    assert "carry" in next(BRIDGE.get("projector").config(carry=True).check(spec))
    for connector, word in (
        (None, "the connector is none"),
        (CONNECTOR.get("linear").config(), "the connector is linear"),
        (CONNECTOR.get("mlp2x_gelu").config(skip=True), "write skip: true"),
    ):
        (told,) = (
            BRIDGE.get("projector")
            .config(init="connector")
            .check(SimpleNamespace(connector=connector))
        )
        assert word in told
    assert "share: layer" in next(BRIDGE.get("ffn").config(share="band").check(spec))
