"""A look at the data: samples with their questions, the patches that an arm picks, and counts."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from safetensors.torch import load_file

from eramv_lab.data.collate import Collator, conversations
from eramv_lab.data.local import local_folder
from eramv_lab.data.module import LabData
from eramv_lab.data.pixels import Square
from eramv_lab.data.reader import Sample, ShardDataset
from eramv_lab.data.shards import Asked, BrokenSample
from eramv_lab.data.sheet import Tile, draw_sheet, short
from eramv_lab.errors import UserError
from eramv_lab.model.build import load_tower
from eramv_lab.recipe import connecting
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.registry import ANCHORS, VISION
from eramv_lab.slots.contracts import Need

Column = tuple[str, list[str]]
MOST_READ = 20_000
"""Most samples whose questions are counted and measured."""
MOST_TYPES = 20
"""Most types that have a row of their own."""


@dataclass(frozen=True)
class Picker:
    """The tower and the selector of an arm."""

    tower: torch.nn.Module
    selector: torch.nn.Module
    trained: bool

    @classmethod
    def of(cls, spec: ModelSpec, weights: Path | None, seed: int = 0) -> Picker | None:
        """Built from a spec, the tower's weights from a file; None where nothing is selected, or
        nothing that can be told from the tower alone.
        """
        if spec.anchors is None or spec.vision.dims().merged or connecting.projects(spec):
            return None
        dims, trained = spec.dims(), weights is not None and weights.is_file()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tower = VISION.of(spec.vision).factory(spec.vision, dims).eval()
            selector = ANCHORS.of(spec.anchors).factory(spec.anchors, dims).eval()
        if weights is not None and trained:
            tower.load_state_dict(load_file(weights))
        elif path := getattr(spec.vision, "path", None):
            load_tower(tower, path)
            trained = True
        return cls(tower, selector, trained)

    @torch.inference_mode()
    def __call__(self, pixels_N3HW: torch.Tensor) -> np.ndarray:
        """Index of the patch of each row, -1 for a row that is no patch, -2 for padding: [N,A]."""
        need = getattr(self.selector, "need", Need.NONE) | Need.CLS
        chosen = self.selector(self.tower(pixels_N3HW, need))
        index_NA = chosen.index_NA
        if chosen.mask_NA is not None:
            index_NA = index_NA.masked_fill(~chosen.mask_NA, -2)
        return index_NA.numpy()


def inspect(
    arm: Mapping[str, Any],
    out: Path,
    *,
    split: str = "train",
    count: int = 8,
    weights: Path | None = None,
    start: Mapping[str, str] | None = None,
    console: Console | None = None,
) -> Path:
    """Draw `count` samples of a split to the PNG `out`, and print what the split holds.

    `arm`: a resolved arm, plain. `weights`: the tower's weights (`vision.safetensors` of a base);
    without them the tower is untrained, and the sheet says so. `start`: as a plan's. A made world
    that is missing is drawn. Samples that are broken are left out and named. Returns `out`. Raises
    UserError for a stream, and where no sample can be read.
    """
    data = LabData(arm, seed=0, start=start)
    shards = _open(data, split)
    broken: dict[str, str] = {}
    samples = list(itertools.islice(_good(shards, broken), count))
    if not samples:
        raise UserError(f"no sample of {split} can be read: {'; '.join(list(broken.values())[:3])}")
    pictured = [sample.image_HWC for sample in samples if sample.image_HWC is not None]
    square = data.data.square
    picker = Picker.of(data.spec, weights) if pictured else None
    picks = None if picker is None else picker(data.pixels(pictured))
    grid = data.spec.vision.dims().grid
    rows = iter(() if picks is None else picks)
    tiles = [
        _tile(sample, None if sample.image_HWC is None else next(rows, None), grid, square)
        for sample in samples
    ]
    title = f"{split}: {len(tiles)} of {len(shards):,} {_called(data)}"
    columns = counts(measured(shards, data.collator, broken))
    draw_sheet(out, title, _caption(data.spec, picker, picks), tiles, columns)
    console = console or Console()
    console.print(_table(_title(shards, split, data), columns))
    if len(shards) > MOST_READ:
        console.print(f"from {MOST_READ:,} samples, spread evenly", highlight=False)
    for key, reason in broken.items():
        console.print(f"broken: {key}: {reason}", markup=False, highlight=False, soft_wrap=True)
    return out


def _open(data: LabData, split: str) -> ShardDataset:
    if data.streams and split == "train":
        raise UserError("a stream's training split is not looked at: it has no samples by number")
    return ShardDataset(local_folder(data.data, split), split)


def _called(data: LabData) -> str:
    return "scenes" if data.data.type == "world" else "samples"


def _good(shards: ShardDataset, broken: dict[str, str]) -> Iterator[Sample]:
    for index in range(len(shards)):
        try:
            yield shards[index]
        except BrokenSample as error:
            broken[error.key] = error.reason


def measured(
    shards: ShardDataset, collator: Collator, broken: dict[str, str]
) -> list[tuple[Asked, int]]:
    """The questions of at most `MOST_READ` samples, from all over the split, and their lengths.

    A length is of a whole prompt: the image, if there is one, the turns before, marks and BOS.
    """
    places = np.linspace(0, len(shards) - 1, min(len(shards), MOST_READ)).astype(int)
    found: list[tuple[Asked, int]] = []
    for index in places.tolist():
        try:
            asked, pictured = shards.questions(index), shards.has_image(index)
        except BrokenSample as error:
            broken[error.key] = error.reason
            continue
        for turns in conversations(asked):
            for last, one in enumerate(turns):
                found.append((one, len(collator.prompt_ids(turns[: last + 1], pictured))))
    return found


def _title(shards: ShardDataset, split: str, data: LabData) -> str:
    told = shards.manifest.counts(split)
    title = f"{split}: {len(shards):,} {_called(data)}"
    if alone := told["samples"] - told["images"]:
        title += f", {alone:,} of them text alone"
    if skipped := len(shards.manifest.skipped):
        title += f"; {skipped:,} were left out at import"
    return title


def _table(title: str, columns: Sequence[Column]) -> Table:
    table = Table(title=title, title_justify="left")
    for name, _ in columns:
        table.add_column(name, justify="left" if name == "type" else "right")
    for row in zip(*(values for _, values in columns), strict=True):
        table.add_row(*map(escape, row))
    return table


def counts(asked: Sequence[tuple[Asked, int]]) -> list[Column]:
    """Columns of a table: by type, and for all, how many, which lengths, how good a blind guess.

    `asked`: questions and the rows of their prompts. Rows are told from least to most; the guess
    is what is answered mostly. Beyond `MOST_TYPES` types, the rarest share a row.
    """
    frequent = [kind for kind, _ in Counter(a.type for a, _ in asked).most_common()]
    types, rare = sorted(frequent[:MOST_TYPES]), frozenset(frequent[MOST_TYPES:])
    groups = [[pair for pair in asked if pair[0].type == kind] for kind in types]
    if rare:
        types.append(f"{len(rare):,} others")
        groups.append([pair for pair in asked if pair[0].type in rare])
    if len(types) > 1:
        types, groups = [*types, "all"], [*groups, list(asked)]
    names = ("type", "questions", "share", "rows", "median", "p95", "mostly", "majority")
    columns: dict[str, list[str]] = {name: [] for name in names}
    for kind, group in zip(types, groups, strict=True):
        answer, most = Counter(a.answer for a, _ in group).most_common(1)[0]
        lengths = [rows for _, rows in group]
        least, median, p95, longest = np.percentile(lengths, (0, 50, 95, 100), method="lower")
        spread = f"{least}" if least == longest else f"{least} to {longest}"
        values = (short(kind, 24), f"{len(group):,}", f"{len(group) / len(asked):.0%}", spread)
        values += (f"{median}", f"{p95}", short(answer, 24), f"{most / len(group):.0%}")
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    return list(columns.items())


def _caption(spec: ModelSpec, picker: Picker | None, picks: np.ndarray | None) -> str:
    if spec.anchors is None:
        return "anchors none: no row of the image enters the sequence"
    name = ANCHORS.of(spec.anchors).name
    if picker is None or picks is None:
        merged = spec.vision.dims().merged
        why = "of what the tower merged" if merged else "chosen behind the connector"
        return f"anchors {name}: {spec.dims().anchors} rows {why}, none to outline"
    patches = int((picks[0] >= 0).sum())
    rows = f"{picks.shape[1]} of {spec.dims().vision.tokens} rows"
    if (picks == -2).any():
        rows = f"{(picks > -2).sum(axis=1).mean():.1f} rows in the mean, at most {rows}"
    if patches:
        what = f"anchors {name}: {rows}, {patches} of them patches, outlined"
    else:
        what = f"anchors {name}: {rows}, made of many patches, none to outline"
    tower = "a trained tower" if picker.trained else "untrained tower: there is no base yet"
    return f"{what} ({tower})"


def _tile(sample: Sample, picks: np.ndarray | None, grid: tuple[int, int], square: Square) -> Tile:
    boxes: list[tuple[float, float, float, float]] = []
    seen = None if sample.image_HWC is None else _seen(sample.image_HWC.shape, square)
    if picks is not None and seen is not None:
        left, top, side = seen
        height, width = side / grid[0], side / grid[1]
        for pick in picks[picks >= 0].tolist():
            row, column = divmod(pick, grid[1])
            x, y = left + column * width, top + row * height
            boxes.append((x, y, x + width, y + height))
    touched = sum(any(_meet(o["box"], box) for box in boxes) for o in sample.objects)
    note = f"{touched} of {len(sample.objects)} objects touched" if boxes and sample.objects else ""
    return Tile(
        name=sample.key,
        note=note,
        image_HWC=sample.image_HWC,
        boxes=boxes,
        lines=[(a.question, a.answer) for a in sample.questions],
    )


def _seen(shape: Sequence[int], square: Square) -> tuple[float, float, float] | None:
    """Left, top and side of what the tower sees, in the image's pixels; None where unknown."""
    height, width = shape[:2]
    if square == "processor" and height != width:
        return None
    side = min(height, width) if square == "crop" else max(height, width)
    return (width - side) / 2, (height - side) / 2, side


def _meet(one: Sequence[float], other: Sequence[float]) -> bool:
    across = one[0] < other[2] and other[0] < one[2]
    return across and one[1] < other[3] and other[1] < one[3]
