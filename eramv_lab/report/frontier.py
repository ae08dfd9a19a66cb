"""What a search found for its price: frontier, hypervolume, and the line of plain anchors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from eramv_lab.report.search import LOGARITHMIC, Goal, Search, Trial


class Place(NamedTuple):
    """Where a trial stands: less cost is better, more gain is better, whatever the goals are."""

    cost: float
    """log10 of a price; a metric that is to be maximized counts downwards."""
    gain: float


def place(search: Search, trial: Trial) -> Place | None:
    """Where it stands; None where a number is missing, or a price that has no logarithm."""
    up, across = search.axes
    value, price = search.value(trial, up.metric), search.value(trial, across.metric)
    if value is None or price is None:
        return None
    cost = _cost(across, price)
    return None if cost is None else Place(cost, up.sign * value)


def frontier(search: Search, trials: Iterable[Trial] | None = None) -> list[Trial]:
    """Completed trials that no other one is better than in both goals, the cheapest first.

    Pruned, failed and infeasible ones are never on it; of two in one place only the earlier is.
    """
    among = search.trials if trials is None else trials
    places = [(p, t) for t in among if t.complete and (p := place(search, t))]
    found: list[Trial] = []
    most = -math.inf
    for at, trial in sorted(places, key=lambda pair: (pair[0].cost, -pair[0].gain, pair[1].number)):
        if at.gain > most:
            found.append(trial)
            most = at.gain
    return found


def reference(search: Search) -> Place | None:
    """The stored reference point; None where the file has none for these goals."""
    up, across = search.axes
    value, price = (search.reference.get(goal.metric) for goal in (up, across))
    cost = None if price is None else _cost(across, price)
    return None if value is None or cost is None else Place(cost, up.sign * value)


def hypervolume(search: Search) -> float | None:
    """The area between the frontier and the stored reference point; None without that point.

    With points (c_i, g_i) of the frontier, cheapest first, and the reference (c_r, g_r):
    HV = sum over i of (c_r - c_i) (g_i - g_{i-1}), g_0 = g_r, of those with c_i < c_r and g_i > g_r
    (Zitzler and Thiele 1999, for two goals). c is log10 FLOPs (of any price), so that HV is in
    units of the goal times decades of price: one tenfold saving counts the same at any price. The
    number is only of this one price; another indicator of cost may rank the same trials otherwise
    (The Efficiency Misnomer, arXiv 2110.12894).
    """
    corner = reference(search)
    if corner is None:
        return None
    area, reached = 0.0, corner.gain
    for trial in frontier(search):
        at = place(search, trial)
        if at is not None and at.cost < corner.cost and at.gain > reached:
            area += (corner.cost - at.cost) * (at.gain - reached)
            reached = at.gain
    return area


def null_curve(search: Search) -> list[Trial]:
    """The plain trials that no cheaper plain trial is as good as, the cheapest first."""
    return frontier(search, [trial for trial in search.trials if trial.plain])


def null_at(search: Search, trial: Trial, curve: Sequence[Trial] | None = None) -> float | None:
    """What plain anchors reach at the price of `trial`, None where all of them cost more.

    Between two plain trials it is on the line between them (over log10 of a price), so a setting
    that stands above has more than plain anchors of any number would have if they grow evenly.
    """
    up, _ = search.axes
    at = place(search, trial)
    points = [
        p for t in (null_curve(search) if curve is None else curve) if (p := place(search, t))
    ]
    if at is None or not points or at.cost < points[0].cost:
        return None
    for left, right in itertools.pairwise(points):
        if at.cost < right.cost:
            part = (at.cost - left.cost) / (right.cost - left.cost)
            return up.sign * (left.gain + part * (right.gain - left.gain))
    return up.sign * points[-1].gain


def above_null(search: Search) -> tuple[list[tuple[float, Trial]], int]:
    """Settings that beat plain anchors at their price, the furthest above first, and of how many.

    Counted are completed settings that are not plain and cost at least what the cheapest plain one
    does.
    """
    up, _ = search.axes
    curve = null_curve(search)
    margins: list[tuple[float, Trial]] = []
    for trial in search.trials:
        value = search.value(trial, up.metric)
        if trial.complete and not trial.plain and value is not None:
            null = null_at(search, trial, curve)
            if null is not None:
                margins.append((up.sign * (value - null), trial))
    beat = [pair for pair in margins if pair[0] > 0]
    return sorted(beat, key=lambda pair: (-pair[0], pair[1].number)), len(margins)


def _cost(across: Goal, price: float) -> float | None:
    if across.metric in LOGARITHMIC:
        if price <= 0:
            return None
        price = math.log10(price)
    return -across.sign * price
