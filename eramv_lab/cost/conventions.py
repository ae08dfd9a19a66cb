"""How published tables count: the conventions under which our numbers meet theirs.

Papers say FLOPs for MACs or for twice as many, give the feed-forward two matrices or three, count
the image's tokens or all, and sum over the layers or take their mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from eramv_lab.cost.flow import live_by_layer, rows_by_layer

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


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
    text_tokens: int = 64
    """Text tokens of the paper's tables."""

    def layer(self, tokens: int, width: int, ffn: int, read: int = 0) -> int:
        """4 n d^2 + 2 n^2 d + f n d m, in the convention's unit.

        `read` further tokens that are keys and values alone add 2 r d^2 + 2 n r d (arXiv
        2504.00502, section 3.3).
        """
        macs = 4 * tokens * width**2 + self.ffn_matrices * tokens * width * ffn
        macs += 2 * read * width**2
        macs += 2 * tokens * (tokens + read) * width * self.attention
        return macs if self.unit == "mac" else 2 * macs

    def body(
        self,
        visual: Sequence[int],
        text_tokens: int,
        width: int,
        ffn: int,
        read: Sequence[int] | None = None,
    ) -> float:
        """The decoder with `visual[i]` tokens of the image in layer i, and `read[i]` of which it
        has but keys and values."""
        text = text_tokens if self.text else 0
        aside = read or [0] * len(visual)
        total = sum(
            self.layer(tokens + text, width, ffn, more)
            for tokens, more in zip(visual, aside, strict=True)
        )
        return total / len(visual) if self.mean else float(total)

    def prefill(self, spec: ModelSpec, text_tokens: int | None = None) -> float:
        """What the convention makes of a model, by the tokens that its layers really have.

        Fine features are keys and values of their band's layers, as if through the layer's own
        weights; tower, connector, bridge, ranking and head are not in it.
        """
        language, (visual, read) = spec.dims().language, tokens_by_layer(spec)
        text = self.text_tokens if text_tokens is None else text_tokens
        return self.body(visual, text, language.width, language.ffn, read)

    def says(self) -> str:
        """What it counts, in words."""
        unit = "MACs" if self.unit == "mac" else "FLOPs"
        matrices = "two" if self.ffn_matrices == 2 else "three"
        tokens = "all tokens" if self.text else "the image's tokens alone"
        mean = ", mean over the layers" if self.mean else ""
        return f"{unit} of the decoder, {matrices} matrices of the feed-forward, {tokens}{mean}"


FASTV = Convention(unit="mac", ffn_matrices=2, text=True, mean=True, text_tokens=36)
"""arXiv 2403.06764, section 4.2: mean over the layers, 36 tokens of text."""

PYRAMIDDROP = Convention(unit="mac", ffn_matrices=3, text=False)
"""arXiv 2410.17247, equation 5: the image's tokens alone; VisionZip and HiDrop follow it."""

SPARSEVLM = Convention(unit="mac", ffn_matrices=3, text=True, text_tokens=88)
"""The counter in SparseVLM's code: all tokens, 664 of them at the start."""

SHORTV = Convention(unit="flop", ffn_matrices=3, text=True)
"""arXiv 2504.00502: 64 tokens of text; VTW (by calflops) and LLM-Viewer agree but for trifles."""

BLIND = Convention(unit="flop", ffn_matrices=3, text=True, attention=False)
"""A tool that does not see scaled dot product attention."""


NAMED: dict[str, Convention | None] = {
    "fastv": FASTV,
    "pyramiddrop": PYRAMIDDROP,
    "sparsevlm": SPARSEVLM,
    "shortv": SHORTV,
    "whole": None,
}
"""The conventions by the names of who uses them; None is ours: the whole model, every product."""


def tokens_by_layer(spec: ModelSpec) -> tuple[list[int], list[int]]:
    """Of every decoder layer: the image's tokens that it updates, and those that it but reads.

    Read alone are the fine features of a band, and rows in a layer that they are frozen in.
    """
    rows, live, fine = rows_by_layer(spec, 0), live_by_layer(spec, 0), spec.dims().fine
    read = [
        all_ - updated + (fine if layer in spec.readers else 0)
        for layer, (all_, updated) in enumerate(zip(rows, live, strict=True))
    ]
    return live, read


def stages(visual: int, layers: int, *cuts: tuple[int, int]) -> list[int]:
    """Visual tokens in every layer: `visual`, and after each cut (layer, keep) `keep`."""
    tokens = [visual] * layers
    for layer, keep in cuts:
        tokens[layer:] = [keep] * (layers - layer)
    return tokens


def whole(body: float, *, rows: int, width: int, vocab: int, vision: int, connector: int) -> float:
    """Whole model with logits at every row: decoder, head, tower and connector, in FLOPs."""
    return body + 2 * rows * width * vocab + vision + connector
