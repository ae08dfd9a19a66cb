"""Jobs side by side, each in a fresh process forked from a server that has the imports done."""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from eramv_lab.train.files import read_json

PRELOAD = ("eramv_lab.train.fit", "mlflow", "mlflow.store.tracking.sqlalchemy_store")
"""What every fit imports."""
POLL_S = 0.1
GRACE_S = 5.0
"""Between asking a process to end and ending it."""

Outcome = Literal["done", "failed", "blocked"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One call of `target(**args)` in a process of its own."""

    key: str
    target: str
    """`module:function`."""
    folder: Path
    """Where its log.txt, progress.json and, if it fails, error.txt are."""
    args: Mapping[str, Any] = field(default_factory=dict[str, Any])
    after: tuple[str, ...] = ()
    """Keys of the jobs that must be done first."""
    kind: str = "fit"

    def progress(self) -> dict[str, Any]:
        """What the job last said of itself; empty before it has said anything."""
        return read_json(self.folder / "progress.json") or {}


@dataclass(kw_only=True)
class Running:
    """A job that has a process."""

    job: Job
    process: BaseProcess
    slot: int
    began: float


class Watcher:
    """What a pool tells of its jobs; the methods do nothing unless a subclass says more."""

    def started(self, running: Running) -> None:
        """A process was started."""

    def ended(self, job: Job, outcome: Outcome, seconds: float) -> None:
        """A job is done, has failed, or is blocked by one that has."""

    def tick(self, running: Sequence[Running]) -> None:
        """Called some times a second while there is work."""


def run_jobs(
    jobs: Sequence[Job],
    *,
    workers: int,
    watcher: Watcher | None = None,
    threads: int = 1,
    gpus: Sequence[str] = (),
    preload: Sequence[str] = PRELOAD,
) -> dict[str, Outcome]:
    """Run `jobs` in their order, `workers` at a time, each after those it waits for.

    A job that fails blocks only those after it. With `gpus` the job in slot i sees the i-th of
    them alone. Every process is stopped before an exception (Ctrl-C) leaves this function.
    """
    watcher = watcher or Watcher()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    outcomes: dict[str, Outcome] = {}
    waiting = list(jobs)
    running: list[Running] = []

    def end(job: Job, outcome: Outcome, seconds: float = 0.0) -> None:
        outcomes[job.key] = outcome
        watcher.ended(job, outcome, seconds)

    try:
        while waiting or running:
            for job in [j for j in waiting if _blocked(j, outcomes)]:
                waiting.remove(job)
                end(job, "blocked")
            ready = [j for j in waiting if all(outcomes.get(k) == "done" for k in j.after)]
            if not ready and not running and waiting:
                raise ValueError(f"jobs wait for one another: {[j.key for j in waiting]}")
            for job in ready[: workers - len(running)]:
                slot = min(set(range(workers)) - {r.slot for r in running})
                gpu = gpus[slot % len(gpus)] if gpus else None
                waiting.remove(job)
                running.append(_start(context, job, slot, threads, gpu))
                watcher.started(running[-1])
            multiprocessing.connection.wait([r.process.sentinel for r in running], POLL_S)
            for item in [r for r in running if r.process.exitcode is not None]:
                running.remove(item)
                code = item.process.exitcode
                if code:
                    _explain(item.job, code)
                end(item.job, "failed" if code else "done", time.monotonic() - item.began)
            watcher.tick(running)
    finally:
        _stop(running)
    return outcomes


def _blocked(job: Job, outcomes: Mapping[str, Outcome]) -> bool:
    return any(outcomes.get(key) in ("failed", "blocked") for key in job.after)


def _start(
    context: ForkServerContext,
    job: Job,
    slot: int,
    threads: int,
    gpu: str | None,
) -> Running:
    job.folder.mkdir(parents=True, exist_ok=True)
    for name in ("error.txt", "progress.json"):
        (job.folder / name).unlink(missing_ok=True)
    args = (job.target, dict(job.args), str(job.folder), threads, gpu)
    process = context.Process(target=_child, args=args, name=job.key)
    process.start()
    return Running(job=job, process=process, slot=slot, began=time.monotonic())


def _child(target: str, args: dict[str, Any], folder: str, threads: int, gpu: str | None) -> None:
    """The whole life of a job's process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, _terminated)
    log = os.open(Path(folder) / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    try:
        module, function = target.split(":")
        run: Callable[..., Any] = getattr(importlib.import_module(module), function)
        run(**args)
    except BaseException:
        (Path(folder) / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
        traceback.print_exc()
        sys.stdout.flush()
        sys.exit(1)


def _terminated(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _explain(job: Job, code: int) -> None:
    """A process that could not tell why it ended (killed, out of memory) gets an error file."""
    path = job.folder / "error.txt"
    if not path.exists():
        text = f"{job.key} ended with exit code {code}"
        text += f" (killed by signal {-code})" if code < 0 else ""
        path.write_text(f"{text}; see {job.folder / 'log.txt'}\n", encoding="utf-8")


def _stop(running: Sequence[Running]) -> None:
    """End what still runs; that is no failure, so no error is left behind."""
    for item in running:
        item.process.terminate()
    deadline = time.monotonic() + GRACE_S
    for item in running:
        item.process.join(max(0.0, deadline - time.monotonic()))
        if item.process.exitcode is None:
            item.process.kill()
            item.process.join()
        (item.job.folder / "error.txt").unlink(missing_ok=True)
