"""Building a model: random parts from one seed, pretrained ones from their checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from eramv_lab.errors import UserError
from eramv_lab.model.configuration import EramvConfig
from eramv_lab.model.modeling import EramvForConditionalGeneration
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.slots.hub import place_of


def build_model(
    spec: ModelSpec, *, seed: int = 0, image_token_id: int = 3, stops: Sequence[int] = ()
) -> EramvForConditionalGeneration:
    """The model of a typed section: random from `seed`, and pretrained where a part names a path.

    `image_token_id` stands for a visual row, any of `stops` ends an answer (none: the language
    model's own end mark); both are those of the words that it is trained on.
    Raises UserError where a checkpoint cannot be read, or lacks weights of its part.
    """
    config = EramvConfig.from_spec(spec, init_seed=seed, image_token_id=image_token_id)
    model = EramvForConditionalGeneration(config)
    if getattr(spec.language, "path", None):
        _load_language(model, spec.language.path)
    if getattr(spec.vision, "path", None):
        load_tower(model.vision_tower, spec.vision.path)
    model.reset_band()
    if stops and model.generation_config is not None:
        model.generation_config.eos_token_id = list(stops)
    return model


def _load_language(model: EramvForConditionalGeneration, path: str) -> None:
    from transformers import AutoModelForCausalLM

    whole, missing = _checkpoint(AutoModelForCausalLM, path)
    _refuse(missing, path, "language model")
    model.language_model.load_state_dict(whole.model.state_dict(), strict=False)  # all but the band
    if not model.config.tie_word_embeddings:
        model.lm_head.load_state_dict(whole.lm_head.state_dict())


def load_tower(tower: Any, path: str) -> None:
    """Fill an `hf` tower with a checkpoint's weights. Raises UserError where it cannot."""
    from transformers import AutoModel

    own: nn.Module = tower.tower
    other, missing = _checkpoint(AutoModel, path)
    prefix = "vision_model." if hasattr(other, "vision_model") else ""
    found = getattr(other, "vision_model", other).state_dict()
    lacking = [key for key in own.state_dict() if key not in found or prefix + key in missing]
    _refuse(lacking, path, "vision tower")
    own.load_state_dict(found, strict=False)  # all but a pooling head, which has no use here


def _checkpoint(auto: Any, path: str) -> tuple[Any, list[str]]:
    """The model of a checkpoint, and which weights it lacks (transformers draws those at random).

    Safetensors alone are read and no code of the checkpoint runs. Raises UserError where the
    weights cannot be loaded.
    """
    try:
        model, found = auto.from_pretrained(
            place_of(path),
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().split("\n", 1)[0]
        raise UserError(f"{path}: weights cannot be loaded from safetensors: {first}") from None
    return model, sorted(found["missing_keys"])


def _refuse(missing: list[str], path: str, part: str) -> None:
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UserError(f"{path} lacks weights of the {part}: {', '.join(missing[:5])}{more}")
