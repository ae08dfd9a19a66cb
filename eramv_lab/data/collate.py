"""Questions to token batches: packed behind one image, one row each, or prompts to answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eramv_lab.data.shards import Asked
from eramv_lab.data.world.vocabulary import BOS, EOS, IDS, IMAGE, PAD, encode
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.slots.prompts.orders import PromptConfig

IGNORED = -100
Batch = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Words:
    """How text becomes ids: by default the made world's closed list of words."""

    encode: Callable[[str], list[int]] = encode
    image: str = IMAGE
    bos: int = IDS[BOS]
    eos: int = IDS[EOS]
    pad: int = IDS[PAD]


@dataclass(slots=True)
class _Row:
    ids: list[int]
    labels: list[int]
    segments: list[int]

    def add(self, ids: list[int], *, segment: int, supervised: bool = False) -> None:
        self.ids += ids
        self.labels += ids if supervised else [IGNORED] * len(ids)
        self.segments += [segment] * len(ids)


def can_pack(spec: ModelSpec) -> bool:
    """Whether questions of an image may share one prefix: it then is the same for all of them.

    Not with the question first, with words around image and question, or where a question's rows
    decide what leaves the sequence.
    """
    prompt: PromptConfig = spec.prompt
    ranked = any(event.rank == "previous" for event in spec.events())
    return prompt.image_first and prompt.template == "plain" and not ranked


@dataclass(frozen=True)
class Collator:
    """The text side of a batch: answers and the end mark are supervised, nothing else is.

    Training batches are padded right, prompts left. `labels` stand where their ids stand; the
    model shifts them.
    """

    prompt: PromptConfig
    visual_rows: int
    """Rows of the sequence that stand for an image (a marker where no anchor enters it)."""
    pack: bool = False
    """All questions of an image in one row: `segments` is 0 for the image's prefix and 1, 2, ...
    for its questions; padding is 0 and masked."""
    words: Words = Words()

    @property
    def image(self) -> str:
        """The run of placeholders of one image."""
        return " ".join([self.words.image] * self.visual_rows)

    def __call__(self, questions: Sequence[Sequence[Asked]]) -> Batch:
        """A training batch of the questions of each of N images.

        Packed: `input_ids`, `attention_mask`, `labels`, `segments`, all [N,T]. Otherwise a row
        for each question, and `image_index` [B], the image of each row, in place of `segments`.
        """
        if not self.pack:
            rows = [self._row([asked]) for group in questions for asked in group]
        else:
            rows = [self._row(group) for group in questions]
        batch: Batch = {
            "input_ids": _pad([r.ids for r in rows], self.words.pad),
            "attention_mask": _pad([[1] * len(r.ids) for r in rows], 0),
            "labels": _pad([r.labels for r in rows], IGNORED),
        }
        if self.pack:
            batch["segments"] = _pad([r.segments for r in rows], 0)
        else:
            batch["image_index"] = image_index(questions)
        return batch

    def prompts(self, questions: Sequence[Sequence[Asked]]) -> Batch:
        """What is given to `generate`: a row for each question of each image, padded left.

        `input_ids`, `attention_mask` [B,T], `image_index` [B], and `asked`, the questions
        themselves in the order of the rows.
        """
        asked = [a for group in questions for a in group]
        rows = [self.prompt_ids(a.question) for a in asked]
        return {
            "input_ids": _pad(rows, self.words.pad, left=True),
            "attention_mask": _pad([[1] * len(ids) for ids in rows], 0, left=True),
            "image_index": image_index(questions),
            "asked": asked,
        }

    def prompt_ids(self, question: str) -> list[int]:
        """Ids of a whole prompt, up to where the answer begins."""
        return [self.words.bos, *self.words.encode(self.prompt.write(question, self.image))]

    def _row(self, group: Sequence[Asked]) -> _Row:
        row = _Row([], [], [])
        if self.pack:
            row.add([self.words.bos, *self.words.encode(self.image)], segment=0)
        for number, asked in enumerate(group, 1):
            if self.pack:
                row.add(self.words.encode(self.prompt.write(asked.question, "")), segment=number)
            else:
                row.add(self.prompt_ids(asked.question), segment=0)
            answer = [*self.words.encode(asked.answer), self.words.eos]
            row.add(answer, segment=number, supervised=True)
        return row


def image_index(questions: Sequence[Sequence[Asked]]) -> Tensor:
    """[B]: the image that each question is about, rows in order."""
    counts = torch.tensor([len(group) for group in questions])
    return torch.repeat_interleave(torch.arange(len(questions)), counts)


def repeat_images(batch: Mapping[str, Any]) -> Batch:
    """The batch as the model takes it: one image per row, gathered by `image_index`.

    Images travel and wait once each; call this just before the model.
    """
    batch = dict(batch)
    index = batch.pop("image_index", None)
    if index is None:
        return batch
    if "pixel_values" in batch:
        batch["pixel_values"] = batch["pixel_values"][index]
    if "vision_features" in batch:
        features = batch["vision_features"]
        batch["vision_features"] = {name: value[index] for name, value in features.items()}
    return batch


def _pad(rows: list[list[int]], value: int, *, left: bool = False) -> Tensor:
    longest = max(len(row) for row in rows)
    padded = [
        [value] * (longest - len(row)) + row if left else row + [value] * (longest - len(row))
        for row in rows
    ]
    return torch.tensor(padded, dtype=torch.long)
