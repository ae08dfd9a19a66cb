"""Signals that ask to stop: a fit ends its step, saves, and leaves; a study waits for its fits."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""Exit codes of a process that Ctrl-C or SIGTERM has stopped."""


class Stopped(SystemExit):
    """The process ends as it was asked to, with what it has saved."""

    def __init__(self, number: int = signal.SIGTERM) -> None:
        super().__init__(INTERRUPTED if number == signal.SIGINT else TERMINATED)
        self.number = number
        """The signal that asked."""


class StopSignal:
    """Which signal has asked to stop, 0 for none; puts the earlier handlers back at its end.

    A process of a pool hears SIGTERM alone, its parent answers the others. One that torchrun or
    srun has started hears them all itself. Off the main thread, where Python lets nobody listen,
    it hears nothing.
    """

    def __init__(self) -> None:
        self.asked = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        self._before = {number: signal.getsignal(number) for number in self._heard()}
        self.listen()
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals over, also from a library that has taken them since."""
        for number in self._before:
            signal.signal(number, self._note)

    def _heard(self) -> list[int]:
        if threading.current_thread() is not threading.main_thread():
            return []
        own = signal.getsignal(signal.SIGUSR1) != signal.SIG_IGN
        return [signal.SIGINT, *stop_signals()] if own else [signal.SIGTERM]

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = number


class Signalled(BaseException):
    """A study was asked to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


STOPS = (KeyboardInterrupt, Signalled, Stopped)
"""How a study hears that it is to stop."""


def ended_by(stop: BaseException, console: Console) -> int:
    """The exit code of what one of `STOPS` has ended; says that the same command goes on."""
    number = getattr(stop, "number", signal.SIGINT)
    said = "stopped; the same command goes on with what is not finished"
    if not isinstance(stop, KeyboardInterrupt):
        said = f"stopped by {signal.Signals(number).name}; the same command goes on"
    console.print(said, soft_wrap=True)
    requeue(number, console)
    return INTERRUPTED if number == signal.SIGINT else TERMINATED


def stop_signals() -> list[int]:
    """Signals that ask to stop: SIGTERM, and in a SLURM job its warning signal SIGUSR1."""
    return [signal.SIGTERM, *([signal.SIGUSR1] if slurm_job() else [])]


def requeue(number: int, console: Console) -> None:
    """Put the SLURM job back into the queue, where `number` is its warning signal."""
    job = slurm_job()
    if number != signal.SIGUSR1 or job is None:
        return
    try:
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
        said = done.stderr.strip() if done.returncode else ""
    except OSError as error:
        said = str(error)
    text = f"job {job} not requeued: {said}" if said else f"job {job} requeued"
    console.print(text, markup=False, highlight=False)


def slurm_job() -> str | None:
    """Id of the SLURM job that this is, as `scontrol` takes it."""
    told = os.environ
    job = told.get("SLURM_ARRAY_JOB_ID", told.get("SLURM_JOB_ID", ""))
    if "SLURM_ARRAY_JOB_ID" in told:
        job += f"_{told.get('SLURM_ARRAY_TASK_ID', '')}"
    return job if re.fullmatch(r"\d+(_\d+)?", job) else None


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise Signalled where a signal asks to stop."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Signalled(number)

    before = {number: signal.signal(number, stop) for number in stop_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
