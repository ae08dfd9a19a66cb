"""SparseVLM's two pieces: who of the question rates, and how rows that leave are merged."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


@torch.no_grad()
def raters(
    visual_BVD: Tensor, real_BV: Tensor | None, words_BLD: Tensor, asked_BL: Tensor
) -> Tensor:
    """[B,L] the share of each word in a rating: of those asked, alike if near to the image.

    Nearness is the mean over visual rows of their softmax over the words; the mean over the words
    is the bar (arXiv 2410.04417, sec. 3.2). `real_BV` is False on what only fills up.
    """
    near_BVL = visual_BVD @ words_BLD.transpose(1, 2)
    near_BVL = near_BVL.float().masked_fill(~asked_BL[:, None], -torch.inf).softmax(dim=2)
    if real_BV is None:
        near_BL = near_BVL.mean(dim=1)
    else:
        near_BVL = near_BVL * real_BV[..., None]
        near_BL = near_BVL.sum(dim=1) / real_BV.sum(dim=1, keepdim=True).clamp(min=1)
    bar_B1 = near_BL.sum(dim=1, keepdim=True) / asked_BL.sum(dim=1, keepdim=True)
    rating_BL = (asked_BL & (near_BL >= bar_B1 * (1 - 1e-5))).float()
    return rating_BL / rating_BL.sum(dim=1, keepdim=True)


class Clusters(NamedTuple):
    """What became of the rows."""

    merged_BCD: Tensor
    centre_BC: Tensor
    """Row that is the centre of each."""


def cluster(rows_BRD: Tensor, real_BR: Tensor, count_B: Tensor, most: int, merge: str) -> Clusters:
    """Rows merged by density peaks: `count_B` clusters of each sample, at most `most`.

    A row's density falls with the mean squared distance to its nearest, as many as there will be
    clusters and itself among them; its lead is the distance to the nearest denser row. Density
    times lead makes centres, and every row goes to the nearest centre. Merged is the mean, or the
    sum. The choice has no gradient.
    """
    centre_BC, of_BR = _choose(rows_BRD.detach().float(), real_BR, count_B, most)
    index_BRD = of_BR[..., None].expand(-1, -1, rows_BRD.shape[2])
    empty = rows_BRD.new_zeros(rows_BRD.shape[0], most + 1, rows_BRD.shape[2])
    merged_BCD = empty.scatter_add(1, index_BRD, rows_BRD)[:, :most]
    if merge == "mean":
        members = empty.new_zeros(empty.shape[:2]).scatter_add(
            1, of_BR, torch.ones_like(of_BR).to(empty.dtype)
        )
        merged_BCD = merged_BCD / members[:, :most, None].clamp(min=1)
    return Clusters(merged_BCD, centre_BC)


@torch.no_grad()
def _choose(rows_BRD: Tensor, real_BR: Tensor, count_B: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Centres [B,C], and each row's cluster [B,R] (`most` for what is no row)."""
    square_BR = rows_BRD.square().sum(dim=2)
    near_BRR = square_BR[:, :, None] + square_BR[:, None] - 2 * rows_BRD @ rows_BRD.transpose(1, 2)
    near_BRR = near_BRR.clamp(min=0) / rows_BRD.shape[2]  # squared, by channel
    near_BRR = (near_BRR + near_BRR.transpose(1, 2)) / 2  # rounding decides no tie
    near_BRR.diagonal(dim1=1, dim2=2).zero_()
    both_BRR = real_BR[:, :, None] & real_BR[:, None]
    far_BRR = near_BRR.masked_fill(~both_BRR, torch.inf)
    rows = rows_BRD.shape[1]
    nearest_BRk = far_BRR.topk(min(most, rows), dim=2, largest=False).values
    number_C = torch.arange(most, device=rows_BRD.device)
    counts_BC = number_C < count_B[:, None]
    found_BRk = nearest_BRk.isfinite() & counts_BC[:, None, : nearest_BRk.shape[2]]
    spread_BR = nearest_BRk.masked_fill(~found_BRk, 0).sum(dim=2) / found_BRk.sum(dim=2).clamp(
        min=1
    )
    density_BR = (-spread_BR).exp().masked_fill(~real_BR, -1)
    place_R = torch.arange(rows, device=rows_BRD.device)
    denser_BRR = density_BR[:, None] > density_BR[:, :, None]
    denser_BRR |= (density_BR[:, None] == density_BR[:, :, None]) & (place_R < place_R[:, None])
    lead_BR = far_BRR.masked_fill(~denser_BRR, torch.inf).amin(dim=2)
    widest_B11 = near_BRR.masked_fill(~both_BRR, 0).amax(dim=(1, 2), keepdim=True)
    lead_BR = torch.minimum(lead_BR, widest_B11[..., 0]).sqrt()
    worth_BR = (lead_BR * density_BR).masked_fill(~real_BR, -torch.inf)
    centre_BC = worth_BR.argsort(dim=1, descending=True, stable=True)[:, :most]
    index_BRC = centre_BC[:, None].expand(-1, rows, -1)
    reach_BRC = far_BRR.gather(2, index_BRC).masked_fill(~counts_BC[:, None], torch.inf)
    of_BR = reach_BRC.argmin(dim=2)
    own_BC = torch.where(counts_BC, number_C, of_BR.gather(1, centre_BC))
    of_BR = of_BR.scatter(1, centre_BC, own_BC)  # a centre is its own, whoever is its twin
    return centre_BC, of_BR.masked_fill(~real_BR, most)
