"""Signals that ask to stop: a fit ends its step, saves, and leaves; a study waits for its fits."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console

TERMINATED = 128 + signal.SIGTERM
"""Exit code of a process that SIGTERM has stopped."""


class Stopped(SystemExit):
    """The process ends as it was asked to, with what it has saved."""

    def __init__(self) -> None:
        super().__init__(TERMINATED)


class StopSignal:
    """Whether SIGTERM has come; a context manager that puts the earlier handler back."""

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> StopSignal:
        self._before = signal.getsignal(signal.SIGTERM)
        self.listen()
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def listen(self) -> None:
        """Take the signal over, also from a library that has taken it since."""
        signal.signal(signal.SIGTERM, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


class Signalled(BaseException):
    """A study was asked to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number

    def requeue(self, console: Console) -> None:
        """Put the SLURM job back into the queue, where its warning signal has stopped it."""
        job = slurm_job()
        if self.number != signal.SIGUSR1 or job is None:
            return
        try:
            done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
            said = done.stderr.strip() if done.returncode else ""
        except OSError as error:
            said = str(error)
        console.print(f"job {job} not requeued: {said}" if said else f"job {job} requeued")


def slurm_job() -> str | None:
    """Id of the SLURM job that this is, as `scontrol` takes it."""
    told = os.environ
    job = told.get("SLURM_ARRAY_JOB_ID", told.get("SLURM_JOB_ID", ""))
    if "SLURM_ARRAY_JOB_ID" in told:
        job += f"_{told.get('SLURM_ARRAY_TASK_ID', '')}"
    return job if re.fullmatch(r"\d+(_\d+)?", job) else None


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise Signalled where SIGTERM comes, or, in a SLURM job, its warning signal SIGUSR1."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Signalled(number)

    numbers = [signal.SIGTERM, *([signal.SIGUSR1] if slurm_job() else [])]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
