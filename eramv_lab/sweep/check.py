"""What can be wrong with a sweep beyond single keys: keys no recipe has, what excludes what."""

from __future__ import annotations

import importlib
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from eramv_lab.errors import Problem
from eramv_lab.recipe.arms import Resolver
from eramv_lab.recipe.load import Document, interpolated
from eramv_lab.recipe.match import equal_flops
from eramv_lab.recipe.merge import merge
from eramv_lab.recipe.model_spec import parse_model
from eramv_lab.recipe.parse import choice
from eramv_lab.recipe.schema import SECTIONS, parse_section
from eramv_lab.sweep.config import Goal, Named, Settings
from eramv_lab.sweep.domains import Choices, Domain
from eramv_lab.sweep.points import changes_of
from eramv_lab.sweep.pricing import Limit
from eramv_lab.sweep.samplers import check_options, make_pruner, make_sampler
from eramv_lab.sweep.space import Space, slot_of

SEARCHED = ("model", "train", "trainer")
"""Sections that a search may change; the others say what is measured, and where it starts."""
MOST_BESIDE = 64
"""Choices of other keys beside which a key is looked at."""


def check_keys(document: Document, domains: Mapping[str, Domain]) -> Iterator[Problem]:
    """Problems: keys that a recipe does not have, values that they cannot have."""
    for key, domain in domains.items():
        place = f"search.{key}"
        section = key.partition(".")[0]
        if section not in SEARCHED or key == section:
            message = f"a search changes keys of {', '.join(SEARCHED)}, and {key!r} is none"
            if section in SEARCHED:
                yield Problem(message=message, key=place)
            else:
                yield choice(message, section, SEARCHED, place)
            continue
        if isinstance(domain, Choices):
            found = [_wrong(document, domains, key, value) for value in domain.values]
        else:
            values = domain.values()
            found = [_wrong(document, domains, key, value) for value in (values[0], values[-1])]
            if key.startswith("model.") and not all(found):
                continue  # a range may pass what a model can be; those values are never taken
        for problems in found:
            yield from (replace(one, key=place, file=None, line=None) for one in problems[:1])


def with_fractions(
    document: Document, domains: Mapping[str, Domain]
) -> Iterator[tuple[str, Domain]]:
    """The domains; a range of a number that may be a fraction is one of fractions, though its ends
    are whole, as in `{from: 0, to: 1}`."""
    for key, domain in domains.items():
        if not isinstance(domain, Choices) and domain.whole and domain.step is None:
            half = domain.low + 0.5
            if half < domain.high and not _wrong(document, domains, key, half):
                domain = replace(domain, whole=False)
        yield key, domain


def _wrong(
    document: Document, domains: Mapping[str, Domain], key: str, value: object
) -> list[Problem]:
    """What is wrong with one key's value, whatever is chosen for other keys of its slot."""
    beside = {
        other: domain.values
        for other, domain in domains.items()
        if other != key and isinstance(domain, Choices) and slot_of(other) == slot_of(key)
    }
    found: list[Problem] = []
    for chosen in itertools.islice(itertools.product(*beside.values()), MOST_BESIDE):
        found = _alone(document, {**dict(zip(beside, chosen, strict=True)), key: value}, key)
        if not found:
            break
    return found


def _alone(document: Document, changes: Mapping[str, Any], key: str) -> list[Problem]:
    problems: list[Problem] = []
    data = interpolated(merge(document.shared, changes_of(changes)), problems)
    model = data.get("model")
    parse_model(model if isinstance(model, Mapping) else {}, problems)
    for section in SECTIONS:
        parse_section(section, data.get(section), problems)
    return [p for p in problems if _is_about(p, key)]


def _is_about(problem: Problem, key: str) -> bool:
    at = problem.key or ""
    if at == key or at.startswith(key + "."):
        return True
    return key.startswith(at + ".") and problem.message.startswith("unknown key")


