"""One recipe written over another: dotted keys, short forms, and what a new `type` drops."""

from __future__ import annotations

from eramv_lab.errors import Problem
from eramv_lab.recipe.bands import SPELLINGS, WHERE
from eramv_lab.recipe.match import MATCH
from eramv_lab.recipe.nodes import Mark, Node, leaves
from eramv_lab.recipe.scale import is_scaled

Path = tuple[str, ...]


def expand(node: Node, problems: list[Problem], above: Path = ()) -> Node:
    """`node` with dotted keys unfolded (`a.b: 1` is `a: {b: 1}`), in the order written."""
    if not node.is_map:
        return node
    children: dict[str, Node] = {}
    seen: dict[Path, Mark] = {}
    for key, child in node.value.items():
        parts = tuple(key.split("."))
        if not all(parts):
            problems.append(_at(child.mark, key, f"{key!r} is not a key: a part is empty"))
            continue
        child = expand(child, problems, (*above, *parts))
        for path, leaf in leaves(child, (*above, *parts)):
            if path in seen:
                name = ".".join(path)
                problems.append(_at(leaf.mark, name, f"key {name!r} is written twice"))
            seen[path] = leaf.mark
        first = parts[0]
        children[first] = merge(children.get(first), _nest(parts, child), (*above, first))
    return Node(children, node.mark, node.implied)


def _nest(parts: Path, child: Node) -> Node:
    node = child
    for depth in range(len(parts) - 1, 0, -1):
        node = Node({parts[depth]: node}, child.mark, implied=depth < len(parts) - 1)
    return node


def merge(old: Node | None, new: Node, path: Path = ()) -> Node:
    """`new` written over `old`; `path` is their place in the recipe.

    Keys of a mapping are written over one by one. A `type` other than the old one drops the old
    one's keys; so do keys over `none`, and one spelling of a band over another.
    """
    new = canonical(new, path)
    if not new.is_map:
        return new
    kept = _kept(old, new, path) if old is not None and old.is_map else {}
    children = dict(kept)
    for key, child in new.value.items():
        children[key] = merge(kept.get(key), child, (*path, key))
    implied = new.implied and (old is None or old.implied)
    mark = old.mark if old is not None and new.implied else new.mark
    return Node(children, mark, implied)


def _kept(old: Node, new: Node, path: Path) -> dict[str, Node]:
    kept: dict[str, Node] = dict(old.value)
    if path[:1] == ("model",):
        if _is_number(new):
            return {}
        if _is_number(old) and new.value.keys() - kept.keys():
            return {}
    band = path == ("model", "band")
    before, after = (n.value["type"].value if "type" in n.value else None for n in (old, new))
    if "none" in (before, after):
        kept = {}
    elif after not in (None, before) and before is not None:
        kept = {key: child for key, child in kept.items() if band and key in WHERE}
    if band:
        written = {name for name, keys in SPELLINGS.items() if new.value.keys() & set(keys)}
        if written:
            drop = {k for name in SPELLINGS.keys() - written for k in SPELLINGS[name]}
            kept = {key: child for key, child in kept.items() if key not in drop}
    return kept


def _is_number(node: Node) -> bool:
    """Whether a mapping stands for one number, which is written over as a whole."""
    return is_scaled(node.value) or MATCH in node.value


def canonical(node: Node, path: Path) -> Node:
    """Short forms written out: `slot: name`, `band: early`, `base: pretrain.yaml`, an empty one."""
    if node.is_map:
        return node
    if path == ("model", "band"):
        if node.value is None or node.value == "none":
            return Node({"type": Node("none", node.mark)}, node.mark)
        if isinstance(node.value, str):
            return Node({"place": node}, node.mark)
        if isinstance(node.value, list):
            return Node({"layers": node}, node.mark)
    elif len(path) == 2 and path[0] == "model" and not isinstance(node.value, list):
        if node.value is None or isinstance(node.value, str):
            return Node({"type": Node(node.value or "none", node.mark)}, node.mark)
    elif path == ("base",):
        if node.value is None or isinstance(node.value, str):
            return Node({"recipe": Node(node.value or "none", node.mark)}, node.mark)
    elif len(path) == 1 and node.value is None:
        return Node({}, node.mark)
    return node


def _at(mark: Mark, key: str, message: str) -> Problem:
    return Problem(message=message, file=mark.file, line=mark.line, key=key)
