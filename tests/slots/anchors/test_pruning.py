"""DivPrune, PruMerge and VisionZip against slow readings of their definitions, image by image."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from eramv_lab.registry import ANCHORS
from eramv_lab.shapes import Dims, LanguageDims, VisionDims
from eramv_lab.slots.contracts import Anchors, Patches

HEADS, WIDTH = 2, 8
LANGUAGE = LanguageDims(width=12, layers=2, heads=2, kv_heads=2, head_dim=6, ffn=8, vocab=9)


def dims(side: int = 6) -> Dims:
    vision = VisionDims(
        image=48, grid=(side, side), width=WIDTH, heads=HEADS, ffn=8, layers=1, has_cls=True
    )
    return Dims(vision=vision, language=LANGUAGE)


def images(count: int = 3, side: int = 6, peaks: float = 1.5) -> Patches:
    """`peaks` is the scale of CLS's logits: the larger, the more stand out."""
    torch.manual_seed(0)
    rows = side * side
    return Patches(
        states_NPV=torch.randn(count, rows, WIDTH),
        grid=(side, side),
        cls_NV=torch.randn(count, WIDTH),
        cls_attention_NHP=torch.randn(count, HEADS, rows).softmax(-1),
        keys_NPV=torch.randn(count, rows, WIDTH),
        cls_logits_NP=(peaks * torch.randn(count, rows + 1)).log_softmax(-1)[:, 1:],
        logit_keys_NPV=torch.randn(count, rows, WIDTH),
    )


def alike(count: int = 2, side: int = 4) -> Patches:
    """Every patch of an image is the same."""
    one, rows = images(count, side), side * side

    def same(x: Any) -> Tensor:
        return x[:, :1].expand_as(x).contiguous()

    return Patches(
        states_NPV=same(one.states_NPV),
        grid=one.grid,
        cls_NV=one.cls_NV,
        cls_attention_NHP=torch.full((count, HEADS, rows), 1 / (rows + 1)),
        keys_NPV=same(one.keys_NPV),
        cls_logits_NP=torch.full((count, rows), -1.0) - float(np.log(rows)),
        logit_keys_NPV=same(one.logit_keys_NPV),
    )


def select(
    name: str, patches: Patches, projected_NPD: Tensor | None = None, **options: Any
) -> Anchors:
    component = ANCHORS.get(name)
    config = component.config(**options)
    return component.factory(config, dims(patches.grid[0]))(
        replace(patches, projected_NPD=projected_NPD)
    )


def best(scores: Tensor, count: int) -> list[int]:
    return sorted(range(len(scores)), key=lambda p: (-float(scores[p]), p))[:count]


# DivPrune


def divprune(rows_PD: Tensor, count: int) -> list[int]:
    patches = range(len(rows_PD))
    far = [[1 - float(cosine_similarity(rows_PD[i], rows_PD[j], dim=0)) for j in patches]
           for i in patches]  # fmt: skip
    chosen: list[int] = []
    while len(chosen) < count:
        left = [p for p in patches if p not in chosen]
        against = {p: chosen or [q for q in patches if q != p] for p in left}
        nearest = {p: min([far[p][q] for q in against[p]], default=9.0) for p in left}
        chosen.append(max(left, key=lambda p: (nearest[p], -p)))
    return sorted(chosen)


@pytest.mark.parametrize("count", [1, 2, 7, 36])
def test_divprune_is_greedy_max_min(count: int):
    patches = images()
    projected = torch.randn(3, 36, LANGUAGE.width)
    found = select("divprune", patches, projected, count=count)
    for n in range(3):
        assert found.index_NA[n].tolist() == divprune(projected[n], count)
        assert torch.equal(found.states_NAV[n], patches.states_NPV[n, found.index_NA[n]])


def test_divprune_takes_no_patch_twice():
    patches = alike()
    found = select("divprune", patches, torch.ones(2, 16, LANGUAGE.width), count=5)
    assert found.index_NA.tolist() == [[0, 1, 2, 3, 4]] * 2
    two = torch.ones(2, 16, LANGUAGE.width)
    two[:, 9, 0] = -5  # the only other one is farthest from all
    assert select("divprune", patches, two, count=2).index_NA.tolist() == [[0, 9]] * 2
    zeros = select("divprune", patches, 0 * two, count=3)
    assert zeros.index_NA.tolist() == [[0, 1, 2]] * 2


def test_divprune_of_one_patch():
    found = select("divprune", images(2, 1), torch.randn(2, 1, LANGUAGE.width), count=1)
    assert found.index_NA.tolist() == [[0], [0]]


