"""Scenes of the base's own split, drawn in a second process while the first one trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from eramv_lab.data.world.config import WorldConfig
from eramv_lab.data.world.scene import Object, make_scene, patch_labels, patch_owner
from eramv_lab.data.world.vocabulary import COLOURS, DIGITS, SHAPES
from eramv_lab.slots.vision.tiny import MEAN, STD

PRESENCES = len(COLOURS) * len(SHAPES) + len(COLOURS) + len(SHAPES) + len(DIGITS)
"""What the CLS state is asked: which pairs, colours, shapes and digits the image holds."""


@dataclass(frozen=True)
class SceneBatch:
    """Drawn scenes, as the tower's training and the feature store take them."""

    images_N3HW: Tensor
    """uint8."""
    labels_N3P: Tensor
    """Colour, shape, digit of every patch, 0 for none."""
    present_NK: Tensor
    """0 or 1 for each of `PRESENCES`."""
    owner_NP: Tensor
    """Index of the object that a patch shows, -1 for none."""
    objects: list[tuple[Object, ...]]

    def pixels(self) -> Tensor:
        """What `TinyVision` takes: [N,3,H,W] float."""
        return self.images_N3HW.float().div_(255).sub_(MEAN).div_(STD)


class _Batches(Dataset[SceneBatch]):
    def __init__(
        self, world: WorldConfig, split: str, patch: int, first: int, count: int, batch: int
    ) -> None:
        self.world, self.split, self.patch = world, split, patch
        self.starts = range(first, first + count, batch)
        self.batch, self.end = batch, first + count

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: int) -> SceneBatch:
        if number >= len(self):
            raise IndexError(number)
        start = self.starts[number]
        scenes = [
            make_scene(self.world, self.split, index)
            for index in range(start, min(start + self.batch, self.end))
        ]
        owners = [patch_owner(self.world, scene, self.patch) for scene in scenes]
        labels = [patch_labels(s, o) for s, o in zip(scenes, owners, strict=True)]
        return SceneBatch(
            images_N3HW=torch.from_numpy(
                np.stack([scene.image for scene in scenes]).transpose(0, 3, 1, 2)
            ),
            labels_N3P=torch.from_numpy(np.stack(labels)),
            present_NK=torch.from_numpy(np.stack([_present(scene.objects) for scene in scenes])),
            owner_NP=torch.from_numpy(np.stack(owners)),
            objects=[scene.objects for scene in scenes],
        )


def drawn(
    world: WorldConfig, split: str, patch: int, first: int, count: int, batch: int
) -> Iterator[SceneBatch]:
    """Scenes `first` to `first + count` of `split` in batches, drawn ahead by a second process."""
    loader: DataLoader[Any] = DataLoader(
        _Batches(world, split, patch, first, count, batch),
        batch_size=None,
        num_workers=1,
        prefetch_factor=8,
    )
    return iter(loader)


def _present(objects: tuple[Object, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    pairs = len(COLOURS) * len(SHAPES)
    present = np.zeros(PRESENCES, dtype=np.float32)
    for thing in objects:
        colour, shape = COLOURS.index(thing.colour), SHAPES.index(thing.shape)
        present[colour * len(SHAPES) + shape] = 1
        present[pairs + colour] = 1
        present[pairs + len(COLOURS) + shape] = 1
        present[pairs + len(COLOURS) + len(SHAPES) + DIGITS.index(thing.digit)] = 1
    return present
