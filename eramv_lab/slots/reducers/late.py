"""`late`: visual rows enter the sequence before a later layer, and may leave again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eramv_lab.registry import REDUCER
from eramv_lab.shapes import Dims
from eramv_lab.slots.reducers import Event
from eramv_lab.slots.reducers._shared import nothing_to_do, outside

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class LateConfig:
    """Late injection and early exit: words alone before and after (HiDrop, arXiv 2602.23699)."""

    layer: int
    """First layer that sees the visual rows; before it they wait, as the connector made them."""
    exit: int | None = None
    """Layer before which they all leave again; none: they stay."""

    def events(self, layers: int, visual: int) -> tuple[Event, ...]:
        """An entrance, and an exit where there is one."""
        enter = (Event(layer=self.layer, kind="inject"),) if self.layer else ()
        return enter if self.exit is None else (*enter, Event(layer=self.exit))

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: layers outside the model, an exit before the entrance, drops before it."""
        yield from outside("layer", self.layer, spec)
        yield from nothing_to_do("inject", spec)
        if self.exit is not None:
            yield from outside("exit", self.exit, spec)
            if self.exit <= self.layer:
                yield f"exit {self.exit} is not after layer {self.layer}, where they enter"
        events = spec.events()
        if sum(event.kind == "inject" for event in events) > 1:
            yield "visual rows enter once; found more than one late"
        early = [e.layer for e in events if e.kind == "drop" and e.layer < self.layer]
        if early:
            yield f"a drop before layer {early[0]} has nothing to drop: rows enter at {self.layer}"
        if any(e.layer == self.layer and e.rank == "previous" for e in events) and self.layer:
            yield f"layer {self.layer} is where rows enter: the layer before cannot rank them"


@REDUCER.register("late", LateConfig)
def no_module(config: LateConfig, dims: Dims) -> None:
    """No parameters; the decoder loop reads the events."""
    return
