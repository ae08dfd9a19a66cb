"""What the shell may offer next: read from files, without importing a component."""

from __future__ import annotations

import os
import re
from pathlib import Path

from eramv_lab.registry import SLOTS

REGISTERED = re.compile(r"""\.register\(\s*["']([^"']+)["']""")


def recipe_paths(incomplete: str) -> list[str]:
    """Recipes and folders that begin so; those of experiments/ where nothing is written."""
    return _paths(incomplete, "experiments/")


def sweep_paths(incomplete: str) -> list[str]:
    """The same for sweep files, which are in sweeps/."""
    return _paths(incomplete, "sweeps/")


def _paths(incomplete: str, usual: str) -> list[str]:
    start = Path(incomplete or usual)
    folder = start if (incomplete or "/").endswith("/") else start.parent
    if not folder.is_dir():
        return []
    names = [
        f"{path.as_posix()}{'/' * path.is_dir()}"
        for path in sorted(folder.iterdir())
        if (path.is_dir() or path.suffix in (".yaml", ".yml")) and path.name[0] != "."
    ]
    return [name for name in names if name.startswith(incomplete.removeprefix("./"))]


def _recipe() -> str:
    """The recipe on the line: the parser gives no arguments while an option lacks its value."""
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    return next((word for word in line.split() if word.endswith((".yaml", ".yml"))), "")


def arm_names(incomplete: str) -> list[str]:
    """Arms of the recipe that stands before."""
    from eramv_lab.errors import UserError
    from eramv_lab.recipe.load import read_recipe

    try:
        arms = read_recipe(_recipe()).arms
    except UserError:
        return []
    return [name for name in arms if name.startswith(incomplete)]


def overrides(incomplete: str) -> list[str]:
    """`key=` for every key of the recipe, and `model.slot=name` once a slot is written."""
    from eramv_lab.errors import UserError
    from eramv_lab.recipe.load import read_recipe
    from eramv_lab.recipe.nodes import leaves

    key, equals, _ = incomplete.partition("=")
    slot = key.removeprefix("model.").removesuffix(".type")
    if equals:
        names = [*component_names(slot), "none"] if slot in SLOTS else []
        return [f"{key}={n}" for n in names if f"{key}={n}".startswith(incomplete)]
    try:
        shared = read_recipe(_recipe()).shared
    except UserError:
        return []
    keys = [".".join(path) for path, _ in leaves(shared)]
    return [f"{key}=" for key in keys if key.startswith(incomplete)]


def recipes_and_overrides(incomplete: str) -> list[str]:
    """Further recipes and, once one is written, the keys of it."""
    return recipe_paths(incomplete) + (overrides(incomplete) if _recipe() else [])


def shapes(incomplete: str) -> list[str]:
    """Shapes by name: the recipes of experiments/scale."""
    names = sorted(path.stem for path in Path("experiments/scale").glob("*.yaml"))
    return [name for name in names if name.startswith(incomplete)]


def slots(incomplete: str) -> list[str]:
    """Slots, and the systems."""
    return [slot for slot in (*SLOTS, "systems") if slot.startswith(incomplete)]


def studies(incomplete: str) -> list[str]:
    """Studies in runs/, and searches that have ended."""
    found = (Path("runs").glob(f"{incomplete}*/{file}") for file in ("study.json", "search.json"))
    return sorted({path.parent.name for paths in found for path in paths})


def component_names(slot: str) -> list[str]:
    """Names of the built-in components of a slot, found in the text of their files."""
    if slot not in SLOTS:
        return []
    folder = Path(__file__).parents[1] / "slots" / SLOTS[slot].package.rpartition(".")[2]
    return [
        name
        for file in sorted(folder.glob("*.py"))
        for name in REGISTERED.findall(file.read_text(encoding="utf-8"))
    ]


def components(incomplete: str) -> list[str]:
    """Slots, components and `slot/component`."""
    names: dict[str, None] = {}
    for slot in SLOTS:
        names |= dict.fromkeys([slot, *component_names(slot)])
        names |= dict.fromkeys(f"{slot}/{name}" for name in component_names(slot))
    return [name for name in names if name.startswith(incomplete)]
