"""`resampler`: learned queries on a grid read the image once, by place (Qwen-VL)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eramv_lab.registry import CONNECTOR
from eramv_lab.shapes import Dims, Op, VisionDims, linear
from eramv_lab.slots.connectors._reading import Reading, Size, reading_ops, reading_parameters
from eramv_lab.slots.connectors._shared import ConnectorConfig, made, op
from eramv_lab.slots.contracts import Anchors, Patches, Question, Tokens

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec

EPS = 1e-6
"""Of its norms."""


@dataclass(frozen=True, kw_only=True)
class ResamplerConfig(ConnectorConfig):
    """One cross-attention of learned queries to the selected rows, fixed 2-D sine-cosine positions
    on queries and keys alone (Qwen-VL, arXiv 2308.12966, section 2.1)."""

    per_token: ClassVar[bool] = False
    own_rows: ClassVar[bool] = True
    learned: ClassVar[bool] = True

    queries: Size = 256
    """Learned queries, a square number: they stand on a grid; as many rows come out."""
    head_dim: Size = 128
    """Width of a head; there are as many heads as language width has of them."""

    def count_of(self, vision: VisionDims, anchors: int) -> int:
        """Rows that come out: the queries."""
        return self.queries

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: queries that are no square, heads that do not fill the language width."""
        side, width = isqrt(self.queries), spec.language.dims().width
        if side**2 != self.queries:
            near = f"{side**2} or {(side + 1) ** 2}"
            yield f"queries {self.queries} is no square, on whose grid they stand; nearest: {near}"
        if width % self.head_dim:
            yield f"head_dim {self.head_dim} does not divide the language width {width}"
        if width % 4:
            yield f"positions need a language width that 4 divides, found {width}"

    def ops(self, dims: Dims, rows: int) -> list[Op]:
        """Operations of the queries on `rows` rows of the image."""
        wide, deep = dims.vision.width, dims.language.width
        narrow = [] if wide == deep else [op(linear(rows, wide, deep), "vision")]
        last = op(linear(self.queries, deep, deep))
        return [*narrow, *reading_ops(self.queries, rows, deep, deep), last]

    def parameters(self, dims: Dims) -> int:
        """Number of parameters."""
        wide, deep = dims.vision.width, dims.language.width
        maps = (wide * deep if wide != deep else 0) + deep * deep
        return self.queries * deep + maps + reading_parameters(deep, deep, bias=True) + 6 * deep


@CONNECTOR.register("resampler", ResamplerConfig)
class Resampler(nn.Module):
    """The rows that were selected, [N,A,V], to [N,queries,D]."""

    def __init__(self, config: ResamplerConfig, dims: Dims) -> None:
        super().__init__()
        wide, deep = dims.vision.width, dims.language.width
        self.side = isqrt(config.queries)
        self.queries = nn.Parameter(_drawn(config.queries, deep))
        self.to_width = None if wide == deep else nn.Linear(wide, deep, bias=False)
        if self.to_width is not None:
            nn.init.trunc_normal_(self.to_width.weight, std=0.02)
        self.norm_queries, self.norm_image = (nn.LayerNorm(deep, eps=EPS) for _ in range(2))
        self.read = Reading(deep, deep // config.head_dim, deep, bias=True)
        for one in (self.read.q, self.read.k, self.read.v):  # as torch starts the three in one
            nn.init.xavier_uniform_(one.weight, gain=0.5**0.5)
            nn.init.zeros_(one.bias)
        nn.init.trunc_normal_(self.read.out.weight, std=0.02)
        nn.init.zeros_(self.read.out.bias)
        self.norm = nn.LayerNorm(deep, eps=EPS)
        self.last = nn.Linear(deep, deep, bias=False)
        nn.init.normal_(self.last.weight, std=deep**-0.5)

    def forward(
        self, anchors: Anchors, patches: Patches, *, question: Question | None = None
    ) -> Tokens:
        """The queries after they have read the selected rows; CLS has no position."""
        rows_NAD = (
            anchors.states_NAV if self.to_width is None else self.to_width(anchors.states_NAV)
        )
        rows_NAD = self.norm_image(rows_NAD)
        table_QD = sine_cosine(self.side, rows_NAD.shape[2], rows_NAD.device)
        keys_NAD = rows_NAD + _at(table_QD, self.side, patches.grid, anchors).to(rows_NAD.dtype)
        queries_QD = self.norm_queries(self.queries.to(rows_NAD.dtype))
        queries_NQD = (queries_QD + table_QD.to(rows_NAD.dtype)).expand(len(rows_NAD), -1, -1)
        read_NQD = self.read(queries_NQD, keys_NAD, rows_NAD, anchors.mask_NA)
        return made(self.last(self.norm(read_NQD)))


def _drawn(rows: int, width: int) -> Tensor:
    return nn.init.trunc_normal_(torch.empty(rows, width), std=0.02)


def sine_cosine(side: int, width: int, device: torch.device | None = None) -> Tensor:
    """[side*side, width]: half of a place's numbers tell its column, half its row; each half is
    sines, then cosines, of width / 4 wave lengths."""
    waves = torch.arange(width // 4, dtype=torch.float32, device=device) / (width / 4)
    turns = torch.arange(side, dtype=torch.float32, device=device)[:, None] * 10000**-waves
    one_SE = torch.cat([turns.sin(), turns.cos()], dim=1)
    columns = one_SE.expand(side, -1, -1).flatten(0, 1)
    rows = one_SE.repeat_interleave(side, dim=0)
    return torch.cat([columns, rows], dim=1)


def _at(table_QD: Tensor, side: int, grid: tuple[int, int], anchors: Anchors) -> Tensor:
    """Positions [N,A,D] of the selected rows: the queries' grid stretched over the patches'."""
    if grid != (side, side):
        square = table_QD.T.unflatten(1, (side, side))[None]
        stretched = F.interpolate(square, size=grid, mode="bicubic", align_corners=False)
        table_QD = stretched[0].flatten(1).T
    index_NA = anchors.index_NA
    return table_QD[index_NA.clamp(min=0)] * (index_NA >= 0)[..., None]
