"""What a recipe's slots ask of the tower, told before any of them is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eramv_lab.registry import ANCHORS, CONNECTOR
from eramv_lab.slots.contracts import Need

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


def needs_of(spec: ModelSpec) -> Need:
    """What selector, connector and fine features ask for."""
    need = Need.NONE
    for registry, config in ((ANCHORS, spec.anchors), (CONNECTOR, spec.connector)):
        if config is not None:
            need |= getattr(registry.of(config).factory, "need", Need.NONE)
    if spec.fine is not None and spec.fine.cls:
        need |= Need.CLS
    if spec.anchors is not None and spec.anchors.takes_cls:
        need |= Need.CLS
    return need | Need.LEVELS if levels_of(spec) else need


def levels_of(spec: ModelSpec) -> tuple[int, ...]:
    """The hidden states that the connector reads."""
    return tuple(getattr(spec.connector, "levels", ()))
