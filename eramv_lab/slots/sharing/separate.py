"""`separate`: a cross-attention of the band's own, with every weight new."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from eramv_lab.recipe.parse import LATER
from eramv_lab.registry import SHARING
from eramv_lab.shapes import Dims, LanguageDims, Op, linear
from eramv_lab.slots.sharing import Shared, split_heads
from eramv_lab.slots.sharing.kv_copy import plain_state
from eramv_lab.slots.sharing.own_norm import copy_norm
from eramv_lab.slots.sharing.shared import SharedConfig, kv_op

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class SeparateConfig(SharedConfig):
    """New norm, W_q, W_k, W_v and W_o (Flamingo, Llama-3.2-Vision, CogAgent)."""

    own_query = True
    shared_query = False

    init: Literal["copy", "random"] = "copy"
    """Start as the layer's own weights, or at random."""
    norm: Literal["memory", "rows"] = field(default="memory", metadata=LATER)
    """What the new norm is for: the fine features, while rows pass the layer's; or the rows of a
    step of its own, while the features come as they are (Flamingo, Llama-3.2-Vision, CogAgent)."""
    qk_norm: bool = field(default=False, metadata=LATER)
    """A norm on the queries and keys of each head (Llama-3.2-Vision); where the language model's
    own heads have one, the band's always do."""
    narrow: Annotated[int, Field(ge=1)] = field(default=1, metadata=LATER)
    """Heads this many times as narrow as the language model's (CogAgent 4, Flamingo 8)."""

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: a norm without a step of its own, heads that cannot be so narrow."""
        if self.norm == "rows" and spec.fusion is not None and spec.fusion.at == "parallel":
            yield "norm rows needs band.at before or after: beside self-attention rows are normed"
        if self.narrow == 1:
            return
        width = spec.language.dims().head_dim
        if width % self.narrow:
            yield f"narrow {self.narrow} does not divide the width of a head, {width}"
        if self.init == "copy":
            yield f"narrow {self.narrow} leaves nothing to copy: write init random"
        if spec.fusion is not None and spec.fusion.positions != "none":
            yield f"narrow {self.narrow} needs band.positions none: rotations are of full heads"

    @property
    def memory_norm(self) -> Literal["band", "none"]:
        """Its own, or none."""
        return "band" if self.norm == "memory" else "none"

    @property
    def row_norm(self) -> Literal["language", "band"]:
        """The layer's, or its own."""
        return "band" if self.norm == "rows" else "language"

    def heads_of(self, language: LanguageDims) -> LanguageDims:
        """As many heads as the language model has, or narrower ones."""
        return replace(
            language,
            head_dim=language.head_dim // self.narrow,
            qk_norm=language.qk_norm or self.qk_norm,
        )

    def memory_ops(self, language: LanguageDims, memory: int, layer: int) -> list[Op]:
        """Keys and values through the band's own projections."""
        return [kv_op(self.heads_of(language), memory, layer, "band")]

    def row_ops(self, language: LanguageDims, rows: int, layer: int) -> list[Op]:
        """A second W_q and W_o for `rows` rows."""
        flops = linear(rows, language.width, self.heads_of(language).query_width)
        op = {"part": "band", "kind": "linear", "flops": flops, "owner": "band", "layer": layer}
        return [Op(**op), Op(**op, flow="memory")]

    def parameters(self, language: LanguageDims) -> int:
        """The norm, four matrices, and biases (but W_o's) and head norms as the family has them."""
        heads = self.heads_of(language)
        qkv = heads.query_width + 2 * heads.kv_width
        total = heads.width * (1 + qkv + heads.query_width)
        return total + qkv * heads.qkv_bias + 2 * heads.head_dim * heads.qk_norm


@SHARING.register("separate", SeparateConfig)
class Separate(Shared):
    """Own norm and projections, in the layer's number of heads."""

    def __init__(self, config: SeparateConfig, dims: Dims) -> None:
        super().__init__()
        lm = config.heads_of(dims.language)
        self.config = config
        norm = nn.RMSNorm(lm.width, eps=1e-6)
        self.memory_norm = norm if config.norm == "memory" else None
        self.row_norm = norm if config.norm == "rows" else None
        self.q_proj = nn.Linear(lm.width, lm.query_width, bias=lm.qkv_bias)
        self.k_proj = nn.Linear(lm.width, lm.kv_width, bias=lm.qkv_bias)
        self.v_proj = nn.Linear(lm.width, lm.kv_width, bias=lm.qkv_bias)
        self.o_proj = nn.Linear(lm.query_width, lm.width, bias=False)  # self-attention adds it
        self.q_norm = nn.RMSNorm(lm.head_dim, eps=1e-6) if lm.qk_norm else None
        self.k_norm = nn.RMSNorm(lm.head_dim, eps=1e-6) if lm.qk_norm else None
        self.head_dim = lm.head_dim

    def norm_rows(self, layer: Any, hidden_BSD: Tensor) -> Tensor:
        """The band's own norm, where it is for the rows."""
        if self.row_norm is None:
            return super().norm_rows(layer, hidden_BSD)
        return self.row_norm(hidden_BSD).to(hidden_BSD.dtype)

    def norm(self, layer: Any, memory_BMD: Tensor) -> Tensor:
        """The band's own norm, where it is for the fine features."""
        if self.memory_norm is None:
            return memory_BMD
        return self.memory_norm(memory_BMD).to(memory_BMD.dtype)

    def scaling(self, layer: Any) -> float:
        """That of heads of this width."""
        return super().scaling(layer) * self.config.narrow**0.5

    def query(self, layer: Any, normed_BSD: Tensor, own_BHSd: Tensor) -> Tensor:
        """Queries through the band's own W_q."""
        query = split_heads(self.q_proj(normed_BSD), self.head_dim)
        if self.q_norm is not None:
            query = self.q_norm(query).to(query.dtype)
        return query.transpose(1, 2)

    def keys_values(self, layer: Any, memory_BMD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values through the band's own projections."""
        normed_BMD = self.norm(layer, memory_BMD)
        key = split_heads(self.k_proj(normed_BMD), self.head_dim)
        if self.k_norm is not None:
            key = self.k_norm(key).to(key.dtype)
        value = split_heads(self.v_proj(normed_BMD), self.head_dim)
        return key.transpose(1, 2), value.transpose(1, 2)

    def out(self, layer: Any, heads_BSE: Tensor) -> Tensor:
        """The band's own W_o."""
        return self.o_proj(heads_BSE)

    @torch.no_grad()
    def reset_from(self, layer: Any) -> None:
        """The layer's weights, unless `init: random`."""
        if self.config.init == "random":
            return
        norm, attn = self.memory_norm or self.row_norm, layer.self_attn
        assert norm is not None
        copy_norm(norm, layer.input_layernorm)
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(self, name).load_state_dict(plain_state(getattr(attn, name)))
        self.o_proj.weight.copy_(plain_state(attn.o_proj)["weight"])
        if self.q_norm is not None and self.k_norm is not None and hasattr(attn, "q_norm"):
            copy_norm(self.q_norm, attn.q_norm)
            copy_norm(self.k_norm, attn.k_norm)
