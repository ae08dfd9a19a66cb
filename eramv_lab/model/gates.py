"""How far the gates of a band stand open: near zero, a layer has not learnt to read."""

from __future__ import annotations

from torch import nn

from eramv_lab.slots.fusion._parts import Gate


def openings(model: nn.Module) -> dict[str, float]:
    """Mean |tanh g| of each learnt gate, by its place in `model` (InfiMM-HD: half stay shut).

    A gate that each row sets for itself (`text`) has no such number and is not among them.
    """
    return {
        name: part.weight.tanh().abs().mean().item()
        for name, part in model.named_modules()
        if isinstance(part, Gate) and part.kind != "text"
    }
