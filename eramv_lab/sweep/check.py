"""What can be wrong with a sweep beyond single keys: keys no recipe has, what excludes what."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import replace

from eramv_lab.errors import Problem
from eramv_lab.recipe.load import Document, interpolated
from eramv_lab.recipe.merge import merge
from eramv_lab.recipe.model_spec import parse_model
from eramv_lab.recipe.parse import choice
from eramv_lab.recipe.resolve import Recipe
from eramv_lab.recipe.schema import SECTIONS, parse_section
from eramv_lab.sweep.config import Goal, Named
from eramv_lab.sweep.domains import Choices, Domain
from eramv_lab.sweep.points import changes_of
from eramv_lab.sweep.samplers import class_of
from eramv_lab.sweep.space import Space

SEARCHED = ("model", "train", "base", "trainer")
"""Sections that a search may change; the others say what is measured."""


def check_keys(document: Document, domains: Mapping[str, Domain]) -> Iterator[Problem]:
    """Problems: keys that a recipe does not have, values that they cannot have."""
    for key, domain in domains.items():
        place = f"search.{key}"
        section = key.partition(".")[0]
        if section not in SEARCHED or key == section:
            message = f"a search changes {', '.join(SEARCHED)}, and {key!r} is none of their keys"
            yield replace(choice(message, section, SEARCHED), key=place)
            continue
        if isinstance(domain, Choices):
            for value in domain.values:
                for problem in _problems(document, key, value):
                    yield replace(problem, key=place, file=None, line=None)
            continue
        ends = [
            list(_problems(document, key, v)) for v in (domain.values()[0], domain.values()[-1])
        ]
        if all(ends):
            yield replace(ends[0][0], key=place, file=None, line=None)


def _problems(document: Document, key: str, value: object) -> list[Problem]:
    """What is wrong with one key's value by itself."""
    problems: list[Problem] = []
    data = interpolated(merge(document.shared, changes_of({key: value})), problems)
    parse_model(data.get("model") or {}, problems)
    for section in SECTIONS:
        parse_section(section, data.get(section), problems)
    return [p for p in problems if p.key == key or (p.key or "").startswith(key + ".")]


def check_rest(
    sampler: Named, pruner: Named, goals: tuple[Goal, ...], space: Space, recipe: Recipe
) -> Iterator[Problem]:
    """Problems: what excludes what, and arguments that Optuna does not take."""
    if len(goals) > 1 and pruner.type != "none":
        message = "a study with two goals cannot prune: write none, or one goal and a budget"
        yield Problem(message=message, key="pruner")
    if sampler.type == "grid" and space.count() is None:
        message = "a grid needs choices, or ranges of whole numbers or with a step"
        yield Problem(message=message, key="sampler")
    for what, named in (("sampler", sampler), ("pruner", pruner)):
        target = class_of(named.type)
        if target is None:
            for option in named.options:
                message = f"{named.type} takes no arguments"
                yield Problem(message=message, key=f"{what}.{option}")
            continue
        module, _, name = target.partition(":")
        taken = list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
        for option in named.options:
            if option not in taken or option == "seed":
                message = f"Optuna's {name} has no argument {option!r}"
                yield choice(message, option, taken, f"{what}.{option}")
    if any(arm.parent for arm in recipe.arms.values()):
        message = "a search starts from a base, not from an arm's weights"
        yield Problem(message=message, key="base.arm")
