"""A contact sheet: pictures with outlined patches, lines of text below each, a table at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

INK, FAINT, ACCENT = "#1b1f24", "#6b7280", "#b4380b"
COLUMNS = 4
TILE, GAP, MARGIN = 2.6, 0.35, 0.45
"""Side of a picture, space between two, space around all: inches."""
LINE = 0.165
"""Height of a line of text, inches."""
FONT = 8.0


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture and what is told of it."""

    name: str
    note: str
    """Said at the right above the picture."""
    image_HWC: np.ndarray
    boxes: Sequence[tuple[float, float, float, float]]
    """Left, top, right, bottom of what is outlined, pixels."""
    lines: Sequence[tuple[str, str]]
    """Question and answer."""


def draw_sheet(
    out: Path,
    title: str,
    caption: str,
    tiles: Sequence[Tile],
    table: Sequence[tuple[str, Sequence[str]]],
) -> None:
    """Write the PNG `out`; `table` is a list of (heading, values), the first one of text."""
    columns = min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    text = LINE * max(len(tile.lines) for tile in tiles)
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
        high, wide = tile.image_HWC.shape[:2]
        axes.imshow(tile.image_HWC, extent=(0, wide, high, 0), interpolation="nearest")
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
        for number, (question, answer) in enumerate(tile.lines, 1):
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
