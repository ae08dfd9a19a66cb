"""`mlp`: a residual two-matrix network on the fine features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from eramv_lab.registry import BRIDGE
from eramv_lab.shapes import Dims, Op
from eramv_lab.slots.bridges._shared import ACTIVATIONS, Activation, BridgeConfig, matrix


@dataclass(frozen=True, kw_only=True)
class MlpConfig(BridgeConfig):
    """E + W2 act(W1 E); the last matrix starts at zero, so the bridge starts as the identity."""

    hidden: Annotated[int, Field(ge=1)] | None = None
    """Inner width; none: the language model's."""
    activation: Activation = "gelu"
    """Between the two matrices."""

    def ops(self, dims: Dims, rows: int, layer: int | None) -> list[Op]:
        """Price of one application to `rows` features."""
        width, hidden = dims.language.width, self.hidden or dims.language.width
        return [matrix(rows, width, hidden, layer), matrix(rows, hidden, width, layer)]

    def parameters(self, dims: Dims) -> int:
        """Of one bridge."""
        width, hidden = dims.language.width, self.hidden or dims.language.width
        return 2 * width * hidden + hidden + width


@BRIDGE.register("mlp", MlpConfig)
class Mlp(nn.Module):
    """memory_BMD -> [B,M,D]."""

    def __init__(self, config: MlpConfig, dims: Dims) -> None:
        super().__init__()
        width, hidden = dims.language.width, config.hidden or dims.language.width
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.activation = ACTIVATIONS[config.activation]
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The start: the identity."""
        self.up.reset_parameters()
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, memory_BMD: Tensor, *, layer: nn.Module) -> Tensor:
        return memory_BMD + self.down(self.activation(self.up(memory_BMD)))
