"""A sweep from its file to its report: tickets, workers, finals; the same call again goes on.

The parent is light: what needs torch's training, Lightning or MLflow happens in other processes.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO, cast

import optuna
import yaml
from optuna.storages import fail_stale_trials
from optuna.trial import TrialState
from rich.console import Console

from eramv_lab.errors import LabError, Problem, UserError
from eramv_lab.report.search_file import read_search
from eramv_lab.report.search_table import show as show_search
from eramv_lab.sweep import finals, records
from eramv_lab.sweep.launch import LauncherConfig, launch, parse_launcher
from eramv_lab.sweep.load import Sweep
from eramv_lab.sweep.show import SearchShow
from eramv_lab.sweep.store import REQUEUED, Tickets, database, open_storage, readable
from eramv_lab.sweep.worker import give_back
from eramv_lab.train.around import finish, links, shared_jobs
from eramv_lab.train.environment import environment
from eramv_lab.train.files import write_json, write_text
from eramv_lab.train.plan import clear, fit_jobs, fit_of
from eramv_lab.train.pool import PRELOAD, Watcher, run_jobs
from eramv_lab.train.show import Show
from eramv_lab.train.stop import INTERRUPTED, TERMINATED, Signalled, Stopped, requeue, stoppable
from eramv_lab.train.study import alone, run_study, width_of

WORK = "eramv_lab.sweep.worker:work"
WORKER_PRELOAD = (*PRELOAD, "eramv_lab.sweep.worker")
ROUNDS = 3
"""Times that workers are started anew for trials that their last ones have left."""
POLL_S = 2.0


class Search:
    """One study of a sweep: its folder, its database, its tickets."""

    def __init__(self, sweep: Sweep, runs: Path, console: Console) -> None:
        self.sweep, self.console = sweep, console
        self.root = runs / sweep.name
        self.url = sweep.settings.storage or database(self.root)
        self.track = self.root / ".prepare" / "store" / "track.json"

    def open(self, more: str | None) -> Tickets:
        """The study, made where it is missing, with as many tickets as trials are asked for.

        `more`: `40` trials in all, or `+20` more than before. Raises UserError where the database
        holds another search under this name.
        """
        sweep, root = self.sweep, self.root
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
            write_text(root / "sweep.yaml", _yaml(sweep.to_plain()))
            write_json(root / "env.json", environment())
            asked = self._asked(told.get("asked", 0), more)
            study.set_user_attr("asked", asked)
        return tickets

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

    def refill(self, tickets: Tickets) -> int:
        """Write the tickets that are missing; returns how many are open now."""
        sweep = self.sweep
        living = [t for t in tickets.trials() if not t.user_attrs.get(REQUEUED)]
        good = [t for t in living if t.state != TrialState.FAIL]
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
        return sum(not t.state.is_finished() for t in tickets.trials())

    def say(self, text: str) -> None:
        """A line for whoever watches."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


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
    preload: Sequence[str] = WORKER_PRELOAD,
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
    began = time.monotonic()
    with ExitStack() as held:
        leads = _lead(search, held)
        try:
            with stoppable():
                code = _search(search, launcher, workers, more, preload, leads=leads)
        except KeyboardInterrupt:
            search.say("stopped; the same command goes on with what is not finished")
            return INTERRUPTED
        except (Signalled, Stopped) as stopped:
            search.say(
                f"stopped by {signal.Signals(stopped.number).name}; the same command goes on"
            )
            requeue(stopped.number, search.console)
            return INTERRUPTED if stopped.number == signal.SIGINT else TERMINATED
        if not leads:
            search.say(f"the search is done; another process writes its report in {search.root}/")
            return code
        _spent(search, time.monotonic() - began)
    return max(code, _finals(search, workers))


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
        with SearchShow(tickets, root, asked, search.console) as show:
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
    tickets = _again(search)
    before = float(tickets.study.user_attrs.get("wall_seconds", 0.0))
    tickets.study.set_user_attr("wall_seconds", round(before + seconds, 1))


def _again(search: Search) -> Tickets:
    from eramv_lab.sweep.worker import open_tickets

    return open_tickets(search.sweep, search.root.name, search.url)


def _finals(search: Search, workers: int | None) -> int:
    """Finalists, the best, its controls; then the report."""
    sweep, root, console = search.sweep, search.root, search.console
    tickets = _again(search)
    chosen = finals.finalists_of(sweep, tickets, root)
    if not chosen:
        records.write_records(root, sweep, tickets)
        _report(search)
        return 1
    code = _more_seeds(search, chosen, workers)
    metric = sweep.goals[0].metric
    best = finals.best_of(chosen, sweep)
    if best is None:
        raise LabError(f"no finalist of {root} has a result")
    told = best.told(metric) | {"changes": dict(best.changes)}
    found = {"finalists": [one.told(metric) for one in chosen], "best": told}
    records.write_records(root, sweep, tickets, finals=found)
    recipe, notes = finals.final_recipe(sweep, best, root)
    trained = finals.trained_before(root, sweep, tickets)
    _show(search)
    for note in notes:
        search.say(note)
    code = max(
        code,
        run_study(
            recipe,
            workers=workers,
            runs=root.parent,
            kind="sweep",
            trained=trained,
            console=console,
        ),
    )
    _say_links(search)
    return code


def _more_seeds(search: Search, chosen: Sequence[finals.Finalist], workers: int | None) -> int:
    """Fit the finalists with the other seeds, scored where they were chosen."""
    open_ = [fit for one in chosen for fit in one.fits if fit.result() is None]
    if not open_:
        return 0
    width, threads, gpus = width_of([fit.arm for fit in open_], workers)
    search.say(f"{len(open_)} more fits of {len(chosen)} finalists, scored on val")
    track = str(search.track) if search.track.exists() else None
    jobs = fit_jobs(open_, {}, track=track, gpus=len(gpus[0].split(",")) if gpus else 0)
    labels: dict[str, str] = {}
    for one in chosen:
        for fit in one.fits:
            if fit in open_:
                clear(fit)
                labels[fit.key] = f"{one.label} s{fit.seed}"
    told = {"kind": "finalist", "tags": {"feasible": "true"}}
    jobs = [
        replace(job, args={**job.args, "plan": job.args["plan"] | told | {"name": labels[job.key]}})
        for job in jobs
    ]
    settings: dict[str, Any] = {"threads": threads, "gpus": gpus, "preload": WORKER_PRELOAD}
    with stoppable(), Show(labels, 0, search.console) as show:
        outcomes = run_jobs(jobs, workers=width, watcher=show, **settings)
    return int(any(outcome != "done" for outcome in outcomes.values()))


def _report(search: Search) -> None:
    settings: dict[str, Any] = {"threads": 1, "preload": WORKER_PRELOAD}
    finish(search.root, search.track, complete=False, **settings)
    _show(search)
    _say_links(search)


def _show(search: Search) -> None:
    found = read_search(search.root)
    if found is not None:
        show_search(found, file=cast(TextIO, search.console.file))


def _say_links(search: Search) -> None:
    """Where the pictures are."""
    search.say(f"pictures: {search.root}/pareto.html, search.png, placement.png, history.png")
    for name, path in links(search.track):
        search.say(
            f"charts: {name}: `eramv-lab ui --runs {search.root.parent}`, then "
            f"http://127.0.0.1:5000{path}"
        )


def _yaml(plain: Any) -> str:
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
