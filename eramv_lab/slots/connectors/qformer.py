"""`qformer`: learned queries talk to one another, to the image, and to the question if they may."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from eramv_lab.registry import CONNECTOR
from eramv_lab.shapes import Dims, Op, VisionDims, attention, linear
from eramv_lab.slots.connectors._reading import Size
from eramv_lab.slots.connectors._shared import ConnectorConfig, made, op
from eramv_lab.slots.contracts import Anchors, Patches, Question, Tokens

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec

EPS = 1e-12
"""Of its norms, as in BERT."""


@dataclass(frozen=True, kw_only=True)
class QformerConfig(ConnectorConfig):
    """The Q-Former of BLIP-2 (arXiv 2301.12597, section 3.1), with `question` InstructBLIP's
    (arXiv 2305.06500, section 2.3); transformers' own modules. Then a linear layer."""

    per_token: ClassVar[bool] = False
    own_rows: ClassVar[bool] = True
    learned: ClassVar[bool] = True

    queries: Size = 32
    """Learned queries, and rows that come out."""
    layers: Size = 12
    """Layers; in each the queries (and words) attend to one another."""
    width: Size = 768
    """Width of a query."""
    heads: Size = 12
    """Heads of the attention."""
    ffn: Size = 3072
    """Inner width of the feed-forward."""
    every: Size = 2
    """The queries read the image in the first layer, and in every so many-th from there."""
    norm: bool = True
    """A norm of the tower's rows first, which BLIP-2 trains with the Q-Former."""
    question: bool = False
    """The words of the question are rows beside the queries, with a feed-forward of their own."""
    words: Size = 512
    """Longest question; what is behind is not read. Only with `question`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of hidden numbers and of attention that is dropped in training."""

    @property
    def reads_question(self) -> bool:
        """Its rows depend on what is asked."""
        return self.question

    def count_of(self, vision: VisionDims, anchors: int) -> int:
        """Rows that come out: the queries."""
        return self.queries

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: heads that do not fill the width."""
        if self.width % self.heads:
            yield f"heads {self.heads} do not divide the width {self.width}"

    def ops(self, dims: Dims, rows: int, question: int = 0) -> list[Op]:
        """Operations on `rows` rows of the image and `question` words."""
        wide, narrow = dims.vision.width, self.width
        words = question if self.question else 0
        both, feed = self.queries + words, linear(1, narrow, self.ffn)
        square, image = linear(1, narrow, narrow), "memory" if self.norm else "vision"
        found: list[Op] = []
        for layer in range(self.layers):
            found += [op(both * square)] * 3
            found += [op(attention(both, both, narrow), kind="attention"), op(both * square)]
            if words:  # before the queries have seen the image: so gradients come in this order
                found += [op(words * feed)] * 2
            if layer % self.every == 0:
                found.append(op(self.queries * square))
                found += [op(linear(rows, wide, narrow), image)] * 2
                found.append(op(attention(self.queries, rows, narrow), "memory", "attention"))
                found.append(op(self.queries * square))
            found += [op(self.queries * feed)] * 2
        return [*found, op(linear(self.queries, narrow, dims.language.width))]

    def parameters(self, dims: Dims) -> int:
        """Number of parameters."""
        wide, narrow = dims.vision.width, self.width
        square = narrow * narrow + narrow
        feed = 2 * narrow * self.ffn + self.ffn + narrow + 2 * narrow
        layer = 4 * square + 2 * narrow + feed * (2 if self.question else 1)
        image = 2 * square + 2 * (wide + 1) * narrow + 2 * narrow
        reading = len(range(0, self.layers, self.every))
        text = (dims.language.vocab + self.words) * narrow if self.question else 0
        front = self.queries * narrow + 2 * narrow + 2 * wide * self.norm
        last = (narrow + 1) * dims.language.width
        return front + text + self.layers * layer + reading * image + last


@CONNECTOR.register("qformer", QformerConfig)
class Qformer(nn.Module):
    """The rows that were selected, [N,A,V], to [N,queries,D]."""

    def __init__(self, config: QformerConfig, dims: Dims) -> None:
        super().__init__()
        wide = dims.vision.width
        self.words = config.words if config.question else 0
        self.queries = nn.Parameter(torch.randn(config.queries, config.width) * 0.02)
        self.norm = nn.LayerNorm(wide, eps=1e-6) if config.norm else None
        self.former: Any = _former(config, wide, dims.language.vocab)
        self.to_language = nn.Linear(config.width, dims.language.width)

    def forward(
        self, anchors: Anchors, patches: Patches, *, question: Question | None = None
    ) -> Tokens:
        """The queries after they have read the selected rows, and the question where they may.

        Raises ValueError where there is none to read.
        """
        image_NAV = anchors.states_NAV
        if self.norm is not None:
            image_NAV = self.norm(image_NAV)
        queries_NQE = self.queries.repeat(len(image_NAV), 1, 1)
        mask = None if anchors.mask_NA is None else anchors.mask_NA[:, None, None]
        seen = {"encoder_hidden_states": image_NAV, "encoder_attention_mask": mask}
        if self.words:
            seen |= self._asked(question)
        rows_NRE = self.former(query_embeds=queries_NQE, **seen).last_hidden_state
        return made(self.to_language(rows_NRE[:, : self.queries.shape[0]]))

    def _asked(self, question: Question | None) -> dict[str, Tensor]:
        """The words, where each stands in the question, and who may look at whom."""
        if question is None:
            raise ValueError("this Q-Former reads the question, and none is given")
        place_BT = question.mask_BT.long().cumsum(1) - 1
        read_BT = question.mask_BT & (place_BT < self.words)
        ones_BQ = read_BT.new_ones(len(read_BT), self.queries.shape[0])
        keys_BR = torch.cat([ones_BQ, read_BT], dim=1)
        return {
            "input_ids": question.ids_BT,
            "position_ids": place_BT.clamp(0, self.words - 1),
            # each row its keys, so that the mask is taken as it is, and nothing waits for it
            "attention_mask": keys_BR[:, None, None].expand(-1, -1, keys_BR.shape[1], -1),
        }


def _former(config: QformerConfig, vision: int, vocab: int) -> nn.Module:
    from transformers import (
        Blip2QFormerConfig,
        Blip2QFormerModel,
        InstructBlipQFormerConfig,
        InstructBlipQFormerModel,
    )

    sizes: dict[str, Any] = {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.ffn,
        "cross_attention_frequency": config.every,
        "encoder_hidden_size": vision,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "layer_norm_eps": EPS,
        "attn_implementation": "sdpa",
    }
    if not config.question:
        return Blip2QFormerModel(Blip2QFormerConfig(**sizes))
    text = {"vocab_size": vocab, "max_position_embeddings": config.words, "pad_token_id": None}
    return InstructBlipQFormerModel(InstructBlipQFormerConfig(**sizes, **text))
