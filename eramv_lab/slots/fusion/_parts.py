"""The parts that a band's fusion may own: a gate, and a feed-forward behind its reading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, silu

from eramv_lab.shapes import LanguageDims, Op, linear

GateKind = Literal["none", "tanh", "channel", "text"]
FfnKind = Literal["none", "gelu", "gated"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": gelu, "gated": silu}


def gate_parameters(kind: GateKind, width: int, size: int) -> int:
    """Of a gate that reads rows of `width` and is a factor on rows of `size`."""
    return {"none": 0, "tanh": 1, "channel": size, "text": width + 1}[kind]


class Gate(nn.Module):
    """A factor on rows of `size`: [B,S,D] states -> [B,S,1] (text), [1] (tanh) or [size]."""

    def __init__(self, kind: GateKind, width: int, size: int) -> None:
        super().__init__()
        self.kind = kind
        if kind == "text":
            self.proj = nn.Linear(width, 1)
        else:
            self.weight = nn.Parameter(torch.zeros(1 if kind == "tanh" else size))

    def forward(self, states_BSD: Tensor) -> Tensor:
        """The factor, broadcast over what it lacks."""
        if self.kind == "text":
            return self.proj(states_BSD).sigmoid()
        return self.weight.tanh().to(states_BSD.dtype)


def ffn_matrices(kind: FfnKind, language: LanguageDims) -> dict[str, tuple[int, int]]:
    """Matrices of the feed-forward, the one that leads back last: (columns in, columns out).

    `gelu` is four times as wide as the model (Flamingo), `gated` as wide as the language model's
    own (Llama-3.2-Vision).
    """
    if kind == "none":
        return {}
    width, inner = language.width, 4 * language.width if kind == "gelu" else language.ffn
    gate = {"gate_proj": (width, inner)} if kind == "gated" else {}
    return {**gate, "up_proj": (width, inner), "down_proj": (inner, width)}


def ffn_ops(kind: FfnKind, language: LanguageDims, rows: int, layer: int) -> list[Op]:
    """Price of the feed-forward for `rows` rows."""
    sizes = ffn_matrices(kind, language).values()
    op = {"part": "band", "kind": "linear", "owner": "band", "layer": layer}
    return [Op(**op, flops=linear(rows, *size)) for size in sizes]


def ffn_parameters(kind: FfnKind, gate: GateKind, language: LanguageDims) -> int:
    """The norm, the matrices and the gate; none where there is no feed-forward."""
    sizes = ffn_matrices(kind, language).values()
    own = language.width + gate_parameters(gate, language.width, language.width)
    return own + sum(a * b for a, b in sizes) if sizes else 0


class FeedForward(nn.Module):
    """gate x FFN(norm(x)), without biases: [B,S,D] -> [B,S,D], to be added to x.

    The gate alone starts at zero: a last matrix of zeros behind it would never learn.
    """

    def __init__(self, kind: FfnKind, gate: GateKind, language: LanguageDims) -> None:
        super().__init__()
        width, sizes = language.width, ffn_matrices(kind, language)
        made = {name: nn.Linear(*size, bias=False) for name, size in sizes.items()}
        self.norm = nn.RMSNorm(width, eps=1e-6)
        self.gate_proj = made.get("gate_proj")
        self.up_proj, self.down_proj = made["up_proj"], made["down_proj"]
        self.activation = ACTIVATIONS[kind]
        self.gate = None if gate == "none" else Gate(gate, width, width)

    def forward(self, rows_BSD: Tensor) -> Tensor:
        """What is added to the rows."""
        normed_BSD = self.norm(rows_BSD).to(rows_BSD.dtype)
        inner = self.up_proj(normed_BSD)
        if self.gate_proj is None:
            inner = self.activation(inner)
        else:
            inner = self.activation(self.gate_proj(normed_BSD)) * inner
        out_BSD = self.down_proj(inner)
        return out_BSD if self.gate is None else out_BSD * self.gate(normed_BSD)
