"""`tokenpacker`: a coarse grid reads, each place its own window of the finer one (TokenPacker)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from eramv_lab.registry import ANCHORS, CONNECTOR
from eramv_lab.shapes import Dims, Op, VisionDims, linear
from eramv_lab.slots.connectors._reading import Reading, Size, reading_ops, reading_parameters
from eramv_lab.slots.connectors._shared import ConnectorConfig, made, op
from eramv_lab.slots.connectors.mlp import MlpConnector, MlpConnectorConfig
from eramv_lab.slots.contracts import Anchors, Need, Patches, Question, Tokens

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec

EPS = 1e-6
"""Of its norms."""


@dataclass(frozen=True, kw_only=True)
class TokenPackerConfig(ConnectorConfig):
    """The features shrunk to a coarse grid, each place of which reads its own window of several
    levels of the tower; then two linear layers (TokenPacker, arXiv 2407.02392, section 3)."""

    per_token: ClassVar[bool] = False
    own_rows: ClassVar[bool] = True

    scale: Annotated[int, Field(ge=2)] = 2
    """Side of a window, in patches: patches / scale^2 rows come out."""
    count: Size | None = None
    """Rows that come out, in place of `scale`: patches / count has to be a square."""
    levels: tuple[Annotated[int, Field(ge=0)], ...] = (12, 16, 22, 23)
    """Hidden states of the tower (0: its embeddings) that keys and values are made of."""
    head_dim: Size = 128
    """Width of a head; there are as many heads as vision width has of them."""

    def count_of(self, vision: VisionDims, anchors: int) -> int:
        """Rows that come out: the windows."""
        side = self.side(vision)
        return (vision.grid[0] // side) * (vision.grid[1] // side)

    def side(self, vision: VisionDims) -> int:
        """Side of a window, in patches; of no whole one the nearest below."""
        if self.count is None:
            return self.scale
        return max(1, isqrt(vision.patches // self.count))

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: a grid not made of windows, levels that are not there, anchors chosen."""
        vision = spec.vision.dims()
        side, grid = self.side(vision), "x".join(map(str, vision.grid))
        whole = side > 1 and not any(size % side for size in vision.grid)
        if self.count is not None and not (whole and self.count_of(vision, 0) == self.count):
            sides = [
                s for s in range(2, min(vision.grid) + 1) if not any(g % s for g in vision.grid)
            ]
            counts = sorted({vision.patches // s**2 for s in sides})
            allowed = ", ".join(map(str, counts))
            yield f"count {self.count} is not of whole square windows of {grid}: {allowed}"
        elif not whole:
            yield f"scale {self.scale} does not divide the tower's grid {grid}"
        if not self.levels:
            yield "levels names no hidden state of the tower"
        if wrong := [level for level in self.levels if level > vision.layers]:
            levels = ", ".join(map(str, wrong))
            yield f"levels {levels} are more than the {vision.layers} layers up to the features"
        if vision.width % self.head_dim:
            yield f"head_dim {self.head_dim} does not divide the tower's width {vision.width}"
        chosen = spec.anchors
        if spec.connector is self and (ANCHORS.of(chosen).name != "all" or chosen.takes_cls):
            yield "it reads every patch by its place; write anchors: all"
        if spec.fine_connector is self and (spec.fine.exclude_anchors or spec.fine.cls):
            yield "it reads every patch by its place; write fine: all"

    def ops(self, dims: Dims, rows: int) -> list[Op]:
        """Operations on the image's patches."""
        wide, patches, made_of = dims.vision.width, dims.vision.patches, len(self.levels)
        windows = self.count_of(dims.vision, rows)
        tower = [op(linear(patches, made_of * wide, wide), "vision")]
        tower.append(op(linear(patches, wide, wide), "memory"))
        read = reading_ops(1, self.side(dims.vision) ** 2, wide, wide, windows)
        first = op(linear(windows, wide, wide), "vision")
        return [first, *tower * 2, *read, *MlpConnectorConfig().ops(dims, windows)]

    def parameters(self, dims: Dims) -> int:
        """Number of parameters."""
        wide = dims.vision.width
        tower = 2 * ((len(self.levels) * wide + 1) * wide + (wide + 1) * wide)
        read = reading_parameters(wide, wide, bias=True)
        return wide * wide + tower + read + 6 * wide + MlpConnectorConfig().parameters(dims)


@CONNECTOR.register("tokenpacker", TokenPackerConfig)
class TokenPacker(nn.Module):
    """All patches [N,P,V] and their levels to [N,P/scale^2,D]."""

    need: Need = Need.LEVELS

    def __init__(self, config: TokenPackerConfig, dims: Dims) -> None:
        super().__init__()
        wide, made_of = dims.vision.width, len(config.levels)
        self.side = config.side(dims.vision)
        self.q = nn.Linear(wide, wide, bias=False)
        self.k, self.v = (
            nn.Sequential(nn.Linear(made_of * wide, wide), nn.GELU(), nn.Linear(wide, wide))
            for _ in range(2)
        )
        self.norm_q, self.norm_k, self.norm_v = (nn.LayerNorm(wide, eps=EPS) for _ in range(3))
        self.read = Reading(wide, wide // config.head_dim, wide, bias=True)
        self.mlp = MlpConnector(MlpConnectorConfig(), dims)

    def forward(
        self, anchors: Anchors, patches: Patches, *, question: Question | None = None
    ) -> Tokens:
        """A row of each window of `side` x `side` patches; no residual, as in the code."""
        images, grid = len(patches.states_NPV), patches.grid
        coarse = (grid[0] // self.side, grid[1] // self.side)
        levels_NPL = torch.cat(patches.levels, dim=2)
        keys = self._windows(self.norm_k(self.k(levels_NPL)), grid)
        values = self._windows(self.norm_v(self.v(levels_NPL)), grid)
        image_NVhw = patches.states_NPV.transpose(1, 2).unflatten(2, grid)
        small = F.interpolate(image_NVhw.float(), size=coarse, mode="bilinear")
        small_NAV = small.flatten(2).transpose(1, 2).to(patches.states_NPV.dtype)
        queries = self.norm_q(self.q(small_NAV)).flatten(0, 1)[:, None]
        read_NAV = self.read(queries, keys, values)[:, 0].unflatten(0, (images, -1))
        return made(self.mlp(read_NAV))

    def _windows(self, rows_NPV: Tensor, grid: tuple[int, int]) -> Tensor:
        """[N*A,side*side,V]: the rows of each window, in raster order."""
        side = self.side
        high, wide = grid[0] // side, grid[1] // side
        apart = rows_NPV.unflatten(1, (high, side, wide, side)).transpose(2, 3)
        return apart.flatten(0, 2).flatten(1, 2)
