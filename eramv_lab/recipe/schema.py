"""The sections of a recipe beside `model:`: typed, every key with its meaning and default."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from eramv_lab.errors import Problem
from eramv_lab.recipe.lora import Adapted
from eramv_lab.recipe.parse import LATER, choice, parse_config, plain

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Role = Literal["frozen", "full"]

SOURCES = {
    "world": "eramv_lab.data.world.config:WorldConfig",
    "shards": "eramv_lab.data.sources:ShardsConfig",
    "stream": "eramv_lab.data.sources:StreamConfig",
}
"""Config class of each data `type`, by name: recipes do not import `data`."""
NAME = re.compile(r"[a-z][a-z0-9_]{0,29}")
"""Of a further held-out set: it stands in the names of columns and files."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What the model is trained and tested on."""

    type: str = "world"
    """Where the examples come from; its settings stand below a key of the same name."""
    folder: str = "data"
    """Folder of the made shards and the cached features."""
    square: Literal["pad", "crop", "processor"] = "pad"
    """How a picture becomes the tower's square: `pad` with the tower's mean colour, `crop` the
    middle, or the tower's own image `processor`."""
    cache_gib: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 8.0
    """Features of a frozen tower are kept, in 16 bits, where all splits need no more than this;
    otherwise, and from a stream, the tower runs each time. 0: never kept."""
    max_broken: Share = 0.01
    """Share of the samples read that may be broken before a fit stops (they are left out and
    named); to begin with, of the first 1000, or of all where there are fewer."""
    world: Any = None
    """Settings of the made world (`describe world`)."""
    shards: Any = None
    """A folder that `data import` has written (`describe shards`)."""
    stream: Any = None
    """Remote shards (`describe stream`)."""

    @property
    def source(self) -> Any:
        """The settings of its `type`."""
        return getattr(self, self.type)


@dataclass(frozen=True, kw_only=True)
class BaseRef:
    """The weights that an arm starts from."""

    recipe: str | None = None
    """Recipe of the base, relative to the file that says so; none: start from random weights."""
    seed: Whole = 0
    """Seed of the base."""
    arm: str | None = None
    """Start from this arm's finished weights of the same seed instead."""
    model: str | None = None
    """Start from a released model, in place of a recipe (write `recipe: none`): a folder, relative
    to the file that says so, or a hub id. Its tower and language model are the arm's; bands and
    bridges that it lacks keep their own start."""


@dataclass(frozen=True, kw_only=True)
class Roles:
    """Which parts learn: whole, not at all, or by low-rank differences (`{lora: {rank: 8}}`)."""

    vision: Role | Adapted = "frozen"
    """The vision tower; while it is frozen its features are computed once and cached."""
    connector: Role = "full"
    """Vision width to language width."""
    language: Role | Adapted = "full"
    """The language model, embedding and head included."""
    bridge: Role = "full"
    """What a band layer does to the fine features first."""
    band: Role = "full"
    """What the band adds: gates, projections of its own."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How an arm learns."""

    steps: Whole = 200
    """Steps of the optimizer; 0 takes the starting weights as they are."""
    epochs: Positive | None = None
    """Passes over the training split; where given, `steps` follows from it."""
    images: Count = 16
    """Images of a batch, on each device."""
    questions: Count = 8
    """Questions asked of an image in a step, packed behind its one prefix; of a conversation, its
    first turns."""
    max_tokens: Count = 2048
    """Longest row of the sequence; what is longer is cut at its end."""
    by_length: bool = False
    """Batches of samples of about one length, those without an image apart."""
    optimizer: Literal["adamw", "muon"] = "muon"
    """`muon`: Muon for the matrices of hidden layers, AdamW for everything else."""
    lr: Positive = 5e-4
    """Peak learning rate of AdamW."""
    muon_lr: Positive = 0.01
    """Peak learning rate of Muon, and of the gates of a band, which scale its matrices."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Decay of matrices; vectors and embeddings have none."""
    warmup: Whole = 20
    """Steps of linear warm-up."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """What the learning rate does after the warm-up."""
    final: Share = 0.1
    """Where `cosine` and `linear` end, as a share of the peak."""
    clip: Positive | None = 1.0
    """Largest norm of the gradient; none: no clipping."""
    accumulate: Count = 1
    """Batches per step; each counts alike, however many words are learnt in it."""
    roles: Roles = field(default_factory=Roles)
    """Which parts learn."""
    validate_every: Whole = 50
    """Steps between two looks at the split `val`, or `test` where the data has no `val`; 0: only
    the evaluation at the end."""
    validate_images: Count = 64
    """Images of such a look, at most."""
    log_every: Count = 10
    """Steps between two points of the training curves."""
    workers: Whole = 0
    """Processes that read data."""
    checkpoint_every: Whole = 100
    """Steps between two checkpoints, from which a fit that was cut off goes on; 0: only where a
    signal stops it, and at its end."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How an arm is scored: greedy generation on a held-out split."""

    split: Literal["test", "val"] = "test"
    """Which held-out split is answered: `test`, or `val` where something is chosen by the score."""
    images: Count | None = None
    """Held-out images, the first ones of the split; none: all of them."""
    batch: Count = 32
    """Images that are answered together."""
    max_new_tokens: Count = 2
    """Longest answer, the end mark included."""
    also: Mapping[str, Any] = field(default_factory=dict[str, Any], metadata=LATER)
    """Further held-out sets by name, scored after the fit by the same rules: `{old: {world: {}}}`,
    each with `type` and settings as below `data:`, or none. Each gives a column
    `accuracy_<name>`."""


