"""A decoder layer that can read fine features: a subclass of the layer's own class, swapped in."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from torch import Tensor, nn

from eramv_lab.model.attend import Reading, Work
from eramv_lab.model.cache import StreamCache
from eramv_lab.slots.fusion.attend import AttendConfig
from eramv_lab.slots.sharing import Shared


class Band(nn.Module):
    """What a band layer has beside the language model: sharing, bridge, gate, feed-forward."""

    def __init__(
        self,
        config: AttendConfig,
        sharing: Shared,
        bridge: nn.Module | None,
        parts: nn.ModuleDict,
        shared_query: bool,
    ) -> None:
        super().__init__()
        self.config = config
        self.shared_query = shared_query
        self.sharing = sharing
        self.bridge = bridge
        own = dict(parts.items())
        self.gate, self.ffn = own.get("gate"), own.get("ffn")


class StepOutput(NamedTuple):
    """What a layer that did more than its own class's work returns."""

    hidden_BSD: Tensor
    memory_BMD: Tensor | None = None
    """The bridge's result, for a bridge that carries it on."""
    scores_BS: Tensor | None = None
    """Attention that the ranking rows pay to every row, mean over heads and ranking rows."""
    maps: tuple[Tensor | None, Tensor | None] = (None, None)
    """Attention weights to the sequence and to the fine features (eager only)."""


class Step:
    """Mixed in front of a transformers decoder layer (Llama, Mistral, Qwen2, Qwen3)."""

    band: Any
    self_attn: Any
    input_layernorm: Any
    post_attention_layernorm: Any
    mlp: Any

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        past_key_values: StreamCache | None = None,
        reading: Reading | None = None,
        rankers_BR: Tensor | None = None,
        visible_BS: Tensor | None = None,
        maps: bool = False,
    ) -> Tensor | StepOutput:
        """One layer over [B,S,D]; a plain layer is its own class's forward, untouched."""
        if reading is None and rankers_BR is None and not maps:
            own = None if past_key_values is None else past_key_values.self_attention_cache
            return super().forward(  # type: ignore[misc]
                hidden_states,
                attention_mask=attention_mask,
                position_embeddings=position_embeddings,
                past_key_values=own,
            )
        assert position_embeddings is not None
        work = Work(self, attention_mask, position_embeddings, past_key_values, reading)
        memory_BMD = work.bridge()
        at = self.band.config.at if reading is not None else "none"
        if at == "before":
            hidden_states = work.own_step(hidden_states)
        normed_BSD = self.input_layernorm(hidden_states)
        scores_BS = work.project(normed_BSD, rankers_BR, visible_BS)
        hidden_states = hidden_states + work.attend(normed_BSD, cross=at == "parallel")
        if at == "after":
            hidden_states = work.own_step(hidden_states)
        hidden_states = hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))
        return StepOutput(hidden_states, memory_BMD, scores_BS, (work.self_map, work.cross_map))


@cache
def _step_class(cls: type[nn.Module]) -> type[nn.Module]:
    return type("Step" + cls.__name__, (Step, cls), {})


def swap_in(layer: nn.Module) -> None:
    """Make a decoder layer a Step, in place: names, weights and config stay."""
    layer.__class__ = _step_class(type(layer))
    layer.band = None  # type: ignore[assignment]  # an instance attribute: a class one hides modules
