"""Plain data to typed configs: every unknown key and wrong value becomes a Problem."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from functools import cache, reduce
from operator import or_
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from eramv_lab.errors import Problem, nearest
from eramv_lab.registry import Registry

Config = TypeVar("Config")
LATER: Mapping[str, Any] = {"later": True}
"""Metadata of a field that came later: at its default no hash knows it, so that none moves."""

WEIGHTLESS: Mapping[str, Any] = {**LATER, "weightless": True}
"""The same, of a field that changes no weights: an arm may start from one that has it otherwise."""


def choice(message: str, word: object, names: Iterable[str], key: str | None = None) -> Problem:
    """The problem of a word that is none of `names`."""
    allowed = tuple(names)
    return Problem(message=message, key=key, allowed=allowed, nearest=nearest(str(word), allowed))


@cache
def hints_of(config: type[Any]) -> dict[str, Any]:
    """Types of the fields of a dataclass, constraints left out."""
    return get_type_hints(config)


@cache
def _adapter(config: type[Any], name: str) -> TypeAdapter[Any]:
    hint = get_type_hints(config, include_extras=True)[name]
    kinds = get_args(hint)
    words = tuple(kind for kind in kinds if not dataclasses.is_dataclass(kind))
    return TypeAdapter(hint if len(words) == len(kinds) else reduce(or_, words))


def parse_config(
    config: type[Config], values: object, key: str, problems: list[Problem]
) -> Config | None:
    """An instance of the dataclass `config` from `values`, or None with `problems` extended.

    Values are strictly typed (no text for a number); lists become tuples where the field is one,
    mappings dataclasses; `none` empties a field that may be empty. `key` is the dotted place of
    `values` in the recipe.
    """
    if not isinstance(values, Mapping):
        problems.append(Problem(message=f"expected keys and values, found {values!r}", key=key))
        return None
    fields = {f.name: f for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    before = len(problems)
    good: dict[str, Any] = {}
    for name, value in values.items():
        where = f"{key}.{name}" if key else str(name)
        if name not in fields:
            problems.append(choice(f"unknown key {name!r}", name, fields, where))
            continue
        hint = hints_of(config)[name]
        if (inner := _filled(hint, value)) is not None:
            good[name] = parse_config(inner, {} if value is None else value, where, problems)
        elif value == "none" and NoneType in get_args(hint):
            good[name] = None
        else:
            good[name] = _value(config, name, value, where, problems)
    problems += [
        Problem(message=f"missing key {f.name!r}", key=key or None)
        for f in fields.values()
        if f.name not in values
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    ]
    return config(**good) if len(problems) == before else None


def _filled(hint: Any, value: object) -> type[Any] | None:
    """The dataclass that `value` is to fill: the type itself, or one of a union's for keys."""
    kinds = (hint, *(get_args(hint) if isinstance(value, Mapping) else ()))
    return next((k for k in kinds if isinstance(k, type) and dataclasses.is_dataclass(k)), None)


def _value(config: type[Any], name: str, value: Any, where: str, problems: list[Problem]) -> Any:
    try:
        return _adapter(config, name).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        problems.append(_value_problem(hints_of(config)[name], value, where, error.errors()))
    except (TypeError, ValueError):
        problems.append(Problem(message=f"found {value!r}, which is not plain data", key=where))
    return None


def _value_problem(hint: Any, value: Any, where: str, errors: list[Any]) -> Problem:
    """One problem for a value, however many branches of a union refused it."""
    parts = (hint, *get_args(hint))
    choices = tuple(str(c) for part in parts for c in literals(part))
    choices += tuple(shape(part) for part in parts if dataclasses.is_dataclass(part))
    texts = [e["msg"].removeprefix("Input ").removeprefix("Value error, ") for e in errors]
    deeper = [p for p in errors[0]["loc"] if isinstance(p, int)] if len(errors) == 1 else []
    for place in deeper:
        value = value[place]
    return Problem(
        message=f"{' or '.join(dict.fromkeys(texts))}, found {value!r}",
        key=".".join([where, *map(str, deeper)]),
        allowed=choices,
        nearest=nearest(str(value), choices),
    )


def shape(config: Any) -> str:
    """The keys of a dataclass as a recipe writes them: `{lora: ...}`."""
    return "{" + ", ".join(f"{f.name}: ..." for f in dataclasses.fields(config)) + "}"


def literals(hint: Any) -> tuple[Any, ...]:
    """The words of a `Literal`; none of any other type."""
    return get_args(hint) if get_origin(hint) is Literal else ()


def parse_component(
    registry: Registry, value: Any, key: str, problems: list[Problem], default: str | None = None
) -> Any | None:
    """The config of the component that `value` names (`name`, `{type: name, ...}`, `none`)."""
    if value is None or value == "none":
        return None
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, Mapping):
        problems.append(
            Problem(message=f"expected a name or a mapping with 'type', found {value!r}", key=key)
        )
        return None
    rest = dict(value)
    name = rest.pop("type", default)
    if name == "none":
        problems += [
            Problem(message=f"{registry.slot} none takes no keys, found {k!r}", key=f"{key}.{k}")
            for k in rest
        ]
    elif name is None:
        allowed = (*registry.names(), "none")
        problems.append(Problem(message="missing key 'type'", key=key, allowed=allowed))
    elif name not in registry.names():
        problems.append(dataclasses.replace(registry.unknown(name), key=f"{key}.type"))
    else:
        return parse_config(registry.get(name).config, rest, key, problems)
    return None


def to_plain(config: Any, registry: Registry, *, known: bool = False) -> Any:
    """The recipe form of a component's config: `{"type": name, ...}`, or `"none"`.

    `known`: as `plain` has it.
    """
    if config is None:
        return "none"
    return {"type": registry.of(config).name, **plain(config, known=known)}


def plain(value: Any, *, known: bool = False) -> Any:
    """A config (or what it holds) as YAML and JSON write it; an empty field is `none`.

    `known`: what a hash may know of it, without the fields that came `LATER` and were left alone.
    """
    if dataclasses.is_dataclass(value):
        fields = [f for f in dataclasses.fields(value) if not known or _counts(f, value)]
        held = {f.name: getattr(value, f.name) for f in fields}
        return {n: "none" if v is None else plain(v, known=known) for n, v in held.items()}
    if isinstance(value, tuple | list):
        return [plain(v, known=known) for v in value]
    if isinstance(value, Mapping):
        return {str(k): plain(v, known=known) for k, v in value.items()}
    return value


def _counts(field: dataclasses.Field[Any], config: Any) -> bool:
    """Whether a hash knows this field of a config."""
    if not field.metadata.get("later"):
        return True
    made = field.default_factory
    default = field.default if made is dataclasses.MISSING else made()
    return getattr(config, field.name) != default


def weightless(config: Any) -> set[str]:
    """Fields of a config that change no weights."""
    return {f.name for f in dataclasses.fields(config) if f.metadata.get("weightless")}
