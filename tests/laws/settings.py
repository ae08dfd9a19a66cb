"""One setting of every registered component: where it works, and how each option is turned.

A registered component that has no entry here, or an option that is not turned, fails a test.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args, get_type_hints

from eramv_lab.registry import SLOTS, Component

TINY: dict[str, Any] = {
    "vision": {
        "type": "tiny", "image": 32, "patch": 8, "width": 16, "layers": 2, "heads": 2, "ffn": 24,
    },
    "anchors": {"type": "cls_topk", "count": 4},
    "connector": {"type": "mlp2x_gelu"},
    "fine": {"type": "all"},
    "band": {"start": 1, "length": 2},
    "bridge": {"type": "mlp", "hidden": 20},
    "sharing": {"type": "shared"},
    "reducer": "none",
    "language": {
        "type": "tiny", "width": 32, "layers": 4, "heads": 4, "kv_heads": 2, "ffn": 40, "vocab": 80,
    },
    "prompt": {"type": "question_first"},
}  # fmt: skip
"""The model that every setting is a change of: 16 patches, 5 anchors, a band of two layers."""

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 80, "head_dim": 8,
    "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "tie_word_embeddings": False,
}  # fmt: skip
LANGUAGES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama_biased": LLAMA | {"attention_bias": True, "tie_word_embeddings": True},
    "mistral": LLAMA | {"model_type": "mistral", "sliding_window": None, "rope_theta": 500.0},
    "qwen2": LLAMA | {"model_type": "qwen2"},
    "qwen3": LLAMA | {"model_type": "qwen3", "head_dim": 12},
}
CLIP: dict[str, Any] = {
    "model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 24,
    "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
}  # fmt: skip
TOWERS: dict[str, dict[str, Any]] = {
    "clip": CLIP,
    "siglip": CLIP | {"model_type": "siglip_vision_model"},
    "dinov2": CLIP | {"model_type": "dinov2", "mlp_ratio": 2},
}


@dataclass(frozen=True)
class Turn:
    """An option set to `to`: the output has to change. `model` holds for both sides."""

    to: Any
    model: Mapping[str, Any] = field(default_factory=dict)
    start: bool = False
    """Shows only in the weights a model starts with."""


@dataclass(frozen=True)
class Same:
    """An option that no logit can show, and why."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A component as the laws build it."""

    config: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    """Other keys of the section that it needs, dotted."""
    options: Mapping[str, Turn | Same | tuple[Turn, ...]] = field(default_factory=dict)
    idle: str = ""
    """Regular expression of parameters that never take part (layers above the features)."""


def turns(*values: Any, **model: Any) -> tuple[Turn, ...]:
    """One Turn for each value."""
    return tuple(Turn(v, model) for v in values)


COUNT = {"count": Turn(6), "cls": Turn(False)}
COUNT_NO_CLS = {"count": Turn(6), "cls": Turn(True)}
SHARE = {"share": Turn("band"), "carry": Turn(True)}
ADDED = {
    "anchors": {"type": "pool", "count": 4},
    "band.start": 0,
    "band.length": 4,
    "bridge": "none",
}
"""Four windows of two by two patches, one of each before each of the four layers."""
MERGE = turns(6, [5, 4], **{"anchors.type": "norm"})
OWN_FINE = {"fine_connector": "linear"}
"""Beside a connector that is not per token."""
LAYERS = {"layers": 2, "heads": 2, "head_dim": 6, "ffn": 1.5}
LAYERS_TURNED = {
    "layers": Turn(1), "heads": Turn(3), "head_dim": Turn(4), "ffn": Turn(2.0),
}  # fmt: skip
TINY_VISION = {"image": 48, "patch": 4, "width": 24, "layers": 1, "heads": 4, "ffn": 16}
TINY_LANGUAGE = {"width": 48, "layers": 3, "heads": 2, "kv_heads": 4, "ffn": 24, "vocab": 96}

