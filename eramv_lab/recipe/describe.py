"""Components and sections in words: what `list` and `describe` show."""

from __future__ import annotations

import dataclasses
import inspect
import os
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from eramv_lab.errors import Problem, UserError, nearest
from eramv_lab.recipe.parse import choice, hints_of, plain, shape
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.recipe.schema import SECTIONS, SOURCES, source_config
from eramv_lab.registry import SLOTS, Component, Registry, field_docs

SYSTEMS = Path("experiments") / "systems"
"""Where the recipes of systems lie, from the current folder."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
    """One key of a config, as a reader wants to know it."""

    name: str
    type: str
    default: str
    doc: str


def slot_of(name: str) -> Registry:
    """The registry of a slot. Raises UserError with the nearest name."""
    if name not in SLOTS:
        raise UserError(choice(f"there is no slot {name!r}", name, SLOTS))
    return SLOTS[name]


def origin_of(component: Component) -> str:
    """Where a component lives: `path:line`, from here where that is shorter."""
    path, _, line = component.origin.rpartition(":")
    return f"{min(path, os.path.relpath(path), key=len)}:{line}" if path else component.origin


def print_slots(slot: str | None = None) -> None:
    """A table of components for each slot, or one."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.width = max(console.width, 120)
    for registry in [slot_of(slot)] if slot else SLOTS.values():
        table = Table(box=None, show_header=False, padding=(0, 2))
        table.add_column(no_wrap=True, min_width=14)
        table.add_column()
        table.add_column(no_wrap=True, overflow="ignore", style="dim")
        for component in registry:
            table.add_row(component.name, component.summary, origin_of(component))
        console.print(f"[bold]{registry.slot}[/]  {registry.question}")
        console.print(table, "")


def describe(name: str) -> Iterator[str]:
    """The page of a component (`name` or `slot/name`), a slot or a section, line by line.

    Raises UserError where nothing, or more than one component, is called so.
    """
    if name in SLOTS:
        yield f"{name}: {SLOTS[name].question}"
        yield from (f"  {c.name:<14} {c.summary}" for c in SLOTS[name])
        return
    if name in SECTIONS or name in SOURCES:
        config = SECTIONS.get(name) or source_config(name)
        where = name if name in SECTIONS else f"data.{name}"
        yield from _page(f"{where}:", config, f"{inspect.getsourcefile(config)}:0")
        return
    system = _system_file(name)
    if system is not None:
        if name in (n for registry in SLOTS.values() for n in registry.names()):
            yield from _components(name)
            yield ""
        yield from _system_page(system)
        return
    yield from _components(name)


def _components(name: str) -> Iterator[str]:
    found = _find(name)
    component = found[0]
    yield from _page(f"{component.slot}/{component.name}", component.config, origin_of(component))
    for other in found[1:]:
        yield ""
        yield from _page(f"{other.slot}/{other.name}", other.config, origin_of(other))


def system_files() -> list[Path]:
    """The recipes of systems in the current folder. Raises UserError where there are none."""
    files = sorted(SYSTEMS.glob("*.yaml"))
    if not files:
        raise UserError(f"there are no recipes in {SYSTEMS}/ of the current folder")
    return files


def _system_file(name: str) -> Path | None:
    file = SYSTEMS / f"{name.removeprefix('systems/')}.yaml"
    return file if file.is_file() else None


def _system_page(file: Path) -> Iterator[str]:
    """What a recipe says of its system. Raises UserError with all that is wrong with the recipe."""
    recipe = load_recipe(file)
    if recipe.system is None:
        raise UserError(Problem(message="no system: section", file=file.as_posix()))
    system = recipe.system
    yield f"systems/{file.stem}: {system.name}"
    yield f"  {recipe.question}"
    yield ""
    for key in ("source", "acts", "trains"):
        yield f"  {key}: {getattr(system, key)}"
    for key in ("exact", "reading"):
        lines = getattr(system, key)
        yield from (f"  {key}:", *(f"    - {line}" for line in lines)) if lines else ()
    yield f"  knob: {system.knob.render() if system.knob else 'none, it has one price'}"
    yield ""
    yield f"  {file.as_posix()}"


def _find(name: str) -> list[Component]:
    slot, slash, short = name.rpartition("/")
    registries = [slot_of(slot)] if slash else list(SLOTS.values())
    found = [r.entries[short] for r in registries if short in r.names()]
    if found:
        return found
    if slash:
        raise UserError(registries[0].unknown(short))
    names = [*SLOTS, *SECTIONS, *(n for r in registries for n in r.names())]
    raise UserError(
        Problem(
            message=f"nothing is called {name!r}; `list` shows every slot and component",
            nearest=nearest(name, names),
        )
    )


def _page(title: str, config: type[Any], origin: str) -> Iterator[str]:
    yield title
    yield from (f"  {line}".rstrip() for line in (inspect.getdoc(config) or "").splitlines())
    yield ""
    keys = list(keys_of(config))
    yield from () if keys else ("  no keys",)
    for key in keys:
        yield f"  {key.name}: {key.type}{key.default}"
        yield from (f"      {line}" for line in key.doc.splitlines())
    yield ""
    yield f"  {config.__module__}.{config.__name__}, {_shorter(origin)}"


def _shorter(origin: str) -> str:
    path, _, line = origin.rpartition(":")
    short = min(path, os.path.relpath(path), key=len) if Path(path).is_absolute() else path
    return short if line == "0" else f"{short}:{line}"


def keys_of(config: type[Any], above: str = "") -> Iterator[Key]:
    """Every key of a config, those of nested ones under dotted names."""
    docs = field_docs(config)
    for f in dataclasses.fields(config):
        hint = hints_of(config)[f.name]
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from keys_of(hint, f"{above}{f.name}.")
            continue
        if f.default is not dataclasses.MISSING:
            default = f" = {_written(f.default)}"
        elif f.default_factory is not dataclasses.MISSING:
            default = f" = {_written(f.default_factory())}"
        else:
            default = ", needed"
        yield Key(name=above + f.name, type=_type(hint), default=default, doc=docs.get(f.name, ""))
        for kind in get_args(hint):
            if dataclasses.is_dataclass(kind) and isinstance(kind, type):
                yield from keys_of(kind, f"{above}{f.name}.")


def _written(value: Any) -> str:
    if value is None:
        return "none"
    shown = plain(value)
    return str(shown).lower() if isinstance(shown, bool) else str(shown)


def _type(hint: Any) -> str:
    """A type as a recipe's reader says it."""
    if hint is types.NoneType:
        return "none"
    if get_origin(hint) is Literal:
        return " | ".join(str(a) for a in get_args(hint))
    if get_origin(hint) in (Union, types.UnionType):
        return " | ".join(_type(a) for a in get_args(hint))
    if dataclasses.is_dataclass(hint):
        return shape(hint)
    words = {int: "whole number", float: "number", str: "text", bool: "true | false"}
    if hint in words:
        return words[hint]
    if hint is Any:
        return "keys of its own"
    if get_origin(hint) in (tuple, list):
        parts = [a for a in get_args(hint) if a is not Ellipsis]
        return f"list of {_type(parts[0])}" if parts else "list"
    return "keys and values" if get_origin(hint) else getattr(hint, "__name__", str(hint))
