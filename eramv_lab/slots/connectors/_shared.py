"""What all connectors share: what their configs tell of the rows that they take and make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from eramv_lab.shapes import Dims, Op, VisionDims
from eramv_lab.slots.contracts import Tokens

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


def op(
    flops: int,
    flow: Literal["connector", "vision", "memory"] = "connector",
    kind: Literal["linear", "attention"] = "linear",
) -> Op:
    """An operation of a connector; `flow` as `Op` tells it."""
    return Op(part="connector", kind=kind, flops=flops, owner="connector", flow=flow)


@dataclass(frozen=True, kw_only=True)
class ConnectorConfig(ABC):
    """A connector that carries each row alone: as many rows come out as go in.

    Its module: `forward(states_NRV) -> states_NRD`. One that is not per token:
    `forward(anchors: Anchors, patches: Patches, *, question: Question | None) -> Tokens`, the
    question where the config reads one. A field `levels` numbers the hidden states (0: the
    embeddings) that it reads beside the features.
    """

    per_token: ClassVar[bool] = True
    """A row of the result is made of one row alone, whatever stands beside it."""
    own_rows: ClassVar[bool] = False
    """Its rows are no patches (index -1), and there are as many whatever was selected."""
    learned: ClassVar[bool] = False
    """Its rows begin as parameters and not as rows of the tower."""

    @property
    def reads_question(self) -> bool:
        """Its rows depend on what is asked."""
        return False

    def count_of(self, vision: VisionDims, anchors: int) -> int:
        """Rows that come out of `anchors` rows per image."""
        return anchors

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Nothing can be wrong."""
        yield from ()

    @abstractmethod
    def ops(self, dims: Dims, rows: int) -> list[Op]:
        """Operations on `rows` rows; where it reads a question also `question`, its words."""

    @abstractmethod
    def parameters(self, dims: Dims) -> int:
        """Number of parameters."""


def made(states_NAD: Tensor) -> Tokens:
    """Rows that are no patches."""
    index_NA = torch.full(states_NAD.shape[:2], -1, dtype=torch.long, device=states_NAD.device)
    return Tokens(states_NAD=states_NAD, index_NA=index_NA)
