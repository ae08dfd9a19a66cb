"""From a model of ours that is a LLaVA to a checkpoint that transformers' Llava loads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from eramv_lab.errors import Problem, UserError
from eramv_lab.files import new_folder
from eramv_lab.model.configuration import EramvConfig
from eramv_lab.model.convert.names import our_name, their_name
from eramv_lab.model.convert.processors import their_processor
from eramv_lab.model.convert.weights import (
    SHARD,
    FolderWeights,
    ModelWeights,
    Weights,
    write_shards,
)
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.registry import SLOTS


def to_llava(source: Any, out: Path, *, processor: Any = None, shard: str | int = SHARD) -> None:
    """Write `source`, a model or the folder of one, as a `LlavaForConditionalGeneration`.

    A folder's processor goes with it as a `LlavaProcessor`; of a model in memory, `processor`.
    Tensors are those of the source, bit for bit. Raises UserError naming every slot that a LLaVA
    has not.
    """
    from transformers import GenerationConfig

    from eramv_lab.model.guard import check_folder
    from eramv_lab.model.processing import EramvProcessor

    weights: Weights
    if isinstance(source, str | Path):
        folder, name = Path(source), str(source)
        if not folder.is_dir():
            raise UserError(Problem(message="is not a folder of a model", file=name))
        check_folder(folder)
        config = EramvConfig.from_pretrained(folder)
        weights = FolderWeights(folder)
        generation = GenerationConfig.from_model_config(config)
        if (folder / "generation_config.json").is_file():
            generation = GenerationConfig.from_pretrained(folder)
        if processor is None and (folder / "processor_config.json").is_file():
            processor = EramvProcessor.from_pretrained(folder)
    else:
        config, weights, name = source.config, ModelWeights(source), type(source).__name__
        generation = GenerationConfig.from_dict(source.generation_config.to_dict())
    spec = config.spec
    problems = [Problem(message=m, key=f"model.{k}", file=name) for k, m in _in_the_way(spec)]
    if problems:
        raise UserError(problems)
    theirs = _llava_config(config, spec)
    never = set(generation.suppress_tokens or ()) - {config.image_token_id}
    generation.suppress_tokens = sorted(never) or None
    planned: dict[str, Any] = {}
    for key, entry in weights.entries.items():
        ours = our_name(key)
        if ours == "lm_head.weight" and config.tie_word_embeddings:
            continue
        planned[their_name(ours)] = _empty(entry), lambda key=key: weights.read(key)

    with new_folder(Path(out)) as fresh:
        theirs.save_pretrained(fresh)
        generation.save_pretrained(fresh)
        write_shards(fresh, planned, shard)
        if processor is not None:
            their_processor(processor, spec).save_pretrained(fresh)


def _empty(entry: Any) -> Any:
    import torch

    return torch.empty(entry.shape, dtype=entry.dtype, device="meta")


def _in_the_way(spec: ModelSpec) -> Iterator[tuple[str, str]]:
    """(slot, what it has) of every slot that a LLaVA fills otherwise."""

    def name(slot: str) -> str:
        config = getattr(spec, slot)
        return "none" if config is None else SLOTS[slot].of(config).name

    for slot, wanted in (
        ("vision", "hf"),
        ("anchors", "all"),
        ("connector", "mlp2x_gelu"),
        ("language", "hf"),
        ("prompt", "image_first"),
    ):
        if name(slot) != wanted:
            yield slot, f"is {name(slot)!r}; a LLaVA has {wanted}"
    if name("connector") == "mlp2x_gelu" and spec.connector.skip:
        yield "connector.skip", "is true; a LLaVA's connector has no way beside its two matrices"
    if spec.band:
        yield "band", f"is layers {list(spec.band)}; a LLaVA has none"
    if spec.reducer:
        names = ", ".join(SLOTS["reducer"].of(r).name for r in spec.reducer)
        yield "reducer", f"is {names}; a LLaVA has none"
    if spec.prompt.positions != "packed":
        yield "prompt.positions", f"is {spec.prompt.positions!r}; a LLaVA has packed"


def _llava_config(config: EramvConfig, spec: ModelSpec) -> Any:
    """transformers' config of the same model."""
    from transformers import LlavaConfig

    from eramv_lab.slots.hub import shape_of

    cls = spec.vision.dims().has_cls
    tower = dict(spec.vision.hf())
    if tower["model_type"] == "siglip_vision_model":
        tower["vision_use_head"] = False  # nothing reads it
    return LlavaConfig(
        architectures=["LlavaForConditionalGeneration"],
        vision_config=shape_of(tower),
        text_config=shape_of(spec.language.hf()),
        image_token_index=config.image_token_id,
        image_seq_length=spec.dims().visual,
        vision_feature_layer=spec.vision.feature_layer,
        vision_feature_select_strategy="default" if cls and not spec.anchors.cls else "full",
        tie_word_embeddings=config.tie_word_embeddings,
        dtype=config.dtype,
    )
