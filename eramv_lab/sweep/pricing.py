"""What a setting costs, by the closed form alone, and whether that lies within the budget."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eramv_lab.cost.formula import price
from eramv_lab.errors import Problem
from eramv_lab.recipe.arms import Arm
from eramv_lab.recipe.fits import steps_of
from eramv_lab.recipe.load import Document, interpolated
from eramv_lab.recipe.merge import merge
from eramv_lab.recipe.model_spec import ModelSpec, parse_model
from eramv_lab.recipe.schema import CostConfig, TrainConfig, parse_section
from eramv_lab.sweep.points import changes_of

PRICED = ("data", "train", "trainer", "cost")
"""Sections that a price depends on, beside the model's."""


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A budget in numbers."""

    name: str
    value: float
    said: str
    """As the sweep file has it."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """A setting as far as it can be seen without data or weights."""

    spec: ModelSpec
    costs: Mapping[str, float]
    """What each budget may bound: `prefill`, `training` (FLOPs), `parameters`, `kv` (bytes)."""

    @property
    def model(self) -> str:
        """The same text for the same model, however it was written."""
        return json.dumps(self.spec.to_plain(), sort_keys=True)

    def excess(self, limits: tuple[Limit, ...]) -> dict[str, float]:
        """By how much each limit is passed, as a share of it; at most 0 where it is kept."""
        return {one.name: self.costs[one.name] / one.value - 1 for one in limits}


class Pricer:
    """Looks at settings of a recipe, each once."""

    def __init__(self, document: Document, limits: tuple[Limit, ...]) -> None:
        self.document, self.limits = document, limits
        self._seen: dict[str, Look | None] = {}
        self._read: dict[str, tuple[dict[str, Any], ModelSpec | None, list[Problem]]] = {}
        self._sections: dict[str, tuple[dict[str, Any], list[Problem]]] = {}

    def look(self, changes: Mapping[str, Any]) -> Look | None:
        """The setting; None where there is no such model."""
        key = json.dumps(changes, sort_keys=True)
        if key not in self._seen:
            self._seen[key] = self._look(changes)
        return self._seen[key]

    def fits(self, changes: Mapping[str, Any]) -> bool:
        """Whether there is such a model and it keeps within every limit."""
        look = self.look(changes)
        return look is not None and all(v <= 0 for v in look.excess(self.limits).values())

    def problems(self, changes: Mapping[str, Any]) -> list[Problem]:
        """Why there is no such model; none where there is one."""
        return self._parsed(changes)[2]

    def faults(self, changes: Mapping[str, Any]) -> set[str]:
        """The keys of these problems."""
        return {problem.key or "" for problem in self.problems(changes)}

    def model_of(self, changes: Mapping[str, Any]) -> str:
        """The same text for settings that make the same model."""
        look = self.look(changes)
        return json.dumps(changes, sort_keys=True) if look is None else look.model

    def _look(self, changes: Mapping[str, Any]) -> Look | None:
        parts, spec, problems = self._parsed(changes)
        if problems or spec is None:
            return None
        train, devices = parts["train"], parts["trainer"].devices
        return Look(spec=spec, costs=costs_of(spec, parts["cost"], train, devices))

    def _parsed(
        self, changes: Mapping[str, Any]
    ) -> tuple[dict[str, Any], ModelSpec | None, list[Problem]]:
        """The sections and the model of a setting, and what is wrong with them."""
        key = json.dumps(changes, sort_keys=True)
        if key not in self._read:
            problems: list[Problem] = []
            data = interpolated(merge(self.document.shared, changes_of(changes)), problems)
            model = data.get("model")
            spec = parse_model(model if isinstance(model, Mapping) else {}, problems)
            parts, wrong = self._others(data)
            self._read[key] = parts, spec, problems + wrong
        return self._read[key]

    def _others(self, data: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
        """The sections that a price is made of beside the model; most settings share them."""
        written = {name: data.get(name) for name in PRICED}
        key = json.dumps(written)
        if key not in self._sections:
            problems: list[Problem] = []
            parts = {name: parse_section(name, written[name], problems) for name in PRICED}
            if not problems:
                steps = steps_of(parts["data"], parts["train"], parts["trainer"])
                if isinstance(steps, Problem):
                    problems.append(steps)
                else:
                    parts["train"] = dataclasses.replace(parts["train"], steps=steps)
            self._sections[key] = parts, problems
        return self._sections[key]


def costs_of(
    spec: ModelSpec, cost: CostConfig, train: TrainConfig, devices: int | str
) -> dict[str, float]:
    """Every cost that a budget may bound; the training's at `cost.text_tokens` a sample."""
    roles = dataclasses.asdict(train.roles)
    found = price(spec, text_tokens=cost.text_tokens, train=roles)
    ranks = devices if isinstance(devices, int) else 1
    samples = train.steps * train.images * train.accumulate * ranks
    return {
        "prefill": float(found.prefill),
        "training": float(found.train) * samples,
        "parameters": float(found.parameters),
        "kv": float(found.kv_bytes),
    }


def costs_of_arm(arm: Arm) -> dict[str, float]:
    """The same of a checked arm."""
    return costs_of(arm.spec, arm.cost, arm.train, arm.trainer.devices)
