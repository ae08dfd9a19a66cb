"""The closed form and the FLOPs counted are one number, for every option."""

import pytest
import torch
from torch import nn

from eramv_lab.cost.count import (
    PARTS,
    count_decode,
    count_parameters,
    count_prefill,
    count_train,
    inputs,
    meta_model,
)
from eramv_lab.cost.formula import price
from eramv_lab.train.roles import set_trainable

from .shapes import SCALE, anchors, scale, tiny

BAND = {"start": 2, "length": 2}
LEARN = {"connector": "full", "language": "full", "bridge": "full", "band": "full"}
STAGE_1 = {"connector": "full", "bridge": "full", "band": "full"}
WHOLE = {**LEARN, "vision": "full"}
WITH_TOWER = {
    *("reference", "no_anchors", "divprune", "visionzip", "merged", "bridge_ffn", "flamingo"),
    *("sparsevlm", "hidrop", "dinov2", "clip_prumerge"),
}
"""Variants whose steps with the tower in them the quick tier counts; the full tier counts all."""


def tower(family):
    sizes = {"hidden_size": 32, "intermediate_size": 128, "image_size": 28, "patch_size": 7}
    config = {"model_type": family, **sizes, "num_hidden_layers": 3, "num_attention_heads": 4}
    return {"type": "hf", "config": config}


def decoder(family):
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "vocab_size": 80}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    return {"type": "hf", "config": {"model_type": family, **sizes, **heads}}


