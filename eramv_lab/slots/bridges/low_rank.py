"""`low_rank`: a residual adapter through a few dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import silu

from eramv_lab.registry import BRIDGE
from eramv_lab.shapes import Dims, Op
from eramv_lab.slots.bridges._shared import BridgeConfig, matrix


@dataclass(frozen=True, kw_only=True)
class LowRankConfig(BridgeConfig):
    """E + U silu(V E) through `rank` dimensions, U zero at the start (delta-Vision)."""

    rank: Annotated[int, Field(ge=1)] = 128
    """Inner width."""

    def ops(self, dims: Dims, rows: int, layer: int | None) -> list[Op]:
        """Price of one application to `rows` features."""
        width = dims.language.width
        return [matrix(rows, width, self.rank, layer), matrix(rows, self.rank, width, layer)]

    def parameters(self, dims: Dims) -> int:
        """Of one bridge."""
        return 2 * dims.language.width * self.rank


@BRIDGE.register("low_rank", LowRankConfig)
class LowRank(nn.Module):
    """memory_BMD -> [B,M,D]."""

    def __init__(self, config: LowRankConfig, dims: Dims) -> None:
        super().__init__()
        self.down = nn.Linear(dims.language.width, config.rank, bias=False)
        self.up = nn.Linear(config.rank, dims.language.width, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The start: the identity."""
        self.down.reset_parameters()
        nn.init.zeros_(self.up.weight)

    def forward(self, memory_BMD: Tensor, *, layer: nn.Module) -> Tensor:
        return memory_BMD + self.up(silu(self.down(memory_BMD)))
