"""A sweep from its file to its report: tickets, workers, finals; the same call again goes on.

The parent is light: what needs torch's training, Lightning or MLflow happens in other processes.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from optuna.trial import TrialState
from rich.console import Console

from eramv_lab.data.files import locked
from eramv_lab.errors import LabError, Problem, UserError
from eramv_lab.sweep import records
from eramv_lab.sweep.conclude import conclude
from eramv_lab.sweep.launch import LauncherConfig, launch, parse_launcher
from eramv_lab.sweep.load import Sweep
from eramv_lab.sweep.show import SearchShow
from eramv_lab.sweep.store import Tickets, give_back, readable, ticket_lock
from eramv_lab.sweep.study import Opened, Search
from eramv_lab.sweep.worker import PRELOAD
from eramv_lab.train.around import shared_jobs
from eramv_lab.train.plan import Fit, fit_of
from eramv_lab.train.pool import Watcher, reason, run_jobs
from eramv_lab.train.stop import STOPS, ended_by, stoppable
from eramv_lab.train.study import width_of

WORK = "eramv_lab.sweep.worker:work"
ROUNDS = 3
"""Times that workers are started anew for trials that their last ones have left."""
POLL_S = 2.0


def trials_of(text: str | None) -> str | None:
    """`40` or `+20`. Raises UserError for anything else."""
    if text is not None and not re.fullmatch(r"\+?[1-9]\d{0,5}", text):
        message = f"expected a number of trials, or +N for so many more, found {text!r}"
        raise UserError(Problem(message=message, key="--trials"))
    return text


def launcher_of(sweep: Sweep, name: str | None) -> LauncherConfig:
    """What starts the workers: the file's `launcher`, or the one called `name`."""
    written = sweep.launcher
    if name is not None:
        same = isinstance(written, Mapping) and written.get("type") == name
        written = written if same else name
    problems: list[Problem] = []
    found = parse_launcher(written, "launcher", problems)
    if found is None:
        raise UserError(problems)
    return found


def run_sweep(
    sweep: Sweep,
    launcher: LauncherConfig,
    *,
    workers: int | None = None,
    more: str | None = None,
    runs: Path = Path("runs"),
    preload: Sequence[str] = PRELOAD,
    console: Console | None = None,
) -> int:
    """Search, then fit the finals, and print the report.

    Args:
        workers: trials side by side; default: one per GPU, or per `trainer.threads` cores.
        more: trials in all (`40`), or so many more than before (`+20`); default: the file's.

    Returns 0, 1 where a trial or a final fit failed, 130 after Ctrl-C, 143 after SIGTERM. Raises
    UserError, LabError, InfeasibleError before anything is written.
    """
    search = Search(sweep, runs, console or Console())
    with ExitStack() as held:
        try:
            with stoppable(), readable(search.url):
                opened = search.open(more, held)
                if not opened.leads:
                    search.say("another process leads this study; this one helps")
                code = _search(search, opened, launcher, workers, preload)
                if not opened.leads and search.lead(held):  # who led has left
                    opened = search.open(None, held)
                    code = _search(search, opened, launcher, workers, preload)
                if opened.leads:
                    return max(code, conclude(search, launcher, workers))
                said = "the search is done; another process writes its report in"
                search.say(f"{said} {search.root}/")
                return code
        except STOPS as stop:
            return ended_by(stop, search.console)


def _search(
    search: Search,
    opened: Opened,
    launcher: LauncherConfig,
    workers: int | None,
    preload: Sequence[str],
) -> int:
    """Workers until every ticket is done."""
    sweep, root, tickets = search.sweep, search.root, opened.tickets
    if not opened.left():
        search.say(f"all {opened.asked} trials were done before")
        return 0
    began = time.monotonic()
    around = [fit_of(sweep.arm("around", {}), sweep.seeds[0], root.name, root / "trials")]
    width, threads, gpus = width_of([fit.arm for fit in around], workers)
    settings: dict[str, Any] = {"threads": threads, "gpus": gpus, "preload": preload}
    crew = f"{socket.gethostname()}-{os.getpid()}"
    told = {"study_dir": str(root), "url": search.url, "crew": crew}

    def note() -> None:  # so that `compare` can look at a search that runs
        if opened.leads:
            records.write_records(root, sweep, tickets, quick=True)

    with SearchShow(tickets, root, opened.asked, search.console, note) as show:
        _prepare(search, around, width, show, settings)
        told |= {"track": str(search.track) if search.track.exists() else None}
        mine = f"{crew}/" if search.shared else ""  # of a file all workers are ours
        try:
            for _ in range(ROUNDS):
                ends = launch(
                    launcher,
                    WORK,
                    told,
                    workers=max(1, min(width, opened.left())),
                    root=root if opened.leads else root / "helpers" / crew,
                    watcher=show,
                    **settings,
                )
                for end in ends:
                    if end.error:
                        search.say(f"worker {end.name} failed: {end.error}; see {end.folder}/")
                _drain(search, opened, show, mine)
                if not opened.left() or not opened.leads:
                    break
        except STOPS:
            with suppress(LabError), readable(search.url), locked(ticket_lock(root)):
                give_back(tickets, mine, lost=False)  # of workers that could not do so themselves
            raise
        finally:
            if opened.leads:
                with suppress(LabError):
                    _spent(search, tickets, time.monotonic() - began)
    return _ended(search, opened)


def _prepare(
    search: Search, around: Sequence[Fit], width: int, show: Watcher, settings: Mapping[str, Any]
) -> None:
    """What trials share. Raises LabError where it cannot be made."""
    jobs, _ = shared_jobs(search.sweep.recipe, search.root, around, width, kind="sweep")
    outcomes = run_jobs(jobs, workers=width, watcher=show, **settings)
    failed = [job for job in jobs if outcomes[job.key] == "failed" and job.key != "store"]
    if failed:
        lines = [f"{job.key} failed: {reason(job)}; see {job.folder}/" for job in failed]
        raise LabError("\n".join(lines))
    if not search.track.exists():
        search.say(f"MLflow does not follow this study, see {search.track.parent}/log.txt")


def _drain(search: Search, opened: Opened, show: Watcher, mine: str) -> None:
    """Take back what our workers have left; who leads waits for those of other machines."""
    while True:
        with locked(ticket_lock(search.root)):
            give_back(opened.tickets, mine)
        running = any(t.state == TrialState.RUNNING for t in opened.tickets.trials())
        if not (opened.leads and running):
            return
        show.tick([])
        time.sleep(POLL_S)


def _ended(search: Search, opened: Opened) -> int:
    trials = [t for t in opened.tickets.trials() if t.number not in opened.ended]
    found = [records.record(t, opened.tickets) for t in trials]
    failed = [t for t in found if t["state"] == "failed"]
    for one in failed:
        where = f"; see {search.root / one['folder']}/" if one["folder"] else ""
        search.say(f"failed: {one['label']}: {one['error']}{where}")
    left = opened.left() if opened.leads else 0
    if left:
        search.say(f"{left} trials are left; the same command goes on with them")
    return 1 if failed or left else 0


def _spent(search: Search, tickets: Tickets, seconds: float) -> None:
    """Add to the time that the study has taken."""
    with readable(search.url):
        before = float(tickets.study.user_attrs.get("wall_seconds", 0.0))
        tickets.study.set_user_attr("wall_seconds", round(before + seconds, 1))
