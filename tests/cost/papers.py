"""The papers' own formulas, by the tokens of the image in each layer: a second witness."""

from __future__ import annotations

from collections.abc import Sequence

from eramv_lab.cost.conventions import Convention

SEVEN, THIRTEEN = (4096, 11008), (5120, 13824)
"""Width of the model and of its feed-forward: Vicuna 7B and 13B."""


def layer(convention: Convention, tokens: float, width: int, ffn: int) -> float:
    """4 n d^2 + 2 n^2 d + f n d m, in the convention's unit."""
    macs = 4 * tokens * width**2 + convention.ffn_matrices * tokens * width * ffn
    macs += 2 * tokens**2 * width
    return macs if convention.unit == "mac" else 2 * macs


def body(convention: Convention, visual: Sequence[float], width: int, ffn: int) -> float:
    """The decoder with `visual[i]` tokens of the image in layer i."""
    text = convention.text_tokens if convention.text else 0
    total = sum(layer(convention, tokens + text, width, ffn) for tokens in visual)
    return total / len(visual) if convention.mean else total


def stages(visual: float, layers: int, *cuts: tuple[int, float]) -> list[float]:
    """Visual tokens in every layer: `visual`, and after each cut (layer, keep) `keep`."""
    tokens = [visual] * layers
    for at, keep in cuts:
        tokens[at:] = [keep] * (layers - at)
    return tokens


def whole(body: float, *, rows: int, width: int, vocab: int, vision: int, connector: int) -> float:
    """Whole model with logits at every row: decoder, head, tower and connector, in FLOPs."""
    return body + 2 * rows * width * vocab + vision + connector
