"""What some comparisons have beside accuracy and price: further held-out sets, parts that learn."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eramv_lab.evaluate.statistics import Estimate, accuracy
from eramv_lab.report.runs import Arm


def further_sets(arms: Sequence[Arm]) -> tuple[dict[str, dict[str, Estimate]], list[str]]:
    """By arm, the accuracy on each further held-out set that all its runs have; and notes of arms
    that were asked other questions of a set than the first that has it.
    """
    found: dict[str, dict[str, Estimate]] = {arm.name: {} for arm in arms}
    asked: dict[str, dict[str, tuple[str, str, str]]] = {}
    notes: list[str] = []
    for arm in arms:
        for name in arm.runs[0].also:
            if not all(name in run.also for run in arm.runs):
                continue
            sets = [run.also[name] for run in arm.runs]
            here = [{k: (a.image, a.question, a.answer) for k, a in s.items()} for s in sets]
            first = asked.setdefault(name, here[0])
            if any(one != first for one in here):
                notes.append(
                    f"{arm.name}: was asked other questions of {name}, so it has none here"
                )
                continue
            scores = np.array([[answers[key].score for key in first] for answers in sets])
            found[arm.name][name] = accuracy(scores, [image for image, _, _ in first.values()])
    return found, notes


def learning(arm: Arm) -> frozenset[tuple[str, str]]:
    """Which parts of an arm learn, and how, as its recipe says."""
    told = arm.runs[0].meaning.items()
    return frozenset((key, how) for key, how in told if key.startswith("train.roles."))
