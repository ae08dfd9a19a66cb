"""Cosines between rows, for choices alone: in float32 whatever runs around, no gradient."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize


@torch.no_grad()
def cosines(one_NKV: Tensor, two_NLV: Tensor) -> Tensor:
    """[N,K,L] of every row of the one with every row of the other; 0 for a row of zeros."""
    device = one_NKV.device.type
    with torch.autocast("cpu" if device == "meta" else device, enabled=False):
        one_NKV, two_NLV = (normalize(x.float(), dim=-1) for x in (one_NKV, two_NLV))
        return one_NKV @ two_NLV.transpose(1, 2)
