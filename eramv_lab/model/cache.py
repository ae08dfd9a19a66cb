"""The cache of a generation: keys and values, and per stage which of its rows are real."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache


@dataclass(slots=True)
class Stage:
    """A run of layers with the same rows, from `layer` on, up to the next stage."""

    layer: int
    valid_BS: Tensor | None
    """Rows in the layers' cache that are real; None: all of them."""
    width: int
    """Rows in the layers' cache."""
    ahead_B1: Tensor | None = None
    """How far the input's positions are ahead of the stage's, where those were closed up."""

    def extend(self, valid_BS: Tensor | None, rows: int) -> None:
        """Rows have come to the end: new ones that are real, all of them where None is given."""
        if self.valid_BS is not None or valid_BS is not None:
            like = self.valid_BS if self.valid_BS is not None else valid_BS
            assert like is not None
            old = _or_ones(self.valid_BS, like.shape[0], self.width, like)
            new = _or_ones(valid_BS, like.shape[0], rows, like)
            self.valid_BS = torch.cat([old, new], dim=1)
        self.width += rows


def _or_ones(valid: Tensor | None, batch: int, rows: int, like: Tensor) -> Tensor:
    return like.new_ones(batch, rows) if valid is None else valid


@dataclass(slots=True)
class MemoryRecord:
    """What decoding must still know of the fine features (keys and values: the cross half)."""

    mask_BM: Tensor | None
    image_BM: Tensor
    begun_B1: Tensor
    """Images begun before the next row, for `visible`."""


@dataclass(slots=True)
class Record:
    """All per-sample state beside keys and values."""

    stages: list[Stage] = field(default_factory=list[Stage])
    memory: MemoryRecord | None = None
    position_B1: Tensor | None = None
    """Position of the next row."""
    seen: int = 0
    """Rows given so far, in the layout of the input."""


class StreamCache(EncoderDecoderCache):
    """Self-attention keys and values of any length per layer; the fine features' in the cross half.

    `get_seq_length` answers in rows of the input, as `generate` counts them; what a layer holds,
    ask `self_attention_cache`.
    """

    def __init__(self, own: Cache) -> None:
        super().__init__(own, DynamicCache())
        self.record = Record()

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Rows of the input seen so far."""
        return self.record.seen

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.record = Record()

    def crop(self, tokens_to_remove: int) -> None:
        """Take back the last rows of every layer (assisted decoding)."""
        super().crop(tokens_to_remove)
        record, rows = self.record, abs(tokens_to_remove)
        record.seen -= rows
        if record.position_B1 is not None:
            record.position_B1 = record.position_B1 - rows
        for stage in record.stages:
            stage.width -= rows
            if stage.valid_BS is not None:
                stage.valid_BS = stage.valid_BS[:, : stage.width]

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams, records too."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some samples."""
        super().batch_select_indices(indices)
        self._select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each sample."""
        super().batch_repeat_interleave(repeats)
        position = self.record.position_B1
        if position is not None:
            index = torch.arange(position.shape[0], device=position.device)
            self._select(index.repeat_interleave(repeats))

    def _select(self, index: Tensor) -> None:
        record = self.record
        if record.position_B1 is not None:
            record.position_B1 = record.position_B1.index_select(0, index)
        for stage in record.stages:
            if stage.valid_BS is not None:
                stage.valid_BS = stage.valid_BS.index_select(0, index)
            if stage.ahead_B1 is not None:
                stage.ahead_B1 = stage.ahead_B1.index_select(0, index)
        if record.memory is not None:
            memory = record.memory
            record.memory = MemoryRecord(
                None if memory.mask_BM is None else memory.mask_BM.index_select(0, index),
                memory.image_BM.index_select(0, index),
                memory.begun_B1.index_select(0, index),
            )
