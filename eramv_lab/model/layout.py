"""Where everything stands: kinds, images and rotary positions of the input's rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The rows of one input, before any leaves."""

    visual_BT: Tensor
    """True where a row stands for a visual token."""
    filled_BT: Tensor
    """These, and the padding of images whose selector keeps fewer rows than it may."""
    begun_BT: Tensor
    """Images begun up to and including this row."""
    positions_BT: Tensor
    starts_BI: Tensor
    """Position of the first row of each image of a sample."""
    valid_BT: Tensor | None
    """False on padding; None: there is none."""
    segments_BT: Tensor | None
    """0 in the shared prefix, j in packed question j."""


def lay_out(
    visual_BT: Tensor,
    valid_BT: Tensor | None,
    segments_BT: Tensor | None,
    *,
    rows: int,
    images: int,
    span: int | None = None,
    one: bool = False,
    offset_BT: Tensor | None = None,
    spare_BT: Tensor | None = None,
) -> Layout:
    """Count the rows of an input.

    `rows` visual rows stand for an image and a sample has at most `images`. Positions go up by
    one a row; with `one`, an image's rows share an id; with `span`, an image reserves that many
    ids and `offset_BT` places its rows in them. Packed questions each go on from the prefix.
    `spare_BT` marks visual rows that are padding: they take no id.
    """
    real_BT = torch.ones_like(visual_BT) if valid_BT is None else valid_BT
    filled_BT = visual_BT & real_BT
    nth_BT = filled_BT.long().cumsum(1) - 1
    first_BT = filled_BT & (nth_BT % rows == 0)
    begun_BT = first_BT.long().cumsum(1)
    if spare_BT is not None:
        valid_BT = real_BT = real_BT & ~spare_BT
    visual_BT = filled_BT & real_BT
    step_BT = real_BT & (first_BT | ~visual_BT) if one or span else real_BT
    positions_BT = step_BT.long().cumsum(1) - 1
    if span:
        positions_BT = positions_BT + (begun_BT - visual_BT.long()) * (span - 1)
    starts_BI = positions_BT.new_zeros(visual_BT.shape[0], max(images, 1))
    starts_BI = starts_BI.scatter_add(
        1, (begun_BT - 1).clamp(min=0, max=max(images, 1) - 1), positions_BT * first_BT
    )
    if offset_BT is not None:
        positions_BT = positions_BT + offset_BT
    positions_BT = positions_BT.clamp(min=0)
    if segments_BT is not None:
        positions_BT = restart(positions_BT, segments_BT, real_BT)
    return Layout(
        visual_BT=visual_BT,
        filled_BT=filled_BT,
        begun_BT=begun_BT,
        positions_BT=positions_BT,
        starts_BI=starts_BI,
        valid_BT=valid_BT,
        segments_BT=segments_BT,
    )


def restart(positions_BT: Tensor, segments_BT: Tensor, real_BT: Tensor) -> Tensor:
    """Each packed question's rows go on from where the first one does."""
    far = positions_BT.shape[1] + int(1e6)
    first_BJ = positions_BT.new_full(positions_BT.shape, far)
    first_BJ = first_BJ.scatter_reduce(
        1, segments_BT, torch.where(real_BT, positions_BT, far), reduce="amin"
    )
    asked_BT = (segments_BT > 0) & real_BT
    after_B1 = torch.where(asked_BT, positions_BT, far).amin(1, keepdim=True)
    moved_BT = positions_BT - first_BJ.gather(1, segments_BT) + after_B1
    return torch.where(segments_BT == 0, positions_BT, moved_BT).clamp(min=0)
