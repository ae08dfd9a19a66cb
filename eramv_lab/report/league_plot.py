"""The picture of a league: accuracy over the share of the full prefill, null lines as lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from eramv_lab.evaluate.statistics import Estimate
from eramv_lab.recipe.system import NOTHING
from eramv_lab.report import style
from eramv_lab.report.comparison import Comparison
from eramv_lab.report.crowd import label_crowd
from eramv_lab.report.league import Standing, Standings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW = 0.19
"""Inches of height that a label needs."""
DASHES = ("--", ":", "-.", (0, (6, 1.5, 1, 1.5, 1, 1.5)))


def draw_league(comparison: Comparison, league: Standings, file: Path) -> Path:
    """Every system at its price with its 95 % interval, saved as `file`.

    Null lines are drawn as lines that end at the full system; a training-free system is hollow; a
    step joins those that nothing as cheap is better than.
    """
    lines = [(i, i.share, i.arm.accuracy) for i in league.lines]
    found = [(line, 100 * x, y) for line, x, y in lines if x is not None and y is not None]
    systems = [one for one in found if not one[0].null]
    order = {name: i for i, name in enumerate(dict.fromkeys(one[0].system for one in systems))}
    budgets = Counter(line.budget for line, *_ in systems)
    height = 2.5 + 1.5 * ROW * max(budgets.values(), default=0)
    with style.drawing(12.5, max(6.0, height)) as (figure, axes):
        axes.set_title(comparison.question or comparison.study, wrap=True)
        axes.set_xlabel(f"prefill FLOPs, % of {league.name_of(league.full)} (log scale)")
        axes.set_ylabel("accuracy, 95 % interval")
        if not found:  # the full system, whose prefill is the unit, has not finished
            return style.save(figure, file)
        _null_lines(axes, league, found)
        _frontier(axes, found)
        for line, x, y in systems:
            colour = style.colour(order[line.system])
            axes.errorbar(
                x,
                y.mean,
                yerr=[[y.mean - y.low], [y.high - y.mean]],
                fmt=style.mark(order[line.system]),
                color=colour,
                mfc="white" if line.trains == NOTHING else None,
                zorder=3,
                **{**style.POINT, "ms": 6, "lw": 0.9, "capsize": 2},
            )
        if any(line.trains == NOTHING for line, *_ in systems):
            label = f"hollow: training-free, on the trained {league.name_of(league.full)}"
            axes.plot([], [], "o", color="#333333", mfc="white", label=label)
        _limits(axes, found)
        axes.legend(loc="lower right", fontsize=9)
        every = [*systems, *(one for one in found if one[0].null)]
        label_crowd(
            axes,
            [(x, y.mean) for _, x, y in every],
            [(x, y.low, y.high) for _, x, y in every],
            [line.name for line, *_ in systems],
            [style.colour(order[line.system]) for line, *_ in systems],
        )
        return style.save(figure, file)


Found = Sequence[tuple[Standing, float, Estimate]]


def _null_lines(axes: Axes, league: Standings, found: Found) -> None:
    """Each null system's points joined by price, and with the full system, where all lines end."""
    end = [(x, y) for line, x, y in found if line.full]
    for name, dash in zip(league.null, DASHES * len(league.null), strict=False):
        own = [(x, y) for line, x, y in found if line.system == name]
        if not own:
            continue
        points = sorted([*own, *end], key=lambda point: point[0])
        label = f"{league.name_of(name)} (null line)"
        axes.plot(
            [x for x, _ in points],
            [y.mean for _, y in points],
            linestyle=dash,
            color=style.GREY,
            lw=1.4,
            label=label,
        )
        axes.errorbar(
            [x for x, _ in own],
            [y.mean for _, y in own],
            yerr=[[y.mean - y.low for _, y in own], [y.high - y.mean for _, y in own]],
            fmt=".",
            color=style.GREY,
            lw=0.8,
            capsize=2,
        )


def _frontier(axes: Axes, found: Found) -> None:
    """A step through the systems that nothing as cheap, or cheaper, is better than."""
    best: list[tuple[float, float]] = []
    for _, x, y in sorted(found, key=lambda one: (one[1], -one[2].mean)):
        if not best or y.mean > best[-1][1]:
            best.append((x, y.mean))
    axes.step(
        [x for x, _ in best],
        [y for _, y in best],
        where="post",
        color="#bbbbbb",
        lw=3,
        alpha=0.5,
        zorder=0,
        label="nothing as cheap is better",
    )


def _limits(axes: Axes, found: Found) -> None:
    """A log axis of shares with room for labels at both ends."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    prices = [x for _, x, _ in found]
    axes.set_xscale("log")
    axes.set_xlim(min(prices) / 1.15, max(prices) * 1.25)
    axes.xaxis.set_major_locator(FixedLocator([5, 10, 15, 20, 25, 30, 35, 45, 55, 70, 100]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.xaxis.set_minor_locator(NullLocator())
    low, high = min(y.low for *_, y in found), max(y.high for *_, y in found)
    room = max(0.02, 0.06 * (high - low))
    axes.set_ylim(low - room, high + room)
