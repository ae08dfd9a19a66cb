"""Whole tiny models, what is put into them, and the list of systems that the laws run through."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from eramv_lab.model import EramvForConditionalGeneration, build_model
from laws.probes import draw, perturb, spec_of
from laws.settings import CASES, LANGUAGES, SETTINGS, TINY, section_of, turned, with_keys

PAD, BOS, EOS, IMAGE, ANSWER = range(5)
Section = dict[str, Any]
NO_BAND = {"band": "none"}
JOINT = {"band.softmax": "joint", "band.positions": "one"}
GRID = {"prompt": {"type": "image_first", "positions": "grid"}, "band.positions": "grid"}


def _systems() -> dict[str, Section]:
    """Every component in its setting, and the systems of the literature that slots can spell."""
    found = {".".join(case): section_of(case) for case in CASES}

    def add(name: str, **changes: Any) -> None:
        found[name] = with_keys(TINY, **changes)

    add("plain", **NO_BAND)
    add("llava", anchors="all", prompt="image_first", **NO_BAND)
    add("no_anchors", anchors="none")
    add("no_bridge", bridge="none")
    add("joint", **JOINT)
    add("vica", anchors="none", bridge="none", **{"band.softmax": "joint"}, **GRID)
    add("saisa", anchors="none", bridge="projector", **JOINT, **{"band.queries": "text"})
    carried = {"type": "ffn", "carry": True}
    add("ee_mllm", anchors="none", bridge=carried | {"read": "before"}, **JOINT)
    add("delta", bridge={"type": "low_rank", "rank": 3, "carry": True, "share": "band"}, **JOINT)
    block = {"band.at": "before", "band.gate": "tanh"}
    rows = {"type": "separate", "norm": "rows"}
    narrow = rows | {"init": "random", "narrow": 2}
    last = {"band.visible": "last"}
    add("flamingo", anchors="none", sharing=narrow, **block, **{"band.ffn": "gelu"}, **last)
    add("mllama", sharing=rows | {"qk_norm": True}, **block, **{"band.ffn": "gated"})
    add("cogagent", sharing=narrow, **{"band.at": "after", "band.queries": "all"})
    reduced = {"reducer": {"type": "drop", "layer": 2, "keep": 2}}
    found["deepstack_fastv"] = with_keys(found["fusion.add"], **reduced)
    add("owl3", sharing="kv_copy", **{"band.gate": "text", "band.combine": "mix"})
    add("owl3_text", **{"band.gate": "text", "band.combine": "mix", "band.queries": "text"})
    add("lora_after", sharing="lora", **{"band.at": "after", "band.positions": "one"})
    add("fastv_plain", anchors="all", prompt="image_first", reducer="fastv", **NO_BAND)
    add("fastv_joint", reducer={"type": "fastv", "layer": 2}, **JOINT)
    add("pyramid", reducer=[{"type": "drop", "layer": n, "keep": 4 - n} for n in (1, 2, 3)])
    add("fastv_vtw", reducer=[{"type": "fastv", "layer": 1}, {"type": "vtw", "layer": 3}])
    add("pyramid_next", anchors="all", prompt="image_first", reducer="pyramiddrop", **NO_BAND)
    add("late_exit", reducer={"type": "late", "layer": 1, "exit": 3})
    add("shortv_fastv", reducer=[{"type": "shortv", "active": 2}, {"type": "fastv", "keep": 2}])
    pyramid = {"type": "pyramiddrop", "layers": [2], "positions": "keep"}
    add("hidrop", reducer=[{"type": "late", "layer": 1, "exit": 3}, pyramid])
    everything: Section = {"anchors": {"type": "norm", "count": 6}, "reducer": "pyramiddrop"}
    add("joint_pyramid", **everything, **JOINT)
    add("joint_shortv", reducer={"type": "shortv", "active": 1}, **JOINT)
    add("grid_hidrop", reducer=found["hidrop"]["reducer"], **{"band.softmax": "joint"}, **GRID)
    sparse = {**SETTINGS["reducer"]["sparsevlm"].config, "type": "sparsevlm"}
    add("sparsevlm_plain", anchors="all", prompt="image_first", reducer=sparse, **NO_BAND)
    late_sparse = [{"type": "late", "layer": 1}, sparse | {"layers": [1, 2]}]
    add("sparsevlm_late", anchors="all", reducer=late_sparse)
    for name in ("grid", "one"):
        prompt = {"type": "image_first", "positions": name}
        add(
            f"{name}_repack", prompt=prompt, reducer=found["pyramid_next"]["reducer"], anchors="all"
        )
    add("mean_late", reducer=[{"type": "late", "layer": 1}, {"type": "fastv", "by": "mean"}])
    add("image_first_before", prompt="image_first", **{"band.visible": "before"})
    add("band_everywhere", band={"every": 1})
    add("own_fine", fine_connector="mlp2x_gelu")
    small = found["connector.perceiver"]["connector"]
    add("perceiver", anchors="none", fine_connector=small)
    add("acformer_fine", connector=found["connector.acformer"]["connector"], fine_connector=small)
    former = found["connector.qformer"]["connector"]
    add("instructblip", connector=former, prompt="image_first", **NO_BAND)
    add(
        "blip2",
        connector=former | {"question": False},
        anchors={"type": "all", "cls": True},
        **NO_BAND,
    )
    add("own_rest", fine={"type": "all", "exclude_anchors": True, "cls": True})
    add("tome", anchors="all", **{"vision.merge": 6})
    adapts = {"type": "prumerge", "plus": True}
    add("adapts_fastv", anchors=adapts, reducer={"type": "fastv", "keep": 2}, **JOINT)
    add("adapts_late", anchors=adapts, reducer={"type": "late", "layer": 1})
    add("adapts_shortv", anchors=adapts, reducer={"type": "shortv", "active": 0})
    scarce = sparse | {"keep": [2, 1], "positions": "keep"}
    add("adapts_sparsevlm", anchors=adapts, prompt="image_first", reducer=scarce)
    window = LANGUAGES["mistral"] | {"sliding_window": 6}
    for name, config in {**LANGUAGES, "mistral_window": window}.items():
        add(name, language={"type": "hf", "config": config})
    add("qwen3_separate", sharing="separate", language=found["qwen3"]["language"])
    add("biased_separate", sharing="separate", language=found["llama_biased"]["language"])
    add("qwen2_joint_fastv", reducer="fastv", language=found["qwen2"]["language"], **JOINT)
    for name in ("llama", "qwen3"):
        add(f"{name}_hidrop", reducer=found["hidrop"]["reducer"], language=found[name]["language"])
        add(f"{name}_pyramid", reducer="pyramiddrop", language=found[name]["language"])
    shortv = found["shortv_fastv"]["reducer"]
    add("qwen3_shortv_fastv", reducer=shortv, language=found["qwen3"]["language"])
    add(
        "qwen3_shortv_after",
        reducer=shortv,
        language=found["qwen3"]["language"],
        **{"band.at": "after"},
    )
    add("owl3_shortv", reducer={"type": "shortv", "active": 0}, band=found["owl3_text"]["band"])
    add(
        "before_shortv",
        reducer={"type": "shortv", "active": 0},
        prompt="image_first",
        **{"band.at": "before", "band.visible": "before"},
    )
    add("window_joint", language=found["mistral_window"]["language"], **JOINT)
    return found


SYSTEMS = _systems()
FULL = {
    *("llama_hidrop", "llama_pyramid", "qwen3_pyramid", "qwen3_shortv_after", "owl3_shortv"),
    *("joint_pyramid", "joint_shortv", "grid_repack", "one_repack", "mean_late", "late_exit"),
    *("sparsevlm_plain", "adapts_shortv", "adapts_sparsevlm"),
}
"""Systems that the full tier alone goes through."""


def tiered(names: Iterable[str]) -> list[Any]:
    """Names of systems as parameters of a test, those of the full tier marked."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in FULL else name for name in names]


