"""A LLaVA checkpoint, opened but not read: its config as slots, its tensors by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eramv_lab.errors import Problem, UserError
from eramv_lab.model.convert.names import our_name
from eramv_lab.model.convert.weights import FolderWeights, ModelWeights, Weights
from eramv_lab.recipe.released import fetched
from eramv_lab.slots.hub import LEFT_OUT, place_of, read_config


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a conversion needs of a LLaVA model."""

    name: str
    config: Any
    """transformers' LlavaConfig."""
    weights: Weights
    generation: Any
    """transformers' GenerationConfig."""
    folder: Path | None = None
    """None for a model in memory."""

    @property
    def slots(self) -> dict[str, Any]:
        """The slots that the checkpoint fills, plain: vision, anchors, connector, language.

        Raises UserError with everything that no slot can hold.
        """
        problems = [Problem(message=m, file=self.name) for m in _unlike(self.config)]
        if problems:
            raise UserError(problems)
        text, tower = _plain(self.config, "text_config"), _plain(self.config, "vision_config")
        text["tie_word_embeddings"] = self.config.tie_word_embeddings and not self._has_own_head
        full = self.config.vision_feature_select_strategy == "full"
        return {
            "vision": {"type": "hf", "config": tower, "feature_layer": _layer(self.config)},
            "anchors": {"type": "all", "cls": full and _has_cls(self.config)},
            "connector": "mlp2x_gelu",
            "language": {"type": "hf", "config": text},
        }

    @property
    def _has_own_head(self) -> bool:
        """Whether head and embedding differ: transformers then leaves them apart."""
        names = {our_name(name): name for name in self.weights.entries}
        head = names.get("lm_head.weight")
        embedding = names.get("language_model.embed_tokens.weight")
        if head is None or embedding is None:
            return False
        return not self.weights.read(head).equal(self.weights.read(embedding))


def open_checkpoint(source: Any) -> Checkpoint:
    """The checkpoint of a folder, a hub id or a `LlavaForConditionalGeneration`.

    Raises UserError where it is no LLaVA, and naming each file that cannot be used.
    """
    from transformers import GenerationConfig, LlavaConfig

    if not isinstance(source, str | Path):
        _refuse_others(getattr(source.config, "model_type", None), type(source).__name__)
        return Checkpoint(
            name=type(source).__name__,
            config=source.config,
            weights=ModelWeights(source),
            generation=source.generation_config,
        )
    name = str(source)
    place = place_of(name)
    _refuse_others(read_config(place).get("model_type"), name)
    folder = Path(place) if Path(place).is_dir() else fetched(name)
    try:
        config = LlavaConfig.from_pretrained(folder)
        generation = GenerationConfig.from_model_config(config)
        if (folder / "generation_config.json").is_file():
            generation = GenerationConfig.from_pretrained(folder)
    except Exception as error:  # strict configs raise errors of their own
        text = " ".join(str(error).split())
        raise UserError(f"{name}: its configs cannot be read: {text}") from None
    weights = FolderWeights(folder)
    return Checkpoint(
        name=name, config=config, weights=weights, generation=generation, folder=folder
    )


def _refuse_others(kind: Any, name: str) -> None:
    if kind != "llava":
        also = "; it is a model of ours already" if kind == "eramv" else ""
        raise UserError(
            f"{name} has model_type {kind!r}, and only 'llava' can be converted (checkpoints of "
            f"LlavaForConditionalGeneration, as in llava-hf on the hub){also}"
        )


def _plain(config: Any, section: str) -> dict[str, Any]:
    plain: dict[str, Any] = config.to_diff_dict()[section]
    return {key: value for key, value in plain.items() if key not in LEFT_OUT}


def _has_cls(config: Any) -> bool:
    return config.vision_config.model_type != "siglip_vision_model"


def _layer(config: Any) -> int:
    """`vision_feature_layer` counted from the end: -1 is the last layer's output."""
    layer = config.vision_feature_layer
    layer = layer[0] if isinstance(layer, list | tuple) else layer
    return layer if layer < 0 else layer - config.vision_config.num_hidden_layers - 1


def _unlike(config: Any) -> Iterator[str]:
    """What this LLaVA has that ours has not."""
    layer = config.vision_feature_layer
    if isinstance(layer, list | tuple) and len(layer) != 1:
        yield (
            f"vision_feature_layer {list(layer)}: features of several layers side by side have no "
            "slot here; one layer can be converted"
        )
    elif not -config.vision_config.num_hidden_layers <= _layer(config) <= -1:
        yield (
            f"vision_feature_layer {layer}: the tower has {config.vision_config.num_hidden_layers} "
            "layers, and the output of one of them can be converted"
        )
    if config.vision_feature_select_strategy == "default" and not _has_cls(config):
        yield (
            "vision_feature_select_strategy default leaves out the first row, which is a patch in "
            f"a {config.vision_config.model_type}; full can be converted"
        )
    if config.projector_hidden_act != "gelu":
        yield f"projector_hidden_act {config.projector_hidden_act!r}: the connector has gelu"
    if not config.multimodal_projector_bias:
        yield "multimodal_projector_bias false: the connector has biases"
    if getattr(config, "quantization_config", None) is not None:
        yield "quantization_config: a quantised checkpoint cannot be converted"
