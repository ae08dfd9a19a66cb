"""How published tables count: the conventions under which our numbers meet theirs.

Papers say FLOPs for MACs or for twice as many, give the feed-forward two matrices or three, count
the image's tokens or all, and sum over the layers or take their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """One way to price a decoder by the tokens in each of its layers."""

    unit: Literal["mac", "flop"]
    """What counts as one."""
    ffn_matrices: Literal[2, 3]
    """Matrices of the feed-forward that are counted (Llama has three)."""
    text: bool
    """Text tokens are counted beside those of the image."""
    mean: bool = False
    """Mean over the layers, not their sum."""
    attention: bool = True
    """Scores and mix are counted (some tools do not see them)."""

    def layer(self, tokens: int, width: int, ffn: int) -> int:
        """4 n d^2 + 2 n^2 d + f n d m, in the convention's unit."""
        macs = 4 * tokens * width**2 + self.ffn_matrices * tokens * width * ffn
        macs += 2 * tokens**2 * width * self.attention
        return macs if self.unit == "mac" else 2 * macs

    def body(self, visual: Sequence[int], text_tokens: int, width: int, ffn: int) -> float:
        """The decoder with `visual[i]` tokens of the image in layer i."""
        text = text_tokens if self.text else 0
        total = sum(self.layer(tokens + text, width, ffn) for tokens in visual)
        return total / len(visual) if self.mean else float(total)


FASTV = Convention(unit="mac", ffn_matrices=2, text=True, mean=True)
"""arXiv 2403.06764, section 4.2: mean over the layers, 36 tokens of text."""

PYRAMIDDROP = Convention(unit="mac", ffn_matrices=3, text=False)
"""arXiv 2410.17247, equation 5: the image's tokens alone; VisionZip and HiDrop follow it."""

SPARSEVLM = Convention(unit="mac", ffn_matrices=3, text=True)
"""The counter in SparseVLM's code: all tokens."""

SHORTV = Convention(unit="flop", ffn_matrices=3, text=True)
"""arXiv 2504.00502: 64 tokens of text; VTW (by calflops) and LLM-Viewer agree but for trifles."""

BLIND = Convention(unit="flop", ffn_matrices=3, text=True, attention=False)
"""A tool that does not see scaled dot product attention."""


def stages(visual: int, layers: int, *cuts: tuple[int, int]) -> list[int]:
    """Visual tokens in every layer: `visual`, and after each cut (layer, keep) `keep`."""
    tokens = [visual] * layers
    for layer, keep in cuts:
        tokens[layer:] = [keep] * (layers - layer)
    return tokens


def whole(body: float, *, rows: int, width: int, vocab: int, vision: int, connector: int) -> float:
    """Whole model with logits at every row: decoder, head, tower and connector, in FLOPs."""
    return body + 2 * rows * width * vocab + vision + connector
