"""The second witness: the model run under torch's FLOP counter, on meta in shape alone.

Attention runs as its two plain products, which the counter sees, full square: a fused one of the
CPU it would count as nothing, without a word (pytorch issue 195460).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from eramv_lab.model import build_model
from eramv_lab.slots.needs import levels_of

if TYPE_CHECKING:
    from eramv_lab.recipe.model_spec import ModelSpec

Model = Any
PARTS = ("vision", "connector", "bridge", "llm", "head")


def meta_model(spec: ModelSpec) -> Model:
    """The model of `spec` in shape alone; what a `path` holds is not read."""
    with torch.device("meta"):
        return build_model(spec).eval()


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Counts the FLOPs of what runs inside, on any device."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def count_parameters(model: nn.Module) -> int:
    """Parameters, a tied head once."""
    return sum(p.numel() for p in model.parameters())


def count_prefill(model: Model, text_tokens: int = 64) -> dict[str, int]:
    """FLOPs of one sample's prefill by the columns of `Cost`: logits of the last row alone."""
    with torch.no_grad(), counting() as counter:
        model(**inputs(model, text_tokens), logits_to_keep=1)
    return _by_column(counter)


def count_decode(model: Model, text_tokens: int = 64) -> int:
    """FLOPs of one token after the prefill."""
    with torch.no_grad():
        past = model(**inputs(model, text_tokens), logits_to_keep=1, use_cache=True).past_key_values
        word = torch.zeros(1, 1, dtype=torch.long, device=model.lm_head.weight.device)
        with counting() as counter:
            model(word, past_key_values=past, use_cache=True)
    return counter.get_total_flops()


def count_train(
    model: Model,
    text_tokens: int = 64,
    supervised_tokens: int = 1,
    *,
    cached_vision: bool = False,
    set_trainable: Callable[[nn.Module], object] | None = None,
) -> int:
    """FLOPs of one sample forward and backward, for the parameters that require a gradient.

    `set_trainable` sets these first. The loss itself has no product of matrices.
    """
    if set_trainable is not None:
        set_trainable(model)
    model.train()
    batch = inputs(model, text_tokens, cached_vision=cached_vision)
    with counting() as counter:
        logits = model(**batch, logits_to_keep=supervised_tokens).logits
        if logits.requires_grad:
            logits.float().sum().backward()
    model.zero_grad(set_to_none=True)
    model.eval()
    return counter.get_total_flops()


def inputs(
    model: Model,
    text_tokens: int,
    batch: int = 1,
    *,
    cached_vision: bool = False,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """`batch` samples of one image and `text_tokens` other rows, on the model's device."""
    device, vision = model.lm_head.weight.device, model.dims.vision
    marker = 0 if model.dims.visual else 1  # a model without anchors marks the image by a word
    words = [model.config.image_token_id + 1] * (text_tokens - marker)
    ids = [model.config.image_token_id] * model.visual_rows
    image_first = model.spec.prompt.image_first
    ids = words[:1] + ids + words[1:] if image_first else words[:-1] + ids + words[-1:]
    given: dict[str, Any] = {
        "input_ids": torch.tensor(ids, device=device).expand(batch, -1),
        "image_counts": (1,) * batch,
    }
    if model.spec.reads_question:  # priced as if the whole text were the question
        given["question_ids"] = torch.zeros(batch, text_tokens, dtype=torch.long, device=device)
        given["question_mask"] = torch.ones(batch, text_tokens, dtype=torch.bool, device=device)
    if cached_vision:
        rows = torch.zeros(batch, vision.patches, vision.width, device=device)
        given["vision_features"] = {
            "states": rows,
            "cls": torch.zeros(batch, vision.width, device=device),
            "cls_attention": torch.zeros(batch, vision.heads, vision.patches, device=device),
            "keys": rows,
            "cls_logits": torch.zeros(batch, vision.patches, device=device),
            "logit_keys": rows,
            **{f"level_{i}": rows for i in range(len(levels_of(model.spec)))},
        }
    else:
        shape = (batch, 3, vision.image, vision.image)
        given["pixel_values"] = torch.zeros(shape, device=device, dtype=dtype)
    return given


def _by_column(counter: FlopCounterMode) -> dict[str, int]:
    """Total FLOPs split by the paths of the modules that ran."""
    of = {path: sum(ops.values()) for path, ops in counter.get_flop_counts().items()}
    root = next(path for path in of if path != "Global" and "." not in path)

    def at(*paths: str) -> int:
        return sum(of.get(f"{root}.{path}", 0) for path in paths)

    bridges = [path.removeprefix(f"{root}.") for path in of if path.endswith(".bridge")]
    columns = {
        "vision": at("vision_tower"),
        "connector": at("selector", "connector", "fine_connector"),
        "bridge": at("shared_bridge", *bridges),
        "head": at("lm_head"),
    }
    columns["llm"] = counter.get_total_flops() - sum(columns.values())
    return {part: columns[part] for part in PARTS}
