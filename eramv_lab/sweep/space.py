"""A search space in which every point is feasible: each coordinate divides what is still possible.

The keys are decided one after another, choices first. A key takes only values beside which the
rest can still be completed within the budget, and its coordinate, from 0 to 1, says where among
those it lies. So a sampler may move in a plain unit cube and can never leave the budget, nor ask
for a band that is longer than the model. A key with `take: largest` has no coordinate.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from eramv_lab.sweep.domains import Choices, Domain, ends, run_of, value_at, values_of

Values = dict[str, Any]
"""Recipe key to value: what a point sets."""
Point = dict[str, float | int]
"""Key to coordinate: a place in [0, 1], or the number of a choice."""
MOST_CORNERS = 4096
"""Ways to complete a setting that are looked at before it is called impossible."""
MOST_VALUES = 4096
"""Values of a range that are looked at one by one for holes in it."""
COUNTABLE = 1000
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
    faults: Callable[[Mapping[str, Any]], Collection[str]]
    """Keys at which bound values make no model; none where they do."""
    model_of: Callable[[Mapping[str, Any]], str]
    """The same text for bound values that make the same model."""
    _seen: dict[str, Sequence[Any]] = field(
        default_factory=dict[str, Sequence[Any]], init=False, repr=False
    )
    """Values that were looked for before."""

    @cached_property
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

    @property
    def countable(self) -> bool:
        """Whether the points are so many, and not all fractions of a range."""
        return all(isinstance(d, Choices) or d.listed or d.largest for d in self.domains.values())

    def possible(self) -> bool:
        """Whether there is any feasible point."""
        return self._completable({}, self._bound_keys)

    def decode(self, point: Point) -> Values:
        """The values of a point; feasible wherever the space has a feasible point at all."""
        values: Values = {}
        for key in self.keys:
            domain = self.domains[key]
            place = point.get(key, 1.0)
            if key not in self.bound:
                values[key] = value_at(domain, place)
                continue
            options = self.options(key, values)
            if isinstance(domain, Choices):
                wanted = domain.values[int(place)]
                values[key] = wanted if wanted in options else options[int(place) % len(options)]
            else:
                asked = len(options) - 1 if domain.largest else domain.index(place, options)
                values[key] = self._sure(key, values, options, asked)
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
                listed = domain.place(value, domain.values()) if domain.listed else None
                point[key] = domain.share(value) if listed is None else listed
            elif not domain.largest:
                point[key] = domain.place(value, self.options(key, before))
            before[key] = value
        return point

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether these values are a feasible point of the space."""
        named = all(key in values for key in self.domains)
        return (
            named and all(d.has(values[k]) for k, d in self.domains.items()) and self._fits(values)
        )

    def corners(self) -> Iterator[Values]:
        """All bound choices with the ends of all bound ranges, feasible or not; at most so many."""
        return itertools.islice(self._ends_of({}, self._bound_keys), MOST_CORNERS)

    def options(self, key: str, before: Mapping[str, Any]) -> Sequence[Any]:
        """Values of a bound key that leave something possible, ascending; `before` are decided.

        Costs rise or fall along a range, so what is possible of it is one run, holes apart where
        there is no such model.
        """
        name = name_of(
            {"options": key, "before": {k: before[k] for k in before if k in self.bound}}
        )
        if name not in self._seen:
            domain = self.domains[key]

            def possible(value: Any) -> bool:
                return self._leaves_some(key, before, value)

            if isinstance(domain, Choices):
                self._seen[name] = [value for value in domain.values if possible(value)]
            else:
                self._seen[name] = run_of(self._sound_values(key, before), possible)
        return self._seen[name]

    def identity(self, values: Mapping[str, Any]) -> str:
        """The same text for settings that are the same in effect."""
        others = {key: values[key] for key in self.domains if not key.startswith("model.")}
        return name_of({"model": self.model_of(self._decided(values)), **others})

    def count(self) -> int | None:
        """How many points there are; None where they are not counted."""
        return self._count

    @cached_property
    def _count(self) -> int | None:
        if not self.countable:
            return None
        free = 1
        for key in self.domains.keys() - self.bound:
            free *= len(values_of(self.domains[key]))
        *heads, last = self._bound_keys or [None]
        if last is None:
            return free
        total = 0
        for looked, before in enumerate(self._prefixes(heads)):
            if looked >= COUNTABLE:
                return None
            largest = getattr(self.domains[last], "largest", False)
            total += 1 if largest else len(self.options(last, before))
        return total * free

    def points(self) -> Iterator[Values]:
        """Every point, where they can be counted."""
        free = [key for key in self.keys if key not in self.bound]
        for before in self._prefixes(self._bound_keys):
            if self._fits(before):
                for rest in itertools.product(*(values_of(self.domains[key]) for key in free)):
                    yield {**before, **dict(zip(free, rest, strict=True))}

    def _prefixes(
        self, keys: Sequence[str | None], before: Values | None = None
    ) -> Iterator[Values]:
        before = before or {}
        if not keys:
            yield before
            return
        key = str(keys[0])
        options = self.options(key, before)
        for value in options[-1:] if getattr(self.domains[key], "largest", False) else options:
            yield from self._prefixes(keys[1:], {**before, key: value})

    @cached_property
    def _bound_keys(self) -> list[str]:
        return [key for key in self.keys if key in self.bound]

    def _leaves_some(self, key: str, before: Mapping[str, Any], value: Any) -> bool:
        rest = self._bound_keys[self._bound_keys.index(key) + 1 :]
        return self._completable({**before, key: value}, rest)

    def _completable(self, before: Mapping[str, Any], rest: Sequence[str]) -> bool:
        """Whether some ends of the ranges and some choices complete what is decided."""
        corners = itertools.islice(self._ends_of(before, rest), MOST_CORNERS)
        return any(self._fits(corner) for corner in corners)

    def _ends_of(self, before: Mapping[str, Any], rest: Sequence[str]) -> Iterator[Values]:
        """What is decided, with every choice and every end of the ranges that are not."""
        if not rest:
            yield {**before}
            return
        key, *later = rest
        domain = self.domains[key]
        if isinstance(domain, Choices):
            values = domain.values
        else:
            values = ends(self._models(key, before, later))
        for value in values:
            yield from self._ends_of({**before, key: value}, later)

    def _models(self, key: str, before: Mapping[str, Any], later: Sequence[str]) -> Sequence[Any]:
        """A range's sound values, but for those at one end that make no model beside what is
        decided, as a count of anchors below the rows that are to be kept of them."""
        values = self._sound_values(key, before)
        beside = {k: ends(self._sound_values(k, before)) for k in later}

        def sound(value: Any) -> bool:
            return any(not slots for slots in self._at_fault({**before, key: value}, beside))

        if len(values) > 1 and sound(values[0]) != sound(values[-1]):
            return run_of(values, sound)
        return values

    def _sound_values(self, key: str, before: Mapping[str, Any]) -> Sequence[Any]:
        """Values of a range beside the choices made: without those that make no model of its slot
        whatever the other ranges say, as 7 of a pool that has to be a grid."""
        values = values_of(self.domains[key])
        if not 2 < len(values) <= MOST_VALUES:
            return values
        chosen = {k: v for k, v in before.items() if isinstance(self.domains[k], Choices)}
        name = name_of({"sound": key, **chosen})
        if name not in self._seen:
            ranges = [k for k in self._bound_keys if not isinstance(self.domains[k], Choices)]
            whole = {k: values_of(self.domains[k]) for k in ranges if k != key}
            corners = {k: ends(listed) for k, listed in whole.items()}

            def sound(value: Any) -> bool:
                blamed = False
                for slots in self._at_fault({**chosen, key: value}, corners):
                    if not slots:
                        return True
                    blamed |= slots == {slot_of(key)}
                if not blamed:
                    return True
                return any(  # the others may be at fault at their ends, and not in between
                    not slots
                    for k in corners
                    for slots in self._at_fault(
                        {**chosen, key: value}, {**corners, k: whole[k][:MOST_VALUES]}
                    )
                )

            self._seen[name] = [value for value in values if sound(value)]
        return self._seen[name]

    def _at_fault(
        self, decided: Mapping[str, Any], beside: Mapping[str, Sequence[Any]]
    ) -> Iterator[set[str]]:
        """Slots at fault beside every combination of the other ranges' ends."""
        for corner in itertools.islice(itertools.product(*beside.values()), MOST_CORNERS):
            values = {**decided, **dict(zip(beside, corner, strict=True))}
            yield set(map(slot_of, self.faults(self._decided(values))))

    def _sure(self, key: str, before: Mapping[str, Any], options: Sequence[Any], asked: int) -> Any:
        """The option that is asked for, or the nearest one that is possible: where costs both rise
        and fall along a range, not all between two that are possible need be."""
        nearest = sorted(range(len(options)), key=lambda i: abs(i - asked))
        return next(options[i] for i in nearest if self._leaves_some(key, before, options[i]))

    def _fits(self, values: Mapping[str, Any]) -> bool:
        return self.fits(self._decided(values))

    def _decided(self, values: Mapping[str, Any]) -> Values:
        return {key: values[key] for key in self.domains if key in self.bound}


def name_of(values: Mapping[str, Any]) -> str:
    """Values as one text, the same for the same values."""
    return json.dumps(values, sort_keys=True)


def slot_of(key: str) -> str:
    """`model.band` of `model.band.start`."""
    return ".".join(key.split(".")[:2])