VARIANTS = {
    "reference": {},
    "no_band": {"band": "none"},
    "llava": {"anchors": "all", "band": "none", "prompt": "image_first"},
    "no_anchors": {"anchors": "none"},
    "pool": {"anchors": {"type": "pool", "count": 9, "cls": True}},
    "divprune": {"anchors": {"type": "divprune", "count": 8}},
    "divprune_alone": {"anchors": {"type": "divprune", "count": 8, "cls": True}, "band": "none"},
    "prumerge": {"anchors": {"type": "prumerge", "cls": True}},
    "prumerge_plus": {"anchors": {"type": "prumerge", "plus": True, "count": 9}, "band": "none"},
    "visionzip": {"anchors": {"type": "visionzip", "count": 20}, "band": "none"},
    "merged": {"vision": {"type": "tiny", "merge": 40}, "anchors": "all", "band": "none"},
    "progressive": {"anchors": {"type": "progressive", "count": 8}},
    "exclude_anchors": {"fine": {"type": "all", "exclude_anchors": True}},
    "skip": {"connector": {"type": "mlp2x_gelu", "skip": True}},
    "linear": {"connector": "linear"},
    "no_bridge": {"bridge": "none"},
    "add": {
        "anchors": {"type": "pool", "count": 36},
        "band": {"start": 1, "length": 4, "type": "add"},
        "bridge": "none",
    },
    "bridge_once": {"bridge": {"type": "mlp", "share": "band"}},
    "bridge_carried": {"bridge": {"type": "low_rank", "share": "band", "carry": True}},
    "bridge_ffn": {"bridge": {"type": "ffn", "carry": True}},
    "bridge_ffn_before": {"bridge": {"type": "ffn", "carry": True, "read": "before"}},
    "bridge_projector": {"bridge": "projector"},
    "own_norm": {"sharing": "own_norm"},
    "kv_copy": {"sharing": "kv_copy"},
    "separate": {"sharing": "separate"},
    "lora": {"sharing": "lora"},
    "flamingo": {
        "band": {**BAND, "at": "before", "gate": "tanh", "ffn": "gelu", "visible": "last"},
        "sharing": {"type": "separate", "init": "random", "norm": "rows", "narrow": 4},
    },
    "mllama": {
        "band": {**BAND, "at": "before", "gate": "channel", "ffn": "gated"},
        "sharing": {"type": "separate", "norm": "rows", "qk_norm": True},
    },
    "ungated": {"band": {**BAND, "at": "after", "ffn": "gelu"}},
    "after_text_rows": {
        "band": {**BAND, "at": "after", "gate": "text"},
        "sharing": {"type": "separate", "norm": "rows"},
    },
    "after": {"band": {**BAND, "at": "after"}},
    "before_separate": {"band": {**BAND, "at": "before"}, "sharing": "separate"},
    "after_lora": {"band": {**BAND, "at": "after"}, "sharing": "lora"},
    "joint": {"band": {**BAND, "softmax": "joint", "positions": "one"}},
    "gate_text": {"band": {**BAND, "gate": "text", "combine": "mix"}},
    "gate_channel": {"band": {**BAND, "gate": "channel", "queries": "text"}},
    "visible": {"band": {**BAND, "visible": "before", "queries": "visual"}},
    "fastv": {"anchors": "all", "reducer": {"type": "fastv", "layer": 3, "keep": 5}},
    "vtw": {"anchors": "all", "band": "none", "reducer": {"type": "vtw", "layer": 3}},
    "two_drops": {
        "anchors": "all",
        "reducer": [
            {"type": "drop", "layer": 2, "keep": 40},
            {"type": "drop", "layer": 4, "keep": 10, "rank": "random"},
        ],
    },
    "fastv_mean": {"anchors": "all", "reducer": {"type": "fastv", "layer": 3, "by": "mean"}},
    "pyramiddrop": {"anchors": "all", "band": "none", "reducer": "pyramiddrop"},
    "pyramiddrop_band": {"anchors": "all", "reducer": {"type": "pyramiddrop", "layers": [0, 3]}},
    "sparsevlm": {"anchors": "all", "band": "none", "reducer": "sparsevlm"},
    "sparsevlm_band": {"anchors": "all", "reducer": {"type": "sparsevlm", "tokens": 30}},
    "late": {"anchors": "all", "reducer": {"type": "late", "layer": 3, "exit": 5}},
    "late_plain": {"anchors": "all", "band": "none", "reducer": {"type": "late", "layer": 2}},
    "shortv": {"anchors": "all", "reducer": {"type": "shortv", "active": 2}},
    "shortv_plain": {"anchors": "all", "band": "none", "reducer": "shortv"},
    "shortv_after": {"band": {**BAND, "at": "after"}, "reducer": {"type": "shortv", "active": 0}},
    "shortv_joint": {
        "band": {**BAND, "softmax": "joint", "positions": "one"},
        "reducer": {"type": "shortv", "active": 1},
    },
    "hidrop": {
        "anchors": "all",
        "band": "none",
        "reducer": [
            {"type": "late", "layer": 1, "exit": 5},
            {"type": "pyramiddrop", "layers": [2, 3], "positions": "keep", "keep": [9, 2]},
        ],
    },
    "shortv_fastv": {
        "anchors": "all",
        "reducer": [
            {"type": "shortv", "active": 3, "order": [1, 5, 4]},
            {"type": "fastv", "by": "mean"},
        ],
    },
    "grouped": {"language": {"type": "tiny", "heads": 6, "kv_heads": 2}},
    **{f: {"language": decoder(f), "sharing": "separate"} for f in ("mistral", "qwen2", "qwen3")},
    "clip": {"vision": tower("clip_vision_model")},
    "dinov2": {"vision": tower("dinov2")},
    "clip_prumerge": {
        "vision": tower("clip_vision_model"),
        "anchors": {"type": "prumerge", "count": 3},
    },
    "clip_merged": {
        "vision": {**tower("clip_vision_model"), "merge": 7},
        "anchors": {"type": "divprune", "count": 3},
    },
    "siglip": {
        "vision": tower("siglip_vision_model"),
        "anchors": {"type": "norm", "count": 8},
    },
}


def check_inference(spec, model, text_tokens):
    cost = price(spec, text_tokens=text_tokens)
    assert count_parameters(model) == cost.parameters
    assert count_prefill(model, text_tokens) == {part: cost.column(part) for part in PARTS}
    assert count_decode(model, text_tokens) == cost.decode


def check_training(spec, model, text_tokens, roles, cached_vision=False):
    cost = price(
        spec,
        text_tokens=text_tokens,
        supervised_tokens=3,
        train=roles,
        cached_vision=cached_vision,
    )
    set_trainable(model, roles)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == cost.trainable
    assert count_train(model, text_tokens, 3, cached_vision=cached_vision) == cost.train


