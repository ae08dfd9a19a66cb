"""`sparsevlm`: words of the question near to the image rank its rows; lost ones are merged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from eramv_lab.registry import REDUCER
from eramv_lab.shapes import Dims
from eramv_lab.slots.reducers import Event, visual_by_layer
from eramv_lab.slots.reducers._shared import nothing_to_do, outside, ranked_twice

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec

SHAPE = (300, 200, 110)
"""Rows of 576 that the authors' code keeps at its three layers, for "192 tokens"."""
PATCHES = 576
FINE = 1000
"""Steps in which the schedule is scaled."""


@dataclass(frozen=True, kw_only=True)
class SparsevlmConfig:
    """SparseVLM: visual rows leave by the question's raters, some come back merged (2410.04417).

    Raters are the prompt's rows behind the image that are at least as similar to its rows as the
    mean of them is, before the first layer. Of the rows that leave, the best are clustered (density
    peaks, as many neighbours as clusters), and a cluster stays as one row, where its centre stood.
    """

    layers: tuple[int, ...] | None = None
    """Layers after which rows leave, ascending; default: 2, 6 and 15 of 32."""
    tokens: int | None = None
    """Mean visual rows of an image over all layers, merged ones counted: the largest schedule of
    the published shape within it, or the smallest there is; default: 300, 200, 110 of 576."""
    keep: tuple[int, ...] | None = None
    """Rows kept after each of the layers, in place of `tokens`."""
    tau: float = 0.3
    """Share of the leaving rows that is merged."""
    theta: float = 0.1
    """Clusters by merged row, one more added."""
    merge: Literal["mean", "sum"] = "mean"
    """A merged row is the mean of its cluster, as in the authors' code, or the sum, as in their
    text."""
    positions: Literal["repack", "keep"] = "repack"
    """Ids of the rows that stay: closed up to 0, 1, 2, ... as the code did first, or their own."""

    def starts(self, layers: int) -> tuple[int, ...]:
        """First layers without the rows that leave."""
        if self.layers is not None:
            return tuple(layer + 1 for layer in self.layers)
        return tuple(dict.fromkeys((2 * at * layers + 32) // 64 + 1 for at in (2, 6, 15)))

    def schedule(self, layers: int, visual: int, kept: Sequence[int]) -> tuple[Event, ...]:
        """The removals with so many rows kept at each."""
        events: list[Event] = []
        for start, keep in zip(self.starts(layers), kept, strict=False):
            before = events[-1].left(events[-1].keep + events[-1].recycled) if events else visual
            gone = max(before - keep, 0)
            recycled = min(int(self.tau * gone) + 1, gone) if self.tau else 0
            made = min(recycled, int(self.theta * recycled) + 1)
            events.append(
                Event(
                    layer=start,
                    keep=min(keep, before),
                    rank="previous",
                    rankers="raters",
                    positions=self.positions,
                    recycled=recycled,
                    made=made,
                    merge=self.merge,
                )
            )
        return tuple(events)

    def scaled(self, layers: int, visual: int, steps: int) -> tuple[Event, ...]:
        """The published shape at `steps` thousandths."""
        kept = [min(round(n * visual * steps / (PATCHES * FINE)), visual) for n in SHAPE]
        return self.schedule(layers, visual, kept)

    def events(self, layers: int, visual: int) -> tuple[Event, ...]:
        """A removal after each of the layers."""
        if self.keep is not None:
            return self.schedule(layers, visual, self.keep)
        if self.tokens is None:
            return self.scaled(layers, visual, FINE)
        low, high = 0, 2 * FINE * PATCHES // min(SHAPE)  # at the upper end nothing leaves
        while low < high:
            middle = (low + high + 1) // 2
            rows = visual_by_layer(self.scaled(layers, visual, middle), layers, visual)
            if sum(rows) <= self.tokens * layers:
                low = middle
            else:
                high = middle - 1
        return self.scaled(layers, visual, low)

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: layers out of order or of the model, counts that do not fit."""
        for layer in self.layers or ():
            yield from outside("layers:", layer, spec)
            if layer == spec.language.dims().layers - 1:
                yield f"layers: after layer {layer}, the last, nothing can leave"
        if self.layers is not None and list(self.layers) != sorted(set(self.layers)):
            yield f"layers {list(self.layers)}: expected ascending, each once"
        stages = len(self.starts(spec.language.dims().layers))
        if self.keep is not None and len(self.keep) != stages:
            yield f"keep {list(self.keep)}: expected {stages} counts, one for each layer"
        if self.keep is None and self.layers is not None and stages > len(SHAPE):
            yield f"layers {list(self.layers)}: the published shape has three; give keep as well"
        if self.keep is not None and any(count < 0 for count in self.keep):
            yield f"keep {list(self.keep)}: expected counts >= 0"
        if self.tokens is not None and self.tokens < 1:
            yield f"tokens {self.tokens}: expected >= 1"
        if self.tokens is not None and self.keep is not None:
            yield "tokens and keep both say how many stay; give one"
        for name, value in (("tau", self.tau), ("theta", self.theta)):
            if not 0 <= value <= 1:
                yield f"{name} {value}: expected 0 to 1"
        yield from nothing_to_do("drop", spec)
        yield from ranked_twice(spec)


@REDUCER.register("sparsevlm", SparsevlmConfig)
def no_module(config: SparsevlmConfig, dims: Dims) -> None:
    """No parameters; the decoder loop reads the events."""
    return
