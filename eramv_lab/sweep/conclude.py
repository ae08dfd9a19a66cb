"""The end of a sweep: finalists, the best against its controls, the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO, cast

from eramv_lab.errors import LabError
from eramv_lab.report.search_file import read_search
from eramv_lab.report.search_table import show as show_search
from eramv_lab.sweep import finals, records
from eramv_lab.sweep.study import Search
from eramv_lab.sweep.worker import PRELOAD, open_tickets
from eramv_lab.train.around import finish, links
from eramv_lab.train.plan import clear, fit_jobs
from eramv_lab.train.pool import run_jobs
from eramv_lab.train.show import Show
from eramv_lab.train.stop import stoppable
from eramv_lab.train.study import run_study, width_of


def conclude(search: Search, workers: int | None) -> int:
    """Finalists, the best, its controls; then the report."""
    sweep, root, console = search.sweep, search.root, search.console
    tickets = open_tickets(sweep, root.name, search.url)
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
            news=_news(root),
            console=console,
        ),
    )
    _say_links(search)
    return code


def _news(root: Path) -> bool:
    """Whether the search knows more than its report: trials came, or the last call was killed."""
    report = root / "pareto.html"
    known = (root / records.FILE).stat().st_mtime_ns
    return not report.exists() or report.stat().st_mtime_ns < known


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
    settings: dict[str, Any] = {"threads": threads, "gpus": gpus, "preload": PRELOAD}
    with stoppable(), Show(labels, 0, search.console) as show:
        outcomes = run_jobs(jobs, workers=width, watcher=show, **settings)
    return int(any(outcome != "done" for outcome in outcomes.values()))


def _report(search: Search) -> None:
    settings: dict[str, Any] = {"threads": 1, "preload": PRELOAD}
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
