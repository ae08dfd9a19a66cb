"""`visionzip`: the patches that CLS attends to most, and the others merged into a few rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from eramv_lab.registry import ANCHORS
from eramv_lab.shapes import Dims, Op
from eramv_lab.slots.anchors._shared import (
    CountedConfig,
    SelectorModule,
    choosing,
    cls_attention,
    given,
    highest,
    making,
    take,
    with_cls,
)
from eramv_lab.slots.contracts import Anchors, Need, Patches
from eramv_lab.slots.similar import cosines

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class VisionzipConfig(CountedConfig):
    """Dominant patches as they are, the others merged into contextual rows (arXiv 2412.04467).

    Dominant: CLS and those that it attends to most, summed over heads, in raster order. Of the
    others every s-th is a target; each that is none joins the target nearest by cosine of its
    keys (mean over heads), and a target becomes itself and the mean of those. Contextual rows
    stand behind and are made (index -1). `count` is both kinds together, CLS apart: the paper's
    64 = 54 + 10, whose 54 count CLS, is count 63.
    """

    picks: ClassVar[bool] = False

    cls: bool = True
    contextual: Annotated[int | None, Field(ge=0)] = None
    """Contextual rows of `count`; `none`: the paper's share of all rows, ten of 64."""

    @property
    def merged(self) -> int:
        """Contextual rows."""
        if self.contextual is not None:
            return self.contextual
        return (10 * (self.count + int(self.cls)) + 32) // 64  # to the nearest

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """What the tower cannot give; more contextual rows than rows."""
        yield from super().check(spec)
        if self.merged > self.count:
            yield f"contextual {self.merged} is more than count {self.count}, all rows together"

    def ops(self, dims: Dims) -> list[Op]:
        """Cosines of the others with the targets, in the width of a head; then the means."""
        vision, merged = dims.vision, self.merged
        others = vision.patches - self.count  # neither dominant nor target
        if not merged:
            return []
        cosine = choosing(2 * others * merged * (vision.width // vision.heads))
        return [cosine, making(merged, others, vision.width)]


@ANCHORS.register("visionzip", VisionzipConfig)
class Visionzip(SelectorModule):
    """Section 3.2 of the paper, all images of the batch in step."""

    need: Need = Need.CLS_ATTENTION | Need.KEYS

    def __init__(self, config: VisionzipConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.heads = dims.vision.heads

    def forward(self, patches: Patches) -> Anchors:
        dominant = self.config.count - self.config.merged
        index_NA = highest(cls_attention(patches).sum(dim=1), dominant)
        rows_NAV = take(patches.states_NPV, index_NA)
        if self.config.merged:
            rows_NAV = torch.cat([rows_NAV, self._contextual(patches, index_NA)], dim=1)
            made_NC = index_NA.new_full((len(index_NA), self.config.merged), -1)
            index_NA = torch.cat([index_NA, made_NC], dim=1)
        return with_cls(rows_NAV, index_NA, patches, self.config.cls)

    def _contextual(self, patches: Patches, dominant_NA: Tensor) -> Tensor:
        """[N,C,V] the patches that are not dominant, merged."""
        states_NPV, merged = patches.states_NPV, self.config.merged
        taken_NP = torch.zeros_like(states_NPV[..., 0], dtype=torch.int)
        rest = states_NPV.shape[1] - dominant_NA.shape[1]
        rest_NR = taken_NP.scatter(1, dominant_NA, 1).argsort(dim=1, stable=True)[:, :rest]
        order_R = torch.arange(rest, device=rest_NR.device)
        step = max(1, rest // merged)
        target_R = (order_R % step == 0) & (order_R < step * merged)
        parted_R = (~target_R).int().argsort(stable=True)  # targets first, both in order
        target_NC, other_NO = rest_NR[:, parted_R].tensor_split([merged], dim=1)
        keys_NPV = given(patches.keys_NPV, "keys")
        metric_NPd = keys_NPV.detach().unflatten(-1, (self.heads, -1)).float().mean(dim=2)
        near_NOC = cosines(take(metric_NPd, other_NO), take(metric_NPd, target_NC))
        joins_NCO = one_hot(near_NOC.argmax(dim=2), merged).transpose(1, 2)
        members_NC1 = joins_NCO.sum(dim=2, keepdim=True).clamp(min=1)
        others_NOV = take(states_NPV, other_NO)
        sums_NCV = joins_NCO.to(others_NOV.dtype) @ others_NOV
        means_NCV = sums_NCV / members_NC1.to(sums_NCV.dtype)
        return (take(states_NPV, target_NC) + means_NCV).to(states_NPV.dtype)
