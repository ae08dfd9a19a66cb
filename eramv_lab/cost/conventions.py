"""How published tables count: the conventions under which our numbers meet theirs.

Papers say FLOPs for MACs or for twice as many, give the feed-forward two matrices or three, count
the image's tokens or all, and sum over the layers or take their mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from eramv_lab.cost.ops import prefill

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec
    from eramv_lab.shapes import Op

DECODER = frozenset({"language", "band", "bridge"})
"""Parts of a prefill that run in the decoder's layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Convention:
    """One way to price a decoder: which of its operations count, and as what."""

    unit: Literal["mac", "flop"]
    """What counts as one."""
    ffn_matrices: Literal[2, 3]
    """Matrices of the layers' own feed-forward that are counted (Llama has three)."""
    text: bool
    """Text tokens are counted beside those of the image."""
    mean: bool = False
    """Mean over the layers, not their sum."""
    attention: bool = True
    """Scores and mix are counted (some tools do not see them)."""
    text_tokens: int = 64
    """Text tokens of the paper's tables."""

    def prefill(self, spec: ModelSpec, text_tokens: int | None = None) -> float:
        """What the convention makes of the decoder: its layers, a band's additions, the bridge.

        Tower, connector, ranking and head are not in it.
        """
        text = self.text_tokens if text_tokens is None else text_tokens
        ops = [step.op for step in prefill(spec, text if self.text else 0)]
        flops = sum(op.flops for op in ops if op.part in DECODER and self.sees(op))
        total = flops / 2 if self.unit == "mac" else float(flops)
        return total / spec.dims().language.layers if self.mean else total

    def sees(self, op: Op) -> bool:
        """Whether an operation of the decoder is counted."""
        if op.kind == "attention":
            return self.attention
        return self.ffn_matrices == 3 or op.weights != ("gate",)

    def says(self) -> str:
        """What it counts, in words."""
        unit = "MACs" if self.unit == "mac" else "FLOPs"
        matrices = "two" if self.ffn_matrices == 2 else "three"
        tokens = "all tokens" if self.text else "the image's tokens alone"
        mean = ", mean over the layers" if self.mean else ""
        return (
            f"{unit} of the decoder's layers with their band and bridge, {matrices} matrices of "
            f"the feed-forward, {tokens}{mean}; tower, connector, ranking and head left out"
        )


FASTV = Convention(unit="mac", ffn_matrices=2, text=True, mean=True, text_tokens=36)
"""arXiv 2403.06764, section 4.2: mean over the layers, 36 tokens of text."""

PYRAMIDDROP = Convention(unit="mac", ffn_matrices=3, text=False)
"""arXiv 2410.17247, equation 5: the image's tokens alone; VisionZip and HiDrop follow it."""

SPARSEVLM = Convention(unit="mac", ffn_matrices=3, text=True, text_tokens=88)
"""The counter in SparseVLM's code: all tokens; its buffers have room for 88 of text."""

SHORTV = Convention(unit="flop", ffn_matrices=3, text=True)
"""arXiv 2504.00502: 64 tokens of text; VTW (by calflops) and LLM-Viewer agree but for trifles,
and SAISA, whose figure has its projectors in."""

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
