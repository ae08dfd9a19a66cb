"""What a recipe expects of its result: bounds on an arm's row, and minutes per fit."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from eramv_lab.errors import Problem
from eramv_lab.recipe.parse import choice
from eramv_lab.recipe.schema import METRICS

BOUND = re.compile(r"\s*(>=|<=|>|<)?\s*(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)\s*")


def parse_bound(bound: Any) -> tuple[str, float]:
    """`">= 0.85"` as (">=", 0.85); a bare number means at most. Raises ValueError."""
    match = None if isinstance(bound, bool) else BOUND.fullmatch(str(bound))
    if match is None:
        raise ValueError(f"expected a bound such as '>= 0.85', found {bound!r}")
    return match[1] or "<=", float(match[2])


def check_expect(
    expect: Any, arms: Collection[str], types: Collection[str], problems: list[Problem]
) -> None:
    """Problems of an `expect:` section; `types`: question types and further sets' accuracies,
    which are metrics too."""
    if not isinstance(expect, Mapping):
        problems.append(Problem(message=f"expected arms, found {expect!r}", key="expect"))
        return
    metrics = (*METRICS, *types)
    for arm, bounds in expect.items():
        key = f"expect.{arm}"
        if arm == "minutes_per_fit":
            _check(bounds, key, problems)
        elif arm not in arms:
            allowed = (*arms, "minutes_per_fit")
            problems.append(choice(f"there is no arm {arm!r}", arm, allowed, key))
        elif not isinstance(bounds, Mapping):
            message = f"expected metrics and bounds, found {bounds!r}"
            problems.append(Problem(message=message, key=key))
        else:
            for metric, bound in bounds.items():
                if metric not in metrics:
                    message = f"there is no metric {metric!r}"
                    problems.append(choice(message, metric, metrics, f"{key}.{metric}"))
                else:
                    _check(bound, f"{key}.{metric}", problems)


def _check(bound: Any, key: str, problems: list[Problem]) -> None:
    try:
        parse_bound(bound)
    except ValueError as error:
        problems.append(Problem(message=str(error), key=key))
