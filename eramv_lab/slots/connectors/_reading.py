"""What connectors read with: attention of some rows to others, and the layer of a resampler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from eramv_lab.shapes import Op, VisionDims, attention, linear
from eramv_lab.slots.connectors._shared import ConnectorConfig, op

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec

Size = Annotated[int, Field(ge=1)]


class Reading(nn.Module):
    """Attention in which queries, keys and values are rows of their own; [N,Q,W] to [N,Q,W].

    `inner` is the width of all `heads` together.
    """

    def __init__(self, width: int, heads: int, inner: int, *, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, inner, bias=bias)
        self.k = nn.Linear(width, inner, bias=bias)
        self.v = nn.Linear(width, inner, bias=bias)
        self.out = nn.Linear(inner, width, bias=bias)

    def forward(
        self,
        queries_NQW: Tensor,
        keys_NKW: Tensor,
        values_NKW: Tensor,
        mask_NK: Tensor | None = None,
    ) -> Tensor:
        """What each query has read, of the keys that are real (`mask_NK`; None: all are)."""
        queries = self._split(self.q(queries_NQW))
        keys, values = self._split(self.k(keys_NKW)), self._split(self.v(values_NKW))
        mask = None if mask_NK is None else mask_NK[:, None, None]
        heads_NHQd = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.out(heads_NHQd.transpose(1, 2).flatten(2))

    def _split(self, rows_NRE: Tensor) -> Tensor:
        return rows_NRE.unflatten(2, (self.heads, -1)).transpose(1, 2)


def reading_parameters(width: int, inner: int, *, bias: bool) -> int:
    """Parameters of a `Reading`."""
    return 4 * width * inner + (3 * inner + width) * bias


def reading_ops(queries: int, keys: int, width: int, inner: int, parts: int = 1) -> list[Op]:
    """Operations of a `Reading` of `queries` by `keys` rows in each of `parts` of an image."""
    rows, read = parts * queries, parts * keys
    return [
        op(linear(rows, width, inner)),
        op(linear(read, width, inner), "memory"),
        op(linear(read, width, inner), "memory"),
        op(parts * attention(queries, keys, inner), "memory", "attention"),
        op(linear(rows, inner, width)),
    ]


@dataclass(frozen=True, kw_only=True)
class LayersConfig(ConnectorConfig):
    """Sizes of a resampler's layers."""

    per_token: ClassVar[bool] = False

    layers: Size = 6
    """Layers, in each of which its rows read the image and pass a feed-forward."""
    heads: Size = 8
    """Heads of the attention."""
    head_dim: Size = 64
    """Width of a head."""
    ffn: Annotated[float, Field(gt=0)] = 4.0
    """Inner width of the feed-forward, in vision widths."""

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: a feed-forward that is no width."""
        width = spec.vision.dims().width
        if self.inner(spec.vision.dims())[1] < 1:
            yield f"ffn {self.ffn} of a tower's width {width} is none"

    def inner(self, vision: VisionDims) -> tuple[int, int]:
        """Width of all heads together, and of the feed-forward."""
        return self.heads * self.head_dim, round(self.ffn * vision.width)


class ResamplerLayer(nn.Module):
    """Rows read the image's, then a feed-forward; both pre-norm, with residuals, no biases.

    `itself`: the rows are among the keys too, as in Flamingo's resampler.
    """

    def __init__(self, config: LayersConfig, vision: VisionDims, *, itself: bool) -> None:
        super().__init__()
        width, (inner, ffn) = vision.width, config.inner(vision)
        self.itself = itself
        self.norm_rows, self.norm_image = nn.LayerNorm(width), nn.LayerNorm(width)
        self.read = Reading(width, config.heads, inner, bias=False)
        self.norm_ffn = nn.LayerNorm(width)
        self.up = nn.Linear(width, ffn, bias=False)
        self.down = nn.Linear(ffn, width, bias=False)

    def forward(self, rows_NQV: Tensor, image_NKV: Tensor, mask_NK: Tensor | None = None) -> Tensor:
        """The rows after this layer; `mask_NK`: which of the image's are real."""
        queries, keys = self.norm_rows(rows_NQV), self.norm_image(image_NKV)
        if self.itself:
            keys = torch.cat([keys, queries], dim=1)
            if mask_NK is not None:
                mask_NK = F.pad(mask_NK, (0, queries.shape[1]), value=True)
        rows_NQV = rows_NQV + self.read(queries, keys, keys, mask_NK)
        return rows_NQV + self.down(F.gelu(self.up(self.norm_ffn(rows_NQV))))


def layers_parameters(config: LayersConfig, vision: VisionDims) -> int:
    """Parameters of the layers and the norm behind them."""
    width, (inner, ffn) = vision.width, config.inner(vision)
    layer = reading_parameters(width, inner, bias=False) + 2 * width * ffn + 3 * 2 * width
    return config.layers * layer + 2 * width


def layers_ops(
    config: LayersConfig, vision: VisionDims, rows: int, image: int, *, itself: bool
) -> list[Op]:
    """Operations of the layers on `rows` of its own and `image` rows of the image."""
    width, (inner, ffn) = vision.width, config.inner(vision)
    layer = [
        *reading_ops(rows, image + rows * itself, width, inner),
        op(linear(rows, width, ffn)),
        op(linear(rows, ffn, width)),
    ]
    return layer * config.layers
