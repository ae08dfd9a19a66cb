"""Fits over all the processes that torchrun or srun has started, one fit after another."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from eramv_lab.errors import LabError, UserError
from eramv_lab.recipe.resolve import Recipe
from eramv_lab.train import ranks
from eramv_lab.train.around import finish, shared_jobs
from eramv_lab.train.plan import Fit
from eramv_lab.train.pool import reason, run_jobs
from eramv_lab.train.show import Show
from eramv_lab.train.stop import Signalled, Stopped, stoppable


def follow() -> int:
    """The part of a process that torchrun or srun has started beside the first one.

    It fits what the first one says, fit by fit. Returns 0. Raises Stopped after SIGTERM.
    """
    try:
        with stoppable():
            while (told := ranks.tell(None)) is not None:
                _call(told[0])(**told[1])
    except Signalled:
        raise Stopped from None
    return 0


def fit_together(
    recipe: Recipe, root: Path, fits: Sequence[Fit], fit: str, console: Console
) -> int:
    """Fit after fit in this process and those that were started with it.

    An exception ends them all, as its launcher sees to it; the same command goes on.
    """
    first = root / ".prepare"
    track = first / "store" / "track.json"
    shared, _ = shared_jobs(recipe, root, fits, 1)
    with Show({f.key: f.label for f in fits}, 0, console) as show:
        outcomes = run_jobs(shared, workers=1, watcher=show)
    for job in shared:
        if outcomes[job.key] == "failed":
            raise LabError(f"{job.key}: {reason(job)}; see {job.folder}/")
    for f in fits:
        console.print(f"{f.label} ...", highlight=False, markup=False)
        args = {"run_dir": str(f.folder), "plan": f.plan(str(track))}
        ranks.tell((fit, args))
        _call(fit)(**args)
    finish(root, track, complete=True)
    return 0


def _call(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def processes(recipe: Recipe) -> int:
    """Processes that each fit asks for. Raises UserError where that is not one number."""
    asked = {(arm.trainer.devices, arm.trainer.nodes) for arm in recipe.arms.values()}
    (devices, nodes), *others = asked
    if others or not isinstance(devices, int):
        raise UserError(
            "started by torchrun or srun, all arms need the same trainer.devices, and a number"
        )
    return devices * nodes
