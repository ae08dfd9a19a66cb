"""`drop`: visual rows leave before a layer, for good; with FastV and VTW as its presets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from eramv_lab.recipe.parse import LATER
from eramv_lab.registry import REDUCER
from eramv_lab.shapes import Dims
from eramv_lab.slots.reducers import Event
from eramv_lab.slots.reducers._shared import nothing_to_do, outside, ranked_twice

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class DropConfig:
    """Visual rows leave the sequence before one layer; positions of the others stay."""

    layer: int
    """Layer before which they leave (0-based)."""
    keep: int
    """Visual rows of each image that stay."""
    rank: Literal["none", "previous", "next", "random"] = "previous"
    """Which stay: most attended in the layer before (FastV), or by this layer's own queries and
    keys, before it runs (PyramidDrop); random; the first."""
    rankers: Literal["prompt_end", "mean"] = field(default="prompt_end", metadata=LATER)
    """Whose attention ranks: the prompt's last row, or the mean over all rows of the prompt."""
    positions: Literal["keep", "repack"] = field(default="keep", metadata=LATER)
    """Ids of the rows that stay: their own, or closed up to 0, 1, 2, ..."""

    def events(self, layers: int, visual: int) -> tuple[Event, ...]:
        """The one removal."""
        return (
            Event(
                layer=self.layer,
                keep=min(self.keep, visual),
                rank=self.rank,
                rankers=self.rankers,
                positions=self.positions,
            ),
        )

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: a layer outside the model, more kept than there are, nothing to rank by."""
        visual = spec.dims().visual
        yield from outside("layer", self.layer, spec)
        yield from nothing_to_do("drop", spec)
        if self.keep < 0:
            yield f"keep {self.keep}: expected >= 0"
        elif visual and self.keep > visual:
            yield f"keep {self.keep} is more than the {visual} visual rows of an image"
        if self.layer == 0 and self.rank == "previous":
            yield "layer 0 has no layer before it to rank by; use rank random or layer >= 1"
        elif self.rank == "previous":
            yield from ranked_twice(spec)


@dataclass(frozen=True, kw_only=True)
class FastvConfig:
    """FastV: after `layer` layers only the most attended visual rows stay (arXiv 2403.06764)."""

    layer: int = 2
    """K: layers that see every visual row; with 0 rows are drawn at random."""
    ratio: float = 0.5
    """R: share of the visual rows that leaves; not used where `keep` is given."""
    keep: int | None = None
    """Visual rows that stay, in place of `ratio`."""
    by: Literal["last", "mean"] = field(default="last", metadata=LATER)
    """Attention that ranks: of the prompt's last row, as the authors' code has it; or the mean
    over the prompt's rows, as their text says."""

    def drop(self, visual: int) -> DropConfig:
        """FastV written as a drop."""
        return DropConfig(
            layer=self.layer,
            keep=round(visual * (1 - self.ratio)) if self.keep is None else self.keep,
            rank="previous" if self.layer else "random",
            rankers="prompt_end" if self.by == "last" else "mean",
        )

    def events(self, layers: int, visual: int) -> tuple[Event, ...]:
        """The one removal."""
        return self.drop(visual).events(layers, visual)

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems of the drop that this is, and a ratio that is none."""
        if not 0 <= self.ratio <= 1:
            yield f"ratio {self.ratio}: expected 0 to 1"
        else:
            yield from self.drop(spec.dims().visual).check(spec)


@dataclass(frozen=True, kw_only=True)
class VtwConfig:
    """VTW: every visual row is withdrawn before `layer` (arXiv 2405.05803)."""

    layer: int
    """K: layers that see the visual rows. `analyse.layers.withdrawal` finds it by their rule."""

    def drop(self) -> DropConfig:
        """VTW written as a drop."""
        return DropConfig(layer=self.layer, keep=0, rank="none")

    def events(self, layers: int, visual: int) -> tuple[Event, ...]:
        """The one removal."""
        return self.drop().events(layers, visual)

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems of the drop that this is."""
        yield from self.drop().check(spec)


@REDUCER.register("drop", DropConfig)
@REDUCER.register("fastv", FastvConfig)
@REDUCER.register("vtw", VtwConfig)
def no_module(config: DropConfig | FastvConfig | VtwConfig, dims: Dims) -> None:
    """A drop has no parameters; the decoder loop reads its events."""
    return
