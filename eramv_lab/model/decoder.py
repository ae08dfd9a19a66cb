"""The decoder loop: the language model's layers in turn, rows leaving between them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.masking_utils import LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING

from eramv_lab.model.attend import Reading
from eramv_lab.model.cache import MemoryRecord, Stage, StreamCache
from eramv_lab.model.rank import Ranking, ranking
from eramv_lab.model.rows import Live, Rows, drop, inject, pick
from eramv_lab.model.step import StepOutput
from eramv_lab.slots.contracts import Memory
from eramv_lab.slots.fusion.attend import AttendConfig
from eramv_lab.slots.reducers import Event, Rankers


@dataclass(slots=True)
class Maps:
    """Attention weights by layer, where they are asked for."""

    own: list[Tensor | None] = dataclasses.field(default_factory=list[Tensor | None])
    cross: list[Tensor | None] = dataclasses.field(default_factory=list[Tensor | None])


def run_layers(
    language: Any,
    rows: Rows,
    *,
    events: Sequence[Event],
    fusion: AttendConfig | None,
    memory: Memory | None,
    added: Mapping[int, Tensor],
    bridge: nn.Module | None,
    carry: bool,
    past: StreamCache | None,
    maps: Maps | None = None,
    hidden: list[Tensor] | None = None,
) -> Rows:
    """All layers of `language` (a bare transformers decoder) and its final norm, over `rows`.

    The first rows of a cache open its stages; later ones (decoding, a second turn) go through
    the stages that stand in it. `bridge` is the one that all band layers share, if any; `added`
    what is added to rows of the input before a layer.
    """
    prefill = past is None or past.record.seen == 0
    events = events if prefill else ()
    loop = _Loop(language, rows, fusion, memory, past)
    later = {} if prefill or past is None else {stage.layer: stage for stage in past.record.stages}
    fine = None if memory is None else memory.states_BMD
    scores: dict[Rankers, Tensor] = {}
    for i, layer in enumerate(language.layers):
        if hidden is not None:
            hidden.append(rows.hidden_BSD)
        if prefill:
            changed = [loop.apply(layer, e, scores) for e in events if e.layer == i]
            if i == 0 or any(changed):
                loop.new_stage(_open(past, i, rows))
        elif i in later:
            later[i].extend(rows.valid_BS, rows.hidden_BSD.shape[1])
            loop.new_stage(later[i])
        if i in added:
            rows.hidden_BSD = rows.hidden_BSD + pick(added[i], rows.rows_BS)
        asked = loop.asked_in(i, events)
        frozen = any(e.layer == i and e.kind == "freeze" for e in events)
        live = loop.live() if frozen and rows.each else None
        reads = layer.band is not None and loop.has_memory
        out = layer(
            rows.hidden_BSD,
            attention_mask=loop.mask(i, explicit=reads and loop.joint, live=live),
            position_embeddings=loop.rope,
            past_key_values=past,
            reading=loop.reading(fine, bridge, live) if reads else None,
            rankings=tuple(asked.values()),
            visible_BS=rows.valid_BS if asked else None,
            live=live,
            maps=maps is not None,
        )
        if isinstance(out, StepOutput):
            rows.hidden_BSD, scores = out.hidden_BSD, dict(zip(asked, out.scores, strict=True))
            if carry and out.memory_BMD is not None:
                fine = out.memory_BMD
            if maps is not None:
                maps.own.append(out.maps[0])
                maps.cross.append(out.maps[1])
        else:
            rows.hidden_BSD, scores = out, {}
    rows.hidden_BSD = language.norm(rows.hidden_BSD)
    if hidden is not None:
        hidden.append(rows.hidden_BSD)
    return rows


def _open(past: StreamCache | None, layer: int, rows: Rows) -> Stage:
    """A new stage, written into the cache."""
    stage = Stage(layer, rows.valid_BS, rows.hidden_BSD.shape[1])
    if past is not None:
        if rows.end_B1 is not None:
            assert past.record.position_B1 is not None
            stage.ahead_B1 = past.record.position_B1 - rows.end_B1
        past.record.stages.append(stage)
    return stage


class _Loop:
    """What is the same for all layers of a stage: rotary tables, masks, what the rows read."""

    def __init__(
        self,
        language: Any,
        rows: Rows,
        fusion: AttendConfig | None,
        memory: Memory | None,
        past: StreamCache | None,
    ) -> None:
        self.language, self.rows, self.past, self.fusion = language, rows, past, fusion
        self.decodes = past is not None and past.record.seen > 0
        self.memory = memory
        record = None if past is None else past.record.memory
        if memory is not None:
            record = MemoryRecord(memory.mask_BM, memory.image_BM, rows.begun_BS[:, -1:].clone())
            if past is not None:
                past.record.memory = record
        self.record = record
        self.has_memory = record is not None
        self.joint = fusion is not None and fusion.softmax == "joint"
        self.kinds = _kinds(language.config, len(language.layers))
        self.memory_rope = None
        if memory is not None and memory.positions_BM is not None:
            self.memory_rope = language.rotary_emb(memory.states_BMD, memory.positions_BM)

    def apply(self, layer: Any, event: Event, scores: Mapping[Rankers, Tensor]) -> bool:
        """Let the event happen before `layer`; whether the rows have changed."""
        rows = self.rows
        if event.kind == "inject":
            return inject(rows)
        if event.kind == "freeze" or event.keep >= rows.each:
            return False
        scores_BS = scores.get(event.rankers)
        if event.rank == "next":
            rope = self.language.rotary_emb(rows.hidden_BSD, rows.positions_BS)
            asking = ranking(rows, event.rankers)
            scores_BS = layer.rank(rows.hidden_BSD, rope, asking, rows.valid_BS)
        return drop(rows, event, scores_BS)

    def asked_in(self, layer: int, events: Sequence[Event]) -> dict[Rankers, Ranking]:
        """Whose attention in this layer ranks for a removal before the next."""
        return {
            e.rankers: ranking(self.rows, e.rankers)
            for e in events
            if e.layer == layer + 1 and e.rank == "previous" and e.keep < self.rows.each
        }

    def new_stage(self, stage: Stage) -> None:
        """Rows have changed; the stage's `valid_BS` covers every key of its layers."""
        rows = self.rows
        self.valid_BK = stage.valid_BS
        positions_BS = rows.positions_BS
        if self.decodes and stage.ahead_B1 is not None:
            positions_BS = positions_BS - stage.ahead_B1
        self.rope = self.language.rotary_emb(rows.hidden_BSD, positions_BS)
        self.masks: dict[tuple[str, bool], Tensor | None] = {}
        self.live_masks: dict[str, Tensor] = {}
        self.visibility: tuple[Tensor | None, Tensor | None] | None = None
        self.stage_live: Live | None = None

    def live(self) -> Live:
        """The rows of this stage that are not visual."""
        if self.stage_live is None:
            index_BL, real_BL = self.rows.words()
            tables = (table.expand(index_BL.shape[0], -1, -1) for table in self.rope)
            cos_BLd, sin_BLd = (pick(table, index_BL) for table in tables)
            self.stage_live = Live(index_BL, real_BL, (cos_BLd, sin_BLd))
        return self.stage_live

    def mask(self, layer: int, *, explicit: bool, live: Live | None) -> Tensor | None:
        """Causal mask of a layer of the stage, as the config's attention function takes it.

        Raises ValueError where live rows alone are asked for and the function takes no such mask.
        """
        kind = self.kinds[layer]
        if live is not None:
            if kind not in self.live_masks:
                mask = self.mask(layer, explicit=True, live=None)
                if mask is None or mask.ndim != 4:
                    raise ValueError("frozen rows need sdpa or eager attention")
                wide = mask.expand(live.index_BL.shape[0], -1, -1, -1)
                index_B1LK = live.index_BL[:, None, :, None].expand(-1, 1, -1, mask.shape[3])
                self.live_masks[kind] = wide.gather(2, index_B1LK)
            return self.live_masks[kind]
        key = (kind, explicit)
        if key not in self.masks:
            hidden = self.rows.hidden_BSD
            past = None if self.past is None else self.past.self_attention_cache
            valid = self.valid_BK
            if past is not None and valid is not None:
                length = sum(past.get_mask_sizes(hidden.shape[1], layer))
                if length > valid.shape[1]:  # a static cache: causality hides what is to come
                    ones = valid.new_ones(valid.shape[0], length - valid.shape[1])
                    valid = torch.cat([valid, ones], dim=1)
            extra = {}
            if self.rows.segments_BS is not None:
                extra["and_mask_function"] = _own_segment(self.rows.segments_BS)
            self.masks[key] = LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING[kind](
                config=self.language.config,
                inputs_embeds=hidden,
                attention_mask=valid,
                past_key_values=past,
                layer_idx=layer,
                allow_is_causal_skip=not explicit,
                **extra,
            )
        return self.masks[key]

    def reading(
        self, fine_BMD: Tensor | None, bridge: nn.Module | None, live: Live | None
    ) -> Reading:
        """What the rows of this stage read, or the live ones of them."""
        if self.visibility is None:
            self.visibility = self._visibility()
        mask_B1SM, readers_BS1 = self.visibility
        if live is not None and mask_B1SM is not None:
            mask_B1SM = pick(mask_B1SM[:, 0], live.index_BL)[:, None]
        if live is not None and readers_BS1 is not None:
            readers_BS1 = pick(readers_BS1, live.index_BL)
        rope = self.memory_rope
        if self.memory is None and self.fusion is not None and self.fusion.positions != "none":
            rope = self.rope  # keys are cached rotated; this only says that queries are too
        return Reading(fine_BMD, rope, mask_B1SM, readers_BS1, bridge)

    def _visibility(self) -> tuple[Tensor | None, Tensor | None]:
        fusion, record, rows = self.fusion, self.record, self.rows
        assert fusion is not None and record is not None
        seen_BSM = None if record.mask_BM is None else record.mask_BM[:, None]
        if fusion.visible != "all":
            before_B1 = 0 if self.memory is not None else record.begun_B1
            begun_BS1 = (rows.begun_BS + before_B1)[:, :, None]
            image_B1M = record.image_BM[:, None]
            near = image_B1M <= begun_BS1 if fusion.visible == "before" else image_B1M == begun_BS1
            seen_BSM = near if seen_BSM is None else seen_BSM & near
        readers_BS = None
        if fusion.queries != "all":
            readers_BS = rows.visual_BS if fusion.queries == "visual" else ~rows.visual_BS
        if seen_BSM is None:
            return None, None if readers_BS is None else readers_BS[..., None].float()
        seen_BSM = seen_BSM.expand(-1, rows.hidden_BSD.shape[1], -1)
        some_BS1 = seen_BSM.any(dim=2, keepdim=True)
        # a softmax over nothing is undefined: such a row reads everything, times zero
        mask_B1SM = (seen_BSM | ~some_BS1)[:, None]
        readers_BS1 = some_BS1 if readers_BS is None else some_BS1 & readers_BS[..., None]
        return mask_B1SM, readers_BS1.float()


def _kinds(config: Any, layers: int) -> list[str]:
    """Kind of attention of each layer, as transformers names them."""
    types = getattr(config, "layer_types", None)
    if types:
        return list(types)
    sliding = getattr(config, "sliding_window", None)
    return ["sliding_attention" if sliding else "full_attention"] * layers


def _own_segment(segments_BS: Tensor) -> Any:
    """Mask function: a row sees the shared prefix and its own question."""

    def seen(batch: Any, head: Any, query: Any, key: Any) -> Any:
        other = segments_BS[batch, key]
        return (other == 0) | (other == segments_BS[batch, query])

    return seen
