"""`progressive`: each head of the CLS row adds its own best patches in turn."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eramv_lab.registry import ANCHORS
from eramv_lab.slots.anchors._shared import CountedConfig, Selector, cls_attention, highest
from eramv_lab.slots.contracts import Need, Patches

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class ProgressiveConfig(CountedConfig):
    """Head by head, the patches CLS attends to most and no earlier head took (AcFormer)."""

    cls: bool = True

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """What the tower cannot give; every head brings the same number."""
        yield from super().check(spec)
        vision = spec.vision.dims()
        below = self.count // vision.heads * vision.heads
        if below != self.count:
            near = [n for n in (below, below + vision.heads) if 0 < n <= vision.patches]
            yield (
                f"count {self.count} does not part evenly over the tower's {vision.heads} heads; "
                f"nearest that do: {', '.join(map(str, near))}"
            )


@ANCHORS.register("progressive", ProgressiveConfig)
class Progressive(Selector):
    """AcFormer's anchor search (arXiv 2405.17815), over the whole batch at once."""

    need = Need.CLS_ATTENTION

    def choose(self, patches: Patches) -> Tensor:
        attention_NHP = cls_attention(patches)
        heads = attention_NHP.shape[1]
        taken_NP = torch.zeros_like(attention_NHP[:, 0], dtype=torch.bool)
        for head in range(heads):
            free_NP = attention_NHP[:, head].masked_fill(taken_NP, -1.0)
            taken_NP = taken_NP.scatter(1, highest(free_NP, self.config.count // heads), True)
        return highest(taken_NP.int(), self.config.count)
