"""`all`: every patch enters the sequence."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from eramv_lab.registry import ANCHORS
from eramv_lab.slots.anchors._shared import Selector, SelectorConfig, same_for_all
from eramv_lab.slots.contracts import Patches


@dataclass(frozen=True, kw_only=True)
class AllConfig(SelectorConfig):
    """Every patch in raster order (LLaVA)."""


@ANCHORS.register("all", AllConfig)
class All(Selector):
    """Nothing is left out."""

    def choose(self, patches: Patches) -> Tensor:
        states = patches.states_NPV
        return same_for_all(torch.arange(states.shape[1], device=states.device), patches)
