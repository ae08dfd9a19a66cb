"""`add`: before each band layer the anchors get one of the patches that they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

from eramv_lab.registry import FUSION, SLOTS
from eramv_lab.shapes import Dims, LanguageDims, VisionDims

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class AddConfig:
    """Patches added to pooled anchors, one of each window before each band layer (DeepStack).

    Anchors that are the grid pooled by s x s leave s x s patches to each; the band has a layer for
    each of them, in the order of the window, and nothing is projected or attended to.
    """

    reads: ClassVar[bool] = False
    softmax: ClassVar[str] = "separate"
    gate: ClassVar[str] = "none"
    queries: ClassVar[str] = "visual"
    positions: ClassVar[str] = "none"

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: anchors that are no windows, another number of layers, parts without work."""
        side = window(spec.vision.dims(), spec.dims().visual)
        anchors: Any = spec.anchors
        pooled = anchors is not None and SLOTS["anchors"].of(anchors).name == "pool"
        if anchors is None or not pooled or not side or anchors.takes_cls:
            yield "add needs anchors of type pool, without CLS, whose windows are squares"
        elif len(spec.band) != side * side:
            yield (
                f"each anchor stands for {side} x {side} patches, one for each layer of the band; "
                f"found {len(spec.band)} layers"
            )
        if spec.fine.count_of(spec.vision.dims(), 0) != spec.vision.dims().patches:
            yield "add needs every patch, and no CLS, as fine features"
        if spec.bridge is not None:
            yield "add takes the fine features as they are: bridge none"
        if SLOTS["sharing"].of(spec.sharing).name != "shared":
            yield "add projects nothing: leave out sharing"

    def parameters(self, language: LanguageDims, sharing: Any) -> int:
        """None."""
        return 0


@FUSION.register("add", AddConfig)
def build_add(config: AddConfig, dims: Dims) -> None:
    """Nothing to build."""
    return


def window(vision: VisionDims, anchors: int) -> int:
    """Side of the square of patches that each of so many pooled rows stands for; 0: no square."""
    high, wide = vision.grid
    sides = (s for s in range(2, min(high, wide) + 1) if high % s == 0 == wide % s)
    return next((s for s in sides if anchors * s * s == vision.patches), 0)


def slices(vision: VisionDims, anchors: int) -> list[list[int]]:
    """Patches by their place in the window: each list has one patch of each window, in order."""
    side, (high, wide) = window(vision, anchors), vision.grid
    corners = [r * wide + c for r, c in product(range(0, high, side), range(0, wide, side))]
    places = product(range(side), range(side))
    return [[corner + row * wide + column for corner in corners] for row, column in places]
