"""What a recipe's slots ask of the tower, told before any of them is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eramv_lab.recipe.connecting import levels
from eramv_lab.registry import ANCHORS, CONNECTOR
from eramv_lab.slots.contracts import Need

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


def needs_of(spec: ModelSpec) -> Need:
    """What selector, connectors and fine features ask for."""
    need = Need.LEVELS if levels_of(spec) else Need.NONE
    parts = (
        (ANCHORS, spec.anchors),
        *((CONNECTOR, c) for c in (spec.connector, spec.fine_connector)),
    )
    for registry, config in parts:
        if config is not None:
            need |= getattr(registry.of(config).factory, "need", Need.NONE)
    cls = (
        spec.fine is not None and spec.fine.cls,
        spec.anchors is not None and spec.anchors.takes_cls,
    )
    return need | Need.CLS if any(cls) else need


def levels_of(spec: ModelSpec) -> tuple[int, ...]:
    """The hidden states that a connector reads."""
    return levels(spec)
