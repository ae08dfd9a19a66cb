"""`divprune`: patches that lie as far apart as can be, as the language model will see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eramv_lab.registry import ANCHORS
from eramv_lab.shapes import Dims, Op
from eramv_lab.slots.anchors._shared import CountedConfig, Selector, choosing, given
from eramv_lab.slots.contracts import Patches
from eramv_lab.slots.similar import cosines


@dataclass(frozen=True, kw_only=True)
class DivpruneConfig(CountedConfig):
    """Greedy max-min diversity of the projected patches (DivPrune, arXiv 2503.02175).

    First the patch that is farthest from its nearest neighbour, then again and again the one that
    is farthest from the nearest of those chosen; distance is one less the cosine of the rows
    behind the connector, which therefore takes every patch. Nobody is asked where to look, so it
    needs no CLS. A patch is never taken twice, identical ones by their order.
    """

    projected: ClassVar[bool] = True

    def ops(self, dims: Dims) -> list[Op]:
        """The cosine of every pair of patches, in language width."""
        if not self.count:
            return []
        return [choosing(2 * dims.vision.patches**2 * dims.language.width)]


@ANCHORS.register("divprune", DivpruneConfig)
class Divprune(Selector):
    """Section 3 of the paper, all images of the batch in step."""

    def choose(self, patches: Patches) -> Tensor:
        rows_NPD = given(patches.projected_NPD, "rows behind the connector")
        return farthest(rows_NPD, self.config.count)


def farthest(rows_NPD: Tensor, count: int) -> Tensor:
    """index_NA of `count` rows, ascending: greedy max-min of one less their cosine."""
    images, patches = rows_NPD.shape[:2]
    order = torch.arange(patches, device=rows_NPD.device)
    if not count:
        return order[:0].expand(images, -1)
    far_NPP = 1 - cosines(rows_NPD, rows_NPD)
    # an infinite distance to itself: the nearest is another one
    own_PP = order[:, None] == order
    score_NP = far_NPP.masked_fill(own_PP, torch.inf).amin(dim=2)
    taken_NP = torch.zeros_like(score_NP, dtype=torch.bool)
    for number in range(count):
        next_N1 = score_NP.masked_fill(taken_NP, -torch.inf).argmax(dim=1, keepdim=True)
        taken_NP = taken_NP.scatter(1, next_N1, True)
        near_NP = far_NPP.gather(1, next_N1[..., None].expand(-1, -1, patches)).squeeze(1)
        score_NP = near_NP if number == 0 else torch.minimum(score_NP, near_NP)
    return (~taken_NP).int().argsort(dim=1, stable=True)[:, :count]
