"""SAISA, ViCA, EE-MLLM and DeepStack are their slow readings over transformers' layers.

In the first three's the visual rows stand in the sequence of the layers that see them; they see but
themselves, and what the layer makes of them is thrown away. Elsewhere the rows of text are alone.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from laws.settings import LANGUAGES, TINY, section_of, with_keys
from laws.test_equal_systems import same
from laws.whole import GRID, IMAGE, inputs, model_of, sample

JOINT = {"anchors": "none", "band.softmax": "joint", "band.visible": "before", **GRID}
Visual = Callable[[int], Tensor]


def plain_of(model: Any) -> Any:
    """transformers' own language model, on the same weights."""
    config = AutoConfig.for_model(**model.spec.language.hf(), attn_implementation="eager")
    plain: Any = AutoModel.from_config(config).eval()
    plain.load_state_dict(model.language_model.state_dict(), strict=False)  # all but the band
    return plain


def slow(model: Any, ids: Tensor, visual: Visual) -> Tensor:
    """Logits of the text rows [1,T] where layer i of the band sees `visual(i)`, [1,P,D].

    The marker of the image is a row of text; its patches stand behind it, from its position on.
    """
    plain = plain_of(model)
    patches, at = model.dims.fine, int((ids[0] == IMAGE).nonzero()[0, 0])
    before, after = torch.arange(at + 1), torch.arange(at + patches, ids.shape[1] + patches - 1)
    text_T = torch.cat([before, after])
    place_S = torch.cat([before, torch.arange(at, at + patches), after])
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
def equals_its_slow_reading(
    model: Any, visual_of: Callable[[Any, Any], Visual], before: int = 3
) -> None:
    for words in (4, 9):
        one = sample(model, words)
        if before:  # words of a system stand before the image, and do not see it
            one = type(one)((*one.ids[:1], *range(20, 20 + before), *one.ids[1:]),
                            one.prompt + before, one.pictures)  # fmt: skip
        batch = inputs(model, [one])
        seen = model.see(batch["pixel_values"], None)
        same(model(**batch).logits, slow(model, batch["input_ids"], visual_of(model, seen)))


FAMILIES = ("llama", "llama_biased", "qwen3")


def language(family: str) -> dict[str, Any]:
    return {"type": "hf", "config": LANGUAGES[family]}


@pytest.mark.parametrize("family", FAMILIES)
def test_vica_reads_in_some_layers_what_is_never_updated(family: str):
    band = {"layers": [0, 2], "softmax": "joint", "visible": "before", "positions": "grid"}
    section = with_keys(TINY, **JOINT, bridge="none", language=language(family), band=band)

    def visual_of(model: Any, seen: Any) -> Visual:
        states_BPD = model.connector(seen.states_NPV)
        return lambda i: states_BPD

    equals_its_slow_reading(model_of(section), visual_of)


@pytest.mark.parametrize("family", FAMILIES)
def test_saisa_overwrites_the_visual_rows_in_every_layer(family: str):
    band = {"every": 1, "softmax": "joint", "visible": "before", "positions": "grid"}
    section = with_keys(TINY, **JOINT, bridge="projector", language=language(family), band=band)

    def visual_of(model: Any, seen: Any) -> Visual:
        layers = model.language_model.layers
        return lambda i: layers[i].band.bridge(seen.states_NPV, layer=layers[i])

    equals_its_slow_reading(model_of(section), visual_of)


def test_ee_mllms_visual_rows_pass_the_feed_forwards_alone():
    band = {"every": 1, "softmax": "joint", "visible": "before", "positions": "grid"}
    bridge = {"type": "ffn", "carry": True}
    section = with_keys(TINY, **JOINT, bridge=bridge, language=language("llama"), band=band)

    def visual_of(model: Any, seen: Any) -> Visual:
        stream = [model.connector(seen.states_NPV)]
        for layer in model.language_model.layers:
            last = stream[-1]
            stream.append(last + layer.mlp(layer.post_attention_layernorm(last)))
        return lambda i: stream[i + 1]

    equals_its_slow_reading(model_of(section), visual_of)


@torch.no_grad()
def test_deepstack_adds_every_patch_of_a_window_to_its_row():
    """Over transformers' own layers: slice k of the grid, taken apart by steps of two, before k."""
    model = model_of(with_keys(section_of(("fusion", "add")), language=language("llama")))
    batch = inputs(model, [one := sample(model, 6)])
    seen = model.see(batch["pixel_values"], None)
    fine_rcD = model.connector(seen.states_NPV)[0].unflatten(0, (4, 4))
    pooled = seen.states_NPV[0].reshape(2, 2, 2, 2, -1).mean(dim=(1, 3)).flatten(0, 1)
    plain = plain_of(model)
    place_S = torch.arange(len(one.ids))[None]
    hidden_BSD = plain.embed_tokens(batch["input_ids"])
    hidden_BSD[batch["input_ids"] == IMAGE] = model.connector(pooled)
    for k, layer in enumerate(plain.layers):
        added = fine_rcD[k // 2 :: 2, k % 2 :: 2].flatten(0, 1)
        hidden_BSD[batch["input_ids"] == IMAGE] += added
        mask = torch.full((1, 1, len(one.ids), len(one.ids)), torch.finfo().min).triu(1)
        rope = plain.rotary_emb(hidden_BSD, place_S)
        hidden_BSD = layer(hidden_BSD, attention_mask=mask, position_embeddings=rope)
    same(model(**batch).logits, model.lm_head(plain.norm(hidden_BSD)))


def test_words_before_the_image_do_not_see_it():
    """What `visible: before` says, seen from outside: another image changes none of their rows."""
    band = {"every": 1, "softmax": "joint", "visible": "before", "positions": "grid"}
    model = model_of(with_keys(TINY, **JOINT, bridge="none", band=band))
    one = sample(model, 6)
    ids = torch.tensor([[*one.ids[:1], 21, 22, *one.ids[1:]]])
    pixels = torch.randn(2, 1, 3, *[model.dims.vision.image] * 2)
    with torch.no_grad():
        logits = [model(input_ids=ids, pixel_values=p).logits[0] for p in pixels]
    assert torch.equal(logits[0][:3], logits[1][:3])
    assert (logits[0][3:] - logits[1][3:]).abs().amax(1).min() > 1e-4
