"""`stride`: patches at even distances along the raster."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eramv_lab.registry import ANCHORS
from eramv_lab.slots.anchors._shared import CountedConfig, Selector, same_for_all
from eramv_lab.slots.contracts import Patches


@dataclass(frozen=True, kw_only=True)
class StrideConfig(CountedConfig):
    """Patches at even distances along the raster, the same places in every image.

    A `count` that divides the patches into whole rows stays in one column; `pool` covers the area.
    """


@ANCHORS.register("stride", StrideConfig)
class Stride(Selector):
    """The middle patch of each of `count` equal stretches of the raster."""

    def choose(self, patches: Patches) -> Tensor:
        states, count = patches.states_NPV, self.config.count
        middle_A = 2 * torch.arange(count, device=states.device) + 1
        return same_for_all(middle_A * states.shape[1] // max(1, 2 * count), patches)
