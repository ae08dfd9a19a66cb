"""The workers of a sweep, started by the engine that the sweep file names."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from eramv_lab.errors import Problem, UserError
from eramv_lab.recipe.parse import parse_component, to_plain
from eramv_lab.recipe.schema import Whole
from eramv_lab.registry import Registry
from eramv_lab.train.pool import PRELOAD, Job, Outcome, Watcher, reason

LAUNCHERS = Registry(
    slot="launcher",
    question="what starts the workers of a sweep",
    package="eramv_lab.sweep.launchers",
)
DEFAULT = "local"


@dataclass(frozen=True, kw_only=True)
class LauncherConfig:
    """What every engine is told."""

    lives: Whole = 5
    """How often a worker that was killed is started again."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What an engine gets: the workers, one job each, and what a job may use."""

    jobs: Sequence[Job]
    root: Path
    watcher: Watcher
    threads: int
    gpus: Sequence[str]
    """GPUs of this machine, in groups of as many as a worker takes: `0,1`."""
    preload: Sequence[str]

    @property
    def gpus_each(self) -> int:
        """GPUs that a worker takes, by what this machine has."""
        return len(self.gpus[0].split(",")) if self.gpus else 0


@dataclass(frozen=True, kw_only=True)
class WorkerEnd:
    """How a worker ended."""

    name: str
    outcome: Outcome
    folder: Path
    restarts: int
    """How many of its lives it used."""
    error: str | None
    """Why it failed, in a line."""


def parse_launcher(value: Any, key: str, problems: list[Problem]) -> LauncherConfig | None:
    """The config that a sweep file's `launcher:` stands for: a name, or `{type: name, ...}`."""
    if value is None or value == "none":
        value = DEFAULT
    return parse_component(LAUNCHERS, value, key, problems, default=DEFAULT)


def launcher_to_plain(settings: LauncherConfig) -> Any:
    """The form of `settings` that a sweep file holds."""
    return to_plain(settings, LAUNCHERS)


def launch(
    settings: LauncherConfig,
    target: str,
    args: Mapping[str, Any],
    *,
    workers: int,
    root: Path,
    watcher: Watcher | None = None,
    threads: int = 1,
    gpus: Sequence[str] = (),
    preload: Sequence[str] = PRELOAD,
) -> list[WorkerEnd]:
    """Start `workers` workers and return when all of them have ended.

    Args:
        target: `module:function`, called with `args` and `worker`, its name (`w0`, `w1`, ...).
        root: folder of the study; a worker's log.txt and error.txt are in `root/workers/w0`.
        watcher: told of every worker as of a job of kind `worker`.
        threads: CPU threads of each worker.
        gpus: GPUs of this machine in groups, one group for each worker side by side.
        preload: modules that workers on this machine have imported already when they start.

    A killed worker is started again `settings.lives` times. An exception that comes meanwhile
    (Ctrl-C, SIGTERM) stops the workers first; they save. Raises UserError where the engine is not
    installed or not there.
    """
    counting = _Counting(watcher or Watcher())
    folder = root.resolve() / "workers"
    jobs = [
        Job(
            key=f"w{number}",
            target=target,
            folder=folder / f"w{number}",
            args={**args, "worker": f"w{number}"},
            kind="worker",
            lives=settings.lives,
        )
        for number in range(workers)
    ]
    work = Work(
        jobs=jobs, root=folder, watcher=counting, threads=threads, gpus=gpus, preload=preload
    )
    outcomes: Mapping[str, Outcome] = LAUNCHERS.of(settings).factory(settings, work)
    return [
        WorkerEnd(
            name=job.key,
            outcome=outcomes[job.key],
            folder=job.folder,
            restarts=counting.restarts[job.key],
            error=None if outcomes[job.key] == "done" else reason(job),
        )
        for job in jobs
    ]


def engine(module: str, extra: str) -> ModuleType:
    """The module of an engine. Raises UserError that says how to get it where it is missing."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            Problem(
                message=f"the launcher {extra!r} needs {module}, which is not installed: "
                f"pip install 'eramv-lab[{extra}]'",
                key="launcher.type",
            )
        ) from error


class _Counting(Watcher):
    """Counts restarts and passes everything on."""

    def __init__(self, watcher: Watcher) -> None:
        self.restarts: Counter[str] = Counter()
        self.started, self.ended, self.tick = watcher.started, watcher.ended, watcher.tick
        self._told = watcher.restarted

    def restarted(self, job: Job, code: int | None) -> None:
        self.restarts[job.key] += 1
        self._told(job, code)
