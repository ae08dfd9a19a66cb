"""Building a model: random parts from one seed, pretrained ones from their checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from eramv_lab.errors import UserError
from eramv_lab.model.configuration import EramvConfig
from eramv_lab.model.modeling import EramvForConditionalGeneration
from eramv_lab.recipe.model_spec import ModelSpec


def build_model(
    spec: ModelSpec, *, seed: int = 0, image_token_id: int = 3
) -> EramvForConditionalGeneration:
    """The model of a typed section: random from `seed`, and pretrained where a part names a path.

    Raises UserError where a checkpoint lacks weights of its part.
    """
    config = EramvConfig.from_spec(spec, init_seed=seed, image_token_id=image_token_id)
    model = EramvForConditionalGeneration(config)
    if getattr(spec.language, "path", None):
        _load_language(model, spec.language.path)
    if getattr(spec.vision, "path", None):
        _load_vision(model.vision_tower, spec.vision.path)
    model.reset_band_from_language()
    return model


def _load_language(model: EramvForConditionalGeneration, path: str) -> None:
    from transformers import AutoModelForCausalLM

    whole: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    missing = model.language_model.load_state_dict(whole.model.state_dict(), strict=False)
    lacking = [key for key in missing.missing_keys if ".band." not in key]
    if lacking:
        raise UserError(f"{path} lacks weights of the language model: {', '.join(lacking[:5])}")
    if not model.config.tie_word_embeddings:
        model.lm_head.load_state_dict(whole.lm_head.state_dict())


def _load_vision(tower: Any, path: str) -> None:
    from transformers import AutoModel

    own: nn.Module = tower.tower
    other: Any = AutoModel.from_pretrained(path, dtype=torch.float32)
    other = getattr(other, "vision_model", other)
    missing = own.load_state_dict(other.state_dict(), strict=False).missing_keys
    if missing:
        raise UserError(f"{path} lacks weights of the vision tower: {', '.join(missing[:5])}")
