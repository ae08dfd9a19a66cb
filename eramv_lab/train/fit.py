"""One arm, one seed, in this process: train, save, answer, price, measure, write the result."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import time
import traceback
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, Trainer

from eramv_lab.data.module import LabData
from eramv_lab.data.processor import processor_of
from eramv_lab.errors import LabError
from eramv_lab.track.curves import CurveWriter
from eramv_lab.train import adapter, checkpoint, ranks
from eramv_lab.train.callbacks import TRAIN_SHARE, Progress, Report
from eramv_lab.train.environment import environment
from eramv_lab.train.files import read_json, write_json, write_jsonl, write_text
from eramv_lab.train.judged import Judged, Pruned, judge_of
from eramv_lab.train.module import LitArm
from eramv_lab.train.plan import PRUNED, drop_checkpoints
from eramv_lab.train.resume import Resume, left, load_weights
from eramv_lab.train.row import answer_all, priced, row_of
from eramv_lab.train.stop import Stopped, StopSignal
from eramv_lab.train.tracked import Tracked
from eramv_lab.train.trainer import make_trainer

SCHEMA = 1
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""


def fit_one(run_dir: Path | str, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Fit the arm of `plan` into the folder `run_dir`; returns what `result.json` holds.

    Args:
        plan: `study`, `arm`, `seed`, `hash`, `recipe` (the resolved arm), `start` (folder of a
            `base`, an `arm` or a `model`), and `track`, a file that names the study's MLflow run,
            if any; of a trial also `judge`, who may end it early (`train.judged`); `trained`, the
            folder of a fit with the same training, whose weights are scored and not trained again.

    Where the folder holds a checkpoint, the fit goes on from the newest one that is whole. One of
    several processes of a fit calls this too; only the first one writes, the others return {}.
    An exception leaves `error.txt` and no result; one that the judge has ended leaves `pruned.json`
    instead, which is returned. What goes wrong in MLflow is a warning.
    """
    began, folder = time.perf_counter(), Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if ranks.rank() == 0:
        (folder / "error.txt").unlink(missing_ok=True)
    if (folder / "result.json").exists():
        raise FileExistsError(f"{folder} has a result, which is never overwritten")
    state = checkpoint.newest(folder, hash=plan["hash"], seed=plan["seed"])
    if ranks.rank() > 0:
        with _no_room(folder), contextlib.suppress(Pruned):
            train(folder, plan, state, None, Progress(None))
        return {}
    tracked = Tracked(folder, plan, goes_on=state is not None)
    try:
        with _no_room(folder):
            result = _fit(folder, plan, state, tracked, Progress(folder, began=began))
    except Pruned as pruned:
        told = _pruned(plan, pruned)
        told["mlflow_run_id"] = tracked.run_id
        write_json(folder / PRUNED, told)
        drop_checkpoints(folder)
        tracked.end(told)
        return told
    except BaseException as error:
        if not isinstance(error, Stopped):
            with contextlib.suppress(OSError):
                write_text(folder / "error.txt", traceback.format_exc())
        stopped = isinstance(error, Stopped | KeyboardInterrupt)
        tracked.end(None, "KILLED" if stopped else "FAILED")
        raise
    tracked.end(result)
    drop_checkpoints(folder)
    return result


def _fit(
    folder: Path,
    plan: Mapping[str, Any],
    state: Mapping[str, Any] | None,
    tracked: Tracked,
    progress: Progress,
) -> dict[str, Any]:
    began, started = time.perf_counter(), _now()
    arm, facts = plan["recipe"], environment()
    write_text(folder / "recipe.yaml", yaml.safe_dump(arm, sort_keys=False))
    write_json(folder / "env.json", facts)
    progress.tell(now=True, steps=arm["train"]["steps"])
    about = {
        "hash": plan["hash"],
        "seed": plan["seed"],
        "started": state["started"] if state else started,
        "stints": [*(state["stints"] if state else []), _stint(state, started, facts)],
    }
    kept = state["curves"] if state else _curves(plan.get("trained"))
    with CurveWriter(tracked.uri, tracked.run_id, folder / "curves.csv", kept=kept) as writer:
        lit, data, trainer = train(folder, plan, state, writer, progress, about)
    progress.tell(phase="evaluate", done=TRAIN_SHARE)
    beside = adapter.finish(lit, folder, plan)
    lit.model.save_pretrained(folder)
    processor_of(lit.spec, data.words, data.pixels).save_pretrained(folder)

    lit.to(trainer.strategy.root_device)
    with trainer.precision_plugin.forward_context():
        scored, also = answer_all(lit, data, progress)
    write_jsonl(folder / "predictions.jsonl", scored.rows())
    for name, one in also.items():
        write_jsonl(folder / f"predictions_{name}.jsonl", one.rows())
    progress.tell(phase="measure", done=0.98)
    with trainer.precision_plugin.forward_context():
        row, cost, timed = row_of(lit, data, scored, arm, ranks.world())
    row |= {f"accuracy_{name}": one.rate()["accuracy"] for name, one in also.items()}
    before = (state or {}).get("seconds", 0.0) + _seconds(plan.get("trained"))
    row["seconds"] = round(time.perf_counter() - began + before, 2)
    result = {
        "schema": SCHEMA,
        "state": "complete",
        **{key: plan[key] for key in ("study", "arm", "seed", "hash")},
        "recipe": arm,
        "start": dict(plan.get("start") or {}),
        **({"adapter": beside} if beside else {}),
        "row": row,
        "per_type": scored.per_type(),
        "also": {name: one.told() for name, one in also.items()},
        "cost": cost.to_json(),
        "measured": timed,
        "data": data.told(),
        "versions": facts["versions"],
        "git": facts["git"],
        "started": about["started"],
        "finished": _now(),
        "stints": about["stints"],
        "first_step_seconds": round(progress.first_step_s, 3),
        "trained_in": plan.get("trained"),
        "mlflow_run_id": tracked.run_id,
    }
    write_json(folder / "result.json", result)
    progress.tell(phase="done", done=1.0)
    return result


