"""Jobs side by side, each in a fresh process forked from a server that has the imports done."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import re
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

from eramv_lab.registry import load_again, plugins
from eramv_lab.train import ranks
from eramv_lab.train.files import read_json
from eramv_lab.train.stop import Stopped

PRELOAD = ("eramv_lab.train.fit", "mlflow", "mlflow.store.tracking.sqlalchemy_store")
"""What every fit imports."""
POLL_S = 0.1
GRACE_S = 60.0
"""Between asking a process to end and ending it: it finishes its step and saves."""
LOST_S = 5.0
"""Between the failure of one process of a job and the end of its others."""

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
    ranks: int = 1
    """Processes that do the job together; the first one's word counts."""
    lives: int = 0
    """How often it is started again after a kill (by the system, for its memory, by hand)."""

    def progress(self) -> dict[str, Any]:
        """What the job last said of itself; empty before it has said anything."""
        return read_json(self.folder / "progress.json") or {}


def reason(job: Job) -> str:
    """Why a job failed, in a line: the end of its error.txt."""
    try:
        lines = (job.folder / "error.txt").read_text(encoding="utf-8").strip().split("\n")
    except OSError:
        lines = [""]
    if lines == [""]:
        return "it could not say why (is the disk full?)"
    last = next((n for n in reversed(range(len(lines))) if not lines[n].startswith(" ")), 0)
    text = " ".join(line.strip() for line in lines[last:])
    return re.sub(r"^[\w.]+\.(\w+(Error|Exit|Exception)): ", "", text)


@dataclass(kw_only=True)
class Running:
    """A job that has its processes."""

    job: Job
    processes: Sequence[BaseProcess]
    slot: int
    began: float
    lost: float | None = None
    """When the first of its processes failed."""
    failed: int = 0
    """Exit code of the process that failed first."""
    lives: int = 0
    """How often it may still be started again."""

    def alive(self) -> list[BaseProcess]:
        """The processes that still run."""
        return [p for p in self.processes if p.exitcode is None]

    def code(self) -> int:
        """0, or the exit code that failed first: those after it may be our doing."""
        self.failed = self.failed or next((p.exitcode for p in self.processes if p.exitcode), 0)
        return self.failed


class Watcher:
    """What a pool tells of its jobs; the methods do nothing unless a subclass says more."""

    def started(self, running: Running) -> None:
        """A process was started."""

    def restarted(self, job: Job, code: int | None) -> None:
        """A job was killed and is started again; no code where its engine does not tell one."""

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

    A job that fails blocks only those after it; one that is killed has as many lives more as it
    says, each error kept as error-1.txt and so on. With `gpus` the job in slot i sees the i-th of
    them alone. Every process is stopped before an exception (Ctrl-C) leaves this function.
    """
    watcher = watcher or Watcher()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    _start_server()
    os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    outcomes: dict[str, Outcome] = {}
    waiting = list(jobs)
    running: list[Running] = []

    def end(job: Job, outcome: Outcome, seconds: float = 0.0) -> None:
        outcomes[job.key] = outcome
        watcher.ended(job, outcome, seconds)

    def start(job: Job, slot: int) -> Running:
        return _start(context, job, slot, threads, gpus[slot % len(gpus)] if gpus else None)

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
                waiting.remove(job)
                running.append(start(job, slot))
                watcher.started(running[-1])
            alive = [p.sentinel for r in running for p in r.alive()]
            multiprocessing.connection.wait(alive, POLL_S)
            for item in running:
                _give_up(item)
            for item in [r for r in running if not r.alive()]:
                code = item.code()
                if code:
                    _explain(item.job, code)
                if code < 0 < item.lives:
                    keep_error(item.job.folder)
                    again = start(item.job, item.slot)
                    again.began, again.lives = item.began, item.lives - 1
                    running[running.index(item)] = again
                    watcher.restarted(item.job, code)
                    continue
                running.remove(item)
                end(item.job, "failed" if code else "done", time.monotonic() - item.began)
            watcher.tick(running)
    finally:
        _stop(running)
    return outcomes


def _start_server() -> None:
    """Begin the server deaf to signals: one sent to all our processes must not end it first."""
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    processes: list[BaseProcess] = []
    port = ranks.free_port() if job.ranks > 1 else 0
    for number in range(job.ranks):
        told = ranks.environment(number, job.ranks, port) if job.ranks > 1 else {}
        args = (job.target, dict(job.args), str(job.folder), threads, gpu, told, plugins())
        process = context.Process(target=_child, args=args, name=f"{job.key} {number}")
        process.start()
        processes.append(process)
    now = time.monotonic()
    return Running(job=job, processes=processes, slot=slot, began=now, lives=job.lives)


def _child(
    target: str,
    args: dict[str, Any],
    folder: str,
    threads: int,
    gpu: str | None,
    told: Mapping[str, str],
    known: list[str],
) -> None:
    """The whole life of a job's process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in (signal.SIGINT, signal.SIGUSR1):  # the parent's to answer
        signal.signal(name, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _terminated)
    for name in ranks.NAMES:  # of this program's own ranks, if it has been started as one
        os.environ.pop(name, None)
    os.environ |= told
    other = "" if ranks.rank() == 0 else f"-rank{ranks.rank()}"
    log = os.open(Path(folder) / f"log{other}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.stdout.flush()
    os.dup2(log, 1)
    os.dup2(log, 2)
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    try:
        load_again(known)
        module, function = target.split(":")
        run: Callable[..., Any] = getattr(importlib.import_module(module), function)
        run(**args)
    except Stopped:
        raise
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        error = Path(folder) / "error.txt"
        with contextlib.suppress(OSError):  # a full disk is told by the exit code
            if not error.exists():
                error.write_text(traceback.format_exc(), encoding="utf-8")
        sys.exit(1)


def _terminated(number: int, frame: FrameType | None) -> None:
    raise Stopped


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def keep_error(folder: Path) -> None:
    """Give error.txt the first free name of error-1.txt, error-2.txt ..."""
    error = folder / "error.txt"
    names = (folder / f"error-{number}.txt" for number in itertools.count(1))
    with contextlib.suppress(FileNotFoundError):
        error.rename(next(name for name in names if not name.exists()))


def _explain(job: Job, code: int) -> None:
    """A process that could not tell why it ended (killed, out of memory) gets an error file."""
    path = job.folder / "error.txt"
    if not path.exists() or not path.stat().st_size:
        text = f"{job.key} ended with exit code {code}"
        text += f" (killed by signal {-code})" if code < 0 else ""
        with contextlib.suppress(OSError):
            path.write_text(f"{text}; see {job.folder / 'log.txt'}\n", encoding="utf-8")


def _give_up(item: Running) -> None:
    """End the processes that wait for one that has failed."""
    if not item.code() or not item.alive():
        return
    item.lost = item.lost or time.monotonic()
    if time.monotonic() - item.lost > LOST_S:
        for process in item.alive():
            process.kill()


def _stop(running: Sequence[Running]) -> None:
    """End what still runs; that is no failure, so no error is left behind."""
    processes = [process for item in running for process in item.processes]
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE_S
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.exitcode is None:
            process.kill()
            process.join()
    for item in running:
        (item.job.folder / "error.txt").unlink(missing_ok=True)
