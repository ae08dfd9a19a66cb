"""Merging inside a tower (ToMe, arXiv 2210.09461): in every layer the most similar rows become one.

Between attention and feed-forward the rows are dealt in turn into two halves; each row of the
first looks for its nearest in the second by the cosine of their keys, mean over heads, and the r
best pairs merge: a mean weighted by the patches that each stands for. CLS never merges. The next
layers add the log of that number to the attention's logits, so that a trained tower takes a row
for as many patches as it is. Behind the last layer rows stand in the order of the patches that
they stood at; their grid is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eramv_lab.shapes import Op, VisionDims
from eramv_lab.slots.contracts import Need
from eramv_lab.slots.similar import cosines

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec

Merge = tuple[int, ...] | int | None
"""Pairs that merge in each layer; or the patches that are left in the end; or no merging."""


def merges(merge: Merge, patches: int, layers: int) -> tuple[int, ...]:
    """r of each layer, as even as can be where `merge` says how many patches are left.

    A layer merges half of its patches at most, so that few layers may have to begin with more.
    """
    if merge is None:
        return (0,) * layers
    if isinstance(merge, tuple):
        return merge
    found: list[int] = []
    for after in reversed(range(layers)):
        share = -(-(patches - merge) // (after + 1))
        left = min(patches - share, merge << after)
        found.append(patches - left)
        patches = left
    return tuple(found)


def rows_left(merge: Merge, patches: int, layers: int) -> list[int]:
    """Patches before each layer, and behind the last one."""
    found = [patches]
    for r in merges(merge, patches, layers):
        found.append(found[-1] - r)
    return found


def check_merge(merge: Merge, patches: int, dims: VisionDims, spec: ModelSpec) -> Iterator[str]:
    """Problems: more pairs than there are, and neighbours that need every patch in its place."""
    if merge is None:
        return
    layers = dims.layers
    if isinstance(merge, tuple):
        if len(merge) != layers:
            yield f"merge names {len(merge)} layers, the tower runs {layers} up to the features"
            return
        rows = rows_left(merge, patches, layers)
        wrong = [i for i, r in enumerate(merge) if not 0 <= r <= rows[i] // 2]
        for i in wrong[:1]:
            yield f"merge: layer {i} has {rows[i]} patches, of which 0 to {rows[i] // 2} can merge"
    elif not -(-patches // 2**layers) <= merge <= patches:
        yield (
            f"merge {merge}: {layers} layers, each of which can halve them, leave "
            f"{-(-patches // 2**layers)} to {patches} of the tower's {patches} patches"
        )
    from eramv_lab.slots.needs import needs_of

    if needs_of(spec) & ~Need.CLS:
        yield (
            "merge and a selector or connector that asks for attention, keys or levels of the "
            "tower's patches; those that do without: anchors all, none, divprune, norm, random"
        )


def match_op(rows: int, width: int, layer: int) -> Op:
    """The price of finding the pairs among `rows` rows by keys of `width`: no gradient."""
    flops = 2 * (rows - rows // 2) * (rows // 2) * width
    return Op(part="vision", kind="attention", flops=flops, owner="", layer=layer, flow="vision")


class Merging:
    """The rows of one pass through a tower: how many patches each stands for, and where."""

    def __init__(self, rows_NTV: Tensor, pairs: Sequence[int], cls: bool) -> None:
        self.pairs, self.cls = pairs, cls
        self.size_NT1: Tensor | None = None
        rows = rows_NTV.shape[1]
        self.place_NT = torch.arange(rows, device=rows_NTV.device).expand(len(rows_NTV), -1)

    def bias(self, like: Tensor) -> Tensor | None:
        """[N,1,1,T] what the next layer adds to its attention's logits; None: nothing yet."""
        size = self.size_NT1
        return None if size is None else size.log().to(like.dtype).transpose(1, 2)[:, None]

    def merge(self, rows_NTV: Tensor, key_NTV: Tensor, heads: int, layer: int) -> Tensor:
        """The rows of a layer behind its attention, `pairs[layer]` fewer."""
        r = self.pairs[layer]
        if not r:
            return rows_NTV
        metric_NTd = key_NTV.detach().unflatten(-1, (heads, -1)).float().mean(dim=2)
        scores_NKL = cosines(metric_NTd[:, ::2], metric_NTd[:, 1::2])
        if self.cls:  # row 0, which stands in the first half
            first_K = torch.arange(scores_NKL.shape[1], device=scores_NKL.device) == 0
            scores_NKL = scores_NKL.masked_fill(first_K[:, None], -torch.inf)
        best_NK, to_NK = scores_NKL.max(dim=2)
        order_NK = best_NK.argsort(dim=1, descending=True, stable=True)
        gone_NR, kept_NK = order_NK[:, :r], order_NK[:, r:].sort(dim=1).values
        to_NR = to_NK.gather(1, gone_NR)

        def fold(rows: Tensor) -> Tensor:
            one, two = rows[:, ::2], rows[:, 1::2]
            together = two.scatter_add(1, _wide(to_NR, two), one.gather(1, _wide(gone_NR, one)))
            return torch.cat([one.gather(1, _wide(kept_NK, one)), together], dim=1)

        size = self.size_NT1
        if size is None:
            size = torch.ones_like(rows_NTV[..., :1], dtype=torch.float32)
        self.size_NT1 = fold(size)
        place = self.place_NT
        self.place_NT = torch.cat([place[:, ::2].gather(1, kept_NK), place[:, 1::2]], dim=1)
        return (fold(rows_NTV.float() * size) / self.size_NT1).to(rows_NTV.dtype)

    def in_order(self, rows_NTV: Tensor) -> Tensor:
        """The rows in the order of the patches that they stood at, CLS first."""
        return rows_NTV.gather(1, _wide(self.place_NT.argsort(dim=1), rows_NTV))


def _wide(index_NR: Tensor, rows: Tensor) -> Tensor:
    return index_NR[..., None].expand(-1, -1, rows.shape[2])
