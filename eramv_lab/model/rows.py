"""The sequence between two layers, and how rows leave it, enter it and stand still."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from eramv_lab.model.layout import restart
from eramv_lab.model.recycle import cluster
from eramv_lab.slots.reducers import Event


@dataclass(slots=True, kw_only=True)
class Rows:
    """The sequence as it is between two layers."""

    hidden_BSD: Tensor
    rows_BS: Tensor
    """Row of the input that each is."""
    visual_BS: Tensor
    begun_BS: Tensor
    positions_BS: Tensor
    valid_BS: Tensor | None
    segments_BS: Tensor | None
    end_B: Tensor | None
    """Row of the input at which the prompt ends: the one whose attention ranks."""
    answers_BR: Tensor | None = None
    """Rows of the input before each answer, -1 where a sample has fewer."""
    raters_BT: Tensor | None = None
    """Share of each row of the input in a rating by the question."""
    each: int
    """Visual rows of an image."""
    images_B: Tensor
    images: int | None
    """Images per sample, where the host knows that all samples have the same, `each` rows each."""
    whole: Rows | None = None
    """The sequence with the visual rows that still wait."""
    moved: bool = False
    """Some have left: rows no longer stand where the input has them."""
    end_B1: Tensor | None = None
    """Position of the next row, where positions were closed up."""

    @property
    def visual(self) -> int | None:
        """Visual rows per sample, where the host knows that all samples have the same."""
        return None if self.images is None else self.each * self.images

    def take(self, index_BS: Tensor, valid_BS: Tensor | None) -> None:
        """Keep the rows of `index_BS`, in its order."""
        self.moved = True
        self.hidden_BSD = pick(self.hidden_BSD, index_BS)
        for name in ("rows_BS", "visual_BS", "begun_BS", "positions_BS"):
            setattr(self, name, getattr(self, name).gather(1, index_BS))
        if self.segments_BS is not None:
            self.segments_BS = self.segments_BS.gather(1, index_BS)
        self.valid_BS = None if valid_BS is None else valid_BS.gather(1, index_BS)

    def words(self) -> tuple[Tensor, Tensor | None]:
        """[B,L] where the rows stand that are not visual, in order, and which of these are real.

        L is the most of a sample; one look where the host does not know it.
        """
        known = None if self.visual is None else self.visual_BS.shape[1] - self.visual
        return _where(~self.visual_BS, known)

    def patches(self) -> tuple[Tensor, Tensor | None]:
        """[B,V] where the visual rows stand, likewise."""
        return _where(self.visual_BS, self.visual)


def _where(chosen_BS: Tensor, known: int | None) -> tuple[Tensor, Tensor | None]:
    """Where the chosen rows stand, at the end what is `known` of them, and which are real."""
    width = int(chosen_BS.sum(dim=1).max()) if known is None else known
    index_BL = chosen_BS.int().argsort(dim=1, stable=True)[:, chosen_BS.shape[1] - width :]
    return index_BL, chosen_BS.gather(1, index_BL) if known is None else None


@dataclass(frozen=True, slots=True)
class Live:
    """The rows that a layer updates, where it does not update all: the others are keys alone."""

    index_BL: Tensor
    """Where they stand, in order."""
    real_BL: Tensor | None
    """False on what only fills up; None: nothing does."""
    rope: tuple[Tensor, Tensor]
    """cos and sin [B,L,d]."""

    def put(self, rows_BSD: Tensor, live_BLD: Tensor) -> Tensor:
        """`rows_BSD` with the live rows in their places."""
        index_BLD = self.index_BL[..., None].expand(-1, -1, rows_BSD.shape[2])
        if self.real_BL is not None:
            live_BLD = torch.where(self.real_BL[..., None], live_BLD, rows_BSD.gather(1, index_BLD))
        return rows_BSD.scatter(1, index_BLD, live_BLD.to(rows_BSD.dtype))

    def spread(self, weights_BHLK: Tensor | None, rows: int) -> Tensor | None:
        """Attention weights with a row for each of `rows`, zeros for those that ask nothing."""
        if weights_BHLK is None:
            return None
        batch, heads, _, keys = weights_BHLK.shape
        index_BHLK = self.index_BL[:, None, :, None].expand(-1, heads, -1, keys)
        empty = weights_BHLK.new_zeros(batch, heads, rows, keys)
        return empty.scatter(2, index_BHLK, weights_BHLK)

    def find(self, index_BR: Tensor) -> Tensor:
        """Which of the live rows those of the sequence are."""
        return (self.index_BL[:, None] == index_BR[..., None]).int().argmax(dim=2)


def pick(rows_BSD: Tensor, index_BL: Tensor) -> Tensor:
    """[B,L,D] the rows at `index_BL`."""
    return rows_BSD.gather(1, index_BL[..., None].expand(-1, -1, rows_BSD.shape[2]))


def hold_back(rows: Rows, words_BTD: Tensor) -> None:
    """The visual rows wait; the others go on as `words_BTD`, without the others' gradient."""
    rows.whole = dataclasses.replace(rows)
    rows.hidden_BSD = words_BTD
    _leave(rows, ~rows.visual_BS, 0)


