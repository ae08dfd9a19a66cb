"""What a standalone model has in place of our registry and parser: its own few components.

These definitions are written into the files of a standalone folder under the names of those that
they stand for (`sources.STAND_INS`). What is read there was written by us, checked and complete,
so that no pydantic is needed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from eramv_lab.errors import Problem
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.recipe.parse import plain


class Component(NamedTuple):
    """A piece of the model: its name, its config class, and what builds it."""

    name: str
    config: type[Any]
    factory: Any


class Registry:
    """The components of one slot that this model uses.

    A config is known by the name of its class: transformers may load a folder's files twice, and
    each time has classes of its own.
    """

    def __init__(self, slot: str) -> None:
        self.slot = slot
        self.configs: dict[str, type[Any]] = {}
        self.factories: dict[str, Any] = {}

    def register(self, name: str, config: type[Any]) -> Callable[[Any], Any]:
        """Decorator: the decorated factory builds what `config` describes."""

        def keep(factory: Any) -> Any:
            self.factories[config.__name__] = factory
            return factory

        return keep

    def of(self, config: object) -> Component:
        """The component whose config `config` is."""
        kind = type(config).__name__
        name = next(name for name, held in self.configs.items() if held.__name__ == kind)
        return Component(name, self.configs[name], self.factories.get(kind))


VISION = Registry("vision")
ANCHORS = Registry("anchors")
CONNECTOR = Registry("connector")
FINE = Registry("fine")
FUSION = Registry("fusion")
BRIDGE = Registry("bridge")
SHARING = Registry("sharing")
REDUCER = Registry("reducer")
LANGUAGE = Registry("language")
PROMPT = Registry("prompt")

SLOTS: dict[str, Registry] = {
    r.slot: r
    for r in (VISION, ANCHORS, CONNECTOR, FINE, FUSION, BRIDGE, SHARING, REDUCER, LANGUAGE, PROMPT)
}


def parse_component(
    registry: Registry, value: Any, key: str, problems: list[Problem], default: str | None = None
) -> Any | None:
    """The config that a slot's plain value describes; None for `none`."""
    if value is None or value == "none":
        return None
    rest = {"type": value} if isinstance(value, str) else dict(value)
    name = rest.pop("type", default)
    config = registry.configs.get(str(name))
    if config is None:
        message = f"this folder holds no {registry.slot} {name!r}: it is a model of its own"
        problems.append(Problem(message=message, key=key, allowed=tuple(registry.configs)))
        return None
    types = {f.name: str(f.type) for f in dataclasses.fields(config)}
    problems += [
        Problem(message=f"unknown key {k!r}", key=f"{key}.{k}", allowed=tuple(types))
        for k in rest
        if k not in types
    ]
    values = {k: _typed(v, types[k]) for k, v in rest.items() if k in types}
    return config(**values)


def _typed(value: Any, kind: str) -> Any:
    """A value as the config holds it: `none` empties what may be empty, a tuple is a list there."""
    if value == "none" and "None" in kind:
        return None
    return tuple(value) if isinstance(value, list) and kind.startswith("tuple") else value


def to_plain(config: Any, registry: Registry, *, known: bool = False) -> Any:
    """The plain form of a component's config."""
    if config is None:
        return "none"
    return {"type": registry.of(config).name, **plain(config, known=known)}


def parse_model(
    section: Mapping[str, Any], problems: list[Problem], key: str = "model"
) -> ModelSpec | None:
    """The slots of a saved config, typed; None with `problems` extended where one is not known."""
    parts: dict[str, Any] = {
        slot: parse_component(registry, section.get(slot), f"{key}.{slot}", problems)
        for slot, registry in SLOTS.items()
        if slot not in ("fusion", "reducer")
    }
    if (fine := section.get("fine_connector", "same")) != "same":
        where = f"{key}.fine_connector"
        parts["fine_connector"] = parse_component(CONNECTOR, fine, where, problems)
    band = section.get("band", "none")
    if isinstance(band, Mapping):
        how = {k: v for k, v in band.items() if k != "layers"}
        parts["fusion"] = parse_component(SLOTS["fusion"], how, f"{key}.band", problems)
        parts["band"] = tuple(band["layers"])
    else:
        parts |= dict.fromkeys(("fine", "bridge", "sharing", "fusion"))
    events = section.get("reducer", "none")
    parts["reducer"] = tuple(
        parse_component(SLOTS["reducer"], one, f"{key}.reducer", problems)
        for one in (events if isinstance(events, list) else [])
    )
    return None if problems else ModelSpec(**parts)


def config_of(path: str | None, config: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """The plain transformers config of a component: a saved model names no other folder."""
    return {**config}
