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
    """Lambda: share of a stage's visual rows that goes on into the next."""
    keep: tuple[int, ...] | None = None
    """In place of `ratio`, the rows in each stage but the first (HiDrop, arXiv 2602.23699). Of
    stages that begin at one layer, as those of a deep model may in a shallow one, the last counts.
    """
    positions: Literal["repack", "keep"] = "repack"
    """Ids of the rows that stay: closed up to 0, 1, 2, ... as the authors' code does,
    or their own."""

    def stages(self, layers: int) -> tuple[int, ...]:
        """First layers of the later stages, in a model of `layers`."""
        if self.layers is not None:
            return self.layers
        return tuple(dict.fromkeys((2 * quarter * layers + 4) // 8 for quarter in (1, 2, 3)))

    def events(self, layers: int, visual: int) -> tuple[Event, ...]:
        """A removal at the beginning of every stage."""
        starts = self.stages(layers)
        kept = self.keep or [round(visual * self.ratio**n) for n in range(1, len(starts) + 1)]
        return tuple(
            Event(layer=start, keep=keep, rank="next", rankers="answers", positions=self.positions)
            for start, keep in dict(zip(starts, kept, strict=True)).items()
        )

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: stages out of order or of the model, a ratio that is none."""
        for layer in self.layers or ():
            yield from outside("layers:", layer, spec)
        unlike = set if self.keep is None else list
        if self.layers is not None and list(self.layers) != sorted(unlike(self.layers)):
            once = ", each once" if self.keep is None else ""
            yield f"layers {list(self.layers)}: expected ascending{once}"
        if self.layers == ():
            yield "layers []: expected the first layer of one stage at least"
        stages = len(self.stages(spec.dims().language.layers))
        if self.keep is not None and len(self.keep) != stages:
            yield f"keep {list(self.keep)}: expected {stages} numbers, one for each stage"
        if self.keep is not None and list(self.keep) != sorted(self.keep, reverse=True):
            yield f"keep {list(self.keep)}: a stage cannot have more rows than the one before it"
        rows = spec.dims().visual
        if not all(0 <= one <= rows for one in self.keep or ()):
            yield f"keep {list(self.keep or ())}: expected 0 to {rows}, the visual rows there are"
        if not 0 <= self.ratio <= 1:
            yield f"ratio {self.ratio}: expected 0 to 1"
        yield from nothing_to_do("drop", spec)


@REDUCER.register("pyramiddrop", PyramidDropConfig)
def no_module(config: PyramidDropConfig, dims: Dims) -> None:
    """No parameters; the decoder loop reads the events."""
    return
