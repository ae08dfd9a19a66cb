"""A sweep from its file to its report: tickets, workers, finals; the same call again goes on.

The parent is light: what needs torch's training, Lightning or MLflow happens in other processes.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from optuna.storages import fail_stale_trials
from optuna.trial import TrialState
from rich.console import Console

from eramv_lab.errors import LabError, Problem, UserError
from eramv_lab.sweep import records
from eramv_lab.sweep.conclude import conclude
from eramv_lab.sweep.launch import LauncherConfig, launch, parse_launcher
from eramv_lab.sweep.load import Sweep
from eramv_lab.sweep.show import SearchShow
from eramv_lab.sweep.store import Tickets, readable
from eramv_lab.sweep.study import Search
from eramv_lab.sweep.worker import PRELOAD, give_back, open_tickets
from eramv_lab.train.around import shared_jobs
from eramv_lab.train.plan import fit_of
from eramv_lab.train.pool import Watcher, run_jobs
from eramv_lab.train.stop import INTERRUPTED, TERMINATED, Signalled, Stopped, requeue, stoppable
from eramv_lab.train.study import alone, width_of

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
    try:
        with stoppable():
            return _whole(search, launcher, workers, more, preload)
    except KeyboardInterrupt:
        search.say("stopped; the same command goes on with what is not finished")
        return INTERRUPTED
    except (Signalled, Stopped) as stopped:
        search.say(f"stopped by {signal.Signals(stopped.number).name}; the same command goes on")
        requeue(stopped.number, search.console)
        return INTERRUPTED if stopped.number == signal.SIGINT else TERMINATED


def _whole(
    search: Search,
    launcher: LauncherConfig,
    workers: int | None,
    more: str | None,
    preload: Sequence[str],
) -> int:
    began = time.monotonic()
    with ExitStack() as held:
        leads = _lead(search, held)
        code = _search(search, launcher, workers, more, preload, leads=leads)
        if not leads:
            search.say(f"the search is done; another process writes its report in {search.root}/")
            return code
        _spent(search, time.monotonic() - began)
    return max(code, conclude(search, launcher, workers))


def _lead(search: Search, held: ExitStack) -> bool:
    """Whether this process leads the study: it ends with finals and report. Others may help it
    where the database is a server; a file has one leader alone."""
    try:
        held.enter_context(alone(search.root))
    except LabError:
        if search.url.startswith("sqlite"):
            raise
        search.say("another process leads this study; this one helps")
        return False
    return True


def _search(
    search: Search,
    launcher: LauncherConfig,
    workers: int | None,
    more: str | None,
    preload: Sequence[str],
    *,
    leads: bool,
) -> int:
    """Workers until every ticket is done."""
    sweep, root = search.sweep, search.root
    tickets = search.open(more)
    around = [fit_of(sweep.arm("around", {}), sweep.seeds[0], root.name, root / "trials")]
    width, threads, gpus = width_of([fit.arm for fit in around], workers)
    with readable(search.url):
        fail_stale_trials(tickets.study)
        if leads and search.url.startswith("sqlite"):
            give_back(tickets)  # no other process can be holding them
        open_ = search.refill(tickets) if leads else 1
    asked = int(tickets.study.user_attrs["asked"])
    if open_:
        jobs, _ = shared_jobs(sweep.recipe, root, around, width, kind="sweep")
        settings: dict[str, Any] = {"threads": threads, "gpus": gpus, "preload": preload}

        def note() -> None:  # so that `compare` can look at a search that runs
            if leads:
                records.write_records(root, sweep, tickets, quick=True)

        with SearchShow(tickets, root, asked, search.console, note) as show:
            outcomes = run_jobs(jobs, workers=width, watcher=show, **settings)
            failed = [job for job in jobs if outcomes[job.key] != "done" and job.key != "store"]
            for job in failed:
                search.say(f"failed: {job.key}; see {job.folder}/")
            if failed:
                return 1
            told = {"study_dir": str(root), "url": search.url}
            told |= {"track": str(search.track) if search.track.exists() else None}
            for _ in range(ROUNDS):
                ends = launch(
                    launcher,
                    WORK,
                    told,
                    workers=min(width, open_),
                    root=root,
                    watcher=show,
                    **settings,
                )
                for end in ends:
                    if end.error:
                        search.say(f"worker {end.name} failed: {end.error}")
                open_ = _drained(search, tickets, show, leads=leads)
                if not open_ or not leads:
                    break
    else:
        search.say(f"all {asked} trials were done before")
    return _ended(search, tickets, left=open_ if leads else 0)


def _drained(search: Search, tickets: Tickets, show: Watcher, *, leads: bool) -> int:
    """Tickets that are still open once nobody holds one any more."""
    with readable(search.url):
        if search.url.startswith("sqlite"):
            give_back(tickets)
        while leads and any(t.state == TrialState.RUNNING for t in tickets.trials()):
            fail_stale_trials(tickets.study)  # those of other machines are waited for
            show.tick([])
            time.sleep(POLL_S)
        return sum(not t.state.is_finished() for t in tickets.trials())


def _ended(search: Search, tickets: Tickets, *, left: int) -> int:
    trials = [records.record(t, tickets) for t in tickets.trials()]
    failed = [t for t in trials if t["state"] == "failed"]
    for one in failed:
        where = f"; see {search.root / one['folder']}/" if one["folder"] else ""
        search.say(f"failed: {one['label']}: {one['error']}{where}")
    if left:
        search.say(f"{left} trials are left; the same command goes on with them")
    return 1 if failed or left else 0


def _spent(search: Search, seconds: float) -> None:
    """Add to the time that the study has taken."""
    tickets = open_tickets(search.sweep, search.root.name, search.url)
    before = float(tickets.study.user_attrs.get("wall_seconds", 0.0))
    tickets.study.set_user_attr("wall_seconds", round(before + seconds, 1))
