"""`projector`: each band layer projects the tower's features for itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor, nn
from torch.nn.functional import gelu

from eramv_lab.registry import BRIDGE
from eramv_lab.shapes import Dims, Op
from eramv_lab.slots.bridges._shared import BridgeConfig, matrix

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig(BridgeConfig):
    """W2 gelu(W1 x) from vision to language width, in the connector's place (SAISA)."""

    input: ClassVar[Literal["language", "vision"]] = "vision"

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """A projection cannot be carried on: it leaves the width that it reads."""
        if self.carry:
            yield "carry: true, and a projector reads the tower's width, not its own result's"

    def ops(self, dims: Dims, rows: int, layer: int | None) -> list[Op]:
        """Price of one application to `rows` features."""
        vision, language = dims.vision.width, dims.language.width
        return [
            matrix(rows, vision, language, layer, flow="vision"),
            matrix(rows, language, language, layer),
        ]

    def parameters(self, dims: Dims) -> int:
        """Of one bridge."""
        vision, language = dims.vision.width, dims.language.width
        return vision * language + language * language + 2 * language


@BRIDGE.register("projector", ProjectorConfig)
class Projector(nn.Module):
    """memory_BMV -> [B,M,D]."""

    def __init__(self, config: ProjectorConfig, dims: Dims) -> None:
        super().__init__()
        self.up = nn.Linear(dims.vision.width, dims.language.width)
        self.out = nn.Linear(dims.language.width, dims.language.width)

    def reset_parameters(self) -> None:
        """The start: random, since nothing else carries the features."""
        self.up.reset_parameters()
        self.out.reset_parameters()

    def forward(self, memory_BMV: Tensor, *, layer: nn.Module) -> Tensor:
        return self.out(gelu(self.up(memory_BMV)))
