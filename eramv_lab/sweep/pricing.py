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
from eramv_lab.recipe.load import Document, interpolated
from eramv_lab.recipe.merge import merge
from eramv_lab.recipe.model_spec import ModelSpec, parse_model
from eramv_lab.recipe.schema import CostConfig, TrainConfig, parse_section, steps_of
from eramv_lab.sweep.points import changes_of


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

    def model_of(self, changes: Mapping[str, Any]) -> str:
        """The same text for settings that make the same model at the same training."""
        look = self.look(changes)
        if look is None:
            return json.dumps(changes, sort_keys=True)
        return f"{look.model} {look.costs['training']:.0f}"

    def _look(self, changes: Mapping[str, Any]) -> Look | None:
        problems: list[Problem] = []
        node = merge(self.document.shared, changes_of(changes))
        data = interpolated(node, problems)
        spec = parse_model(data.get("model") or {}, problems)
        parts = {k: parse_section(k, data.get(k), problems) for k in ("data", "train", "trainer")}
        cost = parse_section("cost", data.get("cost"), problems)
        if problems or spec is None:
            return None
        steps = steps_of(parts["data"], parts["train"], parts["trainer"])
        if isinstance(steps, Problem):
            return None
        train = dataclasses.replace(parts["train"], steps=steps)
        return Look(spec=spec, costs=costs_of(spec, cost, train, parts["trainer"].devices))


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
