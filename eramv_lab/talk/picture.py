"""A picture of where a model looked: the anchors, and beside them each band layer's reading."""

from __future__ import annotations

import os
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eramv_lab.errors import Problem, UserError
from eramv_lab.report import style
from eramv_lab.talk.maps import LayerLook, Look

if TYPE_CHECKING:
    from eramv_lab.talk.talker import Answer, Question

PANEL, BAR, MOST = 2.9, 0.9, 4
"""Width of a panel and of the scale, inches; most panels side by side."""
HEAT, GAMMA = "OrRd", 0.6
"""Colours of a heat map; below 1, what is weak is lifted, so that it shows."""
FEW = 0.5
"""Share of all patches up to which anchors are outlined: more would hide the image."""
LONGEST = 300
"""Letters of a question or answer in the title."""


def check_file(file: Path) -> None:
    """Raise UserError for a picture that is no PNG."""
    if file.suffix.lower() != ".png":
        message = f"the picture {str(file)!r} should be a .png"
        raise UserError(Problem(message=message, nearest=str(file.with_suffix(".png"))))


def draw(looks: Sequence[Look], question: Question, answer: Answer, file: Path) -> Path:
    """Write the PNG `file`, whole or not at all: a row of panels for each image.

    All heat maps of a picture share a scale. Raises UserError for a file that is no PNG.
    """
    check_file(file)
    panels = 1 + len(looks[0].layers)
    columns = min(panels, MOST)
    rows = -(-panels // columns)
    width = columns * PANEL + BAR * bool(looks[0].layers)
    title = "\n".join(_wrapped((("Q", question.text), ("A", answer.text or "(no word)")), width))
    head = 0.3 + 0.2 * len(title.split("\n"))
    foot = "\n".join(textwrap.wrap(_foot(looks[0], len(answer.ids)), int(13 * width)))
    height = head + len(looks) * rows * (PANEL + 0.32) + 0.2 * len(foot.split("\n"))
    top = _strongest(looks)
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.stem}.{os.getpid()}.png")
    with style.drawing(width, height) as (figure, whole), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font does not have are drawn as boxes
        whole.remove()
        grid: Any = figure.subplots(len(looks) * rows, columns, squeeze=False)
        shade = None
        for number, one in enumerate(looks):
            axes = grid[number * rows : (number + 1) * rows].ravel()
            _image(axes[0], one, number if len(looks) > 1 else None)
            for place, layer in zip(axes[1:], one.layers, strict=False):
                shade = _heat(place, one, layer, top)
            for place in axes[panels:]:
                place.set_axis_off()
        if shade is not None:
            bar = figure.colorbar(shade, ax=grid, shrink=0.75, aspect=30, pad=0.01)
            bar.set_label("share of the attention in a patch")
            bar.ax.yaxis.set_major_formatter(_percent)
            bar.outline.set_visible(False)  # type: ignore[operator]
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        figure.supxlabel(foot, x=0.01, ha="left", fontsize=8.5, color=style.GREY)
        try:
            style.save(figure, beside)
            beside.replace(file)
        finally:
            beside.unlink(missing_ok=True)
    return file


def _wrapped(texts: Sequence[tuple[str, str]], width: float) -> list[str]:
    """Lines that fit into `width` inches."""
    lines: list[str] = []
    for who, text in texts:
        plain = " ".join(text.split())
        plain = plain if len(plain) <= LONGEST else f"{plain[: LONGEST - 1]}…"
        lines += textwrap.wrap(f"{who}  {plain}", int(9.3 * width), subsequent_indent="    ")
    return lines


def _foot(one: Look, tokens: int) -> str:
    """What the maps are of."""
    if not one.band:
        return "no band: no layer reads the fine features"
    if one.queries == "visual":
        return "queries visual: only rows of the image read the fine features, never the answer's"
    who = "the row that said the answer"
    if tokens > 1:
        who = f"the rows that said the answer's {tokens} tokens, mean over them"
    text = f"attention to the fine features of {who}, mean over heads"
    if any(np.isnan(layer.shares_P).any() for layer in one.layers):
        text += "; grey: anchors, which are left out of the fine features"
    return text


def _strongest(looks: Sequence[Look]) -> float:
    tops = [float(np.nanmax(layer.shares_P)) for one in looks for layer in one.layers]
    return max(tops, default=0.0) or 1.0


def _image(axes: Any, one: Look, number: int | None) -> None:
    axes.imshow(one.pixels_HW3, interpolation="nearest")
    few = len(one.anchors) <= FEW * one.grid[0] * one.grid[1]
    if few:
        _outline(axes, one, (("black", 3.2), ("white", 1.5)))
    caption = one.caption() if few else one.caption().replace(", outlined", "")
    which = "" if number is None else f"image {number + 1}, "
    axes.set_title("\n".join(textwrap.wrap(which + caption, 38)), fontsize=9)
    _bare(axes)


def _heat(axes: Any, one: Look, layer: LayerLook, top: float) -> Any:
    """The image in pale grey, and over it what was read, the redder the more."""
    from matplotlib.colors import PowerNorm

    height, width = one.pixels_HW3.shape[:2]
    grey = one.pixels_HW3 @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    axes.imshow(0.62 + 0.38 * grey, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    shares = layer.shares_P.reshape(one.grid)
    norm = PowerNorm(GAMMA, vmin=0, vmax=top)
    shade = axes.imshow(
        shares,
        cmap=HEAT,
        norm=norm,
        alpha=0.9 * np.sqrt(np.ma.filled(norm(np.nan_to_num(shares)), 0)),
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),
        interpolation="nearest",
    )
    if len(one.anchors) <= FEW * shares.size:
        _outline(axes, one, (("black", 0.6),))
    axes.set_title("\n".join(_said(one, layer)), fontsize=9)
    _bare(axes)
    return shade


def _said(one: Look, layer: LayerLook) -> list[str]:
    told = [f"peak {_percent(float(np.nanmax(layer.shares_P)))}"]
    on = layer.shares_P[list(one.anchors)]
    if 0 < len(on) < len(layer.shares_P) and not np.isnan(on).any():
        told.append(f"on anchors {_percent(float(on.sum()))}")
    if layer.cls is not None:
        told.append(f"on CLS {_percent(layer.cls)}")
    total = float(np.nansum(layer.shares_P)) + (layer.cls or 0.0)
    return [f"layer {layer.layer}: reads {_percent(total)} here" if total < 0.995
            else f"layer {layer.layer}", ", ".join(told)]  # fmt: skip


def _outline(axes: Any, one: Look, strokes: Sequence[tuple[str, float]]) -> None:
    from matplotlib.patches import Rectangle

    height, width = one.pixels_HW3.shape[:2]
    high, wide = height / one.grid[0], width / one.grid[1]
    for patch in one.anchors:
        row, column = divmod(patch, one.grid[1])
        for colour, stroke in strokes:
            axes.add_patch(
                Rectangle(
                    (column * wide - 0.5, row * high - 0.5),
                    wide,
                    high,
                    fill=False,
                    edgecolor=colour,
                    linewidth=stroke,
                    joinstyle="miter",
                )
            )


def _percent(share: float, _: Any = None) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 or not share else f"{100 * share:.1f} %"


def _bare(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    for side in axes.spines.values():
        side.set_visible(False)
