"""A search space in which every point is feasible: each coordinate divides what is still possible.

The keys are decided one after another, choices first. A key takes only values beside which the
rest can still be completed within the budget, and its coordinate, from 0 to 1, says where among
those it lies. So a sampler may move in a plain unit cube and can never leave the budget, nor ask
for a band that is longer than the model. A key with `take: largest` has no coordinate.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eramv_lab.sweep.domains import Choices, Domain, Range

Values = dict[str, Any]
"""Recipe key to value: what a point sets."""
Point = dict[str, float | int]
"""Key to coordinate: a place in [0, 1], or the number of a choice."""
MOST_CORNERS = 4096
"""Ways to complete a setting that are looked at before it is called impossible."""
COUNTABLE = 5000
"""Prefixes that are looked at to count the points; a larger space is not counted."""


@dataclass(frozen=True)
class Space:
    """Keys with their domains, and what is feasible.

    `fits` says of some values, the keys in `bound` all given, whether there is such a model and
    whether it keeps within the budget. Keys that are not bound change neither.
    """

    domains: Mapping[str, Domain]
    bound: frozenset[str]
    fits: Callable[[Mapping[str, Any]], bool]
    model_of: Callable[[Mapping[str, Any]], str]
    """The same text for bound values that make the same model."""

    @property
    def keys(self) -> list[str]:
        """The keys in the order in which they are decided."""

        def order(key: str) -> int:
            domain = self.domains[key]
            if isinstance(domain, Choices):
                return 0
            return 2 if domain.largest else 1

        return sorted(self.domains, key=order)  # stable: otherwise as written

    @property
    def coordinates(self) -> list[str]:
        """The keys that have a coordinate."""
        return [k for k in self.keys if not getattr(self.domains[k], "largest", False)]

    def possible(self) -> bool:
        """Whether there is any feasible point."""
        return self._completable({}, self._bound_keys())

    def decode(self, point: Point) -> Values:
        """The values of a point; feasible wherever the space has a feasible point at all."""
        values: Values = {}
        for key in self.keys:
            domain = self.domains[key]
            if key not in self.bound:
                values[key] = _free(domain, point[key])
                continue
            options = self.options(key, values)
            if isinstance(domain, Choices):
                wanted = domain.values[int(point[key])]
                values[key] = (
                    wanted if wanted in options else options[int(point[key]) % len(options)]
                )
            elif domain.largest:
                values[key] = options[-1]
            else:
                values[key] = options[min(int(float(point[key]) * len(options)), len(options) - 1)]
        return values

    def encode(self, values: Mapping[str, Any]) -> Point:
        """The point whose values these are, in the middle of its cell."""
        point: Point = {}
        before: Values = {}
        for key in self.keys:
            domain, value = self.domains[key], values[key]
            if isinstance(domain, Choices):
                point[key] = domain.values.index(value)
            elif key not in self.bound:
                point[key] = domain.share(value)
            elif not domain.largest:
                options = self.options(key, before)
                nearest = min(range(len(options)), key=lambda i: abs(options[i] - value))
                point[key] = (nearest + 0.5) / len(options)
            before[key] = value
        return point

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether these values are a feasible point of the space."""
        named = all(key in values for key in self.domains)
        return (
            named and all(_in(d, values[k]) for k, d in self.domains.items()) and self._fits(values)
        )

    def corners(self) -> Iterator[Values]:
        """The ends of all bound ranges and all choices, feasible or not; at most so many."""
        keys = self._bound_keys()
        ends = itertools.product(*(_ends(self.domains[key]) for key in keys))
        for corner in itertools.islice(ends, MOST_CORNERS):
            yield dict(zip(keys, corner, strict=True))

    def options(self, key: str, before: Mapping[str, Any]) -> Sequence[Any]:
        """Values of a bound key that leave something possible, ascending; `before` are decided."""
        domain = self.domains[key]
        keys = self._bound_keys()
        rest = keys[keys.index(key) + 1 :]

        def possible(value: Any) -> bool:
            return self._completable({**before, key: value}, rest)

        if isinstance(domain, Choices):
            return [value for value in domain.values if possible(value)]
        return _run(domain.values(), possible)

    def identity(self, values: Mapping[str, Any]) -> str:
        """The same text for settings that are the same in effect."""
        free = {key: values[key] for key in self.domains if key not in self.bound}
        return name_of({"model": self.model_of(self._decided(values)), **free})

    def count(self) -> int | None:
        """How many points there are; None where they are not counted."""
        if any(not _countable(self.domains[key]) for key in self.domains):
            return None
        total, free = 0, 1
        for key in self.domains.keys() - self.bound:
            free *= len(_listed(self.domains[key]))
        *heads, last = self._bound_keys() or [None]
        if last is None:
            return free
        for looked, before in enumerate(self._prefixes(heads)):
            if looked >= COUNTABLE:
                return None
            domain = self.domains[last]
            largest = isinstance(domain, Range) and domain.largest
            total += 1 if largest else len(self.options(last, before))
        return total * free

    def points(self) -> Iterator[Values]:
        """Every point, where they can be counted."""
        free = [key for key in self.keys if key not in self.bound]
        for before in self._prefixes(self._bound_keys()):
            for rest in itertools.product(*(_listed(self.domains[key]) for key in free)):
                yield {**before, **dict(zip(free, rest, strict=True))}

    def _prefixes(
        self, keys: Sequence[str | None], before: Values | None = None
    ) -> Iterator[Values]:
        before = before or {}
        if not keys:
            yield before
            return
        key = str(keys[0])
        options, domain = self.options(key, before), self.domains[key]
        if isinstance(domain, Range) and domain.largest:
            options = options[-1:]
        for value in options:
            yield from self._prefixes(keys[1:], {**before, key: value})

    def _bound_keys(self) -> list[str]:
        return [key for key in self.keys if key in self.bound]

    def _completable(self, before: Mapping[str, Any], rest: Sequence[str]) -> bool:
        """Whether some ends of the ranges and some choices complete what is decided."""
        ends = [_ends(self.domains[key]) for key in rest]
        corners = itertools.islice(itertools.product(*ends), MOST_CORNERS)
        return any(self._fits({**before, **dict(zip(rest, c, strict=True))}) for c in corners)

    def _fits(self, values: Mapping[str, Any]) -> bool:
        return self.fits(self._decided(values))

    def _decided(self, values: Mapping[str, Any]) -> Values:
        return {key: values[key] for key in self.domains if key in self.bound}


