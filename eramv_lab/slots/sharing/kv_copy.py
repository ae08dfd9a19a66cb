"""`kv_copy`: new key and value projections, started from the layer's; queries are shared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eramv_lab.registry import SHARING
from eramv_lab.shapes import Dims, LanguageDims, Op
from eramv_lab.slots.sharing import Shared, split_heads
from eramv_lab.slots.sharing.shared import SharedConfig, kv_op


@dataclass(frozen=True, kw_only=True)
class KvCopyConfig(SharedConfig):
    """New W_k and W_v that start as the layer's; norm, queries and W_o are shared (mPLUG-Owl3)."""

    def memory_ops(self, language: LanguageDims, memory: int, layer: int) -> list[Op]:
        """Keys and values through the band's own projections."""
        return [kv_op(language, memory, layer, "band")]

    def parameters(self, language: LanguageDims) -> int:
        """Two matrices and, where the family has them, their biases."""
        return 2 * language.kv_width * (language.width + int(language.qkv_bias))


@SHARING.register("kv_copy", KvCopyConfig)
class KvCopy(Shared):
    """Own W_k, W_v: [B,M,D] -> two [B,Hkv,M,d]."""

    def __init__(self, config: KvCopyConfig, dims: Dims) -> None:
        super().__init__()
        lm = dims.language
        self.k_proj = nn.Linear(lm.width, lm.kv_width, bias=lm.qkv_bias)
        self.v_proj = nn.Linear(lm.width, lm.kv_width, bias=lm.qkv_bias)

    def keys_values(self, layer: Any, memory_BMD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (through the layer's key norm, where it has one) and values."""
        normed_BMD, attn = self.norm(layer, memory_BMD), layer.self_attn
        key = split_heads(self.k_proj(normed_BMD), attn.head_dim)
        if hasattr(attn, "k_norm"):
            key = attn.k_norm(key)
        value = split_heads(self.v_proj(normed_BMD), attn.head_dim)
        return key.transpose(1, 2), value.transpose(1, 2)

    @torch.no_grad()
    def reset_from(self, layer: Any) -> None:
        """The layer's W_k and W_v."""
        self.k_proj.load_state_dict(plain_state(layer.self_attn.k_proj))
        self.v_proj.load_state_dict(plain_state(layer.self_attn.v_proj))


def plain_state(projection: Any) -> dict[str, Tensor]:
    """Weight and bias of a projection, also where an adapter wraps it."""
    base = getattr(projection, "base_layer", projection)
    return {k: v.detach() for k, v in base.named_parameters(recurse=False)}
