"""The tiny tower learns what every patch shows and what the image holds, in place of CLIP."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eramv_lab.data.world.config import WorldConfig
from eramv_lab.data.world.vocabulary import COLOURS, DIGITS, SHAPES
from eramv_lab.slots.contracts import Need
from eramv_lab.slots.vision.tiny import TinyVision, TinyVisionConfig
from eramv_lab.train.base.optim import Optimizers, warm_flat_decay
from eramv_lab.train.base.recipe import TowerRecipe
from eramv_lab.train.base.scenes import PRESENCES, drawn

LABELS = {"colour": COLOURS, "shape": SHAPES, "digit": DIGITS}
Tick = Callable[[str], None]


class TowerHeads(nn.Module):
    """Linear read-outs, only for training; their rows are the directions of the classes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.patch = nn.ModuleDict({k: nn.Linear(width, 1 + len(v)) for k, v in LABELS.items()})
        self.cls = nn.Linear(width, PRESENCES)


def train_tower(
    config: TinyVisionConfig, recipe: TowerRecipe, world: WorldConfig, tick: Tick
) -> tuple[TinyVision, TowerHeads]:
    """A trained tower, frozen, and the heads that it was trained with."""
    tower, heads = TinyVision(config), TowerHeads(config.width)
    both = nn.ModuleList([tower, heads])
    optimizers = Optimizers(
        both, lambda name: "layers" in name, muon=recipe.muon, adamw=recipe.adamw
    )
    batches = drawn(world, "base", config.patch, 0, recipe.steps * recipe.batch, recipe.batch)
    for step, batch in enumerate(batches):
        optimizers.scale(warm_flat_decay(step, recipe.steps, warm=50, decay=0.7, last=0.02))
        patches = tower(batch.pixels(), Need.CLS)
        loss = patches.states_NPV.new_zeros(())
        for number, head in enumerate(heads.patch.values()):
            loss = loss + F.cross_entropy(
                head(patches.states_NPV).flatten(0, 1), batch.labels_N3P[:, number].flatten()
            )
        present = F.binary_cross_entropy_with_logits(heads.cls(patches.cls_NV), batch.present_NK)
        (loss + recipe.cls_weight * present).backward()
        optimizers.step(clip=1.0)
        tick(f"tower, loss {loss.item():.3f}")
    return tower.eval().requires_grad_(False), heads.eval().requires_grad_(False)


@torch.no_grad()
def patch_accuracy(
    tower: TinyVision, heads: TowerHeads, world: WorldConfig, images: int
) -> dict[str, float]:
    """Share of the object patches of held-out scenes whose colour, shape, digit are read right."""
    right: dict[str, list[Tensor]] = {name: [] for name in LABELS}
    for batch in drawn(world, "base-test", tower.config.patch, 0, images, 100):
        states_NPV = tower(batch.pixels()).states_NPV
        shown = batch.owner_NP >= 0
        for number, (name, head) in enumerate(heads.patch.items()):
            guess = head(states_NPV).argmax(-1)
            right[name].append((guess == batch.labels_N3P[:, number])[shown])
    return {name: round(torch.cat(hits).float().mean().item(), 4) for name, hits in right.items()}
