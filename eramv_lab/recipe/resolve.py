"""From a recipe file to checked arms: everything wrong with any of them is reported at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from eramv_lab.errors import InfeasibleError, Problem, UserError
from eramv_lab.recipe.arms import INSIDE, OUTSIDE, TOP, Arm, Resolver
from eramv_lab.recipe.expect import check_expect
from eramv_lab.recipe.league import League
from eramv_lab.recipe.load import Document, read_recipe, refused
from eramv_lab.recipe.match import NoMatch, Solver, equal_flops
from eramv_lab.recipe.nodes import Node, find, to_data
from eramv_lab.recipe.parse import choice
from eramv_lab.recipe.shape import at_shape, shape_path
from eramv_lab.recipe.system import System, check_system, parse_system
from eramv_lab.registry import load_plugins

MAIN = "main"
"""The one arm of a recipe that names none."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An experiment: a question, the arms that answer it, the seeds they are fitted with."""

    name: str
    path: str
    arms: dict[str, Arm]
    seeds: tuple[int, ...] = (0,)
    question: str = ""
    expect: dict[str, Any] = field(default_factory=dict[str, Any])
    plugins: tuple[str, ...] = ()
    system: System | None = None
    """The published system that it is, where its file says so."""
    league: League | None = None
    """What its arms are, where they are those of a league."""
    has_arms: bool = True
    """Whether the file names arms; otherwise there is one, called `main`."""

    def arm(self, name: str) -> Arm:
        """The arm called `name`. Raises UserError with the nearest name, InfeasibleError for one of
        a league that its system cannot reach.
        """
        if self.league and name in self.league.unreached:
            raise InfeasibleError(f"{name}: not reached: {self.league.unreached[name]}")
        if name not in self.arms:
            raise UserError(choice(f"{self.path} has no arm {name!r}", name, self.arms))
        return self.arms[name]

    def to_plain(self) -> dict[str, Any]:
        """The resolved recipe: every arm with every key. It reads back to the same arms."""
        head: dict[str, Any] = {"question": self.question, "seeds": list(self.seeds)}
        if self.system:
            head["system"] = self.system.to_plain()
        if self.plugins:
            head["plugins"] = list(self.plugins)
        if self.expect:
            head["expect"] = self.expect
        if not self.has_arms:
            return head | self.arms[MAIN].plain
        return head | {"arms": {name: arm.plain for name, arm in self.arms.items()}}


def load_recipe(
    path: Path | str,
    overrides: Iterable[str] = (),
    *,
    solver: Solver = equal_flops,
    shape: str | None = None,
) -> Recipe:
    """The checked recipe of a file, with `key=value` overrides, at a `shape` to be priced at.

    `solver` finds the number for `match_flops_of`. Raises UserError with every problem of every
    arm, file and line; InfeasibleError where each of them is a match that no number satisfies.
    """
    prepare = None if shape is None else partial(at_shape, path=shape_path(shape, Path(path)))
    document = read_recipe(path, overrides, prepare=prepare)
    if "search" in document.shared.value:
        message = "this is a sweep, which `sweep` runs; `fit` takes the best.yaml that it leaves"
        raise refused(document.shared, path, "search", message)
    return resolve_document(document, path, solver=solver)


def resolve_document(
    document: Document, path: Path | str, *, solver: Solver = equal_flops
) -> Recipe:
    """The checked recipe of what was read; raises as `load_recipe`."""
    problems = list(document.problems)
    top = {key: to_data(node) for key, node in document.shared.value.items()}
    if top.get("kind") == "base":
        message = "this is the recipe of a base; name it in `base:` of a recipe with a model"
        raise refused(document.shared, path, "kind", message)
    for key in top:
        if key not in TOP:
            unknown = choice(f"unknown key {key!r}", key, (*INSIDE, *OUTSIDE, "arms"), key)
            problems.append(_placed(unknown, document.shared))
    found: list[Problem] = []
    plugins = _plugins(top.get("plugins"), found)
    seeds = _seeds(top, found)
    question = top.get("question") or ""
    if not isinstance(question, str):
        found.append(Problem(message=f"expected a sentence, found {question!r}", key="question"))
    system = parse_system(top["system"], found) if "system" in top else None
    if "system" in top and "league" in top:
        message = "a system is one model, but this recipe is, or extends, a league"
        found.append(Problem(message=message, key="system"))
    problems += [_placed(p, document.shared) for p in found]

    has_arms = bool(document.arms)
    if not has_arms:
        document.arms[MAIN] = Node({}, document.shared.mark)
    for name, node in document.arms.items():
        if not NAME.fullmatch(name):
            message = f"an arm's name is letters, digits, - and _, found {name!r}"
            problems.append(Problem(message=message, file=node.mark.file, line=node.mark.line))
    resolver = Resolver(document, solver)
    arms = resolver.resolve()
    league = document.league
    if league is not None:
        league = replace(league, unreached=resolver.unreached(league.arms))
    problems += resolver.problems
    expect = top.get("expect") or {}
    found = []
    if system is not None:
        found += check_system(system, {name: arm.plain for name, arm in arms.items()})
    for name, entry in (league.arms if league is not None else {}).items():
        for problem in check_system(entry.told, {name: arms[name].plain} if name in arms else {}):
            found.append(replace(problem, message=f"{entry.system}: {problem.message}"))
    types = {t for arm in arms.values() for t in arm.data.source.types()}
    types |= {f"accuracy_{name}" for arm in arms.values() for name in arm.evaluate.also}
    check_expect(expect, document.arms, sorted(types), found)
    problems += [_placed(p, document.shared) for p in found]
    if problems:
        report = UserError(dict.fromkeys(problems))
        if all(isinstance(problem, NoMatch) for problem in problems):
            raise InfeasibleError(report.render())
        raise report
    return Recipe(
        name=Path(path).stem,
        path=str(path),
        arms=arms,
        seeds=seeds,
        question=question,
        expect=expect,
        plugins=plugins,
        system=system,
        league=league,
        has_arms=has_arms,
    )


def _placed(problem: Problem, node: Node) -> Problem:
    mark = find(node, problem.key or "")
    return replace(problem, file=mark.file, line=mark.line)


def _plugins(value: Any, problems: list[Problem]) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value or []
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        message = f"expected names of modules, found {value!r}"
        problems.append(Problem(message=message, key="plugins"))
        return ()
    for name in names:
        try:
            missing = load_plugins([name])
        except (Exception, SystemExit) as error:  # foreign code: all but Ctrl-C is reported
            message = f"plugin {name!r} failed: {type(error).__name__}: {error}"
            missing = [Problem(message=message)]
        problems += [replace(p, key="plugins") for p in missing]
    return tuple(names)


def _seeds(top: Mapping[str, Any], problems: list[Problem]) -> tuple[int, ...]:
    if "seed" in top and "seeds" in top:
        problems.append(Problem(message="write seed or seeds, not both", key="seed"))
    key = "seeds" if "seeds" in top else "seed"
    value = top.get(key, [0])
    seeds = value if isinstance(value, list) else [value]
    if not seeds or any(type(s) is not int or s < 0 for s in seeds):
        problems.append(Problem(message=f"expected whole numbers >= 0, found {value!r}", key=key))
    elif len(set(seeds)) < len(seeds):
        problems.append(Problem(message=f"a seed is there twice in {value!r}", key=key))
    else:
        return tuple(seeds)
    return ()
