"""Where a model looked: which patches were anchors, and what its band read for the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eramv_lab.errors import UserError
from eramv_lab.model.sight import Sight, asked
from eramv_lab.registry import ANCHORS

if TYPE_CHECKING:
    from eramv_lab.talk.talker import Answer, Question, Seen, Talker

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class LayerLook:
    """What one band layer read of one image, for the answer."""

    layer: int
    shares_P: Floats
    """Share of the attention that each patch got; NaN for one that the band cannot read."""
    cls: float | None
    """What CLS got; None: it is not among the fine features."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """One image: what the tower saw, its anchors, and what was read of it."""

    pixels_HW3: Floats
    """As the tower saw it, in 0 to 1."""
    grid: tuple[int, int]
    anchors: tuple[int, ...]
    """The patches that are rows of the sequence."""
    selector: str
    """Its name, `none` where no row of the image is in the sequence."""
    rows: int
    """Rows of the image in the sequence."""
    cls: bool
    """CLS is one of them."""
    layers: tuple[LayerLook, ...]
    band: tuple[int, ...]
    queries: str
    """Which rows read: all, text, visual; `none` without a band."""

    def caption(self) -> str:
        """Its anchors in words."""
        if self.selector == "none":
            return "anchors none: no row of the image in the sequence"
        if self.selector == "all":
            return f"anchors all: every patch is in the sequence, {self.rows} rows"
        if not self.anchors:
            made = self.rows - int(self.cls)
            made_of = f"{made} made of many patches" if made else "no patch"
            return f"anchors {self.selector}: {made_of}{', and CLS' if self.cls else ''}"
        cls = " and CLS" if self.cls else ""
        return f"anchors {self.selector}: {len(self.anchors)} patches{cls}, outlined"


@torch.inference_mode()
def looks_of(talker: Talker, question: Question, answer: Answer) -> list[Look]:
    """One `Look` for each image of the question. Raises UserError where it has none.

    A layer's map is the attention of the rows that said the answer's tokens, mean over them and
    over heads; with `queries: visual` no such row reads, and there is no map.
    """
    if not question.images:
        raise UserError("the question has no image, so there is nothing to show")
    model = talker.model
    inputs = talker.inputs([question])
    patches = model.see(None, inputs["vision_features"])
    counts = inputs["image_counts"]
    words = asked(inputs.get("question_ids"), inputs.get("question_mask"), counts)
    sight = model.look(patches, words)
    crosses: dict[int, Tensor] = {}
    if model.spec.readers and model.spec.fusion.queries != "visual":
        crosses = _crosses(model, inputs, answer.ids)
    means = _scale(talker.processor.image_processor)
    return [
        _look(model, sight, number, seen, crosses, means)
        for number, seen in enumerate(question.images)
    ]


def _crosses(model: Any, inputs: dict[str, Any], said: Sequence[int]) -> dict[int, Tensor]:
    """Attention [I*M] of the answer's rows to the fine features of all images, by layer."""
    prompt_BT = inputs["input_ids"]
    # the row before each token said it; an answer of no token is what ended it at once
    ids_BT = torch.cat([prompt_BT, prompt_BT.new_tensor([list(said[:-1])]).long()], dim=1)
    end_B = torch.tensor([prompt_BT.shape[1] - 1], device=prompt_BT.device)
    with _eager(model):
        maps = model(
            **{
                **inputs,
                "input_ids": ids_BT,
                "attention_mask": torch.ones_like(ids_BT),
                "prompt_end": end_B,
            },
            logits_to_keep=1,
            output_attentions=True,
        ).attentions
    rows = max(len(said), 1)  # rows that leave are before them
    return {
        layer: maps[layer][1][0, :, -rows:].float().mean(dim=(0, 1)) for layer in model.spec.band
    }


def _look(
    model: Any,
    sight: Sight,
    number: int,
    seen: Seen,
    crosses: dict[int, Tensor],
    means: tuple[Floats, Floats],
) -> Look:
    spec = model.spec
    vision = spec.vision.dims()
    index = [] if sight.index_NA is None else sight.index_NA[number].tolist()
    pixels = seen.pixels_3HW.float().cpu().numpy().transpose(1, 2, 0) * means[1] + means[0]
    layers = []
    for layer, cross in crosses.items():
        assert sight.fine_NM is not None
        patch_M = sight.fine_NM[number].cpu().numpy()
        cross_M = cross.reshape(-1, len(patch_M))[number].cpu().numpy()
        shares_P = np.full(vision.patches, np.nan, dtype=np.float32)
        shares_P[patch_M[patch_M >= 0]] = cross_M[patch_M >= 0]
        cls = float(cross_M[patch_M < 0].sum()) if (patch_M < 0).any() else None
        layers.append(LayerLook(layer=layer, shares_P=shares_P, cls=cls))
    return Look(
        pixels_HW3=pixels.clip(0, 1).astype(np.float32),
        grid=vision.grid,
        anchors=tuple(patch for patch in index if patch >= 0),
        selector="none" if spec.anchors is None else ANCHORS.of(spec.anchors).name,
        rows=len(index),
        cls=bool(spec.anchors is not None and spec.anchors.takes_cls),
        layers=tuple(layers),
        band=tuple(spec.band),
        queries="none" if spec.fusion is None else spec.fusion.queries,
    )


def _scale(image_processor: Any) -> tuple[Floats, Floats]:
    """Mean and deviation of each channel, as the image processor takes them out."""
    mean, std = 0.0, 1.0
    if getattr(image_processor, "do_normalize", True):
        mean = getattr(image_processor, "image_mean", None) or mean
        std = getattr(image_processor, "image_std", None) or std
    return np.asarray(mean, dtype=np.float32), np.asarray(std, dtype=np.float32)


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """The language model with the attention that tells its weights."""
    config = model.language_model.config
    before = config._attn_implementation
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = before