def check_words(
    settings: Settings | None,
    sampler: Named,
    pruner: Named,
    goals: Sequence[Goal],
    validated: bool | None,
) -> Iterator[Problem]:
    """Problems: what excludes what, arguments that Optuna does not take, a database that is none.

    `validated`: whether a trial looks at its validation split while it trains, if that is known.
    """
    if len(goals) > 1 and pruner.type != "none":
        message = "a study with two goals cannot prune: write none, or one goal and a budget"
        yield Problem(message=message, key="pruner")
    elif goals and pruner.type != "none":
        from eramv_lab.sweep.judge import WATCHED

        if goals[0].metric not in WATCHED:
            watched = " and ".join(WATCHED)
            message = f"only {watched} are known while a trial trains, not {goals[0].metric}"
            yield Problem(message=f"{message}: write none", key="pruner")
        elif validated is False:
            message = "a pruner looks at validations, and train.validate_every is 0"
            yield Problem(message=message, key="pruner")
    trials = settings.trials if settings else 1
    for what, named, make in (
        ("sampler", sampler, lambda: make_sampler(sampler, trials, 0)),
        ("pruner", pruner, lambda: make_pruner(pruner)),
    ):
        found = list(check_options(what, named))
        yield from found
        if named.options and not found:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    make()
            except Exception as error:  # Optuna's own checks, whatever they raise
                yield Problem(message=f"Optuna's {named.type}: {error}", key=what)
    if settings is not None and settings.heartbeat.grace <= settings.heartbeat.every:
        message = f"expected more than heartbeat.every, {settings.heartbeat.every}"
        yield Problem(message=message, key="heartbeat.grace")


def check_storage(address: Any) -> Iterator[Problem]:
    """The problem of an address that names no database that can be talked to."""
    if not isinstance(address, str) or address == "none":
        return
    engine = importlib.import_module("sqlalchemy.engine")
    try:
        engine.make_url(address).get_dialect().import_dbapi()
    except Exception as error:  # no address, no such kind, its driver is not installed
        message = f"{type(error).__name__}: {error}".partition("\n")[0]
        allowed = ("none", "postgresql+psycopg://USER@HOST/NAME", "sqlite:////FOLDER/search.db")
        yield Problem(message=message, key="storage", allowed=allowed)


def check_largest(space: Space, limits: Sequence[Limit]) -> Iterator[Problem]:
    """Problems: the largest number of something that no budget bounds."""
    for key, domain in space.domains.items():
        priced = bool(limits) and key in space.bound
        if not isinstance(domain, Choices) and domain.largest and not priced:
            message = "largest is for a number that changes what the budget bounds"
            yield Problem(message=message, key=f"search.{key}")


def check_space(
    space: Space, sampler: Named, document: Document, begun: int, trials: int
) -> Iterator[Problem]:
    """Problems: what a grid cannot be, settings that no trial could be fitted with."""
    if sampler.type == "grid" and space.count() is None:
        message = "a grid needs choices, or ranges of whole numbers or with a step"
        if space.countable:
            message = "a grid of so many settings is never done; search fewer values"
        yield Problem(message=message, key="sampler")
    if begun > trials:
        message = f"{trials} are fewer than the {begun} settings of begin_with"
        yield Problem(message=message, key="trials")
    settings: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for key in space.coordinates:
        domain = space.domains[key]
        places = range(len(domain.values)) if isinstance(domain, Choices) else (0.0, 1.0)
        for place in places:
            point = dict.fromkeys(space.coordinates, 0) | {key: place}
            settings[f"point-{len(settings)}"] = key, space.decode(point)
    arms = {name: changes_of(values) for name, (_, values) in settings.items()}
    told = {n: changes_of({"evaluate.split": "val"}, node) for n, node in arms.items()}
    resolver = Resolver(replace(document, arms=told), equal_flops)
    found: dict[str, Problem] = {}
    for name, (key, _) in settings.items():
        resolver.arm(name)
        for problem in resolver.by_arm[name]:
            about = problem.key if problem.key in space.domains else key
            said = problem.message if problem.key == about else f"{problem.key}: {problem.message}"
            new = Problem(message=said, key=f"search.{about}", nearest=problem.nearest)
            found.setdefault(problem.message, new)
    yield from found.values()
