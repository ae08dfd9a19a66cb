"""Flamingo, Llama-3.2-Vision, NVLM-H, CogAgent and mPLUG-Owl3: each recipe is its plain reading.

The rows pass transformers' layers, and what the recipe adds to them is written out here. Two images
stand in the sample, words before and between them, so that it shows who sees which.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, rms_norm, silu
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from laws.recipes import (
    Step,
    attention,
    model_of_recipe,
    places,
    plain_of,
    split,
    through,
    unchanged,
)
from laws.test_equal_systems import same
from laws.whole import ANSWER, BOS, IMAGE, Sample, inputs

HEADS, KV_HEADS = 4, 2
"""Of the tiny language model, each of 8."""
LATENTS = 4
"""Of 36 patches, as 64 of 576."""


class Scene:
    """A sample with two images, as the decoder gets it."""

    def __init__(self, model: Any) -> None:
        image = [IMAGE] * model.visual_rows
        ids = (BOS, 20, 21, *image, 30, 31, *image, 40, 41, ANSWER, 50, 51)
        self.batch = inputs(model, [Sample(ids, len(ids) - 2, (0, 1))])
        self.ids_S = self.batch["input_ids"][0]
        self.seen = model.see(self.batch["pixel_values"], None)
        self.rows_SD = model.language_model.embed_tokens(self.ids_S)
        self.place_S = places(self.ids_S, model.visual_rows)
        begun_S = ((self.ids_S == IMAGE).long().cumsum(0) + model.visual_rows - 1).div(
            model.visual_rows, rounding_mode="floor"
        )
        self.begun_S1 = begun_S[:, None]

    def sees(self, which: str, each: int) -> Tensor:
        """[S,M] whether a row sees a feature: of all images, those begun before it, the last."""
        image_M = torch.tensor([1, 2]).repeat_interleave(each)
        if which == "all":
            return torch.ones(len(self.ids_S), 2 * each, dtype=torch.bool)
        return self.begun_S1 >= image_M if which == "before" else self.begun_S1 == image_M

    def pooled(self, model: Any) -> None:
        """Windows of three by three patches, in the mean, take their places among the rows."""
        windows = self.seen.states_NPV.unflatten(1, (2, 3, 2, 3)).mean(dim=(2, 4)).flatten(1, 2)
        self.rows_SD[self.ids_S == IMAGE] = model.connector(windows).flatten(0, 1)


def beside_pooled(name: str) -> tuple[Any, Scene, Tensor]:
    """The model, a sample with pooled windows in its rows, and the patches [M,D] beside them."""
    model = model_of_recipe(name)
    scene = Scene(model)
    scene.pooled(model)
    return model, scene, model.connector(scene.seen.states_NPV).flatten(0, 1)


def heads_read(
    rows_SD: Tensor, fine_MD: Tensor, sees_SM: Tensor, own: Any, width: int, normed: bool
) -> Tensor:
    """[S,D] attention by weights of its `own`, behind its own norm of the rows.

    Heads are of `width`; their queries and keys are `normed` or not.
    """
    assert (own.head_dim, own.q_norm is not None) == (width, normed)
    normed_SD = rms_norm(rows_SD, rows_SD.shape[1:], own.row_norm.weight, 1e-6)
    query, key, value = (
        split(rows @ proj.weight.T, count)
        for rows, proj, count in (
            (normed_SD, own.q_proj, HEADS),
            (fine_MD, own.k_proj, KV_HEADS),
            (fine_MD, own.v_proj, KV_HEADS),
        )
    )
    if normed:
        query, key = (
            rms_norm(one, one.shape[2:], norm.weight, 1e-6)
            for one, norm in ((query, own.q_norm), (key, own.k_norm))
        )
    return attention(query, key, value, sees_SM) @ own.o_proj.weight.T


def gated_block(
    model: Any,
    fine_MD: Tensor,
    sees_SM: Tensor,
    feed: Callable[..., Tensor],
    width: int = 8,
    normed: bool = False,
) -> Step:
    """x + tanh(g) read(x), then x + tanh(h) feed(norm(x)); rows that see nothing are left alone.

    Before layers 3 and 7, as before every fourth of 32.
    """

    def step(i: int, rows_SD: Tensor) -> Tensor:
        if i not in (3, 7):
            return rows_SD
        band = model.language_model.layers[i].band
        read_SD = heads_read(rows_SD, fine_MD, sees_SM, band.sharing, width, normed)
        after_SD = rows_SD + band.gate.weight.tanh() * read_SD
        normed_SD = rms_norm(after_SD, after_SD.shape[1:], band.ffn.norm.weight, 1e-6)
        after_SD = after_SD + band.ffn.gate.weight.tanh() * feed(normed_SD, band.ffn)
        return torch.where(sees_SM.any(dim=1, keepdim=True), after_SD, rows_SD)

    return step


def gelu_feed(x_SD: Tensor, ffn: Any) -> Tensor:
    assert ffn.up_proj.weight.shape[0] == 4 * x_SD.shape[1] and ffn.gate_proj is None
    return gelu(x_SD @ ffn.up_proj.weight.T) @ ffn.down_proj.weight.T


def gated_feed(x_SD: Tensor, ffn: Any) -> Tensor:
    inner = silu(x_SD @ ffn.gate_proj.weight.T) * (x_SD @ ffn.up_proj.weight.T)
    return inner @ ffn.down_proj.weight.T


@torch.no_grad()
def test_flamingo_reads_the_last_image_before_layers_3_and_7():
    model = model_of_recipe("flamingo")
    scene = Scene(model)
    fine_MD = model.look(scene.seen).fine_NMD.flatten(0, 1)
    step = gated_block(model, fine_MD, scene.sees("last", LATENTS), gelu_feed, width=1)
    same(model(**scene.batch).logits[0], through(model, scene.rows_SD, scene.place_S, step))


@torch.no_grad()
def test_llama_32_vision_reads_cls_and_patches_of_all_images_before_a_row():
    model = model_of_recipe("llama32_vision")
    scene = Scene(model)
    rows_NMV = torch.cat([scene.seen.cls_NV[:, None], scene.seen.states_NPV], dim=1)
    weight, bias = model.fine_connector.state_dict().values()
    fine_MD = rows_NMV.flatten(0, 1) @ weight.T + bias
    step = gated_block(model, fine_MD, scene.sees("before", 37), gated_feed, normed=True)
    same(model(**scene.batch).logits[0], through(model, scene.rows_SD, scene.place_S, step))


@torch.no_grad()
def test_nvlm_h_reads_tiles_beside_a_thumbnail_in_the_sequence():
    model, scene, fine_MD = beside_pooled("nvlm_h")
    step = gated_block(model, fine_MD, scene.sees("all", 36), gelu_feed)
    same(model(**scene.batch).logits[0], through(model, scene.rows_SD, scene.place_S, step))


@pytest.mark.parametrize("name", ["flamingo", "llama32_vision", "nvlm_h"])
@torch.no_grad()
def test_gates_start_closed(name: str):
    model = model_of_recipe(name, loud=False)
    scene = Scene(model)
    if model.selector is not None:
        scene.pooled(model)
    same(model(**scene.batch).logits[0], through(model, scene.rows_SD, scene.place_S, unchanged))


@torch.no_grad()
def test_cogagent_reads_by_narrow_heads_behind_self_attention_in_every_layer():
    model, scene, fine_MD = beside_pooled("cogagent")
    sees_SM = scene.sees("all", 36)

    def step(i: int, rows_SD: Tensor) -> Tensor:
        own = model.language_model.layers[i].band.sharing
        assert own.q_proj.bias is None
        return rows_SD + heads_read(rows_SD, fine_MD, sees_SM, own, width=2, normed=False)

    expected = through(model, scene.rows_SD, scene.place_S, after=step)
    same(model(**scene.batch).logits[0], expected)


@torch.no_grad()
def test_mplug_owl3_mixes_two_readings_by_a_gate_of_the_rows_own():
    """g x cross + (1 - g) x self before W_o, and self alone where no image has begun."""
    model, new = model_of_recipe("mplug_owl3"), model_of_recipe("mplug_owl3", loud=False)
    for i in (0, 3, 5, 7):  # 0, 9, 17 and 25 of 28
        layer = new.language_model.layers[i]
        for name in ("k_proj", "v_proj"):
            own = getattr(layer.band.sharing, name).weight
            assert torch.equal(own, getattr(layer.self_attn, name).weight)
    scene, plain = Scene(model), plain_of(model)
    fine_MD = model.connector(scene.seen.states_NPV).flatten(0, 1)
    sees_SM, rows_SD = scene.sees("before", 36), scene.rows_SD
    causal_SS = torch.ones(len(rows_SD), len(rows_SD), dtype=torch.bool).tril()
    marker_M = (scene.ids_S == IMAGE).nonzero()[:, 0].repeat_interleave(36)

    def turned(heads_HSd: Tensor, place_S: Tensor) -> Tensor:
        tables = plain.rotary_emb(heads_HSd[None], place_S[None])
        return apply_rotary_pos_emb(heads_HSd[None], heads_HSd[None], *tables)[0][0]

    for i, layer in enumerate(plain.layers):
        normed_SD = layer.input_layernorm(rows_SD)
        attn, band = layer.self_attn, model.language_model.layers[i].band
        query = turned(split(attn.q_proj(normed_SD), HEADS), scene.place_S)
        key = turned(split(attn.k_proj(normed_SD), KV_HEADS), scene.place_S)
        heads_SE = attention(query, key, split(attn.v_proj(normed_SD), KV_HEADS), causal_SS)
        assert (band is not None) == (i in (0, 3, 5, 7))
        if band is not None:
            features_MD = layer.input_layernorm(fine_MD)
            key = turned(split(features_MD @ band.sharing.k_proj.weight.T, KV_HEADS), marker_M)
            value = split(features_MD @ band.sharing.v_proj.weight.T, KV_HEADS)
            cross_SE = attention(query, key, value, sees_SM)
            gate_S1 = band.gate.proj(normed_SD).sigmoid() * sees_SM.any(dim=1, keepdim=True)
            heads_SE = gate_S1 * cross_SE + (1 - gate_S1) * heads_SE
        rows_SD = rows_SD + attn.o_proj(heads_SE)
        rows_SD = rows_SD + layer.mlp(layer.post_attention_layernorm(rows_SD))
    same(model(**scene.batch).logits[0], model.lm_head(plain.norm(rows_SD)))
