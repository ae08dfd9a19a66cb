"""What a recipe said it expects, held against what came out."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from eramv_lab.recipe.expect import parse_bound

COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """One line of `expect:` and its outcome."""

    what: str
    """`arm metric`, or `minutes_per_fit`."""
    expected: str
    found: float | None
    """None: there is no result to hold it against."""
    met: bool | None

    def render(self) -> str:
        """One line for a reader."""
        word = {True: "met", False: "MISSED", None: "open"}[self.met]
        found = "no result" if self.found is None else f"{self.found:.4g}"
        return f"{word}: {self.what} {self.expected}, found {found}"


def check(
    expect: Mapping[str, Any], found: Mapping[str, Mapping[str, float]], minutes: float | None
) -> list[Expectation]:
    """Every bound of `expect` against `found` (arm to metric to value).

    `minutes` is the longest fit. Accuracy is the mean over the finished seeds; a question type is
    asked for by its name.
    """
    checked: list[Expectation] = []
    for arm, bounds in expect.items():
        if isinstance(bounds, Mapping):
            for metric, bound in bounds.items():
                value = found.get(arm, {}).get(metric)
                checked.append(_held(f"{arm} {metric}", bound, value))
        elif arm == "minutes_per_fit":
            checked.append(_held(arm, bounds, minutes))
        else:
            checked.append(_held(arm, bounds, None))
    return checked


def _held(what: str, bound: Any, value: float | None) -> Expectation:
    try:
        sign, limit = parse_bound(bound)
    except ValueError:
        return Expectation(what=what, expected=str(bound), found=value, met=None)
    met = None if value is None else COMPARE[sign](value, limit)
    return Expectation(what=what, expected=f"{sign} {limit:g}", found=value, met=met)
