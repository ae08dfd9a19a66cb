"""An input made ready for the decoder: images counted, rows laid out and filled."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eramv_lab.model.cache import StreamCache
from eramv_lab.model.layout import Layout, lay_out
from eramv_lab.model.rank import answer_starts, set_raters
from eramv_lab.model.rows import Rows, hold_back
from eramv_lab.model.sight import Sight
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.shapes import Dims
from eramv_lab.slots.reducers import Event


def real_rows(mask: Tensor | None, width: int, seen: int) -> Tensor | None:
    """[B,T] True on the real ones of the last `width` rows; None where all are."""
    if mask is None or (seen and mask.shape[1] < seen + width):
        return None
    valid_BT = mask[:, -width:].bool()
    if valid_BT.device.type == "cpu" and bool(valid_BT.all()):
        return None  # the causal kernel stays in use; on an accelerator this look would wait
    return valid_BT


def count_images(
    visual_BT: Tensor, images: int, rows: int, given: Sequence[int] | None
) -> tuple[int, ...]:
    """Images of each sample: as given, or counted from the placeholders (`rows` an image).

    Raises ValueError where placeholders and images do not fit. Counting looks at the input once;
    with `given` on an accelerator nothing waits.
    """
    batch = visual_BT.shape[0]
    if visual_BT.device.type == "meta":
        return tuple(given) if given is not None else (images // batch,) * batch
    counts = None if given is None else tuple(given)
    if counts is not None and visual_BT.device.type != "cpu":
        return counts
    placeholders = visual_BT.sum(dim=1).tolist()
    found = tuple(row // rows for row in placeholders)
    if any(row % rows for row in placeholders) or sum(found) != images:
        raise ValueError(
            f"{sum(placeholders)} image placeholders in input_ids, but {images} images of "
            f"{rows} rows each"
        )
    if counts is not None and counts != found:
        raise ValueError(f"image_counts {counts}, but input_ids hold {found}")
    return found


def refuse_images(images: bool) -> None:
    """Raise ValueError where rows that go on from a cache bring images."""
    if images:
        raise ValueError("an image in a later turn is not supported; start without a cache")


def arrange(
    visual_BT: Tensor,
    valid_BT: Tensor | None,
    segments_BT: Tensor | None,
    *,
    spec: ModelSpec,
    dims: Dims,
    counts: Sequence[int],
    sight: Sight | None,
    past: StreamCache | None,
) -> Layout:
    """Positions of this input; those of a later one go on from the cache."""
    if past is not None and past.record.seen:
        if segments_BT is not None:
            raise ValueError("packed questions cannot go on from a cache")
        if valid_BT is None:
            return _words_on(visual_BT, past)
    span, offset_BT = None, None
    if spec.prompt.positions == "grid":
        cls = int(spec.anchors is not None and spec.anchors.takes_cls)
        span = dims.vision.patches + cls
        if sight is not None and sight.index_NA is not None:
            offset_BT = torch.zeros_like(visual_BT, dtype=torch.long)
            offset_BT = offset_BT.masked_scatter(visual_BT, sight.index_NA + cls)
    spare_BT = None
    if sight is not None and sight.mask_NA is not None:
        spare_BT = torch.zeros_like(visual_BT).masked_scatter(visual_BT, ~sight.mask_NA)
    layout = lay_out(
        visual_BT,
        valid_BT,
        segments_BT,
        rows=max(dims.visual, 1),
        images=max(counts, default=0),
        span=span,
        one=spec.prompt.positions == "one",
        offset_BT=offset_BT,
        spare_BT=spare_BT,
    )
    if past is None:
        return layout
    before_B1 = past.record.position_B1
    if before_B1 is not None:
        layout = dataclasses.replace(layout, positions_BT=layout.positions_BT + before_B1)
    real_BT = layout.positions_BT
    if layout.valid_BT is not None:
        real_BT = real_BT.masked_fill(~layout.valid_BT, -1)
    end_B1 = real_BT.amax(dim=1, keepdim=True) + 1
    past.record.position_B1 = end_B1 if before_B1 is None else torch.maximum(before_B1, end_B1)
    return layout


def _words_on(visual_BT: Tensor, past: StreamCache) -> Layout:
    """New rows that are words, all of them real: decoding. An id each, the next ones."""
    start_B1, rows = past.record.position_B1, visual_BT.shape[1]
    assert start_B1 is not None
    past.record.position_B1 = start_B1 + rows
    positions_BT = start_B1
    if rows > 1:
        positions_BT = start_B1 + torch.arange(rows, device=start_B1.device)
    return Layout(
        visual_BT=visual_BT,
        filled_BT=visual_BT,
        begun_BT=visual_BT.long(),
        positions_BT=positions_BT,
        starts_BI=start_B1,
        valid_BT=None,
        segments_BT=None,
    )


def fill(
    embed: nn.Module,
    input_ids: Tensor,
    layout: Layout,
    counts: Sequence[int],
    sight: Sight | None,
    rows: int,
    *,
    wait: bool = False,
) -> Rows:
    """The sequence before the first layer: words embedded, anchors in their places, or waiting."""
    words_BTD = hidden_BTD = embed(input_ids)
    if sight is not None and sight.visual_NAD is not None:
        hidden_BTD = hidden_BTD.masked_scatter(
            layout.filled_BT[..., None], sight.visual_NAD.to(hidden_BTD.dtype)
        )
    adapts = sight is not None and sight.mask_NA is not None  # to what the host does not know
    same = len(set(counts)) == 1 and not adapts
    index_BT = torch.arange(input_ids.shape[1], device=input_ids.device)
    found = Rows(
        hidden_BSD=hidden_BTD,
        rows_BS=index_BT.expand(input_ids.shape[0], -1),
        visual_BS=layout.visual_BT,
        begun_BS=layout.begun_BT,
        positions_BS=layout.positions_BT,
        valid_BS=layout.valid_BT,
        segments_BS=layout.segments_BT,
        end_B=None,
        each=rows,
        images_B=torch.tensor(counts, device=input_ids.device),
        images=counts[0] if same else None,
    )
    if wait:
        hold_back(found, words_BTD)
    return found


def prompt_end(
    given_B: Tensor | None,
    target_BT: Tensor | None,
    valid_BT: Tensor | None,
    input_ids: Tensor,
) -> Tensor:
    """[B] the prompt's last row: as given, or the first that is supervised, or the last real one.

    `target_BT` are labels already shifted to the rows that predict them.
    """
    if given_B is not None:
        return given_B
    real_BT = torch.ones_like(input_ids) if valid_BT is None else valid_BT.long()
    place_BT = torch.arange(input_ids.shape[1], device=input_ids.device)
    last_B = (real_BT * place_BT).argmax(dim=1)
    if target_BT is None:
        return last_B
    supervised_BT = target_BT != -100
    return torch.where(supervised_BT.any(dim=1), supervised_BT.int().argmax(dim=1), last_B)


def set_rankers(
    rows: Rows,
    events: Sequence[Event],
    given_B: Tensor | None,
    target_BT: Tensor | None,
    valid_BT: Tensor | None,
    input_ids: Tensor,
) -> None:
    """Say whose attention ranks: where the prompt ends and, in training, where answers begin."""
    end_B = prompt_end(given_B, target_BT, valid_BT, input_ids)
    answers_BR = None
    by_answers = any(event.rankers == "answers" for event in events)
    if by_answers and given_B is None and target_BT is not None:
        answers_BR = answer_starts(target_BT, end_B)
    whole = rows if rows.whole is None else rows.whole
    whole.end_B, whole.answers_BR = end_B, answers_BR
    if any(event.rankers == "raters" and event.keep < whole.each for event in events):
        set_raters(whole)