EACH = tiered(SYSTEMS)
BANDED = tiered(name for name, section in SYSTEMS.items() if section["band"] != "none")
"""Those with a band."""
OPTIONS: dict[str, Section] = {
    f"{'.'.join(case)}-{name}-{i}": with_keys(section_of(case, **{name: turn.to}), **turn.model)
    for case in CASES
    for i, (name, turn) in enumerate(turned(case))
}
"""Every option of every component, turned."""


def model_of(section: Mapping[str, Any], *, seed: int = 0, loud: bool = True) -> Any:
    """The model in evaluation mode; `loud` moves every weight away from its start."""
    model: EramvForConditionalGeneration = build_model(spec_of(section), seed=seed)
    if loud:
        perturb(model)
    return model.eval()


@cache
def shared(name: str) -> Any:
    """The system's model, built once for all tests that only ask it."""
    return model_of(SYSTEMS[name])


@dataclass(frozen=True)
class Sample:
    """Ids of one prompt with its answer, and the pictures that its images show."""

    ids: tuple[int, ...]
    prompt: int
    """Rows up to the answer's first word."""
    pictures: tuple[int, ...]
    question: tuple[int, ...] = ()
    """Its words alone."""


def sample(
    model: Any, words: int = 5, pictures: Sequence[int] = (0,), answer: int = 4, seed: int = 0
) -> Sample:
    """A prompt in the order of the model's recipe; several images stand between the words."""
    generator = torch.Generator().manual_seed(100 * words + seed)
    text = torch.randint(10, 70, (words + answer,), generator=generator).tolist()
    rows = [IMAGE] * model.visual_rows
    question, said = text[:words], text[words:]
    if model.config.spec.prompt.image_first:
        ids = [BOS, *rows * bool(pictures), *question]
    else:
        ids = [BOS, *question, *rows * bool(pictures)]
    for _ in pictures[1:]:
        ids += [7, 8, *rows]
    ids.append(ANSWER)
    return Sample((*ids, *said), len(ids), tuple(pictures), tuple(question))


