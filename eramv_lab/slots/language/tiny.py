"""`tiny`: a small Llama for the made world, trained in minutes on two cores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eramv_lab.registry import LANGUAGE
from eramv_lab.shapes import Dims, LanguageDims
from eramv_lab.slots.language.hf import check_language, dims_of, from_plain, parameters_of

if TYPE_CHECKING:
    from torch import nn

    from eramv_lab.recipe.model_spec import ModelSpec


@dataclass(frozen=True, kw_only=True)
class TinyLanguageConfig:
    """A Llama of under a million parameters, tied head, for the made world's vocabulary."""

    width: int = 96
    """D, the hidden width."""
    layers: int = 6
    """Decoder layers."""
    heads: int = 3
    """Attention heads."""
    kv_heads: int = 3
    """Key-value heads; fewer than `heads` for grouped queries."""
    ffn: int = 256
    """Inner width of the feed-forward."""
    vocab: int = 70
    """Words, at least as many as the made world has."""

    def hf(self) -> dict[str, Any]:
        """The transformers config, plain."""
        return {
            "model_type": "llama",
            "hidden_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "intermediate_size": self.ffn,
            "vocab_size": self.vocab,
            "tie_word_embeddings": True,
            "max_position_embeddings": 1024,
            "rms_norm_eps": 1e-6,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "pad_token_id": 0,
        }

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: sizes that do not divide."""
        yield from check_language(self.hf())
        if self.width % self.heads:
            yield f"width {self.width} is not a multiple of {self.heads} heads"
        elif self.width // self.heads % 2:
            yield f"width of a head {self.width // self.heads} is odd; rotary positions need pairs"

    def dims(self) -> LanguageDims:
        """Sizes of the Llama."""
        return dims_of(self.hf())

    def parameters(self) -> int:
        """Parameters with the (tied) embedding."""
        return parameters_of(self.dims())


@LANGUAGE.register("tiny", TinyLanguageConfig)
def build_tiny(config: TinyLanguageConfig, dims: Dims) -> nn.Module:
    """The bare Llama decoder, randomly initialised."""
    return from_plain(config.hf())
