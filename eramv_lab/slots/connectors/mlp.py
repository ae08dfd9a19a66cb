"""Connectors that carry each row alone from vision width to language width."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from eramv_lab.registry import CONNECTOR
from eramv_lab.shapes import Dims, Op, linear
from eramv_lab.slots.connectors._shared import ConnectorConfig, op


@dataclass(frozen=True, kw_only=True)
class MlpConnectorConfig(ConnectorConfig):
    """Two linear layers with a GELU between, as in LLaVA-1.5 (arXiv 2310.03744)."""

    skip: bool = False
    """Add a linear layer straight from vision width to language width beside the two."""

    per_token: ClassVar[bool] = True

    def ops(self, dims: Dims, rows: int) -> list[Op]:
        """Operations on `rows` rows."""
        wide, deep = dims.vision.width, dims.language.width
        ops = [op(linear(rows, wide, deep)), op(linear(rows, deep, deep))]
        if self.skip:  # it starts at the tower's rows again, not behind the first matrix
            ops.append(op(linear(rows, wide, deep), "vision"))
        return ops

    def parameters(self, dims: Dims) -> int:
        """Number of parameters."""
        wide, deep = dims.vision.width, dims.language.width
        return (wide * deep + deep) + (deep * deep + deep) + int(self.skip) * wide * deep


@CONNECTOR.register("mlp2x_gelu", MlpConnectorConfig)
class MlpConnector(nn.Module):
    """[N,R,V] to [N,R,D]; the matrices are named as in transformers' Llava."""

    def __init__(self, config: MlpConnectorConfig, dims: Dims) -> None:
        super().__init__()
        wide, deep = dims.vision.width, dims.language.width
        self.linear_1 = nn.Linear(wide, deep)
        self.linear_2 = nn.Linear(deep, deep)
        self.skip = nn.Linear(wide, deep, bias=False) if config.skip else None

    def forward(self, states_NRV: Tensor) -> Tensor:
        """Each row in language width."""
        states_NRD = self.linear_2(F.gelu(self.linear_1(states_NRV)))
        return states_NRD if self.skip is None else states_NRD + self.skip(states_NRV)


@dataclass(frozen=True, kw_only=True)
class LinearConnectorConfig(ConnectorConfig):
    """One linear layer, as in the first LLaVA (arXiv 2304.08485)."""

    per_token: ClassVar[bool] = True

    def ops(self, dims: Dims, rows: int) -> list[Op]:
        """Operations on `rows` rows."""
        return [op(linear(rows, dims.vision.width, dims.language.width))]

    def parameters(self, dims: Dims) -> int:
        """Number of parameters."""
        return (dims.vision.width + 1) * dims.language.width


@CONNECTOR.register("linear", LinearConnectorConfig)
class LinearConnector(nn.Module):
    """[N,R,V] to [N,R,D]."""

    def __init__(self, config: LinearConnectorConfig, dims: Dims) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(dims.vision.width, dims.language.width)

    def forward(self, states_NRV: Tensor) -> Tensor:
        """Each row in language width."""
        return self.linear_1(states_NRV)
