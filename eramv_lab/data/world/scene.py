"""One scene from (seed, split, index): objects in cells, the image, and what every patch shows."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from eramv_lab.data.world.config import CONFUSED, WorldConfig
from eramv_lab.data.world.vocabulary import COLOURS, DIGITS, SHAPES

RGB = np.array(
    [(215, 45, 45), (45, 170, 60), (50, 80, 220), (225, 200, 40), (150, 50, 185), (50, 195, 205)],
    dtype=np.float32,
)
"""The colours, in the order of `COLOURS`."""

_GLYPHS = (
    "01110 10001 10001 10001 10001 10001 01110",
    "00100 01100 10100 00100 00100 00100 11111",
    "01110 10001 00001 00110 01000 10000 11111",
    "11110 00001 00001 01110 00001 00001 11110",
    "00010 00110 01010 10010 11111 00010 00010",
    "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110",
    "11111 00001 00010 00100 00100 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110",
    "01110 10001 10001 01111 00001 00010 01100",
)
_FINER = 8
_COVERED = 0.2

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Object:
    """A coloured shape with a digit in it."""

    colour: str
    shape: str
    digit: str
    cell: tuple[int, int]
    """Row and column."""
    box: tuple[int, int, int, int]
    """Left, top, right, bottom, pixels; right and bottom are just outside."""


@dataclass(frozen=True, slots=True)
class Scene:
    """An image and what is in it."""

    image: NDArray[np.uint8]
    """[H,W,3]."""
    objects: tuple[Object, ...]
    """In reading order of their cells."""


def rng_of(config: WorldConfig, split: str, index: int, use: int = 0) -> np.random.Generator:
    """The generator of one scene; `use` tells its drawing (0) from its questions (1)."""
    key = (config.seed, zlib.crc32(split.encode()), index, use)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def make_scene(config: WorldConfig, split: str, index: int) -> Scene:
    """Scene `index` of `split`: the same for the same three, different for any other."""
    rng = rng_of(config, split, index)
    objects = _place(config, rng)
    return Scene(image=_draw(config, objects, rng), objects=objects)


def patch_owner(config: WorldConfig, scene: Scene, patch: int) -> Labels:
    """Index of the object that each patch of `patch` px shows, -1 for none: [P].

    A patch shows an object when the object's shape covers a fifth of it.
    """
    side = config.size // patch
    most = np.full((side, side), _COVERED, dtype=np.float32)
    owner = np.full((side, side), -1)
    canvas = np.zeros((config.size, config.size), dtype=np.float32)
    for number, thing in enumerate(scene.objects):
        left, top, right, bottom = thing.box
        canvas[top:bottom, left:right] = _shape_mask(thing.shape, config.object_px)
        y, x = top // patch, left // patch
        below, beyond = (bottom - 1) // patch + 1, (right - 1) // patch + 1
        block = canvas[y * patch : below * patch, x * patch : beyond * patch]
        cover = block.reshape(below - y, patch, beyond - x, patch).mean((1, 3))
        canvas[top:bottom, left:right] = 0
        here = (slice(y, below), slice(x, beyond))
        more = cover >= most[here]
        owner[here][more] = number
        most[here][more] = cover[more]
    return owner.ravel()


def patch_labels(scene: Scene, owner: Labels) -> Labels:
    """Colour, shape and digit that each patch shows: [3,P], 0 none, else 1 + the index.

    Raises ValueError for a shape that is none of the six.
    """
    table = np.zeros((3, len(scene.objects) + 1), dtype=np.int64)
    for number, thing in enumerate(scene.objects):
        table[:, number] = (
            1 + COLOURS.index(thing.colour),
            1 + SHAPES.index(thing.shape),
            1 + DIGITS.index(thing.digit),
        )
    return table[:, owner]


def _place(config: WorldConfig, rng: np.random.Generator) -> tuple[Object, ...]:
    count = int(rng.integers(config.objects[0], config.objects[1] + 1))
    confusable = rng.random() < config.confusable
    colours = rng.permutation(len(COLOURS))[: CONFUSED if confusable else None]
    shapes = rng.permutation(len(config.shapes))[: CONFUSED if confusable else None]
    pairs = rng.choice(len(colours) * len(shapes), count, replace=False)
    cells = np.sort(rng.choice(config.cells**2, count, replace=False))
    digits = rng.integers(0, 10, count)
    shifts = rng.integers(-config.jitter, config.jitter + 1, (count, 2))
    room = config.room()
    margin = (room - config.object_px) // 2
    down, right = rng.integers(0, config.drift + 1, 2).tolist() if config.drift else (0, 0)
    objects: list[Object] = []
    for pair, cell, digit, (dy, dx) in zip(
        pairs.tolist(), cells.tolist(), digits.tolist(), shifts.tolist(), strict=True
    ):
        row, column = divmod(cell, config.cells)
        top = down + row * room + margin + dy
        left = right + column * room + margin + dx
        objects.append(
            Object(
                colour=COLOURS[colours[pair // len(shapes)]],
                shape=config.shapes[shapes[pair % len(shapes)]],
                digit=DIGITS[digit],
                cell=(row, column),
                box=(left, top, left + config.object_px, top + config.object_px),
            )
        )
    return tuple(objects)


def _draw(
    config: WorldConfig, objects: tuple[Object, ...], rng: np.random.Generator
) -> NDArray[np.uint8]:
    size = config.size
    tint = rng.integers(90, 166, 3)
    ground = Image.new("RGB", (size, size), tuple(tint.tolist()))
    pen = ImageDraw.Draw(ground)
    marks = int(rng.integers(config.clutter[0], config.clutter[1] + 1))
    spots = rng.integers(0, size, (marks, 2)).tolist()
    reach = rng.integers(-8, 9, (marks, 2)).tolist()
    paints = rng.integers(30, 226, (marks, 3)).tolist()
    for number, ((x, y), (dx, dy), paint) in enumerate(zip(spots, reach, paints, strict=True)):
        if number % 2:
            pen.line((x, y, x + dx, y + dy), fill=tuple(paint), width=1 + number % 3 // 2)
        else:
            radius = 1 + abs(dx) // 4
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(paint))
    canvas = np.asarray(ground, dtype=np.float32).copy()
    shades = rng.normal(0, 12, (len(objects), 3)).astype(np.float32)
    inks = rng.random(len(objects)) < 0.5
    for thing, shade, light in zip(objects, shades, inks, strict=True):
        left, top, right, bottom = thing.box
        paint = RGB[COLOURS.index(thing.colour)] + shade
        shape = _shape_mask(thing.shape, config.object_px)[..., None]
        digit = _digit_mask(thing.digit, config.digit_px, config.object_px)[..., None]
        patch = canvas[top:bottom, left:right]
        patch += shape * (paint - patch)
        white = light and float(paint.mean()) < 130  # white on yellow could not be read
        patch += digit * ((250.0 if white else 10.0) - patch)
    canvas += rng.standard_normal(canvas.shape, dtype=np.float32) * np.float32(config.noise)
    return canvas.clip(0, 255).astype(np.uint8)


@lru_cache(maxsize=256)
def _shape_mask(shape: str, side: int) -> Floats:
    big = side * _FINER
    image = Image.new("L", (big, big), 0)
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse((0.03 * big, 0.03 * big, 0.97 * big, 0.97 * big), fill=255)
    else:
        pen.polygon([(x * big, y * big) for x, y in _corners(shape)], fill=255)
    return np.asarray(
        image.resize((side, side), Image.Resampling.BOX), dtype=np.float32
    ) / np.float32(255)


def _corners(shape: str) -> list[tuple[float, float]]:
    if shape == "square":
        return [(0.09, 0.09), (0.91, 0.09), (0.91, 0.91), (0.09, 0.91)]
    if shape == "triangle":
        return [(0.5, 0.0), (1.0, 0.97), (0.0, 0.97)]
    if shape == "diamond":
        return [(0.5, 0.0), (1.0, 0.5), (0.5, 1.0), (0.0, 0.5)]
    if shape == "cross":
        a, b = 0.27, 0.73
        return [
            *((a, 0), (b, 0), (b, a), (1, a), (1, b), (b, b)),
            *((b, 1), (a, 1), (a, b), (0, b), (0, a), (a, a)),
        ]
    if shape == "thing":
        a, b = 0.24, 0.76
        return [(0.5, 0), (1, 0.5), (b, 0.5), (b, 1), (a, 1), (a, 0.5), (0, 0.5)]
    if shape == "object":
        return [(0, 0), (1, 0), (1, 0.55), (0.5, 1), (0, 0.55)]
    turns = np.arange(10) * np.pi / 5
    radii = np.where(np.arange(10) % 2, 0.29, 0.53)
    return list(
        zip(
            (0.5 + radii * np.sin(turns)).tolist(),
            (0.53 - radii * np.cos(turns)).tolist(),
            strict=True,
        )
    )


@lru_cache(maxsize=256)
def _digit_mask(digit: str, height: int, side: int) -> Floats:
    glyph = np.array([[c == "1" for c in row] for row in _GLYPHS[int(digit)].split()])
    width = max(4, round(height * 5 / 7))
    image = Image.fromarray(np.kron(glyph, np.ones((8, 8))).astype(np.uint8) * 255)
    small = np.asarray(image.resize((width, height), Image.Resampling.BOX), dtype=np.float32) / 255
    mask = np.zeros((side, side), dtype=np.float32)
    top, left = (side - height + 1) // 2, (side - width) // 2
    mask[top : top + height, left : left + width] = small
    return mask
