"""The data of one arm for Lightning: shards, features once the tower is frozen, even loaders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, Dataset

from eramv_lab.data.collate import Batch, Collator, can_pack
from eramv_lab.data.features import FeatureStore
from eramv_lab.data.make import make_data
from eramv_lab.data.order import Batches
from eramv_lab.data.pixels import Pixels
from eramv_lab.data.reader import ShardDataset
from eramv_lab.data.shards import Asked
from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe.model_spec import ModelSpec, parse_model
from eramv_lab.recipe.parse import parse_config
from eramv_lab.recipe.schema import DataConfig, EvaluateConfig, TrainConfig, check_sizes, parse_data


@dataclass(frozen=True)
class Fetched:
    """Some images of a split, as the model sees them, and their questions."""

    vision: Batch
    """`pixel_values` [N,3,H,W], or `vision_features`."""
    questions: list[list[Asked]]


class Examples(Dataset[Fetched]):
    """A split by index, with features where there is a store and pixels otherwise.

    `questions`: at most so many of each image, the first ones.
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
        """The images at `indices`, together."""
        if self.store is not None:
            vision: Batch = {"vision_features": self.store.batch(indices)}
        else:
            vision = {"pixel_values": self.pixels([self.shards.image(i) for i in indices])}
        return Fetched(vision, [self.shards.questions(i)[: self.count] for i in indices])

    def __getitem__(self, index: int) -> Fetched:
        return self.__getitems__([index])


@dataclass(frozen=True)
class TrainBatch:
    """`collate_fn` of training and validation."""

    collator: Collator

    def __call__(self, fetched: Fetched) -> Batch:
        return self.collator(fetched.questions) | fetched.vision


@dataclass(frozen=True)
class PromptBatch:
    """`collate_fn` of generation."""

    collator: Collator

    def __call__(self, fetched: Fetched) -> Batch:
        return self.collator.prompts(fetched.questions) | fetched.vision


class LabData(LightningDataModule):
    """Train, validation and prompt loaders of a resolved arm (plain data).

    `tower`: the vision tower with its final weights. Where the recipe freezes it, its features
    are computed once (by whoever comes first) and batches hold `vision_features` in place of
    `pixel_values`. Every batch holds each image once; `collate.repeat_images` makes it the
    model's. Give the Trainer `use_distributed_sampler=False`: the loaders are even by themselves.
    Raises UserError for a recipe that is not sound or asks for more than there is.
    """

    def __init__(
        self,
        arm: Mapping[str, Any],
        *,
        seed: int,
        tower: nn.Module | None = None,
        shown: bool = True,
    ) -> None:
        super().__init__()
        self.spec, self.data, self.train, self.evaluate = _parse(arm)
        self.seed, self.tower, self.shown = seed, tower, shown
        self.collator = Collator(
            self.spec.prompt, self.spec.dims().visual or 1, pack=can_pack(self.spec)
        )
        self.first_step = 0
        self._examples: dict[str, Examples] = {}

    def prepare_data(self) -> None:
        """Make the shards where they are missing."""
        make_data(self.data.world, self.data.folder, shown=self.shown)

    def setup(self, stage: str | None = None) -> None:
        """Open the splits and their features, which the first process computes."""
        for split in {"fit": ("train", "test"), None: ("train", "test")}.get(stage, ("test",)):
            self.examples(split)

    def examples(self, split: str) -> Examples:
        """The split as this arm sees it, all stored questions included."""
        if split not in self._examples:
            folder = make_data(self.data.world, self.data.folder, shown=self.shown)
            shards, store = ShardDataset(folder, split), None
            if self.tower is not None and self.train.roles.vision == "frozen":
                store = FeatureStore.open(
                    shards,
                    self.tower,
                    self.spec.vision,
                    root=Path(self.data.folder),
                    shown=self.shown,
                )
            self._examples[split] = Examples(shards, Pixels.of(self.spec.vision), store)
        return self._examples[split]

    def go_to(self, step: int) -> None:
        """Let training begin after `step` batches of this rank, exactly where they ended."""
        self.first_step = step

    def train_dataloader(self) -> DataLoader[Any]:
        """Endless by epochs: each iteration is the next one, in an order of its own."""
        part = self._asking("train")
        batches = self._batches(len(part), self.train.images, shuffle=True)
        batches.go_to(self.first_step)
        return self._loader(part, batches, TrainBatch(self.collator))

    def val_dataloader(self) -> DataLoader[Any]:
        """The first `train.validate_images` held-out images, for the loss."""
        part = self._asking("test")
        count = min(self.train.validate_images, len(part))
        batches = self._batches(count, self.train.images, shuffle=False)
        return self._loader(part, batches, TrainBatch(self.collator))

    def prompt_dataloader(self) -> DataLoader[Any]:
        """All stored questions of the first `evaluate.images` held-out images, to be answered."""
        part = self.examples("test")
        count = min(self.evaluate.images or len(part), len(part))
        batches = self._batches(count, self.evaluate.batch, shuffle=False)
        return self._loader(part, batches, PromptBatch(self.collator))

    test_dataloader = predict_dataloader = prompt_dataloader

    def _asking(self, split: str) -> Examples:
        whole = self.examples(split)
        return Examples(whole.shards, whole.pixels, whole.store, questions=self.train.questions)

    def _batches(self, length: int, batch: int, *, shuffle: bool) -> Batches:
        trainer = self.trainer
        rank, ranks = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        try:
            return Batches(length, batch, seed=self.seed, rank=rank, ranks=ranks, shuffle=shuffle)
        except ValueError as error:
            raise UserError(f"{error}: fewer devices or train.images, or more data") from None

    def _loader(self, part: Examples, batches: Batches, collate: Any) -> DataLoader[Any]:
        workers = self.train.workers
        return DataLoader(
            part,
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
    evaluate = parse_config(EvaluateConfig, arm.get("evaluate", {}), "evaluate", problems)
    if data and train and evaluate:
        problems += check_sizes(data, train, evaluate)
    if problems or not (spec and data and train and evaluate):
        raise UserError(problems)
    return spec, data, train, evaluate
