"""One arm of a recipe: its typed sections, its plain form, its hash; and how all are resolved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from eramv_lab.errors import Problem
from eramv_lab.recipe.base import Base, digest
from eramv_lab.recipe.fits import check_fit, steps_of
from eramv_lab.recipe.load import Document, interpolated
from eramv_lab.recipe.match import NoMatch, Solver, solved
from eramv_lab.recipe.model_spec import ModelSpec, parse_model
from eramv_lab.recipe.nodes import Node, find
from eramv_lab.recipe.parse import choice, plain
from eramv_lab.recipe.released import Released
from eramv_lab.recipe.schema import (
    NEUTRAL,
    SECTIONS,
    SOURCES,
    BaseRef,
    CostConfig,
    DataConfig,
    EvaluateConfig,
    TrainConfig,
    TrainerConfig,
    parse_section,
    source_plain,
)
from eramv_lab.recipe.starts import Found, started

TOP = (
    *("question", "plugins", "system", "league", "model", *SECTIONS),
    *("seeds", "seed", "expect", "matched", "extends"),
)
"""Keys at the top of a recipe, beside `arms`."""
OUTSIDE = ("question", "plugins", "system", "league", "seeds", "expect", "extends")
"""Those that an arm cannot change."""
INSIDE = tuple(key for key in TOP if key not in (*OUTSIDE, "seed", "matched"))
"""Those that it can."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A whole recipe for one fit, checked."""

    name: str
    spec: ModelSpec
    data: DataConfig
    base: BaseRef
    train: TrainConfig
    evaluate: EvaluateConfig
    cost: CostConfig
    trainer: TrainerConfig
    seed: int | None = None
    matched: dict[str, str] = field(default_factory=dict[str, str])
    """Keys whose number was solved for, with the arm whose FLOPs it matches."""
    base_recipe: Base | None = None
    """The base that it starts from, if it does."""
    released: Released | None = None
    """The released model that it starts from, if it does."""
    parent: Arm | None = None
    """The arm whose finished weights it starts from, if it does."""

    @cached_property
    def plain(self) -> dict[str, Any]:
        """The arm as a recipe writes it, every key given: reads back to the same arm."""
        sections = self._sections(known=False)
        more: dict[str, Any] = {"matched": dict(self.matched)} if self.matched else {}
        if self.seed is not None:
            more["seed"] = self.seed
        return {"model": self.spec.to_plain(), **sections, **more}

    def _sections(self, *, known: bool) -> dict[str, Any]:
        """The sections beside the model's, plain; `known`: as a hash knows them."""
        sections = {name: plain(getattr(self, name), known=known) for name in SECTIONS}
        for source in SOURCES.keys() - {self.data.type}:
            del sections["data"][source]
        if "also" in sections["evaluate"]:
            also = self.evaluate.also.items()
            sections["evaluate"]["also"] = {n: source_plain(s, known=known) for n, s in also}
        return sections

    @cached_property
    def origin(self) -> Released | None:
        """The released model whose words and pixels are its own: there are no others in its slots.

        None where its language model has a path, or cannot have one, or nothing brings words.
        """
        if getattr(self.spec.language, "path", "none") is not None:
            return None
        if self.parent is not None:
            return self.parent.origin
        return self.released if self.released and self.released.words else None

    @cached_property
    def hash(self) -> str:
        """8 hex digits of everything that can change a result, but for the seed."""
        return self._digest(tuple(SECTIONS))

    @cached_property
    def training(self) -> str:
        """8 hex digits of everything that can change the weights, but for the seed."""
        return self._digest(("data", "base", "train", "trainer"))

    def _digest(self, sections: tuple[str, ...]) -> str:
        kept: dict[str, Any] = {"model": self.spec.to_plain(known=True)}
        told = self._sections(known=True)
        for section in sections:
            kept[section] = {
                key: value
                for key, value in told[section].items()
                if f"{section}.{key}" not in NEUTRAL
            }
        known = self.data.source.identity()
        if known is not None:
            kept["data"][self.data.type] = known
        start = self.base_recipe.hash if self.base_recipe else None
        seed = self.base.seed if self.base_recipe else None
        kept["base"] = {"base": start, "seed": seed, "arm": self.parent and self.parent.hash}
        if self.released is not None:
            kept["base"]["model"] = self.released.hash
            if self.origin is not None:
                kept["base"]["words"] = self.origin.words
        return digest(kept)

    def with_seed(self, seed: int) -> Arm:
        """The same arm, fitted with `seed`."""
        return replace(self, seed=seed, parent=self.parent and self.parent.with_seed(seed))