@dataclass(frozen=True, kw_only=True)
class CostConfig:
    """The input that a model is priced for."""

    text_tokens: Count = 64
    """Rows of the sequence that are not visual, BOS included."""
    batch: Count = 1
    """Samples side by side when latency and memory are measured."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """What is passed to Lightning's Trainer."""

    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    """Kind of device."""
    devices: Count | Literal["auto"] = 1
    """Devices of one fit."""
    nodes: Count = 1
    """Machines of one fit."""
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true", "fsdp2"] = "auto"
    """Lightning's strategy for several devices; `fsdp2` shards weights and optimizer."""
    precision: Literal["32-true", "bf16-mixed", "bf16-true", "16-mixed"] = "32-true"
    """Lightning's precision."""
    threads: Count = 1
    """CPU threads of one fit."""


SECTIONS: dict[str, type[Any]] = {
    "data": DataConfig,
    "base": BaseRef,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "cost": CostConfig,
    "trainer": TrainerConfig,
}

NEUTRAL = frozenset(
    {
        *("data.folder", "data.max_broken", "train.epochs"),
        *("train.log_every", "train.workers", "train.checkpoint_every"),
        *("trainer.accelerator", "trainer.threads"),
    }
)
"""Keys that change no result: a run's hash does not know them."""

METRICS = (
    *("accuracy", "cider", "facts", "loss"),
    *("prefill_tflops", "train_pflops", "parameters", "trainable"),
    *("visual_tokens", "fine_tokens", "kv_mib", "latency_ms", "peak_mib", "seconds", "gate"),
)
"""Columns of a row that `expect:` may bound."""


def source_config(kind: str) -> type[Any]:
    """The config class of the data `type` called `kind`."""
    module, _, name = SOURCES[kind].partition(":")
    return getattr(importlib.import_module(module), name)


def source_plain(data: DataConfig, *, known: bool = False) -> dict[str, Any]:
    """Where examples come from, plain: type and settings; `known`: as a hash knows them."""
    identity = data.source.identity() if known else None
    settings = plain(data.source, known=known) if identity is None else identity
    return {"type": data.type, data.type: settings}


def parse_data(
    section: Mapping[str, Any], problems: list[Problem], key: str = "data"
) -> DataConfig | None:
    """The `data:` section, the settings of its `type` included; `key`: where it stands."""
    common = parse_config(
        DataConfig, {k: v for k, v in section.items() if k not in SOURCES}, key, problems
    )
    kind = section.get("type", DataConfig.type)
    if not isinstance(kind, str) or kind not in SOURCES:
        problems.append(choice(f"there is no data {kind!r}", str(kind), SOURCES, f"{key}.type"))
        return None
    problems += [
        Problem(message=f"the data is of type {kind!r}", key=f"{key}.{other}")
        for other in SOURCES
        if other != kind and other in section
    ]
    key = f"{key}.{kind}"
    settings = parse_config(source_config(kind), section.get(kind) or {}, key, problems)
    if settings is None:
        return None
    wrong = [Problem(message=text, key=key) for text in settings.check()]
    problems += wrong
    if common is None or wrong:
        return None
    return replace(common, **{kind: settings})


def parse_evaluate(section: Mapping[str, Any], problems: list[Problem]) -> EvaluateConfig | None:
    """The `evaluate:` section, its further sets included, each as a `DataConfig`."""
    rest = {key: value for key, value in section.items() if key != "also"}
    parsed = parse_config(EvaluateConfig, rest, "evaluate", problems)
    sets, before = section.get("also"), len(problems)
    sets = {} if sets in (None, "none") else sets
    if not isinstance(sets, Mapping):
        message = f"expected sets by name, such as {{old: {{world: {{}}}}}}, found {sets!r}"
        problems.append(Problem(message=message, key="evaluate.also"))
        sets = {}
    wanted = {name: one or {} for name, one in sets.items() if one != "none"}
    also = {name: _further(name, one, problems) for name, one in wanted.items()}
    return parsed and replace(parsed, also=also) if len(problems) == before else None


def _further(name: str, section: object, problems: list[Problem]) -> DataConfig | None:
    key = f"evaluate.also.{name}"
    if not NAME.fullmatch(name):
        message = f"a set's name is small letters, digits and _, found {name!r}"
        problems.append(Problem(message=message, key=key))
    if not isinstance(section, Mapping):
        message = f"expected a type and its settings, found {section!r}"
        problems.append(Problem(message=message, key=key))
        return None
    allowed = ("type", *SOURCES)
    if unknown := [k for k in section if k not in allowed]:
        problems += [choice(f"unknown key {k!r}", k, allowed, f"{key}.{k}") for k in unknown]
        return None
    return parse_data(section, problems, key)


def parse_section(name: str, values: object, problems: list[Problem]) -> Any:
    """The typed section called `name`; None with `problems` extended where it is not sound."""
    values = {} if values is None else values
    if name == "data" and isinstance(values, Mapping):
        return parse_data(values, problems)
    if name == "evaluate" and isinstance(values, Mapping):
        return parse_evaluate(values, problems)
    return parse_config(SECTIONS[name], values, name, problems)