@pytest.mark.parametrize("name", VARIANTS)
def test_formula_equals_count(name, built):
    spec = tiny(**VARIANTS[name])
    model = built(spec)
    check_inference(spec, model, 20)
    if name != "skip":  # until the connector says that its skip reads the tower
        check_training(spec, model, 20, LEARN, cached_vision=True)


@pytest.mark.parametrize("roles", [STAGE_1, WHOLE], ids=["stage_1", "whole"])
@pytest.mark.parametrize(
    "name",
    [
        name if name in WITH_TOWER else pytest.param(name, marks=pytest.mark.slow)
        for name in VARIANTS
        if name != "skip"
    ],
)
def test_a_step_with_the_tower_in_it(name, roles, built):
    spec = tiny(**VARIANTS[name])
    check_training(spec, built(spec), 20, roles)


@pytest.mark.parametrize("roles", [{"bridge": "full"}, {"language": "full"}, {"vision": "full"}])
@pytest.mark.parametrize("name", ["reference", "bridge_carried", "joint", "no_anchors"])
def test_the_lowest_part_that_learns_decides(name, roles, built):
    spec = tiny(**VARIANTS[name])
    check_training(spec, built(spec), 20, roles)


@pytest.mark.parametrize("roles", [{"band": "full"}, {"connector": "full"}])
@pytest.mark.parametrize("name", ["flamingo", "mllama", "ungated", "after_text_rows"])
def test_a_step_of_its_own_learns_with_what_is_below_it_or_alone(name, roles, built):
    spec = tiny(**VARIANTS[name])
    check_training(spec, built(spec), 20, roles)


@pytest.mark.parametrize("name", ["before_separate", "flamingo", "mllama"])
def test_the_cache_holds_the_heads_that_the_band_has(name):
    spec = tiny(**VARIANTS[name])
    with torch.no_grad():
        given = inputs(model := meta_model(spec), 20)
        past = model(**given, use_cache=True).past_key_values
    halves = past.self_attention_cache, past.cross_attention_cache
    held = sum(x.numel() for h in halves for one in h.layers for x in (one.keys, one.values)
               if x is not None)  # fmt: skip
    assert price(spec, text_tokens=20).kv_bytes == 2 * held


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=pytest.mark.slow if "13b" in path.stem else ())
        for path in sorted(SCALE.glob("*[0-9]b.yaml"))
    ],
)
def test_recipes_at_scale(name):
    spec = scale(name)
    check_inference(spec, meta_model(spec), 64)


@pytest.mark.parametrize("name", ["reference", "flamingo", "sparsevlm"])
def test_shapes_alone_count_the_same(name):
    spec = tiny(**VARIANTS[name])
    check_inference(spec, meta_model(spec), 20)
    check_training(spec, meta_model(spec), 20, WHOLE)


@pytest.mark.slow
@pytest.mark.parametrize("roles", [LEARN, STAGE_1])
@pytest.mark.parametrize("name", ["llava15_7b", "eramv_7b", "eramv_13b"])
def test_training_at_scale(name, roles):
    spec = scale(name)
    check_training(spec, meta_model(spec), 64, roles)


def test_the_count_sees_attention(built):
    """A fused one torch counts as nothing on the CPU; a longer text costs more than its rows."""
    model = built(tiny(anchors=anchors(9), band="none"))
    short, long = (count_prefill(model, n)["llm"] for n in (23, 55))
    assert long > 2 * short


def test_estimate_of_activations_is_near_what_autograd_keeps():
    from eramv_lab.model import build_model

    spec = tiny(band="none")
    model = build_model(spec).train()
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    from eramv_lab.cost.count import inputs

    alive: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**inputs(model, 64, 4, cached_vision=True), logits_to_keep=1)
    estimate = 2 * price(spec, batch=4).activation_bytes  # fp32: 4 bytes a value
    assert 0.7 < sum(kept.values()) / estimate < 1.5
