"""One study of a sweep: its folder, its database, and as many tickets as trials are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import TrialState
from rich.console import Console

from eramv_lab.data.files import locked
from eramv_lab.errors import LabError, Problem, UserError
from eramv_lab.sweep import records
from eramv_lab.sweep.load import Sweep
from eramv_lab.sweep.store import Tickets, database, give_back, open_storage, readable, ticket_lock
from eramv_lab.train.environment import environment
from eramv_lab.train.files import write_json, write_text
from eramv_lab.train.study import alone


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A study that this process takes part in."""

    leads: bool
    tickets: Tickets
    asked: int
    ended: frozenset[int]
    """Trials that had ended before."""

    def left(self) -> int:
        """Trials that have not ended."""
        return sum(not t.state.is_finished() for t in self.tickets.trials())


class Search:
    """One study of a sweep: its folder, its database, its tickets."""

    def __init__(self, sweep: Sweep, runs: Path, console: Console) -> None:
        self.sweep, self.console = sweep, console
        self.root = runs / sweep.name
        self.url = sweep.settings.storage or database(self.root)
        self.shared = not self.url.startswith("sqlite")
        """Whether processes of other machines may take part."""
        self.track = self.root / ".prepare" / "store" / "track.json"

    def lead(self, held: ExitStack) -> bool:
        """Whether this process leads the study, for as long as `held` lasts: it writes the tickets
        and ends with finals and report. Others may help where the database is a server; a file
        has one leader alone."""
        try:
            held.enter_context(alone(self.root))
        except LabError:
            if self.shared:
                return False
            raise
        return True

    def open(self, more: str | None, held: ExitStack) -> Opened:
        """The study, made where it is missing, with as many tickets as trials are asked for.

        `more`: `40` trials in all, or `+20` more than before; that is for the one who leads to
        decide. Raises UserError where the database holds another search under this name.
        """
        sweep, root = self.sweep, self.root
        with locked(root / "open"):  # who comes second finds all tickets
            leads = self.lead(held)
            storage = open_storage(self.url, sweep.settings.heartbeat)
            with readable(self.url):
                study = optuna.create_study(
                    storage=storage,
                    study_name=root.name,
                    directions=[goal.direction for goal in sweep.goals],
                    sampler=optuna.samplers.RandomSampler(),
                    load_if_exists=True,
                )
                told = study.user_attrs
                if "identity" not in told:
                    study.set_user_attr("reference", records.reference_of(sweep))
                    study.set_user_attr("budget", {one.name: one.said for one in sweep.limits})
                    study.set_user_attr("identity", sweep.identity())
                else:
                    self._same(told["identity"])
                tickets = Tickets(study, sweep.domains, sweep.settings.heartbeat)
                ended = {t.number for t in tickets.trials() if t.state.is_finished()}
                if leads:
                    write_text(root / "sweep.yaml", _yaml(sweep.to_plain()))
                    write_json(root / "env.json", environment())
                    study.set_user_attr("asked", self._asked(told.get("asked", 0), more))
                    with locked(ticket_lock(root)):
                        # all was killed, which is no fault of the trials
                        give_back(tickets, None if self.shared else "", lost=False)
                    self.refill(tickets)
        asked = int(study.user_attrs["asked"])
        return Opened(leads=leads, tickets=tickets, asked=asked, ended=frozenset(ended))

    def _same(self, before: Mapping[str, Any]) -> None:
        """Raise UserError where trials of this sweep and those in the database do not compare."""
        now = self.sweep.identity()
        wrong = [
            Problem(
                message=f"is {now.get(key, 'not there')}, was {before.get(key, 'not there')} when "
                f"{self.root} began; name the file otherwise, or move that folder away",
                file=self.sweep.path,
                key=key,
            )
            for key in dict.fromkeys([*before, *now])
            if before.get(key) != now.get(key)
        ]
        if wrong:
            raise UserError(wrong)

    def _asked(self, before: int, more: str | None) -> int:
        """Trials to finish in all."""
        sweep = self.sweep
        if more is not None and more.startswith("+"):
            asked = (before or sweep.settings.trials) + int(more)
        else:
            asked = int(more) if more else max(before, sweep.settings.trials)
        outside = sum(given.values is None for given in sweep.given)
        if sweep.sampler.type == "grid":
            return len(set(map(sweep.space.identity, sweep.space.points()))) + outside
        points = sweep.space.count()
        if points is not None and asked > points + outside:
            self.say(f"the search has {points} settings, so there are no {asked} trials")
            return points + outside
        return asked

    def refill(self, tickets: Tickets) -> None:
        """Write the tickets that are missing."""
        sweep = self.sweep
        good = [t for t in tickets.trials() if t.state != TrialState.FAIL]
        missing = int(tickets.study.user_attrs["asked"]) - len(good)
        known = {t.user_attrs.get("given") for t in good}
        for given in sweep.given:
            if given.name not in known and missing > 0:
                outside = given.changes if given.values is None else None
                tickets.add(given.values, given=given.name, changes=outside)
                missing -= 1
        if sweep.sampler.type == "grid":
            tried = {sweep.space.identity(v) for t in good if (v := tickets.values(t))}
            tried |= {sweep.space.identity(g.values) for g in sweep.given if g.values}
            for values in sweep.space.points():
                name = sweep.space.identity(values)
                if name not in tried and missing > 0:
                    tickets.add(values)
                    tried.add(name)
                    missing -= 1
        else:
            for _ in range(missing):
                tickets.add()

    def say(self, text: str) -> None:
        """A line for whoever watches."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def _yaml(plain: Any) -> str:
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
