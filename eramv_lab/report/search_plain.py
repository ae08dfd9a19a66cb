"""A search as plain data, for programs and for the page: `compare --json` prints it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from eramv_lab.report import search_words as words
from eramv_lab.report.frontier import frontier, hypervolume, null_curve
from eramv_lab.report.search import LOGARITHMIC, Goal, Search, Trial


def to_plain(search: Search) -> dict[str, Any]:
    """All that search.json says and what follows from it; no number that is not finite.

    `frontier` and `null_curve` are trial numbers, the cheapest first.
    """
    up, across = search.axes
    limit = words.bound(search, across.metric)
    return _finite(
        {
            "study": search.study,
            "question": search.question,
            "goals": [_goal(goal) for goal in search.goals],
            "axes": {"up": _goal(up), "across": _goal(across)},
            "budget": [dataclasses.asdict(limit) for limit in search.budget],
            "bound": {"value": limit[0], "said": limit[1]} if limit else None,
            "findings": words.findings(search),
            "notes": [*words.failures(search), *words.notes(search)],
            "counts": search.counts,
            "spent": dict(search.spent),
            "startup_seconds": dict(search.startup),
            "frontier": [trial.number for trial in frontier(search)],
            "null_curve": [trial.number for trial in null_curve(search)],
            "hypervolume": {
                "value": hypervolume(search),
                "reference": {**search.reference, "said": search.reference_said},
            },
            "params": dict(search.param_names),
            "importance": dict(search.importance),
            "best": None
            if search.best is None
            else {"number": search.best, "changes": dict(search.changes)},
            "finalists": [dataclasses.asdict(finalist) for finalist in search.finalists],
            "trials": [_trial(search, trial) for trial in search.trials],
        }
    )


def _goal(goal: Goal) -> dict[str, Any]:
    return {
        "metric": goal.metric,
        "direction": "maximize" if goal.maximize else "minimize",
        "logarithmic": goal.metric in LOGARITHMIC,
    }


def _trial(search: Search, trial: Trial) -> dict[str, Any]:
    up, across = search.axes
    start, length = trial.band or (None, None)
    return {
        "number": trial.number,
        "label": trial.label,
        "state": trial.state,
        "given": trial.given,
        "up": search.value(trial, up.metric),
        "across": search.value(trial, across.metric),
        "values": trial.values,
        "params": dict(trial.params),
        "row": dict(trial.row),
        "step": trial.step,
        "band_start": start,
        "band_length": length,
        "anchors": trial.anchors,
        "plain": trial.plain,
        "resumed": trial.resumed,
        "folder": trial.folder,
        "hash": trial.hash,
        "error": trial.error,
    }


def _finite(value: Any) -> Any:
    """The same without NaN and infinities, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
