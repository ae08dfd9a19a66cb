"""`ffn`: the decoder layer's own feed-forward, kept for the fine features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

from torch import Tensor, nn

from eramv_lab.recipe.parse import LATER
from eramv_lab.registry import BRIDGE
from eramv_lab.shapes import Dims, Op
from eramv_lab.slots.bridges._shared import BridgeConfig, matrix

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class FfnConfig(BridgeConfig):
    """E + FFN(norm(E)) with the layer's own feed-forward and norm; no weights of its own."""

    read: Literal["after", "before"] = field(default="after", metadata=LATER)
    """Keys and values are made of what the feed-forward left, or of what came into the layer."""

    @property
    def ahead(self) -> bool:
        """Its result is the next layer's."""
        return self.read == "before"

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Nothing that layers could have in common, a result that no layer would read."""
        if self.ahead and not self.carry:
            yield "read: before, and without carry no layer reads its result; write carry: true"
        if self.share == "band":
            yield "share: band, and each layer brings its own feed-forward; write share: layer"

    def ops(self, dims: Dims, rows: int, layer: int | None) -> list[Op]:
        """Price of one application to `rows` features: the gated three matrices."""
        width, inner = dims.language.width, dims.language.ffn
        shapes = {"gate": (width, inner), "up": (width, inner), "down": (inner, width)}
        return [
            matrix(rows, *shape, layer, owner="language", weights=(name,))
            for name, shape in shapes.items()
        ]

    def parameters(self, dims: Dims) -> int:
        """None."""
        return 0


@BRIDGE.register("ffn", FfnConfig)
class Ffn(nn.Module):
    """memory_BMD -> [B,M,D], as `layer` would treat rows of its own."""

    def __init__(self, config: FfnConfig, dims: Dims) -> None:
        super().__init__()

    def forward(self, memory_BMD: Tensor, *, layer: nn.Module) -> Tensor:
        own = cast(Any, layer)
        return memory_BMD + own.mlp(own.post_attention_layernorm(memory_BMD))