def inputs(
    model: Any, samples: Sequence[Sample], side: str = "right", upto: str = "end"
) -> dict[str, Any]:
    """A padded batch as the model takes it; `upto: prompt` leaves the answers out."""
    ends = [s.prompt if upto == "prompt" else len(s.ids) for s in samples]
    width = max(ends)
    ids = torch.full((len(samples), width), PAD)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for b, (s, end) in enumerate(zip(samples, ends, strict=True)):
        at = slice(0, end) if side == "right" else slice(width - end, width)
        ids[b, at], mask[b, at] = torch.tensor(s.ids[:end]), 1
        supervised = slice(at.start + s.prompt, at.stop)
        labels[b, supervised] = ids[b, supervised]
    batch: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    if upto == "end":
        batch["labels"] = labels
    if model.spec.reads_question:
        longest = max(len(s.question) for s in samples)
        words = torch.full((len(samples), longest), PAD)
        for b, s in enumerate(samples):
            at = slice(0, len(s.question)) if side == "right" else slice(-len(s.question), None)
            words[b, at] = torch.tensor(s.question)
        batch |= {"question_ids": words, "question_mask": (words != PAD).long()}
    shown = [p for s in samples for p in s.pictures]
    if shown:
        pixels = draw(max(shown) + 1, 3, *[model.config.spec.vision.dims().image] * 2)
        batch["pixel_values"] = pixels[shown]
    batch["image_counts"] = tuple(len(s.pictures) for s in samples)
    return batch


@torch.no_grad()
def said(model: Any, samples: Sequence[Sample], side: str = "right") -> list[Tensor]:
    """Logits of every row that is no image, sample by sample."""
    batch = inputs(model, samples, side)
    logits = model(**batch).logits
    keep = batch["attention_mask"].bool() & (batch["input_ids"] != IMAGE)
    return [row[k] for row, k in zip(logits, keep, strict=True)]
