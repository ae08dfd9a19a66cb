"""SAISA, ViCA, EE-MLLM, delta-Vision, DeepStack: their slow readings over transformers' layers.

In the first four's the visual rows stand in the sequence of the layers that see them; they see but
themselves, and what the layer makes of them is thrown away. Elsewhere the rows of text are alone.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu

from laws.probes import spec_of
from laws.recipes import model_of_recipe, places, plain_of, section_of_recipe, through
from laws.settings import with_keys
from laws.test_equal_systems import same
from laws.whole import GRID, IMAGE, Sample, inputs, model_of, sample

Visual = Callable[[int], Tensor]


def slow(model: Any, ids: Tensor, visual: Visual, step: int) -> Tensor:
    """Logits of the text rows [1,T] where layer i of the band sees `visual(i)`, [1,P,D].

    The marker of the image is a row of text; its patches stand behind it, from its position on,
    each `step` further.
    """
    plain = plain_of(model)
    patches, at = model.dims.fine, int((ids[0] == IMAGE).nonzero()[0, 0])
    text_T = torch.arange(ids.shape[1])
    text_T[at + 1 :] += step * (patches - 1)
    patch_P = at + step * torch.arange(patches)
    place_S = torch.cat([text_T[: at + 1], patch_P, text_T[at + 1 :]])
    is_visual_S = torch.zeros(len(place_S), dtype=torch.bool)
    is_visual_S[at + 1 : at + 1 + patches] = True
    order_S = torch.arange(len(place_S))
    sees_SS = order_S <= order_S[:, None]
    sees_SS[at, is_visual_S] = True  # the marker is where the image is
    sees_SS[is_visual_S] = torch.eye(len(place_S), dtype=torch.bool)[is_visual_S]
    hidden_BTD = plain.embed_tokens(ids)
    for i, layer in enumerate(plain.layers):
        seen = i in model.spec.band
        position_S, sees = (
            (place_S, sees_SS) if seen else (text_T, sees_SS[~is_visual_S][:, ~is_visual_S])
        )
        rows_BSD = hidden_BTD
        if seen:
            rows_BSD = torch.cat([hidden_BTD[:, : at + 1], visual(i), hidden_BTD[:, at + 1 :]], 1)
        mask = torch.zeros(sees.shape).masked_fill(~sees, torch.finfo().min)[None, None]
        out_BSD = layer(
            rows_BSD,
            attention_mask=mask,
            position_embeddings=plain.rotary_emb(rows_BSD, position_S[None]),
        )
        hidden_BTD = out_BSD[:, ~is_visual_S] if seen else out_BSD
    return model.lm_head(plain.norm(hidden_BTD))


@torch.no_grad()
def equals_its_slow_reading(model: Any, visual_of: Callable[[Any, Any], Visual], step: int) -> None:
    for words in (4, 9):
        one = sample(model, words)
        # words of a system stand before the image, and do not see it
        ids = (*one.ids[:1], 20, 21, 22, *one.ids[1:])
        batch = inputs(model, [Sample(ids, one.prompt + 3, one.pictures)])
        seen = model.see(batch["pixel_values"], None)
        expected = slow(model, batch["input_ids"], visual_of(model, seen), step)
        same(model(**batch).logits, expected)


FAMILIES = ("llama", "llama_biased", "qwen3")
STEPS = pytest.mark.parametrize("step", [0, 1], ids=["one", "grid"])
"""Between two patches: they share a position in the recipes, and have their own in the papers."""


def model_at(step: int, name: str, family: str = "llama") -> Any:
    """The model of a recipe, or of the recipe with the papers' positions."""
    return model_of(with_keys(section_of_recipe(name, family), **(GRID if step else {})))


@STEPS
@pytest.mark.parametrize("family", FAMILIES)
def test_vica_reads_in_some_layers_what_is_never_updated(family: str, step: int):
    model = model_at(step, "vica", family)
    assert model.spec.band == (0, 1, 2, 3, 4)

    def visual_of(model: Any, seen: Any) -> Visual:
        states_BPD = model.connector(seen.states_NPV)
        return lambda i: states_BPD

    equals_its_slow_reading(model, visual_of, step)


