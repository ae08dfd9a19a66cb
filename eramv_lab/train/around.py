"""The jobs around the fits of a study: what they share comes first, the report last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eramv_lab.recipe.resolve import Recipe
from eramv_lab.train.files import read_json, write_json
from eramv_lab.train.plan import PREPARE, Fit, prepare_jobs
from eramv_lab.train.pool import Job, run_jobs


def shared_jobs(
    recipe: Recipe, root: Path, fits: Sequence[Fit], processes: int
) -> tuple[list[Job], dict[str, list[str]]]:
    """What comes before the fits: the store of runs, then data, bases, features."""
    tags = {"eramv.question": recipe.question, "eramv.recipe": recipe.path}
    args: dict[str, Any] = {"runs": str(root.parent), "study": recipe.name, "tags": tags}
    shared, needs = prepare_jobs(fits, root, processes)
    jobs = [_job(root / ".prepare", "store", **args), *shared]
    return jobs, {key: ["store", *needed] for key, needed in needs.items()}


def finish(root: Path, track: Path, *, complete: bool, **settings: Any) -> None:
    """Write the study's report, hand it to MLflow, and note which run it is there."""
    args = {"study_dir": str(root), "track": str(track), "complete": complete}
    run_jobs([_job(root / ".prepare", "finish", **args)], workers=1, **settings)
    if studied := read_json(track):
        ids = {key: studied[key] for key in ("run_id", "experiment_id")}
        write_json(root / "study.json", (read_json(root / "study.json") or {}) | {"mlflow": ids})


def _job(folder: Path, name: str, **args: Any) -> Job:
    where = folder / name
    return Job(
        key=name,
        target=f"{PREPARE}:{name}",
        folder=where,
        args=args | {"folder": str(where)},
        kind=name,
    )
