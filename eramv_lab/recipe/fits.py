"""What an arm needs to be fitted beside a sound model: words for its data, a processor, labels."""

from __future__ import annotations

from collections.abc import Iterator

from eramv_lab.errors import Problem
from eramv_lab.recipe.lora import check_lora
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.recipe.schema import (
    DataConfig,
    EvaluateConfig,
    TrainConfig,
    TrainerConfig,
    check_sizes,
)


def check_fit(
    spec: ModelSpec,
    data: DataConfig,
    train: TrainConfig,
    evaluate: EvaluateConfig,
    trainer: TrainerConfig,
) -> Iterator[Problem]:
    """Problems: more asked for than there is, or a part that cannot do what another one asks."""
    yield from check_sizes(data, train, evaluate)
    yield from check_lora(train.roles, spec, trainer.strategy)
    rows = spec.dims().visual
    if train.max_tokens <= rows:
        message = f"{train.max_tokens} leaves no room beside the {rows} rows of an image"
        yield Problem(message=message, key="train.max_tokens")
    tokenizer = getattr(spec.language, "path", None)
    needed = "a tokenizer, that of a language model with a path (model.language.path)"
    if not tokenizer and spec.prompt.template in ("vicuna", "chat"):
        message = f"{spec.prompt.template} needs {needed}"
        yield Problem(message=message, key="model.prompt.template")
    if not tokenizer and data.type != "world":
        message = f"{data.type} is text of any kind and needs {needed}"
        yield Problem(message=message, key="data.type")
    if data.square == "processor" and not getattr(spec.vision, "path", None):
        message = "processor is that of a tower with a path (model.vision.path)"
        yield Problem(message=message, key="data.square", allowed=("pad", "crop"))
