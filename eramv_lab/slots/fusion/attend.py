"""`attend`: rows of the sequence attend to the fine features, not causally."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import nn

from eramv_lab.recipe.parse import LATER
from eramv_lab.registry import FUSION
from eramv_lab.shapes import Dims, LanguageDims, Op, attention, linear
from eramv_lab.slots.fusion._parts import (
    FeedForward,
    Gate,
    ffn_ops,
    ffn_parameters,
    gate_parameters,
)

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class AttendConfig:
    """Cross-attention from the sequence's rows to the fine features."""

    reads: ClassVar[bool] = True

    softmax: Literal["separate", "joint"] = "separate"
    """A softmax of its own, added to self-attention's result; or one over both sets of keys."""
    gate: Literal["none", "tanh", "channel", "text"] = "none"
    """Factor on the heads' output: none; tanh of one number or of one per channel, both started
    at 0 (Flamingo, InfiMM-HD); or a sigmoid of the row's own state (mPLUG-Owl3)."""
    combine: Literal["add", "mix"] = "add"
    """With gate text: add g x cross, or mix g x cross + (1 - g) x self."""
    queries: Literal["all", "text", "visual"] = "all"
    """Which rows read."""
    visible: Literal["all", "before", "last"] = "all"
    """Which images a row may read: all of its sample, those that stand before it, the last one."""
    at: Literal["parallel", "after", "before"] = "parallel"
    """Beside self-attention, or as a step with a residual of its own after or before it."""
    positions: Literal["none", "one", "grid"] = "none"
    """Rotary positions of the fine features: none, the image's first, or the patches' own ids
    (which `prompt.positions: grid` reserves)."""
    ffn: Literal["none", "gelu", "gated"] = field(default="none", metadata=LATER)
    """A new feed-forward behind the step, with a norm and a gate of its own: of two matrices, four
    times as wide as the model (Flamingo), or of three, as the language model's (Llama-3.2-Vision).
    It runs for the rows that read, and for no other."""

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: options that exclude one another, or that would do nothing."""
        if self.softmax == "joint":
            if self.gate != "none":
                yield f"softmax joint leaves nothing for gate {self.gate}; use gate none"
            if self.at != "parallel":
                yield f"softmax joint happens inside self-attention; at {self.at} cannot be"
            if self.positions == "none":
                yield "softmax joint needs positions one or grid: one query serves both key sets"
            if spec.sharing is not None and spec.sharing.own_query:
                yield "softmax joint needs self-attention's queries; use another sharing"
        if self.combine == "mix" and (self.gate != "text" or self.at != "parallel"):
            yield "combine mix needs gate text and at parallel"
        if self.combine == "mix" and spec.sharing is not None and spec.sharing.own_query:
            yield "combine mix happens before the layer's W_o; use a sharing without its own"
        if self.positions == "grid" and spec.prompt.positions != "grid":
            yield f"positions grid needs prompt.positions grid, found {spec.prompt.positions}"
        if self.ffn != "none" and self.at == "parallel":
            yield f"ffn {self.ffn} follows a step of its own: at before or after, found parallel"
        if self.ffn != "none" and self.gate == "text":
            yield f"gate text is for what is read; with ffn {self.ffn} use none, tanh or channel"
        if self.queries == "visual" and spec.anchors is None:
            yield "queries visual, but there are no anchors to ask"

    def memory_ops(self, language: LanguageDims, memory: int, layer: int, sharing: Any) -> list[Op]:
        """Keys and values of the fine features: at prefill only, then cached."""
        return sharing.memory_ops(language, memory, layer)

    def row_ops(
        self, language: LanguageDims, rows: int, memory: int, layer: int, sharing: Any
    ) -> list[Op]:
        """What `rows` rows that read `memory` features add to their layer."""
        width, inner = language.width, sharing.heads_of(language).query_width
        ops: list[Op] = []
        again = linear(rows, width, inner)  # W_q or W_o once more, for a step of its own
        op = {"part": "band", "kind": "linear", "flops": again, "owner": "language", "layer": layer}
        if self.at != "parallel" and sharing.shared_query:
            ops.append(Op(**op, weights=("q",)))
        if self.at != "parallel" and not sharing.own_query:
            ops.append(Op(**op, flow="memory", weights=("o",)))
        ops += sharing.row_ops(language, rows, layer)
        flops = attention(rows, memory, inner)
        ops.append(Op(part="band", kind="attention", flops=flops, owner="band", layer=layer))
        if self.gate == "text":
            flops = linear(rows, width, 1)
            ops.append(Op(part="band", kind="linear", flops=flops, owner="band", layer=layer))
        return ops

    def ffn_ops(self, language: LanguageDims, rows: int, layer: int) -> list[Op]:
        """What the feed-forward behind the reading adds for `rows` rows."""
        return ffn_ops(self.ffn, language, rows, layer)

    def ops(
        self, language: LanguageDims, rows: int, memory: int, layer: int, sharing: Any
    ) -> list[Op]:
        """A band layer's additions at prefill, the bridge apart."""
        return [
            *self.memory_ops(language, memory, layer, sharing),
            *self.row_ops(language, rows, memory, layer, sharing),
            *self.ffn_ops(language, rows, layer),
        ]

    def decode_ops(self, language: LanguageDims, memory: int, layer: int, sharing: Any) -> list[Op]:
        """The same for one new row, keys and values cached."""
        row = self.row_ops(language, 1, memory, layer, sharing)
        return [*row, *self.ffn_ops(language, 1, layer)]

    def parameters(self, language: LanguageDims, sharing: Any) -> int:
        """New parameters of one band layer: sharing, gate and feed-forward."""
        heads = sharing.heads_of(language).query_width
        gate = gate_parameters(self.gate, language.width, heads)
        ffn = ffn_parameters(self.ffn, self.gate, language)
        return sharing.parameters(language) + gate + ffn


@FUSION.register("attend", AttendConfig)
def build_attend(config: AttendConfig, dims: Dims) -> nn.ModuleDict:
    """The fusion's own parts, as far as it has them: `gate` and `ffn`.

    `dims.language` has the heads that the sharing reads with.
    """
    language, parts = dims.language, nn.ModuleDict()
    if config.gate != "none":
        parts["gate"] = Gate(config.gate, language.width, language.query_width)
    if config.ffn != "none":
        parts["ffn"] = FeedForward(config.ffn, config.gate, language)
    return parts
