"""The arms of a league: every system at every budget, each brought there by its own knob.

    league: {systems: all, full: llava, budgets: [0.25, 0.35, 0.55]}

becomes the arms `NAME_25`, `NAME_35`, `NAME_55` of each system with a knob, and `NAME` of each
without. An arm is the league's recipe with what the system's files write over it: the files that
both extend are the bed they stand on. Training-free systems start from the weights of the full arm.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe.base import base_path
from eramv_lab.recipe.league import ALL, Entry, League, LeagueConfig
from eramv_lab.recipe.load import chain_of
from eramv_lab.recipe.match import MATCH
from eramv_lab.recipe.merge import expand, merge
from eramv_lab.recipe.nodes import Node, find, to_data
from eramv_lab.recipe.parse import choice, parse_config
from eramv_lab.recipe.system import System, parse_system

FOLDER = "systems"
"""Where the systems of a league lie, beside its file."""
NOT_OF_AN_ARM = ("extends", "question", "system", "plugins", "seed", "seeds", "expect")
"""Keys of a system's file that are not differences of its model."""
NOT_OF_A_SYSTEM = {
    "arms": "a system of a league is one model, without arms",
    "league": "a system of a league has no league of its own, and does not extend one",
}
"""Keys that no file of a system has, beside the bed's, and why."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A system as its files write it: what it says of itself, and how it differs from the bed."""

    system: System
    changes: Node
    plugins: tuple[Node, ...]


def expanded(
    section: Node, chain: list[Node], problems: list[Problem]
) -> tuple[League, dict[str, Node], list[Node]] | None:
    """The league of a `league:` section, its arms as they are written, and plugins to load.

    `chain`: the league's own file and all that it extends, the farthest first. None with `problems`
    extended where the section, or a system, cannot be read.
    """
    found: list[Problem] = []
    config = parse_config(LeagueConfig, to_data(section), "league", found)
    found += list(_unsound(config)) if config else []
    if config is None or found:
        problems += [_placed(p, section, "league") for p in found]
        return None
    first = next((i for i, node in enumerate(chain) if "league" in node.value), len(chain) - 1)
    beside = Path(chain[first].mark.file).parent / FOLDER
    known = {path.stem: path for path in sorted(beside.glob("*.yaml"))}
    files = _files(config, section, known, found)
    bed = chain[:first]
    written: dict[str, Written] = {}
    for name, path in files.items():
        try:
            written[name] = _written(path, bed)
        except UserError as error:
            found += error.problems
    for key, names, there in (
        ("full", [config.full], files),
        ("null", config.null, known | files),  # of some systems alone, not all may be wanted
    ):
        found += [
            _absent(name, there, known, f"league.{key}") for name in names if name not in there
        ]
    found += _taken_twice(written, config.budgets)
    full = written.get(config.full)
    if full and (full.system.knob or full.system.training_free):
        message = f"{config.full} has a knob or trains nothing: it is not the full model"
        found.append(Problem(message=message, key="league.full"))
    elif config.full in config.null:
        message = f"{config.full!r} is the full system, not a null line"
        found.append(Problem(message=message, key="league.null"))
    if found:
        problems += [_placed(p, section, "league") for p in found]
        return None
    null = tuple(name for name in config.null if name in files)
    league = League(full=config.full, budgets=tuple(sorted(config.budgets)), null=null)
    order = dict.fromkeys([config.full, *null, *files])
    arms = {n: node for name in order for n, node in _arms(name, written[name], league).items()}
    return league, arms, [node for one in written.values() for node in one.plugins]


def _unsound(config: LeagueConfig) -> list[Problem]:
    """Problems: budgets that are no shares, systems named by no list, null lines that are none."""
    problems = [
        Problem(
            message=f"expected a share above 0 and below 1, in whole percents, found {one!r}",
            key="league.budgets",
        )
        for one in config.budgets
        if not 0 < one < 1 or abs(100 * one - round(100 * one)) > 1e-9
    ]
    names = [_label(one) for one in config.budgets]
    if not names or len(set(names)) < len(names):
        message = f"expected shares, each another percentage, found {list(config.budgets)!r}"
        problems.append(Problem(message=message, key="league.budgets"))
    problems += [
        Problem(message=f"{name!r} is there twice", key="league.null")
        for name, times in Counter(config.null).items()
        if times > 1
    ]
    if not config.systems or (isinstance(config.systems, str) and config.systems != ALL):
        message = f"expected all or a list of recipes, found {config.systems!r}"
        problems.append(Problem(message=message, key="league.systems", allowed=(ALL, "[...]")))
    return problems


def _absent(name: str, there: Iterable[str], known: Collection[str], key: str) -> Problem:
    """The problem of a name that is none of the systems that are `there`."""
    if name in known:
        return Problem(message=f"{name!r} is not among league.systems", key=key)
    return choice(f"there is no system {name!r} in this league", name, there, key)


def _taken_twice(systems: Mapping[str, Written], budgets: Iterable[float]) -> Iterator[Problem]:
    """Problems: arms of the same name, of one system at a budget and of another called so."""
    owner: dict[str, str] = {}
    for name, written in systems.items():
        for budget in budgets if written.system.knob else (None,):
            arm = _arm_name(name, budget)
            if owner.setdefault(arm, name) != name:
                message = (
                    f"systems {owner[arm]!r} and {name!r} both have an arm {arm!r}: rename one"
                )
                yield Problem(message=message, key="league.systems")


