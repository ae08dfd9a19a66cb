"""Connectors that carry each row alone: what they cost, and that they do."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from eramv_lab.registry import CONNECTOR
from eramv_lab.shapes import Dims, LanguageDims
from eramv_lab.slots.connectors.mlp import (
    LinearConnectorConfig,
    MlpConnector,
    MlpConnectorConfig,
)
from eramv_lab.slots.vision.tiny import TinyVisionConfig

DIMS = Dims(
    vision=TinyVisionConfig().dims(),
    language=LanguageDims(width=96, layers=1, heads=3, kv_heads=3, head_dim=32, ffn=8, vocab=9),
)
CONFIGS = [MlpConnectorConfig(), MlpConnectorConfig(skip=True), LinearConnectorConfig()]


@pytest.mark.parametrize("config", CONFIGS)
def test_price_and_parameters_equal_the_meta_count(
    config: MlpConnectorConfig | LinearConnectorConfig,
) -> None:
    with torch.device("meta"):
        module = CONNECTOR.of(config).factory(config, DIMS)
        with FlopCounterMode(display=False) as counter:
            out = module(torch.empty(1, 7, 64))
    assert out.shape == (1, 7, 96)
    assert sum(op.flops for op in config.ops(DIMS, 7)) == counter.get_total_flops()
    assert config.parameters(DIMS) == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("config", CONFIGS)
def test_rows_chosen_before_it_are_those_chosen_behind_it(
    config: MlpConnectorConfig | LinearConnectorConfig,
) -> None:
    """So that a selector of tower rows, as FasterVLM's, may stand on either side."""
    module, states_NPV = CONNECTOR.of(config).factory(config, DIMS), torch.randn(2, 9, 64)
    index_A = torch.tensor([1, 4, 8])
    torch.testing.assert_close(module(states_NPV[:, index_A]), module(states_NPV)[:, index_A])


def test_the_skip_adds_a_linear_map() -> None:
    module = MlpConnector(MlpConnectorConfig(skip=True), DIMS)
    plain = MlpConnector(MlpConnectorConfig(), DIMS)
    plain.load_state_dict(module.state_dict(), strict=False)
    x = torch.randn(2, 3, 64)
    assert module.skip is not None
    torch.testing.assert_close(module(x) - plain(x), x @ module.skip.weight.T)
