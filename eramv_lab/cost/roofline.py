"""The least time a GPU could take: each product as long as its arithmetic or its reading takes.

A bound and no forecast: no launch of a kernel, no norm, nothing that waits. It says what a saving
of FLOPs can become at most where the weights have to be read for few rows anyway.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eramv_lab.cost.ops import decode, prefill
from eramv_lab.shapes import Flops, Op

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec

VALUE = 2
"""Bytes of a weight or of a state (fp16, bf16)."""

BATCHES = (1, 8, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """What a data sheet promises."""

    name: str
    flops: float
    """Dense bf16 products with fp32 sums, FLOPs a second."""
    bandwidth: float
    """Of its memory, bytes a second."""
    source: str


GPUS = {
    "a100": Gpu(
        name="A100 SXM 80GB",
        flops=312e12,
        bandwidth=2.039e12,
        source="NVIDIA A100 Tensor Core GPU data sheet",
    ),
    "h100": Gpu(
        name="H100 SXM",
        flops=989e12,
        bandwidth=3.35e12,
        source="NVIDIA H100 Tensor Core GPU data sheet (1,979 TFLOPS with sparsity)",
    ),
    "h200": Gpu(
        name="H200 SXM",
        flops=989e12,
        bandwidth=4.8e12,
        source="NVIDIA H200 Tensor Core GPU data sheet (1,979 TFLOPS with sparsity)",
    ),
    "l4": Gpu(
        name="L4",
        flops=121e12,
        bandwidth=0.3e12,
        source="NVIDIA L4 Tensor Core GPU data sheet (242 TFLOPS with sparsity)",
    ),
    "rtx4090": Gpu(
        name="GeForce RTX 4090",
        flops=165.2e12,
        bandwidth=1.008e12,
        source="NVIDIA Ada GPU architecture white paper, appendix A",
    ),
}


def seconds(ops: Iterable[Op], gpu: Gpu, batch: int = 1) -> float:
    """The bound of `batch` samples side by side, one product after the other.

    A layer's matrix that is used twice is read once, for its last use.
    """
    total, read = 0.0, set[tuple[str, int | None, str]]()
    for op in reversed(list(ops)):
        places = {(op.owner, op.layer, name) for name in op.weights}
        weight = moved = 0
        if isinstance(op.flops, Flops):
            weight, moved = op.flops.weight, op.flops.moved
        if places and places <= read:
            weight = 0
        read |= places
        bytes_ = VALUE * (weight + batch * moved)
        total += max(batch * op.flops / gpu.flops, bytes_ / gpu.bandwidth)
    return total


def prefill_seconds(spec: ModelSpec, gpu: Gpu, batch: int = 1, *, text_tokens: int = 64) -> float:
    """The bound of a prefill of `batch` samples, each with one image."""
    return seconds((step.op for step in prefill(spec, text_tokens)), gpu, batch)


def decode_seconds(spec: ModelSpec, gpu: Gpu, batch: int = 1, *, text_tokens: int = 64) -> float:
    """The bound of one token each for `batch` samples after their prefill."""
    return seconds(decode(spec, text_tokens), gpu, batch)
