"""`{match_flops_of: arm, share: 0.5}`: the number at which arms cost the same, or that share."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from eramv_lab.errors import InfeasibleError, LabError, Problem
from eramv_lab.recipe.model_spec import ModelSpec, parse_model
from eramv_lab.recipe.parse import choice
from eramv_lab.recipe.schema import CostConfig

if TYPE_CHECKING:
    from eramv_lab.recipe.arms import Arm

MATCH = "match_flops_of"
MOST = 1 << 20
NEAR = 256
"""Numbers that are tried for the first that is a model."""
TOLERANCE = 0.05
"""How much dearer than the target the smallest model may be and still pass for equal."""

Place = tuple[str | int, ...]
Number = int | float
SpecOf = Callable[[Any], ModelSpec | None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Match:
    """What a number is to be solved for: `share` of the FLOPs of `arm`, by these numbers."""

    arm: str
    share: float = 1.0
    low: Number = 1
    high: Number | None = None
    step: Number = 1

    def number(self, index: int) -> Number:
        """The number at `index`, from 0."""
        found = self.low + index * self.step
        return found if isinstance(found, int) else round(found, 10)

    def render(self) -> str:
        """Whose FLOPs, in words."""
        return self.arm if self.share == 1 else f"{self.share:g} x {self.arm}"


Solver = Callable[[SpecOf, ModelSpec, CostConfig, Match], Number]
"""The number at which (model of a number, None where there is none) costs what is asked of the
other arm's."""


class NoMatch(Problem):
    """The problem of a match that no number satisfies: nothing is wrong with the words."""

    __slots__ = ()


def equal_flops(spec_of: SpecOf, other: ModelSpec, cost: CostConfig, match: Match) -> Number:
    """The smallest number whose prefill costs no less than that share of `other`'s, for `cost`.

    Raises LabError where there is none. The solver is found by name: recipes do not import `cost`.
    """
    budget = importlib.import_module("eramv_lab.cost.budget")
    formula = importlib.import_module("eramv_lab.cost.formula")
    whole = formula.prefill_flops(other, cost.text_tokens)
    target = math.ceil(match.share * whole)

    def at(index: int) -> ModelSpec | None:
        return spec_of(match.number(index))

    first = first_model(at, match) or 0
    least = at(first)
    if least is not None:
        above = formula.prefill_flops(least, cost.text_tokens) / target - 1
        if 0 <= above <= TOLERANCE:
            return match.number(first)
    last = _last(at, match, first + 1)
    settings = {"text_tokens": cost.text_tokens, "value": match.number}
    try:
        return match.number(budget.solve(at, target, first, last, **settings))
    except budget.OutOfReach as error:
        if match.share == 1:
            raise
        end = "most" if error.flops < target else "least"
        share = f"{error.flops / whole:.1%}".replace("%", " %")
        message = f"at {error.count:g}, the {end}, it costs {share} of {match.arm}"
        raise InfeasibleError(message) from error


def first_model(at: Callable[[int], ModelSpec | None], match: Match) -> int | None:
    """The least index that is a model (some counts have to part evenly); None for none near."""
    most = NEAR if match.high is None else min(NEAR, _end(match) + 1)
    return next((index for index in range(most) if at(index) is not None), None)


def _end(match: Match) -> int:
    """The index of `to`."""
    return int(((match.high or 0) - match.low) / match.step + 1e-9)


def _last(at: Callable[[int], ModelSpec | None], match: Match, found: int) -> int:
    """The last index to look at: that of `to`, or where doubling finds no model any more; with
    `found` numbers there is one.
    """
    if match.high is not None:
        return _end(match)
    high = found
    while high < MOST and high <= 4 * found:
        found = high if at(high - 1) is not None else found
        high *= 2
    holes = at(found) is None  # counts of a grid: twice as many may be none, four times are
    return (4 if holes else 2) * found - 1


