"""A split by index as a model sees it: features or pixels, questions, what cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from eramv_lab.data.collate import IGNORED, Batch, Collator
from eramv_lab.data.features import FeatureStore
from eramv_lab.data.pixels import Pixels
from eramv_lab.data.reader import ShardDataset
from eramv_lab.data.shards import Asked, BrokenSample
from eramv_lab.errors import LabError

TRIES = 1000
"""Samples in a row that may be broken before a batch is given up."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """Some samples of a split, as the model sees them."""

    vision: Batch
    """`pixel_values` [N,3,H,W], or `vision_features`, of those with an image; empty without any."""
    questions: list[list[Asked]]
    pictured: list[bool]
    """Whether each has an image."""
    broken: dict[str, str] = field(default_factory=dict[str, str])
    """Samples that were asked for and left out: key and reason."""


class Examples(Dataset[Fetched]):
    """A split by index, with features where there is a store and pixels otherwise.

    `questions`: at most so many of each sample, the first ones.
    """

    def __init__(
        self,
        shards: ShardDataset,
        pixels: Pixels,
        store: FeatureStore | None = None,
        *,
        questions: int | None = None,
    ) -> None:
        self.shards, self.pixels, self.store, self.count = shards, pixels, store, questions

    def __len__(self) -> int:
        return len(self.shards)

    def __getitems__(self, indices: Sequence[int]) -> Fetched:
        """The samples at `indices`, together, without those that cannot be read.

        Where none of them can, the next one that can stands in. Raises LabError where `TRIES` in
        a row cannot.
        """
        fetched = self._fetch(indices)
        spare, broken = indices[-1], dict(fetched.broken)
        while not fetched.questions:
            spare = (spare + 1) % len(self)
            if len(broken) > min(TRIES, len(self) - 1):
                key, reason = next(iter(broken.items()))
                raise LabError(f"no sample can be read: {key}: {reason}, and so on")
            fetched = self._fetch([spare])
            broken |= fetched.broken
        return Fetched(
            vision=fetched.vision,
            questions=fetched.questions,
            pictured=fetched.pictured,
            broken=broken,
        )

    def __getitem__(self, index: int) -> Fetched:
        return self.__getitems__([index])

    def images(self, indices: Sequence[int]) -> Batch:
        """What the model takes of the images at `indices`. Raises BrokenSample."""
        if not indices:
            return {}
        if self.store is not None:
            return {"vision_features": self.store.batch(indices)}
        return {"pixel_values": self.pixels([self.shards.image(i) for i in indices])}

    def texts(self, indices: Iterable[int]) -> list[tuple[list[Asked], bool]]:
        """Questions of the samples at `indices` that can be read; whether each has an image."""
        found: list[tuple[list[Asked], bool]] = []
        for index in indices:
            try:
                asked = self.shards.questions(index)[: self.count]
            except BrokenSample:
                continue
            found.append((asked, self.shards.has_image(index)))
        return found

    def lengths(self) -> list[int]:
        """How long the text of each sample is, negative where it has no image (see `Batches`)."""
        sizes = self.shards.text_bytes.tolist()
        return [n if self.shards.has_image(i) else -n for i, n in enumerate(sizes)]

    def require(self, index: int) -> None:
        """Raise BrokenSample where the image at `index`, if it has one, cannot be had."""
        if not self.shards.has_image(index):
            return
        if self.store is None:
            self.shards.image(index)
        elif not self.store.has(index):
            key = self.shards.keys[index]
            raise next(error for error in self.store.broken if error.key == key)

    def _fetch(self, indices: Sequence[int]) -> Fetched:
        questions: list[list[Asked]] = []
        pictured: list[bool] = []
        images: list[np.ndarray] = []
        rows: list[int] = []
        broken: dict[str, str] = {}
        for index in indices:
            try:
                asked = self.shards.questions(index)[: self.count]
                if has := self.shards.has_image(index):
                    if self.store is None:
                        images.append(self.shards.image(index))
                    else:
                        self.require(index)
                        rows.append(index)
            except BrokenSample as error:
                broken[error.key] = error.reason
                continue
            questions.append(asked)
            pictured.append(has)
        vision: Batch = {}
        if rows and self.store is not None:
            vision = {"vision_features": self.store.batch(rows)}
        elif images:
            vision = {"pixel_values": self.pixels(images)}
        return Fetched(vision=vision, questions=questions, pictured=pictured, broken=broken)


@dataclass(frozen=True)
class TrainBatch:
    """`collate_fn` of training and validation."""

    collator: Collator
    spare: Batch | None = None
    """What the model takes of some image, for batches without one: with several devices every
    part must take part in every step, and with one it then learns the same. Nothing is learnt of
    the image."""

    def __call__(self, fetched: Fetched) -> Batch:
        questions, pictured, vision = fetched.questions, fetched.pictured, fetched.vision
        blank = self.spare is not None and not any(pictured)
        if self.spare is not None and blank:
            questions, pictured = [*questions, [Asked("", "", "", "")]], [*pictured, True]
            vision = self.spare
        batch = self.collator(questions, pictured) | vision
        if blank:
            batch["labels"][-1] = IGNORED
        return batch | _beside(fetched)


@dataclass(frozen=True)
class StreamBatch:
    """`collate_fn` of training from a stream."""

    collator: Collator
    pixels: Pixels
    count: int
    """At most so many questions of each sample, the first ones."""
    spare: Batch | None = None
    """As in `TrainBatch`."""

    def __call__(self, streamed: Any) -> Batch:
        """The batch of a `stream.StreamedBatch`."""
        images = [s.image_HWC for s in streamed.samples if s.image_HWC is not None]
        fetched = Fetched(
            vision={"pixel_values": self.pixels(images)} if images else {},
            questions=[s.questions[: self.count] for s in streamed.samples],
            pictured=[s.image_HWC is not None for s in streamed.samples],
            broken={error.key: error.reason for error in streamed.broken},
        )
        return TrainBatch(self.collator, self.spare)(fetched)


def _beside(fetched: Fetched) -> Batch:
    """What travels with a batch and is not for the model."""
    told: Batch = {"samples": len(fetched.questions)}
    return told | ({"broken": fetched.broken} if fetched.broken else {})
