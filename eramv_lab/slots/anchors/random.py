"""`random`: patches drawn by lot, the least that any selector has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from eramv_lab.registry import ANCHORS
from eramv_lab.shapes import Dims
from eramv_lab.slots.anchors._shared import CountedConfig, Selector, highest, same_for_all
from eramv_lab.slots.contracts import Patches


@dataclass(frozen=True, kw_only=True)
class RandomConfig(CountedConfig):
    """Patches drawn by lot, the same places in every image.

    One draw of places that does not look at the content: it is the same in training and
    evaluation, alone and in a batch, on every device. A larger `count` of the same seed keeps the
    smaller draw. One draw can be lucky: with `seed: run` the spread of several fits tells of it.
    """

    seed: Annotated[int, Field(ge=0, lt=2**32)] | Literal["run"] = 0
    """Draws the places; `run`: the fit's own seed does, other places in every fit."""


@ANCHORS.register("random", RandomConfig)
class Random(Selector):
    """The first `count` places of a permutation that `seed` gives."""

    def __init__(self, config: Any, dims: Dims) -> None:
        super().__init__(config, dims)
        self.seed = config.seed
        if self.seed == "run":  # from the model's own stream, so that a saved one keeps its places
            self.seed = int(torch.randint(2**32, (), device="cpu"))

    def choose(self, patches: Patches) -> Tensor:
        states = patches.states_NPV
        places_P = torch.arange(states.shape[1], device=states.device)
        lots_P = _mix(places_P ^ _mix(torch.full_like(places_P, self.seed)))
        return same_for_all(highest(lots_P[None], self.config.count)[0], patches)


def _mix(x: Tensor) -> Tensor:
    """A 32-bit integer hash ("lowbias32"): a generator would give another draw on each device."""
    x = x & 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return x ^ (x >> 16)
