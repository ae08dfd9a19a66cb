"""One arm, one seed, in this process: train, save, answer, price, measure, write the result."""

from __future__ import annotations

import time
import traceback
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Trainer

from eramv_lab.cost.formula import Cost, price
from eramv_lab.cost.measure import measure
from eramv_lab.data.collate import IGNORED
from eramv_lab.data.module import LabData
from eramv_lab.evaluate.generate import Evaluation, evaluate, queries
from eramv_lab.recipe.model_spec import parse_model
from eramv_lab.track.curves import CurveWriter
from eramv_lab.track.params import short_params
from eramv_lab.track.store import StudyRun, finish_fit, start_fit
from eramv_lab.train.callbacks import TRAIN_SHARE, Curves, Progress, Report
from eramv_lab.train.environment import environment
from eramv_lab.train.files import read_json, write_json, write_jsonl, write_text
from eramv_lab.train.module import LitArm

SCHEMA = 1
SAMPLED = 64
"""Training images whose rows are counted for the price of training."""
ARTIFACTS = ("recipe.yaml", "env.json", "curves.csv", "predictions.jsonl", "result.json")


def fit_one(run_dir: Path | str, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Fit the arm of `plan` into the empty folder `run_dir`; returns what `result.json` holds.

    Args:
        plan: `study`, `arm`, `seed`, `hash`, `recipe` (the resolved arm), `start` (folder of a
            `base` or an `arm`), and `track`, a file that names the study's MLflow run, if any.

    An exception leaves `error.txt` and no result. What goes wrong in MLflow is a warning.
    """
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "error.txt").unlink(missing_ok=True)
    if (folder / "result.json").exists():
        raise FileExistsError(f"{folder} has a result, which is never overwritten")
    tracked = _Tracked(folder, plan)
    try:
        result = _fit(folder, plan, tracked)
    except BaseException as error:
        write_text(folder / "error.txt", traceback.format_exc())
        tracked.end(None, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    tracked.end(result)
    return result


def _fit(folder: Path, plan: Mapping[str, Any], tracked: _Tracked) -> dict[str, Any]:
    began, started = time.perf_counter(), _now()
    arm, seed = plan["recipe"], plan["seed"]
    facts = environment()
    write_text(folder / "recipe.yaml", yaml.safe_dump(arm, sort_keys=False))
    write_json(folder / "env.json", facts)
    progress = Progress(folder)
    progress.tell(now=True, steps=arm["train"]["steps"])
    torch.set_num_threads(arm["trainer"]["threads"])

    lit = LitArm(arm, seed, plan.get("start"))
    data = LabData(
        arm, seed=seed, tower=lit.model.vision_tower if lit.vision_frozen else None, shown=False
    )
    with CurveWriter(tracked.uri, tracked.run_id, folder / "curves.csv") as writer:
        trainer = make_trainer(arm, writer, progress)
        if lit.settings.steps:
            trainer.fit(lit, data)
    progress.tell(phase="evaluate", done=TRAIN_SHARE)
    lit.model.save_pretrained(folder)

    device = trainer.strategy.root_device
    lit.to(device)
    with trainer.precision_plugin.forward_context():
        scored = answer(lit, data, progress)
    write_jsonl(folder / "predictions.jsonl", scored.rows())
    progress.tell(phase="measure", done=0.98)
    costs = arm["cost"]
    cost = price(lit.spec, text_tokens=costs["text_tokens"], batch=costs["batch"], train=lit.roles)
    with trainer.precision_plugin.forward_context():
        timed = asdict(measure(lit.model, costs["text_tokens"], costs["batch"]))
    row = {
        **_score(scored),
        "prefill_tflops": cost.prefill / 1e12,
        "train_pflops": training_flops(lit, data, trainer.world_size) / 1e15,
        "parameters": sum(total for total, _ in lit.counts.values()),
        "trainable": sum(learning for _, learning in lit.counts.values()),
        "visual_tokens": cost.visual_tokens,
        "fine_tokens": cost.fine_tokens,
        "kv_mib": cost.kv_bytes / 2**20,
        **{name: timed.pop(name) for name in ("latency_ms", "latency_spread_ms", "peak_mib")},
        "seconds": round(time.perf_counter() - began, 2),
    }
    result = {
        "schema": SCHEMA,
        **{key: plan[key] for key in ("study", "arm", "seed", "hash")},
        "recipe": arm,
        "row": row,
        "per_type": scored.per_type(),
        "cost": cost.to_json(),
        "measured": timed,
        "versions": facts["versions"],
        "git": facts["git"],
        "started": started,
        "finished": _now(),
        "mlflow_run_id": tracked.run_id,
    }
    write_json(folder / "result.json", result)
    progress.tell(phase="done", done=1.0)
    return result


def make_trainer(arm: Mapping[str, Any], writer: CurveWriter, progress: Progress) -> Trainer:
    """Lightning's Trainer as the recipe says; curves and progress are ours, nothing is printed."""
    train, asked = arm["train"], arm["trainer"]
    strategy = asked["strategy"]
    if asked["devices"] != 1 and asked["nodes"] == 1 and strategy in ("auto", "ddp"):
        strategy = "ddp_fork"  # plain ddp would start this program's command line again
    every = train["validate_every"] * train["accumulate"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Trainer(
            accelerator=asked["accelerator"],
            devices=asked["devices"],
            num_nodes=asked["nodes"],
            strategy=strategy,
            precision=asked["precision"],
            max_steps=train["steps"],
            max_epochs=-1,
            gradient_clip_val=train["clip"],
            accumulate_grad_batches=train["accumulate"],
            val_check_interval=every or None,
            check_val_every_n_epoch=None,
            limit_val_batches=1.0 if every else 0,
            num_sanity_val_steps=0,
            log_every_n_steps=train["log_every"],
            logger=Curves(writer),
            callbacks=[Report(progress)],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )


def answer(lit: LitArm, data: LabData, progress: Progress | None = None) -> Evaluation:
    """The model's answers to the held-out questions, as the recipe's `evaluate` says."""
    settings, test = data.evaluate, data.examples("test")
    count = min(settings.images or len(test), len(test))
    shards = test.shards
    questions = [
        query for i in range(count) for query in queries(i, shards.keys[i], shards.questions(i))
    ]

    def tell(done: int) -> None:
        if progress:
            share = TRAIN_SHARE + (0.98 - TRAIN_SHARE) * done / len(questions)
            progress.tell(phase="evaluate", done=share)

    return evaluate(
        lit.model,
        questions,
        lambda numbers: test.__getitems__(numbers).vision,
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
    train = data.examples("train")
    sampled = range(min(SAMPLED, len(train)))
    groups = [train.shards.questions(i)[: settings.questions] for i in sampled]
    batch = data.collator(groups)
    samples = len(batch["input_ids"])
    rows = int(batch["attention_mask"].sum()) / samples
    cost: Cost = price(
        lit.spec,
        text_tokens=round(rows - lit.spec.dims().visual),
        supervised_tokens=round(int((batch["labels"] != IGNORED).sum()) / samples),
        train=lit.roles,
        cached_vision=lit.vision_frozen,
    )
    images = settings.steps * settings.images * settings.accumulate * devices
    return cost.train * images * samples / len(groups)


def _score(scored: Evaluation) -> dict[str, float]:
    rate = scored.rate()
    names = {"low": "accuracy_low", "high": "accuracy_high"}
    return {names.get(k, k): v for k, v in rate.items()} | {"loss": scored.loss}


class _Tracked:
    """The fit's run in MLflow; what goes wrong there is told and forgotten."""

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        self.folder = folder
        self.uri: str | None = None
        self.run_id: str | None = None
        parent = read_json(Path(plan["track"])) if plan.get("track") else None
        if not parent:
            return
        try:
            study = StudyRun(**parent)
            tags = {"eramv.hash": plan["hash"], "eramv.recipe": str(folder / "recipe.yaml")}
            params = short_params(plan["recipe"], anchors=_anchor_patches(plan["recipe"]))
            self.run_id = start_fit(study, plan["arm"], plan["seed"], params, tags)
            self.uri = study.uri
        except Exception as error:
            warnings.warn(f"MLflow does not follow this fit: {error!r}", stacklevel=2)

    def end(self, result: Mapping[str, Any] | None, status: str = "FINISHED") -> None:
        """Hand over the row and the files."""
        if self.uri is None or self.run_id is None:
            return
        try:
            finish_fit(
                self.uri,
                self.run_id,
                result["row"] if result else None,
                status,
                per_type={k: v["accuracy"] for k, v in (result or {}).get("per_type", {}).items()},
                artifacts=[self.folder / name for name in (*ARTIFACTS, "error.txt")],
            )
        except Exception as error:
            warnings.warn(f"MLflow did not take the result: {error!r}", stacklevel=2)


def _anchor_patches(recipe: Mapping[str, Any]) -> int:
    """Anchors of a resolved arm, CLS apart; `all` has no number of its own to show."""
    spec = parse_model(recipe["model"], [])
    if spec is None or spec.anchors is None:
        return 0
    return spec.dims().anchors - int(spec.anchors.takes_cls)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
