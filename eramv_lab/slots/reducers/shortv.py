"""`shortv`: in some layers the visual rows are keys and values alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from eramv_lab.registry import REDUCER
from eramv_lab.shapes import Dims
from eramv_lab.slots.reducers import Event
from eramv_lab.slots.reducers._shared import nothing_to_do

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec

PUBLISHED = {
    32: (31, 29, 30, 28, 0, 26, 27, 25, 24, 22, 23, 21, 2, 3, 20, 18, 17, 12, 19),
    40: (
        *(39, 32, 28, 36, 27, 37, 29, 30, 1, 38, 25, 31),
        *(2, 26, 23, 34, 0, 33, 35, 22, 24, 21, 20, 17),
    ),
}
"""Layers of LLaVA-1.5-7B and 13B that were frozen, least contribution first."""


def published_order(layers: int) -> tuple[int, ...]:
    """All layers of a model of that depth in the order of the published list.

    At 32 and 40 layers it is the list; those that it does not name follow from the deepest down.
    At another depth a layer has the mean place of those of the 32 that lie where it does.
    """
    depth = layers if layers in PUBLISHED else 32
    named = PUBLISHED[depth]
    rest = (layer for layer in reversed(range(depth)) if layer not in named)
    place = {layer: i for i, layer in enumerate((*named, *rest))}

    def mean_place(layer: int) -> float:
        first = layer * depth // layers
        there = range(first, max(first + 1, (layer + 1) * depth // layers))
        return sum(place[one] for one in there) / len(there)

    return tuple(sorted(range(layers), key=lambda layer: (mean_place(layer), -layer)))


@dataclass(frozen=True, kw_only=True)
class ShortvConfig:
    """ShortV: visual rows are updated in the layers that need it alone (arXiv 2504.00502).

    In the others they make no query and pass neither W_o nor the feed-forward; keys and values
    are made of them as they are.
    """

    active: int | None = None
    """Layers that go on updating them; default: 13 of 32, the published share (16 of 40)."""
    order: tuple[int, ...] | Literal["published"] = "published"
    """Layers in the order of freezing, least contribution first: a list (as
    `analyse.layers.contributions` finds it), or LLaVA-1.5's scaled to the depth."""

    def count(self, layers: int) -> int:
        """How many layers freeze them."""
        return (layers * 19 + 16) // 32 if self.active is None else max(layers - self.active, 0)

    def frozen(self, layers: int) -> tuple[int, ...]:
        """The layers that do not update them."""
        order = published_order(layers) if self.order == "published" else self.order
        return tuple(sorted(order[: self.count(layers)]))

    def events(self, layers: int, visual: int) -> tuple[Event, ...]:
        """A freezing of one layer each."""
        return tuple(Event(layer=layer, kind="freeze") for layer in self.frozen(layers))

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: a count or an order that does not fit the depth."""
        depth = spec.language.dims().layers
        if self.active is not None and not 0 <= self.active <= depth:
            yield f"active {self.active}: expected 0 to {depth}, the layers there are"
        if self.order != "published":
            wrong = [layer for layer in self.order if not 0 <= layer < depth]
            if wrong or len(set(self.order)) < len(self.order):
                yield f"order {list(self.order)}: expected layers 0 to {depth - 1}, each once"
            if self.count(depth) > len(self.order):
                yield f"order names {len(self.order)} layers, {self.count(depth)} are to freeze"
        yield from nothing_to_do("freeze", spec)


@REDUCER.register("shortv", ShortvConfig)
def no_module(config: ShortvConfig, dims: Dims) -> None:
    """No parameters; the decoder loop reads the events."""
    return
