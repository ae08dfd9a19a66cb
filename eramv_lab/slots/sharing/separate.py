"""`separate`: a cross-attention of the band's own, with every weight new."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from eramv_lab.registry import SHARING
from eramv_lab.shapes import Dims, LanguageDims, Op, linear
from eramv_lab.slots.sharing import Shared, split_heads
from eramv_lab.slots.sharing.kv_copy import plain_state
from eramv_lab.slots.sharing.own_norm import copy_norm
from eramv_lab.slots.sharing.shared import SharedConfig, kv_op


@dataclass(frozen=True, kw_only=True)
class SeparateConfig(SharedConfig):
    """New norm, W_q, W_k, W_v and W_o (Flamingo, Llama-3.2-Vision)."""

    own_query = True
    own_norm = True
    shared_query = False

    init: Literal["copy", "random"] = "copy"
    """Start as the layer's own weights, or at random."""

    def memory_ops(self, language: LanguageDims, memory: int, layer: int) -> list[Op]:
        """Keys and values through the band's own projections."""
        return [kv_op(language, memory, layer, "band")]

    def row_ops(self, language: LanguageDims, rows: int, layer: int) -> list[Op]:
        """A second W_q and W_o for `rows` rows."""
        flops = linear(rows, language.width, language.query_width)
        op = {"part": "band", "kind": "linear", "flops": flops, "owner": "band", "layer": layer}
        return [Op(**op), Op(**op, flow="memory")]

    def parameters(self, language: LanguageDims) -> int:
        """The norm, four matrices, and biases (but W_o's) and head norms as the family has them."""
        qkv = language.query_width + 2 * language.kv_width
        total = language.width * (1 + qkv + language.query_width)
        return total + qkv * language.qkv_bias + 2 * language.head_dim * language.qk_norm


@SHARING.register("separate", SeparateConfig)
class Separate(Shared):
    """Own norm and projections of the layer's shapes."""

    def __init__(self, config: SeparateConfig, dims: Dims) -> None:
        super().__init__()
        lm = dims.language
        self.config = config
        self.memory_norm = nn.RMSNorm(lm.width, eps=1e-6)
        self.q_proj = nn.Linear(lm.width, lm.query_width, bias=lm.qkv_bias)
        self.k_proj = nn.Linear(lm.width, lm.kv_width, bias=lm.qkv_bias)
        self.v_proj = nn.Linear(lm.width, lm.kv_width, bias=lm.qkv_bias)
        self.o_proj = nn.Linear(lm.query_width, lm.width, bias=False)  # self-attention adds it
        self.q_norm = nn.RMSNorm(lm.head_dim, eps=1e-6) if lm.qk_norm else None
        self.k_norm = nn.RMSNorm(lm.head_dim, eps=1e-6) if lm.qk_norm else None
        self.head_dim = lm.head_dim

    def query(self, layer: Any, normed_BSD: Tensor, own_BHSd: Tensor) -> Tensor:
        """Queries through the band's own W_q."""
        query = split_heads(self.q_proj(normed_BSD), self.head_dim)
        if self.q_norm is not None:
            query = self.q_norm(query).to(query.dtype)
        return query.transpose(1, 2)

    def keys_values(self, layer: Any, memory_BMD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values through the band's own norm and projections."""
        normed_BMD = self.memory_norm(memory_BMD).to(memory_BMD.dtype)
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
        copy_norm(self.memory_norm, layer.input_layernorm)
        attn = layer.self_attn
        for name in ("q_proj", "k_proj", "v_proj"):
            getattr(self, name).load_state_dict(plain_state(getattr(attn, name)))
        self.o_proj.weight.copy_(plain_state(attn.o_proj)["weight"])
        if self.q_norm is not None and self.k_norm is not None:
            copy_norm(self.q_norm, attn.q_norm)
            copy_norm(self.k_norm, attn.k_norm)
