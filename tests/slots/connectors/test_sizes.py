"""At the papers' sizes the connectors have the papers' parameters and price."""

import pytest

from eramv_lab.shapes import Dims, LanguageDims, VisionDims
from eramv_lab.slots.connectors.acformer import AcformerConfig
from eramv_lab.slots.connectors.perceiver import PerceiverConfig
from eramv_lab.slots.connectors.qformer import QformerConfig
from eramv_lab.slots.connectors.resampler import ResamplerConfig
from eramv_lab.slots.connectors.tokenpacker import TokenPackerConfig


def dims(width: int, side: int, deep: int = 4096, vocab: int = 32000, cls: bool = True) -> Dims:
    vision = VisionDims(
        image=14 * side, grid=(side, side), width=width, heads=16, ffn=4 * width, layers=23,
        has_cls=cls,
    )  # fmt: skip
    language = LanguageDims(
        width=deep, layers=32, heads=32, kv_heads=32, head_dim=128, ffn=11008, vocab=vocab
    )
    return Dims(vision=vision, language=language)


CLIP = dims(1024, 24)


def macs(config: AcformerConfig | TokenPackerConfig, rows: int) -> float:
    return sum(op.flops for op in config.ops(CLIP, rows)) / 2e12


@pytest.mark.parametrize(("rows", "tera"), [(65, 0.009), (145, 0.015), (257, 0.024)])
def test_acformer(rows: int, tera: float):
    config = AcformerConfig()
    two_layers = 1024 * 4096 + 4096 + 4096 * 4096 + 4096  # 21 M
    assert config.parameters(CLIP) - two_layers == pytest.approx(63e6, rel=0.01)
    assert round(macs(config, rows), 3) == tera


def test_the_q_former_of_instructblip_has_188_million():
    """As BLIP-2's paper says of its own, which has the rows of text too (section 3.1)."""
    shape = dims(1408, 16, vocab=30523)
    linear = (768 + 1) * 4096
    found = QformerConfig(question=True, norm=False).parameters(shape) - linear
    assert found == pytest.approx(188e6, rel=0.02)


def test_the_adapter_of_qwen_vl_has_eight_hundredths_of_a_billion():
    """Without the last square map, which is counted with its tower (arXiv 2308.12966, table 1)."""
    shape = dims(1664, 32, cls=False)
    assert round((ResamplerConfig().parameters(shape) - 4096**2) / 1e9, 2) == 0.08
    assert ResamplerConfig().count_of(shape.vision, 1024) == 256


def test_rows_that_come_out():
    vision = CLIP.vision
    assert [TokenPackerConfig(scale=s).count_of(vision, 576) for s in (2, 3, 4)] == [144, 64, 36]
    assert [TokenPackerConfig(count=n).side(vision) for n in (144, 64, 36)] == [2, 3, 4]
    assert PerceiverConfig().count_of(vision, 576) == 64
    assert QformerConfig().count_of(vision, 257) == 32
