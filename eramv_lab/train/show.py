"""A study as it runs: one bar over all fits with the time left, a line per job, a row per fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from eramv_lab.train.files import read_json
from eramv_lab.train.pool import Job, Outcome, Running, Watcher

EVERY_S = 0.5
PHASES = {"data": "drawing the data", "base": "training the base", "features": "vision features"}


class Show(Watcher):
    """Tells of a study's jobs on the terminal; plain lines where there is none."""

    def __init__(self, labels: Mapping[str, str], skipped: int, console: Console | None = None):
        self.labels = labels
        """Names of the fits by the keys of their jobs."""
        self.skipped = skipped
        self.console = console or Console()
        self.done = 0
        self.fits_began: float | None = None
        self._ticked = 0.0
        self._width = max([6, *(len(label) for label in labels.values())])
        self._live: Live | None = None
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Show:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(Text(text), soft_wrap=True)

    def started(self, running: Running) -> None:
        """Say so where there is no bar to show it."""
        if running.job.kind == "fit" and self.fits_began is None:
            self.fits_began = time.monotonic()
            self.say(row_line(self._width, "fit", "accuracy", "MFLOPs", "seconds"))
        if self._live is None and running.job.kind in PHASES:
            self.say(f"{PHASES[running.job.kind]} ...")

    def ended(self, job: Job, outcome: Outcome, seconds: float) -> None:
        """The row of a fit, or where to read why there is none."""
        label = self.labels.get(job.key, job.key)
        if job.kind == "fit":
            self.done += 1
        if outcome == "failed":
            self.say(f"{label:<{self._width}}  failed: {job.folder / 'error.txt'}")
        elif outcome == "blocked":
            self.say(f"{label:<{self._width}}  not run: what it needs has failed")
        elif job.kind == "fit":
            self.say(fit_row(label, job.folder, self._width, seconds))
        elif job.kind in PHASES and (self._live is None or seconds > 5):
            self.say(f"{PHASES[job.kind]}: {seconds:.0f} s")

    def tick(self, running: Sequence[Running]) -> None:
        """Draw the bar and the lines."""
        if self._live is None or time.monotonic() - self._ticked < EVERY_S:
            return
        self._ticked = time.monotonic()
        self._live.update(self.draw(running))

    def draw(self, running: Sequence[Running]) -> Group:
        """What the terminal shows now."""
        total = len(self.labels)
        states = [(item, item.job.progress()) for item in running]
        done = self.done + sum(s.get("done", 0.0) for r, s in states if r.job.kind == "fit")
        head = Table.grid(padding=(0, 1))
        left = time_left(done, total, self.fits_began)
        earlier = f", {self.skipped} done before" if self.skipped else ""
        head.add_row(
            "fits",
            ProgressBar(total=max(total, 1), completed=done, width=30),
            f"{self.done}/{total}{earlier}",
            f"{left} left" if left else "",
        )
        lines = Table.grid(padding=(0, 1))
        for item, state in states:
            name = PHASES.get(item.job.kind) or self.labels.get(item.job.key, item.job.key)
            bar = ProgressBar(total=1.0, completed=state.get("done", 0.0), width=20)
            lines.add_row("  " + name, bar, state_line(state), clock(time.monotonic() - item.began))
        return Group(head, lines)


def time_left(done: float, total: int, began: float | None) -> str:
    """The time that the fits still need, from how long the finished share took; "" if unknown."""
    if began is None or done < 0.02:
        return ""
    return clock((time.monotonic() - began) * (total - done) / done)


def fit_row(label: str, folder: Path, width: int, seconds: float) -> str:
    """Label, accuracy, MFLOPs of a prefill, seconds of a finished fit."""
    row: Mapping[str, Any] = (read_json(folder / "result.json") or {}).get("row", {})

    def cell(key: str, form: Callable[[float], str]) -> str:
        value = row.get(key)
        return form(value) if isinstance(value, int | float) else "-"

    return row_line(
        width,
        label,
        cell("accuracy", lambda v: f"{v:.3f}"),
        cell("prefill_tflops", lambda v: f"{v * 1e6:,.1f}"),
        f"{seconds:.0f}",
    )


def row_line(width: int, label: str, accuracy: str, flops: str, seconds: str) -> str:
    """The columns of a fit's line."""
    return f"{label:<{width}}  {accuracy:>8}  {flops:>12}  {seconds:>7}"


def state_line(state: Mapping[str, Any]) -> str:
    """What a fit says of itself, in words."""
    if state.get("phase") != "train":
        return str(state.get("phase", "start"))
    loss = f"  loss {state['loss']:.3f}" if "loss" in state else f"  {state.get('text', '')}"
    return f"step {state.get('step', 0)}/{state.get('steps', '?')}{loss}"


def clock(seconds: float) -> str:
    """Seconds as a clock shows them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
