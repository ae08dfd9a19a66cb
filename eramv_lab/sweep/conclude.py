"""The end of a sweep: finalists, the best against its controls, the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from eramv_lab.errors import LabError
from eramv_lab.report.search_file import read_search
from eramv_lab.report.search_table import show as show_search
from eramv_lab.sweep import finals, records
from eramv_lab.sweep.batch import Planned, run_batch
from eramv_lab.sweep.launch import LauncherConfig
from eramv_lab.sweep.show import FitsShow
from eramv_lab.sweep.study import Search
from eramv_lab.sweep.worker import PRELOAD, open_tickets
from eramv_lab.train.around import finish, links
from eramv_lab.train.plan import plan_fits
from eramv_lab.train.study import run_study, width_of, with_trained


def conclude(search: Search, launcher: LauncherConfig, workers: int | None) -> int:
    """Finalists, the best, its controls; then the report."""
    sweep, root, console = search.sweep, search.root, search.console
    tickets = open_tickets(sweep, root.name, search.url)
    chosen = finals.finalists_of(sweep, tickets, root)
    if not chosen:
        records.write_records(root, sweep, tickets)
        _report(search)
        return 1
    told = {"kind": "finalist", "tags": {"feasible": "true"}}
    more = [
        Planned(fit=fit, label=f"{one.label} s{fit.seed}", told=told | {"name": one.label})
        for one in chosen
        for fit in one.fits
    ]
    code = _fit(search, launcher, workers, "finalists", more)
    metric = sweep.goals[0].metric
    best = finals.best_of(chosen, sweep)
    if best is None:
        raise LabError(f"no finalist of {root} has a result")
    found = {
        "finalists": [one.told(metric) for one in chosen],
        "best": best.told(metric) | {"changes": dict(best.changes)},
    }
    records.write_records(root, sweep, tickets, finals=found)
    _show(search)
    recipe, notes = finals.final_recipe(sweep, tickets, best, root)
    for note in notes:
        search.say(note)
    trained = finals.trained_before(root, sweep, tickets)
    arms = [
        Planned(fit=fit, label=fit.label, told={})
        for fit in with_trained(plan_fits(recipe, root, None, None), trained)
    ]
    code = max(code, _fit(search, launcher, workers, "finals", arms))
    told = {"workers": workers, "runs": root.parent, "kind": "sweep", "trained": trained}
    code = max(code, run_study(recipe, console=console, news=_news(root), **told))
    _say_links(search)
    return code


def _news(root: Path) -> bool:
    """Whether the search knows more than its report: trials came, or the last call was killed."""
    report = root / "pareto.html"
    known = (root / records.FILE).stat().st_mtime_ns
    return not report.exists() or report.stat().st_mtime_ns < known


def _fit(
    search: Search,
    launcher: LauncherConfig,
    workers: int | None,
    name: str,
    planned: Sequence[Planned],
) -> int:
    """Fit what is missing of some fits, by the engine that ran the trials."""
    open_ = [one for one in planned if one.fit.result() is None]
    if not open_:
        return 0
    width, threads, gpus = width_of([one.fit.arm for one in open_], workers)
    search.say(f"{name}: {len(open_)} fits")
    show = FitsShow({one.label: one.fit.folder for one in open_}, search.console)
    settings: dict[str, Any] = {"threads": threads, "gpus": gpus, "preload": PRELOAD}
    return run_batch(
        open_, name, search.root, launcher, show, workers=width, track=search.track, **settings
    )


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
