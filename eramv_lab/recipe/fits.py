"""What an arm needs to be fitted beside a sound model: words for its data, a processor, labels."""

from __future__ import annotations

from collections.abc import Iterator

from eramv_lab.errors import Problem
from eramv_lab.recipe.lora import check_lora
from eramv_lab.recipe.model_spec import ModelSpec
from eramv_lab.recipe.schema import DataConfig, EvaluateConfig, TrainConfig, TrainerConfig

VAL = {
    "shards": "import it again, with --val-share or --val",
    "stream": "give data.stream.val, the addresses of its tars",
}
"""By data `type`, how to come by a split `val`."""


def check_fit(
    spec: ModelSpec,
    data: DataConfig,
    train: TrainConfig,
    evaluate: EvaluateConfig,
    trainer: TrainerConfig,
    words: bool = False,
) -> Iterator[Problem]:
    """Problems: more asked for than there is, or a part that cannot do what another one asks.

    `words`: whether the model that it starts from brings a tokenizer for it.
    """
    yield from check_sizes(data, train, evaluate)
    yield from check_lora(train.roles, spec, trainer.strategy)
    rows = spec.dims().visual
    if train.max_tokens <= rows:
        message = f"{train.max_tokens} leaves no room beside the {rows} rows of an image"
        yield Problem(message=message, key="train.max_tokens")
    tokenizer = words or getattr(spec.language, "path", None)
    needed = (
        "a tokenizer, that of a language model with a path (model.language.path) or of the model "
        "that it starts from (base.model)"
    )
    if not tokenizer and spec.prompt.template in ("vicuna", "chat"):
        message = f"{spec.prompt.template} needs {needed}"
        yield Problem(message=message, key="model.prompt.template")
    for key, source in _sets(data, evaluate).items():
        if not tokenizer and source.type != "world":
            message = f"{source.type} is text of any kind and needs {needed}"
            yield Problem(message=message, key=f"{key}.type")
    has_own = getattr(spec.vision, "path", None) or (words and hasattr(spec.vision, "path"))
    if data.square == "processor" and not has_own:
        message = (
            "processor is that of a tower with a path (model.vision.path) or of the model that it "
            "starts from (base.model)"
        )
        yield Problem(message=message, key="data.square", allowed=("pad", "crop"))


def check_sizes(
    data: DataConfig, train: TrainConfig, evaluate: EvaluateConfig
) -> Iterator[Problem]:
    """Problems: more asked for than the data has, or a split that it lacks."""
    yield from lacking(data, evaluate.split, "evaluate.split")
    for name, other in evaluate.also.items():
        yield from _check_also(name, other, data, evaluate)
    worlds = [s.source for s in _sets(data, evaluate).values() if s.type == "world"]
    longest = max((world.answer_words() for world in worlds), default=1)
    if evaluate.max_new_tokens <= longest > 1:
        message = (
            f"{evaluate.max_new_tokens} cuts off the world's captions, which have up to {longest} "
            "words and an end"
        )
        yield Problem(message=message, key="evaluate.max_new_tokens")
    sizes = data.source.sizes()
    wanted = (
        ("train.images", train.images, "train", "images"),
        ("train.questions", train.questions, "questions", "questions an image"),
        ("evaluate.images", evaluate.images or 0, evaluate.split, f"images of {evaluate.split}"),
    )
    for key, number, place, what in wanted:
        there = sizes.get(place, number)
        if number > there:
            message = f"{number} is more than data.{data.type}'s {there} {what}"
            yield Problem(message=message, key=key)


def _sets(data: DataConfig, evaluate: EvaluateConfig) -> dict[str, DataConfig]:
    """The data and the further held-out sets, by the key that says where each comes from."""
    return {"data": data} | {f"evaluate.also.{n}": d for n, d in evaluate.also.items()}


def _check_also(
    name: str, other: DataConfig, data: DataConfig, evaluate: EvaluateConfig
) -> Iterator[Problem]:
    """Problems of a further held-out set: its name, its split, its size."""
    key = f"evaluate.also.{name}"
    if name in ("low", "high", *data.source.types()):
        message = f"there is a column accuracy_{name} already; call the set otherwise"
        yield Problem(message=message, key=key)
    yield from lacking(other, evaluate.split, key)
    there = other.source.sizes().get(evaluate.split)
    if evaluate.images is not None and there is not None and evaluate.images > there:
        message = f"evaluate.images {evaluate.images} is more than its {there} images"
        yield Problem(message=message, key=key)


def lacking(data: DataConfig, split: str, key: str | None = None) -> Iterator[Problem]:
    """The problem of a split that the data lacks, and what to do."""
    if split not in data.source.splits():
        mend = f": {VAL[data.type]}" if split == "val" and data.type in VAL else ""
        message = f"data.{data.type} has no split {split!r}{mend}"
        yield Problem(message=message, key=key)


def steps_of(data: DataConfig, train: TrainConfig, trainer: TrainerConfig) -> int | Problem:
    """Steps of the optimizer: those given, or those of so many epochs."""
    if train.epochs is None:
        return train.steps
    images = data.source.sizes().get("train")
    if images is None or trainer.devices == "auto":
        what = "a stream" if images is None else "trainer.devices auto"
        return Problem(message=f"unknown with {what}: give train.steps", key="train.epochs")
    batches = images // (train.images * trainer.devices * trainer.nodes)
    return max(1, round(train.epochs * batches / train.accumulate))
