"""The layers of a finished fit, measured on its own data by the rules of VTW and ShortV."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from transformers.utils import logging

from eramv_lab.analyse.layers import (
    TOLERANCE,
    Withdrawal,
    calibration,
    contributions,
    freezing_order,
    withdrawal,
)
from eramv_lab.data.collate import Batch
from eramv_lab.data.examples import Examples
from eramv_lab.data.files import progress
from eramv_lab.data.module import LabData
from eramv_lab.data.shards import BrokenSample
from eramv_lab.errors import Problem, UserError
from eramv_lab.evaluate.generate import move
from eramv_lab.model import EramvForConditionalGeneration
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.report.runs import Run
from eramv_lab.slots.reducers.shortv import ShortvConfig

SPLIT = "val"
"""Where the prompts are from: `test` judges in the end and must choose nothing."""
IMAGES = 40
"""ShortV's code takes so many, VTW's 20."""
TOGETHER = 4
"""Images whose questions pass through the model together."""


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What each layer of a fit does with its visual rows, and what the two rules make of it."""

    run: Run
    images: int
    prompts: int
    contributions: dict[int, float]
    withdrawal: Withdrawal
    tolerance: float

    @property
    def order(self) -> tuple[int, ...]:
        """All layers in ShortV's order of freezing."""
        return freezing_order(self.contributions)

    @property
    def frozen(self) -> tuple[int, ...]:
        """Layers that freeze at ShortV's published share."""
        return ShortvConfig(order=self.order).frozen(len(self.order))

    @property
    def vtw(self) -> dict[str, Any] | None:
        """`model.reducer` by VTW's rule; None where no layer is within the tolerance."""
        layer = self.withdrawal.layer
        return None if layer is None else {"type": "vtw", "layer": layer}

    @property
    def shortv(self) -> dict[str, Any]:
        """`model.reducer` by ShortV's rule."""
        active = len(self.order) - len(self.frozen)
        return {"type": "shortv", "active": active, "order": list(self.order)}


def analyse_run(
    run: Run,
    *,
    images: int = IMAGES,
    tolerance: float = TOLERANCE,
    device: torch.device | str = "cpu",
    shown: bool = True,
) -> Layers:
    """Measure every layer of a finished fit by the first `images` images of its split `val`.

    `shown`: bars where there is a terminal. Raises UserError for a fit whose model changes its
    visual rows on their way, whose data has no such split, or whose files are broken.
    """
    plain = run.result.get("recipe")
    if not plain:
        raise UserError(Problem(message="has no recipe", file=str(run.folder / "result.json")))
    # its own folder has the words and pixels that it learnt by; what it began from may be gone
    data = LabData(plain, seed=run.seed, start={"model": str(run.folder)}, shown=shown)
    if problems := list(_misfits(run, data.spec)):
        raise UserError(problems)
    model = _model(run).to(device)
    part = data.examples(SPLIT)
    numbers = _pictured(data, part, images)
    prompts = 0

    def batches(label: str) -> Iterator[Batch]:
        nonlocal prompts
        prompts = 0
        made = calibration(part, data.collator, numbers, TOGETHER)
        for batch in progress(made, ceil(len(numbers) / TOGETHER), label, shown=shown):
            prompts += len(batch["input_ids"])
            yield move(batch, device)

    return Layers(
        run=run,
        contributions=contributions(model, batches("frozen in each layer")),
        withdrawal=withdrawal(model, batches("withdrawn before each"), tolerance=tolerance),
        tolerance=tolerance,
        images=len(numbers),
        prompts=prompts,
    )


def _model(run: Run) -> Any:
    """The fit's model; transformers' own bar would stand above ours."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return EramvForConditionalGeneration.from_pretrained(run.folder, dtype="auto")
    finally:
        if shown:
            logging.enable_progress_bar()


def _pictured(data: LabData, part: Examples, count: int) -> list[int]:
    """The first samples with an image that can be read; text alone would dilute the means."""
    found: list[int] = []
    for index in range(len(part)):
        if len(found) == count:
            break
        if not part.shards.has_image(index):
            continue
        try:
            part.require(index)
            part.shards.questions(index)
        except BrokenSample as error:
            data.note({error.key: error.reason})
        else:
            found.append(index)
    if not found:
        raise UserError(
            f"no sample of {SPLIT!r} has an image that can be read: {part.shards.folder}"
        )
    return found


def _misfits(run: Run, spec: ModelSpec) -> Iterator[Problem]:
    """Why the rules do not speak of this model: they are for visual rows in every layer."""
    where, whole = str(run.folder), "both rules are for a model whose visual rows alone"
    whole += " bring the image, and pass through every layer"
    if spec.band:
        layers = ", ".join(map(str, spec.band))
        message = f"layers {layers} also take image features from beside the sequence; {whole}"
        yield Problem(message=message, file=where, key="model.band", allowed=("none",))
    if spec.reducer:
        names = ", ".join(one["type"] for one in spec.to_plain()["reducer"])
        message = f"{names} already drops, freezes or holds back visual rows; {whole}"
        if source := _weights_of(run):
            message += f". It is training-free, its weights are those of {source}: analyse that"
        yield Problem(message=message, file=where, key="model.reducer", allowed=("none",))
    if not spec.dims().visual:
        message = f"the sequence has no visual rows; {whole}"
        yield Problem(message=message, file=where, key="model.anchors")


def _weights_of(run: Run) -> str | None:
    """The fit whose weights a training-free one uses as they are."""
    if (run.recipe.get("train") or {}).get("steps"):
        return None
    return (run.result.get("start") or {}).get("arm")
