"""The `system:` section: what a recipe says of the published system that it writes in slots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from eramv_lab.errors import Problem
from eramv_lab.recipe.bands import WHERE
from eramv_lab.recipe.parse import choice, parse_config

NOTHING = "nothing"
"""What a training-free system trains."""
KNOB = ("key", "from", "to", "step")


@dataclass(frozen=True, kw_only=True)
class Knob:
    """The number of a system that brings it to a budget: its price rises with it."""

    key: str
    """Dotted key in the recipe, `model.anchors.count`."""
    low: float = 1
    """`from`: the least it is turned to."""
    high: float | None = None
    """`to`: the most; none: as far as there is a model."""
    step: float = 1

    def to_plain(self) -> dict[str, Any]:
        """As a recipe writes it."""
        plain: dict[str, Any] = {"key": self.key, "from": self.low}
        return plain | ({} if self.high is None else {"to": self.high}) | {"step": self.step}

    def render(self) -> str:
        """On one line, for a reader."""
        ends = f"from {self.low:g}" + ("" if self.high is None else f" to {self.high:g}")
        return f"{self.key} {ends}" + ("" if self.step == 1 else f" by {self.step:g}")


@dataclass(frozen=True, kw_only=True)
class System:
    """A published system as a recipe tells it; nothing here changes a result."""

    name: str
    """As its paper names it."""
    source: str
    """Its paper or code, such as arXiv 2403.06764."""
    acts: str
    """Where it acts, in words."""
    trains: str
    """What learns, in words; `nothing` for a training-free one, with train.steps 0."""
    exact: tuple[str, ...] = ()
    """What is as in the paper or its code."""
    reading: tuple[str, ...] = ()
    """What the source leaves open, and how it was read."""
    knob: Knob | None = None
    """What brings it to a budget (key, from, to, step); none: it has one price."""
    sizes: dict[str, Any] = field(default_factory=dict[str, Any])
    """Its paper's sizes by component, such as {qformer: {width: 768}}: taken where it is priced at
    a published shape (cost --shape)."""
    tower: str | None = None
    """Its paper's tower and tokens, where that is not LLaVA-1.5's."""

    @property
    def training_free(self) -> bool:
        """Whether it is applied to a trained model as it is."""
        return self.trains == NOTHING

    def to_plain(self) -> dict[str, Any]:
        """The section as a recipe writes it."""
        texts = {name: getattr(self, name) for name in ("name", "source", "acts", "trains")}
        lists = {name: list(getattr(self, name)) for name in ("exact", "reading")}
        knob = {"knob": self.knob.to_plain() if self.knob else "none"}
        more = {"sizes": self.sizes} if self.sizes else {}
        return {**texts, **lists, **knob, **more, **({"tower": self.tower} if self.tower else {})}


def parse_system(value: object, problems: list[Problem], key: str = "system") -> System | None:
    """The section of a recipe; None with `problems` extended where it is not sound."""
    if not isinstance(value, Mapping):
        problems.append(Problem(message=f"expected keys and values, found {value!r}", key=key))
        return None
    before = len(problems)
    rest = {name: one for name, one in value.items() if name != "knob"}
    if "knob" in value:
        rest["knob"] = "none"  # its own keys are read below
    system = parse_config(System, rest, key, problems)
    problems += [
        Problem(message="expected some words, found none", key=f"{key}.{name}")
        for name in ("name", "source", "acts", "trains")
        if isinstance(rest.get(name), str) and not rest[name].strip()
    ]
    if "knob" not in value:
        problems.append(Problem(message="missing key 'knob'; write none for none", key=key))
    knob = parse_knob(value.get("knob", "none"), problems, f"{key}.knob")
    if system is None or len(problems) > before:
        return None
    return System(**{**vars(system), "knob": knob})


def parse_knob(value: object, problems: list[Problem], key: str) -> Knob | None:
    """A knob as written; None where there is none, or `problems` extended."""
    if value == "none":
        return None
    if not isinstance(value, Mapping):
        found = "nothing" if value is None else repr(value)
        message = f"expected none or a key and its range, found {found}"
        problems.append(Problem(message=message, key=key, allowed=("none", *KNOB)))
        return None
    before = len(problems)
    problems += [
        choice(f"unknown key {name!r}", name, KNOB, f"{key}.{name}")
        for name in value
        if name not in KNOB
    ]
    place = value.get("key")
    parts = place.split(".") if isinstance(place, str) else []
    if len(parts) < 3 or parts[0] != "model" or not all(parts):
        message = f"expected the key of a slot, such as model.anchors.count, found {place!r}"
        problems.append(Problem(message=message, key=f"{key}.key" if "key" in value else key))
    numbers = {"from": value.get("from", 1), "step": value.get("step", 1)}
    if value.get("to") not in (None, "none"):
        numbers["to"] = value["to"]
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float):
            message = f"expected a number, found {number!r}"
            problems.append(Problem(message=message, key=f"{key}.{name}"))
    if len(problems) == before and numbers["step"] <= 0:
        message = f"expected a number above 0, found {numbers['step']!r}"
        problems.append(Problem(message=message, key=f"{key}.step"))
    if len(problems) == before and numbers.get("to", numbers["from"]) < numbers["from"]:
        message = f"{numbers['to']} is below from, {numbers['from']}"
        problems.append(Problem(message=message, key=f"{key}.to"))
    if len(problems) > before:
        return None
    low, high, step = numbers["from"], numbers.get("to"), numbers["step"]
    return Knob(key=str(place), low=low, high=high, step=step)


def check_system(system: System, arms: Mapping[str, Mapping[str, Any]]) -> Iterator[Problem]:
    """Problems: a section that does not fit the resolved arms of its recipe, plain, by name."""
    for name, arm in arms.items():
        steps = arm["train"]["steps"]
        if system.training_free and steps:
            message = f"{NOTHING}, but arm {name} has train.steps {steps}: write 0"
            yield Problem(message=message, key="system.trains")
            break
    if (knob := system.knob) is None:
        return
    for arm in arms.values():
        keys = {f"model.{key}" for key in _numbers(arm["model"])}
        if arm["model"]["band"] != "none":
            keys |= {f"model.band.{key}" for key in WHERE}
        if knob.key not in keys:
            message = f"there is no number {knob.key!r} in this model"
            yield choice(message, knob.key, sorted(keys), "system.knob.key")
            break


def _numbers(plain: Any, above: str = "") -> Iterator[str]:
    """Dotted keys of the numbers in a plain model; the only reducer needs no place in the list."""
    if isinstance(plain, Mapping):
        for key, value in plain.items():
            yield from _numbers(value, f"{above}.{key}" if above else str(key))
    elif isinstance(plain, list):
        for i, value in enumerate(plain):
            yield from _numbers(value, f"{above}.{i}")
        if len(plain) == 1:
            yield from _numbers(plain[0], above)
    elif plain == "none" or (isinstance(plain, int | float) and not isinstance(plain, bool)):
        yield above
