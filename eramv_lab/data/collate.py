"""Questions to token batches: packed behind one image, a row each, or prompts to answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from eramv_lab.data.shards import Asked
from eramv_lab.data.words import Words, WorldWords
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.slots.prompts.orders import PromptConfig
from eramv_lab.slots.prompts.pieces import Kind, Piece

IGNORED = -100
KNOWN = 8192
"""Most rows of the made world that are remembered."""
Batch = dict[str, Any]


@dataclass(slots=True)
class _Row:
    ids: list[int]
    labels: list[int]
    segments: list[int]
    image: int = 0
    """Where the rows of its image end; 0: it has none."""

    def add(self, other: _Row, start: int, stop: int | None, segment: int) -> None:
        """Put a stretch of another row behind this one."""
        self.ids += other.ids[start:stop]
        self.labels += other.labels[start:stop]
        self.segments += [segment] * (len(self.ids) - len(self.segments))


def can_pack(spec: ModelSpec) -> bool:
    """Whether questions of an image may share one prefix: it then is the same for all of them.

    Not with the question first, with words around image and question, where a question's rows
    decide what leaves the sequence, or where the connector reads the question.
    """
    prompt: PromptConfig = spec.prompt
    ranked = any(event.looks for event in spec.events())
    same = not ranked and not spec.reads_question
    return prompt.image_first and prompt.template in ("plain", "caption") and same


def conversations(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    """The questions of a sample, each with the turns that follow it."""
    turns: list[Asked] = []
    for one in asked:
        if turns and not one.follows:
            yield turns
            turns = []
        turns.append(one)
    if turns:
        yield turns


@dataclass(frozen=True)
class Collator:
    """The text side of a batch: answers and the end mark are supervised, nothing else is.

    Training batches are padded right, prompts left. `labels` stand where their ids stand; the
    model shifts them. A sample is a list of questions, of which those that `follows` go on with
    the conversation; `pictured` says which samples have an image (None: all of them).
    """

    prompt: PromptConfig
    visual_rows: int
    """Rows of the sequence that stand for an image (a marker where no anchor enters it)."""
    pack: bool = False
    """All conversations of a sample in one row: `segments` is 0 for the image's prefix and 1, 2,
    ... for them; padding is 0 and masked."""
    words: Words = field(default_factory=WorldWords)
    max_tokens: int | None = None
    """Longest training row: what is longer is cut at its end, or before an image at its end."""
    reads_question: bool = False
    """Give the words of the question alone as well, for a connector that reads them."""
    _known: dict[Any, _Row] = field(default_factory=dict[Any, _Row], compare=False, repr=False)
    """Rows of the made world, which asks the same few questions again and again."""

    def __call__(
        self, questions: Sequence[Sequence[Asked]], pictured: Sequence[bool] | None = None
    ) -> Batch:
        """A training batch of N samples, R rows: one for each conversation, or packed sample.

        `input_ids`, `attention_mask`, `labels` [R,T] and `image_counts`, the images (0 or 1) of
        each row. Packed also `segments` [R,T]; otherwise `image_index` [rows with an image]: which
        one of the batch's images, those of the pictured samples in order. `asked` adds its own.
        """
        rows: list[_Row] = []
        owners: list[int] = []
        said: list[Sequence[Asked]] = []
        seen = _pictured(questions, pictured)
        for number, group in enumerate(questions):
            turns = list(conversations(group))
            made = [self._row(conversation, seen[number]) for conversation in turns]
            rows += [self._packed(made)] if self.pack and made else made
            owners += [number] * (1 if self.pack and made else len(made))
            said += turns
        for row in rows:
            self._cut(row)
        batch: Batch = {
            "input_ids": _pad([r.ids for r in rows], self.words.pad),
            "attention_mask": _pad([[1] * len(r.ids) for r in rows], 0),
            "labels": _pad([r.labels for r in rows], IGNORED),
            "image_counts": tuple(int(seen[owner]) for owner in owners),
            **self.asked(said, [bool(seen[owner]) for owner in owners]),
        }
        if self.pack:
            batch["segments"] = _pad([r.segments for r in rows], 0)
        else:
            batch["image_index"] = _image_index(owners, seen)
        return batch

    def prompts(
        self, questions: Sequence[Sequence[Asked]], pictured: Sequence[bool] | None = None
    ) -> Batch:
        """What is given to `generate`: a row for each question of each sample, padded left.

        The turns before a question stand in front of it, with their own answers. `input_ids`,
        `attention_mask` [R,T], `image_counts`, `image_index` as in training, and `asked`, the
        questions themselves in the order of the rows.
        """
        seen = _pictured(questions, pictured)
        rows: list[list[int]] = []
        owners: list[int] = []
        asked: list[Asked] = []
        said: list[Sequence[Asked]] = []
        for number, group in enumerate(questions):
            for turns in conversations(group):
                for last in range(len(turns)):
                    rows.append(self.prompt_ids(turns[: last + 1], seen[number]))
                    owners.append(number)
                    asked.append(turns[last])
                    said.append(turns)
        return {
            "input_ids": _pad(rows, self.words.pad, left=True),
            "attention_mask": _pad([[1] * len(ids) for ids in rows], 0, left=True),
            "image_counts": tuple(int(seen[owner]) for owner in owners),
            "image_index": _image_index(owners, seen),
            "asked": asked,
            **self.asked(said, [bool(seen[owner]) for owner in owners]),
        }

    def asked(self, turns: Sequence[Sequence[Asked]], pictured: Sequence[bool]) -> Batch:
        """`question_ids` and `question_mask` [R,T], padded right, of a connector that reads them.

        Of each conversation the question that its image stands with: the first, none in a caption.
        """
        if not self.reads_question:
            return {}
        front = len(self.words.front)
        rows: list[list[int]] = []
        for conversation, shown in zip(turns, pictured, strict=True):
            text = "" if self.prompt.template == "caption" and shown else conversation[0].question
            rows.append(self.words.encode([Piece(Kind.QUESTION, text.strip())]).ids[front:])
        return {
            "question_ids": _pad(rows, self.words.pad),
            "question_mask": _pad([[1] * len(row) for row in rows], 0),
        }

    def prompt_ids(self, turns: Sequence[Asked] | str, pictured: bool = True) -> list[int]:
        """Ids of a whole prompt, up to where the answer to the last of `turns` begins.

        A text is a question without turns before it.
        """
        if isinstance(turns, str):
            turns = [Asked("", turns, "", "")]
        return self._row(turns, pictured, asking=True).ids

    def answer_ids(self, turns: Sequence[Asked], pictured: bool = True) -> list[int]:
        """Ids of the answer to the last of `turns`, its end left out, as they follow the prompt."""
        start = len(self.prompt_ids(turns, pictured))
        ids = self._row(turns, pictured).ids[start:]
        stop = next((n for n, i in enumerate(ids) if i in self.words.stops), len(ids))
        return ids[:stop]

    def _row(self, turns: Sequence[Asked], pictured: bool, *, asking: bool = False) -> _Row:
        """A conversation, its image spread to its rows; the caller's to change."""
        if not isinstance(self.words, WorldWords):
            return self._made(turns, pictured, asking)
        key = (tuple((turn.question, turn.answer) for turn in turns), pictured, asking)
        row = self._known.get(key)
        if row is None:
            if len(self._known) >= KNOWN:
                self._known.clear()
            row = self._known[key] = self._made(turns, pictured, asking)
        return _Row(row.ids[:], row.labels[:], row.segments[:], row.image)

    def _made(self, turns: Sequence[Asked], pictured: bool, asking: bool) -> _Row:
        pieces = self.prompt.pieces(
            [(turn.question, turn.answer) for turn in turns],
            int(pictured),
            self.words.chat,
            asking=asking,
        )
        found = self.words.encode(pieces)
        ids, learnt, end = found.ids, found.learnt, 0
        if pictured:
            place, more = ids.index(self.words.image), self.visual_rows - 1
            end = place + self.visual_rows
            ids = ids[:place] + [self.words.image] * more + ids[place:]
            learnt = learnt[:place] + [False] * more + learnt[place:]
        labels = [i if kept else IGNORED for i, kept in zip(ids, learnt, strict=True)]
        return _Row(ids, labels, [1] * len(ids), end)

    def _packed(self, rows: Sequence[_Row]) -> _Row:
        """The rows of one image behind their common prefix."""
        prefix = rows[0].image or len(self.words.front)
        packed = _Row([], [], [], rows[0].image)
        packed.add(rows[0], 0, prefix, 0)
        for number, row in enumerate(rows, 1):
            packed.add(row, prefix, None, number)
        return packed

    def _cut(self, row: _Row) -> None:
        most = self.max_tokens
        if most is None or len(row.ids) <= most:
            return
        start = row.image - self.visual_rows if row.image else 0
        for part in (row.ids, row.labels, row.segments):
            if row.image <= most:
                del part[most:]
            else:  # the image stays whole, and words go
                del part[row.image :]
                del part[max(most - self.visual_rows, 0) : start]


def collator_of(spec: ModelSpec, words: Words, max_tokens: int | None = None) -> Collator:
    """What writes the batches of a model."""
    return Collator(
        spec.prompt,
        spec.dims().visual or 1,
        pack=can_pack(spec),
        words=words,
        max_tokens=max_tokens,
        reads_question=spec.reads_question,
    )


def _pictured(questions: Sequence[Any], pictured: Sequence[bool] | None) -> Sequence[bool]:
    return [True] * len(questions) if pictured is None else pictured


def _image_index(owners: Sequence[int], pictured: Sequence[bool]) -> Tensor:
    """Which image each row with one shows: samples in order, those without left out."""
    place = torch.tensor([bool(p) for p in pictured], dtype=torch.long).cumsum(0) - 1
    shown = [owner for owner in owners if pictured[owner]]
    return place[torch.tensor(shown, dtype=torch.long)]


def repeat_images(batch: Mapping[str, Any]) -> Batch:
    """The batch as the model takes it: an image for each row with one, by `image_index`.

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
