"""`hf`: a decoder-only language model of transformers, by folder, hub id or plain config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eramv_lab.registry import LANGUAGE
from eramv_lab.shapes import Dims, LanguageDims
from eramv_lab.slots.hub import config_of, shape_of

if TYPE_CHECKING:
    from torch import nn

    from eramv_lab.recipe.model_spec import ModelSpec

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
NEEDED = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "vocab_size",
)


@dataclass(frozen=True, kw_only=True)
class HfLanguageConfig:
    """A Llama, Mistral, Qwen2 or Qwen3 model by AutoModel, from a folder, hub id or config."""

    path: str | None = None
    """Folder or hub id that holds config.json and the weights."""
    config: dict[str, Any] = field(default_factory=dict[str, Any])
    """A transformers config as plain data (`model_type`, `hidden_size`, ...), where there is no
    path: the shape alone, with random weights."""

    def hf(self) -> Mapping[str, Any]:
        """The transformers config, plain."""
        return config_of(self.path, self.config, "text_config")

    def check(self, spec: ModelSpec) -> Iterator[str]:
        """Problems: families we do not run, missing sizes."""
        yield from check_language(self.hf())

    def dims(self) -> LanguageDims:
        """Sizes as transformers would read them."""
        return dims_of(self.hf())

    def parameters(self) -> int:
        """Parameters with embedding and head."""
        return parameters_of(self.dims())


@LANGUAGE.register("hf", HfLanguageConfig)
def build_hf(config: HfLanguageConfig, dims: Dims) -> nn.Module:
    """The bare decoder (`AutoModel`) of the config, randomly initialised."""
    return from_plain(config.hf())


def from_plain(plain: Mapping[str, Any]) -> nn.Module:
    """A transformers decoder from a plain config."""
    from transformers import AutoModel

    return AutoModel.from_config(shape_of(plain))


def check_language(plain: Mapping[str, Any]) -> Iterator[str]:
    """Problems of a plain transformers config of a language model."""
    family = plain.get("model_type")
    if family not in FAMILIES:
        yield f"model_type {family!r} is not one of {', '.join(FAMILIES)}"
    missing = [key for key in NEEDED if key not in plain]
    if missing:
        yield f"the language model's config lacks {', '.join(missing)}"
        return
    for key in NEEDED:
        if not isinstance(plain[key], int) or plain[key] < 1:
            yield f"{key} is {plain[key]!r}, expected a whole number >= 1"
            return
    heads, kv = plain["num_attention_heads"], _kv_heads(plain)
    if heads % kv:
        yield f"{heads} heads cannot share {kv} key-value heads evenly"
    if plain.get("mlp_bias"):
        yield "mlp_bias true: a feed-forward with biases is not supported"


def _kv_heads(plain: Mapping[str, Any]) -> int:
    default = {"mistral": 8, "qwen2": 32, "qwen3": 32}.get(plain["model_type"])
    return plain.get("num_key_value_heads", default) or plain["num_attention_heads"]


def dims_of(plain: Mapping[str, Any]) -> LanguageDims:
    """Sizes of a plain transformers config."""
    if list(check_language(plain)):
        return LanguageDims(  # a stand-in: `check` reports what is wrong with this config
            width=1, layers=1, heads=1, kv_heads=1, head_dim=1, ffn=1, vocab=1
        )
    family = plain["model_type"]
    heads, width = plain["num_attention_heads"], plain["hidden_size"]
    bias = family in ("llama", "qwen3") and bool(plain.get("attention_bias", False))
    return LanguageDims(
        width=width,
        layers=plain["num_hidden_layers"],
        heads=heads,
        kv_heads=_kv_heads(plain),
        head_dim=plain.get("head_dim") or (128 if family == "qwen3" else width // heads),
        ffn=plain["intermediate_size"],
        vocab=plain["vocab_size"],
        tied=bool(plain.get("tie_word_embeddings", False)),
        qkv_bias=family == "qwen2" or bias,
        out_bias=bias,
        qk_norm=family == "qwen3",
    )


def layer_parameters(dims: LanguageDims) -> int:
    """Parameters of one decoder layer."""
    qkv = dims.query_width + 2 * dims.kv_width
    total = dims.width * qkv + dims.query_width * dims.width + 3 * dims.width * dims.ffn
    total += 2 * dims.width  # the two norms
    total += qkv * dims.qkv_bias + dims.width * dims.out_bias + 2 * dims.head_dim * dims.qk_norm
    return total


def parameters_of(dims: LanguageDims) -> int:
    """Parameters of decoder, final norm, embedding and (unless tied) head."""
    embeddings = dims.vocab * dims.width * (1 if dims.tied else 2)
    return dims.layers * layer_parameters(dims) + dims.width + embeddings
