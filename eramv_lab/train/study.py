"""All arms and seeds of a recipe: what is finished is skipped, the rest is fitted side by side."""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO, cast

import yaml
from rich.console import Console

from eramv_lab.errors import LabError, Problem, UserError
from eramv_lab.recipe.arms import Arm
from eramv_lab.recipe.connecting import told_anew
from eramv_lab.recipe.lora import bits_of
from eramv_lab.recipe.resolve import Recipe
from eramv_lab.report import table
from eramv_lab.report.compare import compare_study
from eramv_lab.train import ranks
from eramv_lab.train.around import finish, shared_jobs
from eramv_lab.train.environment import cores, environment, gpus
from eramv_lab.train.files import read_json, write_json, write_text
from eramv_lab.train.plan import (
    FIT,
    Fit,
    clear,
    drop_checkpoints,
    fit_jobs,
    plan_fits,
    ranks_of,
)
from eramv_lab.train.pool import PRELOAD, Job, reason, run_jobs
from eramv_lab.train.show import Show
from eramv_lab.train.stop import INTERRUPTED, STOPS, TERMINATED, ended_by, stoppable
from eramv_lab.train.together import fit_together, follow, processes


def run_study(
    recipe: Recipe,
    arms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    workers: int | None = None,
    runs: Path = Path("runs"),
    *,
    fit: str = FIT,
    preload: Sequence[str] = PRELOAD,
    prepare: bool = True,
    kind: str = "ablation",
    trained: Mapping[tuple[str, int], Path] | None = None,
    news: bool = False,
    console: Console | None = None,
) -> int:
    """Fit every arm and seed that has no result yet, and print the comparison.

    Args:
        arms, seeds: those of the recipe where not given; an arm brings those it starts from.
        workers: fits side by side; default: one per GPU, or per `trainer.threads` cores.
        fit: `module:function` that fits, called with `run_dir` and `plan`.
        prepare: make data, bases, features and the store of runs first.
        kind: what the study is in MLflow: an ablation, or the end of a sweep.
        trained: folders of finished fits by (`Arm.training`, seed): none is trained twice.
        news: the report is written again also where every fit was done before.

    Returns 0, 1 where a fit failed, 130 after Ctrl-C, 143 after SIGTERM. Raises UserError for an
    unknown arm before anything is written, LabError where another process runs the study.
    """
    console = console or Console()
    root = runs / recipe.name
    fits = with_trained(plan_fits(recipe, root, arms, seeds), trained or {})
    if ranks.started_outside():
        with ranks.joined(processes(recipe)):
            if ranks.rank() > 0:
                return follow()

            def together(open_fits: Sequence[Fit]) -> int:
                return fit_together(recipe, root, open_fits, fit, console)

            code = _study(recipe, root, fits, seeds, console, together, news=news)
            if code in (INTERRUPTED, TERMINATED):
                sys.exit(code)  # the others leave by themselves
            ranks.tell(None)
            return code

    if any(f.arm.trainer.nodes > 1 for f in fits):
        message = "several machines need torchrun or srun, which start the processes"
        raise UserError(Problem(message=message, key="trainer.nodes"))

    def side_by_side(open_fits: Sequence[Fit]) -> int:
        return _run(recipe, root, fits, open_fits, workers, fit, preload, prepare, kind, console)

    return _study(recipe, root, fits, seeds, console, side_by_side, news=news)


def _require(fits: Sequence[Fit]) -> None:
    """Raise UserError where fits need what is not here: 4-bit matrices, a model that is whole."""
    for one in fits:
        if bits_of(one.arm.train.roles):
            from eramv_lab.train.lora import require_bits

            require_bits(one.arm.train.roles)
    for folder in sorted({one.start().get("model", "") for one in fits} - {""}):
        from eramv_lab.model.guard import check_folder

        check_folder(Path(folder))


def _study(
    recipe: Recipe,
    root: Path,
    fits: Sequence[Fit],
    seeds: Sequence[int] | None,
    console: Console,
    run: Callable[[Sequence[Fit]], int],
    *,
    news: bool,
) -> int:
    """What is not finished is begun or taken up again by `run`; then the comparison."""
    open_fits = [f for f in fits if f.result() is None]
    for one in fits:  # a kill may have come between a result and this
        drop_checkpoints(one.folder)
    if not open_fits and not news and (root / "table.md").exists():
        _close(root, console, f"all {len(fits)} fits were done before")
        return 0
    _require(open_fits)
    anew = (line for f in open_fits for line in told_anew(f.arm.spec, f.start()))
    for line in dict.fromkeys(anew):
        console.print(line, markup=False, highlight=False)
    with alone(root):
        _write_study(recipe, root, seeds)
        for f in open_fits:
            clear(f)
            write_text(f.folder / "recipe.yaml", _yaml(f.arm.with_seed(f.seed).plain))
            write_json(f.folder / "env.json", environment())
        try:
            with stoppable():
                code = run(open_fits)
        except STOPS as stop:
            return ended_by(stop, console)
    if any(f.result() for f in fits):
        _close(root, console)
    return code


