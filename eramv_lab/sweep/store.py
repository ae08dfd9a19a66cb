"""The study in Optuna's database: tickets that workers take, who holds them, what came of them.

A ticket is a WAITING trial. The parent writes as many as there are trials to finish, so that
workers, however many and wherever, finish exactly that number. A trial whose worker is gone is
closed and lives on as a new ticket with the same parameters; its fit goes on from its checkpoint.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import DBAPIError

from eramv_lab.errors import LabError
from eramv_lab.sweep.config import Heartbeat
from eramv_lab.sweep.domains import Choices, Domain
from eramv_lab.sweep.space import Values

LIVES = 3
"""Times that a trial is begun again after its worker was lost, before it counts as failed."""
PATIENCE_S = 60
"""Time that a locked database file is waited for."""
OPEN = (TrialState.WAITING, TrialState.RUNNING)
TROUBLE = (StorageInternalError, DBAPIError)
"""What a database that is locked, broken or away raises."""
VOID = "void"
"""User attribute of a ticket that nothing was left to try for."""
SETTLED = "settled"
"""User attribute of a trial whose setting is written down."""


def database(study_dir: Path) -> str:
    """Address of the database of a study that names no other."""
    return f"sqlite:///{(study_dir / 'search.db').resolve()}"


def ticket_lock(study_dir: Path) -> Path:
    """What `locked` takes while tickets of a study change hands."""
    return study_dir / "ticket"


def open_storage(url: str, heartbeat: Heartbeat) -> RDBStorage:
    """The database, its tables made where they are missing: the parent calls this first."""
    logging.getLogger("optuna").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    file = url.startswith("sqlite")
    try:
        with readable(url):
            return RDBStorage(
                url,
                engine_kwargs={"connect_args": {"timeout": PATIENCE_S}} if file else {},
                heartbeat_interval=heartbeat.every,
                grace_period=heartbeat.grace,
                heartbeat_stale_trial_callback=_again,
            )
    except RuntimeError as error:  # of another version of Optuna
        raise LabError(f"{place(url)}: {error}") from error


@contextmanager
def readable(url: str) -> Iterator[None]:
    """Turn what a database cannot do into one message."""
    try:
        yield
    except TROUBLE as error:
        said = str(error.__cause__ or error).split("\n", 1)[0]
        if "locked" in str(error) + said:
            said = f"another program has locked it for {PATIENCE_S} s; end that one first"
        raise LabError(f"{place(url)}: {said}") from error


def place(url: str) -> str:
    """Where a database is, for a reader: the file, or the address without its password."""
    return url.partition("///")[2] if url.startswith("sqlite") else public(url)


def public(url: str) -> str:
    """An address without its password."""
    head, at, host = url.rpartition("@")
    scheme, slashes, who = head.partition("://")
    return f"{scheme}{slashes}{who.partition(':')[0]}{at}{host}"


def distribution(domain: Domain) -> BaseDistribution:
    """What Optuna stores of a domain."""
    if isinstance(domain, Choices):
        return CategoricalDistribution(domain.words)
    if domain.whole:
        low, high, step = int(domain.low), int(domain.high), int(domain.step or 1)
        return IntDistribution(low, low + (high - low) // step * step, step=step, log=domain.log)
    return FloatDistribution(domain.low, domain.high, step=domain.step, log=domain.log)


class Tickets:
    """The trials of a study, taken one by one."""

    def __init__(
        self, study: optuna.Study, domains: Mapping[str, Domain], heartbeat: Heartbeat
    ) -> None:
        self.study, self.domains, self.heartbeat = study, domains, heartbeat
        self.storage = study._storage

    def trials(self) -> list[FrozenTrial]:
        """All trials, as they are now."""
        return self.study.get_trials(deepcopy=False)

    def add(self, values: Values | None = None, **told: Any) -> None:
        """A new ticket: for a setting that is known, or for one that the sampler will choose."""
        stored = None if values is None else self._stored(values)
        ticket = create_trial(
            state=TrialState.WAITING,
            params=stored,
            distributions=stored and {key: distribution(self.domains[key]) for key in stored},
            user_attrs={k: v for k, v in told.items() if v is not None},
        )
        if stored is not None:
            ticket.set_user_attr(SETTLED, True)
        self.study.add_trial(ticket)

    def take(self, worker: str) -> FrozenTrial | None:
        """The next ticket, now this worker's: one that was cut off first. Call it under
        `ticket_lock`, since SQLite lets two processes take the same one."""
        waiting = [t for t in self.trials() if t.state == TrialState.WAITING]
        for trial in sorted(waiting, key=lambda t: ("first" not in t.user_attrs, t.number)):
            with suppress(UpdateFinishedTrialError):
                self.beat(trial)  # first: one without a sign of life is never found to be stale
                if self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                    self.tell(trial, worker=worker)
                    return self.storage.get_trial(trial._trial_id)
        return None

    def settle(self, trial: FrozenTrial, values: Values) -> None:
        """Write the setting that was chosen for a ticket."""
        for key, value in self._stored(values).items():
            if key not in trial.params:
                kind = distribution(self.domains[key])
                inside = kind.to_internal_repr(value)
                self.storage.set_trial_param(trial._trial_id, key, inside, kind)
        self.tell(trial, **{SETTLED: True})

    def tell(self, trial: FrozenTrial, **told: Any) -> None:
        """Note something of a trial."""
        for key, value in told.items():
            self.storage.set_trial_user_attr(trial._trial_id, key, value)

    def constrain(self, trial: FrozenTrial, excess: Mapping[str, float]) -> None:
        """Optuna's constraints: by how much each limit is passed, at most 0 where it is kept."""
        handle = optuna.trial.Trial(self.study, trial._trial_id)
        for name, value in excess.items():
            if name not in trial.constraints:
                handle.set_constraint(name, value)

    def close(
        self, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """End a trial; False where another worker was given it in the meantime."""
        try:
            self.study.tell(trial.number, list(values) if values else None, state)
        except (ValueError, UpdateFinishedTrialError):
            return False
        return True

    def values(self, trial: FrozenTrial) -> Values | None:
        """The setting of a trial; None where it has none, or lies outside the space."""
        if not self.domains.keys() <= trial.params.keys():
            return None
        found: Values = {}
        for key, domain in self.domains.items():
            value = trial.params[key]
            if isinstance(domain, Choices):
                value = domain.values[domain.words.index(value)]
            found[key] = value
        return found

    def _stored(self, values: Values) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, domain in self.domains.items():
            value = values[key]
            if isinstance(domain, Choices):
                value = domain.words[domain.values.index(value)]
            found[key] = value
        return found

    def beat(self, trial: FrozenTrial) -> None:
        """A sign of life of a trial."""
        self.storage.record_heartbeat(trial._trial_id)  # type: ignore[attr-defined]

    @contextmanager
    def beating(self, trial: FrozenTrial) -> Iterator[None]:
        """Signs of life of a running trial."""
        over = threading.Event()

        def beat() -> None:
            while True:
                with suppress(*TROUBLE):  # the next one may come through
                    self.beat(trial)
                if over.wait(self.heartbeat.every):
                    return

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def cut_off(trial: FrozenTrial) -> bool:
    """Whether a trial ended without a word: a failed one says its error first. One that was cut
    off lives on as a later trial with the same `first`."""
    return trial.state == TrialState.FAIL and "error" not in trial.user_attrs


def first_of(trial: FrozenTrial) -> int:
    """The number of the trial that this one has been from the beginning."""
    return int(trial.user_attrs.get("first", trial.number))


def give_back(tickets: Tickets, of: str | None = None, *, lost: bool = True) -> None:
    """Let trials live on whose worker is gone. Call it under `ticket_lock`.

    `of`: whose trials are known to be no one's: `crew/`, `crew/worker/`, or "" for all; what others
    hold is taken from them when they give no sign of life any more. `lost`: the workers were
    lost, not stopped, which costs a life.
    """
    study = tickets.study
    for trial in tickets.trials() if of is not None else ():
        mine = f"{trial.user_attrs.get('worker', '')}/".startswith(of or "")
        if trial.state == TrialState.RUNNING and mine:
            with suppress(UpdateFinishedTrialError):
                if study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL):
                    _again(study, trial, lost=lost)
    fail_stale_trials(study)  # calls `_again`
    newest = {first_of(trial): trial.number for trial in tickets.trials()}
    for trial in tickets.trials():  # whoever closed one may have been killed before it went on
        if cut_off(trial) and newest[first_of(trial)] == trial.number:
            _again(study, trial, lost=lost)


def _again(study: optuna.Study, trial: FrozenTrial, *, lost: bool = True) -> None:
    """The next life of a trial that was closed: a ticket, or its failure after too many lives.

    One that had only to be closed has none.
    """
    if not {"error", VOID}.isdisjoint(trial.user_attrs):
        return
    told = {k: v for k, v in trial.user_attrs.items() if k != "worker"}
    settled = SETTLED in told  # otherwise it was cut off while its setting was written
    spent = int(told.get("lives", 0)) + lost
    told |= {"lives": spent, "first": first_of(trial)}
    over = spent > LIVES
    if over:
        told["error"] = f"its worker was lost {spent} times"
    study.add_trial(
        create_trial(
            state=TrialState.FAIL if over else TrialState.WAITING,
            params=trial.params if settled else None,
            distributions=trial.distributions if settled else None,
            user_attrs=told,
            intermediate_values=trial.intermediate_values,
            constraints=dict(trial.constraints),
        )
    )
