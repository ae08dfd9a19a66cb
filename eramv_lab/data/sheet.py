"""A contact sheet: pictures with outlined patches, lines of text below each, a table at the end."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

INK, FAINT, PALE, ACCENT = "#1b1f24", "#6b7280", "#e8eaed", "#b4380b"
COLUMNS = 4
TILE, GAP, MARGIN = 2.6, 0.35, 0.45
"""Side of a picture, space between two, space around all: inches."""
LINE = 0.165
"""Height of a line of text, inches."""
FONT = 8.0
MOST_LINES, ROOM = 8, 44
"""Most lines below a picture, and letters of one: question and answer."""
MOST_PIXELS = 400
"""Longest side of a picture as it is drawn; more would not be seen."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture and what is told of it."""

    name: str
    note: str
    """Said at the right above the picture."""
    image_HWC: np.ndarray | None
    """Of any shape; none for text alone."""
    boxes: Sequence[tuple[float, float, float, float]]
    """Left, top, right, bottom of what is outlined, pixels of the picture; it may lie beside it."""
    lines: Sequence[tuple[str, str]]
    """Question and answer; what is long is cut, and so are many."""


def short(text: str, most: int) -> str:
    """A text in one line of at most `most` letters."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - 1]}…"


def draw_sheet(
    out: Path,
    title: str,
    caption: str,
    tiles: Sequence[Tile],
    table: Sequence[tuple[str, Sequence[str]]],
) -> None:
    """Write the PNG `out`; `table` is a list of (heading, values), the first one of text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font does not have are drawn as boxes
        _draw(out, title, caption, tiles, table)


def _draw(
    out: Path,
    title: str,
    caption: str,
    tiles: Sequence[Tile],
    table: Sequence[tuple[str, Sequence[str]]],
) -> None:
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    text = LINE * max(len(_lines(tile)) for tile in tiles)
    step_x, step_y = TILE + GAP, LINE + TILE + 0.12 + text + GAP
    foot = LINE * (len(table[0][1]) + 2)
    head = 0.75
    width = max(columns * step_x - GAP + 2 * MARGIN, 6.6)
    height = head + rows * step_y + foot + 2 * MARGIN
    figure = Figure(figsize=(width, height), dpi=130, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    pen = _Pen(figure, width, height)
    pen.write(MARGIN, MARGIN + 0.12, title, size=13, weight="bold")
    pen.write(MARGIN, MARGIN + 0.38, caption, size=9, color=FAINT)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        pen.tile(MARGIN + column * step_x, MARGIN + head + row * step_y, tile)
    pen.table(MARGIN, MARGIN + head + rows * step_y, table)
    out.parent.mkdir(parents=True, exist_ok=True)
    canvas.print_png(out)


@dataclass(frozen=True)
class _Pen:
    """Draws at inches from the left and from the top."""

    figure: Figure
    width: float
    height: float

    def write(self, x: float, y: float, text: str, **style: object) -> None:
        style = {"size": FONT, "color": INK, "va": "center", "parse_math": False, **style}
        self.figure.text(x / self.width, 1 - y / self.height, text, **style)  # type: ignore[arg-type]

    def tile(self, x: float, y: float, tile: Tile) -> None:
        self.write(x, y, tile.name, weight="bold")
        self.write(x + TILE, y, tile.note, color=FAINT, ha="right")
        top = y + LINE * 0.75
        axes = self.figure.add_axes(
            (
                x / self.width,
                1 - (top + TILE) / self.height,
                TILE / self.width,
                TILE / self.height,
            )
        )
        if tile.image_HWC is None:
            axes.text(0.5, 0.5, "text alone", color=FAINT, ha="center", va="center")
        else:
            high, wide = tile.image_HWC.shape[:2]
            axes.imshow(_small(tile.image_HWC), extent=(0, wide, high, 0), interpolation="nearest")
            # a square around it, whatever its shape
            side = max(high, wide)
            left, upper = (wide - side) / 2, (high - side) / 2
            axes.add_patch(Rectangle((left, upper), side, side, color=PALE, zorder=-1))
            axes.set(xlim=(left, left + side), ylim=(upper + side, upper))
        for left, upper, right, lower in tile.boxes:
            for color, stroke in (("black", 3.4), ("white", 1.7)):
                axes.add_patch(
                    Rectangle(
                        (left, upper),
                        right - left,
                        lower - upper,
                        fill=False,
                        edgecolor=color,
                        linewidth=stroke,
                        joinstyle="miter",
                    )
                )
        axes.set_axis_off()
        for number, (question, answer) in enumerate(_lines(tile), 1):
            line = top + TILE + 0.04 + number * LINE
            self.write(x, line, question)
            self.write(x + TILE, line, answer, color=ACCENT, weight="bold", ha="right")

    def table(self, x: float, y: float, table: Sequence[tuple[str, Sequence[str]]]) -> None:
        right = x
        for number, (heading, values) in enumerate(table):
            longest = max(len(text) for text in (heading, *values))
            right += 0.08 * longest + (0 if number == 0 else 0.3)
            place, side = (x, "left") if number == 0 else (right, "right")
            self.write(place, y, heading, color=FAINT, ha=side)
            for line, value in enumerate(values, 1):
                self.write(place, y + line * LINE, value, ha=side)


def _lines(tile: Tile) -> list[tuple[str, str]]:
    """The lines below a picture, each of a width that fits."""
    lines = []
    for question, answer in tile.lines[:MOST_LINES]:
        answer = short(answer, max(ROOM // 2, ROOM - len(question) - 2))
        lines.append((short(question, ROOM - len(answer) - 2), answer))
    if more := len(tile.lines) - len(lines):
        lines[-1] = (f"... and {more + 1:,} more", "")
    return lines


def _small(image_HWC: np.ndarray) -> np.ndarray:
    if max(image_HWC.shape) <= MOST_PIXELS:
        return image_HWC
    image = Image.fromarray(image_HWC)
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
    return np.asarray(image)