def read_match(value: Mapping[str, Any], key: str, problems: list[Problem]) -> Match | None:
    """What `{match_flops_of: arm, share, from, to, step}` asks; None with `problems` extended."""
    before = len(problems)
    names = {MATCH: "arm", "share": "share", "from": "low", "to": "high", "step": "step"}
    for name, one in value.items():
        if name not in names:
            problems.append(choice(f"unknown key {name!r}", name, names, f"{key}.{name}"))
        elif name == MATCH and not isinstance(one, str):
            message = f"expected {{{MATCH}: ARM}}, found {one!r}"
            problems.append(Problem(message=message, key=key))
        elif name != MATCH and (isinstance(one, bool) or not isinstance(one, int | float)):
            message = f"expected a number, found {one!r}"
            problems.append(Problem(message=message, key=f"{key}.{name}"))
        elif name in ("share", "step") and float(one) <= 0:
            message = f"expected a number above 0, found {one!r}"
            problems.append(Problem(message=message, key=f"{key}.{name}"))
    if len(problems) == before and value.get("to", math.inf) < value.get("from", 1):
        message = f"{value['to']} is below from, {value.get('from', 1)}"
        problems.append(Problem(message=message, key=f"{key}.to"))
    if len(problems) > before:
        return None
    return Match(**{names[name]: one for name, one in value.items()})


def solved(
    data: dict[str, Any],
    cost: CostConfig | None,
    other: Callable[[str, str, list[Problem]], Arm | None],
    solver: Solver,
    problems: list[Problem],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`data` with the number that `match_flops_of` asks for; by key, whose FLOPs it so matches, or
    None where there is no such number. `other` finds an arm by name, for a key.
    """
    told = data.get("matched")
    matched: dict[str, Any] = dict(told) if isinstance(told, Mapping) else {}
    if not (told is None or isinstance(told, Mapping)):
        message = f"expected keys and the arms they match, found {told!r}"
        problems.append(Problem(message=message, key="matched"))
    wanted = [found for found in matches(data) if found[0]]  # else an unknown key of the arm
    for place, asked in wanted:
        key = ".".join(map(str, place))
        number: Number | None = None
        match = read_match(asked, key, problems)
        least = match.low if match else 1  # to see what else is wrong
        if len(wanted) > 1:
            problems.append(Problem(message="only one key of an arm can be matched", key=key))
        elif place[0] != "model" or len(place) < 3:
            problems.append(Problem(message="only a number of a slot can be matched", key=key))
        elif match and cost and (one := other(match.arm, key, problems)):
            unlike = list(unlike_inputs(cost, one.name, one.cost, key))
            problems += unlike
            if not unlike:
                number, least = _solve(data, place, one.spec, cost, match, solver, problems)
        matched[_listed(place)] = None if number is None or not match else match.render()
        data = put(data, place, least if number is None else number)
    return data, matched


def _solve(
    data: dict[str, Any],
    place: Place,
    other: ModelSpec,
    cost: CostConfig,
    match: Match,
    solver: Solver,
    problems: list[Problem],
) -> tuple[Number | None, Number]:
    """The number, None with `problems` extended where there is none; and the least that is a model,
    or the first where none is: what is wrong with it is reported with the model's other problems.
    """

    @cache
    def spec_of(number: Number) -> ModelSpec | None:
        return parse_model(put(data, place, number)["model"], [])

    first = first_model(lambda index: spec_of(match.number(index)), match)
    least = match.number(first or 0)
    key = ".".join(map(str, place))
    try:
        return (None if first is None else solver(spec_of, other, cost, match)), least
    except InfeasibleError as error:
        problems.append(NoMatch(message=str(error), key=key))
    except LabError as error:
        problems.append(Problem(message=str(error), key=key))
    return None, least


def _listed(place: Place) -> str:
    """The key as the resolved recipe has it, where reducers are always a list."""
    if place[:2] == ("model", "reducer") and len(place) > 2 and isinstance(place[2], str):
        place = (*place[:2], 0, *place[2:])
    return ".".join(map(str, place))


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
            yield path, data
            return
        for key, value in data.items():
            yield from matches(value, (*path, key))
    elif isinstance(data, list):
        for i, value in enumerate(data):
            yield from matches(value, (*path, i))


def put(data: Mapping[str, Any], path: Place, value: Any) -> dict[str, Any]:
    """Plain data with `value` at `path`; what is not on the way is shared, not copied."""
    fresh = dict(data)
    place: Any = fresh
    for part in path[:-1]:
        below = place[part]
        place[part] = list(below) if isinstance(below, list) else dict(below)
        place = place[part]
    place[path[-1]] = value
    return fresh
