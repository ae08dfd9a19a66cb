"""A tower small enough to train in minutes: three convolutions, then transformer layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eramv_lab.recipe.parse import WEIGHTLESS
from eramv_lab.registry import VISION
from eramv_lab.shapes import Dims, Op, Projection, VisionDims, attention, linear
from eramv_lab.slots.contracts import Need, Patches
from eramv_lab.slots.vision._merge import Merging, check_merge, match_op, merges, rows_left
from eramv_lab.slots.vision._shared import cls_logits

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec

MEAN, STD = 0.5, 0.25
"""Pixels in [0,1] enter the tower less `MEAN`, over `STD`, every channel alike."""


@dataclass(frozen=True, kw_only=True)
class TinyVisionConfig:
    """A tiny vision transformer with a convolution stem, for the made world."""

    image: int = 96
    """Side of the square input, pixels."""
    patch: int = 8
    """Side of a patch, pixels: 4, 8 or 16."""
    width: int = 64
    """V, width of a state; the stem's channels are a quarter of it, half of it, all of it."""
    layers: int = 2
    """Transformer layers."""
    heads: int = 4
    """Attention heads."""
    ffn: int = 256
    """Width inside the feed-forward."""
    merge: tuple[int, ...] | int | None = field(default=None, metadata=WEIGHTLESS)
    """Merge similar patches in every layer (ToMe): how many are left in the end, or how many pairs
    merge in each layer; `none`: no merging."""

    @property
    def patches(self) -> int:
        """Patches that enter the first layer."""
        return (self.image // self.patch) ** 2

    def dims(self) -> VisionDims:
        """Sizes that the other slots read."""
        side = self.image // self.patch
        left = rows_left(self.merge, self.patches, self.layers)[-1]
        return VisionDims(
            image=self.image,
            grid=(side, side) if self.merge is None else (1, max(left, 1)),
            merged=self.merge is not None,
            width=self.width,
            heads=self.heads,
            ffn=self.ffn,
            layers=self.layers,
            has_cls=True,
        )

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Texts of what is wrong with these values."""
        wrong = list(self.wrong())
        yield from wrong
        if not wrong:
            yield from check_merge(self.merge, self.patches, self.dims(), spec)

    def wrong(self) -> Iterator[str]:
        """What is wrong whatever the other slots hold."""
        if self.patch not in (4, 8, 16):
            yield f"patch is {self.patch}, must be 4, 8 or 16"
        elif self.image < self.patch or self.image % self.patch:
            yield f"image {self.image} must be a multiple of patch {self.patch}"
        if self.width < 4 or self.width % 4:
            yield f"width is {self.width}, must be a multiple of 4"
        if self.heads < 1 or self.width % self.heads:
            yield f"width {self.width} must be a multiple of heads {self.heads}"
        if self.layers < 1:
            yield f"layers is {self.layers}, must be at least 1"
        if self.ffn < 1:
            yield f"ffn is {self.ffn}, must be at least 1"

    def stem(self) -> list[tuple[int, int, int]]:
        """Channels in, channels out and stride of each 3 x 3 convolution."""
        return [
            (3, self.width // 4, 2),
            (self.width // 4, self.width // 2, 2),
            (self.width // 2, self.width, self.patch // 4),
        ]

    def ops(self, need: Need = Need.NONE) -> list[Op]:
        """Operations of one image: the stem, each layer and, where asked, the CLS row."""

        def op(
            kind: Literal["linear", "attention", "conv"],
            flops: int,
            layer: int | None = None,
            *weights: str,
        ) -> Op:
            return Op(
                part="vision",
                kind=kind,
                flops=flops,
                owner="vision",
                layer=layer,
                flow="vision",
                weights=weights,
            )

        ops: list[Op] = []
        side = self.image
        for columns_in, columns_out, stride in self.stem():
            side //= stride
            ops.append(op("conv", linear(side * side, 9 * columns_in, columns_out)))
        left, width = rows_left(self.merge, self.patches, self.layers), self.width
        for layer in range(self.layers):
            rows, after = left[layer] + 1, left[layer + 1] + 1
            ops += [
                op("linear", linear(rows, width, 3 * width), layer, "qkv"),
                op("attention", attention(rows, rows, width), layer),
                op("linear", linear(rows, width, width), layer, "o"),
                *([match_op(rows, width // self.heads, layer)] if after < rows else []),
                op("linear", linear(after, width, self.ffn), layer, "up"),
                op("linear", linear(after, self.ffn, width), layer, "down"),
            ]
        for one in (Need.CLS_ATTENTION, Need.CLS_LOGITS):
            if one in need:  # scores only: nothing is mixed
                ops.append(op("attention", attention(1, left[-1] + 1, width) // 2, self.layers - 1))
        return ops

    def projections(self) -> dict[str, Projection]:
        """The matrices of a layer; one makes queries, keys and values."""
        width, ffn = self.width, self.ffn
        sizes = {
            "qkv": ("qkv", width, 3 * width),
            "o": ("out", width, width),
            "up": ("up", width, ffn),
            "down": ("down", ffn, width),
        }
        return {
            name: Projection(path=f"layers.{{}}.{module}", columns_in=a, columns_out=b)
            for name, (module, a, b) in sizes.items()
        }

    def parameters(self) -> int:
        """Number of parameters."""
        width, ffn = self.width, self.ffn
        stem = sum(9 * a * b + b for a, b, _ in self.stem())
        layer = 4 * width * width + 4 * width + 2 * width * ffn + ffn + width + 4 * width
        return stem + (2 + self.patches) * width + self.layers * layer + 2 * width


@VISION.register("tiny", TinyVisionConfig)
class TinyVision(nn.Module):
    """[N,3,H,W] pixels to the last layer's states, normalised, and the last block's CLS row."""

    def __init__(self, config: TinyVisionConfig, dims: Dims | None = None) -> None:
        super().__init__()
        self.config = config
        size = config.dims()
        self.grid = size.grid
        self.pairs = merges(config.merge, config.patches, config.layers)
        self.stem = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=stride, padding=1) for a, b, stride in config.stem()
        )
        self.cls = nn.Parameter(0.02 * torch.randn(config.width))
        self.positions = nn.Parameter(0.02 * torch.randn(1 + config.patches, config.width))
        self.layers = nn.ModuleList(TinyVisionLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self, pixel_values_N3HW: Tensor, need: Need = Need.NONE, levels: tuple[int, ...] = ()
    ) -> Patches:
        """Patches of each image.

        Args:
            pixel_values_N3HW: pixels in [0,1], less `MEAN`, over `STD`.
            need: what to return beside the states.
            levels: which hidden states: 0 is what enters the first layer, i what leaves the i-th;
                the last one is the features, normalised.
        """
        x = pixel_values_N3HW
        for number, convolution in enumerate(self.stem):
            x = convolution(F.gelu(x) if number else x)
        x_NPV = x.flatten(2).transpose(1, 2)
        cls_N1V = self.cls.to(x_NPV.dtype).expand(len(x_NPV), 1, -1)
        x_NSV = torch.cat([cls_N1V, x_NPV], 1) + self.positions
        merging = Merging(x_NSV, self.pairs, cls=True) if any(self.pairs) else None
        hidden: dict[int, Tensor] = {}
        q_NHSd = k_NHSd = x_NSV
        for number, layer in enumerate(self.layers):
            if number in levels:
                hidden[number] = x_NSV
            x_NSV, q_NHSd, k_NHSd = layer(x_NSV, merging, number)
        x_NSV = self.norm(x_NSV if merging is None else merging.in_order(x_NSV))
        hidden[len(self.layers)] = x_NSV
        row_NHS = logits_NP = keys_NPV = None
        if Need.CLS_ATTENTION in need:
            scores_NHS = (q_NHSd[:, :, :1] @ k_NHSd.transpose(-1, -2)).squeeze(2)
            row_NHS = (scores_NHS.float() * q_NHSd.shape[-1] ** -0.5).softmax(-1)
        if need & (Need.KEYS | Need.CLS_LOGITS):
            keys_NSV = k_NHSd.transpose(1, 2).flatten(2)
            keys_NPV = keys_NSV[:, 1:]
            if Need.CLS_LOGITS in need:
                logits_NP = cls_logits(q_NHSd[:, :, 0].flatten(1), keys_NSV)
        return Patches(
            states_NPV=x_NSV[:, 1:],
            grid=self.grid,
            cls_NV=x_NSV[:, 0] if Need.CLS in need else None,
            cls_attention_NHP=None if row_NHS is None else row_NHS[:, :, 1:],
            keys_NPV=keys_NPV if Need.KEYS in need else None,
            cls_logits_NP=logits_NP,
            logit_keys_NPV=None if logits_NP is None else keys_NPV,
            levels=tuple(hidden[i][:, 1:] for i in levels) if Need.LEVELS in need else (),
        )


class TinyVisionLayer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: TinyVisionConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm_1 = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm_2 = nn.LayerNorm(config.width)
        self.up = nn.Linear(config.width, config.ffn)
        self.down = nn.Linear(config.ffn, config.width)

    def forward(
        self, x_NSV: Tensor, merging: Merging | None, number: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The next states, and the queries and keys [N,H,S,d] of this layer, which is `number`."""
        qkv = self.qkv(self.norm_1(x_NSV)).unflatten(-1, (3, self.heads, -1))
        q_NHSd, k_NHSd, v_NHSd = qkv.permute(2, 0, 3, 1, 4)
        bias = None if merging is None else merging.bias(q_NHSd)
        mixed_NHSd = F.scaled_dot_product_attention(q_NHSd, k_NHSd, v_NHSd, attn_mask=bias)
        x_NSV = x_NSV + self.out(mixed_NHSd.transpose(1, 2).flatten(2))
        if merging is not None:
            keys_NSV = k_NHSd.transpose(1, 2).flatten(2)
            x_NSV = merging.merge(x_NSV, keys_NSV, self.heads, number)
        return x_NSV + self.down(F.gelu(self.up(self.norm_2(x_NSV)))), q_NHSd, k_NHSd
