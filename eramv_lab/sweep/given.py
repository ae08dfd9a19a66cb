"""`begin_with`: settings that are tried before anything is sampled, inside the space or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe.load import Document
from eramv_lab.recipe.merge import merge
from eramv_lab.recipe.nodes import Node, leaves, to_data
from eramv_lab.recipe.parse import choice
from eramv_lab.recipe.resolve import NAME
from eramv_lab.sweep.domains import Choices, Range
from eramv_lab.sweep.points import changes_of, point_arm
from eramv_lab.sweep.pricing import Pricer
from eramv_lab.sweep.space import Space

LARGEST = "largest"
"""Stands for the largest number of a searched range that the budget allows."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """A setting with a name."""

    name: str
    changes: dict[str, Any]
    """What it changes, as a tree of plain data."""
    values: dict[str, Any] | None
    """Its place in the space; None where it lies outside, and no sampler learns from it."""


def read_given(
    node: Node | None,
    document: Document,
    space: Space,
    pricer: Pricer,
    problems: list[Problem],
) -> tuple[Given, ...]:
    """The settings of `begin_with`: names of arms, or changes by name."""
    if node is None or node.value in (None, "none"):
        return ()
    if isinstance(node.value, list):
        entries = {str(to_data(one)): one for one in node.value}
    elif node.is_map:
        entries = node.value
    else:
        message = f"expected names of arms, or changes by name, found {to_data(node)!r}"
        problems.append(Problem(message=message, key="begin_with"))
        return ()
    found: list[Given] = []
    for name, entry in entries.items():
        key = f"begin_with.{name}"
        changes = _changes(entry, document, key, problems)
        if not NAME.fullmatch(name):
            message = f"a name is letters, digits, - and _, found {name!r}"
            problems.append(Problem(message=message, key=key))
        elif changes is not None:
            one = _given(name, changes, document, space, pricer, key, problems)
            if one is not None:
                found.append(one)
    return tuple(found)


def _changes(entry: Node, document: Document, key: str, problems: list[Problem]) -> Node | None:
    if entry.is_map:
        return entry
    if entry.value is None:
        return Node({}, entry.mark)
    if isinstance(entry.value, str) and entry.value in document.arms:
        return document.arms[entry.value]
    message = f"expected an arm's name or changes, found {to_data(entry)!r}"
    problems.append(choice(message, entry.value, document.arms, key))
    return None


def _given(
    name: str,
    changes: Node,
    document: Document,
    space: Space,
    pricer: Pricer,
    key: str,
    problems: list[Problem],
) -> Given | None:
    wide = [".".join(path) for path, leaf in leaves(changes) if leaf.value == LARGEST]
    for number in wide:
        domain = space.domains.get(number)
        if len(wide) > 1 or not isinstance(domain, Range):
            message = "largest is for one key that is searched over a range"
            problems.append(Problem(message=message, key=f"{key}.{number}"))
            return None
        changes = _largest(changes, number, domain, pricer)
    try:
        arm = point_arm(document, name, changes, "val")
    except UserError as error:
        problems += [replace(p, key=p.key and f"{key}.{p.key}", file=None) for p in error.problems]
        return None
    data = to_data(merge(document.shared, changes))
    return Given(
        name=name, changes=to_data(changes), values=_values(data, arm.hash, space, document)
    )


def _largest(changes: Node, key: str, domain: Range, pricer: Pricer) -> Node:
    """The changes with the largest number that fits, else the smallest there is."""
    values = list(domain.values())
    best = values[0]
    low, high = 0, len(values) - 1
    while low <= high:
        middle = (low + high) // 2
        tree = changes_of({key: values[middle]}, changes)
        if pricer.fits(to_data(tree)):
            best, low = values[middle], middle + 1
        else:
            high = middle - 1
    return changes_of({key: best}, changes)


def _values(
    data: Mapping[str, Any], wanted: str, space: Space, document: Document
) -> dict[str, Any] | None:
    """The values of the space that make the same arm; None where none do."""
    values: dict[str, Any] = {}
    for key in space.domains:
        place: Any = data
        for part in key.split("."):
            place = place.get(part) if isinstance(place, Mapping) else None
        values[key] = place
    for key, domain in space.domains.items():
        if isinstance(domain, Choices):
            values[key] = _chosen(values, key, domain, document)
        elif values[key] is None:  # as the start of a band that is none
            values[key] = domain.values()[0]
    if not space.holds(values):
        return None
    return values if point_arm(document, "same", values, "val").hash == wanted else None


def _chosen(values: Mapping[str, Any], key: str, domain: Choices, document: Document) -> Any:
    """The choice that says what stands in the recipe, in whatever words."""
    written = to_data(changes_of({key: values[key]}, document.shared))
    for choice_ in domain.values:
        if to_data(changes_of({key: choice_}, document.shared)) == written:
            return choice_
    return domain.values[0]