def train(
    folder: Path,
    plan: Mapping[str, Any],
    state: Mapping[str, Any] | None,
    writer: CurveWriter | None,
    progress: Progress,
    about: Mapping[str, Any] | None = None,
) -> tuple[LitArm, LabData, Trainer]:
    """The trained arm, its data and the Trainer; every process of a fit goes through here.

    `state`: the checkpoint that it goes on from; `about`: what a checkpoint says of the run
    beside its state. Raises Stopped where SIGTERM came and all was saved.
    """
    arm, seed = plan["recipe"], plan["seed"]
    torch.set_num_threads(arm["trainer"]["threads"])
    _keep_memory()
    trained = plan.get("trained")
    start = {"arm": trained} if trained else plan.get("start")
    lit = LitArm(arm, seed, start)
    tower = lit.model.vision_tower if lit.vision_frozen else None
    data = LabData(arm, seed=seed, tower=tower, start=start, shown=False)
    steps, done = lit.settings.steps, int(state["step"]) if state else 0
    if state is not None:
        data.broken |= state["broken"]
        data.seen = state["seen"]
        data.go_to(done * lit.settings.accumulate)
    with StopSignal() as stop:
        resume = Resume(
            folder,
            data,
            writer,
            state,
            every=lit.settings.checkpoint_every,
            stop=stop,
            about=about or {},
        )
        judged = Judged(judge_of(plan.get("judge")), progress)
        callbacks: list[Callback] = [resume, Report(progress), judged]
        trainer = make_trainer(arm, writer, callbacks)
        if done < steps and not trained:
            data.require_labels()
            trainer.fit(lit, data)
        elif state is not None:
            load_weights(lit, state)
        lit = lit.whole()
    for broken in ranks.gather(data.broken):
        data.broken |= broken
    return lit, data, trainer


def _keep_memory() -> None:
    """Let the C library keep what tensors give back, up to 1 GiB: each step asks for as much again,
    and fresh pages cost a small model a tenth of its time. Blocks above 32 MiB go back as ever."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)
        libc.mallopt(M_TRIM_THRESHOLD, 2**30)


def _pruned(plan: Mapping[str, Any], pruned: Pruned) -> dict[str, Any]:
    """What is known of a fit that was ended early: its price, and what the last look found."""
    row = priced(plan["recipe"]) | {
        name.removeprefix("val/"): v for name, v in pruned.found.items()
    }
    told = {"schema": SCHEMA, "state": "pruned", "hash": plan["hash"], "seed": plan["seed"]}
    return told | {"step": pruned.step, "row": row, "first_step_seconds": pruned.first_step_s}


@contextlib.contextmanager
def _no_room(folder: Path) -> Iterator[None]:
    """Turn a full disk into one message that says what there is to go on from."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or folder
        raise LabError(f"{where}: {error.strerror}; of the checkpoints {left(folder)}") from error


def _curves(trained: str | None) -> str:
    """The curves of the training that a fit takes over."""
    file = Path(trained or "") / "curves.csv"
    return file.read_text(encoding="utf-8") if trained and file.exists() else ""


def _seconds(trained: str | None) -> float:
    """The time that it took."""
    result = read_json(Path(trained) / "result.json") if trained else None
    return float(result["row"]["seconds"]) if result else 0.0


def _stint(
    state: Mapping[str, Any] | None, started: str, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What a result tells of one uninterrupted stretch of its training."""
    return {
        "from_step": int(state["step"]) if state else 0,
        "started": started,
        "commit": facts["git"].get("commit"),
        "torch": facts["versions"].get("torch"),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
