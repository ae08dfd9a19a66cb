"""What a search says in sentences: what was found, what it is worth, what it took."""

from __future__ import annotations

from eramv_lab.report.frontier import above_null, frontier, hypervolume, null_at, null_curve
from eramv_lab.report.numbers import digits, duration, heading, name_of, share
from eramv_lab.report.search import Search, Trial, said

SHARES = frozenset(("accuracy",))
NAMED = 5
"""Trials that a sentence names at most."""


def findings(search: Search) -> list[str]:
    """What was found: the best setting, how it does with more seeds and against plain anchors."""
    if not search.ranked():
        done = f" ({_counted(search)})" if search.trials else ""
        return [f"No trial has finished{done}: there is nothing to compare yet."]
    return [*_best(search), *_finalists(search), *_null(search)]


def notes(search: Search) -> list[str]:
    """What it took and how the numbers are to be read."""
    return [f"Trials: {_counted(search)}.", *_searched(search), *_spent(search), *_area(search)]


def failures(search: Search) -> list[str]:
    """Why trials failed, each reason once."""
    reasons: dict[str, list[str]] = {}
    for trial in search.trials:
        if trial.state == "failed":
            lines = (trial.error or "").strip().splitlines()
            reasons.setdefault(lines[-1] if lines else "no reason is known", []).append(trial.label)
    return [f"Failed: {_few(labels)}: {reason}" for reason, labels in reasons.items()]


def amount(metric: str, value: float | None) -> str:
    """A number of a metric with its unit: `0.910`, `186 MFLOPs`."""
    if value is None:
        return "–"
    if metric in SHARES:
        return share(value)
    head, times = heading(metric, [value])
    return f"{digits(value * times)} {head.removeprefix(name_of(metric)).strip()}".strip()


def bound(search: Search, metric: str) -> tuple[float, str] | None:
    """The budget of a metric and what is written at its line, None where there is none."""
    for limit in search.budget:
        if limit.metric == metric:
            words = f" ({limit.said})" if limit.said else ""
            return limit.value, f"budget {amount(metric, limit.value)}{words}"
    return None


def setting(search: Search, trial: Trial) -> str:
    """The parameters of a trial by short names, on one line."""
    return ", ".join(f"{search.param_names[k]} {said(v)}" for k, v in trial.params.items())


def _best(search: Search) -> list[str]:
    up, across = search.axes
    best = search.by_number[search.best] if search.best is not None else None
    if best is None and len(search.goals) == 2:
        return [
            "Two goals have no single best: "
            f"{_plural(len(frontier(search)), 'trial')} on the frontier."
        ]
    if best is None:
        return ["Nothing was chosen: the search has not come to its end."]
    text = f"Best found: {best.label}, {name_of(up.metric)} "
    text += amount(up.metric, search.value(best, up.metric))
    if up.metric == "accuracy" and "accuracy_low" in best.row and "accuracy_high" in best.row:
        text += f" ({share(best.row['accuracy_low'])} to {share(best.row['accuracy_high'])}"
        text += f" on {best.row['n']:g} questions)" if "n" in best.row else ")"
    price = search.value(best, across.metric)
    if price is not None:
        text += f", {name_of(across.metric)} {amount(across.metric, price)}"
    parts = setting(search, best)
    return [f"{text}." + (f" Setting: {parts}." if parts else "")]


def _finalists(search: Search) -> list[str]:
    up, _ = search.axes
    found: list[str] = []
    for finalist in search.finalists:
        values = ", ".join(amount(up.metric, v) for v in finalist.values.values())
        lack = [seed for seed in finalist.seeds if seed not in finalist.values]
        text = f"Finalist {finalist.label}: mean {amount(up.metric, finalist.mean)} over "
        text += f"{_plural(len(finalist.values), 'seed')} ({values or 'none finished'})"
        if lack:
            text += f", without seed {', '.join(map(str, lack))}"
        first = search.by_number.get(finalist.number)
        before = search.value(first, up.metric) if first else None
        if before is not None and finalist.mean is not None and len(finalist.values) > 1:
            text += f"; {amount(up.metric, before)} when it was found"
        found.append(text + ".")
    return found