def test_vicas_layers_are_the_published_ones_at_their_depth():
    spec = spec_of(section_of_recipe("vica", layers=32))
    assert spec.band == (0, 1, 7, 8, 9, 10, 11, 14)


@STEPS
@pytest.mark.parametrize("family", FAMILIES)
def test_saisa_overwrites_the_visual_rows_in_every_layer(family: str, step: int):
    model = model_at(step, "saisa", family)

    def visual_of(model: Any, seen: Any) -> Visual:
        layers = model.language_model.layers
        return lambda i: layers[i].band.bridge(seen.states_NPV, layer=layers[i])

    equals_its_slow_reading(model, visual_of, step)
    assert model.spec.band == tuple(range(8))


@STEPS
def test_ee_mllms_visual_rows_pass_the_feed_forwards_alone(step: int):
    model = model_at(step, "ee_mllm")

    def visual_of(model: Any, seen: Any) -> Visual:
        stream = [model.connector(seen.states_NPV)]
        for layer in model.language_model.layers:
            last = stream[-1]
            stream.append(last + layer.mlp(layer.post_attention_layernorm(last)))
        return lambda i: stream[i]

    equals_its_slow_reading(model, visual_of, step)
    assert model.spec.band == tuple(range(8))


@STEPS
@pytest.mark.parametrize("carry", [True, False], ids=["recurrent", "embedding"])
def test_delta_visions_adapters_stand_for_all_that_layers_did(carry: bool, step: int):
    """M_l = M + silu(M D_l) U_l in every layer, M the last layer's result or the embeddings."""
    adapters = {"type": "low_rank", "rank": 3, "carry": carry}
    section = with_keys(section_of_recipe("ee_mllm"), bridge=adapters, **(GRID if step else {}))
    model = model_of(section)

    def visual_of(model: Any, seen: Any) -> Visual:
        embeddings, memory = model.connector(seen.states_NPV), list[Tensor]()
        for layer in model.language_model.layers:
            down, up = layer.band.bridge.down.weight, layer.band.bridge.up.weight
            last = memory[-1] if memory and carry else embeddings
            memory.append(last + silu(last @ down.T) @ up.T)
        return lambda i: memory[i]

    equals_its_slow_reading(model, visual_of, step)


@torch.no_grad()
def test_deepstack_adds_every_patch_of_a_window_to_its_row():
    """Slice k of the grid, taken apart by steps of two, before layer 1 + k."""
    model = model_of_recipe("deepstack")
    batch = inputs(model, [sample(model, 6)])
    seen, ids_S = model.see(batch["pixel_values"], None), batch["input_ids"][0]
    fine_rcD = model.connector(seen.states_NPV)[0].unflatten(0, (6, 6))
    windows = seen.states_NPV[0].reshape(3, 2, 3, 2, -1).mean(dim=(1, 3)).flatten(0, 1)
    rows_SD = model.language_model.embed_tokens(ids_S)
    rows_SD[ids_S == IMAGE] = model.connector(windows)

    def add(i: int, rows_SD: Tensor) -> Tensor:
        if not 1 <= i < 5:
            return rows_SD
        (row, column), added_SD = divmod(i - 1, 2), torch.zeros_like(rows_SD)
        added_SD[ids_S == IMAGE] = fine_rcD[row::2, column::2].flatten(0, 1)
        return rows_SD + added_SD

    same(model(**batch).logits[0], through(model, rows_SD, places(ids_S, 9), add))


def test_words_before_the_image_do_not_see_it():
    """What `visible: before` says, seen from outside: another image changes none of their rows."""
    model = model_of_recipe("vica")
    one = sample(model, 6)
    ids = torch.tensor([[*one.ids[:1], 21, 22, *one.ids[1:]]])
    pixels = torch.randn(2, 1, 3, *[model.dims.vision.image] * 2)
    with torch.no_grad():
        logits = [model(input_ids=ids, pixel_values=p).logits[0] for p in pixels]
    assert torch.equal(logits[0][:3], logits[1][:3])
    assert (logits[0][3:] - logits[1][3:]).abs().amax(1).min() > 1e-4
