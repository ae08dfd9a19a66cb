"""`own_norm`: shared projections behind a norm of the band's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eramv_lab.registry import SHARING
from eramv_lab.shapes import Dims, LanguageDims
from eramv_lab.slots.sharing import Shared
from eramv_lab.slots.sharing.shared import SharedConfig


@dataclass(frozen=True, kw_only=True)
class OwnNormConfig(SharedConfig):
    """The layer's projections, but the fine features pass a norm of their own."""

    @property
    def memory_norm(self) -> Literal["band"]:
        """Its own."""
        return "band"

    def parameters(self, language: LanguageDims) -> int:
        """One scale."""
        return language.width


@SHARING.register("own_norm", OwnNormConfig)
class OwnNorm(Shared):
    """An RMS norm of width D in front of the layer's W_k and W_v, started from the layer's norm."""

    def __init__(self, config: OwnNormConfig, dims: Dims) -> None:
        super().__init__()
        self.memory_norm = nn.RMSNorm(dims.language.width, eps=1e-6)

    def norm(self, layer: Any, memory_BMD: Tensor) -> Tensor:
        """The band's own norm."""
        return self.memory_norm(memory_BMD).to(memory_BMD.dtype)

    def reset_from(self, layer: Any) -> None:
        """The layer's scale and epsilon."""
        copy_norm(self.memory_norm, layer.input_layernorm)


@torch.no_grad()
def copy_norm(norm: nn.RMSNorm, source: Any) -> None:
    """Scale and epsilon of a transformers RMS norm into `norm`."""
    norm.weight.copy_(source.weight)
    norm.eps = source.variance_epsilon
