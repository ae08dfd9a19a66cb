"""The data of one arm for Lightning: shards, features once the tower is frozen, even loaders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.utils.data import DataLoader, Dataset

from eramv_lab.data.collate import IGNORED, Batch, collator_of
from eramv_lab.data.examples import Examples, StreamBatch, TrainBatch
from eramv_lab.data.features import FeatureStore, asked_of, size_of
from eramv_lab.data.local import local_folder, local_splits
from eramv_lab.data.order import Batches
from eramv_lab.data.pixels import Pixels
from eramv_lab.data.reader import ShardDataset
from eramv_lab.data.shards import Asked
from eramv_lab.data.words import begun_from, words_of
from eramv_lab.errors import LabError, Problem, UserError
from eramv_lab.recipe.fits import check_sizes
from eramv_lab.recipe.model_spec import ModelSpec, parse_model
from eramv_lab.recipe.parse import parse_config
from eramv_lab.recipe.schema import (
    DataConfig,
    EvaluateConfig,
    TrainConfig,
    parse_data,
    parse_evaluate,
)

LOOKED_AT = 64
"""Samples that are looked at before a fit."""
NAMED = 10
"""Broken samples that an error names."""


class LabData(LightningDataModule):
    """Loaders of a resolved arm (plain data), for training and for validation.

    `tower`: the vision tower with its final weights. Where the recipe freezes it and there is
    room, its features are computed once (by whoever comes first) and batches hold
    `vision_features` in place of `pixel_values`. Every batch holds each image once;
    `collate.repeat_images` makes it the model's. Words and pixels that the slots do not bring are
    those of the model that `start` (a plan's) names. Give the Trainer `use_distributed_sampler=
    False`. A sample that cannot be read is left out and named in `broken`. Raises UserError.
    """

    def __init__(
        self,
        arm: Mapping[str, Any],
        *,
        seed: int,
        tower: nn.Module | None = None,
        start: Mapping[str, str] | None = None,
        shown: bool = True,
    ) -> None:
        super().__init__()
        self.spec, self.data, self.train, self.evaluate = _parse(arm)
        self.sets: dict[str | None, DataConfig] = {None: self.data}
        """The data of the fit, and those of further held-out sets by name."""
        for name, one in self.evaluate.also.items():
            self.sets[name] = replace(self.data, type=one.type, **{one.type: one.source})
        self.seed, self.tower, self.shown = seed, tower, shown
        model = begun_from(start)
        self.words = words_of(self.spec, model)
        self.collator = collator_of(self.spec, self.words, self.train.max_tokens)
        self.pixels = Pixels.of(self.spec.vision, self.data.square, model)
        self.first_batch = self.seen = 0
        """The batch that training begins with, and samples that were read, without the broken."""
        self.broken: dict[str, str] = {}
        """Samples that could not be read, by key, and why."""
        self._cache: bool | None = None
        self._folders: dict[tuple[str | None, str], Path] = {}
        self._examples: dict[tuple[str | None, str], Examples] = {}

    @property
    def streams(self) -> bool:
        """Whether training reads a stream: then a resumed run sees other samples."""
        return self.data.type == "stream"

    @property
    def looked_at(self) -> str:
        """The split that is looked at during training: `val`, or `test` where there is none."""
        return "val" if "val" in self.data.source.splits() else "test"

    def setup(self, stage: str | None = None) -> None:
        """Open splits and their features, which the first process computes.

        For a fit those that it reads, without a stage all of them and the further held-out sets.
        """
        there = local_splits(self.data)
        read = {None: there, "fit": ("train", self.looked_at, self.evaluate.split)}
        for split in there:
            if split in read.get(stage, (self.evaluate.split,)):
                self.examples(split)
        for name in self.evaluate.also if stage is None else ():
            self.examples(self.evaluate.split, name)

    def examples(self, split: str, also: str | None = None) -> Examples:
        """The split, of a further set if `also` names one, with all its stored questions."""
        if (also, split) not in self._examples:
            shards, store = self._shards(split, also), None
            if self.tower is not None and self._caches():
                store = FeatureStore.open(
                    shards,
                    self.tower,
                    self.spec.vision,
                    self.pixels,
                    asked=asked_of(self.spec),
                    root=Path(self.data.folder),
                    shown=self.shown,
                )
            self._examples[also, split] = Examples(shards, self.pixels, store)
            if store is not None:
                self.seen += len(shards)
                self.note({error.key: error.reason for error in store.broken}, also)
        return self._examples[also, split]

    def _shards(self, split: str, also: str | None = None) -> ShardDataset:
        data = self.sets[also]
        place = also, split if data.type == "stream" else ""  # others: all splits in one folder
        if place not in self._folders:  # a made world is checked byte by byte: once is enough
            self._folders[place] = local_folder(data, split, shown=self.shown)
        return ShardDataset(self._folders[place], split)

    def _caches(self) -> bool:
        """Whether features are kept: for all splits or for none, so that all see the same."""
        if self.train.roles.vision != "frozen" or self.streams:
            return False
        if self._cache is None:
            read = [self._shards(split) for split in local_splits(self.data)]
            read += [self._shards(self.evaluate.split, name) for name in self.evaluate.also]
            asked = asked_of(self.spec)
            need = sum(size_of(shards, self.spec.vision, asked) for shards in read)
            self._cache = need <= self.data.cache_gib * 2**30
        return self._cache

    def some(self, count: int) -> list[tuple[list[Asked], bool]]:
        """Questions of `count` training samples, spread evenly, and whether each has an image.

        Of held-out ones where training is a stream.
        """
        part = self._asking(self.looked_at if self.streams else "train")
        spread = np.linspace(0, len(part) - 1, min(count, len(part)))
        return part.texts(spread.astype(int).tolist())

    def require_labels(self) -> None:
        """Raise UserError where nothing would be learnt: every answer looked at is cut off."""
        some = self.some(LOOKED_AT)
        if not some:
            return
        batch = self.collator([asked for asked, _ in some], [has for _, has in some])
        if not bool((batch["labels"] != IGNORED).any()):
            message = f"{self.train.max_tokens} cuts off every answer of {len(some)} samples"
            raise UserError(Problem(message=message, key="train.max_tokens"))

    def cached(self) -> bool:
        """Whether training reads features of the tower and not pixels."""
        return not self.streams and self.examples("train").store is not None

    def note(self, broken: Mapping[str, str], also: str | None = None) -> None:
        """Remember samples that could not be read; `also`: of the further set called so.

        Raises LabError where they are a larger share than `data.max_broken`.
        """
        self.broken |= {f"{also}/{k}" if also else k: why for k, why in broken.items()}
        sizes = self.data.source.sizes()
        all_of_them = sum(sizes.get(split, 0) for split in self.data.source.splits())
        total = max(self.seen, 1000)
        total = min(total, all_of_them) if all_of_them else total
        share = self.data.max_broken
        if broken and len(self.broken) > share * total:
            lines = [f"  {key}: {reason}" for key, reason in self.broken.items()]
            more = [f"  and {len(lines) - NAMED} more"] if len(lines) > NAMED else []
            head = f"{len(lines)} of {total} samples are broken, data.max_broken allows {share:.2%}"
            raise LabError("\n".join([head, *lines[:NAMED], *more]))

    def told(self) -> dict[str, Any]:
        """What a result says of its data: where from, what was left out at import and in reading.

        `skipped` and `broken` list each sample (`id`, `file`, `reason`; `key`, `reason`).
        """
        told: dict[str, Any] = {"type": self.data.type, "skipped": [], "broken": []}
        opened = [part.shards for (also, _), part in self._examples.items() if also is None]
        for shards in {shards.folder: shards for shards in opened}.values():
            told["skipped"] += shards.manifest.skipped
        told["broken"] = [{"key": k, "reason": r} for k, r in sorted(self.broken.items())]
        if self.data.type == "shards":
            told["name"] = Path(self.data.source.path).name
        if self.streams:
            from eramv_lab.data.stream import NOT_RESUMABLE

            told["resume"] = NOT_RESUMABLE
        return told

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Take out of a batch what is not for the model."""
        self.seen += batch.pop("samples", 0)
        if broken := batch.pop("broken", None):
            self.note(broken)
        return batch

    def go_to(self, batch: int) -> None:
        """Let training begin after `batch` batches of this rank, exactly where they ended."""
        self.first_batch = batch

    def train_dataloader(self) -> Any:
        """One iteration over the whole training: `steps x accumulate` batches, over epochs."""
        last = self.train.steps * self.train.accumulate
        if self.streams:
            return self._stream()
        part = self._asking("train")
        lengths = part.lengths() if self.train.by_length else None
        batches = self._batches(len(part), self.train.images, shuffle=True, lengths=lengths)
        batches.span(min(self.first_batch, last), last)
        return self._loader(part, batches, TrainBatch(self.collator, self._spare(part)))

    def val_dataloader(self) -> DataLoader[Any]:
        """The first `train.validate_images` images of the split looked at, for the loss."""
        part = self._asking(self.looked_at)
        count = min(self.train.validate_images, len(part))
        batches = self._batches(count, self.train.images, shuffle=False)
        return self._loader(part, batches, TrainBatch(self.collator))

    def _stream(self) -> DataLoader[Any]:
        """Batches without end; the Trainer counts them."""
        from eramv_lab.data.stream import StreamDataset

        rank, ranks = self._ranks()
        stream = StreamDataset(
            self.data.source,
            "train",
            seed=self.seed,
            rank=rank,
            ranks=ranks,
            start_epoch=self.first_batch,
        )
        rank_zero_info(stream.describe())
        stream.probe()
        collate = StreamBatch(self.collator, self.pixels, self.train.questions, self._spare())
        return self._loader(stream.batches(self.train.images), None, collate)

    def _asking(self, split: str) -> Examples:
        whole = self.examples(split)
        return Examples(whole.shards, whole.pixels, whole.store, questions=self.train.questions)

    def _spare(self, part: Examples | None = None) -> Batch:
        """A blank image as the model takes it."""
        if part is not None and part.store is not None and len(part.store):
            some = part.store.batch([part.store.first])
            return {"vision_features": {name: value * 0 for name, value in some.items()}}
        return {"pixel_values": torch.zeros(1, 3, self.pixels.size, self.pixels.size)}

    def _ranks(self) -> tuple[int, int]:
        trainer = self.trainer
        return (trainer.global_rank, trainer.world_size) if trainer else (0, 1)

    def _batches(self, length: int, batch: int, **how: Any) -> Batches:
        rank, ranks = self._ranks()
        try:
            return Batches(length, batch, seed=self.seed, rank=rank, ranks=ranks, **how)
        except ValueError as error:
            raise UserError(f"{error}: fewer devices or train.images, or more data") from None

    def _loader(self, part: Dataset[Any], batches: Batches | None, collate: Any) -> DataLoader[Any]:
        workers = self.train.workers
        return DataLoader(
            part,
            batch_size=None if batches is None else 1,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            # a generator of its own: reading data draws nothing from torch's default one
            generator=torch.Generator().manual_seed(self.seed),
        )


def _parse(arm: Mapping[str, Any]) -> tuple[ModelSpec, DataConfig, TrainConfig, EvaluateConfig]:
    problems: list[Problem] = []
    spec = parse_model(arm["model"], problems)
    data = parse_data(arm.get("data", {}), problems)
    train = parse_config(TrainConfig, arm.get("train", {}), "train", problems)
    evaluate = parse_evaluate(arm.get("evaluate", {}), problems)
    if data and train and evaluate:
        problems += check_sizes(data, train, evaluate)
    if problems or not (spec and data and train and evaluate):
        raise UserError(problems)
    return spec, data, train, evaluate
