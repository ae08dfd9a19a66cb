"""A layer of a transformers tower, opened: its queries and keys heard, its rows merged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from eramv_lab.slots.vision._merge import Merging


def attention_of(layer: Any) -> Any:
    """Its attention, by whatever name the family has."""
    return layer.attention if hasattr(layer, "attention") else layer.self_attn


def norms_of(layer: Any) -> tuple[Any, Any]:
    """Its norms before attention and before the feed-forward."""
    if hasattr(layer, "norm1"):
        return layer.norm1, layer.norm2
    return layer.layer_norm1, layer.layer_norm2


@contextmanager
def heard(layer: Any) -> Iterator[dict[str, Tensor]]:
    """The queries and keys [N,T,V] that the layer computes meanwhile, by name."""
    seen: dict[str, Tensor] = {}
    hooks = [
        getattr(attention_of(layer), name).register_forward_hook(
            lambda _m, _i, out, name=name: seen.__setitem__(name, out)
        )
        for name in ("q_proj", "k_proj")
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def merged(layer: Any, rows_NTV: Tensor, merging: Merging, heads: int, number: int) -> Tensor:
    """One layer, opened up: rows merge between its attention and its feed-forward."""
    norms = norms_of(layer)
    scales = [getattr(layer, name, nn.Identity()) for name in ("layer_scale1", "layer_scale2")]
    drop = getattr(layer, "drop_path", nn.Identity())
    with heard(layer) as seen:
        heads_NTV, _ = attention_of(layer)(
            norms[0](rows_NTV), attention_mask=merging.bias(rows_NTV)
        )
    rows_NTV = rows_NTV + drop(scales[0](heads_NTV))
    rows_NTV = merging.merge(rows_NTV, seen["k_proj"], heads, number)
    return rows_NTV + drop(scales[1](layer.mlp(norms[1](rows_NTV))))
