"""eRAM-V, the reference, is its definition; so are its anchors alone, and FasterVLM's.

The rows pass transformers' layers; anchors, connector, bridge and the band are written out.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu

from laws.probes import spec_of
from laws.recipes import attention, model_of_recipe, section_of_recipe, split, through, unchanged
from laws.settings import with_keys
from laws.test_equal_systems import same
from laws.test_step_systems import HEADS, KV_HEADS, Scene
from laws.whole import IMAGE

BEST = 4
"""Of 36 patches, as 64 (eRAM-V) and 58 (FasterVLM) of 576."""
BAND = (2, 3, 4, 5)
"""The middle half of eight layers."""
FULL: dict[str, Any] = {"vision.image": 96, "vision.patch": 4}
"""24 patches a side, as LLaVA-1.5 has them."""


def connected(model: Any, states: Tensor) -> Tensor:
    """Two linear layers with a GELU between, and the bed's linear path beside them."""
    own = model.connector
    return own.linear_2(gelu(own.linear_1(states))) + own.skip(states)


def chosen(rows_NPx: Tensor, seen: Any) -> Tensor:
    """[N,A,x] the rows of the patches that CLS attends to most, in the order of the grid."""
    best_NA = seen.cls_attention_NHP.mean(1).topk(BEST).indices.sort().values
    return torch.stack([rows_Px[best_A] for rows_Px, best_A in zip(rows_NPx, best_NA, strict=True)])


def with_anchors(model: Any) -> Scene:
    """The scene with CLS and the chosen patches, connected, in its rows."""
    scene = Scene(model)
    states_NAV = chosen(scene.seen.states_NPV, scene.seen)
    anchors_NAV = torch.cat([scene.seen.cls_NV[:, None], states_NAV], dim=1)
    scene.rows_SD[scene.ids_S == IMAGE] = connected(model, anchors_NAV).flatten(0, 1)
    return scene


@torch.no_grad()
def test_eramv_adds_a_reading_of_every_patch_in_the_middle_layers():
    """x + W_o SA(x) + W_o CA(x, F), F = E + W2 gelu(W1 E), through one norm, W_q, W_k, W_v.

    Every row asks, neither side is rotated, the softmax is its own, there is no gate.
    """
    model = model_of_recipe("eramv")
    scene, entered = with_anchors(model), dict[int, Tensor]()
    fine_MD = connected(model, scene.seen.states_NPV).flatten(0, 1)

    def enter(i: int, rows_SD: Tensor) -> Tensor:
        entered[i] = rows_SD
        return rows_SD

    def read(i: int, rows_SD: Tensor) -> Tensor:
        if i not in BAND:
            return rows_SD
        layer = model.language_model.layers[i]
        attn, bridge = layer.self_attn, layer.band.bridge
        bridged_MD = fine_MD + bridge.down(gelu(bridge.up(fine_MD)))
        normed_SD, normed_MD = layer.input_layernorm(entered[i]), layer.input_layernorm(bridged_MD)
        heads_SE = attention(
            split(attn.q_proj(normed_SD), HEADS),
            split(attn.k_proj(normed_MD), KV_HEADS),
            split(attn.v_proj(normed_MD), KV_HEADS),
            scene.sees("all", 36),
        )
        return rows_SD + attn.o_proj(heads_SE)

    expected = through(model, scene.rows_SD, scene.place_S, enter, read)
    same(model(**scene.batch).logits[0], expected)


@torch.no_grad()
def test_eramvs_bridges_begin_as_the_identity_and_are_as_wide_as_the_model():
    layers = model_of_recipe("eramv", loud=False).language_model.layers
    assert [i for i, layer in enumerate(layers) if layer.band is not None] == list(BAND)
    bridges = [layers[i].band.bridge for i in BAND]
    assert len(set(map(id, bridges))) == len(BAND)
    for bridge in bridges:
        assert bridge.up.weight.shape == (32, 32)
        assert not bridge.down.weight.any() and not bridge.down.bias.any()


def test_eramv_has_65_rows_of_577_and_the_middle_half_of_32_layers():
    spec = spec_of(with_keys(section_of_recipe("eramv", layers=32), **FULL))
    assert (spec.dims().visual, spec.dims().fine) == (65, 576)
    assert spec.band == tuple(range(8, 24))


@torch.no_grad()
def test_plain_anchors_are_eramvs_and_nothing_else():
    model = model_of_recipe("anchors")
    scene = with_anchors(model)
    same(model(**scene.batch).logits[0], through(model, scene.rows_SD, scene.place_S, unchanged))


@torch.no_grad()
def test_fastervlm_chooses_behind_the_connector_to_the_same_end():
    model = model_of_recipe("fastervlm")
    scene = Scene(model)
    rows_NAD = chosen(connected(model, scene.seen.states_NPV), scene.seen)
    scene.rows_SD[scene.ids_S == IMAGE] = rows_NAD.flatten(0, 1)
    same(model(**scene.batch).logits[0], through(model, scene.rows_SD, scene.place_S, unchanged))
