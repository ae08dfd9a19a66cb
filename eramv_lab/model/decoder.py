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
from eramv_lab.model.step import StepOutput
from eramv_lab.slots.contracts import Memory
from eramv_lab.slots.fusion.attend import AttendConfig
from eramv_lab.slots.reducers import Event


@dataclass(slots=True, kw_only=True)
class Rows:
    """The sequence as it is between two layers."""

    hidden_BSD: Tensor
    rows_BS: Tensor
    """Row of the input that each is."""
    visual_BS: Tensor
    begun_BS: Tensor
    positions_BS: Tensor
    valid_BS: Tensor | None
    segments_BS: Tensor | None
    rankers_B: Tensor | None
    """Row of the input whose attention ranks: the prompt's last."""
    visual: int | None
    """Visual rows per sample, where the host knows that all samples have the same."""
    images_B: Tensor
    images: int | None
    """Images per sample, likewise."""

    def take(self, index_BS: Tensor, valid_BS: Tensor | None) -> None:
        """Keep the rows of `index_BS`, in its order."""
        self.hidden_BSD = self.hidden_BSD.gather(
            1, index_BS[..., None].expand(-1, -1, self.hidden_BSD.shape[2])
        )
        for name in ("rows_BS", "visual_BS", "begun_BS", "positions_BS"):
            setattr(self, name, getattr(self, name).gather(1, index_BS))
        if self.segments_BS is not None:
            self.segments_BS = self.segments_BS.gather(1, index_BS)
        self.valid_BS = None if valid_BS is None else valid_BS.gather(1, index_BS)


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
    loop = _Loop(language, rows, fusion, memory, past)
    prefill = past is None or past.record.seen == 0
    later = _stages(past) if past is not None and not prefill else {}
    fine = None if memory is None else memory.states_BMD
    scores_BS: Tensor | None = None
    for i, layer in enumerate(language.layers):
        if hidden is not None:
            hidden.append(rows.hidden_BSD)
        if prefill:
            dropped = [_drop(rows, e, scores_BS) for e in events if e.layer == i]
            if i == 0 or any(dropped):
                loop.new_stage(i, _open(past, i, rows))
        elif i in later:
            later[i].extend(rows.valid_BS, rows.hidden_BSD.shape[1])
            loop.new_stage(i, later[i].valid_BS)
        ranks = prefill and any(e.layer == i + 1 and e.rank == "previous" for e in events)
        if i in added:
            index_BSD = rows.rows_BS[..., None].expand_as(rows.hidden_BSD)
            rows.hidden_BSD = rows.hidden_BSD + added[i].gather(1, index_BSD)
        reads = layer.band is not None and loop.has_memory
        out = layer(
            rows.hidden_BSD,
            attention_mask=loop.mask(i, explicit=reads and loop.joint),
            position_embeddings=loop.rope,
            past_key_values=past,
            reading=loop.reading(fine, bridge) if reads else None,
            rankers_BR=loop.rankers() if ranks else None,
            visible_BS=rows.valid_BS if ranks else None,
            maps=maps is not None,
        )
        if isinstance(out, StepOutput):
            rows.hidden_BSD, scores_BS = out.hidden_BSD, out.scores_BS
            if carry and out.memory_BMD is not None:
                fine = out.memory_BMD
            if maps is not None:
                maps.own.append(out.maps[0])
                maps.cross.append(out.maps[1])
        else:
            rows.hidden_BSD, scores_BS = out, None
    rows.hidden_BSD = language.norm(rows.hidden_BSD)
    if hidden is not None:
        hidden.append(rows.hidden_BSD)
    return rows


def _stages(past: StreamCache) -> dict[int, Stage]:
    return {stage.layer: stage for stage in past.record.stages}


def _open(past: StreamCache | None, layer: int, rows: Rows) -> Tensor | None:
    """Write a new stage into the cache; the padding of its rows comes back."""
    if past is not None:
        past.record.stages.append(Stage(layer, rows.valid_BS, rows.hidden_BSD.shape[1]))
    return rows.valid_BS


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

    def new_stage(self, layer: int, valid_BK: Tensor | None) -> None:
        """Rows have changed at `layer`; `valid_BK` covers every key of the stage's layers."""
        rows = self.rows
        self.valid_BK = valid_BK
        self.rope = self.language.rotary_emb(rows.hidden_BSD, rows.positions_BS)
        self.masks: dict[tuple[str, bool], Tensor | None] = {}
        self.visibility: tuple[Tensor | None, Tensor | None] | None = None

    def mask(self, layer: int, *, explicit: bool) -> Tensor | None:
        """Causal mask of a layer of the stage, as the config's attention function takes it."""
        kind = self.kinds[layer]
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

    def rankers(self) -> Tensor:
        """Where the ranking row stands now: [B,1]."""
        assert self.rows.rankers_B is not None
        found_BS = self.rows.rows_BS == self.rows.rankers_B[:, None]
        if self.rows.valid_BS is not None:
            found_BS = found_BS & self.rows.valid_BS
        return found_BS.int().argmax(dim=1, keepdim=True)

    def reading(self, fine_BMD: Tensor | None, bridge: nn.Module | None) -> Reading:
        """What the rows of this stage read."""
        if self.visibility is None:
            self.visibility = self._visibility()
        mask_B1SM, readers_BS1 = self.visibility
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


def _drop(rows: Rows, event: Event, scores_BS: Tensor | None) -> bool:
    """Let visual rows leave; False if none had to.

    Survivors move right, so that the last row stays last. Where the host knows the counts nothing
    synchronises; else one look at the longest sample, and padding leaves too.
    """
    same = rows.visual is not None and rows.images is not None
    if same and event.keep * rows.images >= rows.visual:  # type: ignore[operator]
        return False
    visual_BS = rows.visual_BS
    order_BS = _scores(rows, event, scores_BS).masked_fill(~visual_BS, -torch.inf)
    place_BS = order_BS.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    keep_BS = ~visual_BS | (place_BS < event.keep * rows.images_B[:, None])
    if same:
        assert rows.visual is not None and rows.images is not None
        left = event.keep * rows.images
        width = keep_BS.shape[1] - (rows.visual - left)
        valid_BS, rows.visual = rows.valid_BS, left
    else:
        valid_BS = keep_BS if rows.valid_BS is None else keep_BS & rows.valid_BS
        keep_BS = valid_BS
        width = int(valid_BS.sum(dim=1).max())
    if width == keep_BS.shape[1]:
        return False
    index_BS = keep_BS.int().argsort(dim=1, stable=True)[:, -width:]
    rows.take(index_BS, valid_BS)
    return True


def _scores(rows: Rows, event: Event, scores_BS: Tensor | None) -> Tensor:
    if event.rank == "previous":
        assert scores_BS is not None
        return scores_BS
    place = rows.rows_BS
    if event.rank == "random":
        total = int(place.shape[1]) if place.device.type == "meta" else int(place.max()) + 1
        drawn = torch.rand(total, generator=torch.Generator().manual_seed(0), device="cpu")
        return drawn.to(place.device)[place.clamp(min=0)].float()
    return -place.float()
