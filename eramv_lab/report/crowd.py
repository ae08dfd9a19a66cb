"""Labels of many points: each beside its own, none over another, a mark, a bar or the legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEAR = 9.0
"""Points from a mark to a label that needs no line to it."""
ACROSS = (NEAR, 16.0, 26.0, 40.0, 58.0, 80.0, 106.0, 136.0)
ALONG = tuple(sign * 3.0 * step for step in range(90) for sign in ((1, -1) if step else (1,)))
"""Offsets of a label from its mark, in points: to either side, and up or down."""
LEFT = 12.0
"""What standing to the left counts, in points: a reader looks to the right."""


def label_crowd(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    bars: Sequence[tuple[float, float, float]],
    labels: Sequence[str],
    colours: Sequence[str],
) -> int:
    """Write each label at the nearest free place beside its point; how many found none.

    `points` (x, y) and `bars` (x, low, high) are in data coordinates; the first points have the
    labels, the others are kept clear of. A label that stands away from its point is tied to it by
    a thin line. The limits of the axes must be final.
    """
    from matplotlib.patheffects import withStroke

    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # constrained layout moves the axes
    dot = figure.dpi / 72
    frame = axes.get_window_extent()
    taken: list[tuple[float, float, float, float]] = []
    for x, low, high in bars:
        (left, bottom), (_, top) = axes.transData.transform([(x, low), (x, high)])
        taken.append((left - 2.5 * dot, bottom, left + 2.5 * dot, top))
    for point in points:
        x, y = axes.transData.transform(point)
        taken.append((x - 5 * dot, y - 5 * dot, x + 5 * dot, y + 5 * dot))
    if legend := axes.get_legend():
        box = legend.get_window_extent()
        taken.append((box.x0, box.y0, box.x1, box.y1))
    offsets = _offsets()
    crowded = 0
    for i in sorted(range(len(labels)), key=lambda i: -points[i][1]):
        text: Any = axes.annotate(
            labels[i],
            points[i],
            (0, 0),
            textcoords="offset points",
            fontsize=8,
            color=colours[i],
            va="center",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )
        extent = text.get_window_extent()
        size = (extent.width + 2 * dot, extent.height + 1.5 * dot)
        x, y = axes.transData.transform(points[i])
        boxes = _boxes(offsets * dot, (x, y), size)
        inside = (
            (boxes[:, 0] >= frame.x0)
            & (boxes[:, 2] <= frame.x1)
            & (boxes[:, 1] >= frame.y0)
            & (boxes[:, 3] <= frame.y1)
        )
        hidden = _hidden(boxes, np.array(taken)) + 1e6 * ~inside
        best = int(np.argmin(np.where(hidden == 0, -1.0, hidden)))  # the first that is free
        crowded += bool(hidden[best] > 0)
        across, along = offsets[best]
        text.set_position((across, along))
        text.set_ha("left" if across > 0 else "right")
        taken.append(tuple(boxes[best]))
        if abs(across) > NEAR or abs(along) > 4:
            line: dict[str, Any] = {"arrowstyle": "-", "color": colours[i], "lw": 0.5}
            line |= {"alpha": 0.6, "shrinkA": 0, "shrinkB": 3}
            axes.annotate(
                "", points[i], (across, along), textcoords="offset points", arrowprops=line
            )
    return crowded


def _offsets() -> np.ndarray:
    """(across, along) of every place that is tried, the nearest first."""
    places = [(side * x, y) for x in ACROSS for y in ALONG for side in (1, -1)]
    far = [abs(x) + 1.2 * abs(y) + (LEFT if x < 0 else 0.0) for x, y in places]
    return np.array(places)[np.argsort(far, kind="stable")]


def _boxes(
    offsets: np.ndarray, point: tuple[float, float], size: tuple[float, float]
) -> np.ndarray:
    """x0, y0, x1, y1 of a label at each offset, in pixels."""
    across = point[0] + offsets[:, 0]
    left = np.where(offsets[:, 0] > 0, across, across - size[0])
    bottom = point[1] + offsets[:, 1] - size[1] / 2
    return np.stack([left, bottom, left + size[0], bottom + size[1]], axis=1)


def _hidden(boxes: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Area of each box that is taken, in square pixels."""
    width = np.minimum(boxes[:, None, 2], taken[:, 2]) - np.maximum(boxes[:, None, 0], taken[:, 0])
    height = np.minimum(boxes[:, None, 3], taken[:, 3]) - np.maximum(boxes[:, None, 1], taken[:, 1])
    return (np.clip(width, 0, None) * np.clip(height, 0, None)).sum(axis=1)
