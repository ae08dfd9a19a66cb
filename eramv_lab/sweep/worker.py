"""A worker: takes tickets, prices what they ask for, fits it in this process, tells Optuna.

Every worker of a sweep is the same function, wherever an engine has started it. It imports and
opens everything once, and is used for trial after trial; whoever starts it again after a crash
loses nothing but the steps since the last checkpoint.
"""

from __future__ import annotations

import gc
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial

from eramv_lab.data.files import locked
from eramv_lab.sweep.load import Sweep, load_sweep
from eramv_lab.sweep.propose import learnt_of, propose
from eramv_lab.sweep.samplers import make_sampler
from eramv_lab.sweep.space import Values
from eramv_lab.sweep.store import (
    VOID,
    Tickets,
    cut_off,
    give_back,
    open_storage,
    readable,
    ticket_lock,
)
from eramv_lab.sweep.trial import Fitter
from eramv_lab.train.pool import PRELOAD as FIT_PRELOAD
from eramv_lab.train.stop import Stopped

PRELOAD = (*FIT_PRELOAD, "eramv_lab.sweep.worker")
"""What every worker imports."""


def work(worker: str, crew: str, study_dir: str, url: str, track: str | None = None) -> None:
    """Finish trials of a study until no ticket is left.

    Args:
        worker: its name among those of its parent.
        crew: the parent's name, unique in the study.
        study_dir: the study's folder, which holds the sweep that the parent wrote.
        url: address of the database.
        track: a file that names the study's MLflow run, if any.
    """
    Worker(f"{crew}/{worker}", Path(study_dir), url, track).run()


@dataclass
class Worker:
    """What a worker keeps between trials."""

    name: str
    root: Path
    url: str
    track: str | None
    sweep: Sweep = field(init=False)
    tickets: Tickets = field(init=False)

    def __post_init__(self) -> None:
        self.sweep = load_sweep(self.root / "sweep.yaml")
        self.tickets = open_tickets(self.sweep, self.root.name, self.url)
        told = {"root": self.root, "url": self.url, "track": self.track}
        self.fitter = Fitter(sweep=self.sweep, tickets=self.tickets, **told)

    def run(self) -> None:
        """Trial after trial; what an earlier life of this worker held is taken up first."""
        gc.freeze()  # what is imported stays: it is not looked through again after each trial
        with readable(self.url):
            self.give_back()
            try:
                while self.one():
                    pass
            except Stopped:
                self.give_back(lost=False)
                raise

    def one(self) -> bool:
        """One trial; False where no ticket is left."""
        began = time.perf_counter()
        with locked(ticket_lock(self.root)):
            give_back(self.tickets)
            trial = self.tickets.take(self.name)
            values = trial and self.choose(trial)
        if trial is not None:
            # one that was thought to be lost and is another worker's now is left to that one
            with suppress(UpdateFinishedTrialError), self.tickets.beating(trial):
                self.fitter.one(trial, values, began)
        return trial is not None

    def give_back(self, *, lost: bool = True) -> None:
        """Let the trial live on that this worker still holds."""
        with locked(ticket_lock(self.root)):
            give_back(self.tickets, f"{self.name}/", lost=lost)

    def choose(self, trial: FrozenTrial) -> Values | None:
        """The setting of a ticket, written down; None where it lies outside the space."""
        known = self.tickets.values(trial)
        if known is not None or "changes" in trial.user_attrs:
            return known
        sweep = self.sweep
        others = [t for t in self.tickets.trials() if t.number != trial.number]
        settings = [v for t in others if not cut_off(t) and (v := self.tickets.values(t))]
        number = sweep.seeds[0] * 100_003 + trial.number
        values = propose(
            learnt_of(others, self.tickets.values),
            {sweep.space.identity(v) for v in settings},
            sweep.space,
            sweep.goals,
            make_sampler(sweep.sampler, sweep.settings.trials, number),
            number,
        )
        if values is not None:
            self.tickets.settle(trial, values)
        else:  # all is tried: there are as many trials as settings
            self.tickets.tell(trial, **{VOID: "nothing new is left to try"})
            asked = int(self.tickets.study.user_attrs["asked"])
            self.tickets.study.set_user_attr("asked", asked - 1)
        return values


def open_tickets(sweep: Sweep, study: str, url: str) -> Tickets:
    """The tickets of a study that the parent has made."""
    heartbeat = sweep.settings.heartbeat
    storage = open_storage(url, heartbeat)
    with readable(url):
        loaded = optuna.load_study(
            study_name=study, storage=storage, sampler=optuna.samplers.RandomSampler()
        )
    return Tickets(loaded, sweep.domains, heartbeat)
