"""What a key of a recipe is searched over: choices, a range, or the most that the budget allows."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeAlias

import yaml
from pydantic import Field

from eramv_lab.errors import Problem
from eramv_lab.recipe.parse import parse_config

STEPS = 100
"""Values that a range of fractions is searched in where a budget depends on it."""
MOST = 100_000
"""Values that a range with a step may have."""
Number = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class Choices:
    """One of some values, of any kind; they have no order."""

    values: tuple[Any, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """The values as they are shown and stored."""
        return tuple(map(word, self.values))

    def has(self, value: Any) -> bool:
        """Whether it is one of them."""
        return value in self.values


@dataclass(frozen=True)
class Range:
    """A number between two others."""

    low: float
    high: float
    step: float | None
    log: bool
    whole: bool
    largest: bool = False
    """Not searched: always the largest value that the budget allows beside the others."""

    @property
    def listed(self) -> bool:
        """Whether it has so many values, and is not all fractions in between."""
        return self.whole or bool(self.step)

    def has(self, value: Any) -> bool:
        """Whether a value is in it."""
        if type(value) not in (int, float) or not self.low <= value <= self.high:
            return False
        return value in self.values() if self.listed else True

    def values(self) -> Sequence[Any]:
        """All values, ascending; a range of fractions without a step gives so many."""
        if self.whole:
            return range(int(self.low), int(self.high) + 1, int(self.step or 1))
        if self.step:
            count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
            return [round(self.low + i * self.step, 12) for i in range(count)]
        return [self.at(i / (STEPS - 1)) for i in range(STEPS)]

    def at(self, share: float) -> float:
        """The value at a share of the way from low to high."""
        if self.log:
            value = self.low * (self.high / self.low) ** share
        else:
            value = self.low + share * (self.high - self.low)
        return min(max(value, self.low), self.high)  # rounding may pass an end

    def share(self, value: float) -> float:
        """Where a value lies between low and high."""
        if self.high == self.low:
            return 0.5
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def index(self, place: float, options: Sequence[Any]) -> int:
        """Which of some of its values stands at a place in [0, 1]."""
        if not (self.log and self.whole):
            return min(int(place * len(options)), len(options) - 1)
        wanted = options[0] * (options[-1] / options[0]) ** place
        after = min(bisect_left(options, wanted), len(options) - 1)
        return after - int(after > 0 and wanted - options[after - 1] < options[after] - wanted)

    def place(self, value: float, options: Sequence[Any]) -> float:
        """A place at which the one of some of its values stands that is nearest to `value`."""
        if not options or options[0] == options[-1]:
            return 0.5
        if self.log and self.whole:
            return math.log(value / options[0]) / math.log(options[-1] / options[0])
        nearest = min(range(len(options)), key=lambda i: abs(options[i] - value))
        return (nearest + 0.5) / len(options)


Domain: TypeAlias = Choices | Range


@dataclass(frozen=True, kw_only=True)
class _Written:
    """A range as a sweep file writes it; `from` is a word of Python's."""

    low: Number
    to: Number
    step: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    log: bool = False
    take: Literal["any", "largest"] = "any"


def parse_domain(key: str, value: Any, problems: list[Problem]) -> Domain | None:
    """`[mlp, none]`, `{from: 0, to: 5}` (step, log) or `{from: 0, to: 64, take: largest}`."""
    place = f"search.{key}"
    if isinstance(value, list):
        words = [word(v) for v in value]
        if not value or len(set(words)) < len(words):
            message = "no choices" if not value else f"a choice is there twice in {value!r}"
            problems.append(Problem(message=message, key=place))
            return None
        return Choices(tuple(value))
    if not isinstance(value, Mapping):
        message = f"expected [choices] or {{from: ..., to: ...}}, found {value!r}"
        problems.append(Problem(message=message, key=place))
        return None
    if "from" not in value:
        problems.append(Problem(message="missing key 'from'", key=place))
        return None
    told = {("low" if k == "from" else k): v for k, v in value.items()}
    found: list[Problem] = []
    written = parse_config(_Written, told, place, found)
    problems += [_in_its_words(problem, place) for problem in found]
    if written is None:
        return None
    numbers = (value["from"], value["to"], 1 if written.step is None else value["step"])
    whole = all(type(v) is int for v in numbers)
    wrong = None
    if written.to < written.low:
        wrong = f"from {value['from']} to {value['to']} is empty"
    elif written.log and written.low <= 0:
        wrong = "a log range begins above 0"
    elif written.log and written.step:
        wrong = "a log range has no step"
    elif written.step and (written.to - written.low) / written.step > MOST:
        wrong = f"that are more than {MOST} values; widen the step"
    if wrong:
        problems.append(Problem(message=wrong, key=place))
        return None
    largest = written.take == "largest"
    return Range(written.low, written.to, written.step, written.log, whole, largest)


def _in_its_words(problem: Problem, place: str) -> Problem:
    """A problem that says `from`."""
    key = f"{place}.from" if problem.key == f"{place}.low" else problem.key
    allowed = tuple("from" if name == "low" else name for name in problem.allowed)
    return replace(problem, key=key, allowed=allowed)


def word(value: Any) -> str:
    """A choice in a word, as YAML writes it on one line."""
    if isinstance(value, str):
        return value
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return text.strip().removesuffix("...").strip()


def values_of(domain: Domain) -> Sequence[Any]:
    """All values of a domain."""
    return domain.values if isinstance(domain, Choices) else domain.values()


def value_at(domain: Domain, place: float | int) -> Any:
    """The value at a place: the number of a choice, or a share of the way along a range."""
    if isinstance(domain, Choices):
        return domain.values[int(place)]
    if not domain.listed:
        return domain.at(float(place))
    values = domain.values()
    return values[domain.index(place, values)]


def ends(values: Sequence[Any]) -> Sequence[Any]:
    """The first value and the last."""
    return values if len(values) < 2 else (values[0], values[-1])


def run_of(values: Sequence[Any], possible: Callable[[Any], bool]) -> Sequence[Any]:
    """The values that are possible, which are one run: found from its ends by halving.

    Where neither end of the range is possible every value is looked at.
    """
    if not values:
        return values
    first, last = possible(values[0]), possible(values[-1])
    if first and last:
        return values
    if not first and not last:
        return [value for value in values if possible(value)]
    low, high = 0, len(values) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if possible(values[middle]) == first:
            low = middle
        else:
            high = middle
    return values[:high] if first else values[high:]
