"""`all`: every patch of the image, with or without those that are anchors already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from eramv_lab.registry import FINE
from eramv_lab.shapes import Dims, VisionDims

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class AllFineConfig:
    """Every patch of the image, through the connector of the anchors or `fine_connector`."""

    exclude_anchors: bool = False
    """Leave out the patches that stand in the sequence already, so that none counts twice."""
    cls: bool = False
    """The band may also read CLS."""

    def count_of(self, vision: VisionDims, anchors: int) -> int:
        """M, the features that a band layer reads per image; `anchors` counts those of patches."""
        return vision.patches - (anchors if self.exclude_anchors else 0) + int(self.cls)

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: no CLS to read, anchors that are no patches, nothing left."""
        vision = spec.vision.dims()
        if self.cls and not vision.has_cls:
            yield "cls: true, but the vision tower has no CLS"
        if self.exclude_anchors:
            if spec.anchors is None or not spec.anchors.picks:
                yield "exclude_anchors needs anchors that are patches"
            elif spec.anchors.count_of(vision) - int(spec.anchors.takes_cls) >= vision.patches:
                yield "exclude_anchors leaves nothing: every patch is an anchor"


@FINE.register("all", AllFineConfig)
class AllFine:
    """Which rows of [CLS, patches] the band reads, as indices (0 is CLS, p + 1 is patch p)."""

    def __init__(self, config: AllFineConfig, dims: Dims) -> None:
        self.config = config
        self.patches = dims.vision.patches
        self.left = dims.fine_rows - int(config.cls)

    def __call__(self, index_NA: Tensor | None, images: int, device: torch.device) -> Tensor:
        """Rows [N,M] of `images` images whose anchors are `index_NA` (-1 for CLS)."""
        cls = torch.zeros(images, int(self.config.cls), dtype=torch.long, device=device)
        if not self.config.exclude_anchors or index_NA is None:
            patches = torch.arange(1, self.patches + 1, device=device).expand(images, -1)
            return torch.cat([cls, patches], dim=1)
        taken = torch.zeros(images, self.patches + 1, dtype=torch.long, device=device)
        taken = taken.scatter(1, index_NA + 1, 1)[:, 1:]
        order = taken.argsort(dim=1, stable=True)[:, : self.left] + 1  # ascending among the rest
        return torch.cat([cls, order], dim=1)
