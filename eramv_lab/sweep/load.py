"""A sweep file as a checked `Sweep`: everything wrong with it is reported at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from eramv_lab.errors import InfeasibleError, LabError, Problem, UserError
from eramv_lab.recipe.arms import Arm
from eramv_lab.recipe.base import base_path
from eramv_lab.recipe.load import Document, read_recipe
from eramv_lab.recipe.nodes import Node, find, to_data
from eramv_lab.recipe.parse import choice
from eramv_lab.recipe.resolve import Recipe, load_recipe, resolve_document
from eramv_lab.sweep import config
from eramv_lab.sweep.check import (
    check_keys,
    check_largest,
    check_space,
    check_storage,
    check_words,
    with_fractions,
)
from eramv_lab.sweep.config import Bound, Goal, Named, Settings
from eramv_lab.sweep.domains import Domain, values_of
from eramv_lab.sweep.given import Around, Given, named, read_given
from eramv_lab.sweep.launch import parse_launcher
from eramv_lab.sweep.points import point_arm
from eramv_lab.sweep.pricing import Limit, Pricer, costs_of_arm
from eramv_lab.sweep.samplers import PRUNERS, SAMPLERS
from eramv_lab.sweep.space import Space

AROUND = "around"
"""Name of the recipe that is searched around, as an arm."""
VALIDATED = "train.validate_every"
TRAINED = (
    *("train.steps", "train.epochs", "train.images", "train.accumulate", "train.roles"),
    "trainer.devices",
)
"""Keys beside the model's that change what a training costs."""
DROPPED = ("expect",)
"""Keys of the recipe that say something of its arms, which a sweep does not fit."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A search, checked: what may change, what it may cost, and what it is judged by."""

    name: str
    path: str
    document: Document
    """The recipe that is searched around, without the sweep's own keys; its arms are only looked
    at where the budget or `begin_with` names them."""
    recipe: Recipe
    """The same, checked: its seeds, its question."""
    goals: tuple[Goal, ...]
    limits: tuple[Limit, ...]
    domains: Mapping[str, Domain]
    space: Space
    pricer: Pricer
    given: tuple[Given, ...]
    """The settings that are tried first."""
    settings: Settings
    sampler: Named
    pruner: Named
    launcher: Any
    written: Mapping[str, Any]
    """The sweep's own keys as they were written."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of the finalists; the first one searches."""
        return self.recipe.seeds

    def arm(self, name: str, changes: Mapping[str, Any] | Node, *, split: str = "val") -> Arm:
        """The whole recipe of a setting, scored on `split`. Raises UserError."""
        return point_arm(self.document, name, changes, split)

    def layers(self) -> int:
        """Layers of the language model that is searched around."""
        return int(self.arm(AROUND, {}).spec.dims().language.layers)

    def to_plain(self) -> dict[str, Any]:
        """The sweep in one file: reads back to the same one wherever it lies."""
        shared = to_data(self.document.shared)
        shared["base"] = _based(self.document.shared, shared.get("base"))
        arms = {name: to_data(node) | _arm_base(node) for name, node in self.document.arms.items()}
        budget = {limit.name: limit.value for limit in self.limits} or "none"
        own = {**self.written, "budget": budget}
        shared.pop("seed", None)  # `seeds` says it
        return {**shared, "arms": arms, **own, "seeds": list(self.seeds)}

    def identity(self) -> dict[str, Any]:
        """What trials must share to be compared: goal, budget, space, and the recipe around it."""
        ranges = {f"search.{key}": repr(domain) for key, domain in self.domains.items()}
        limits = {f"budget.{limit.name}": limit.value for limit in self.limits}
        goals = {"goal": [f"{g.direction} {g.metric}" for g in self.goals]}
        around = self.arm(AROUND, {}).hash
        return {**goals, **limits, **ranges, "recipe": around, "seed": self.seeds[0]}


def load_sweep(path: Path | str, overrides: Iterable[str] = ()) -> Sweep:
    """The sweep of a file, with `key=value` overrides.

    Raises UserError with every problem, file and line; InfeasibleError where no setting of the
    space keeps within the budget.
    """
    document, own = _parted(read_recipe(path, overrides))
    data = {key: to_data(node) for key, node in own.value.items()}
    if not isinstance(data.get("search"), Mapping):
        message = "none here: a sweep says which keys to search; `fit` runs a recipe"
        raise UserError(Problem(message=message, file=str(path), key="search"))
    problems: list[Problem] = []
    try:
        alone = replace(document, arms={AROUND: Node({}, document.shared.mark)})
        recipe = resolve_document(alone, path)
        arm = point_arm(document, AROUND, {}, "val")
    except UserError as error:
        recipe, arm = None, None
        problems = [_beside(one) for one in error.problems if one.key != "base.arm"]
    parts, found = _parse(data)
    domains: dict[str, Domain] = parts["domains"]
    limits = tuple(_limits(parts["bounds"], document, Path(path), arm, found))
    found += check_keys(document, domains)
    entries = named(own.value.get("begin_with"), document, found)
    validated = None if arm is None or VALIDATED in domains else arm.train.validate_every > 0
    found += check_words(
        parts["settings"], parts["sampler"], parts["pruner"], parts["goals"], validated
    )
    found += check_storage(data.get("storage"))
    problems += _placed(found, own)
    start = to_data(document.shared).get("base")
    if isinstance(start, Mapping) and start.get("arm") not in (None, "none"):
        message = "a search starts from a base, not from an arm's weights"
        problems += _placed([Problem(message=message, key="base.arm")], document.shared)
    if problems or recipe is None or arm is None:
        raise UserError(dict.fromkeys(problems))

    domains = dict(with_fractions(document, domains))
    pricer = Pricer(document, limits)
    trained = any(limit.name == "training" for limit in limits)
    priced = ("model.", *(TRAINED if trained else ()))
    bound = frozenset(key for key in domains if key.startswith(priced))
    space = Space(domains, bound, pricer.fits, pricer.faults, pricer.model_of)
    found = list(check_largest(space, limits))
    if found:
        raise UserError(_placed(found, own))
    if not space.possible():
        _raise_impossible(space, pricer, own, str(path))
    around = Around(document=document, arm=arm, space=space, pricer=pricer)
    given = read_given(entries, around, found)
    settings: Settings = parts["settings"]
    found += check_space(space, parts["sampler"], document, len(entries), settings.trials)
    if found:
        raise UserError(dict.fromkeys(_placed(found, own)))
    return Sweep(
        name=Path(path).stem,
        path=str(path),
        document=document,
        recipe=recipe,
        goals=parts["goals"],
        limits=limits,
        domains=domains,
        space=space,
        pricer=pricer,
        given=given,
        settings=settings,
        sampler=parts["sampler"],
        pruner=parts["pruner"],
        launcher=data.get("launcher"),
        written=data,
    )


