"""Folders of tiny checkpoints as transformers saves them, and models that name one."""

from pathlib import Path
from typing import Any

import torch
from laws.probes import spec_of
from laws.settings import TINY, with_keys
from torch import nn
from transformers import AutoConfig

PLAIN = with_keys(TINY, band="none")
CLIP_TEXT = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def random_model(auto: Any, config: dict[str, Any]) -> Any:
    """A model of transformers with weights that are not flat."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = auto.from_config(AutoConfig.for_model(**config)).eval()
        for parameter in model.parameters():
            nn.init.normal_(parameter, mean=float(parameter.ndim < 2), std=0.2)
    return model


def kept(folder: Path, auto: Any, config: dict[str, Any]) -> Any:
    model = random_model(auto, config)
    model.save_pretrained(folder)
    return model


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def spec_with(folder: Path | str, slot: str = "vision", **more: Any) -> Any:
    anchors = {} if slot == "language" else {"anchors": {"type": "norm", "count": 3}}
    return spec_of(
        with_keys(PLAIN, **{slot: {"type": "hf", "path": str(folder), **more}}, **anchors)
    )
