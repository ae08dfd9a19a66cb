"""`projector`: each band layer projects the tower's features for itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from eramv_lab.recipe.parse import LATER
from eramv_lab.registry import BRIDGE, CONNECTOR
from eramv_lab.shapes import Dims, Op
from eramv_lab.slots.bridges._shared import BridgeConfig, matrix

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig(BridgeConfig):
    """W2 gelu(W1 x) from vision to language width, in the connector's place (SAISA)."""

    input: ClassVar[Literal["language", "vision"]] = "vision"

    skip: bool = field(default=False, metadata=LATER)
    """Add a linear layer straight from vision width to language width beside the two."""
    init: Literal["random", "connector"] = field(default="random", metadata=LATER)
    """Start from random weights or as a copy of the model's connector, an `mlp2x_gelu`."""

    @property
    def copies(self) -> bool:
        """Whether its start is the connector."""
        return self.init == "connector"

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: a result that is carried on, a connector that cannot be copied."""
        if self.carry:
            yield "carry: true, and a projector reads the tower's width, not its own result's"
        if self.copies:
            yield from self._check_copy(spec.connector)

    def _check_copy(self, connector: Any) -> Iterator[str]:
        name = connector and CONNECTOR.of(connector).name
        if name != "mlp2x_gelu":
            yield f"init: connector copies an mlp2x_gelu, and the connector is {name or 'none'}"
        elif connector.skip != self.skip:
            skip = f"skip: {str(connector.skip).lower()}"
            yield f"init: connector, and the connector has {skip}; write {skip} here too"

    def ops(self, dims: Dims, rows: int, layer: int | None) -> list[Op]:
        """Price of one application to `rows` features."""
        vision, language = dims.vision.width, dims.language.width
        return [
            matrix(rows, vision, language, layer, flow="vision"),
            matrix(rows, language, language, layer),
            *[matrix(rows, vision, language, layer, flow="vision")] * self.skip,
        ]

    def parameters(self, dims: Dims) -> int:
        """Of one bridge."""
        vision, language = dims.vision.width, dims.language.width
        matrices = (1 + self.skip) * vision * language + language * language
        return matrices + 2 * language


@BRIDGE.register("projector", ProjectorConfig)
class Projector(nn.Module):
    """memory_BMV -> [B,M,D]."""

    def __init__(self, config: ProjectorConfig, dims: Dims) -> None:
        super().__init__()
        vision, language = dims.vision.width, dims.language.width
        self.up = nn.Linear(vision, language)
        self.out = nn.Linear(language, language)
        self.skip = nn.Linear(vision, language, bias=False) if config.skip else None

    @torch.no_grad()
    def reset_from(self, connector: Any) -> None:
        """The connector's weights."""
        self.up.load_state_dict(connector.linear_1.state_dict())
        self.out.load_state_dict(connector.linear_2.state_dict())
        if self.skip is not None:
            self.skip.load_state_dict(connector.skip.state_dict())

    def forward(self, memory_BMV: Tensor, *, layer: nn.Module) -> Tensor:
        made_BMD = self.out(gelu(self.up(memory_BMV)))
        return made_BMD if self.skip is None else made_BMD + self.skip(memory_BMV)
