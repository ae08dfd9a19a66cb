"""FastV, VTW, PyramidDrop and ShortV: each recipe is its plain reading over transformers' layers.

Whole attention maps rank, rows that leave are cut out, rows that freeze are put back.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from eramv_lab.slots.reducers import frozen_layers, visual_by_layer
from laws.probes import spec_of
from laws.recipes import model_of_recipe, places, plain_of, section_of_recipe
from laws.settings import with_keys
from laws.test_equal_systems import same
from laws.whole import IMAGE, inputs, sample

PATCHES = 36
WHOLE: dict[str, Any] = {"vision.image": 96, "vision.patch": 4}
"""576 patches, as LLaVA-1.5 has them."""


@dataclass(frozen=True)
class Reading:
    """What a paper says, at eight layers and 36 patches."""

    stay: dict[int, int] = field(default_factory=dict[int, int])
    """Before a layer: visual rows that stay, those most attended to in the layer before."""
    coming: bool = False
    """They are ranked by the coming layer instead."""
    closed: bool = False
    """Positions are closed up when rows leave."""
    frozen: tuple[int, ...] = ()
    """Layers in which visual rows are keys and values alone."""


FROZEN = (0, 4, 5, 6, 7)
READINGS = {
    "fastv": Reading(stay={2: 18}),
    "vtw": Reading(stay={4: 0}),
    "pyramiddrop": Reading(stay={2: 18, 4: 9, 6: 4}, coming=True, closed=True),
    "shortv": Reading(frozen=FROZEN),
    "shortv_fastv": Reading(stay={2: 18}, frozen=FROZEN),
}
PACKED: dict[str, Any] = {"prompt.positions": "packed"}
"""Visual rows share a position in the bed: that positions close up shows only where they do not."""
POSITIONS = pytest.mark.parametrize("changes", [{}, PACKED], ids=["one", "packed"])


def standing(plain: Any, rows_LD: Tensor, place_L: Tensor) -> dict[str, Any]:
    """Mask and rotary tables of rows at their places."""
    mask = torch.full((1, 1, len(rows_LD), len(rows_LD)), torch.finfo().min).triu(1)
    rope = plain.rotary_emb(rows_LD[None], place_L[None])
    return {"attention_mask": mask, "position_embeddings": rope}


def attended(plain: Any, i: int, rows_LD: Tensor, place_L: Tensor) -> Tensor:
    """[L,L] attention of layer i over all rows, the mean over heads."""
    layer = plain.layers[i]
    normed_1LD = layer.input_layernorm(rows_LD)[None]
    return layer.self_attn(normed_1LD, **standing(plain, rows_LD, place_L))[1][0].mean(0)


def read(
    model: Any, batch: dict[str, Any], reading: Reading, asking: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Logits of the rows that are left [L,V], and which they are; the rows `asking` rank."""
    plain, ids_S = plain_of(model), batch["input_ids"][0]
    visual_S = ids_S == IMAGE
    states_PD = model.connector(model.see(batch["pixel_values"], None).states_NPV)[0]
    rows_LD = plain.embed_tokens(ids_S).masked_scatter(visual_S[:, None], states_PD)
    one = model.spec.prompt.positions == "one"
    here_L = torch.arange(len(ids_S))
    place_L = places(ids_S, PATCHES) if one else here_L
    maps_LL = torch.zeros(0)
    for i, layer in enumerate(plain.layers):
        if i in reading.stay:
            ranked_LL = attended(plain, i, rows_LD, place_L) if reading.coming else maps_LL
            score_L = ranked_LL[torch.isin(here_L, torch.tensor(asking))].mean(0)
            best_L = score_L.masked_fill(~visual_S[here_L], -1).argsort(descending=True)
            stay_L = ~visual_S[here_L]
            stay_L[best_L[: reading.stay[i]]] = True
            rows_LD, here_L, place_L = rows_LD[stay_L], here_L[stay_L], place_L[stay_L]
            if reading.closed:
                place_L = place_L.unique_consecutive(return_inverse=True)[1]
        maps_LL = attended(plain, i, rows_LD, place_L)
        after_LD = layer(rows_LD[None], **standing(plain, rows_LD, place_L))[0]
        still_L = visual_S[here_L] & (i in reading.frozen)
        rows_LD = torch.where(still_L[:, None], rows_LD, after_LD)
    return model.lm_head(plain.norm(rows_LD)), here_L


@POSITIONS
@pytest.mark.parametrize("name", READINGS)
@torch.no_grad()
def test_a_recipe_is_its_plain_reading(name: str, changes: dict[str, Any]):
    model = model_of_recipe(name, **changes)
    one = sample(model, 6)
    batch = inputs(model, [one])
    expected, here_L = read(model, batch, READINGS[name], [one.prompt - 1])
    same(model(**batch).logits[0, here_L], expected)


@torch.no_grad()
def test_fastv_by_mean_ranks_by_all_rows_of_the_prompt():
    by_mean: dict[str, Any] = {"reducer.by": "mean"}
    model = model_of_recipe("fastv", **PACKED, **by_mean)
    one = sample(model, 6)
    batch = inputs(model, [one])
    expected, here_L = read(model, batch, READINGS["fastv"], range(one.prompt))
    same(model(**batch).logits[0, here_L], expected)


@torch.no_grad()
def test_pyramiddrop_ranks_in_training_by_the_rows_before_each_answer():
    model = model_of_recipe("pyramiddrop", **PACKED)
    one = sample(model, 6, answer=9)
    batch = inputs(model, [one])
    second = one.prompt + 5
    batch["labels"][0, one.prompt + 2 : second] = -100  # a second turn asks here
    asking = [one.prompt - 1, second - 1]
    expected, here_L = read(model, batch, READINGS["pyramiddrop"], asking)
    same(model(**batch).logits[0, here_L], expected)


@torch.no_grad()
def test_fastvs_layers_cache_what_reached_them():
    model = model_of_recipe("fastv")
    batch = inputs(model, [sample(model)], upto="prompt")
    past = model(**batch, use_cache=True).past_key_values
    held = [layer.keys.shape[2] for layer in past.self_attention_cache.layers]
    words = batch["input_ids"].shape[1] - PATCHES
    assert held == [words + PATCHES] * 2 + [words + PATCHES // 2] * 6


def test_vtw_needs_no_attention_map():
    assert not any(event.looks for event in model_of_recipe("vtw").events)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("fastv", (576,) * 2 + (288,) * 30),
        ("vtw", (576,) * 15 + (0,) * 17),
        ("pyramiddrop", (576,) * 8 + (288,) * 8 + (144,) * 8 + (72,) * 8),
        ("shortv", (576,) * 32),
    ],
)
def test_rows_are_the_published_ones_at_their_depth(name: str, rows: tuple[int, ...]):
    spec = spec_of(with_keys(section_of_recipe(name, layers=32), **WHOLE))
    assert visual_by_layer(spec.events(), 32, spec.dims().visual) == rows


def test_shortvs_layers_are_the_published_ones_at_their_depth():
    frozen = frozen_layers(spec_of(section_of_recipe("shortv", layers=32)).events())
    assert set(range(32)) - frozen == {1, *range(4, 12), *range(13, 17)}
    assert len(frozen_layers(spec_of(section_of_recipe("shortv", layers=40)).events())) == 40 - 16
