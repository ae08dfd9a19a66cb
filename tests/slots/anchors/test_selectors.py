"""Selectors against plain loops, ties and edge counts included."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from eramv_lab.registry import ANCHORS
from eramv_lab.shapes import Dims, LanguageDims, VisionDims
from eramv_lab.slots.contracts import Anchors, Need, Patches

HEADS, WIDTH = 4, 6
LANGUAGE = LanguageDims(width=8, layers=2, heads=2, kv_heads=2, head_dim=4, ffn=8, vocab=9)


def vision(side: int = 6, has_cls: bool = True) -> VisionDims:
    return VisionDims(
        image=48, grid=(side, side), width=WIDTH, heads=HEADS, ffn=8, layers=1, has_cls=has_cls
    )


def images(count: int = 3, side: int = 6) -> Patches:
    torch.manual_seed(0)
    rows = side * side
    return Patches(
        states_NPV=torch.randn(count, rows, WIDTH),
        grid=(side, side),
        cls_NV=torch.randn(count, WIDTH),
        cls_attention_NHP=torch.randn(count, HEADS, rows).softmax(-1),
    )


def select(name: str, patches: Patches, **options: object) -> Anchors:
    component = ANCHORS.get(name)
    selector = component.factory(
        component.config(**options), Dims(vision=vision(patches.grid[0]), language=LANGUAGE)
    )
    return selector(replace(patches, projected_NPD=patches.states_NPV))


def problems(name: str, tower: VisionDims, **options: object) -> list[str]:
    spec = SimpleNamespace(vision=SimpleNamespace(dims=lambda: tower))
    return list(ANCHORS.get(name).config(**options).check(spec))


def test_cls_topk_takes_the_most_attended_in_raster_order():
    patches = images()
    found = select("cls_topk", patches, count=5)
    assert patches.cls_attention_NHP is not None and patches.cls_NV is not None
    for n, attention_HP in enumerate(patches.cls_attention_NHP):
        mean = attention_HP.mean(0)
        best = sorted(sorted(range(36), key=lambda p: -float(mean[p]))[:5])
        assert found.index_NA[n].tolist() == [-1, *best]
        assert torch.equal(found.states_NAV[n, 1:], patches.states_NPV[n, best])
    assert torch.equal(found.states_NAV[:, 0], patches.cls_NV)


def test_progressive_is_acformers_loop():
    patches = images()
    found = select("progressive", patches, count=12)
    assert patches.cls_attention_NHP is not None
    for n, attention_HP in enumerate(patches.cls_attention_NHP.tolist()):
        chosen: list[int] = []
        for head in attention_HP:
            ranked = iter(sorted(range(36), key=lambda p, head=head: -head[p]))
            goal = len(chosen) + 12 // HEADS
            while len(chosen) < goal:
                if (patch := next(ranked)) not in chosen:
                    chosen.append(patch)
        assert found.index_NA[n].tolist() == [-1, *sorted(chosen)]


def test_norm_takes_the_longest_states():
    patches = images()
    found = select("norm", patches, count=4)
    best = patches.states_NPV.norm(dim=-1).topk(4).indices.sort().values
    assert torch.equal(found.index_NA, best)


def test_pool_averages_tiles():
    patches = images()
    found = select("pool", patches, count=9)
    tiles = patches.states_NPV.view(3, 3, 2, 3, 2, WIDTH).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(found.states_NAV, tiles)
    assert (found.index_NA == -1).all()


def test_pool_of_every_patch_is_every_patch():
    patches = images()
    assert torch.equal(select("pool", patches, count=36).states_NAV, patches.states_NPV)


def test_all_is_the_tower_untouched():
    patches = images()
    found = select("all", patches)
    assert torch.equal(found.states_NAV, patches.states_NPV)
    assert found.index_NA[0].tolist() == list(range(36))


def test_stride_is_even_and_covers_the_raster():
    index = select("stride", images(), count=8).index_NA[0]
    gaps = index.diff()
    assert int(gaps.max()) - int(gaps.min()) <= 1
    assert int(index[0]) <= 4 and int(index[-1]) >= 36 - 5


def test_random_is_one_draw_of_places_that_the_seed_gives():
    patches = images(4)
    draws = [select("random", patches, count=9, seed=seed).index_NA for seed in range(20)]
    assert all(torch.equal(draw[0], row) for draw in draws for row in draw)
    assert len({tuple(draw[0].tolist()) for draw in draws}) == 20
    more = select("random", patches, count=20, seed=3).index_NA[0].tolist()
    assert set(draws[3][0].tolist()) <= set(more)


def test_random_is_uniform():
    patches, seen = images(1), torch.zeros(36)
    for seed in range(1000):
        seen[select("random", patches, count=9, seed=seed).index_NA[0]] += 1
    assert seen.min() > 190 and seen.max() < 310  # 250 expected, standard deviation 14


@pytest.mark.parametrize("name", ["cls_topk", "progressive", "norm"])
def test_ties_go_to_the_earlier_patch(name: str):
    patches = images(2)
    flat = Patches(
        states_NPV=torch.ones_like(patches.states_NPV),
        grid=patches.grid,
        cls_NV=patches.cls_NV,
        cls_attention_NHP=torch.full((2, HEADS, 36), 1 / 37),
    )
    assert select(name, flat, count=8, cls=False).index_NA.tolist() == [list(range(8))] * 2


@pytest.mark.parametrize("name", [n for n in ANCHORS.names() if n not in ("all", "prumerge")])
def test_cls_alone(name: str):
    patches = images()
    found = select(name, patches, count=0, cls=True)
    assert found.states_NAV.shape == (3, 1, WIDTH) and found.index_NA.tolist() == [[-1]] * 3


def test_a_tower_without_cls_names_the_selectors_that_do_without():
    for name in ("cls_topk", "progressive"):
        (text,) = problems(name, vision(has_cls=False), count=8)
        without = set(text.rpartition(": ")[2].split(", "))  # a plugin of another test may join
        assert without >= {"all", "divprune", "norm", "pool", "random", "stride"}
        assert not without & {"cls_topk", "progressive", "visionzip", "prumerge"}
    assert problems("random", vision(has_cls=False), count=8) == []
    assert "cls: false" in problems("random", vision(has_cls=False), count=8, cls=True)[0]


def test_counts_that_cannot_be():
    assert "36 patches" in problems("norm", vision(), count=37)[0]
    assert "anchors: none" in problems("stride", vision(), count=0)[0]
    assert "nearest that do: 8, 12" in problems("progressive", vision(), count=9)[0]
    assert "nearest that do: 4" in problems("progressive", vision(), count=3)[0]
    assert "nearest that are: 4, 9" in problems("pool", vision(), count=8)[0]
    assert problems("pool", vision(), count=25) == []


def test_only_what_is_needed_is_asked_of_the_tower():
    dims = Dims(vision=vision(), language=LANGUAGE)
    needs = {c.name: c.factory(c.config(cls=False), dims).need for c in ANCHORS}
    assert {n for n, need in needs.items() if need & Need.CLS_ATTENTION} == {
        "cls_topk",
        "progressive",
        "visionzip",
    }
    assert not any(needs[name] for name in ("all", "norm", "pool", "random", "stride"))
    component = ANCHORS.get("pool")
    assert component.factory(component.config(cls=True, count=9), dims).need == Need.CLS


def test_a_missing_row_is_said_loudly():
    patches = images()
    bare = Patches(states_NPV=patches.states_NPV, grid=patches.grid)
    with pytest.raises(ValueError, match="where CLS looks"):
        select("cls_topk", bare, count=4)
    with pytest.raises(ValueError, match="no CLS row"):
        select("norm", bare, count=4, cls=True)
