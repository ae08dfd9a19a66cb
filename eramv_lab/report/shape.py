"""JSON files held against the shape that they must have: all that is wrong, in one message."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from eramv_lab.errors import LabError

FOUND = 60
"""Characters of what was found that a message shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What the value of a key must be."""

    what: str
    """In words: `expected <what>, found ...`."""
    sound: Callable[[Any], bool]
    needed: bool = True
    """Whether it must be there; one that need not may also be null."""


Shape: TypeAlias = Mapping[str, Key]
"""Dotted keys; one below a key that is not an object is not looked at."""


def read_object(file: Path, shape: Shape, what: str) -> dict[str, Any]:
    """The JSON object in `file`, which is `what` ("a fit's result").

    Raises LabError for a file that is no JSON or lacks something of `shape`, FileNotFoundError
    where there is no file.
    """
    try:
        return sound_object(file.read_text(encoding="utf-8"), shape, what, str(file))
    except UnicodeDecodeError as error:
        raise LabError(f"{file} cannot be read: {error}") from error


def sound_object(text: str, shape: Shape, what: str, where: str) -> dict[str, Any]:
    """The JSON object in `text`. Raises LabError, naming `where` it stands, as `read_object`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LabError(f"{where} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise LabError(f"{where} is not {what}: expected an object, found {shown(value)}")
    if wrong := faults(value, shape):
        raise LabError(f"{where} is not {what}: " + "; ".join(wrong))
    return value


def faults(value: dict[str, Any], shape: Shape, at: str = "") -> list[str]:
    """All that is wrong with an object; `at` is put before the key ("trials[3].")."""
    return [at + said for key, rule in shape.items() if (said := _wrong(value, key, rule))]


def shown(value: Any) -> str:
    """A found value for a message, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= FOUND else text[: FOUND - 3] + "..."


def is_text(value: Any) -> bool:
    """A string with something in it."""
    return isinstance(value, str) and value != ""


def is_whole(value: Any) -> bool:
    """A whole number from 0; `true` is none."""
    return type(value) is int and value >= 0


def is_number(value: Any) -> bool:
    """Any number, also one that is not finite; `true` is none."""
    return type(value) in (int, float)


def is_object(value: Any) -> bool:
    """Keys and values."""
    return isinstance(value, dict)


def list_of(sound: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A list of which every member is `sound`."""
    return lambda value: isinstance(value, list) and all(map(sound, value))


def _wrong(value: dict[str, Any], dotted: str, rule: Key) -> str | None:
    """What is wrong with one key, None where nothing is."""
    *above, last = dotted.split(".")
    place: Any = value
    for part in above:
        place = place.get(part) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        return None
    if last not in place:
        return f"{dotted} is missing" if rule.needed else None
    found = place[last]
    if rule.sound(found) or (found is None and not rule.needed):
        return None
    return f"{dotted}: expected {rule.what}, found {shown(found)}"
