"""Questions about a scene whose answer, a word or a caption, follows from its objects alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from eramv_lab.data.world.config import WorldConfig
from eramv_lab.data.world.scene import Object, Scene, make_scene, rng_of
from eramv_lab.data.world.vocabulary import COLOURS, MORE_SHAPES, SHAPES

Objects = tuple[Object, ...]
_TRIES = 50
_PLACES = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, what answers it (one word, or the words of a caption), and its type."""

    text: str
    """Words joined by blanks, without a question mark."""
    answer: str
    type: str
    references: tuple[str, ...] = field(default=(), repr=False)
    """Further captions that would be as right: the same facts in another order."""


def ask(scene: Scene, config: WorldConfig, rng: np.random.Generator, count: int) -> list[Question]:
    """`count` questions about `scene`, types drawn by `config.mix`."""
    return ask_about(scene.objects, config, rng, count)


def ask_about(
    objects: Objects, config: WorldConfig, rng: np.random.Generator, count: int
) -> list[Question]:
    """As `ask`, of a scene that holds just these objects.

    A type that these objects cannot answer (no digit is unique, say) gives way to another one
    of the mix. Raises ValueError when none of them can be asked.
    """
    names = [name for name, share in config.mix.items() if share > 0]
    edges = np.cumsum([config.mix[name] for name in names])
    found: list[Question] = []
    for _ in range(_TRIES * count):
        if len(found) == count:
            return found
        name = names[int(np.searchsorted(edges, rng.random() * edges[-1], side="right"))]
        asked = _ASK[name](objects, rng)
        if asked is not None:
            found.append(Question(asked[0], asked[1], name, tuple(asked[2:])))
    raise ValueError(f"no question of types {', '.join(names)} fits {len(objects)} objects")


def questions_of(config: WorldConfig, split: str, index: int) -> list[Question]:
    """The fixed questions of a stored image: `config.questions` of them, always the same."""
    return ask(
        make_scene(config, split, index),
        config,
        rng_of(config, split, index, use=1),
        config.questions,
    )


def _pick(rng: np.random.Generator, count: int) -> int:
    return int(rng.random() * count)


def _name(thing: Object) -> str:
    return f"{thing.colour} {thing.shape}"


def _digit(objects: Objects, rng: np.random.Generator) -> tuple[str, str] | None:
    thing = objects[_pick(rng, len(objects))]
    return f"what digit in {_name(thing)}", thing.digit


def _with_unique_digit(objects: Objects, rng: np.random.Generator) -> Object | None:
    digits = [thing.digit for thing in objects]
    unique = [thing for thing in objects if digits.count(thing.digit) == 1]
    return unique[_pick(rng, len(unique))] if unique else None


def _color(objects: Objects, rng: np.random.Generator) -> tuple[str, str] | None:
    thing = _with_unique_digit(objects, rng)
    return thing and (f"color of digit {thing.digit}", thing.colour)


def _shape(objects: Objects, rng: np.random.Generator) -> tuple[str, str] | None:
    thing = _with_unique_digit(objects, rng)
    return thing and (f"shape of digit {thing.digit}", thing.shape)


def _two(objects: Objects, rng: np.random.Generator) -> tuple[str, int, int] | None:
    if len(objects) < 2:
        return None
    first = _pick(rng, len(objects))
    second = (first + 1 + _pick(rng, len(objects) - 1)) % len(objects)
    one, other = objects[first], objects[second]
    if one.digit == other.digit:
        return None
    return f"{_name(one)} or {_name(other)}", int(one.digit), int(other.digit)


def _compare(objects: Objects, rng: np.random.Generator) -> tuple[str, str] | None:
    two = _two(objects, rng)
    return two and (f"greater {two[0]}", str(max(two[1:])))


def _smaller(objects: Objects, rng: np.random.Generator) -> tuple[str, str] | None:
    two = _two(objects, rng)
    return two and (f"smaller {two[0]}", str(min(two[1:])))


def _exist(objects: Objects, rng: np.random.Generator) -> tuple[str, str] | None:
    """Half are there; of the others colour and shape are there, the pair is not."""
    if rng.random() < 0.5:
        return f"is there a {_name(objects[_pick(rng, len(objects))])}", "yes"
    pairs = {(thing.colour, thing.shape) for thing in objects}
    absent = [
        (colour, shape)
        for colour in sorted({thing.colour for thing in objects})
        for shape in sorted({thing.shape for thing in objects})
        if (colour, shape) not in pairs
    ]
    if not absent:
        return None
    colour, shape = absent[_pick(rng, len(absent))]
    return f"is there a {colour} {shape}", "no"


def _count(objects: Objects, rng: np.random.Generator) -> tuple[str, str] | None:
    more = {thing.shape for thing in objects}.difference(SHAPES)
    words = (*COLOURS, *SHAPES, *sorted(more))
    word = words[_pick(rng, len(words))]
    number = sum(word in (thing.colour, thing.shape) for thing in objects)
    return (f"how many {word} objects", str(number)) if number < 10 else None


def _rel(objects: Objects, rng: np.random.Generator) -> tuple[str, str] | None:
    thing = objects[_pick(rng, len(objects))]
    place = list(_PLACES)[_pick(rng, len(_PLACES))]
    down, right = _PLACES[place]
    there = (thing.cell[0] + down, thing.cell[1] + right)
    for other in objects:
        if other.cell == there:
            return f"what digit {place} the {_name(thing)}", other.digit
    return None


def _caption(objects: Objects, rng: np.random.Generator) -> tuple[str, ...]:
    """All objects of a colour that is there: shape and digit of each, by shape.

    Behind it the same by digit and in reading order, as far as these differ.
    """
    colours = sorted({thing.colour for thing in objects})
    colour = colours[_pick(rng, len(colours))]
    things = [thing for thing in objects if thing.colour == colour]
    shapes = (*SHAPES, *MORE_SHAPES)
    orders = (
        sorted(things, key=lambda thing: shapes.index(thing.shape)),
        sorted(things, key=lambda thing: int(thing.digit)),
        sorted(things, key=lambda thing: thing.cell),
    )
    told = [" ".join(f"{thing.shape} {thing.digit}" for thing in order) for order in orders]
    return f"which objects are {colour}", *dict.fromkeys(told)


_ASK: dict[str, Callable[[Objects, np.random.Generator], tuple[str, ...] | None]] = {
    "digit": _digit,
    "color": _color,
    "shape": _shape,
    "compare": _compare,
    "smaller": _smaller,
    "exist": _exist,
    "count": _count,
    "rel": _rel,
    "caption": _caption,
}
