"""The pictures of a search: what was found for its price, as it went on, and what mattered."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from eramv_lab.report import style
from eramv_lab.report.frontier import frontier, null_curve, place
from eramv_lab.report.numbers import heading
from eramv_lab.report.search import LOGARITHMIC, Search, Trial
from eramv_lab.report.search_words import bound

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point: TypeAlias = tuple[float, float]
BLUE, ORANGE, GREEN = style.COLOURS[0], style.COLOURS[1], style.COLOURS[2]
LABELLED = 12
"""Given trials that are labelled at most."""
LONGEST = 40
"""Characters of a name in a picture."""


def draw_search(search: Search, file: Path) -> Path:
    """What is wanted against its price, saved as `file`: all finished trials, pruned ones faint,
    the frontier, the budget, and what plain anchors reach at each price.
    """
    up, across = search.axes
    title, times = heading(across.metric, [search.value(t, across.metric) for t in search.trials])
    tall, high = heading(up.metric, [search.value(t, up.metric) for t in search.trials])

    def at(trial: Trial) -> Point:
        x, y = search.value(trial, across.metric), search.value(trial, up.metric)
        assert x is not None and y is not None
        return x * times, y * high

    placed = [t for t in search.trials if place(search, t)]
    edge, null = frontier(search), null_curve(search)
    groups: list[tuple[str, list[Trial], dict[str, Any]]] = [
        ("pruned", [t for t in placed if t.state == "pruned"], {"mfc": "none", "alpha": 0.35}),
        ("plain anchors", [t for t in placed if t.complete and t.plain], {"mfc": "white"}),
        ("finished", [t for t in placed if t.complete and not t.plain], {"alpha": 0.55}),
    ]
    with style.drawing(8.0, 5.0) as (figure, axes):
        for name, trials, look in groups:
            colour, mark = (style.GREY, "s") if name == "plain anchors" else (BLUE, "o")
            label = f"{name} ({len(trials)})"
            if trials:
                points = list(zip(*map(at, trials), strict=True))
                axes.plot(*points, mark, color=colour, ms=5.5, label=label, zorder=3, **look)
        if null:
            line = list(zip(*map(at, null), strict=True))
            axes.plot(*line, "--", color=style.GREY, lw=1.3, label="plain anchors, best")
        if edge:
            line = list(zip(*map(at, edge), strict=True))
            where = "steps-pre" if across.maximize else "steps-post"
            axes.plot(*line, "-", color=ORANGE, lw=1.6, drawstyle=where, label="frontier", zorder=2)
        limit = bound(search, across.metric)
        shown = [t for t in placed if t.complete or t.state == "pruned"]
        if limit and shown:
            axes.axvline(limit[0] * times, color=ORANGE, lw=1.1, ls=":", label=limit[1])
        if across.metric in LOGARITHMIC:
            title += " (log scale)"
        axes.set_xlabel(title)
        axes.set_ylabel(tall + (" on val" if up.metric == "accuracy" else ""))
        axes.set_title(search.question or search.study, wrap=True)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=4, fontsize=9)
        if shown:
            line = [limit[0] * times] if limit else []
            _limits(axes, [at(t) for t in shown], line, across.metric in LOGARITHMIC)
            corners = [at(t) for t in edge], [at(t) for t in null]
            steps = [(b[0], a[1]) for a, b in itertools.pairwise(corners[0])]
            edge_line = [p for pair in zip(corners[0], steps, strict=False) for p in pair]
            clear = _along([*edge_line, *corners[0][-1:]]) + _along(corners[1])
            _name(axes, search, shown, [at(t) for t in shown], clear)
        else:
            axes.set_xticks([])
            _nothing(axes)
        return style.save(figure, file)


def draw_history(search: Search, file: Path) -> Path:
    """The goal by trial number with the best so far, saved as `file`; failed ones at the foot."""
    from matplotlib.ticker import MaxNLocator

    up, _ = search.axes
    tall, times = heading(up.metric, [search.value(t, up.metric) for t in search.trials])
    values = {
        t.number: value * times
        for t in search.trials
        if t.state in ("complete", "pruned") and (value := search.value(t, up.metric)) is not None
    }
    with style.drawing(8.0, 4.2) as (figure, axes):
        best: list[tuple[float, float]] = []
        for trial in search.trials:
            if trial.complete and trial.number in values:
                value = values[trial.number]
                better = not best or up.sign * (value - best[-1][1]) > 0
                best.append((trial.number, value if better else best[-1][1]))
        looks: dict[str, dict[str, Any]] = {
            "complete": {"alpha": 0.6},
            "pruned": {"mfc": "none", "alpha": 0.4},
        }
        for state, look in looks.items():
            some = [t.number for t in search.trials if t.state == state and t.number in values]
            label = f"{'finished' if state == 'complete' else state} ({len(some)})"
            if some:
                heights = [values[n] for n in some]
                axes.plot(some, heights, "o", color=BLUE, ms=5.5, label=label, **look)
        if best:
            last = max(search.by_number)
            axes.plot(
                *zip(*best, (last, best[-1][1]), strict=True),
                color=ORANGE,
                lw=1.6,
                drawstyle="steps-post",
                label="best so far",
            )
        for state, mark in (("failed", "x"), ("infeasible", "|"), ("interrupted", "+")):
            some = [t.number for t in search.trials if t.state == state]
            if some:
                axes.plot(
                    some,
                    [0.03] * len(some),
                    mark,
                    color=style.GREY,
                    transform=axes.get_xaxis_transform(),
                    label=f"{state} ({len(some)})",
                )
        axes.set_xlabel("trial")
        axes.set_ylabel(tall + (" on val" if up.metric == "accuracy" else ""))
        axes.set_title(f"{search.study}: value of each trial")
        numbers = list(search.by_number) or [0]
        axes.set_xlim(min(numbers) - 0.8, max(numbers) + 0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if values:
            low, high = min(values.values()), max(values.values())
            room = max(0.02 * abs(high), 0.1 * (high - low), 1e-9)
            axes.set_ylim(low - 1.4 * room, high + room)
        else:
            _nothing(axes)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower center", ncols=4, fontsize=9)
        return style.save(figure, file)


def draw_importance(search: Search, file: Path) -> Path | None:
    """How much each parameter mattered, saved as `file`; None where nobody measured it."""
    if not search.importance:
        return None
    bars = sorted(search.importance.items(), key=lambda pair: (pair[1], pair[0]))
    names = [_cut(search.param_names.get(key, key)) for key, _ in bars]
    with style.drawing(7.2, 1.4 + 0.34 * len(bars)) as (figure, axes):
        drawn = axes.barh(range(len(bars)), [share for _, share in bars], color=BLUE, height=0.7)
        axes.bar_label(drawn, [f"{share:.2f}" for _, share in bars], padding=3, fontsize=9)
        axes.set_yticks(range(len(bars)), names)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.1)
        axes.set_xlabel("share of what the trials differ by")
        axes.set_title(f"{search.study}: what mattered")
        return style.save(figure, file)


def _name(
    axes: Axes,
    search: Search,
    trials: Sequence[Trial],
    points: Sequence[Point],
    clear: Sequence[Point],
) -> None:
    """Mark and label the trials that were asked for, and the best, off the points in `clear`."""
    chosen = [i for i, t in enumerate(trials) if t.given][:LABELLED]
    for i in chosen:
        axes.plot(*points[i], "D", color=GREEN, ms=6.5, mfc="none", mew=1.5, zorder=4)
    labels = {i: _cut(trials[i].given or "") for i in chosen}
    for i, trial in enumerate(trials):
        if trial.number == search.best:
            axes.plot(*points[i], "*", color=ORANGE, ms=15, mec="white", mew=0.8, zorder=5)
            labels[i] = f"best: {_cut(trial.given or trial.label)}"
    others = [point for i, point in enumerate(points) if i not in labels]
    style.label_points(
        axes, [*(points[i] for i in labels), *others, *clear], [], list(labels.values())
    )


def _along(corners: Sequence[Point], steps: int = 40) -> list[Point]:
    """Points on the line through `corners`, so close that no label fits between."""
    return [
        (a[0] + (b[0] - a[0]) * i / steps, a[1] + (b[1] - a[1]) * i / steps)
        for a, b in itertools.pairwise(corners)
        for i in range(steps + 1)
    ]


def _limits(axes: Axes, points: Sequence[Point], lines: Sequence[float], log: bool) -> None:
    """Room for labels on all sides; `lines` are prices that are to be seen too."""
    prices, heights = [x for x, _ in points] + list(lines), [y for _, y in points]
    left, right = min(prices), max(prices)
    if log:
        style.log_axis(axes, left, right)
    else:
        spread = 0.08 * (right - left) or 0.1 * abs(right) or 1
        axes.set_xlim(left - spread, right + spread)
    room = 0.08 * (max(heights) - min(heights)) or 0.05 * abs(heights[0]) or 0.05
    axes.set_ylim(min(heights) - room, max(heights) + room)


def _cut(name: str) -> str:
    """A name on one line, cut where a picture has no room for it."""
    name = " ".join(name.split())
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _nothing(axes: Axes) -> None:
    axes.set_yticks([])
    axes.text(0.5, 0.5, "no trial has finished", transform=axes.transAxes, ha="center")
