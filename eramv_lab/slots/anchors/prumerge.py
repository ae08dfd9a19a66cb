"""`prumerge`: the patches that stand out in CLS's attention, each with its likes merged in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from eramv_lab.registry import ANCHORS
from eramv_lab.shapes import Dims, Op, VisionDims
from eramv_lab.slots.anchors._shared import (
    SelectorConfig,
    SelectorModule,
    choosing,
    given,
    making,
    take,
    with_cls,
)
from eramv_lab.slots.contracts import Anchors, Need, Patches
from eramv_lab.slots.similar import cosines

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class PrumergeConfig(SelectorConfig):
    """Outliers of CLS's attention, with their nearest patches merged in (arXiv 2403.15388).

    CLS's attention is that of the last block over its full width, no heads. Every kept patch is
    itself and the sum of its `neighbours` nearest by cosine of that block's keys, weighted by
    their attention, not normalised; one more row is the weighted sum of all patches left out.
    Rows are therefore made (index -1), and the weights take no gradient.
    """

    picks: ClassVar[bool] = False

    count: Annotated[int | None, Field(ge=1)] = None
    """Patches kept, beside the one row of the rest; `none`: as many as stand out of each image,
    above the third quartile by one and a half times the quartiles' distance. The sequence then
    holds, and the price states, the most that can be."""
    plus: bool = False
    """Add patches at even steps over the raster (PruMerge+). Without `count`, every s-th, s a third
    of the patches to a kept one, as the authors' code has it; with `count`, half of it, at even
    steps among the patches that are left, so that none stands twice."""
    most: Annotated[int | None, Field(ge=1)] = None
    """Largest number of patches kept without `count`; more that stand out are left to the rest."""
    neighbours: Annotated[int, Field(ge=0)] = 32
    """Patches merged into each kept one (fewer where the image has fewer)."""
    order: Literal["raster", "score"] = "raster"
    """Of the rows: as in the image, like all selectors here and as the language model has learnt
    to read; or by attention, best first, as the authors' code leaves them (its uniform ones
    behind). The row of the rest is the last one."""

    def kept_of(self, vision: VisionDims) -> int:
        """Patches kept of an image, at most."""
        if self.count is not None:
            return self.count
        rule = vision.patches if self.plus else outliers(vision.patches)
        return rule if self.most is None else min(self.most, rule)

    def count_of(self, vision: VisionDims) -> int:
        """A: rows per image, at most; the row of the rest and CLS included."""
        return self.kept_of(vision) + 1 + int(self.cls)

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """What the tower cannot give."""
        yield from super().check(spec)
        patches = spec.vision.dims().patches
        if self.count is not None and self.count > patches:
            yield f"count {self.count} is more than the tower's {patches} patches"
        if self.count is not None and self.most is not None:
            yield f"most {self.most} bounds a count that adapts, and count is {self.count}"

    def ops(self, dims: Dims) -> list[Op]:
        """Cosines of the kept patches' keys with all, then the sums."""
        kept, patches, width = self.kept_of(dims.vision), dims.vision.patches, dims.vision.width
        return [choosing(2 * kept * patches * width), making(kept + 1, patches, width)]


