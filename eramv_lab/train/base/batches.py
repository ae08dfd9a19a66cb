"""Short sequences that can always be answered: some objects' patches and questions about them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eramv_lab.data.world.config import WorldConfig
from eramv_lab.data.world.questions import Question, ask_about
from eramv_lab.data.world.scene import Object
from eramv_lab.data.world.vocabulary import ANSWER, EOS, IDS, PAD, encode
from eramv_lab.slots.contracts import Need
from eramv_lab.slots.vision.tiny import TinyVision
from eramv_lab.train.base.recipe import PhaseRecipe
from eramv_lab.train.base.scenes import drawn

IGNORE = -100


@dataclass(frozen=True)
class Store:
    """Tower states of scenes, kept in half precision."""

    rows_NSV: Tensor
    """CLS, then the patches."""
    owner_NP: NDArray[np.int64]
    objects: list[tuple[Object, ...]]


@dataclass(frozen=True)
class LanguageBatch:
    """Visual rows and packed questions; Q questions of L words each behind one prefix."""

    visual_BRV: Tensor
    real_BR: Tensor
    """True where a visual row is no padding."""
    words_BQL: Tensor
    """Ids; each question ends in the marker and its answer, of one word or several."""
    labels_BQL: Tensor
    """What the next word is where that is supervised, else `IGNORE`."""
    questions: list[list[Question]]


@torch.no_grad()
def tower_states(tower: TinyVision, world: WorldConfig, split: str, count: int) -> Store:
    """States of scenes 0 to `count` of `split`."""
    rows, owners, objects = [], [], []
    for batch in drawn(world, split, tower.config.patch, 0, count, 50):
        patches = tower(batch.pixels(), Need.CLS)
        assert patches.cls_NV is not None
        rows.append(torch.cat([patches.cls_NV[:, None], patches.states_NPV], 1).half())
        owners.append(batch.owner_NP.numpy().copy())
        objects += batch.objects
    return Store(torch.cat(rows), np.concatenate(owners), objects)


def draw_batch(
    store: Store, phase: PhaseRecipe, world: WorldConfig, rng: np.random.Generator
) -> LanguageBatch:
    """A batch of `phase`, scenes, patches and questions drawn by `rng`."""
    everything = rng.random() < phase.all_tokens
    scenes = rng.integers(0, len(store.objects), phase.batch).tolist()
    rows: list[Tensor] = []
    questions: list[list[Question]] = []
    for scene in scenes:
        objects = store.objects[scene]
        if everything:
            rows.append(store.rows_NSV[scene])
        else:
            count = min(int(rng.integers(phase.objects[0], phase.objects[1] + 1)), len(objects))
            chosen = rng.permutation(len(objects))[:count]
            index = _some_patches(store.owner_NP[scene], chosen, phase, rng)
            rows.append(store.rows_NSV[scene][torch.from_numpy(index)])
            objects = tuple(objects[number] for number in chosen)
        questions.append(ask_about(objects, world, rng, world.questions))
    return pack(rows, questions)


def pack(rows: list[Tensor], questions: list[list[Question]]) -> LanguageBatch:
    """Visual rows and questions of several images, padded to the longest of each."""
    most = max(len(r) for r in rows)
    visual_BRV = torch.zeros(len(rows), most, rows[0].shape[-1])
    real_BR = torch.zeros(len(rows), most, dtype=torch.bool)
    for number, states in enumerate(rows):
        visual_BRV[number, : len(states)] = states
        real_BR[number, : len(states)] = True
    texts = [[(encode(f"{q.text} {ANSWER}"), encode(q.answer)) for q in some] for some in questions]
    longest = max(len(asked) + len(said) for some in texts for asked, said in some)

    def padded(ids: list[int], value: int) -> list[int]:
        return ids + [value] * (longest - len(ids))

    words = [[padded(asked + said, IDS[PAD]) for asked, said in some] for some in texts]
    labels = [
        [padded([IGNORE] * (len(asked) - 1) + [*said, IDS[EOS]], IGNORE) for asked, said in some]
        for some in texts
    ]
    return LanguageBatch(visual_BRV, real_BR, torch.tensor(words), torch.tensor(labels), questions)


def _some_patches(
    owner_P: NDArray[np.int64],
    chosen: NDArray[np.int64],
    phase: PhaseRecipe,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Rows (0 is CLS) of a few patches of each chosen object and of the background, ascending."""

    def some(number: int, low: int, high: int) -> NDArray[np.int64]:
        there = np.flatnonzero(owner_P == number)
        return rng.permutation(there)[: int(rng.integers(low, high + 1))]

    parts = [some(number, *phase.patches) for number in chosen.tolist()]
    index = np.concatenate([*parts, some(-1, *phase.background)])
    return np.concatenate([[0], 1 + np.sort(index)])
