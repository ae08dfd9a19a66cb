"""`begin_with`: settings that are tried before anything is sampled, inside the space or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe.arms import Arm
from eramv_lab.recipe.load import Document
from eramv_lab.recipe.nodes import Node, leaves, to_data
from eramv_lab.recipe.parse import choice
from eramv_lab.recipe.resolve import NAME
from eramv_lab.sweep.domains import Choices, Range, run_of
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


@dataclass(frozen=True, kw_only=True)
class Around:
    """What settings are read against."""

    document: Document
    arm: Arm
    """The recipe itself."""
    space: Space
    pricer: Pricer


def read_given(
    entries: Mapping[str, Node], around: Around, problems: list[Problem]
) -> tuple[Given, ...]:
    """The settings of `begin_with`, whose entries `named` has found sound."""
    found: list[Given] = []
    for name, changes in entries.items():
        try:
            found.append(_given(name, changes, around))
        except UserError as error:
            key = f"begin_with.{name}"
            problems += [
                replace(p, key=f"{key}.{p.key}" if p.key else key, file=None, line=None)
                for p in error.problems
            ]
    return tuple(found)


def named(node: Node | None, document: Document, problems: list[Problem]) -> dict[str, Node]:
    """What each setting of `begin_with` changes: names of arms, or changes by name."""
    if node is None or node.value in (None, "none"):
        return {}
    if isinstance(node.value, list):
        entries = {str(to_data(one)): one for one in node.value}
    elif node.is_map:
        entries = node.value
    else:
        message = f"expected names of arms, or changes by name, found {to_data(node)!r}"
        problems.append(Problem(message=message, key="begin_with"))
        return {}
    found: dict[str, Node] = {}
    for name, entry in entries.items():
        key = f"begin_with.{name}"
        if isinstance(entry.value, str) and entry.value in document.arms:
            found[name] = document.arms[entry.value]
        elif isinstance(entry.value, str) or not (entry.value is None or entry.is_map):
            message = f"expected an arm's name or changes, found {to_data(entry)!r}"
            problems.append(choice(message, entry.value, document.arms, key))
        elif not NAME.fullmatch(name):
            message = f"a name is letters, digits, - and _, found {name!r}"
            problems.append(Problem(message=message, key=key))
        else:
            found[name] = entry if entry.is_map else Node({}, entry.mark)
    return found


def _given(name: str, changes: Node, around: Around) -> Given:
    """Raises UserError where this is no setting that can be tried beside the others."""
    wide = [".".join(path) for path, leaf in leaves(changes) if leaf.value == LARGEST]
    for number in wide:
        domain = around.space.domains.get(number)
        if len(wide) > 1 or not isinstance(domain, Range) or number not in around.space.bound:
            message = "largest is for one key that is searched over a range and has a price"
            raise UserError(Problem(message=message, key=number))
        changes = _largest(changes, number, domain, around.pricer)
    arm = point_arm(around.document, name, changes, "val")
    wrong = [
        Problem(message=f"all settings of a search share one {key}", key=key)
        for key, mine, its in (
            ("data", arm.plain["data"], around.arm.plain["data"]),
            ("cost", arm.plain["cost"], around.arm.plain["cost"]),
            ("evaluate", arm.plain["evaluate"], around.arm.plain["evaluate"]),
            ("base", _start(arm), _start(around.arm)),
        )
        if mine != its
    ]
    if wrong:
        raise UserError(wrong)
    tree = {key: value for key, value in to_data(changes).items() if key != "base"}  # is shared
    return Given(name=name, changes=tree, values=_values(arm, changes, around))


def _start(arm: Arm) -> object:
    """What an arm starts from."""
    other = arm.parent or arm.released
    base = arm.base_recipe and (arm.base_recipe.hash, arm.base.seed)
    return other.hash if other else base


def _largest(changes: Node, key: str, domain: Range, pricer: Pricer) -> Node:
    """The changes with the largest number that fits, else the smallest there is."""
    trees = [changes_of({key: value}, changes) for value in domain.values()]
    models = [tree for tree in trees if not pricer.problems(to_data(tree))]
    fitting = run_of(models, lambda tree: pricer.fits(to_data(tree)))
    return fitting[-1] if fitting else trees[0]


def _values(arm: Arm, changes: Node, around: Around) -> dict[str, Any] | None:
    """The values of the space that make the same arm; None where none do."""

    def same(values: Mapping[str, Any]) -> bool:
        try:
            arm_of = point_arm(around.document, "same", changes_of(values, changes), "val")
        except UserError:
            return False
        return arm_of.hash == arm.hash

    found: dict[str, Any] = {}
    for key, domain in around.space.domains.items():
        if isinstance(domain, Choices):  # one that changes nothing, in whatever words
            found[key] = next((v for v in domain.values if same({key: v})), domain.values[0])
        else:
            value = _place(arm, key)
            found[key] = value if domain.has(value) else domain.values()[0]
    if not around.space.holds(found):
        return None
    alone = point_arm(around.document, "same", found, "val")
    return found if alone.hash == arm.hash else None


def _place(arm: Arm, key: str) -> Any:
    """What stands at a key of a whole recipe."""
    section, *parts = key.split(".")
    if section == "model" and parts[0] == "band" and arm.spec.band:
        band = list(arm.spec.band)
        step = band[1] - band[0] if len(band) > 1 else 1
        where = {"start": band[0], "length": len(band), "stride": step}
        if parts[-1] in where:
            return where[parts[-1]]
    place: Any = arm.plain.get(section)
    for part in parts:
        if isinstance(place, list) and place:  # reducers are always a list there
            place = place[0]
        place = place.get(part) if isinstance(place, Mapping) else None
    return place
