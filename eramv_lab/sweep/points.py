"""A setting as a recipe: dotted keys and values over a document, checked as an arm of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from eramv_lab.errors import UserError
from eramv_lab.recipe.arms import Arm, Resolver
from eramv_lab.recipe.load import Document
from eramv_lab.recipe.match import equal_flops
from eramv_lab.recipe.merge import expand, merge
from eramv_lab.recipe.nodes import Mark, Node

MARK = Mark("search")
"""Where a setting that nobody has written down stands."""


def changes_of(changes: Mapping[str, Any], over: Node | None = None) -> Node:
    """Dotted keys and plain values as a recipe's tree, written over another one."""
    tree = Node({key: _node(value) for key, value in changes.items()}, MARK, implied=True)
    return merge(over, expand(tree, []))


def _node(value: Any) -> Node:
    if isinstance(value, Mapping):
        return Node({str(key): _node(below) for key, below in value.items()}, MARK)
    if isinstance(value, list | tuple):
        return Node([_node(one) for one in value], MARK)
    return Node(value, MARK)


def point_arm(document: Document, name: str, changes: Mapping[str, Any] | Node, split: str) -> Arm:
    """One setting of a document as a checked arm. Raises UserError."""
    node = changes if isinstance(changes, Node) else changes_of(changes)
    node = changes_of({"evaluate.split": split}, node)
    arms = {**document.arms, name: node}
    resolver = Resolver(replace(document, arms=arms), equal_flops)
    arm = resolver.arm(name)
    if arm is None:
        raise UserError(dict.fromkeys(p for found in resolver.by_arm.values() for p in found))
    return arm
