"""What all selectors share: configs that count rows, and a module that gathers what was chosen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from eramv_lab.registry import ANCHORS
from eramv_lab.shapes import Dims, Op, VisionDims
from eramv_lab.slots.contracts import Anchors, Need, Patches

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec

LOOKS = Need.CLS_ATTENTION | Need.CLS_LOGITS
"""What only a tower with CLS can give, beside CLS."""


def choosing(flops: int) -> Op:
    """The price of a comparison that only chooses: no gradient comes through."""
    return Op(part="connector", kind="attention", flops=flops, owner="", flow="connector")


def making(rows: int, patches: int, width: int) -> Op:
    """The price of `rows` rows made as weighted sums of `patches` rows."""
    flops = 2 * rows * patches * width
    return Op(part="connector", kind="linear", flops=flops, owner="", flow="vision")


@dataclass(frozen=True, kw_only=True)
class SelectorConfig:
    """A selector without a number of its own; most have no products of matrices and no price."""

    picks: ClassVar[bool] = True
    """Rows are rows of the tower, not made from several."""
    projected: ClassVar[bool] = False
    """It chooses among the patches in language width: the connector takes every one of them."""

    cls: bool = False
    """Put the tower's CLS row in front (index -1)."""

    @property
    def takes_cls(self) -> bool:
        """CLS is one of the rows."""
        return self.cls

    def count_of(self, vision: VisionDims) -> int:
        """A: rows per image, CLS included."""
        return vision.patches + int(self.cls)

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """What the tower cannot give."""
        if spec.vision.dims().has_cls:
            return
        if _need(ANCHORS.of(self).factory) & LOOKS:
            others = (c.name for c in ANCHORS if not _need(c.factory) & LOOKS)
            yield (
                "the selector asks where CLS looks and this tower has no CLS; "
                f"selectors that do without: {', '.join(sorted(others))}"
            )
        elif self.cls:
            yield "cls: true, and this tower has no CLS; write cls: false"

    def ops(self, dims: Dims) -> list[Op]:
        """Products of matrices: those that choose (no gradient), those that make rows."""
        return []

    def parameters(self, dims: Dims) -> int:
        """None."""
        return 0


@dataclass(frozen=True, kw_only=True)
class CountedConfig(SelectorConfig):
    """A selector of a given number of patches."""

    count: Annotated[int, Field(ge=0)] = 64
    """Rows besides CLS; 0 with `cls: true` leaves CLS alone."""

    def count_of(self, vision: VisionDims) -> int:
        """A: rows per image, CLS included."""
        return self.count + int(self.cls)

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """What the tower cannot give."""
        yield from super().check(spec)
        patches = spec.vision.dims().patches
        if self.count > patches:
            yield f"count {self.count} is more than the tower's {patches} patches"
        if self.count == 0 and not self.cls:
            yield "count 0 without cls leaves no row; write anchors: none"


class SelectorModule(nn.Module):
    """Patches -> Anchors: what every selector knows, and asks of the tower."""

    need: Need = Need.NONE

    def __init__(self, config: Any, dims: Dims) -> None:
        super().__init__()
        self.config = config
        if config.cls:
            self.need = self.need | Need.CLS


class Selector(SelectorModule, ABC):
    """CLS first where it is kept, then the patches of `choose` in raster order.

    The choice stays on the device, is the same for an image alone and in a batch, and ties go to
    the earlier patch.
    """

    @abstractmethod
    def choose(self, patches: Patches) -> Tensor:
        """index_NA of the patches kept, ascending."""

    def forward(self, patches: Patches) -> Anchors:
        index_NA = self.choose(patches)
        return with_cls(take(patches.states_NPV, index_NA), index_NA, patches, self.config.cls)


def take(rows_NPx: Tensor, index_NA: Tensor) -> Tensor:
    """The rows [N,A,x] of `index_NA`."""
    return rows_NPx.gather(1, index_NA[..., None].expand(-1, -1, rows_NPx.shape[-1]))


def with_cls(
    states_NAV: Tensor,
    index_NA: Tensor,
    patches: Patches,
    cls: bool,
    mask_NA: Tensor | None = None,
) -> Anchors:
    """The rows, CLS before them if asked. Raises ValueError where the tower gave none."""
    if cls:
        if patches.cls_NV is None:
            raise ValueError("cls: true, and the tower gave no CLS row")
        states_NAV = torch.cat([patches.cls_NV[:, None], states_NAV], dim=1)
        index_NA = torch.cat([index_NA.new_full((len(index_NA), 1), -1), index_NA], dim=1)
        if mask_NA is not None:
            mask_NA = torch.cat([mask_NA.new_ones(len(mask_NA), 1), mask_NA], dim=1)
    return Anchors(states_NAV=states_NAV, index_NA=index_NA, mask_NA=mask_NA)


def cls_attention(patches: Patches) -> Tensor:
    """cls_attention_NHP in float32. Raises ValueError where the tower gave none."""
    if patches.cls_attention_NHP is None:
        raise ValueError("the selector asks where CLS looks, and the tower did not say")
    return patches.cls_attention_NHP.float()


def given(value: Tensor | None, what: str) -> Tensor:
    """What the selector asked the tower for. Raises ValueError where it did not come."""
    if value is None:
        raise ValueError(f"the selector asks for {what}, and the tower gave none")
    return value


def highest(scores_NP: Tensor, count: int) -> Tensor:
    """index_NA of the `count` highest scores, ascending; ties go to the earlier patch."""
    order_NP = scores_NP.argsort(dim=-1, descending=True, stable=True)
    return order_NP[:, :count].sort(dim=-1).values


def same_for_all(index_A: Tensor, patches: Patches) -> Tensor:
    """index_NA: one choice for every image."""
    return index_A.expand(len(patches.states_NPV), -1)


def _need(factory: Any) -> Need:
    return getattr(factory, "need", Need.NONE)
