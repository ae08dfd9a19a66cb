"""The row of a fit: its answers scored, its training priced, its model priced and measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from eramv_lab.cost.formula import Cost, price
from eramv_lab.cost.measure import measure
from eramv_lab.data.collate import IGNORED
from eramv_lab.data.module import LabData
from eramv_lab.data.shards import Asked, BrokenSample
from eramv_lab.errors import Problem, UserError
from eramv_lab.evaluate.generate import Evaluation, Query, evaluate, queries
from eramv_lab.model.gates import openings
from eramv_lab.recipe.lora import settled
from eramv_lab.recipe.model_spec import parse_model
from eramv_lab.train.callbacks import TRAIN_SHARE, Progress
from eramv_lab.train.module import LitArm

SAMPLED = 64
"""Training images whose rows are counted for the price of training."""


def price_of(arm: Mapping[str, Any]) -> Cost:
    """The closed-form price of a resolved arm. Raises UserError for a model that is not sound."""
    problems: list[Problem] = []
    spec = parse_model(arm["model"], problems)
    if spec is None:
        raise UserError(problems)
    costs = arm["cost"]
    roles = arm["train"]["roles"]
    return price(spec, text_tokens=costs["text_tokens"], batch=costs["batch"], train=roles)


def priced(arm: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row that are known before anything is trained."""
    return _priced(price_of(arm))


def _priced(cost: Cost) -> dict[str, Any]:
    return {
        "prefill_tflops": cost.prefill / 1e12,
        "parameters": cost.parameters,
        "trainable": cost.trainable,
        "visual_tokens": cost.visual_tokens,
        "fine_tokens": cost.fine_tokens,
        "kv_mib": cost.kv_bytes / 2**20,
    }


def row_of(
    lit: LitArm, data: LabData, scored: Evaluation, arm: Mapping[str, Any], devices: int
) -> tuple[dict[str, Any], Cost, dict[str, Any]]:
    """The row (without `seconds`), the price that it is taken from, and what else was measured."""
    cost, costs = price_of(arm), arm["cost"]
    timed = asdict(measure(lit.model, costs["text_tokens"], costs["batch"]))
    gates = openings(lit.model.language_model.layers)
    row = {
        **_score(scored),
        **_priced(cost),
        "train_pflops": training_flops(lit, data, devices) / 1e15,
        "parameters": sum(total for total, _ in lit.counts.values()),
        "trainable": sum(learning for _, learning in lit.counts.values()),
        **{name: timed.pop(name) for name in ("latency_ms", "latency_spread_ms", "peak_mib")},
        **({"gate": statistics.fmean(gates.values())} if gates else {}),
    }
    return row, cost, timed | ({"gates": gates} if gates else {})


def answer_all(
    lit: LitArm, data: LabData, progress: Progress
) -> tuple[Evaluation, dict[str, Evaluation]]:
    """The answers on the held-out split, and those on each further set, by name."""
    names = (None, *data.evaluate.also)
    each = (0.98 - TRAIN_SHARE) / len(names)
    found: dict[str | None, Evaluation] = {}
    for number, name in enumerate(names):

        def tell(done: float, before: int = number) -> None:
            progress.tell(phase="evaluate", done=TRAIN_SHARE + each * (before + done))

        found[name] = answer(lit, data, tell, also=name)
    return found[None], {name: one for name, one in found.items() if name is not None}


def answer(
    lit: LitArm,
    data: LabData,
    progress: Callable[[float], None] | None = None,
    *,
    also: str | None = None,
) -> Evaluation:
    """The model's answers to held-out questions, as the recipe's `evaluate` says.

    `also`: those of the further set called so; `progress` is told the share done.
    """
    settings, part = data.evaluate, data.examples(data.evaluate.split, also)
    count = min(settings.images or len(part), len(part))
    questions: list[Query] = []
    for index in range(count):
        try:
            part.require(index)
            asked = part.shards.questions(index)
        except BrokenSample as error:
            data.note({error.key: error.reason}, also)
            continue
        key, pictured = part.shards.keys[index], part.shards.has_image(index)
        questions += queries(index, key, asked, pictured)

    def tell(done: int) -> None:
        if progress:
            progress(done / len(questions))

    return evaluate(
        lit.model,
        questions,
        part.images,
        data.collator,
        batch=settings.batch * max(1, len(questions) // count),
        max_new_tokens=settings.max_new_tokens,
        progress=tell,
    )


def training_flops(lit: LitArm, data: LabData, devices: int) -> float:
    """FLOPs of the whole training: samples as they were packed, the tower left out if cached."""
    settings = lit.settings
    if not settings.steps:
        return 0.0
    some = data.some(SAMPLED)
    total = 0.0
    for shown in (True, False):
        groups = [asked for asked, has in some if has == shown]
        total += len(groups) * _sample_flops(lit, data, groups, pictured=shown) if groups else 0
    images = settings.steps * settings.images * settings.accumulate * devices
    return total * images / max(1, len(some))


def _sample_flops(
    lit: LitArm, data: LabData, groups: Sequence[Sequence[Asked]], *, pictured: bool
) -> float:
    """FLOPs of learning from one of some samples, all of them with an image or all without."""
    spec, visual = lit.spec, lit.spec.dims().visual
    trained = settled(lit.roles, spec)
    if not pictured:  # the language model alone
        nothing: Any = dict.fromkeys(("anchors", "fine", "fusion", "bridge", "sharing"))
        spec = replace(spec, **nothing, band=(), reducer=())
        trained, visual = {**trained, "vision": "frozen"}, 0
    batch = data.collator(groups, [pictured] * len(groups))
    samples = len(batch["input_ids"])
    rows = int(batch["attention_mask"].sum()) / samples
    cost: Cost = price(
        spec,
        text_tokens=round(rows - visual),
        supervised_tokens=round(int((batch["labels"] != IGNORED).sum()) / samples),
        train=trained,
        cached_vision=data.cached() or not pictured,
    )
    return cost.train * samples / len(groups)


def _score(scored: Evaluation) -> dict[str, float]:
    rate = scored.rate()
    names = {"low": "accuracy_low", "high": "accuracy_high"}
    told = {names.get(k, k): v for k, v in rate.items()}
    return told | {"loss": scored.loss} | scored.captions()
