"""`local`: workers as processes of this machine, the GPUs and cores shared out."""

from __future__ import annotations

from dataclasses import dataclass

from eramv_lab.sweep.launch import LAUNCHERS, LauncherConfig, Work
from eramv_lab.train.pool import Outcome, run_jobs


@dataclass(frozen=True, kw_only=True)
class LocalConfig(LauncherConfig):
    """Processes of this machine."""


@LAUNCHERS.register("local", LocalConfig)
def run(settings: LocalConfig, work: Work) -> dict[str, Outcome]:
    """How each worker ended, by its key."""
    return run_jobs(
        work.jobs,
        workers=len(work.jobs),
        watcher=work.watcher,
        threads=work.threads,
        gpus=work.gpus,
        preload=work.preload,
    )
