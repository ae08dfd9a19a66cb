"""Of the whole: settings that must give one and the same model, LLaVA's among them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from eramv_lab.slots.contracts import Anchors
from laws.settings import CLIP, LANGUAGES, TINY, with_keys
from laws.whole import IMAGE, NO_BAND, SYSTEMS, inputs, model_of, said, sample

LLAVA = {"anchors": "all", "prompt": "image_first", "vision": {"type": "hf", "config": CLIP}}
ALL_VISIBLE = {"band.positions": "one"}


def spoken(model: Any) -> Tensor:
    """Logits of three samples, one of them with two images and one with none."""
    shown = [(0, 1), (2,), ()]
    return torch.cat(said(model, [sample(model, 5 + len(p), p) for p in shown]))


def same(one: Tensor, two: Tensor, exact: bool = False) -> None:
    if exact:
        assert torch.equal(one, two), float((one - two).abs().max())
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "llama_biased", "mistral", "qwen2", "qwen3"])
def test_llava_is_transformers_llava(family: str):
    from transformers import AutoConfig, LlavaConfig, LlavaForConditionalGeneration

    language = LANGUAGES[family]
    ours = model_of(
        with_keys(TINY, **LLAVA, language={"type": "hf", "config": language}, **NO_BAND)
    )

    def plain(config: dict[str, Any]) -> Any:
        return AutoConfig.for_model(**config)

    theirs: Any = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=plain(CLIP),
            text_config=plain(language),
            image_token_index=IMAGE,
            vision_feature_layer=-2,
            tie_word_embeddings=language["tie_word_embeddings"],
        )
    ).eval()
    theirs.model.vision_tower.load_state_dict(ours.vision_tower.tower.state_dict())
    theirs.model.multi_modal_projector.load_state_dict(ours.connector.state_dict())
    theirs.model.language_model.load_state_dict(ours.language_model.state_dict())
    theirs.lm_head.load_state_dict(ours.lm_head.state_dict())
    even, uneven = (
        [sample(ours, 5), sample(ours, 5, (1,))],
        [sample(ours, 5), sample(ours, 8, (1,))],
    )
    for samples, exact in ((even, True), (uneven, False)):  # theirs counts padding in positions
        batch = inputs(ours, samples, "left")
        counts = batch.pop("image_counts")
        with torch.no_grad():
            one, two = ours(**batch, image_counts=counts), theirs(**batch)
        real = batch["attention_mask"].bool()
        same(one.logits[real], two.logits[real], exact)
        same(one.loss, two.loss)
    del batch["labels"]
    more: dict[str, Any] = {"max_new_tokens": 6, "suppress_tokens": [IMAGE]}
    found = ours.generate(**batch, **more, image_counts=counts)
    assert torch.equal(found, theirs.generate(**batch, **more))


def lse_merged(fine: int) -> Callable[..., Tensor]:
    """An attention function that merges the two calls of a band layer into one softmax.

    The call on the rows' own keys is let through and kept; the one on the `fine` features comes
    back as the merged result less the first, so that the layer's sum is the merged one.
    """
    kept: list[tuple[Tensor, Tensor]] = []

    def attend(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        mask, rows, keys = options.get("attn_mask"), query.shape[2], key.shape[2]
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        logits = query @ key.transpose(2, 3) * (options.get("scale") or query.shape[3] ** -0.5)
        if options.get("is_causal"):
            mask = torch.ones(rows, keys, dtype=torch.bool).tril()
        if mask is not None:
            logits = logits.masked_fill(~mask, -torch.inf)
        lse, out = logits.logsumexp(-1, keepdim=True), logits.softmax(-1) @ value
        if keys != fine:
            kept[:] = [(lse, out)]
            return out
        lse_own, out_own = kept.pop()
        return (lse - lse_own).sigmoid() * (out - out_own)

    return attend


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_joint_softmax_is_the_merge_of_the_parts(family: str, monkeypatch: pytest.MonkeyPatch):
    language = {"type": "hf", "config": LANGUAGES[family]}
    section = with_keys(TINY, language=language, band={"layers": [2]}, **ALL_VISIBLE)
    joint = model_of(with_keys(section, **{"band.softmax": "joint"}))
    parts = model_of(section)
    features = {
        "states": torch.randn(2, 16, 16),
        "cls": torch.randn(2, 16),
        "cls_attention": torch.rand(2, 2, 16),
    }
    batch = inputs(parts, [sample(parts, 9), sample(parts, 12, (1,))])
    del batch["pixel_values"]  # the tower's attention would go through the same function

    @torch.no_grad()
    def logits(model: Any) -> Tensor:
        return model(**batch, vision_features=features).logits

    expected, apart = logits(joint), logits(parts)
    assert (expected - apart).abs().max() > 1e-3
    monkeypatch.setattr(functional, "scaled_dot_product_attention", lse_merged(16))
    real = batch["attention_mask"].bool()
    same(logits(parts)[real], expected[real])


@pytest.mark.parametrize("gate", ["tanh", "channel"])
@pytest.mark.parametrize("at", ["parallel", "before", "after"])
def test_a_closed_gate_is_no_band(gate: str, at: str):
    gated = model_of(with_keys(TINY, **{"band.gate": gate, "band.at": at}), loud=False)
    open_ = model_of(with_keys(TINY, **{"band.gate": gate, "band.at": at}))
    plain = model_of(with_keys(TINY, **NO_BAND), loud=False)
    same(spoken(gated), spoken(plain))
    closed = {k: v.zero_() for k, v in open_.state_dict().items() if ".gate." in k}
    open_.load_state_dict(closed, strict=False)
    bare = model_of(with_keys(TINY, **NO_BAND))
    same(spoken(open_), spoken(bare))


@pytest.mark.parametrize("family", LANGUAGES)
@pytest.mark.parametrize("sharing", ["own_norm", "kv_copy", "separate", "lora"])
@pytest.mark.parametrize("at", ["parallel", "after"])
def test_own_weights_that_are_copies_are_shared_ones(family: str, sharing: str, at: str):
    language = {"type": "hf", "config": LANGUAGES[family]}
    section = with_keys(TINY, language=language, **{"band.at": at})
    shared, own = model_of(section), model_of(with_keys(section, sharing=sharing))
    own.reset_band()
    if sharing == "lora":
        zeros = {k: v.zero_() for k, v in own.state_dict().items() if ".sharing." in k}
        own.load_state_dict(zeros, strict=False)
    same(spoken(own), spoken(shared))


@pytest.mark.parametrize("sharing", ["own_norm", "kv_copy", "separate", "lora"])
@pytest.mark.parametrize("bridge", ["mlp", "low_rank"])
def test_a_model_starts_as_if_it_had_no_new_weights(sharing: str, bridge: str):
    """Freshly built: residual bridges are the identity, own weights those of the layer."""
    plain = model_of(with_keys(TINY, bridge="none"), loud=False)
    new = model_of(with_keys(TINY, bridge=bridge, sharing=sharing), loud=False)
    same(spoken(new), spoken(plain))


@pytest.mark.parametrize("rank", ["none", "previous", "random"])
@pytest.mark.parametrize("name", ["plain", "bridge.mlp", "llava", "vica_with_anchors"])
def test_a_reducer_that_removes_nothing_is_none(rank: str, name: str):
    systems = SYSTEMS | {
        "vica_with_anchors": with_keys(SYSTEMS["vica"], anchors={"type": "norm", "count": 4})
    }
    whole = model_of(systems[name])
    drop = {"type": "drop", "layer": 2, "keep": whole.visual_rows, "rank": rank}
    reduced = model_of(with_keys(systems[name], reducer=drop))
    same(spoken(reduced), spoken(whole), exact=True)


def test_presets_are_drops():
    anchors = {"type": "all", "cls": True}
    fastv = model_of(with_keys(TINY, anchors=anchors, reducer={"type": "fastv", "keep": 3}))
    drop = {"type": "drop", "layer": 2, "keep": 3}
    same(spoken(fastv), spoken(model_of(with_keys(TINY, anchors=anchors, reducer=drop))), True)
    vtw = model_of(with_keys(TINY, reducer={"type": "vtw", "layer": 3}))
    drop = {"type": "drop", "layer": 3, "keep": 0, "rank": "none"}
    same(spoken(vtw), spoken(model_of(with_keys(TINY, reducer=drop))), True)


def test_anchors_that_are_all_patches_are_all():
    whole = spoken(model_of(with_keys(TINY, anchors={"type": "all", "cls": True})))
    for name in ("cls_topk", "progressive", "norm", "stride", "random", "divprune"):
        anchors = {"type": name, "count": 16, "cls": True}
        same(spoken(model_of(with_keys(TINY, anchors=anchors))), whole, exact=True)


@pytest.mark.parametrize("positions", ["packed", "one"])
@pytest.mark.parametrize("prompt", ["question_first", "image_first"])
def test_a_count_that_adapts_is_that_count(prompt: str, positions: str):
    """What an image does not fill of its rows takes no attention, and no position drifts."""
    prompts = {"type": prompt, "positions": positions}
    section = with_keys(TINY, prompt=prompts, anchors={"type": "prumerge", "plus": True})
    adapts = model_of(section)
    one = inputs(adapts, [sample(adapts, 6)])["pixel_values"]
    with torch.no_grad():
        mask_NA = adapts.look(adapts.see(one, None)).mask_NA
    kept = int(mask_NA.sum()) - 1
    assert 1 < kept < 16
    plain = model_of(with_keys(section, **{"anchors.count": kept, "anchors.plus": False}))
    states = adapts.selector(adapts.see(one, None)).states_NAV[mask_NA][None]

    def rows_of_the_other(*_: Any) -> Anchors:
        index_NA = torch.full(states.shape[:2], -1)
        return Anchors(states_NAV=states, index_NA=index_NA)

    plain.selector.forward = rows_of_the_other
    same(said(adapts, [sample(adapts, 6)])[0], said(plain, [sample(plain, 6)])[0])


@pytest.mark.parametrize("name", ["bridge.mlp", "anchors.prumerge", "anchors.visionzip", "tome"])
def test_cached_features_are_the_towers(name: str):
    model = model_of(SYSTEMS[name])
    batch = inputs(model, [sample(model, 5), sample(model, 8, (1,))])
    with torch.no_grad():
        seen = model.see(batch["pixel_values"], None)
        expected = model(**batch).logits
        del batch["pixel_values"]
        cached = seen.features()
        same(model(**batch, vision_features=cached).logits, expected, exact=True)


@pytest.mark.parametrize("bridge", ["mlp", "ffn", "low_rank"])
def test_a_band_in_one_layer_has_nothing_to_carry(bridge: str):
    section = with_keys(TINY, band={"layers": [1]}, bridge={"type": bridge})
    carried = with_keys(section, bridge={"type": bridge, "carry": True})
    same(spoken(model_of(carried)), spoken(model_of(section)), exact=True)


def test_eager_attention_is_sdpa():
    for name in ("bridge.mlp", "flamingo", "vica", "fastv_joint", "owl3", "image_first_before"):
        model = model_of(SYSTEMS[name])
        expected = spoken(model)
        model.set_attn_implementation("eager")
        same(spoken(model), expected)


@pytest.mark.parametrize("positions", ["packed", "one", "grid"])
def test_packed_questions_are_questions_one_by_one(positions: str):
    prompt = {"type": "image_first", "positions": positions}
    for name in ("plain", "bridge.mlp", "saisa", "flamingo"):
        model = model_of(with_keys(SYSTEMS[name], prompt=prompt))
        one = sample(model, 5)
        prefix = 1 + model.visual_rows
        other = sample(model, 8)
        expected = said(model, [one])[0][1:], said(model, [other])[0][1:]
        ids = torch.tensor([[*one.ids, *other.ids[prefix:]]])
        segments = torch.ones_like(ids)
        segments[:, :prefix] = 0
        segments[:, len(one.ids) :] = 2
        pixels = inputs(model, [one])["pixel_values"]
        with torch.no_grad():
            logits = model(input_ids=ids, segments=segments, pixel_values=pixels).logits[0]
        same(logits[prefix : len(one.ids)], expected[0])
        same(logits[len(one.ids) :], expected[1])
