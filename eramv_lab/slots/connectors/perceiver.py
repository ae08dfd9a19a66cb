"""`perceiver`: learned latents read the image's rows and themselves (Flamingo's resampler)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from eramv_lab.registry import CONNECTOR
from eramv_lab.shapes import Dims, Op, VisionDims, linear
from eramv_lab.slots.connectors._reading import (
    LayersConfig,
    ResamplerLayer,
    Size,
    layers_ops,
    layers_parameters,
)
from eramv_lab.slots.connectors._shared import made, op
from eramv_lab.slots.contracts import Anchors, Patches, Question, Tokens


@dataclass(frozen=True, kw_only=True)
class PerceiverConfig(LayersConfig):
    """Learned latents that read the selected rows and themselves, and a map to language width
    (Flamingo's Perceiver resampler, arXiv 2204.14198, section 3.1)."""

    own_rows: ClassVar[bool] = True
    learned: ClassVar[bool] = True

    queries: Size = 64
    """Learned latents, and rows that come out."""
    time: bool = True
    """Add the learned embedding of a frame's time to its rows; an image is one frame."""

    def count_of(self, vision: VisionDims, anchors: int) -> int:
        """Rows that come out: the latents."""
        return self.queries

    def ops(self, dims: Dims, rows: int) -> list[Op]:
        """Operations of the latents on `rows` rows of the image."""
        layers = layers_ops(self, dims.vision, self.queries, rows, itself=True)
        return [*layers, op(linear(self.queries, dims.vision.width, dims.language.width))]

    def parameters(self, dims: Dims) -> int:
        """Number of parameters."""
        wide = dims.vision.width
        learned = (self.queries + self.time) * wide
        return learned + layers_parameters(self, dims.vision) + (wide + 1) * dims.language.width


@CONNECTOR.register("perceiver", PerceiverConfig)
class Perceiver(nn.Module):
    """The rows that were selected, [N,A,V], to [N,queries,D]."""

    def __init__(self, config: PerceiverConfig, dims: Dims) -> None:
        super().__init__()
        wide = dims.vision.width
        self.latents = nn.Parameter(torch.randn(config.queries, wide))
        self.time = nn.Parameter(torch.randn(1, wide)) if config.time else None
        self.layers = nn.ModuleList(
            ResamplerLayer(config, dims.vision, itself=True) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(wide)
        self.to_language = nn.Linear(wide, dims.language.width)

    def forward(
        self, anchors: Anchors, patches: Patches, *, question: Question | None = None
    ) -> Tokens:
        """The latents after they have read the selected rows."""
        image_NAV = anchors.states_NAV
        if self.time is not None:
            image_NAV = image_NAV + self.time.to(image_NAV.dtype)
        rows_NQV = self.latents.to(image_NAV.dtype).repeat(len(image_NAV), 1, 1)
        for layer in self.layers:
            rows_NQV = layer(rows_NQV, image_NAV, anchors.mask_NA)
        return made(self.to_language(self.norm(rows_NQV)))
