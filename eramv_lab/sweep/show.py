"""A search as it runs: a bar over all trials with the time left, a line for each that ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from optuna.trial import FrozenTrial
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from eramv_lab.sweep.records import state_of
from eramv_lab.sweep.store import TROUBLE, Tickets
from eramv_lab.train.files import read_json
from eramv_lab.train.pool import Job, Running, Watcher
from eramv_lab.train.show import clock, fit_row, row_line, state_line, time_left

EVERY_S = 1.0
ENDED = ("complete", "pruned", "failed", "infeasible", "interrupted")


class SearchShow(Watcher):
    """Tells of a search on the terminal; plain lines where there is none."""

    def __init__(
        self,
        tickets: Tickets,
        root: Path,
        asked: int,
        console: Console,
        note: Callable[[], object] = lambda: None,
    ) -> None:
        self.tickets, self.root, self.asked, self.console = tickets, root, asked, console
        self.note = note
        """Called whenever trials have ended."""
        self.known = {t.number for t in tickets.trials() if state_of(t) in ENDED}
        self.before = sum(state_of(t) in ("complete", "pruned") for t in tickets.trials())
        self.began = time.monotonic()
        self._looked = 0.0
        self._live = Live(console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> SearchShow:
        if self.console.is_terminal:
            self._live.start()
        earlier = f", {self.before} of them before" if self.before else ""
        self.say(f"{self.asked} trials{earlier}; the result will be in {self.root}/")
        self.say(f"{'trial':<34} {'state':<11} {'accuracy':>8} {'MFLOPs':>9} {'seconds':>7}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.look()
        if self._live.is_started:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(Text(text), soft_wrap=True)

    def restarted(self, job: Job, code: int | None) -> None:
        """A worker was lost and is back; its trial goes on."""
        self.say(f"worker {job.key} was lost (exit code {code}) and is started again")

    def tick(self, running: Sequence[Running]) -> None:
        """Look at the database once a second."""
        if time.monotonic() - self._looked >= EVERY_S:
            with suppress(*TROUBLE):  # the next look may come through
                self.look()
            self._looked = time.monotonic()

    def look(self) -> None:
        """Say what has ended, draw what runs."""
        trials = self.tickets.trials()
        ended = [t for t in trials if t.number not in self.known and state_of(t) in ENDED]
        for trial in ended:
            self.known.add(trial.number)
            self.say(line_of(trial))
        if ended:
            self.note()
        if self._live.is_started:
            self._live.update(self.draw(trials))

    def draw(self, trials: Sequence[FrozenTrial]) -> Group:
        """The bar and the running trials."""
        done = sum(state_of(t) in ("complete", "pruned") for t in trials)
        running = [t for t in trials if state_of(t) == "running"]
        states = [
            read_json(self.root / t.user_attrs.get("folder", "-") / "progress.json") or {}
            for t in running
        ]
        share = done - self.before + sum(s.get("done", 0.0) for s in states)
        left = time_left(share, self.asked - self.before, self.began)
        head = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(self.asked, 1), completed=share + self.before, width=30)
        head.add_row("trials", bar, f"{done}/{self.asked}", f"{left} left" if left else "")
        lines = Table.grid(padding=(0, 1))
        for trial, state in zip(running, states, strict=True):
            bar = ProgressBar(total=1.0, completed=state.get("done", 0.0), width=20)
            lines.add_row("  " + label(trial), bar, state_line(state))
        return Group(head, lines, Text(clock(time.monotonic() - self.began)))


class FitsShow(Watcher):
    """Tells of known fits as they end: a row each, as `fit` has it."""

    def __init__(self, folders: Mapping[str, Path], console: Console) -> None:
        self.folders, self.console = dict(folders), console
        """Folders by label."""
        self.width = max([6, *map(len, folders)])
        self.began = time.monotonic()
        self._looked = 0.0

    def __enter__(self) -> FitsShow:
        self.say(row_line(self.width, "fit", "accuracy", "MFLOPs", "seconds"))
        return self

    def __exit__(self, *error: object) -> None:
        self.look()

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(Text(text), soft_wrap=True)

    def restarted(self, job: Job, code: int | None) -> None:
        """A worker was lost and is back."""
        self.say(f"worker {job.key} was lost (exit code {code}) and is started again")

    def tick(self, running: Sequence[Running]) -> None:
        """Look at the folders once a second."""
        if time.monotonic() - self._looked >= EVERY_S:
            self._looked = time.monotonic()
            self.look()

    def look(self) -> None:
        """The row of each fit that has ended since, or where to read why there is none."""
        for name, folder in list(self.folders.items()):
            result = read_json(folder / "result.json")
            if result is not None:
                seconds = float(result["row"]["seconds"])
                self.say(fit_row(name, folder, self.width, seconds))
            elif (folder / "error.txt").exists():
                self.say(f"{name:<{self.width}}  failed: {folder / 'error.txt'}")
            else:
                continue
            del self.folders[name]


def label(trial: FrozenTrial) -> str:
    """The trial's label, its number before it has one."""
    return str(trial.user_attrs.get("label", f"t{trial.number:03}"))


def line_of(trial: FrozenTrial) -> str:
    """Label, state, accuracy, MFLOPs, seconds of a trial that has ended."""
    told = trial.user_attrs
    row = told.get("row", {})
    accuracy = f"{row['accuracy']:.3f}" if "accuracy" in row else "-"
    flops = f"{told['costs']['prefill'] / 1e6:,.1f}" if "costs" in told else "-"
    seconds = f"{trial.duration.total_seconds():.0f}" if trial.duration else "-"
    state = state_of(trial)
    line = f"{label(trial):<34} {state:<11} {accuracy:>8} {flops:>9} {seconds:>7}"
    return f"{line}  {told['error']}" if state == "failed" and "error" in told else line