def name_of(values: Mapping[str, Any]) -> str:
    """Values as one text, the same for the same values."""
    return json.dumps(values, sort_keys=True)


def _run(values: Sequence[Any], possible: Callable[[Any], bool]) -> Sequence[Any]:
    """The values that are possible, which are one run: found from its ends by halving.

    Where neither end of the range is possible every value is looked at.
    """
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


def _in(domain: Domain, value: Any) -> bool:
    if isinstance(domain, Choices):
        return value in domain.values
    if type(value) not in (int, float) or not domain.low <= value <= domain.high:
        return False
    return value in domain.values() if domain.whole or domain.step else True


def _free(domain: Domain, place: float | int) -> Any:
    if isinstance(domain, Choices):
        return domain.values[int(place)]
    if domain.whole or domain.step:
        values = domain.values()
        return values[min(int(place * len(values)), len(values) - 1)]
    return domain.at(float(place))


def _ends(domain: Domain) -> Sequence[Any]:
    if isinstance(domain, Choices):
        return domain.values
    values = domain.values()
    return values if len(values) == 1 else (values[0], values[-1])


def _countable(domain: Domain) -> bool:
    return isinstance(domain, Choices) or domain.whole or bool(domain.step) or domain.largest


def _listed(domain: Domain) -> Sequence[Any]:
    return domain.values if isinstance(domain, Choices) else domain.values()
