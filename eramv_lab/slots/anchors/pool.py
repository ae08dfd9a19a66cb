"""`pool`: the grid averaged down to fewer rows, so that every patch is in one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn.functional import adaptive_avg_pool2d

from eramv_lab.registry import ANCHORS
from eramv_lab.shapes import Dims, VisionDims
from eramv_lab.slots.anchors._shared import CountedConfig, SelectorModule, with_cls
from eramv_lab.slots.contracts import Anchors, Patches

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class PoolConfig(CountedConfig):
    """The grid averaged down to a smaller one of the same aspect; rows are made (index -1)."""

    picks: ClassVar[bool] = False

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """What the tower cannot give; `count` has to be a grid."""
        yield from super().check(spec)
        if spec.vision.dims().merged:
            yield "the tower merges patches, and what is left is no grid to pool"
            return
        sizes = sorted(pooled_grids(spec.vision.dims()))
        if 0 < self.count <= sizes[-1] and self.count not in sizes:
            near = [n for n in sizes if n < self.count][-1:] + [n for n in sizes if n > self.count][
                :1
            ]
            yield (
                f"count {self.count} is no grid of the tower's aspect; "
                f"nearest that are: {', '.join(map(str, near))}"
            )


@ANCHORS.register("pool", PoolConfig)
class Pool(SelectorModule):
    """Average pooling; windows meet where the sizes divide and overlap by a patch where not."""

    def __init__(self, config: PoolConfig, dims: Dims) -> None:
        super().__init__(config, dims)
        self.grid = pooled_grids(dims.vision).get(config.count)

    def forward(self, patches: Patches) -> Anchors:
        states_NPV = patches.states_NPV
        if self.grid is None:
            rows_NAV = states_NPV[:, :0]
        else:
            image_NVhw = states_NPV.transpose(1, 2).unflatten(2, patches.grid)
            rows_NAV = adaptive_avg_pool2d(image_NVhw, self.grid).flatten(2).transpose(1, 2)
        made_NA = torch.full(rows_NAV.shape[:2], -1, device=rows_NAV.device)
        return with_cls(rows_NAV, made_NA, patches, self.config.cls)


def pooled_grids(vision: VisionDims) -> dict[int, tuple[int, int]]:
    """Rows by columns of every smaller grid of the tower's aspect, by its number of rows."""
    high, wide = vision.grid
    grids = ((r, max(1, round(wide * r / high))) for r in range(1, high + 1))
    return {rows * columns: (rows, columns) for rows, columns in grids}
