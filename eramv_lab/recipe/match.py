"""`{match_flops_of: arm}`: the number for a key at which two arms cost the same."""

from __future__ import annotations

import copy
import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from eramv_lab.errors import Problem
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.recipe.schema import CostConfig

MATCH = "match_flops_of"
MOST = 1 << 20
TOLERANCE = 0.05
"""How much dearer than the target the smallest model may be and still pass for equal."""

Place = tuple[str | int, ...]
SpecOf = Callable[[int], ModelSpec | None]
Solver = Callable[[SpecOf, ModelSpec, CostConfig], int]
"""The number at which (model of a number, None where there is none) costs what another does."""


class NoMatch(Problem):
    """The problem of a match that no number satisfies: nothing is wrong with the words."""

    __slots__ = ()


def equal_flops(spec_of: SpecOf, other: ModelSpec, cost: CostConfig) -> int:
    """The smallest number (from 1) whose prefill costs no less than `other`'s, both for `cost`.

    Raises LabError where there is none. The solver is found by name: recipes do not import `cost`.
    """
    budget = importlib.import_module("eramv_lab.cost.budget")
    formula = importlib.import_module("eramv_lab.cost.formula")
    target = formula.price(other, text_tokens=cost.text_tokens).prefill
    least = spec_of(1)
    if least is not None:
        above = formula.price(least, text_tokens=cost.text_tokens).prefill / target - 1
        if 0 <= above <= TOLERANCE:
            return 1
    high = 1
    while high < MOST and spec_of(high) is not None:
        high *= 2
    return budget.solve(spec_of, target, 1, high, text_tokens=cost.text_tokens)


def unlike_inputs(mine: CostConfig, other: str, theirs: CostConfig, key: str) -> Iterator[Problem]:
    """Problems: `key` matches the FLOPs of the arm `other`, which is priced for another input."""
    for field in dataclasses.fields(mine):
        here, there = getattr(mine, field.name), getattr(theirs, field.name)
        if here != there:
            message = f"is {here}, but {there} in arm {other}, whose FLOPs {key} matches"
            yield Problem(message=message, key=f"cost.{field.name}")


def matches(data: Any, path: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Every key of plain data that asks for a match, with what it names."""
    if isinstance(data, Mapping):
        if MATCH in data:
            yield path, data[MATCH] if len(data) == 1 else None
            return
        for key, value in data.items():
            yield from matches(value, (*path, key))
    elif isinstance(data, list):
        for i, value in enumerate(data):
            yield from matches(value, (*path, i))


def put(data: Mapping[str, Any], path: Place, value: Any) -> dict[str, Any]:
    """A copy of plain data with `value` at `path`."""
    fresh = copy.deepcopy(dict(data))
    place: Any = fresh
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    return fresh