class Resolver:
    """Resolves the arms of a document in the order in which they need one another."""

    def __init__(self, document: Document, solver: Solver) -> None:
        self.document = document
        self.solver = solver
        self.nodes = {name: document.arm(name) for name in document.arms}
        self.arms: dict[str, Arm | None] = {}
        self.starts: Found = document.starts
        self.open: list[str] = []
        self.by_arm: dict[str, list[Problem]] = {name: [] for name in self.nodes}

    def resolve(self) -> dict[str, Arm]:
        """The sound arms, in the order written; what is wrong is in `.problems`."""
        for name in self.nodes:
            self.arm(name)
        return {name: arm for name in self.nodes if (arm := self.arms[name]) is not None}

    def unreached(self, names: Iterable[str]) -> dict[str, str]:
        """Those of the arms `names` whose one problem is a match that no number satisfies, with the
        reason; it is no problem any more.
        """
        found: dict[str, str] = {}
        for name in names:
            problems = self.by_arm.get(name)
            if problems and all(isinstance(problem, NoMatch) for problem in problems):
                found[name] = f"{problems[0].key}: {problems[0].message}"
                self.by_arm[name] = []
        return found

    @property
    def problems(self) -> Iterator[Problem]:
        """Every problem once, with the arms it is found in where that is not all of them."""
        found: dict[Problem, list[str]] = {}
        for name, problems in self.by_arm.items():
            for problem in problems:
                arms = found.setdefault(problem, [])
                if name not in arms:
                    arms.append(name)
        for problem, arms in found.items():
            if len(arms) == len(self.nodes):
                yield problem
            else:
                word = "arm" if len(arms) == 1 else "arms"
                yield replace(problem, message=f"{problem.message} ({word} {', '.join(arms)})")

    def arm(self, name: str) -> Arm | None:
        """The arm called `name`, those that it refers to first."""
        if name not in self.arms:
            self.open.append(name)
            problems: list[Problem] = []
            try:
                self.arms[name] = self._arm(name, problems)
            finally:
                self.open.pop()
            node = self.nodes[name]
            self.by_arm[name] += [_placed(problem, node) for problem in problems]
            if self.by_arm[name]:
                self.arms[name] = None
        return self.arms[name]

    def _arm(self, name: str, problems: list[Problem]) -> Arm | None:
        data = interpolated(self.nodes[name], problems)
        if problems:
            return None
        for key in self.document.arms[name].value:
            if key in OUTSIDE:
                message = f"{key} is one for the whole recipe, an arm cannot change it"
                problems.append(Problem(message=message, key=key))
            elif key not in TOP:
                problems.append(choice(f"unknown key {key!r}", key, INSIDE, key))
        parts = {key: parse_section(key, data.get(key), problems) for key in SECTIONS}
        data, matched = solved(data, parts["cost"], self._other, self.solver, problems)
        spec = _model(data, problems)
        if spec is None or problems or None in matched.values():
            return None
        steps = steps_of(parts["data"], parts["train"], parts["trainer"])
        if isinstance(steps, Problem):
            problems.append(steps)
            return None
        parts["train"] = replace(parts["train"], steps=steps)
        arm = Arm(name=name, spec=spec, matched=matched, **parts)
        begun = started(arm, self.nodes[name], self.starts, self._other, problems)
        words = begun is None or begun.origin is not None  # else what it starts from is told first
        problems += check_fit(arm.spec, arm.data, arm.train, arm.evaluate, arm.trainer, words)
        return begun

    def _other(self, name: str, key: str, problems: list[Problem]) -> Arm | None:
        """Another arm that this one refers to in `key`; None where it is not sound."""
        if name not in self.nodes:
            problems.append(choice(f"there is no arm {name!r}", name, self.nodes, key))
            return None
        if name in self.open:
            circle = " -> ".join([*self.open[self.open.index(name) :], name])
            problems.append(Problem(message=f"the arms wait for one another: {circle}", key=key))
            return None
        return self.arm(name)  # None: its own problems are reported


def _model(data: Mapping[str, Any], problems: list[Problem]) -> ModelSpec | None:
    if not data.get("model"):
        problems.append(Problem(message="missing key 'model'"))
        return None
    if not isinstance(data["model"], Mapping):
        problems.append(Problem(message="expected slots and what fills them", key="model"))
        return None
    return parse_model(data["model"], problems)


def _placed(problem: Problem, node: Node) -> Problem:
    """The problem with the file and line of its key, unless it has them."""
    if problem.file is not None:
        return problem
    mark = find(node, problem.key or "")
    return replace(problem, file=mark.file, line=mark.line if problem.key else None)
