"""`cls_topk`: the patches that CLS attends to most."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from eramv_lab.registry import ANCHORS
from eramv_lab.slots.anchors._shared import CountedConfig, Selector, cls_attention, highest
from eramv_lab.slots.contracts import Need, Patches


@dataclass(frozen=True, kw_only=True)
class ClsTopkConfig(CountedConfig):
    """The patches that CLS attends to most, averaged over heads (eRAM-V; FasterVLM without cls)."""

    cls: bool = True


@ANCHORS.register("cls_topk", ClsTopkConfig)
class ClsTopk(Selector):
    """Mean over heads of the CLS row, highest first."""

    need = Need.CLS_ATTENTION

    def choose(self, patches: Patches) -> Tensor:
        return highest(cls_attention(patches).mean(dim=1), self.config.count)
