"""Sharing: whose projections a band layer uses. Weights are shared by calling, never by aliasing.

A sharing module gets the decoder layer at call time and keeps none of it:

    norm_rows(layer, hidden_BSD)        -> [B,S,D]     where the band is a step of its own
    query(layer, normed_BSD, own_BHSd)  -> [B,H,S,d]   queries of the band, not rotated
    scaling(layer)                      factor on their products with the keys
    keys_values(layer, memory_BMD)      -> two [B,Hkv,M,d], not rotated
    out(layer, heads_BSE)               -> [B,S,D], or None: the layer's own W_o on the sum
    reset_from(layer)                   start from the layer's weights, where it has its own
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class Shared(nn.Module):
    """The layer's own norm and projections; what the other components vary."""

    def norm_rows(self, layer: Any, hidden_BSD: Tensor) -> Tensor:
        """The norm in front of the queries of a step of its own."""
        return layer.input_layernorm(hidden_BSD)

    def scaling(self, layer: Any) -> float:
        """The factor on queries x keys: that of self-attention."""
        return layer.self_attn.scaling

    def query(self, layer: Any, normed_BSD: Tensor, own_BHSd: Tensor) -> Tensor:
        """Queries of the band: those of self-attention."""
        return own_BHSd

    def keys_values(self, layer: Any, memory_BMD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the fine features, through the layer's norm, W_k and W_v."""
        normed_BMD = self.norm(layer, memory_BMD)
        attn = layer.self_attn
        key = split_heads(attn.k_proj(normed_BMD), attn.head_dim)
        if hasattr(attn, "k_norm"):
            key = attn.k_norm(key)
        return key.transpose(1, 2), split_heads(attn.v_proj(normed_BMD), attn.head_dim).transpose(
            1, 2
        )

    def norm(self, layer: Any, memory_BMD: Tensor) -> Tensor:
        """The norm in front of keys and values."""
        return layer.input_layernorm(memory_BMD)

    def out(self, layer: Any, heads_BSE: Tensor) -> Tensor | None:
        """None: the layer applies its W_o once, to the sum with its own heads."""
        return None

    def reset_from(self, layer: Any) -> None:
        """Nothing of its own to start."""


def project_out(layer: Any, heads_BSE: Tensor) -> Tensor:
    """The layer's W_o without its bias, which self-attention adds once."""
    projection = layer.self_attn.o_proj
    out_BSD = projection(heads_BSE)
    return out_BSD if projection.bias is None else out_BSD - projection.bias


def split_heads(rows_BSE: Tensor, head_dim: int) -> Tensor:
    """[B,S,H*d] as [B,S,H,d]."""
    return rows_BSE.view(*rows_BSE.shape[:-1], -1, head_dim)
