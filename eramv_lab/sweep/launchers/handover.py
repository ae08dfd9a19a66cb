"""A worker in a process that an engine started: its log, signals and lives, and who follows it."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from eramv_lab.errors import LabError
from eramv_lab.sweep.launch import Work
from eramv_lab.train import ranks
from eramv_lab.train.pool import Job, Outcome, Running
from eramv_lab.train.stop import Stopped

STARTS = "starts.txt"
"""A line for each life of a worker."""


@dataclass(frozen=True, kw_only=True)
class HandOver:
    """What an engine calls in its own process, wherever that is."""

    target: str
    args: Mapping[str, Any]
    folder: Path
    threads: int
    cwd: Path
    """Folder that the paths of a recipe start from."""
    warning: int | None = None
    """Signal by which the engine asks to save, because it will end the process."""

    def __call__(self) -> None:
        """Work until nothing is left.

        Raises Stopped after SIGTERM, SIGINT or the engine's warning, when all is saved; after the
        warning the engine's own handler gets its turn then, and may put the job back in its queue.
        """
        if not (self.cwd.is_dir() and self.folder.is_dir()):
            raise LabError(
                f"{socket.gethostname()} does not see {self.folder} or {self.cwd}: "
                "workers need the file system of the one who starts them"
            )
        os.chdir(self.cwd)
        with _logged(self.folder / "log.txt"), self._signals() as warned:
            try:
                self._work()
            except Stopped as stopped:
                requeue = warned()
                if requeue is None:
                    raise
                try:
                    requeue(
                        self.warning or stopped.number, None
                    )  # leaves by SystemExit where all went well
                except Exception:
                    traceback.print_exc()
                raise

    def checkpoint(self) -> Any:
        """What submitit puts back in the queue: the same worker."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _work(self) -> None:
        said = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        with (self.folder / STARTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(said) + "\n")
        for name in ranks.NAMES:
            os.environ.pop(name, None)
        os.environ |= {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self.threads)
        try:
            module, function = self.target.split(":")
            getattr(importlib.import_module(module), function)(**self.args)
        except Stopped:
            raise
        except BaseException:
            traceback.print_exc()
            with contextlib.suppress(OSError):
                (self.folder / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            raise

    @contextmanager
    def _signals(self) -> Iterator[Callable[[], Callable[[int, Any], Any] | None]]:
        """Raise Stopped where a signal asks to; yields who tells which handler the warning had."""
        if threading.current_thread() is not threading.main_thread():
            yield lambda: None
            return
        came: list[int] = []
        stops: list[int] = []
        before: dict[int, Any] = {}

        def stop(number: int, frame: FrameType | None) -> None:
            stops.append(number)
            raise Stopped(number)

        def warn(number: int, frame: FrameType | None) -> None:
            came.append(number)
            if not stops:  # where SIGTERM came first, the worker is on its way out
                signal.raise_signal(signal.SIGTERM)  # a fit hears that one

        handlers = {signal.SIGTERM: stop, signal.SIGINT: stop}
        if self.warning is not None:
            handlers[signal.Signals(self.warning)] = warn
        for number, handler in handlers.items():
            before[number] = signal.signal(number, handler)
        try:
            yield lambda: before[came[0]] if came and callable(before[came[0]]) else None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Write what this process prints to `path`."""
    kept = [os.dup(1), os.dup(2)]
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    _point(log, log)
    try:
        yield
    finally:
        _point(*kept)
        for number in (*kept, log):
            os.close(number)


def _point(out: int, err: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(out, 1)
    os.dup2(err, 2)


class Follow:
    """Tells the watcher of workers whose processes are somewhere else, by the files they write."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.outcomes: dict[str, Outcome] = {}
        self._running: dict[str, Running] = {}
        self._starts: dict[str, int] = {}
        for job in work.jobs:
            job.folder.mkdir(parents=True, exist_ok=True)
            for name in ("error.txt", "progress.json", STARTS):
                (job.folder / name).unlink(missing_ok=True)

    def look(self) -> None:
        """Tell who has started, again or for the first time."""
        for slot, job in enumerate(self.work.jobs):
            if job.key not in self.outcomes:
                self._count(job, slot)
        self.work.watcher.tick(list(self._running.values()))

    def end(self, job: Job, outcome: Outcome, why: str = "") -> None:
        """A worker has ended; `why` is kept where it could not say so itself."""
        self._count(job, self.work.jobs.index(job))
        if outcome == "failed":
            explain(job, why)
        began = self._running.pop(job.key).began if job.key in self._running else time.monotonic()
        self.outcomes[job.key] = outcome
        self.work.watcher.ended(job, outcome, time.monotonic() - began)

    def _count(self, job: Job, slot: int) -> None:
        try:
            starts = (job.folder / STARTS).read_text(encoding="utf-8").count("\n")
        except OSError:
            return
        for number in range(self._starts.get(job.key, 0), starts):
            if number == 0:
                one = Running(job=job, processes=(), slot=slot, began=time.monotonic())
                self._running[job.key] = one
                self.work.watcher.started(one)
            else:
                self.work.watcher.restarted(job, None)
        self._starts[job.key] = max(starts, self._starts.get(job.key, 0))


def hand_over(job: Job, work: Work, warning: int | None = None) -> HandOver:
    """The worker of `job` as an engine gets it."""
    return HandOver(
        target=job.target,
        args=dict(job.args),
        folder=job.folder,
        threads=work.threads,
        cwd=Path.cwd(),
        warning=warning,
    )


def explain(job: Job, why: str) -> None:
    """An error.txt for a worker that could not write one itself."""
    path = job.folder / "error.txt"
    if not path.exists() or not path.stat().st_size:
        with contextlib.suppress(OSError):
            path.write_text(f"{job.key} {why}; see {job.folder / 'log.txt'}\n", encoding="utf-8")
