"""`acformer`: the anchors read the whole image, layer by layer, and go on as its tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from eramv_lab.registry import CONNECTOR
from eramv_lab.shapes import Dims, Op
from eramv_lab.slots.connectors._reading import (
    LayersConfig,
    ResamplerLayer,
    layers_ops,
    layers_parameters,
)
from eramv_lab.slots.connectors.mlp import MlpConnector, MlpConnectorConfig
from eramv_lab.slots.contracts import Anchors, Need, Patches, Question, Tokens


@dataclass(frozen=True, kw_only=True)
class AcformerConfig(LayersConfig):
    """Anchors that read all patches and CLS, then two linear layers (AcFormer, arXiv 2405.17815,
    section 3.2; `ffn` as in its code, its text has 2)."""

    def ops(self, dims: Dims, rows: int) -> list[Op]:
        """Operations on `rows` anchors."""
        layers = layers_ops(self, dims.vision, rows, dims.vision.tokens, itself=False)
        return layers + MlpConnectorConfig().ops(dims, rows)

    def parameters(self, dims: Dims) -> int:
        """Number of parameters."""
        return layers_parameters(self, dims.vision) + MlpConnectorConfig().parameters(dims)


@CONNECTOR.register("acformer", AcformerConfig)
class Acformer(nn.Module):
    """Anchors [N,A,V] to [N,A,D]; each keeps its place (its patch)."""

    def __init__(self, config: AcformerConfig, dims: Dims) -> None:
        super().__init__()
        self.need = Need.CLS if dims.vision.has_cls else Need.NONE
        self.layers = nn.ModuleList(
            ResamplerLayer(config, dims.vision, itself=False) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(dims.vision.width)
        self.mlp = MlpConnector(MlpConnectorConfig(), dims)

    def forward(
        self, anchors: Anchors, patches: Patches, *, question: Question | None = None
    ) -> Tokens:
        """The anchors' rows after they have read all patches and, where there is one, CLS."""
        image_NTV = patches.states_NPV
        if self.need:
            assert patches.cls_NV is not None
            image_NTV = torch.cat([patches.cls_NV[:, None], image_NTV], dim=1)
        rows_NAV = anchors.states_NAV
        for layer in self.layers:
            rows_NAV = layer(rows_NAV, image_NTV)
        states_NAD = self.mlp(self.norm(rows_NAV))
        return Tokens(states_NAD=states_NAD, index_NA=anchors.index_NA, mask_NA=anchors.mask_NA)
