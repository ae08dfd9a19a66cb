"""Shapes of the published models and ways to vary them, for the tests of cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from eramv_lab.errors import UserError
from eramv_lab.recipe.model_spec import ModelSpec, parse_model

SCALE = Path(__file__).parents[2] / "experiments" / "scale"

TINY: dict[str, Any] = {
    "vision": "tiny",
    "anchors": {"type": "cls_topk", "count": 8, "cls": True},
    "connector": "mlp2x_gelu",
    "band": {"start": 2, "length": 2},
    "bridge": "mlp",
    "sharing": "shared",
    "language": "tiny",
    "prompt": "question_first",
}


def scale(name: str, **changes: Any) -> ModelSpec:
    """A recipe of experiments/scale with keys of its model changed."""
    recipe = yaml.safe_load((SCALE / f"{name}.yaml").read_text(encoding="utf-8"))
    return model({**recipe["model"], **changes})


def tiny(**changes: Any) -> ModelSpec:
    """The small model with keys changed."""
    return model({**TINY, **changes})


def anchors(count: int, cls: bool = True) -> dict[str, Any]:
    """`count` rows, CLS among them."""
    return {"type": "cls_topk", "count": count - int(cls), "cls": cls}


def model(section: dict[str, Any]) -> ModelSpec:
    """The spec of a model section that must be sound."""
    problems: list[Any] = []
    spec = parse_model(section, problems)
    if spec is None:
        raise UserError(problems)
    return spec
