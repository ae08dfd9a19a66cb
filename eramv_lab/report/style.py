"""How plots look: colour-blind-safe colours (Okabe & Ito), one mark per arm, labels kept apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#B8A800", "#000000")
MARKS = "osD^vPX*"
GREY = "#777777"
POINT: dict[str, Any] = {"ms": 7, "capsize": 3, "lw": 1.2, "mew": 1.6}
SETTINGS: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.hashsalt": "eramv_lab",
}


def colour(index: int) -> str:
    """The colour of the arm at `index`; they come round again after eight."""
    return COLOURS[index % len(COLOURS)]


def mark(index: int) -> str:
    """The mark of the arm at `index`: another one each time the colours come round."""
    return MARKS[(index + index // len(COLOURS)) % len(MARKS)]


@contextmanager
def drawing(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure of `width` x `height` inches with one pair of axes, drawn without a display."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(figure)
        yield figure, figure.add_subplot()


def save(figure: Figure, file: Path) -> Path:
    """Write the figure in the format that the name ends in; the same data, the same bytes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    dated = {".svg": "Date", ".pdf": "CreationDate"}.get(file.suffix.lower())
    figure.savefig(file, dpi=150, metadata={dated: None} if dated else None)
    return file


def log_axis(axes: Axes, lowest: float, highest: float) -> None:
    """A log axis of prices in plain numbers, with room for labels also where all are the same."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    spread = max(1.2, (highest / lowest) ** 0.22)
    axes.set_xscale("log")
    axes.set_xlim(lowest / spread, highest * spread)
    narrow = highest / lowest < 4  # two labelled ticks would be too few
    subs = (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 6, 8) if narrow else (1, 2, 5)
    axes.xaxis.set_major_locator(LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def label_points(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    bars: Sequence[tuple[float, float, float]],
    labels: Sequence[str],
) -> None:
    """Write each label beside its point where it touches no other label, mark, bar or legend.

    There may be fewer labels than points: the first points have one, the others are kept clear of.

    `points` (x, y) and `bars` (x, low, high) are in data coordinates. A label that must stand away
    from its point is tied to it by a thin line. The limits of the axes must be final.
    """
    from matplotlib.transforms import Bbox

    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # constrained layout moves the axes
    dot = figure.dpi / 72
    frame = axes.get_window_extent()
    taken: list[Any] = []
    for x, low, high in bars:
        (left, bottom), (_, top) = axes.transData.transform([(x, low), (x, high)])
        taken.append(Bbox.from_extents(left - 3 * dot, bottom, left + 3 * dot, top))
    for point in points:
        left, bottom = axes.transData.transform(point)
        taken.append(Bbox.from_extents(left, bottom, left, bottom).padded(5 * dot))
    if legend := axes.get_legend():
        taken.append(legend.get_window_extent())

    for point, label in zip(points, labels, strict=False):
        text = axes.annotate(label, point, (0, 0), textcoords="offset points", fontsize=9)
        tried: list[tuple[float, int]] = []
        for number, place in enumerate(_PLACES):
            box = _put(text, place).padded(1.5 * dot)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            inside = inside and frame.y0 <= box.y0 and box.y1 <= frame.y1
            hidden = sum(_overlap(box, other) for other in taken)
            tried.append((hidden if inside else hidden + 1e6, number))
            if inside and hidden == 0:
                break
        place = _PLACES[min(tried)[1]]
        taken.append(_put(text, place).padded(1.5 * dot))
        if max(map(abs, place[:2])) > NEAR:
            line = {"arrowstyle": "-", "color": "#aaaaaa", "lw": 0.6, "shrinkA": 0, "shrinkB": 3}
            axes.annotate("", point, place[:2], textcoords="offset points", arrowprops=line)


Place: TypeAlias = tuple[float, float, str, str]
"""Where a label stands: offset in points, and the sides that it is held by."""

NEAR = 10
_STEPS = (
    *((1, 0, "left", "center"), (-1, 0, "right", "center")),
    *((1, 1, "left", "bottom"), (1, -1, "left", "top")),
    *((-1, 1, "right", "bottom"), (-1, -1, "right", "top")),
    *((0, 1, "center", "bottom"), (0, -1, "center", "top")),
)
_PLACES: tuple[Place, ...] = tuple(
    (x * reach, y * reach, across, along)
    for reach in (8, 16, 26, 38, 52, 68, 90)
    for x, y, across, along in _STEPS
)


def _put(text: Any, place: Place) -> Any:
    """Move the label there; the box that it fills, in pixels."""
    text.set_position(place[:2])
    text.set_ha(place[2])
    text.set_va(place[3])
    return text.get_window_extent()


def _overlap(a: Any, b: Any) -> float:
    """Area that two boxes share, in square pixels."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return width * height if width > 0 and height > 0 else 0.0