def _arm_name(system: str, budget: float | None) -> str:
    return system if budget is None else f"{system}_{_label(budget)}"


def _label(budget: float) -> str:
    return str(round(100 * budget))


def _files(
    config: LeagueConfig, section: Node, known: dict[str, Path], problems: list[Problem]
) -> dict[str, Path]:
    """The file of each system, by the name of its arms; `known`: those beside the league."""
    if config.systems == ALL:
        if not known:
            message = f"there are no recipes in {FOLDER}/ beside the league"
            problems.append(Problem(message=message, key="league.systems"))
        return known
    files: dict[str, Path] = {}
    for one in config.systems:
        mark = find(section, "systems")
        path = known.get(one) or base_path(one, mark)
        if not path.exists():
            wrong = choice(f"there is no system {one!r}", one, known, "league.systems")
            problems.append(wrong)
        elif path.stem in files:
            named = "is named twice" if files[path.stem] == path else "is the name of two files"
            message = f"{path.stem!r} {named}; an arm's name is that of its file"
            problems.append(Problem(message=message, key="league.systems"))
        else:
            files[path.stem] = path
    return files


def _written(path: Path, bed: list[Node]) -> Written:
    """A system as its files write it over the bed, the files below the league. Raises UserError."""
    chain = chain_of(path)
    own, problems = chain[-1], list[Problem]()
    if "system" not in own.value:
        raise UserError(Problem(message="this recipe has no system: section", file=own.mark.file))
    told = own.value["system"]
    system = parse_system(to_data(told), problems)
    problems = [_placed(p, told, "system") for p in problems]
    if [node.mark.file for node in chain[: len(bed)]] != [node.mark.file for node in bed]:
        message = f"it does not stand on {bed[-1].mark.file}, as the league does"
        at = find(own, "extends")
        problems.append(Problem(message=message, file=at.file, line=at.line, key="extends"))
    changes = Node({}, own.mark)
    plugins: list[Node] = []
    for node in chain[len(bed) :]:
        keys: dict[str, Node] = {}
        for key, child in node.value.items():
            first, at = key.split(".")[0], child.mark
            if (message := NOT_OF_A_SYSTEM.get(first)) is not None:
                problems.append(Problem(message=message, file=at.file, line=at.line, key=first))
            elif first not in NOT_OF_AN_ARM:
                keys[key] = child
        changes = merge(changes, expand(Node(keys, node.mark), problems))
        plugins += [node.value["plugins"]] if "plugins" in node.value else []
    if system is None or problems:
        raise UserError(problems)
    return Written(system=system, changes=changes, plugins=tuple(plugins))


def _arms(name: str, written: Written, league: League) -> dict[str, Node]:
    """The arms of one system, entered into the league: one for each budget, or one."""
    system, node = written.system, written.changes
    if system.training_free:
        start = Node({"arm": Node(league.full, node.mark)}, node.mark)
        node = merge(node, Node({"base": start}, node.mark))
    if system.knob is None:
        league.arms[name] = Entry(system=name, told=system, budget=None)
        return {name: node}
    arms: dict[str, Node] = {}
    for budget in league.budgets:
        asked: dict[str, Any] = {MATCH: league.full, "share": budget, "from": system.knob.low}
        asked["step"] = system.knob.step
        if system.knob.high is not None:
            asked["to"] = system.knob.high
        mark = node.mark
        number = Node({key: Node(value, mark) for key, value in asked.items()}, mark)
        arm = _arm_name(name, budget)
        arms[arm] = _turned(node, system.knob.key.split("."), number)
        league.arms[arm] = Entry(system=name, told=system, budget=budget)
    return arms


def _turned(node: Node | None, parts: list[str], number: Node) -> Node:
    """The tree with `number` at a place, also inside a list."""
    if not parts:
        return number
    first, *rest = parts
    if node is not None and isinstance(node.value, list) and first.isdigit():
        children: Any = list(node.value)
        if int(first) >= len(children):
            raise _no_place(node, f"the knob turns reducer {first}, there are {len(children)}")
        children[int(first)] = _turned(children[int(first)], rest, number)
    elif node is not None and isinstance(node.value, list):  # of one reducer, as it is written
        if len(node.value) != 1:
            raise _no_place(
                node, f"the knob has to say which of {len(node.value)} reducers it turns"
            )
        children = [_turned(node.value[0], parts, number)]
    else:
        kept: dict[str, Node] = dict(node.value) if node is not None and node.is_map else {}
        children = {**kept, first: _turned(kept.get(first), rest, number)}
    return Node(children, node.mark if node else number.mark)


def _no_place(node: Node, message: str) -> UserError:
    return UserError(
        Problem(message=message, key="system.knob.key", file=node.mark.file, line=node.mark.line)
    )


def _placed(problem: Problem, section: Node, above: str) -> Problem:
    """The problem with the file and line of its key below `above`, unless it has them."""
    if problem.file is not None:
        return problem
    mark = find(section, (problem.key or "").removeprefix(f"{above}."))
    return replace(problem, file=mark.file, line=mark.line)
