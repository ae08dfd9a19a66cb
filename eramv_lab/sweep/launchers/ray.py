"""`ray`: workers as tasks of a Ray cluster, or of a Ray that is started here."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from eramv_lab.errors import LabError, Problem, UserError
from eramv_lab.recipe.schema import Whole
from eramv_lab.sweep.launch import LAUNCHERS, LauncherConfig, Work, engine
from eramv_lab.sweep.launchers.handover import Follow, HandOver, hand_over
from eramv_lab.train.pool import GRACE_S, Job, Outcome
from eramv_lab.train.stop import Stopped

POLL_S = 0.5
KNOCK_S = 10.0


@dataclass(frozen=True, kw_only=True)
class RayConfig(LauncherConfig):
    """Tasks of a Ray cluster, one a worker."""

    address: str | None = None
    """Of the cluster, or `auto`; without it and without RAY_ADDRESS a Ray is started here."""
    num_gpus: Whole | None = None
    """GPUs of a worker; by default as many as a fit takes on this machine."""
    runtime_env: Mapping[str, Any] = field(default_factory=dict)
    """Passed to `ray.init`: what other machines need (`pip`, `env_vars`, ...)."""


@LAUNCHERS.register("ray", RayConfig)
def run(settings: RayConfig, work: Work) -> dict[str, Outcome]:
    """How each worker ended, by its key. Ray starts one that was killed again by itself."""
    ray = engine("ray", "ray")
    joined = not ray.is_initialized()
    if joined:
        _join(ray, settings)
    gpus = work.gpus_each if settings.num_gpus is None else settings.num_gpus
    try:
        if _starts_here(settings) and joined:
            _check_room(ray, work.threads, gpus)
        task = ray.remote(
            num_cpus=work.threads, num_gpus=gpus, max_retries=settings.lives, max_calls=1
        )(run_worker)
        follow = Follow(work)
        tasks = {task.remote(hand_over(job, work)): job for job in work.jobs}
        try:
            _wait(ray, tasks, follow)
        finally:
            with contextlib.suppress(ray.exceptions.RayError):  # whose connection is lost
                _cancel(ray, list(tasks))
        return follow.outcomes
    finally:
        if joined:
            ray.shutdown()


def run_worker(over: HandOver) -> None:
    """The task. Ray runs it on the main thread of its process, so that it hears signals."""
    try:
        over()
    except Stopped as stopped:
        if stopped.number != signal.SIGINT:  # of a machine that goes down: Ray starts it elsewhere
            raise
        # SIGINT is ray.cancel: the sweep stops


def _starts_here(settings: RayConfig) -> bool:
    return settings.address is None and "RAY_ADDRESS" not in os.environ


def _join(ray: ModuleType, settings: RayConfig) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    more: dict[str, Any] = {"include_dashboard": False} if _starts_here(settings) else {}
    if settings.runtime_env:
        more["runtime_env"] = dict(settings.runtime_env)
    where = settings.address or os.environ.get("RAY_ADDRESS")
    before = signal.getsignal(signal.SIGTERM)
    try:
        if where:
            _knock(where)
        ray.init(address=settings.address, log_to_driver=False, logging_level="error", **more)
    except (OSError, ValueError, RuntimeError) as error:
        said = f"there is no Ray at {where}" if where else "Ray does not start here"
        raise UserError(Problem(message=f"{said}: {error}", key="launcher.address")) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray has taken it, and would exit


def _knock(address: str) -> None:
    """Ray itself would try for minutes. Raises OSError where nobody listens at host:port."""
    found = re.fullmatch(r"(?:ray://)?\[?([^/\]]+?)\]?:(\d+)", address)
    if found:
        socket.create_connection((found[1], int(found[2])), timeout=KNOCK_S).close()


def _check_room(ray: ModuleType, threads: int, gpus: int) -> None:
    """A worker that fits nowhere would wait for ever."""
    have = ray.cluster_resources()
    for name, asked in (("CPU", threads), ("GPU", gpus)):
        if have.get(name, 0) < asked:
            found = int(have.get(name, 0))
            raise UserError(f"a worker asks Ray for {asked} {name}, this machine has {found}")


def _wait(ray: ModuleType, tasks: dict[Any, Job], follow: Follow) -> None:
    """Until no task is left; those that have ended leave `tasks`."""
    while tasks:
        try:
            ended, _ = ray.wait(list(tasks), timeout=POLL_S)
        except ray.exceptions.RayError as error:
            raise LabError(f"the connection to Ray was lost: {error}") from error
        for ref in ended:
            job = tasks.pop(ref)
            try:
                ray.get(ref)
            except ray.exceptions.RayError as error:
                said = str(error).strip().splitlines() or [""]
                follow.end(job, "failed", f"ended with {type(error).__name__}: {said[0]}")
            else:
                follow.end(job, "done")
        follow.look()


def _cancel(ray: ModuleType, refs: list[Any]) -> None:
    """End what still runs; a worker has time to save.

    Ray's interrupt is heard between two lines of Python: it wakes nobody from a long sleep.
    """
    if not refs:
        return
    for ref in refs:
        ray.cancel(ref, recursive=False)
    _, left = ray.wait(refs, num_returns=len(refs), timeout=GRACE_S)
    for ref in left:
        ray.cancel(ref, force=True, recursive=False)
