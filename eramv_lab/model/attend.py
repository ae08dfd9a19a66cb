"""Attention of one layer: to the sequence's rows, and to the fine features with whose weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from eramv_lab.model.cache import StreamCache
from eramv_lab.model.rank import Ranking
from eramv_lab.model.rows import Live
from eramv_lab.model.score import attention_to, rotate, rows_of
from eramv_lab.slots.sharing import project_out, split_heads


@dataclass(frozen=True, slots=True)
class Reading:
    """What the rows of a stage read of the fine features."""

    memory_BMD: Tensor | None
    """None: keys and values are in the cache."""
    rope: tuple[Tensor, Tensor] | None
    """cos and sin [B,M,d] of the fine features; None: the band is not rotated."""
    mask_B1SM: Tensor | None
    """True where a row may read; None: everything. No row of it is empty."""
    readers_BS1: Tensor | None
    """0 for rows that do not read; None: all do."""
    bridge: nn.Module | None = None
    """The bridge that all layers share, where it is not the layer's own."""


class Work:
    """One pass through one layer's attention; lives for that pass."""

    def __init__(
        self,
        layer: Any,
        mask: Tensor | None,
        rope: tuple[Tensor, Tensor],
        past: StreamCache | None,
        reading: Reading | None,
        live: Live | None = None,
    ) -> None:
        self.live, self.live_rope = live, rope if live is None else live.rope
        self.layer, self.attn = layer, layer.self_attn
        self.mask, self.rope, self.past, self.reading = mask, rope, past, reading
        self.band: Any = layer.band if reading is not None else None
        self.memory_BMD = None if reading is None else reading.memory_BMD
        self.self_map: Tensor | None = None
        self.cross_map: Tensor | None = None

    def bridge(self) -> Tensor | None:
        """What the bridge makes of the fine features, for this layer's keys and values.

        A bridge `ahead` makes it for the next layer: keys and values are made of what came in.
        """
        if self.memory_BMD is None or self.reading is None:
            return None
        module = self.reading.bridge if self.reading.bridge is not None else self.band.bridge
        made_BMD = self.memory_BMD
        if module is not None:
            made_BMD = module(made_BMD, layer=self.layer)
        if not self.band.ahead:
            self.memory_BMD = made_BMD
        return made_BMD

    def project(
        self, normed_BSD: Tensor, live_BLD: Tensor, rankings: Sequence[Ranking], visible_BS: Any
    ) -> list[Tensor]:
        """Keys and values of the rows, queries of the live ones; scores by each ranking."""
        attn = self.attn
        query = split_heads(attn.q_proj(live_BLD), attn.head_dim)
        key = split_heads(attn.k_proj(normed_BSD), attn.head_dim)
        if hasattr(attn, "q_norm"):
            query, key = attn.q_norm(query), attn.k_norm(key)
        value = split_heads(attn.v_proj(normed_BSD), attn.head_dim).transpose(1, 2)
        self.plain_BHSd, key = query.transpose(1, 2), key.transpose(1, 2)
        if self.live is None:
            self.query_BHSd, self.key = apply_rotary_pos_emb(self.plain_BHSd, key, *self.rope)
        else:
            self.query_BHSd, self.key = (
                rotate(self.plain_BHSd, self.live_rope),
                rotate(key, self.rope),
            )
        self.value = value
        scores = [self._rank(one, visible_BS) for one in rankings]
        if self.past is not None:
            self.key, self.value = self.past.self_attention_cache.update(
                self.key, self.value, attn.layer_idx
            )
        return scores

    def _rank(self, ranking: Ranking, visible_BS: Tensor | None) -> Tensor:
        """[B,S] what the ranking rows pay to each row, by the queries that are made anyway."""
        index_BR, weight_BR = ranking
        query_BHRd = self.query_BHSd
        if index_BR is not None:
            place_BR = index_BR if self.live is None else self.live.find(index_BR)
            query_BHRd = rows_of(query_BHRd, place_BR)
        elif self.live is not None:
            assert weight_BR is not None
            index_BR = self.live.index_BL
            weight_BR = weight_BR.gather(1, index_BR)
        return attention_to(
            self.attn, query_BHRd, self.key, Ranking(index_BR, weight_BR), visible_BS
        )

    def attend(self, normed_BSD: Tensor, *, cross: bool) -> Tensor:
        """Self-attention and, in the parallel place, the band beside it: [B,S,D]."""
        if cross and self.band.config.softmax == "joint":
            return self.attn.o_proj(self._joint())
        heads, self.self_map = self._call(
            self.query_BHSd, self.key, self.value, self.mask, causal=True
        )
        if not cross:
            return self.attn.o_proj(heads)
        read_BSE, gate = self._read(normed_BSD)
        sharing = self.band.sharing
        if self.band.config.combine == "mix":
            return self.attn.o_proj(heads * (1 - self._only_readers(gate)) + read_BSE)
        out_BSD = sharing.out(self.layer, read_BSE)
        if out_BSD is None:
            return self.attn.o_proj(heads + read_BSE)
        return self.attn.o_proj(heads) + self._only_readers(out_BSD)

    def own_step(self, hidden_BSD: Tensor) -> Tensor:
        """The rows after the band's own step, before or after self-attention: [B,S,D]."""
        sharing, attn = self.band.sharing, self.attn
        normed_BSD = sharing.norm_rows(self.layer, hidden_BSD)
        if self.band.shared_query:
            plain = split_heads(attn.q_proj(normed_BSD), attn.head_dim)
            if hasattr(attn, "q_norm"):
                plain = attn.q_norm(plain)
            self.plain_BHSd = plain.transpose(1, 2)
        else:
            self.plain_BHSd = normed_BSD.new_empty(0)
        read_BSE, _ = self._read(normed_BSD)
        out_BSD = sharing.out(self.layer, read_BSE)
        out_BSD = project_out(self.layer, read_BSE) if out_BSD is None else out_BSD
        hidden_BSD = hidden_BSD + self._only_readers(out_BSD)
        if self.band.ffn is None:
            return hidden_BSD
        return hidden_BSD + self._only_readers(self.band.ffn(hidden_BSD))

    def _read(self, normed_BSD: Tensor) -> tuple[Tensor, Any]:
        """The gated heads of the band [B,S,H*d], and the gate."""
        reading, band = self.reading, self.band
        assert reading is not None
        query = band.sharing.query(self.layer, normed_BSD, self.plain_BHSd)
        if reading.rope is not None:
            query = rotate(query, self.live_rope)
        key, value = self._memory()
        heads, self.cross_map = self._call(
            query,
            key,
            value,
            reading.mask_B1SM,
            causal=False,
            scaling=band.sharing.scaling(self.layer),
        )
        gate: Any = 1
        if band.gate is not None:
            gate = band.gate(normed_BSD)
            heads = heads * gate
        return self._only_readers(heads), gate

    def _memory(self) -> tuple[Tensor, Tensor]:
        """Keys and values of the fine features: made at prefill, then cached."""
        index = self.attn.layer_idx
        if self.memory_BMD is None:
            assert self.past is not None
            cached = self.past.cross_attention_cache.layers[index]
            return cached.keys, cached.values
        key, value = self.band.sharing.keys_values(self.layer, self.memory_BMD)
        rope = None if self.reading is None else self.reading.rope
        if rope is not None:
            key = rotate(key, rope)
        if self.past is not None:
            self.past.cross_attention_cache.update(key, value, index)
        return key, value

    def _joint(self) -> Tensor:
        """One softmax over the rows' keys and the fine features'."""
        reading = self.reading
        assert reading is not None and self.mask is not None
        key, value = self._memory()
        batch, rows = self.query_BHSd.shape[0], self.query_BHSd.shape[2]
        wide = self.mask.expand(batch, -1, -1, -1)
        side = torch.ones((batch, 1, rows, key.shape[2]), dtype=torch.bool, device=key.device)
        if reading.mask_B1SM is not None:
            side = side & reading.mask_B1SM
        if reading.readers_BS1 is not None:
            side = side & (reading.readers_BS1[:, None] > 0)
        if wide.dtype != torch.bool:  # eager masks are added, not asked
            side = torch.zeros_like(side, dtype=wide.dtype).masked_fill(
                ~side, torch.finfo(wide.dtype).min
            )
        heads, joint = self._call(
            self.query_BHSd,
            torch.cat([self.key, key], dim=2),
            torch.cat([self.value, value], dim=2),
            torch.cat([wide, side], dim=3),
            causal=False,
        )
        if joint is not None:
            own = self.key.shape[2]
            self.self_map, self.cross_map = joint[..., :own], joint[..., own:]
        return heads

    def _call(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        *,
        causal: bool,
        scaling: float | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The config's attention function: heads [B,S,H*d], and weights where it gives them."""
        attn = self.attn
        function = ALL_ATTENTION_FUNCTIONS.get_interface(
            attn.config._attn_implementation, eager_attention_forward
        )
        if not causal and attn.config._attn_implementation == "eager" and mask is not None:
            mask = _added(mask, query.dtype)
        extra: dict[str, Any] = {}
        if not causal:
            extra["is_causal"] = False  # or SDPA cuts the keys to the first S, without a word
        elif getattr(attn, "sliding_window", None) is not None:
            extra["sliding_window"] = attn.sliding_window
        heads, weights = function(
            attn,
            query,
            key,
            value,
            mask,
            dropout=attn.attention_dropout if attn.training else 0.0,
            scaling=attn.scaling if scaling is None else scaling,
            **extra,
        )
        return heads.reshape(*heads.shape[:2], -1), weights

    def _only_readers(self, rows: Tensor) -> Tensor:
        readers = None if self.reading is None else self.reading.readers_BS1
        return rows if readers is None else rows * readers.to(rows.dtype)


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)
