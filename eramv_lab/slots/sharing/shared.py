"""`shared`: the layer's own self-attention weights serve the band too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eramv_lab.registry import SHARING
from eramv_lab.shapes import Dims, LanguageDims, Op, linear
from eramv_lab.slots.sharing import Shared


@dataclass(frozen=True, kw_only=True)
class SharedConfig:
    """The layer's own norm, W_q, W_k, W_v and W_o; no new parameters (eRAM-V)."""

    own_query = False  # queries differ from self-attention's: no joint softmax, W_o apart
    shared_query = True  # the layer's W_q is part of the band's queries

    @property
    def memory_norm(self) -> Literal["language", "band", "none"]:
        """Whose norm the fine features pass before keys and values are made of them."""
        return "language"

    @property
    def row_norm(self) -> Literal["language", "band"]:
        """Whose norm the rows pass before the band's queries are made of them."""
        return "language"

    def heads_of(self, language: LanguageDims) -> LanguageDims:
        """Sizes of the language model, the heads being those that the band reads with."""
        return language

    def memory_ops(self, language: LanguageDims, memory: int, layer: int) -> list[Op]:
        """Keys and values of `memory` fine features, once per image."""
        return [kv_op(language, memory, layer, "language")]

    def row_ops(self, language: LanguageDims, rows: int, layer: int) -> list[Op]:
        """What `rows` rows cost beside self-attention: nothing, W_q and W_o are applied anyway."""
        return []

    def parameters(self, language: LanguageDims) -> int:
        """New parameters of one band layer."""
        return 0


@SHARING.register("shared", SharedConfig)
def build_shared(config: SharedConfig, dims: Dims) -> Shared:
    """A module without parameters."""
    return Shared()


def kv_op(language: LanguageDims, memory: int, layer: int, owner: str) -> Op:
    """The key and value projections of `memory` rows."""
    flops = linear(memory, language.width, 2 * language.kv_width)
    weights = ("k", "v") if owner == "language" else ()
    return Op(
        part="band",
        kind="linear",
        flops=flops,
        owner=owner,
        layer=layer,
        flow="memory",
        weights=weights,
    )
