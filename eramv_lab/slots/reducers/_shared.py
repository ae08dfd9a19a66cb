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
