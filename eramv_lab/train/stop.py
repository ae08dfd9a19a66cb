"""A signal that asks a fit to stop: it goes on to the end of its step, saves, and leaves."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

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