@ANCHORS.register("prumerge", PrumergeConfig)
class Prumerge(SelectorModule):
    """Sections 3.2 and 3.3 of the paper, all images of the batch in step."""

    need: Need = Need.CLS_LOGITS

    def __init__(self, config: PrumergeConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.most = config.kept_of(dims.vision)

    def forward(self, patches: Patches) -> Anchors:
        scores_NP = given(patches.cls_logits_NP, "the attention of CLS").detach().float().exp()
        keys_NPV = given(patches.logit_keys_NPV, "the keys of the last block")
        place_NP, kept_N1 = self._places(scores_NP)
        index_NK = place_NP.argsort(dim=1, stable=True)[:, : self.most]
        mask_NK = torch.arange(self.most, device=index_NK.device) < kept_N1
        weights_NKP = self._weights(index_NK, mask_NK, scores_NP, keys_NPV)
        left_NP = torch.ones_like(scores_NP).scatter(1, index_NK, (~mask_NK).to(scores_NP.dtype))
        weights_NAP = torch.cat([weights_NKP, (scores_NP * left_NP)[:, None]], dim=1)
        states_NPV = patches.states_NPV
        rows_NAV = weights_NAP.to(states_NPV.dtype) @ states_NPV
        made_NA = torch.full(rows_NAV.shape[:2], -1, device=rows_NAV.device)
        mask_NA = None
        if self.config.count is None:
            mask_NA = torch.cat([mask_NK, torch.ones_like(mask_NK[:, :1])], dim=1)
        return with_cls(rows_NAV.to(states_NPV.dtype), made_NA, patches, self.config.cls, mask_NA)

    def _places(self, scores_NP: Tensor) -> tuple[Tensor, Tensor]:
        """Where each patch stands if it is kept, those that are not behind; how many are [N,1]."""
        config, patches = self.config, scores_NP.shape[1]
        raster_P = torch.arange(patches, device=scores_NP.device)
        rank_NP = _ranks(scores_NP)
        if config.count is None:
            best_N1 = standing_out(scores_NP)
        else:
            half = config.count - config.count // 2 if config.plus else config.count
            best_N1 = torch.full_like(rank_NP[:, :1], half)
        best_NP = rank_NP < best_N1
        kept_NP = best_NP
        if config.plus and config.count is None:
            step_N1 = ((patches // best_N1) // 3).clamp(min=1)
            kept_NP = best_NP | ((raster_P % step_N1 == 0) & (raster_P < patches - 1))
        elif config.plus and config.count is not None:
            left, more = patches - (config.count - config.count // 2), config.count // 2
            among_NP = (~best_NP).long().cumsum(1) - 1  # the number of each that is left
            even = (2 * torch.arange(more, device=raster_P.device) + 1) * left // max(1, 2 * more)
            uniform_NP = torch.isin(among_NP, even) & ~best_NP
            kept_NP = best_NP | uniform_NP
        place_NP = raster_P.expand_as(rank_NP)
        by_score_NP = torch.where(best_NP, rank_NP, patches + raster_P)
        if config.order == "score":
            place_NP = by_score_NP
        if config.most is not None and config.count is None:  # the best, then the uniform ones
            kept_NP = kept_NP & (
                _ranks(-by_score_NP.masked_fill(~kept_NP, 3 * patches)) < self.most
            )
        kept_N1 = kept_NP.sum(dim=1, keepdim=True)
        return place_NP.masked_fill(~kept_NP, 3 * patches), kept_N1

    def _weights(
        self, index_NK: Tensor, mask_NK: Tensor, scores_NP: Tensor, keys_NPV: Tensor
    ) -> Tensor:
        """Share of every patch in each kept row [N,K,P]; nothing in a row of padding."""
        patches = scores_NP.shape[1]
        nearest = min(self.config.neighbours, patches - 1)
        raster_P = torch.arange(patches, device=index_NK.device)
        own_NKP = index_NK[..., None] == raster_P
        near_NKP = cosines(take(keys_NPV, index_NK), keys_NPV).masked_fill(own_NKP, -torch.inf)
        near_NKP = _ranks(near_NKP) < nearest
        weights_NKP = own_NKP + near_NKP * scores_NP[:, None]
        return weights_NKP * mask_NK[..., None]


def outliers(patches: int) -> int:
    """The most of `patches` numbers that can lie above their third quartile, at least one."""
    return max(1, patches - 1 - 3 * (patches - 1) // 4)


def standing_out(scores_NP: Tensor) -> Tensor:
    """[N,1] how many scores of each image lie above Q3 + 1.5 (Q3 - Q1); one where none does.

    Quartiles are interpolated linearly, as numpy has them.
    """
    sorted_NP = scores_NP.sort(dim=1).values
    quarters = [_quantile(sorted_NP, fourths) for fourths in (1, 3)]
    bound_N1 = quarters[1] + 1.5 * (quarters[1] - quarters[0])
    return (scores_NP > bound_N1).sum(dim=1, keepdim=True).clamp(min=1)


def _quantile(sorted_NP: Tensor, fourths: int) -> Tensor:
    """[N,1] a quarter's bound of numbers in order."""
    whole, part = divmod(fourths * (sorted_NP.shape[1] - 1), 4)
    above = min(whole + 1, sorted_NP.shape[1] - 1)
    low_N1, high_N1 = sorted_NP[:, whole, None], sorted_NP[:, above, None]
    return low_N1 + (high_N1 - low_N1) * (part / 4)


def _ranks(scores: Tensor) -> Tensor:
    """Rank of each along the last axis, the highest first; ties go to the earlier."""
    return scores.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
