"""What both towers share: the CLS row of a block over the full width."""

from __future__ import annotations

from torch import Tensor


def cls_logits(query_NV: Tensor, key_NTV: Tensor) -> Tensor:
    """[N,T-1] log softmax of the query of CLS over all keys, no heads apart, CLS cut off."""
    scores_NT = (key_NTV @ query_NV[..., None]).squeeze(-1).float() * query_NV.shape[-1] ** -0.5
    return scores_NT.log_softmax(dim=-1)[:, 1:]
