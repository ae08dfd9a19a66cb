"""The model's config: what fills each slot, in transformers' form."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from eramv_lab import __version__
from eramv_lab.errors import UserError
from eramv_lab.model.guard import FORMAT, check_versions
from eramv_lab.recipe.model_spec import ModelSpec, parse_model
from eramv_lab.slots.hub import shape_of


@strict
class EramvConfig(PreTrainedConfig):
    """The resolved `model:` section of a recipe (`slots`) and what generation needs beside it.

    Args:
        slots: every slot with its type and keys, as `ModelSpec.to_plain` writes it.
        image_token_id: id that stands for one visual row in `input_ids`.
        init_seed: seed of the random weights; each component draws from its own stream.
        text_config: the language model's config; follows from `slots` where it is not given.
        eramv_format: number of the folder's format; a newer one than is known here is refused.
        eramv_lab: the version that wrote it.
    """

    model_type = "eramv"
    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama")
    }

    slots: dict | None = None
    image_token_id: int = 3
    init_seed: int = 0
    text_config: dict | PreTrainedConfig | None = None
    tie_word_embeddings: bool = False
    eramv_format: Any = None
    eramv_lab: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        check_versions(self.eramv_format, self.eramv_lab)
        self.eramv_format, self.eramv_lab = FORMAT, __version__  # of what is written from here on
        text = self.text_config
        if text is None and self.slots:
            text = dict(self.spec.language.hf())
        if isinstance(text, Mapping):
            self.text_config = shape_of({"model_type": "llama", **text})
        if isinstance(self.text_config, PreTrainedConfig):
            self.tie_word_embeddings = self.text_config.tie_word_embeddings
            for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
                kwargs.setdefault(name, getattr(self.text_config, name, None))
        super().__post_init__(**kwargs)

    @property
    def spec(self) -> ModelSpec:
        """The slots, typed. Raises UserError where they are not sound."""
        problems: list[Any] = []
        spec = parse_model(self.slots or {}, problems, key="slots")
        if spec is None:
            raise UserError(problems)
        return spec

    @classmethod
    def from_spec(cls, spec: ModelSpec, **kwargs: Any) -> EramvConfig:
        """The config of a typed model section; what it names by path is written out in full."""
        return cls(slots=inline(spec).to_plain(), **kwargs)


def inline(spec: ModelSpec) -> ModelSpec:
    """The same model without paths: a saved model needs nothing but itself."""
    changes = {
        slot: dataclasses.replace(config, path=None, config=dict(config.hf()))
        for slot in ("vision", "language")
        if getattr(config := getattr(spec, slot), "path", None)
    }
    return dataclasses.replace(spec, **changes)
