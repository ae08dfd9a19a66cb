"""Checks that every reducer makes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


def outside(name: str, layer: int, spec: ModelSpec) -> Iterator[str]:
    """The problem of a layer that the language model has not."""
    depth = spec.language.dims().layers
    if not 0 <= layer < depth:
        yield f"{name} {layer} is outside the language model, which has {depth} layers"


def nothing_to_do(what: str, spec: ModelSpec) -> Iterator[str]:
    """The problem of a model whose sequence has no visual rows."""
    if not spec.dims().visual:
        yield f"there are no visual rows to {what} (anchors none)"


def ranked_twice(spec: ModelSpec) -> Iterator[str]:
    """The problem of two rankings by one layer: the second would be of rows that have left."""
    ranked = [e.layer for e in spec.events() if e.kind == "drop" and e.rank == "previous"]
    for layer in sorted({one for one in ranked if ranked.count(one) > 1}):
        yield f"two removals before layer {layer} are ranked by the layer before; one of them can"
