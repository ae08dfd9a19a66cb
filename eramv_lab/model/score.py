"""What some rows pay to all others: the attention rows that a reducer ranks by, and no more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import repeat_kv, rotate_half

from eramv_lab.model.rank import Ranking
from eramv_lab.model.rows import pick
from eramv_lab.slots.sharing import split_heads


@torch.no_grad()
def attention_to(
    attn: Any,
    query_BHRd: Tensor,
    key_BHSd: Tensor,
    ranking: Ranking,
    visible_BS: Tensor | None,
) -> Tensor:
    """Softmax of the ranking rows over the rows up to them: the mean over heads, [B,S].

    What is chosen by it has no gradient.
    """
    key = repeat_kv(key_BHSd, attn.num_key_value_groups)
    scores_BHRS = query_BHRd @ key.transpose(2, 3) * attn.scaling
    place_S = torch.arange(key.shape[2], device=key.device)
    index_BR, weight_BR = ranking
    seen = place_S <= (place_S[None] if index_BR is None else index_BR)[:, None, :, None]
    if visible_BS is not None:
        seen = seen & visible_BS[:, None, None]
    scores_BHRS = scores_BHRS.masked_fill(~seen, torch.finfo(scores_BHRS.dtype).min)
    share_BRS = scores_BHRS.softmax(dim=-1, dtype=torch.float32).mean(dim=1)
    if weight_BR is None:
        return share_BRS.mean(dim=1)
    return (share_BRS * weight_BR[..., None]).sum(dim=1)


@torch.no_grad()
def foresee(
    layer: Any,
    hidden_BSD: Tensor,
    rope: tuple[Tensor, Tensor],
    ranking: Ranking,
    visible_BS: Tensor | None,
) -> Tensor:
    """[B,S] what the ranking rows would pay to each row in a layer that has not run yet."""
    attn, normed_BSD = layer.self_attn, layer.input_layernorm(hidden_BSD)
    cos, sin = (table.expand(hidden_BSD.shape[0], -1, -1) for table in rope)
    asking = normed_BSD
    if ranking.index_BR is not None:
        asking, cos_BRd, sin_BRd = (pick(one, ranking.index_BR) for one in (asking, cos, sin))
        asked_rope = (cos_BRd, sin_BRd)
    else:
        asked_rope = (cos, sin)
    query = split_heads(attn.q_proj(asking), attn.head_dim)
    key = split_heads(attn.k_proj(normed_BSD), attn.head_dim)
    if hasattr(attn, "q_norm"):
        query, key = attn.q_norm(query), attn.k_norm(key)
    query, key = rotate(query.transpose(1, 2), asked_rope), rotate(key.transpose(1, 2), (cos, sin))
    return attention_to(attn, query, key, ranking, visible_BS)


def rows_of(query_BHSd: Tensor, index_BR: Tensor) -> Tensor:
    """[B,H,R,d] the queries of the rows at `index_BR`."""
    index = index_BR[:, None, :, None]
    return query_BHSd.gather(2, index.expand(-1, query_BHSd.shape[1], -1, query_BHSd.shape[3]))


def rotate(rows_BHSd: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary positions for one tensor; cos and sin are [B,S,d]."""
    cos, sin = (table.unsqueeze(1) for table in rope)
    return rows_BHSd * cos + rotate_half(rows_BHSd) * sin
