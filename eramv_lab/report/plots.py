"""The plots of a comparison: accuracy against its price, by question type, and while training."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eramv_lab.errors import LabError
from eramv_lab.evaluate.statistics import Estimate
from eramv_lab.report import style
from eramv_lab.report.comparison import ArmResult, Comparison
from eramv_lab.report.numbers import FLOPS, unit_of
from eramv_lab.report.runs import Arm

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, slots=True)
class Point:
    """An arm in the plane of price and accuracy."""

    index: int
    arm: ArmResult
    price: float
    accuracy: Estimate


def draw_pareto(comparison: Comparison, file: Path) -> Path:
    """Accuracy against prefill FLOPs with 95 % intervals, saved as `file`.

    Arms with neither band nor reducer are joined, selector by selector: what plain anchors buy at
    each price is the null line that any other arm has to stand above. A league has a picture of its
    own.
    """
    if comparison.league is not None:
        from eramv_lab.report.league_plot import draw_league

        return draw_league(comparison, comparison.league, file)
    priced = [
        (i, arm, arm.accuracy, arm.cost["prefill_tflops"] * 1e12)
        for i, arm in enumerate(comparison.arms)
        if arm.accuracy and arm.cost.get("prefill_tflops")
    ]
    unit, size = unit_of([flops for *_, flops in priced], FLOPS)
    points = [Point(i, arm, flops / size, accuracy) for i, arm, accuracy, flops in priced]
    with style.drawing(7.2, 4.6) as (figure, axes):
        _null_lines(axes, points)
        for p in points:
            a = p.accuracy
            axes.errorbar(
                p.price,
                a.mean,
                yerr=[[a.mean - a.low], [a.high - a.mean]],
                fmt=style.mark(p.index),
                color=style.colour(p.index),
                mfc="white" if p.arm.plain else None,
                zorder=3,
                **style.POINT,
            )
        axes.set_xlabel(f"{unit} of one prefill (log scale)")
        axes.set_ylabel("accuracy, 95 % interval")
        axes.set_title(comparison.question or comparison.study, wrap=True)
        if points:
            _limits(axes, points)
            style.label_points(
                axes,
                [(p.price, p.accuracy.mean) for p in points],
                [(p.price, p.accuracy.low, p.accuracy.high) for p in points],
                [p.arm.name for p in points],
            )
        return style.save(figure, file)


def draw_types(comparison: Comparison, file: Path) -> Path:
    """Accuracy of every arm by question type, as bars with 95 % intervals, saved as `file`."""
    arms = [(i, arm) for i, arm in enumerate(comparison.arms) if arm.accuracy]
    kinds = comparison.types
    width = 0.84 / max(1, len(arms))
    with style.drawing(max(7.2, 0.22 * len(arms) * len(kinds) + 2), 4.2) as (figure, axes):
        for place, (i, arm) in enumerate(arms):
            found = [arm.per_type[kind] for kind in kinds]
            axes.bar(
                [x + (place - (len(arms) - 1) / 2) * width for x in range(len(kinds))],
                [e.mean for e in found],
                width * 0.92,
                yerr=[[e.mean - e.low for e in found], [e.high - e.mean for e in found]],
                color=style.colour(i),
                label=arm.name,
                hatch="///" if i >= len(style.COLOURS) else None,
                edgecolor="white",
                error_kw={"lw": 0.9, "ecolor": "#333333"},
            )
        axes.set_xticks(range(len(kinds)), kinds)
        axes.grid(axis="x", visible=False)
        axes.set_ylim(0, 1.02)
        axes.set_ylabel("accuracy, 95 % interval")
        axes.set_title(comparison.question or comparison.study, wrap=True)
        figure.legend(loc="outside lower center", ncols=min(5, max(1, len(arms))), fontsize=9)
        return style.save(figure, file)


def draw_curves(arms: Sequence[Arm], file: Path, name: str = "val/accuracy") -> Path | None:
    """One training curve of every arm and seed, saved as `file`; None where nobody wrote it."""
    curves = [
        (i, arm, [c for run in arm.runs if (c := read_curve(run.folder / "curves.csv", name))])
        for i, arm in enumerate(arms)
    ]
    if not any(found for *_, found in curves):
        return None
    with style.drawing(7.2, 4.2) as (figure, axes):
        for i, arm, found in curves:
            for nth, curve in enumerate(found):
                axes.plot(
                    *zip(*curve, strict=True),
                    color=style.colour(i),
                    lw=1.3,
                    marker=style.mark(i),
                    ms=3.5,
                    label=None if nth else arm.name,
                )
        axes.set_xlabel("step")
        axes.set_ylabel(name)
        axes.set_title("one line per seed")
        figure.legend(loc="outside right upper", fontsize=9)
        return style.save(figure, file)


def read_curve(file: Path, name: str) -> list[tuple[float, float]]:
    """(step, value) of the curve `name` in a `step,name,value` file; empty where there is none.

    Raises LabError for a file that holds something else.
    """
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = [row for row in csv.DictReader(lines) if row.get("name") == name]
        return sorted((float(row["step"]), float(row["value"])) for row in rows)
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise LabError(f"{file} is not a table of step, name, value: {error!r}") from error


def _null_lines(axes: Axes, points: Sequence[Point]) -> None:
    """Join the plain arms of each selector by price; full tokens end every such line."""
    selectors = dict.fromkeys(p.arm.plain for p in points if p.arm.plain)
    dashes = iter(("--", ":", "-.") * len(selectors))
    for selector in [s for s in selectors if s != "all"]:
        line = sorted(
            (p.price, p.accuracy.mean) for p in points if p.arm.plain in (selector, "all")
        )
        if len(line) > 1:
            label = f"plain anchors, {selector}"
            axes.plot(*zip(*line, strict=True), next(dashes), color=style.GREY, lw=1.3, label=label)
    if axes.lines:
        axes.legend(loc="lower right", fontsize=9)


def _limits(axes: Axes, points: Sequence[Point]) -> None:
    """A log axis in plain numbers, with room for labels also where all points share one price."""
    prices = [p.price for p in points]
    style.log_axis(axes, min(prices), max(prices))
    low = min(p.accuracy.low for p in points)
    high = max(p.accuracy.high for p in points)
    room = max(0.02, 0.08 * (high - low))
    axes.set_ylim(low - room, high + room)
