"""What an arm starts from: an arm, a base, a released model or nothing, and what both share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe.base import Base, base_path, mismatches, read_base
from eramv_lab.recipe.nodes import Node, find
from eramv_lab.recipe.parse import weightless
from eramv_lab.recipe.released import PARTS, Released, read_released

if TYPE_CHECKING:
    from eramv_lab.recipe.arms import Arm

Found = dict[str, Base | Released | UserError]
"""Bases and models by path once they were read, or what is wrong with them."""


def started(
    arm: Arm,
    node: Node,
    known: Found,
    other: Callable[[str, str, list[Problem]], Arm | None],
    problems: list[Problem],
) -> Arm | None:
    """The arm with what it starts from; None with `problems` extended where that is not sound.

    `node`: the arm as written; `other`: finds an arm by name, for a key, with its problems.
    """
    base = arm.base
    if base.model is not None and (base.arm is not None or base.recipe is not None):
        key = "arm" if base.arm is not None else "recipe"
        message = f"an arm starts from one thing: with base.model write base.{key}: none"
        problems.append(Problem(message=message, key=f"base.{key}"))
        return None
    parts: Mapping[str, Any]
    if base.arm is not None:
        parent = other(base.arm, "base.arm", problems)
        if parent is None:
            return None
        arm = replace(arm, base=replace(base, recipe=None), parent=parent)
        theirs = parent.spec.to_plain()
        parts, whose = {slot: theirs[slot] for slot in PARTS}, f"arm {parent.name}"
    elif base.model is not None:
        mark, written = find(node, "base.model"), base.model
        place = f"model {base_path(written, mark)}"
        released = _read(place, lambda: read_released(written, mark), known, "base.model", problems)
        if not isinstance(released, Released):
            return None
        arm = replace(arm, base=replace(base, model=released.path), released=released)
        parts, whose = released.parts, f"the model {released.path}"
    elif base.recipe is not None:
        path = str(base_path(base.recipe, find(node, "base.recipe")))
        found = _read(path, lambda: read_base(Path(path)), known, "base.recipe", problems)
        if not isinstance(found, Base):
            return None
        arm = replace(arm, base=replace(base, recipe=found.path), base_recipe=found)
        parts, whose = found.parts, f"the base {found.path}"
    else:
        return arm
    free = {f"model.vision.{name}" for name in weightless(arm.spec.vision)}
    problems += [
        Problem(message=f"is {mine!r}, but {whose}, where this starts, has {its!r}", key=key)
        for key, mine, its in mismatches(parts, arm.spec.to_plain())
        if key not in free
    ]
    return arm


def _read(
    place: str,
    read: Callable[[], Base | Released],
    known: Found,
    key: str,
    problems: list[Problem],
) -> Base | Released | None:
    """What `read` gives, or gave before, for `place`; None with its problems, put at `key`."""
    if place not in known:
        try:
            known[place] = read()
        except UserError as error:
            known[place] = error
    found = known[place]
    if not isinstance(found, UserError):
        return found
    problems += [p if p.file else replace(p, key=key) for p in found.problems]
    return None
