"""`pyramiddrop`: visual rows leave in stages, each ranked by the coming layer's own attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from eramv_lab.registry import REDUCER
from eramv_lab.shapes import Dims
from eramv_lab.slots.reducers import Event
from eramv_lab.slots.reducers._shared import nothing_to_do, outside

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class PyramidDropConfig:
    """PyramidDrop: a share of the visual rows goes on into each next stage (arXiv 2410.17247).

    Ranked before a stage's first layer through that layer's norm, queries and keys, by the
    prompt's last row; in training by the rows before each answer, in the mean.
    """

    layers: tuple[int, ...] | None = None
    """First layer of every stage but the first, ascending; default: quarters of the depth."""
    ratio: float = 0.5
    """Lambda: share of a stage's visual rows that goes on into the next; with `curve: concave` the
    share of all that reaches the last stage."""
    curve: Literal["geometric", "concave"] = "geometric"
    """Rows by stage: ratio, ratio squared, ...; or falling slowly first and faster later
    (1 - (1 - ratio) (stage/stages) squared)."""
    positions: Literal["repack", "keep"] = "repack"
    """Ids of the rows that stay: closed up to 0, 1, 2, ... as the authors' code does,
    or their own."""

    def stages(self, layers: int) -> tuple[int, ...]:
        """First layers of the later stages, in a model of `layers`."""
        if self.layers is not None:
            return self.layers
        return tuple(dict.fromkeys((2 * quarter * layers + 4) // 8 for quarter in (1, 2, 3)))

    def share(self, stage: int, stages: int) -> float:
        """Share of all visual rows in stage `stage` (1: the first that has lost some)."""
        if self.curve == "geometric":
            return self.ratio**stage
        return 1 - (1 - self.ratio) * (stage / stages) ** 2

    def events(self, layers: int, visual: int) -> tuple[Event, ...]:
        """A removal at the beginning of every stage."""
        starts = self.stages(layers)
        return tuple(
            Event(
                layer=start,
                keep=round(visual * self.share(stage, len(starts))),
                rank="next",
                rankers="answers",
                positions=self.positions,
            )
            for stage, start in enumerate(starts, 1)
        )

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: stages out of order or of the model, a ratio that is none."""
        for layer in self.layers or ():
            yield from outside("layers:", layer, spec)
        if self.layers is not None and list(self.layers) != sorted(set(self.layers)):
            yield f"layers {list(self.layers)}: expected ascending, each once"
        if self.layers == ():
            yield "layers []: expected the first layer of one stage at least"
        if not 0 <= self.ratio <= 1:
            yield f"ratio {self.ratio}: expected 0 to 1"
        yield from nothing_to_do("drop", spec)


@REDUCER.register("pyramiddrop", PyramidDropConfig)
def no_module(config: PyramidDropConfig, dims: Dims) -> None:
    """No parameters; the decoder loop reads the events."""
    return