def _run(
    recipe: Recipe,
    root: Path,
    fits: Sequence[Fit],
    open_fits: Sequence[Fit],
    workers: int | None,
    fit: str,
    preload: Sequence[str],
    prepare: bool,
    kind: str,
    console: Console,
) -> int:
    width, threads, devices = width_of([f.arm for f in open_fits or fits], workers)
    track = root / ".prepare" / "store" / "track.json"
    jobs: list[Job] = []
    needs: dict[str, list[str]] = {}
    if prepare:
        jobs, needs = shared_jobs(recipe, root, open_fits, width, kind=kind)
    cards = len(devices[0].split(",")) if devices else 0
    jobs += fit_jobs(open_fits, needs, fit, str(track) if prepare else None, cards)
    labels = {f.key: f.label for f in open_fits}
    settings: dict[str, Any] = {"threads": threads, "preload": preload, "gpus": devices}
    with Show(labels, len(fits) - len(open_fits), console) as show:
        outcomes = run_jobs(jobs, workers=width, watcher=show, **settings)
        failed = [job for job in jobs if outcomes[job.key] == "failed"]
        missing = [f for f in open_fits if f.result() is None]
        if prepare and len(missing) < len(fits):
            finish(root, track, complete=not missing, watcher=show, **settings)
    for job in failed:
        console.print(
            f"failed: {labels.get(job.key, job.key)}: {reason(job)}\n  see {job.folder}/",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
    if prepare and open_fits and not track.exists():
        log = track.parent / "log.txt"
        console.print(f"MLflow did not follow this study, see {log}", markup=False)
    return 1 if missing or failed else 0


def with_trained(fits: Sequence[Fit], known: Mapping[tuple[str, int], Path]) -> list[Fit]:
    """The fits, each with the folder of one that has its training and its seed, if there is."""
    return [replace(f, trained=known.get((f.arm.training, f.seed))) for f in fits]


def width_of(arms: Sequence[Arm], workers: int | None) -> tuple[int, int, list[str]]:
    """Fits side by side, threads of each, and the devices of each slot."""
    asked = [arm.trainer for arm in arms]
    threads = max(t.threads for t in asked)
    found = gpus() if all(t.accelerator in ("auto", "gpu") for t in asked) else []
    if found:
        each = max(len(found) if t.devices == "auto" else t.devices for t in asked)
        groups = [found[i : i + each] for i in range(0, len(found) - each + 1, each)]
        devices = [",".join(group) for group in groups]
        return workers or max(1, len(devices)), threads, devices
    each = max(threads * ranks_of(arm, 0) for arm in arms)
    return workers or max(1, cores() // each), threads, []


def _write_study(recipe: Recipe, root: Path, seeds: Sequence[int] | None) -> None:
    """What the study is and what it runs on, before anything trains."""
    before = read_json(root / "study.json") or {}
    known = dict.fromkeys([*recipe.seeds, *(seeds or ()), *before.get("seeds", [])])
    study = {
        "study": recipe.name,
        "recipe_file": recipe.path,
        "question": recipe.question,
        "arms": list(recipe.arms),
        "seeds": list(known),
        "expect": recipe.expect,
        **({"league": recipe.league.to_plain()} if recipe.league else {}),
        "mlflow": before.get("mlflow", {}),
    }
    write_text(root / "recipe.yaml", _yaml(recipe.to_plain()))
    write_json(root / "env.json", environment())
    write_json(root / "study.json", study)


def _yaml(plain: Any) -> str:
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _close(root: Path, console: Console, note: str = "") -> None:
    """Print the comparison and where its files are."""
    table.show(compare_study(root), file=cast(TextIO, console.file))
    console.print(f"{note + '; ' if note else ''}files: {root}/", highlight=False, markup=False)


_held: set[Path] = set()
"""Studies that this process holds."""


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Hold the study for this process. Raises LabError where another one has it.

    A sweep holds it around the study that ends it.
    """
    root.mkdir(parents=True, exist_ok=True)
    place = root.resolve()
    if place in _held:
        yield
        return
    with (root / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LabError(f"another process is running the study in {root}") from None
        _held.add(place)
        try:
            yield
        finally:
            _held.remove(place)