def inject(rows: Rows) -> bool:
    """The rows that waited take their places; False if none did."""
    whole = rows.whole
    if whole is None:
        return False
    hidden_BSD = rows.hidden_BSD.to(whole.hidden_BSD.dtype)
    if rows.valid_BS is not None:  # what fills up may be a row that waited
        waiting_BSD = pick(whole.hidden_BSD, rows.rows_BS)
        hidden_BSD = torch.where(rows.valid_BS[..., None], hidden_BSD, waiting_BSD)
    index_BSD = rows.rows_BS[..., None].expand(-1, -1, hidden_BSD.shape[2])
    whole.hidden_BSD = whole.hidden_BSD.scatter(1, index_BSD, hidden_BSD)
    for part in dataclasses.fields(whole):
        setattr(rows, part.name, getattr(whole, part.name))
    return True


def drop(rows: Rows, event: Event, scores_BS: Tensor | None) -> bool:
    """Let visual rows leave by `scores_BS`, or as the event ranks; False if none had to.

    Survivors move right, so that the last row stays last. Where the host knows the counts nothing
    synchronises; else one look at the longest sample, and padding leaves too.
    """
    if event.keep >= rows.each:
        return False
    order_BS = rank_by(rows, event, scores_BS).masked_fill(~rows.visual_BS, -torch.inf)
    best_BS = order_BS.argsort(dim=1, descending=True, stable=True)
    stay_BS = best_BS.argsort(dim=1) < event.keep * rows.images_B[:, None]
    keep_BS = ~rows.visual_BS | stay_BS
    if event.made:
        keep_BS = _merge(rows, event, best_BS, keep_BS)
    _leave(rows, keep_BS, event.left(rows.each))
    if event.positions == "repack":
        _close_up(rows)
    return True


def _merge(rows: Rows, event: Event, best_BS: Tensor, keep_BS: Tensor) -> Tensor:
    """Merge the best of the rows that leave; a cluster's row stands where its centre did.

    `best_BS` are all rows, the best first. Rows that stay come back with the clusters' among them.
    """
    images = int(rows.images_B.max()) if rows.images is None else rows.images
    recycled = min(event.recycled, rows.each - event.keep)
    made = min(event.made, recycled)
    images_B1 = rows.images_B[:, None]
    place_R = torch.arange(recycled * images, device=best_BS.device)
    last = best_BS.shape[1] - 1
    index_BR = best_BS.gather(1, (event.keep * images_B1 + place_R).clamp(max=last))
    real_BR = (place_R < recycled * images_B1) & rows.visual_BS.gather(1, index_BR)
    count_B = torch.minimum(made * rows.images_B, real_BR.sum(dim=1))
    merged_BCD, centre_BC = cluster(
        pick(rows.hidden_BSD, index_BR), real_BR, count_B, made * images, event.merge
    )
    at_BC = index_BR.gather(1, centre_BC)
    counts_BC = torch.arange(made * images, device=at_BC.device) < count_B[:, None]
    index_BCD = at_BC[..., None].expand(-1, -1, merged_BCD.shape[2])
    merged_BCD = torch.where(counts_BC[..., None], merged_BCD, rows.hidden_BSD.gather(1, index_BCD))
    rows.hidden_BSD = rows.hidden_BSD.scatter(1, index_BCD, merged_BCD)
    return keep_BS.scatter(1, at_BC, counts_BC | keep_BS.gather(1, at_BC))


def _leave(rows: Rows, keep_BS: Tensor, each: int) -> None:
    """All but `keep_BS` leave; `each` visual rows of an image stay."""
    if rows.visual is not None and rows.images is not None:
        width = keep_BS.shape[1] - (rows.visual - each * rows.images)
        valid_BS = rows.valid_BS
    else:
        keep_BS = keep_BS if rows.valid_BS is None else keep_BS & rows.valid_BS
        width, valid_BS = int(keep_BS.sum(dim=1).max()), keep_BS
    rows.each = each
    rows.take(keep_BS.int().argsort(dim=1, stable=True)[:, -width:], valid_BS)


def _close_up(rows: Rows) -> None:
    """Positions closed up to 0, 1, 2, ...: rows that shared one go on sharing it, and a packed
    question's go on from the prefix."""
    real_BS = torch.ones_like(rows.visual_BS) if rows.valid_BS is None else rows.valid_BS
    new_BS = real_BS.clone()  # where the row before has another position, or is none
    new_BS[:, 1:] &= (rows.positions_BS[:, 1:] != rows.positions_BS[:, :-1]) | ~real_BS[:, :-1]
    counted_BS = new_BS.long().cumsum(1)
    rows.end_B1 = counted_BS[:, -1:]
    rows.positions_BS = (counted_BS - 1).clamp(min=0)
    if rows.segments_BS is not None:
        rows.positions_BS = restart(rows.positions_BS, rows.segments_BS, real_BS)


def rank_by(rows: Rows, event: Event, scores_BS: Tensor | None) -> Tensor:
    """[B,S] the larger the longer a row stays."""
    if event.looks:
        assert scores_BS is not None
        return scores_BS
    place = rows.rows_BS
    if event.rank == "random":
        total = int(place.shape[1]) if place.device.type == "meta" else int(place.max()) + 1
        drawn = torch.rand(total, generator=torch.Generator().manual_seed(0), device="cpu")
        return drawn.to(place.device)[place.clamp(min=0)].float()
    return -place.float()