SETTINGS: dict[str, dict[str, Setting]] = {
    "vision": {
        "tiny": Setting(
            config=TINY["vision"],
            options={k: Turn(v) for k, v in TINY_VISION.items()} | {"merge": MERGE},
        ),
        "hf": Setting(
            config={"config": CLIP},
            options={
                "path": Same("a folder with the same weights is the same tower"),
                "config": turns(TOWERS["siglip"], TOWERS["dinov2"], **{"anchors.type": "norm"}),
                "feature_layer": turns(-1, -3),
                "merge": MERGE,
            },
            idle=r"tower\.(encoder\.layers?\.2\.|(post_)?layernorm|embeddings\.mask_token)",
        ),
    },
    "anchors": {
        "cls_topk": Setting(config={"count": 4}, options=COUNT),
        "progressive": Setting(config={"count": 4}, options=COUNT),
        "random": Setting(config={"count": 4}, options=COUNT_NO_CLS | {"seed": turns(1, "run")}),
        "stride": Setting(config={"count": 4}, options=COUNT_NO_CLS),
        "norm": Setting(config={"count": 4}, options=COUNT_NO_CLS),
        "pool": Setting(config={"count": 4}, options={"count": Turn(9), "cls": Turn(True)}),
        "all": Setting(options={"cls": Turn(True)}),
        "divprune": Setting(config={"count": 4}, options=COUNT_NO_CLS),
        "prumerge": Setting(
            config={"plus": True},
            options={
                "count": Turn(6),
                "cls": Turn(True),
                "plus": Turn(False),
                "most": Turn(2),
                "neighbours": Turn(2),
                "order": Turn("score"),
            },
        ),
        "visionzip": Setting(config={"count": 4}, options=COUNT | {"contextual": Turn(2)}),
    },
    "connector": {
        "mlp2x_gelu": Setting(options={"skip": Turn(True)}),
        "linear": Setting(),
        "acformer": Setting(config=LAYERS, model=OWN_FINE, options=LAYERS_TURNED),
        "perceiver": Setting(
            config=LAYERS | {"queries": 3},
            model=OWN_FINE,
            options=LAYERS_TURNED | {"queries": Turn(4), "time": Turn(False)},
        ),
        "resampler": Setting(
            config={"queries": 4, "head_dim": 8},
            model=OWN_FINE,
            options={"queries": turns(1, 9), "head_dim": Turn(16)},
        ),
        "tokenpacker": Setting(
            config={"levels": (0, 2), "head_dim": 8},
            model=OWN_FINE | {"anchors": "all"},
            options={
                "scale": Turn(4),
                "count": Turn(1),
                "levels": turns((1, 2), (2,)),
                "head_dim": Turn(16),
            },
        ),
        "qformer": Setting(
            config={
                **{"queries": 3, "layers": 3, "width": 12, "heads": 2, "ffn": 20, "dropout": 0.0},
                **{"question": True, "words": 6},
            },
            model=OWN_FINE,
            options={
                "queries": Turn(4),
                "layers": Turn(4),
                "width": Turn(18),
                "heads": Turn(3),
                "ffn": Turn(16),
                "every": turns(1, 3),
                "norm": Turn(False),
                "question": Turn(False),
                "words": Turn(3),
                "dropout": Same("in training alone"),
            },
            # the words behind the last layer are read by nobody, in InstructBLIP as well
            idle=r"former\.encoder\.layer\.[23]\.(intermediate|output)\.",
        ),
    },
    "fine": {"all": Setting(options={"exclude_anchors": Turn(True), "cls": Turn(True)})},
    "fusion": {
        "attend": Setting(
            options={
                "softmax": Turn("joint", {"band.positions": "one"}),
                "gate": turns("tanh", "channel", "text"),
                "combine": Turn("mix", {"band.gate": "text"}),
                "queries": turns("text", "visual"),
                "visible": turns("before", "last"),
                "at": turns("after", "before"),
                "positions": turns("one", "grid", **{"prompt.positions": "grid"}),
                "ffn": turns("gelu", "gated", **{"band.at": "before"}),
            }
        ),
        "add": Setting(model=ADDED),
    },
    "bridge": {
        "mlp": Setting(
            config={"hidden": 20}, options={"hidden": Turn(24), "activation": Turn("silu")} | SHARE
        ),
        "low_rank": Setting(config={"rank": 3}, options={"rank": Turn(4)} | SHARE),
        "projector": Setting(
            options={
                "share": Turn("band"),
                "carry": Same("refused: it leaves the width it reads"),
                "skip": Turn(True),
                "init": Turn("connector", start=True),
            }
        ),
        "ffn": Setting(
            options={
                "share": Same("refused: each layer brings its own"),
                "carry": Turn(True),
                "read": Turn("before", {"bridge.carry": True}),
            }
        ),
    },
    "sharing": {
        "shared": Setting(),
        "own_norm": Setting(),
        "kv_copy": Setting(),
        "separate": Setting(
            config={"init": "random"},
            model={"band.at": "after"},
            options={
                "init": Turn("copy", start=True),
                "norm": Turn("rows"),
                "qk_norm": Turn(True),
                "narrow": Turn(2),
            },
        ),
        "lora": Setting(config={"rank": 3}, options={"rank": Turn(4), "alpha": Turn(4.0)}),
    },
    "reducer": {
        "drop": Setting(
            config={"layer": 2, "keep": 2},
            options={
                "layer": Turn(3),
                "keep": Turn(1),
                "rank": turns("none", "random", "next"),
                "rankers": Turn("mean"),
                "positions": Turn("repack"),
            },
        ),
        "fastv": Setting(
            config={"layer": 2, "ratio": 0.2},
            options={"layer": Turn(1), "ratio": Turn(0.6), "keep": Turn(1), "by": Turn("mean")},
        ),
        "vtw": Setting(config={"layer": 2}, options={"layer": Turn(1)}),
        "pyramiddrop": Setting(
            config={"layers": (1, 2), "ratio": 0.5},
            options={
                "layers": Turn([1, 3]),
                "ratio": Turn(0.3),
                "keep": Turn([3, 1]),
                "positions": Turn("keep"),
            },
        ),
        "sparsevlm": Setting(
            config={"layers": (0, 1), "keep": (7, 3), "tau": 0.8, "theta": 0.3},
            model={"anchors": "all", "prompt": "image_first"},
            options={
                "layers": Turn([0, 2]),
                "tokens": Turn(9, {"reducer.keep": "none"}),
                "keep": Turn([8, 3]),
                "tau": Turn(0.4),
                "theta": Turn(0.6),
                "merge": Turn("sum"),
                "positions": Turn("keep"),
            },
        ),
        "late": Setting(config={"layer": 2}, options={"layer": Turn(1), "exit": Turn(3)}),
        "shortv": Setting(
            config={"active": 1, "order": (3, 0, 2, 1)},
            options={"active": Turn(2), "order": Turn([0, 1, 2, 3])},
        ),
    },
    "language": {
        "tiny": Setting(
            config=TINY["language"], options={k: Turn(v) for k, v in TINY_LANGUAGE.items()}
        ),
        "hf": Setting(
            config={"config": LLAMA},
            options={
                "path": Same("a folder with the same weights is the same model"),
                "config": turns(*list(LANGUAGES.values())[1:]),
            },
        ),
    },
    "prompt": {
        name: Setting(
            options={
                "template": Same("words are the processor's; its tests read them"),
                "marker": Same("words are the processor's; its tests read them"),
                "positions": turns("one", "grid"),
            }
        )
        for name in ("question_first", "image_first")
    },
}

