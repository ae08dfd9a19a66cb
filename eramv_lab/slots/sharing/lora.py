"""`lora`: the layer's projections with a low-rank difference for the band's use of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from eramv_lab.registry import SHARING
from eramv_lab.shapes import Dims, LanguageDims, Op, linear
from eramv_lab.slots.sharing import Shared, project_out, split_heads
from eramv_lab.slots.sharing.shared import SharedConfig, kv_op

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eramv_lab.recipe.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class LoraSharingConfig(SharedConfig):
    """Shared W_q, W_k, W_v, W_o plus a low-rank difference of each, in the band's use only."""

    own_query = True

    rank: int = 8
    """Inner width of each difference."""
    alpha: float = 16.0
    """The differences are scaled by alpha / rank."""

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: a rank that is none."""
        if self.rank < 1:
            yield f"rank {self.rank}: expected >= 1"

    def memory_ops(self, language: LanguageDims, memory: int, layer: int) -> list[Op]:
        """Shared keys and values, and their differences."""
        down = linear(memory, language.width, 2 * self.rank)
        up = linear(memory, self.rank, 2 * language.kv_width)
        return [
            kv_op(language, memory, layer, "language"),
            _low(down, layer, "memory"),
            _low(up, layer, "memory"),
        ]

    def row_ops(self, language: LanguageDims, rows: int, layer: int) -> list[Op]:
        """Differences of queries and output, and a second pass of W_o."""
        width, inner = language.width, language.query_width
        down, up = linear(rows, width, self.rank), linear(rows, self.rank, inner)
        again = linear(rows, inner, width)
        op = {"part": "band", "kind": "linear", "layer": layer, "flow": "memory"}
        return [
            _low(down, layer, "sequence"),
            _low(up, layer, "sequence"),
            Op(**op, flops=again, owner="language", weights=("o",)),
            _low(linear(rows, inner, self.rank), layer, "memory"),
            _low(linear(rows, self.rank, width), layer, "memory"),
        ]

    def parameters(self, language: LanguageDims) -> int:
        """Four pairs of low-rank matrices."""
        width, query, kv = language.width, language.query_width, language.kv_width
        return self.rank * (2 * (width + query) + 2 * (width + kv))


def _low(flops: int, layer: int, flow: Literal["memory", "sequence"]) -> Op:
    return Op(part="band", kind="linear", flops=flops, owner="band", layer=layer, flow=flow)


class LowRank(nn.Module):
    """x -> B A x, with B started at zero."""

    def __init__(self, width_in: int, width_out: int, config: LoraSharingConfig) -> None:
        super().__init__()
        self.down = nn.Linear(width_in, config.rank, bias=False)
        self.up = nn.Linear(config.rank, width_out, bias=False)
        self.scale = config.alpha / config.rank
        nn.init.zeros_(self.up.weight)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        return self.up(self.down(rows)) * self.scale


@SHARING.register("lora", LoraSharingConfig)
class LoraSharing(Shared):
    """Differences beside the layer's own projections."""

    def __init__(self, config: LoraSharingConfig, dims: Dims) -> None:
        super().__init__()
        lm = dims.language
        self.q = LowRank(lm.width, lm.query_width, config)
        self.k = LowRank(lm.width, lm.kv_width, config)
        self.v = LowRank(lm.width, lm.kv_width, config)
        self.o = LowRank(lm.query_width, lm.width, config)

    def query(self, layer: Any, normed_BSD: Tensor, own_BHSd: Tensor) -> Tensor:
        """The layer's queries plus the difference."""
        low = split_heads(self.q(normed_BSD), layer.self_attn.head_dim)
        return own_BHSd + low.transpose(1, 2)

    def keys_values(self, layer: Any, memory_BMD: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's keys and values plus their differences."""
        normed_BMD, attn = self.norm(layer, memory_BMD), layer.self_attn
        key = split_heads(attn.k_proj(normed_BMD) + self.k(normed_BMD), attn.head_dim)
        if hasattr(attn, "k_norm"):
            key = attn.k_norm(key)
        value = split_heads(attn.v_proj(normed_BMD) + self.v(normed_BMD), attn.head_dim)
        return key.transpose(1, 2), value.transpose(1, 2)

    def out(self, layer: Any, heads_BSE: Tensor) -> Tensor:
        """W_o plus the difference, apart from self-attention's output."""
        return project_out(layer, heads_BSE) + self.o(heads_BSE)
