"""What the made world is like: the size of its images, how hard its scenes are, its splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from eramv_lab.data.world.vocabulary import COLOURS, MORE_SHAPES, SHAPES
from eramv_lab.recipe.parse import LATER

TYPES: tuple[str, ...] = (
    "digit",
    "color",
    "shape",
    "compare",
    "smaller",
    "exist",
    "count",
    "rel",
    "caption",
)
"""Every kind of question that `questions.py` can ask."""

CONFUSED = 4
"""Colours, and shapes, that the objects of a confusable scene come from."""


def default_mix() -> dict[str, float]:
    """Shares of the question types of the default bed."""
    return {"digit": 0.25, "color": 0.15, "shape": 0.15, "compare": 0.45}


@dataclass(frozen=True, kw_only=True)
class WorldConfig:
    """A world of coloured shapes with digits in them, and questions about them.

    The keys from `objects` to `confusable` set how hard it is to see and to tell apart.
    """

    size: int = 96
    """Side of the square images, pixels."""
    cells: int = 4
    """Cells per side; a cell holds at most one object."""
    objects: tuple[int, int] = (9, 15)
    """Fewest and most objects in a scene."""
    object_px: int = 20
    """Side of the box of an object, pixels."""
    jitter: int = 2
    """Largest shift of an object from the middle of its cell, pixels, each way."""
    drift: int = field(default=0, metadata=LATER)
    """The cells leave this much of the side free and stand anywhere in the image, so that no grid
    of patches or pooled rows lies on theirs, pixels."""
    digit_px: int = 11
    """Height of the digit inside an object, pixels."""
    clutter: tuple[int, int] = (6, 14)
    """Fewest and most small marks (blobs, lines) behind the objects."""
    noise: float = 8.0
    """Standard deviation of the noise of every pixel, of 255."""
    confusable: float = 0.5
    """Share of the scenes whose objects come from four colours and four shapes, so that most
    distractors share the target's colour or shape."""
    questions: int = 8
    """Questions asked of every stored image."""
    mix: Mapping[str, float] = field(default_factory=default_mix)
    """Share of each question type: digit, color, shape, compare, smaller, exist, count, rel, and
    caption, which is answered by several words."""
    shapes: tuple[str, ...] = field(default=SHAPES, metadata=LATER)
    """Shapes of the objects: of the six that a base knows, `thing` (an arrow), `object` (a
    shield)."""
    train: int = 3200
    """Images of the training split."""
    test: int = 300
    """Images of the held-out split."""
    val: int = 150
    """Images of the split that validation and searches look at."""
    seed: int = 0
    """Seed of every scene and question; splits of one seed never share a scene."""

    def check(self) -> Iterator[str]:
        """Texts of what is wrong with these values; nothing when all is well."""
        if self.cells < 1:
            yield f"cells is {self.cells}, must be at least 1"
            return
        side = self.size - self.drift
        if self.drift < 0 or side < 8 * self.cells or side % self.cells:
            less = f" less drift {self.drift}" if self.drift else ""
            yield (
                f"size {self.size}{less} must be a multiple of cells {self.cells}, "
                "at least 8 px a cell"
            )
        room = self.room()
        if self.object_px < 6 or self.jitter < 0:
            yield f"object_px {self.object_px} must be at least 6, jitter {self.jitter} at least 0"
        elif self.object_px + 2 * self.jitter > room:
            yield (
                f"object_px {self.object_px} with jitter {self.jitter} reaches past "
                f"its cell of {room} px"
            )
        if not 5 <= self.digit_px <= self.object_px:
            yield f"digit_px is {self.digit_px}, must be from 5 to object_px ({self.object_px})"
        for name in self.shapes:
            if name not in SHAPES + MORE_SHAPES:
                yield f"shapes names {name!r}, there are {', '.join(SHAPES + MORE_SHAPES)}"
        if len(set(self.shapes)) < max(1, len(self.shapes)):
            yield f"shapes is {', '.join(self.shapes) or 'empty'}, must name some, each once"
        pairs = len(COLOURS) * len(self.shapes)  # no scene holds one twice
        if self.confusable:
            pairs = CONFUSED * min(CONFUSED, len(self.shapes))
        most = min(self.cells**2, pairs)
        low, high = self.objects
        if not 2 <= low <= high <= most:
            yield f"objects is {low} to {high}, must rise within 2 and {most}"
        if not 0 <= self.clutter[0] <= self.clutter[1]:
            yield f"clutter is {self.clutter[0]} to {self.clutter[1]}, must rise from 0"
        if self.noise < 0:
            yield f"noise is {self.noise}, must not be negative"
        if not 0 <= self.confusable <= 1:
            yield f"confusable is {self.confusable}, must lie within 0 and 1"
        for name, share in self.mix.items():
            if name not in TYPES:
                yield f"mix names {name!r}, question types are {', '.join(TYPES)}"
            elif share < 0:
                yield f"mix.{name} is {share}, must not be negative"
        if not any(share > 0 for share in self.mix.values()):
            yield "mix is empty: no question type has a share above 0"
        for name in ("questions", "train", "test", "val"):
            if getattr(self, name) < 1:
                yield f"{name} is {getattr(self, name)}, must be at least 1"
        if self.seed < 0:
            yield f"seed is {self.seed}, must not be negative"

    def room(self) -> int:
        """Side of a cell, pixels."""
        return (self.size - self.drift) // self.cells

    def sizes(self) -> dict[str, int]:
        """Samples of each split, and questions of a sample."""
        return {s: getattr(self, s) for s in (*self.splits(), "questions")}

    def splits(self) -> tuple[str, ...]:
        """The splits that there are."""
        return ("train", "test", "val")

    def types(self) -> list[str]:
        """Question types of the splits."""
        return sorted(self.mix)

    def answer_words(self) -> int:
        """Words of the longest answer: a caption of one colour in every shape, or one."""
        return 2 * len(self.shapes) if self.mix.get("caption", 0) > 0 else 1

    def identity(self) -> Any:
        """What the data is, for a run's hash; None: these keys say it."""
        return None
