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
    recipe: Recipe, root: Path, fits: Sequence[Fit], processes: int, *, kind: str = "ablation"
) -> tuple[list[Job], dict[str, list[str]]]:
    """What comes before the fits: the store of runs, then data, bases, features.

    `kind` of the study's run: ablation or sweep. A sweep may be run by several machines at once,
    so the trials that others run are not closed.
    """
    tags = {"eramv.question": recipe.question, "eramv.recipe": recipe.path}
    args: dict[str, Any] = {"runs": str(root.parent), "study": recipe.name, "tags": tags}
    args |= {"kind": kind, "close_running": kind != "sweep"}
    shared, needs = prepare_jobs(fits, root, processes)
    jobs = [_job(root / ".prepare", "store", **args), *shared]
    return jobs, {key: ["store", *needed] for key, needed in needs.items()}


def finish(root: Path, track: Path, *, complete: bool, **settings: Any) -> None:
    """Write the study's report, hand it to MLflow, and note which run it is there."""
    args = {"study_dir": str(root), "track": str(track), "complete": complete}
    run_jobs([_job(root / ".prepare", "finish", **args)], workers=1, **settings)
    studied, study = read_json(track), read_json(root / "study.json")
    if studied and study:  # a search that ended before its arms is no study yet
        ids = {key: studied[key] for key in ("run_id", "experiment_id")}
        write_json(root / "study.json", study | {"mlflow": ids})


def links(track: Path) -> list[tuple[str, str]]:
    """(what it shows, path) of the pages of MLflow that show a study, to follow the address that
    `ui` serves; needs no MLflow. None where MLflow does not follow the study.
    """
    return list((read_json(track.with_name("links.json")) or {}).items())


def _job(folder: Path, name: str, **args: Any) -> Job:
    where = folder / name
    return Job(
        key=name,
        target=f"{PREPARE}:{name}",
        folder=where,
        args=args | {"folder": str(where)},
        kind=name,
    )
