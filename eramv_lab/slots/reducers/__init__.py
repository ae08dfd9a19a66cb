"""Reducers: what leaves the sequence on its way through the language model, waits or freezes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Rank: TypeAlias = Literal["none", "previous", "next", "random"]
Rankers: TypeAlias = Literal["prompt_end", "answers", "mean", "raters"]
Positions: TypeAlias = Literal["keep", "repack"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What becomes of the visual rows before layer `layer`.

    `drop`: all but `keep` of each image leave the sequence. `rank` orders them: by the attention
    that the `rankers` pay them in the layer before (`previous`), or would pay them in this layer,
    through its norm, queries and keys (`next`), at random (`random`), or by place (`none`: the
    first stay). `inject`: they enter here, having waited. `freeze`: in this one layer they are
    keys and values alone: no query, no output projection, no feed-forward.
    """

    layer: int
    kind: Literal["drop", "inject", "freeze"] = "drop"
    keep: int = 0
    rank: Rank = "none"
    rankers: Rankers = "prompt_end"
    """The prompt's last row; the row before each answer; the mean over the prompt's rows; the rows
    of the question that are nearest to the image."""
    positions: Positions = "keep"
    """Ids of the rows that stay: their own, or closed up to 0, 1, 2, ..."""
    recycled: int = 0
    """The best of those that would leave: this many are merged into `made` rows, which stay."""
    made: int = 0
    merge: Literal["mean", "sum"] = "mean"

    @property
    def looks(self) -> bool:
        """Whether attention ranks: what is asked then decides what stays."""
        return self.kind == "drop" and self.rank in ("previous", "next")

    def left(self, visual: int) -> int:
        """Visual rows of an image that had `visual`, after a drop."""
        if visual <= self.keep:
            return visual
        return self.keep + min(self.made, self.recycled, visual - self.keep)


def visual_by_layer(events: Sequence[Event], layers: int, visual: int) -> tuple[int, ...]:
    """Visual rows of an image in each layer; `events` are in order."""
    now = 0 if any(event.kind == "inject" for event in events) else visual
    found: list[int] = []
    for layer in range(layers):
        for event in events:
            if event.layer == layer and event.kind == "inject":
                now = visual
            elif event.layer == layer and event.kind == "drop":
                now = event.left(now)
        found.append(now)
    return tuple(found)


def frozen_layers(events: Sequence[Event]) -> frozenset[int]:
    """Layers in which the visual rows are keys and values alone."""
    return frozenset(event.layer for event in events if event.kind == "freeze")
