"""A decoder layer that can read fine features: a subclass of the layer's own class, swapped in."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from torch import Tensor, nn

from eramv_lab.model.attend import Reading, Work
from eramv_lab.model.cache import StreamCache
from eramv_lab.model.rank import Ranking
from eramv_lab.model.rows import Live, pick
from eramv_lab.model.score import foresee
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
        ahead: bool,
    ) -> None:
        super().__init__()
        self.config = config
        self.shared_query, self.ahead = shared_query, ahead
        self.sharing = sharing
        self.bridge = bridge
        own = dict(parts.items())
        self.gate, self.ffn = own.get("gate"), own.get("ffn")


class StepOutput(NamedTuple):
    """What a layer that did more than its own class's work returns."""

    hidden_BSD: Tensor
    memory_BMD: Tensor | None = None
    """The bridge's result, for a bridge that carries it on."""
    scores: tuple[Tensor, ...] = ()
    """By ranking: what its rows pay to every row, the mean over heads [B,S]."""
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
        rankings: tuple[Ranking, ...] = (),
        visible_BS: Tensor | None = None,
        live: Live | None = None,
        maps: bool = False,
    ) -> Tensor | StepOutput:
        """One layer over [B,S,D]; a plain layer is its own class's forward, untouched.

        Where some rows alone are `live`, mask and reading are of these.
        """
        if reading is None and live is None and not rankings and not maps:
            own = None if past_key_values is None else past_key_values.self_attention_cache
            return super().forward(  # type: ignore[misc]
                hidden_states,
                attention_mask=attention_mask,
                position_embeddings=position_embeddings,
                past_key_values=own,
            )
        assert position_embeddings is not None
        work = Work(self, attention_mask, position_embeddings, past_key_values, reading, live)
        memory_BMD = work.bridge()
        at = self.band.config.at if reading is not None else "none"
        rows_BSD = hidden_states if live is None else pick(hidden_states, live.index_BL)
        if at == "before":
            rows_BSD = work.own_step(rows_BSD)
            hidden_states = rows_BSD if live is None else live.put(hidden_states, rows_BSD)
        normed_BSD = self.input_layernorm(hidden_states)
        asking_BSD = normed_BSD if live is None else pick(normed_BSD, live.index_BL)
        scores = work.project(normed_BSD, asking_BSD, rankings, visible_BS)
        rows_BSD = rows_BSD + work.attend(asking_BSD, cross=at == "parallel")
        if at == "after":
            rows_BSD = work.own_step(rows_BSD)
        rows_BSD = rows_BSD + self.mlp(self.post_attention_layernorm(rows_BSD))
        weights = work.self_map, work.cross_map
        if live is not None:
            rows_BSD = live.put(hidden_states, rows_BSD)
            own, cross = (live.spread(one, rows_BSD.shape[1]) for one in weights)
            weights = own, cross
        return StepOutput(rows_BSD, memory_BMD, tuple(scores), weights)

    def rank(
        self,
        hidden_BSD: Tensor,
        rope: tuple[Tensor, Tensor],
        ranking: Ranking,
        visible_BS: Tensor | None,
    ) -> Tensor:
        """[B,S] what the ranking rows would pay to each row here, before the layer runs.

        Under FSDP the weights are gathered by `register_fsdp_forward_method(layer, "rank")`.
        """
        return foresee(self, hidden_BSD, rope, ranking, visible_BS)


@cache
def _step_class(cls: type[nn.Module]) -> type[nn.Module]:
    return type("Step" + cls.__name__, (Step, cls), {})


def swap_in(layer: nn.Module) -> None:
    """Make a decoder layer a Step, in place: names, weights and config stay."""
    layer.__class__ = _step_class(type(layer))
    layer.band = None  # type: ignore[assignment]  # an instance attribute: a class one hides modules
