"""What differs between recipes: the keys with more than one value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ABSENT = "-"


def differences(arms: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Dotted key to its value in each plain recipe, for keys whose values differ.

    A slot's `type` is its name's own key (`model.bridge`). A setting of a component is there where
    two arms have it otherwise; `"-"` stands for an arm whose component has no such setting.
    """
    flat = [dict(flatten(arm)) for arm in arms]
    found: dict[str, list[Any]] = {}
    for key in dict.fromkeys(key for one in flat for key in one):
        held = [one[key] for one in flat if key in one]
        slot = key.rpartition(".")[0]
        everywhere = len(held) == len(flat) or slot in found
        if any(value != held[0] for value in held) or not everywhere:
            found[key] = [one.get(key, ABSENT) for one in flat]
    return found


def flatten(recipe: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything that is no mapping; lists are values."""
    for key, value in recipe.items():
        name = above if key == "type" and above else f"{above}.{key}" if above else key
        if isinstance(value, Mapping):
            yield from flatten(value, name)
        else:
            yield name, value
