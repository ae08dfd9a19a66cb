"""The map of placements: the best that was found for each first layer and length of the band."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eramv_lab.report import style
from eramv_lab.report.numbers import heading
from eramv_lab.report.search import Search, Trial

LARGEST = 64
"""Layers that a map shows at most along one side."""
WORDS = {"": "not tried", "/": "impossible", "p": "pruned", "f": "failed", "i": "over the budget"}


def best_by_band(search: Search) -> dict[tuple[int, int], Trial]:
    """The best finished trial of each (first layer, length)."""
    found: dict[tuple[int, int], Trial] = {}
    for trial in search.ranked():
        if trial.band is not None:
            found.setdefault(trial.band, trial)
    return found


def sides(search: Search) -> tuple[list[int], list[int]]:
    """First layers and lengths that the map shows: of the space, and of all trials.

    A band of no layers is nowhere on the map.
    """
    bands = [trial.band for trial in search.trials if trial.band is not None]
    lengths = _side([length for _, length in bands], _of_space(search.space, "band.length"))
    return (
        _side([start for start, _ in bands], _of_space(search.space, "band.start")),
        [length for length in lengths if length > 0],
    )


def empty_cell(search: Search, band: tuple[int, int]) -> str:
    """Why a cell has no number, as a key of `WORDS`."""
    if search.layers is not None and sum(band) > search.layers:
        return "/"
    states = {trial.state for trial in search.trials if trial.band == band}
    named = {"pruned": "p", "failed": "f", "infeasible": "i"}
    return next((mark for state, mark in named.items() if state in states), "")


def draw_placement(search: Search, file: Path) -> Path | None:
    """The map, saved as `file`; None where fewer than two bands were trained to their end."""
    best = best_by_band(search)
    if len(best) < 2:
        return None
    up, _ = search.axes
    starts, lengths = sides(search)
    found = {band: search.value(trial, up.metric) for band, trial in best.items()}
    tall, times = heading(up.metric, found.values())
    values = {band: v * times for band, v in found.items() if v is not None}
    low, high = min(values.values()), max(values.values())
    size = 0.5 if len(starts) > 16 else 0.72
    with style.drawing(2.6 + size * len(starts), 2.2 + 0.62 * size * len(lengths)) as (
        figure,
        axes,
    ):
        from matplotlib.patches import Rectangle

        grid = [
            [values.get((start, length), float("nan")) for start in starts] for length in lengths
        ]
        image = axes.imshow(
            grid,
            origin="lower",
            aspect="auto",
            cmap="cividis" if up.maximize else "cividis_r",
            vmin=low,
            vmax=high if high > low else low + 1e-9,
        )
        empty: set[str] = set()
        for y, length in enumerate(lengths):
            for x, start in enumerate(starts):
                value = values.get((start, length))
                if value is not None:
                    part = (value - low) / (high - low) if high > low else 0
                    dark = (part < 0.55) is up.maximize
                    colour = "white" if dark else "black"
                    axes.text(x, y, _short(value), color=colour, **_CENTRE)
                    continue
                mark = empty_cell(search, (start, length))
                empty.add(mark)
                box = {"xy": (x - 0.5, y - 0.5), "width": 1, "height": 1, "lw": 0}
                if mark == "/":
                    axes.add_patch(Rectangle(**box, fc="#f2f2f2", ec="#c9c9c9", hatch="////"))
                else:
                    axes.add_patch(Rectangle(**box, fc="#f7f7f7"))
                    axes.text(x, y, mark or "·", color="#555555", **_CENTRE)
        _outline(axes, search, starts, lengths)
        axes.set_xticks(range(len(starts)), [str(start) for start in starts])
        axes.set_yticks(range(len(lengths)), [str(length) for length in lengths])
        axes.set_xticks([x + 0.5 for x in range(len(starts) - 1)], minor=True)
        axes.set_yticks([y + 0.5 for y in range(len(lengths) - 1)], minor=True)
        axes.grid(visible=False)
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel("first layer of the band\n" + _key(empty))
        axes.set_ylabel("layers in the band")
        axes.set_title(f"{search.study}: best {tall} by placement", wrap=True)
        bar = figure.colorbar(image, ax=axes, label=tall, pad=0.02)
        bar.outline.set_visible(False)  # pyright: ignore
        return style.save(figure, file)


_CENTRE: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9}


def _outline(axes: Any, search: Search, starts: list[int], lengths: list[int]) -> None:
    """A frame around the cell of the best setting, and one around each that was asked for."""
    from matplotlib.patches import Rectangle

    best = search.by_number.get(search.best) if search.best is not None else None
    given = [(t.band, "--", "#333333") for t in search.trials if t.given and t.band]
    frames = [*given, (best.band, "-", style.COLOURS[1])] if best and best.band else given
    for band, line, colour in frames:
        if band is not None and band[0] in starts and band[1] in lengths:
            x, y = starts.index(band[0]), lengths.index(band[1])
            at = (x - 0.46, y - 0.45)
            axes.add_patch(Rectangle(at, 0.92, 0.9, fill=False, ec=colour, lw=2, ls=line))


def _key(empty: set[str]) -> str:
    """What the marks of empty cells mean."""
    said = [f"{mark or '·'} {WORDS[mark]}" for mark in WORDS if mark in empty]
    return "    ".join([*said, "frame: best; dashed: asked for"])


def _side(tried: list[int], space: list[int]) -> list[int]:
    """All whole numbers between the ends where they are few, else what was tried."""
    known = tried + space
    every = list(range(min(known), max(known) + 1)) if max(known) - min(known) < LARGEST else []
    return every or sorted(set(known))[:LARGEST]


def _of_space(space: Mapping[str, Any], ending: str) -> list[int]:
    """The whole numbers that the space has for a key, as far as they can be told."""
    key = next((key for key in space if f".{key}".endswith(f".{ending}")), None)
    found = space.get(key) if key else None
    values = [found.get("from"), found.get("to")] if isinstance(found, dict) else found
    if not isinstance(values, list):
        return []
    return [v for v in values if type(v) is int and 0 <= v < 10_000]


def _short(value: float) -> str:
    """As a cell has room for: .910, 12.3."""
    if 0 <= value < 1:
        return f"{value:.3f}"[1:]
    return f"{value:.3g}"