Case = tuple[str, str]
CASES: list[Case] = [(slot, name) for slot in SLOTS for name in SLOTS[slot].names()]


def setting(case: Case) -> Setting:
    """The setting of a component; fails where there is none."""
    slot, name = case
    found = SETTINGS.get(slot, {}).get(name)
    assert found is not None, f"{slot} {name!r} is registered and has no entry in {__file__}"
    return found


def component(case: Case) -> Component:
    """The registered component."""
    return SLOTS[case[0]].get(case[1])


def with_keys(section: Mapping[str, Any], **changes: Any) -> dict[str, Any]:
    """A copy of the section with dotted keys changed."""
    section = copy.deepcopy(dict(section))
    for key, value in changes.items():
        *path, last = key.split(".")
        place = section
        for part in path:
            if not isinstance(place.get(part), dict):
                place[part] = {"type": place[part]} if isinstance(place.get(part), str) else {}
            place = place[part]
        place[last] = copy.deepcopy(value)
    return section


def section_of(case: Case, **options: Any) -> dict[str, Any]:
    """TINY with the component in its slot, as its setting says, `options` turned."""
    slot, name = case
    chosen = setting(case)
    config = {**chosen.config, "type": name, **options}
    if slot == "fusion":
        section = with_keys(TINY, band=TINY["band"] | config)
    else:
        section = with_keys(TINY, **{slot: config})
    return with_keys(section, **chosen.model)


def turned(case: Case) -> list[tuple[str, Turn]]:
    """Every option of the component with every value that it is turned to."""
    found: list[tuple[str, Turn]] = []
    for name, how in setting(case).options.items():
        if not isinstance(how, Same):
            found += [(name, turn) for turn in (how if isinstance(how, tuple) else (how,))]
    return found


def missing_options(case: Case) -> list[str]:
    """Options, and words of an option, that the setting does not turn."""
    chosen, config = setting(case), component(case).config
    missing: list[str] = []
    for f in dataclasses.fields(config):
        how = chosen.options.get(f.name)
        if how is None:
            missing.append(f.name)
        elif not isinstance(how, Same):
            words = {w for w in get_args(get_type_hints(config)[f.name]) if isinstance(w, str)}
            seen = {t.to for n, t in turned(case) if n == f.name and isinstance(t.to, str)}
            default = chosen.config.get(f.name, f.default)
            missing += [f"{f.name}: {word}" for word in words - seen if word != default]
    return missing
