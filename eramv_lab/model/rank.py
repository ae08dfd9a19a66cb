"""Whose attention ranks: which rows are asked before some leave, and how much each counts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from eramv_lab.model.recycle import raters
from eramv_lab.model.rows import Rows, pick
from eramv_lab.slots.reducers import Rankers


class Ranking(NamedTuple):
    """Rows whose attention is asked for."""

    index_BR: Tensor | None
    """Where they stand; None: all rows."""
    weight_BR: Tensor | None
    """What each counts, summing to 1; None: one row alone."""


def ranking(rows: Rows, rankers: Rankers) -> Ranking:
    """The rankers as they stand in the sequence now.

    Without labels there are no answers, and the prompt's end stands for them.
    """
    if rankers == "mean":
        assert rows.end_B is not None
        asked_BS = rows.rows_BS <= rows.end_B[:, None]
        if rows.valid_BS is not None:
            asked_BS = asked_BS & rows.valid_BS
        return Ranking(None, _shares(asked_BS))
    if rankers == "raters":
        assert rows.raters_BT is not None
        index_BL, real_BL = rows.words()
        weight_BL = rows.raters_BT.gather(1, rows.rows_BS.gather(1, index_BL))
        return Ranking(index_BL, weight_BL if real_BL is None else weight_BL * real_BL)
    if rankers == "answers" and rows.answers_BR is not None:
        given_BR = rows.answers_BR >= 0
        return Ranking(_find(rows, rows.answers_BR.clamp(min=0)), _shares(given_BR))
    assert rows.end_B is not None
    return Ranking(_find(rows, rows.end_B[:, None]), None)


def set_raters(rows: Rows) -> None:
    """Choose the words that rate: of the prompt, behind its last image; before the first layer."""
    assert rows.end_B is not None
    index_BL, real_BL = rows.words()
    index_BV, real_BV = rows.patches()
    end_B1 = rows.end_B[:, None]
    asked_BL = rows.rows_BS.gather(1, index_BL) <= end_B1
    begun_BL = rows.begun_BS.gather(1, index_BL)
    asked_BL = asked_BL & (begun_BL == rows.begun_BS.gather(1, end_B1))
    for real in (real_BL, None if rows.valid_BS is None else rows.valid_BS.gather(1, index_BL)):
        asked_BL = asked_BL if real is None else asked_BL & real
    hidden_BSD = rows.hidden_BSD
    weight_BL = raters(pick(hidden_BSD, index_BV), real_BV, pick(hidden_BSD, index_BL), asked_BL)
    empty_BT = weight_BL.new_zeros(rows.rows_BS.shape)
    rows.raters_BT = empty_BT.scatter(1, index_BL, weight_BL)


def _shares(asked_BR: Tensor) -> Tensor:
    asked_BR = asked_BR.float()
    return asked_BR / asked_BR.sum(dim=1, keepdim=True).clamp(min=1)


def _find(rows: Rows, wanted_BR: Tensor) -> Tensor:
    """Where rows of the input stand now: [B,R]."""
    found_BRS = rows.rows_BS[:, None] == wanted_BR[..., None]
    if rows.valid_BS is not None:
        found_BRS = found_BRS & rows.valid_BS[:, None]
    return found_BRS.int().argmax(dim=2)


def answer_starts(target_BT: Tensor, end_B: Tensor) -> Tensor:
    """[B,R] rows before each answer, ascending, -1 where a sample has fewer.

    `target_BT` are labels shifted to the rows that predict them, `end_B` the first such row, or
    what stands for it. One look at the most of a sample.
    """
    asked_BT = target_BT != -100
    first_BT = asked_BT.clone()
    first_BT[:, 1:] &= ~asked_BT[:, :-1]
    most = max(int(first_BT.sum(dim=1).max()), 1)
    order_BR = first_BT.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    starts_BR = torch.where(first_BT.gather(1, order_BR), order_BR, -1)
    return torch.cat([end_B[:, None], starts_BR[:, 1:]], dim=1)
