"""A shape: the tower and the language model of another recipe, at which a system is priced.

A system's recipe stands on a bed that can be trained here; its paper stood on CLIP and Vicuna. At a
shape the same recipe is resolved with that model's parts, and without what only a fit needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from eramv_lab.errors import Problem, UserError, nearest
from eramv_lab.recipe.load import Document, read_recipe, refused
from eramv_lab.recipe.merge import merge
from eramv_lab.recipe.nodes import Mark, Node

FOLDER = "scale"
"""Where the shapes lie, in a folder of experiments."""
SYSTEMS = "systems"
"""Where what can be priced at them lies."""
PARTS = ("vision", "language")
"""What a shape replaces."""
KEPT = {"vision": ("merge",), "language": ()}
"""Keys of those parts that are no sizes: what a system does there."""
DROPPED = ("base", "data", "evaluate", "trainer", "expect")
"""What has no place at another shape, and no price."""


def shape_path(name: str, near: Path) -> Path:
    """The file of a shape: a path, or the name of one in `scale/` beside or above the recipe `near`
    or in the experiments of the working directory.

    Raises UserError with the names that there are.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return Path(name)
    above = [folder / FOLDER for folder in near.resolve().parents]
    folders = [folder for folder in (*above, Path("experiments") / FOLDER) if folder.is_dir()]
    names = {path.stem: path for folder in folders[::-1] for path in sorted(folder.glob("*.yaml"))}
    if name not in names:
        shapes = tuple(sorted(one for one in names if not one.startswith("pretrain")))
        message = f"there is no shape {name!r}, neither a YAML file nor a name in {FOLDER}/"
        raise UserError(Problem(message=message, allowed=shapes, nearest=nearest(name, shapes)))
    return names[name]


def at_shape(document: Document, path: Path) -> None:
    """Put the tower and the language model of the recipe at `path` into all arms of `document`.

    A connector of the shape's kind takes the shape's sizes, and what `system.sizes` names takes
    those. The input is the one that the shape is priced for. Raises UserError where the file
    cannot be read or lacks one of its parts.
    """
    given = read_recipe(path)
    model = _children(given.shared, "model")
    lacking = [part for part in PARTS if part not in model]
    if given.problems or lacking:
        wanted = [
            Problem(message=f"a shape needs model.{part}", file=str(path)) for part in lacking
        ]
        raise UserError([*given.problems, *wanted])
    if "league" in document.shared.value:
        message = f"a league meets on its own bed; price {SYSTEMS}/*.yaml at a shape"
        raise refused(document.shared, document.shared.mark.file, "league", message)
    cost = given.shared.value.get("cost")
    document.shared = _without(document.shared)
    own = _children(document.shared, "model")
    slots = {part: _under(model[part], own.get(part)) for part in PARTS}
    if "connector" in own and _type(own["connector"]) == _type(model.get("connector")):
        slots["connector"] = model["connector"]
    keys = dict(document.shared.value)
    sized = _sizes({**own, **slots}, keys.get("system"), document.problems)
    keys["model"] = Node(sized, keys["model"].mark if "model" in keys else given.shared.mark)
    nothing = Node("none", Mark(str(path)))
    keys["base"] = Node({"recipe": nothing}, nothing.mark)
    if cost is not None:
        keys["cost"] = cost
    document.shared = Node(keys, document.shared.mark)
    document.arms = {name: _without(arm) for name, arm in document.arms.items()}


def _without(node: Node) -> Node:
    """The tree without what is dropped at a shape, nor a template, which needs a tokenizer."""
    keys = {key: child for key, child in node.value.items() if key not in DROPPED}
    if "model" in keys and keys["model"].is_map:
        slots = dict(keys["model"].value)
        for slot, part in keys["model"].value.items():
            if slot in PARTS:
                kept = {k: v for k, v in _keys(part).items() if k in KEPT[slot]}
                slots[slot] = Node(kept, part.mark, implied=True)
            elif slot == "prompt" and part.is_map:
                prompt = {k: v for k, v in part.value.items() if k != "template"}
                slots[slot] = Node(prompt, part.mark)
        keys["model"] = Node(slots, keys["model"].mark, keys["model"].implied)
    return Node(keys, node.mark, node.implied)


def _sizes(
    slots: Mapping[str, Node], system: Node | None, problems: list[Problem]
) -> dict[str, Node]:
    """The slots with their paper's sizes; a component that fills none of them is a problem."""
    found = dict(slots)
    sizes = _children(system, "sizes") if system is not None and system.is_map else {}
    for name, keys in sizes.items():
        filled = [slot for slot, node in slots.items() if name in (_type(node), slot)]
        if not filled or not keys.is_map:
            what = "fills no slot of this recipe" if keys.is_map else "expected keys and values"
            mark = keys.mark
            problems.append(
                Problem(message=what, file=mark.file, line=mark.line, key=f"system.sizes.{name}")
            )
        for slot in filled if keys.is_map else ():
            found[slot] = merge(found[slot], keys, ("model", slot))
    return found


def _under(part: Node, kept: Node | None) -> Node:
    """A part of the shape with what is kept of the recipe's own."""
    return Node({**part.value, **_keys(kept)}, part.mark) if part.is_map else part


def _children(node: Node, key: str) -> Mapping[str, Node]:
    return _keys(node.value.get(key))


def _keys(node: Node | None) -> Mapping[str, Node]:
    return node.value if node is not None and node.is_map else {}


def _type(node: Node | None) -> str | None:
    kind = node.value.get("type") if node is not None and node.is_map else None
    return kind.value if isinstance(kind, Node) else None