# PruMerge


def prumerge(patches: Patches, n: int, **o: Any) -> Tensor:
    states, keys = patches.states_NPV[n], patches.logit_keys_NPV[n]  # type: ignore[index]
    a_P = patches.cls_logits_NP[n].exp()  # type: ignore[index]
    count, plus, total = o.get("count"), o.get("plus", False), len(a_P)
    if count is None:
        q1, q3 = np.percentile(a_P.numpy(), [25, 75])
        top = best(a_P, max(1, int((a_P.numpy() > q3 + 1.5 * (q3 - q1)).sum())))
        step = max(1, total // len(top) // 3)
        more = [p for p in range(0, total - 1, step) if p not in top]
    else:
        top = best(a_P, count - count // 2 if plus else count)
        left, m = [p for p in range(total) if p not in top], count // 2 * plus
        more = [left[(2 * j + 1) * len(left) // (2 * m)] for j in range(m)]
    kept = (top + more * plus)[: o.get("most") or total]
    rows: list[Tensor] = []
    for p in kept if o.get("order") == "score" else sorted(kept):
        others = [q for q in range(total) if q != p]
        others.sort(key=lambda q: (-float(cosine_similarity(keys[p], keys[q], dim=0)), q))
        near = others[: o.get("neighbours", 32)]
        rows.append(sum((a_P[q] * states[q] for q in near), states[p]))
    rest = [a_P[q] * states[q] for q in range(total) if q not in kept]
    return torch.stack([*rows, sum(rest, torch.zeros(WIDTH))])


OPTIONS: list[dict[str, Any]] = [
    {},
    {"order": "score"},
    {"count": 5},
    {"count": 36},
    {"count": 1, "neighbours": 0},
    {"plus": True},
    {"plus": True, "order": "score", "neighbours": 4},
    {"plus": True, "most": 9},
    {"most": 2, "order": "score"},
    {"plus": True, "count": 9, "order": "score"},
    {"plus": True, "count": 36},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_prumerge_is_its_definition(options: dict[str, Any]):
    patches = images(4)
    found = select("prumerge", patches, **options)
    assert (found.index_NA == -1).all() and found.states_NAV.shape[1] == found.index_NA.shape[1]
    counts: set[int] = set()
    for n in range(4):
        rows = found.states_NAV[n]
        if found.mask_NA is not None:
            assert not rows[~found.mask_NA[n]].any() and bool(found.mask_NA[n, 0])
            rows = rows[found.mask_NA[n]]
        torch.testing.assert_close(rows, prumerge(patches, n, **options))
        counts.add(len(rows))
    assert (found.mask_NA is None) == ("count" in options)
    assert len(counts) > 1 or "count" in options or "most" in options


def test_prumerge_of_a_flat_attention_keeps_one_patch_and_the_rest():
    found = select("prumerge", alike())
    assert found.mask_NA is not None and found.mask_NA.sum(dim=1).tolist() == [2, 2]
    assert found.mask_NA.shape == (2, 5)  # at most a quarter of 16 stand out
    one = images(2, 1)
    kept = select("prumerge", one)
    assert kept.mask_NA is not None and kept.mask_NA.all()
    assert torch.equal(kept.states_NAV[:, :1], one.states_NPV)
    assert not kept.states_NAV[:, 1].any()
    both = select("prumerge", one, plus=True, cls=True)
    assert both.index_NA.shape == (2, 3) and torch.equal(both.states_NAV[:, 0], one.cls_NV)


def test_no_more_can_stand_out_than_there_is_room_for():
    component = ANCHORS.get("prumerge")
    for side in (1, 2, 3, 5, 12, 24):
        patches, config = side * side, component.config()
        room = config.kept_of(dims(side).vision)
        scores = torch.zeros(patches)
        scores[-room:] = 1  # as many as can lie above their own third quartile
        q1, q3 = np.percentile(scores.numpy(), [25, 75])
        above = int((scores.numpy() > q3 + 1.5 * (q3 - q1)).sum())
        assert above <= room and (above == room or patches == 1)
        scores[-room - 1 :] = 1
        q1, q3 = np.percentile(scores.numpy(), [25, 75])
        assert int((scores.numpy() > q3 + 1.5 * (q3 - q1)).sum()) <= room


def test_the_weights_of_a_merge_take_no_gradient():
    patches = images(1)
    logits, keys = patches.cls_logits_NP, patches.logit_keys_NPV
    assert logits is not None and keys is not None
    for tensor in (patches.states_NPV, logits, keys):
        tensor.requires_grad_()
    select("prumerge", patches).states_NAV.sum().backward()
    assert patches.states_NPV.grad is not None and logits.grad is None and keys.grad is None


# VisionZip


def visionzip(patches: Patches, n: int, dominant: int, contextual: int) -> tuple[Tensor, list[int]]:
    states, heads = patches.states_NPV[n], patches.cls_attention_NHP[n]  # type: ignore[index]
    metric = patches.keys_NPV[n].view(len(states), HEADS, -1).mean(1)  # type: ignore[index]
    kept = sorted(best(heads.sum(0), dominant))
    rest = [p for p in range(len(states)) if p not in kept]
    targets = rest[:: max(1, len(rest) // max(contextual, 1))][:contextual]
    members: dict[int, list[int]] = {t: [] for t in targets}
    for p in rest if contextual else []:
        if p not in targets:
            cosine = {t: float(cosine_similarity(metric[p], metric[t], dim=0)) for t in targets}
            members[max(targets, key=lambda t, c=cosine: (c[t], -t))].append(p)
    rows = [states[p] for p in kept]
    for target, joined in members.items():
        mean = states[joined].mean(0) if joined else torch.zeros(WIDTH)
        rows.append(states[target] + mean)
    return torch.stack(rows), kept + [-1] * contextual


@pytest.mark.parametrize(
    ("count", "contextual"), [(9, 4), (9, 0), (3, 3), (36, 5), (36, 36), (35, 1), (20, None)]
)
def test_visionzip_is_its_definition(count: int, contextual: int | None):
    patches = images()
    found = select("visionzip", patches, count=count, contextual=contextual, cls=False)
    merged = 3 if contextual is None else contextual  # ten of 64 of twenty
    for n in range(3):
        rows, index = visionzip(patches, n, count - merged, merged)
        assert found.index_NA[n].tolist() == index
        torch.testing.assert_close(found.states_NAV[n], rows)
    whole = select("visionzip", patches, count=count, contextual=merged)
    assert torch.equal(whole.states_NAV[:, 0], patches.cls_NV)  # type: ignore[arg-type]
    assert torch.equal(whole.states_NAV[:, 1:], found.states_NAV)


@pytest.mark.parametrize(("rows", "contextual"), [(64, 10), (128, 20), (192, 30)])
def test_visionzip_parts_its_rows_as_the_paper(rows: int, contextual: int):
    config = ANCHORS.get("visionzip").config(count=rows - 1)
    assert config.merged == contextual and config.count_of(dims(24).vision) == rows


def test_visionzip_of_identical_patches_and_of_one():
    patches = alike()
    found = select("visionzip", patches, count=5, contextual=2, cls=False)
    assert found.index_NA.tolist() == [[0, 1, 2, -1, -1]] * 2
    one = patches.states_NPV[:, 0]
    torch.testing.assert_close(found.states_NAV[:, 3], 2 * one)  # all the others join the first
    torch.testing.assert_close(found.states_NAV[:, 4], one)
    single = images(2, 1)
    for contextual in (0, 1):
        kept = select("visionzip", single, count=1, contextual=contextual, cls=False)
        assert torch.equal(kept.states_NAV, single.states_NPV)


# What they ask for, and what is refused


def problems(name: str, has_cls: bool = True, **options: Any) -> list[str]:
    vision = VisionDims(
        image=48, grid=(6, 6), width=WIDTH, heads=HEADS, ffn=8, layers=1, has_cls=has_cls
    )
    spec = SimpleNamespace(vision=SimpleNamespace(dims=lambda: vision))
    return list(ANCHORS.get(name).config(**options).check(spec))


def test_what_cannot_be_is_named():
    assert "36 patches" in problems("prumerge", count=37)[0]
    assert "count is 4" in problems("prumerge", count=4, most=3)[0]
    assert "contextual 5 is more than count 4" in problems("visionzip", count=4, contextual=5)[0]
    for name in ("prumerge", "visionzip"):
        assert "divprune" in problems(name, has_cls=False, count=4)[0]
    assert problems("divprune", has_cls=False, count=4) == []


def test_what_was_not_given_is_said_loudly():
    patches = images()
    bare = Patches(
        states_NPV=patches.states_NPV,
        grid=patches.grid,
        cls_NV=patches.cls_NV,
        cls_attention_NHP=patches.cls_attention_NHP,
    )
    for name in ("divprune", "prumerge", "visionzip"):
        with pytest.raises(ValueError, match="the tower gave none"):
            select(name, bare, count=9)
