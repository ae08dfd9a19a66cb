"""The bound in time: the published ratios of speed, and what it can never be."""

import pytest

from eramv_lab.cost.ops import prefill
from eramv_lab.cost.roofline import GPUS, decode_seconds, prefill_seconds, seconds
from eramv_lab.shapes import Flops, attention, linear
from tests.cost.shapes import anchors, scale, tiny

NONE = {"bridge": "none"}
PYRAMID = [
    {"type": "drop", "layer": layer, "keep": keep}
    for layer, keep in ((8, 288), (16, 144), (24, 72))
]
SYSTEMS = {
    "llava": ("llava15_7b", {}),
    "65 anchors": ("eramv_7b", {"band": "none", "anchors": anchors(65)}),
    "no bridge": ("eramv_7b", NONE),
    "d-d-d bridge": ("eramv_7b", {}),
    "own FFN": ("eramv_7b", {"bridge": "ffn"}),
    "FastV": ("llava15_7b", {"reducer": {"type": "fastv", "layer": 2, "ratio": 0.5}}),
    "VTW": ("llava15_7b", {"reducer": {"type": "vtw", "layer": 16}}),
    "PyramidDrop": ("llava15_7b", {"reducer": PYRAMID}),
}
TABLE = {  # whole prefill against LLaVA's: FLOPs; batch 1 on A100, H100, H200; any from batch 8
    "65 anchors": (4.27, 3.51, 1.98, 2.73, 4.2),
    "no bridge": (3.27, 2.80, 1.72, 2.27, 3.2),
    "d-d-d bridge": (2.67, 2.35, 1.54, 1.96, 2.6),
    "own FFN": (1.71, 1.57, 1.17, 1.39, 1.7),
    "FastV": (1.69, 1.68, 1.67, 1.68, 1.69),
    "VTW": (1.76, 1.57, 1.34, 1.47, 1.75),
    "PyramidDrop": (1.85, 1.81, 1.54, 1.73, 1.85),
}


def published(name):
    """The operations as the table has them: 24 layers of the tower, the connector on all rows."""
    base, changes = SYSTEMS[name]
    vision = scale(base).to_plain()["vision"] | {"feature_layer": -1}
    spec = scale(base, **changes, vision=vision)
    ops = [s.op for s in prefill(spec, 64) if s.op.part not in ("connector", "reducer")]
    return [*spec.connector.ops(spec.dims(), 576), *ops]


LLAVA = published("llava")


@pytest.mark.parametrize("name", TABLE)
def test_table_of_bounds_at_7b(name):
    flops, *alone, together = TABLE[name]
    ops = published(name)
    assert sum(op.flops for op in LLAVA) / sum(op.flops for op in ops) == pytest.approx(
        flops, abs=0.005
    )
    for gpu, ratio in zip(("a100", "h100", "h200"), alone, strict=True):
        gain = seconds(LLAVA, GPUS[gpu]) / seconds(ops, GPUS[gpu])
        assert gain == pytest.approx(ratio, abs=0.006), gpu
    for gpu in ("a100", "h100", "h200"):
        gain = seconds(LLAVA, GPUS[gpu], 8) / seconds(ops, GPUS[gpu], 8)
        assert gain == pytest.approx(together, rel=0.03), gpu


def test_a_bound_is_no_less_than_arithmetic_or_weights():
    spec = scale("eramv_7b")
    for gpu in GPUS.values():
        for batch in (1, 8, 32):
            flops = sum(step.op.flops for step in prefill(spec, 64))
            took = prefill_seconds(spec, gpu, batch)
            assert took >= batch * flops / gpu.flops
            assert took >= 2 * 6.4e9 / gpu.bandwidth  # the decoder's weights
            assert decode_seconds(spec, gpu, batch) >= 2 * 6.4e9 / gpu.bandwidth


def test_a_matrix_that_is_used_twice_is_read_once():
    spec = tiny(bridge="ffn")
    ops = [step.op for step in prefill(spec, 64)]
    slow = GPUS["l4"]
    again = [op for op in ops if op.part == "bridge" or op.weights == ("k", "v")]
    assert again
    without = seconds([op for op in ops if op not in again], slow)
    moved = {op: op.flops.moved for op in again if isinstance(op.flops, Flops)}
    assert len(moved) == len(again)
    work = sum(max(op.flops / slow.flops, 2 * n / slow.bandwidth) for op, n in moved.items())
    assert seconds(ops, slow) == pytest.approx(without + work)


def test_products_know_what_they_move():
    one = linear(3, 5, 7)
    assert (one, one.weight, one.moved) == (210, 35, 36)
    twice = 2 * one
    assert isinstance(twice, Flops) and (twice, twice.weight, twice.moved) == (420, 70, 72)
    assert (attention(2, 9, 4).moved, attention(2, 9, 4).weight) == (88, 0)