def _null(search: Search) -> list[str]:
    up, _ = search.axes
    if not any(trial.plain for trial in search.trials):
        return ["No plain anchors were tried: nothing says what they reach at the same price."]
    curve = null_curve(search)
    if not curve:
        return ["No plain anchors have finished: nothing says what they reach at the same price."]
    beat, among = above_null(search)
    if not among:
        return ["No setting can be set against plain anchors: none costs as much as they do."]
    settings = _plural(among, "setting")
    if not beat:
        return [f"No setting beat plain anchors at its own price ({settings} compared)."]
    margin, first = beat[0]
    found = [
        f"{len(beat)} of {settings} stand above plain anchors at their own price, "
        f"{first.label} the furthest (by {amount(up.metric, margin)})."
    ]
    best = search.by_number.get(search.best) if search.best is not None else None
    null = null_at(search, best, curve) if best and not best.plain else None
    if best and null is not None:
        text = f"Plain anchors reach {amount(up.metric, null)} at the price of {best.label}"
        low, high = (best.row.get(f"accuracy_{end}") for end in ("low", "high"))
        if up.metric == "accuracy" and low is not None and high is not None:
            inside = low <= null <= high
            text += f", {'inside' if inside else 'outside'} of its 95 % interval"
        found.append(text + ".")
    return found


def _counted(search: Search) -> str:
    counts = dict(search.counts)
    resumed = counts.pop("resumed")
    parts = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none begun"
    asked = f"{search.asked} asked for: " if search.asked is not None else ""
    went_on = f"; {_plural(resumed, 'trial')} went on where an earlier one was cut off"
    return asked + parts + (went_on if resumed else "")


def _searched(search: Search) -> list[str]:
    parts = [
        f"sampler {search.sampler}" if search.sampler else "",
        f"pruner {search.pruner}" if search.pruner else "",
        f"{search.points:,.0f} settings in the space".replace(",", " ") if search.points else "",
        f"seed {search.seed}" if search.seed is not None else "",
    ]
    limits = [f"{limit.name} {amount(limit.metric, limit.value)}" for limit in search.budget]
    said_as = [f" ({limit.said})" if limit.said else "" for limit in search.budget]
    bounds = ", ".join(a + b for a, b in zip(limits, said_as, strict=True))
    goals = " and ".join(
        f"{name_of(g.metric)} {'as high' if g.maximize else 'as low'} as can be"
        for g in search.goals
    )
    found = [f"Goal: {goals}" + (f"; within {bounds}." if bounds else "; no budget.")]
    if any(goal.metric == "accuracy" for goal in search.goals):
        found.append(
            "Accuracy of trials and finalists is on val; that of the arms of the study is on test."
        )
    if any(parts):
        found.append(f"Searched by: {', '.join(p for p in parts if p)}.")
    return found


def _spent(search: Search) -> list[str]:
    spent, start = search.spent, search.startup
    parts = [
        f"{duration(spent[key])} {words}"
        for key, words in (("wall_seconds", "by the clock"), ("trial_seconds", "of trials"))
        if key in spent
    ]
    if "train_pflops" in spent:
        parts.append(f"{amount('train_pflops', spent['train_pflops'])} of training")
    found = [f"Spent: {', '.join(parts)}."] if parts else []
    if "median" in start:
        first = f" ({duration(start['first'])} for the first)" if "first" in start else ""
        found.append(
            f"Start-up of a trial, until its first step: {duration(start['median'])}{first}."
        )
    return found


def _area(search: Search) -> list[str]:
    area = hypervolume(search)
    if area is None:
        return ["Hypervolume: none, no reference point is stored for these goals."]
    up, across = search.axes
    corner = ", ".join(
        f"{name_of(goal.metric)} {amount(goal.metric, search.reference[goal.metric])}"
        for goal in (up, across)
    )
    words = f": {search.reference_said}" if search.reference_said else ""
    return [f"Hypervolume: {digits(area)} from the reference point ({corner}{words})."]


def _few(labels: list[str]) -> str:
    more = f" and {len(labels) - NAMED} more" if len(labels) > NAMED else ""
    return ", ".join(labels[:NAMED]) + more


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
