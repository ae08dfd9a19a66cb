"""A look at the data: scenes with their questions, the patches that an arm picks, and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from eramv_lab.data.collate import Collator
from eramv_lab.data.module import LabData
from eramv_lab.data.reader import Sample, all_questions
from eramv_lab.data.sheet import Tile, draw_sheet
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.registry import ANCHORS, VISION
from eramv_lab.slots.contracts import Need

Column = tuple[str, list[str]]


@dataclass(frozen=True)
class Picker:
    """The tower and the selector of an arm."""

    tower: torch.nn.Module
    selector: torch.nn.Module
    trained: bool

    @classmethod
    def of(cls, spec: ModelSpec, weights: Path | None, seed: int = 0) -> Picker | None:
        """Built from a spec, the tower's weights from a file; None where nothing is selected."""
        if spec.anchors is None:
            return None
        dims, trained = spec.dims(), weights is not None and weights.is_file()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tower = VISION.of(spec.vision).factory(spec.vision, dims).eval()
            selector = ANCHORS.of(spec.anchors).factory(spec.anchors, dims).eval()
        if weights is not None and trained:
            tower.load_state_dict(load_file(weights))
        return cls(tower, selector, trained)

    @torch.inference_mode()
    def __call__(self, pixels_N3HW: torch.Tensor) -> np.ndarray:
        """Index of the patch of each row, -1 for a row that is no patch: [N,A]."""
        need = getattr(self.selector, "need", Need.NONE) | Need.CLS
        return self.selector(self.tower(pixels_N3HW, need)).index_NA.numpy()


def inspect(
    arm: Mapping[str, Any],
    out: Path,
    *,
    split: str = "train",
    count: int = 8,
    weights: Path | None = None,
    console: Console | None = None,
) -> Path:
    """Draw `count` scenes of a split to the PNG `out`, and print what the split holds.

    `arm`: a resolved arm, plain. `weights`: the tower's weights (`vision.safetensors` of a base);
    without them the tower is untrained, and the sheet says so. Data that is missing is made.
    Returns `out`.
    """
    data = LabData(arm, seed=0)
    examples = data.examples(split)
    shards = examples.shards
    samples = [shards[index] for index in range(min(count, len(shards)))]
    picker = Picker.of(data.spec, weights)
    picks = None
    if picker is not None:
        picks = picker(examples.pixels([sample.image_HWC for sample in samples]))
    grid = data.spec.vision.dims().grid
    tiles = [
        _tile(sample, None if picks is None else picks[number], grid)
        for number, sample in enumerate(samples)
    ]
    title = f"{split}: {len(tiles)} of {len(shards):,} scenes"
    columns = counts(all_questions(shards), data.collator)
    draw_sheet(out, title, _caption(data.spec, picker, picks), tiles, columns)
    table = Table(title=f"{split}: {len(shards):,} scenes", title_justify="left")
    for name, _ in columns:
        table.add_column(name, justify="left" if name == "type" else "right")
    for row in zip(*(values for _, values in columns), strict=True):
        table.add_row(*row)
    (console or Console()).print(table)
    return out


def counts(asked: Sequence[Any], collator: Collator) -> list[Column]:
    """Columns of a table: by type, and for all, how many, which lengths, how good a blind guess.

    Rows are those of a whole prompt (image, answer marker and BOS included); the guess is the
    most frequent answer.
    """
    lengths = {q: len(collator.prompt_ids(q)) for q in {a.question for a in asked}}
    types = sorted({a.type for a in asked})
    groups = [[a for a in asked if a.type == kind] for kind in types]
    if len(types) > 1:
        types, groups = [*types, "all"], [*groups, list(asked)]
    columns: dict[str, list[str]] = {name: [] for name in ("type", "questions", "share", "rows")}
    columns |= {"majority answer": [], "majority": []}
    for kind, group in zip(types, groups, strict=True):
        answer, most = Counter(a.answer for a in group).most_common(1)[0]
        rows = [lengths[a.question] for a in group]
        spread = f"{min(rows)}" if min(rows) == max(rows) else f"{min(rows)} to {max(rows)}"
        values = (kind, f"{len(group):,}", f"{len(group) / len(asked):.0%}", spread)
        values += (answer, f"{most / len(group):.0%}")
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    return list(columns.items())


def _caption(spec: ModelSpec, picker: Picker | None, picks: np.ndarray | None) -> str:
    if picker is None or picks is None:
        return "anchors none: no row of the image enters the sequence"
    name = ANCHORS.of(spec.anchors).name
    patches = int((picks[0] >= 0).sum())
    rows = f"{picks.shape[1]} of {spec.dims().vision.tokens} rows"
    if patches:
        what = f"anchors {name}: {rows}, {patches} of them patches, outlined"
    else:
        what = f"anchors {name}: {rows}, made of many patches, none to outline"
    tower = "the base's tower" if picker.trained else "untrained tower: there is no base yet"
    return f"{what} ({tower})"


def _tile(sample: Sample, picks: np.ndarray | None, grid: tuple[int, int]) -> Tile:
    boxes: list[tuple[float, float, float, float]] = []
    if picks is not None:
        height, width = sample.image_HWC.shape[0] / grid[0], sample.image_HWC.shape[1] / grid[1]
        for pick in picks[picks >= 0].tolist():
            row, column = divmod(pick, grid[1])
            boxes.append((column * width, row * height, (column + 1) * width, (row + 1) * height))
    touched = sum(any(_meet(o["box"], box) for box in boxes) for o in sample.objects)
    note = f"{touched} of {len(sample.objects)} objects touched" if boxes else ""
    return Tile(
        name=sample.key,
        note=note,
        image_HWC=sample.image_HWC,
        boxes=boxes,
        lines=[(a.question, a.answer) for a in sample.questions],
    )


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    across = one[0] < other[2] and other[0] < one[2]
    return across and one[1] < other[3] and other[1] < one[3]
