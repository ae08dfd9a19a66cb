"""`norm`: the patches with the longest state."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from eramv_lab.registry import ANCHORS
from eramv_lab.slots.anchors._shared import CountedConfig, Selector, highest
from eramv_lab.slots.contracts import Patches


@dataclass(frozen=True, kw_only=True)
class NormConfig(CountedConfig):
    """The patches whose state has the largest L2 norm; asks nothing of CLS."""


@ANCHORS.register("norm", NormConfig)
class Norm(Selector):
    """L2 norm of each state, largest first."""

    def choose(self, patches: Patches) -> Tensor:
        return highest(patches.states_NPV.float().norm(dim=-1), self.config.count)
