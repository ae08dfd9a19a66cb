"""`slurm`: workers as jobs of a SLURM cluster, handed over by submitit."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

from eramv_lab.errors import LabError, Problem, UserError
from eramv_lab.recipe.schema import Count, Positive, Whole
from eramv_lab.sweep.launch import LAUNCHERS, LauncherConfig, Work, engine
from eramv_lab.sweep.launchers.handover import Follow, HandOver, explain, hand_over
from eramv_lab.train.pool import GRACE_S, Outcome, keep_error

POLL_S = {"slurm": 2.0, "local": 0.1}
ASK_S = 30.0
"""Between two questions to SLURM's accounting."""
LATE_S = {"slurm": 20.0, "local": 0.0}
"""How long a shared file system may take to show the result of a job that has ended."""
PREEMPTED_S = 300.0
"""How long a preempted job has to come back by itself, where SLURM requeues such jobs."""
TIMEOUTS = 1000
"""How often a job whose time is up goes back in the queue."""


@dataclass(frozen=True, kw_only=True)
class SlurmConfig(LauncherConfig):
    """Jobs of a SLURM cluster, one a worker."""

    cluster: Literal["slurm", "local"] = "slurm"
    """`local`: the same jobs as processes of this machine, to try it out without SLURM."""
    partition: str | None = None
    """Partition of the jobs."""
    time_min: Count = 1440
    """Minutes until a job's time is up; its worker saves and goes back in the queue."""
    warning_s: Count = 120
    """Seconds that SLURM warns before it ends a job: longer than a step and a checkpoint take."""
    cpus_per_task: Count | None = None
    """CPU cores of a worker; by default as many as it has threads."""
    gpus_per_node: Whole | None = None
    """GPUs of a worker; by default as many as a fit takes on this machine."""
    mem_gb: Positive | None = None
    """Memory of a worker."""
    setup: tuple[str, ...] = ()
    """Shell commands before the worker: `module load ...`."""
    slurm_additional: Mapping[str, str | int | bool] = field(default_factory=dict)
    """Further options of sbatch by their names: `{account: vision, qos: low}`."""


@dataclass(kw_only=True)
class Sent:
    """A worker's newest job."""

    over: HandOver
    lives: int
    job: Any
    gone: float | None = None
    """When its end, or its preemption, was first seen."""


@LAUNCHERS.register("slurm", SlurmConfig)
def run(settings: SlurmConfig, work: Work) -> dict[str, Outcome]:
    """How each worker ended, by its key.

    A job that was killed, or lost with its node, is submitted again; one that somebody cancelled
    is not.
    """
    submitit = engine("submitit", "slurm")
    executor = _executor(submitit, settings, work)
    warning = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")
    follow = Follow(work)
    overs = [hand_over(job, work, warning) for job in work.jobs]
    try:
        with executor.batch():
            jobs = [executor.submit(over) for over in overs]
    except submitit.core.utils.FailedJobError as error:
        raise LabError(f"sbatch refused the workers: {_last(error)}") from error
    sent = {
        job.key: Sent(over=over, lives=settings.lives, job=one)
        for job, over, one in zip(work.jobs, overs, jobs, strict=True)
    }
    asked = time.monotonic()
    try:
        while sent:
            time.sleep(POLL_S[settings.cluster])
            if settings.cluster == "slurm" and time.monotonic() - asked > ASK_S:
                asked = time.monotonic()
                jobs[0].watcher.update()
            for job in work.jobs:
                one = sent.get(job.key)
                outcome, why = _look(one, settings.cluster) if one else (None, "")
                if one is None or outcome is None:
                    continue
                if outcome == "lost" and one.lives > 0:
                    try:
                        again = executor.submit(one.over)
                    except submitit.core.utils.FailedJobError as error:
                        why += f", and sbatch refused another: {_last(error)}"
                    else:
                        explain(job, why)
                        keep_error(job.folder)
                        sent[job.key] = Sent(over=one.over, lives=one.lives - 1, job=again)
                        continue
                del sent[job.key]
                follow.end(job, "done" if outcome == "done" else "failed", why)
            follow.look()
    finally:
        _cancel([one.job for one in sent.values()], settings.cluster)
    return follow.outcomes


def _executor(submitit: ModuleType, settings: SlurmConfig, work: Work) -> Any:
    try:
        executor = submitit.AutoExecutor(
            folder=work.root, cluster=settings.cluster, slurm_max_num_timeout=TIMEOUTS
        )
    except RuntimeError as error:
        message = f"{error}; on this machine alone: launcher: local"
        raise UserError(Problem(message=message, key="launcher.type")) from error
    gpus = work.gpus_each if settings.gpus_per_node is None else settings.gpus_per_node
    executor.update_parameters(
        name=work.root.parent.name,
        nodes=1,
        tasks_per_node=1,
        timeout_min=settings.time_min,
        cpus_per_task=settings.cpus_per_task or work.threads,
        gpus_per_node=gpus or None,
        mem_gb=settings.mem_gb,
        slurm_partition=settings.partition,
        slurm_signal_delay_s=settings.warning_s,
        slurm_setup=list(settings.setup) or None,
        slurm_additional_parameters=dict(settings.slurm_additional) or None,
    )
    return executor


def _look(sent: Sent, cluster: str) -> tuple[Literal["done", "failed", "lost"] | None, str]:
    """How a worker's job has ended, and why; None while it has not."""
    job, now = sent.job, time.monotonic()
    if not job.done():
        # for submitit a preempted job is on its way back, also where nothing brings it back
        away = cluster == "slurm" and job.state == "PREEMPTED"
        sent.gone = (sent.gone or now) if away else None
        if sent.gone is not None and now - sent.gone > PREEMPTED_S:
            return "lost", f"lost its job {job.job_id} (preempted)"
        return None, ""
    if job.paths.result_pickle.exists():
        error = job.exception()
        return ("failed", f"failed: {_last(error)}") if error else ("done", "")
    sent.gone = sent.gone or now
    if now - sent.gone < LATE_S[cluster]:
        return None, ""
    if job.state.startswith("CANCELLED"):
        return "failed", f"had its job {job.job_id} cancelled"
    return "lost", f"lost its job {job.job_id} (killed, or its node: state {job.state})"


def _cancel(jobs: list[Any], cluster: str) -> None:
    """End what still runs; a worker has time to save."""
    for job in jobs:
        if cluster == "slurm":
            job.cancel(check=False)  # SIGTERM, and SIGKILL after SLURM's KillWait
        elif not job.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(
                    int(job.job_id), signal.SIGTERM
                )  # to submitit's controller, which passes it
    end = time.monotonic() + GRACE_S
    while time.monotonic() < end and any(not job.done() for job in jobs):
        time.sleep(POLL_S[cluster])
        if cluster == "slurm":
            jobs[0].watcher.update()
    for job in jobs:
        if cluster == "local" and not job.done():
            job.cancel()


def _last(error: BaseException) -> str:
    """The last line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line.strip("-")), type(error).__name__)