def _parted(document: Document) -> tuple[Document, Node]:
    """The recipe, and the sweep's own keys."""
    shared = document.shared
    own = {key: node for key, node in shared.value.items() if key in config.KEYS}
    rest = {k: n for k, n in shared.value.items() if k not in own and k not in DROPPED}
    recipe = Document(Node(rest, shared.mark), document.arms, document.problems)
    return recipe, Node(own, shared.mark)


def _beside(problem: Problem) -> Problem:
    """A problem of the recipe; an unknown key at its top may be one of the sweep's, misspelt."""
    if problem.message != f"unknown key {problem.key!r}":
        return problem
    near = choice("", problem.key, (*problem.allowed, *config.KEYS))
    return replace(problem, allowed=near.allowed, nearest=near.nearest)


def _parse(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    problems: list[Problem] = []
    parts = {
        "settings": config.parse_settings(data, problems),
        "goals": config.parse_goals(data.get("goal", "accuracy"), problems),
        "bounds": config.parse_budget(data.get("budget"), problems),
        "domains": config.parse_search(data.get("search"), problems),
        "sampler": config.parse_named("sampler", data.get("sampler"), SAMPLERS, "auto", problems),
        "pruner": config.parse_named("pruner", data.get("pruner"), PRUNERS, "none", problems),
    }
    parse_launcher(data.get("launcher"), "launcher", problems)
    return parts, problems


def _limits(
    bounds: Iterable[Bound],
    document: Document,
    path: Path,
    around: Arm | None,
    problems: list[Problem],
) -> Iterator[Limit]:
    for bound in bounds:
        if bound.number is not None:
            yield Limit(name=bound.name, value=bound.number, said=f"{bound.number:g}")
            continue
        share, of = bound.share or 0.0, bound.of or ""
        key = f"budget.{bound.name}.of"
        beside = path.parent / of
        try:
            if of in document.arms:
                arm = point_arm(document, of, document.arms[of], "test")
            elif of.endswith((".yaml", ".yml")) and beside.is_file():
                arm = next(iter(load_recipe(beside).arms.values()))
            else:
                message = f"there is no arm and no recipe {of!r}"
                problems.append(choice(message, of, document.arms, key))
                continue
        except LabError as error:
            told = error.problems[0].render() if isinstance(error, UserError) else str(error)
            problems.append(Problem(message=f"{of} is not sound: {told}", key=key))
            continue
        if around is not None:  # both are priced for the same input
            arm = replace(arm, cost=around.cost)
        value = share * costs_of_arm(arm)[bound.name]
        yield Limit(name=bound.name, value=value, said=f"{share:g} of {of}")


def _raise_impossible(space: Space, pricer: Pricer, own: Node, path: str) -> NoReturn:
    """Say which budget cannot be kept, and by how much the cheapest setting passes it."""
    looks = [look for values in space.corners() if (look := pricer.look(values))]
    if not looks:
        domains = {key: domain for key, domain in space.domains.items() if key in space.bound}
        why = pricer.problems({key: values_of(domain)[0] for key, domain in domains.items()})
        told = [replace(p, key=f"search.{p.key}", file=None, line=None) for p in why]
        none = Problem(message="no setting of it is a model", key="search")
        raise UserError(dict.fromkeys(_placed([none, *told], own)))
    cheapest = min(looks, key=lambda look: max(look.excess(pricer.limits).values()))
    lines = [
        f"budget.{one.name} is {one.value:.6g} ({one.said}), the cheapest setting looked at needs "
        f"{cheapest.costs[one.name]:.6g}"
        for one in pricer.limits
        if cheapest.costs[one.name] > one.value
    ]
    head = f"{path}: no setting of the search keeps within the budget"
    raise InfeasibleError("\n    ".join([head, *lines]))


def _based(node: Node, base: Any) -> Any:
    """`base:` with its recipe, or model, as the working directory sees it."""
    if not isinstance(base, Mapping):
        return base if base is not None else "none"
    seen = {
        key: base_path(str(base[key]), find(node, f"base.{key}")).as_posix()
        for key in ("recipe", "model")
        if base.get(key) not in (None, "none")
    }
    return {**base, **seen}


def _arm_base(node: Node) -> dict[str, Any]:
    base = to_data(node).get("base") if node.is_map else None
    return {"base": _based(node, base)} if base is not None else {}


def _placed(problems: Iterable[Problem], own: Node) -> list[Problem]:
    """Problems with the file and line of their keys."""
    placed: list[Problem] = []
    for problem in problems:
        if problem.file is None:
            mark = find(own, problem.key or "")
            problem = replace(problem, file=mark.file, line=mark.line)
        placed.append(problem)
    return placed
