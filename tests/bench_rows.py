"""What the groups of the bench share: a row, and how times are taken side by side."""

import statistics
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

Size = SimpleNamespace
Rows = Iterator[dict[str, Any]]


def versus(
    name: str, ours: float, theirs: float, *, most: float = 0, least: float = 0
) -> dict[str, Any]:
    """A row: the ratio of two times, or of a speed-up to that of the FLOPs; and its goal."""
    ratio, goal = ours / theirs, f"<= {most}" if most else f">= {least}" if least else None
    met = least <= ratio <= (most or ratio) if goal else None
    return {"name": name, "ratio": ratio, "goal": goal, "met": met, "of": [ours, theirs]}


def race(
    size: Size, *works: Callable[[], Any], clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Seconds of each work; they take turns, so that a slow moment meets all of them."""

    def seconds(work: Callable[[], Any]) -> float:
        began = clock()
        work()
        return clock() - began

    for work in works * size.warm:
        work()
    medians: list[list[float]] = []
    for _ in range(size.rounds):
        turns = [[seconds(work) for work in works] for _ in range(size.runs)]
        medians.append([statistics.median(times) for times in zip(*turns, strict=True)])
    return [min(times) for times in zip(*medians, strict=True)]
