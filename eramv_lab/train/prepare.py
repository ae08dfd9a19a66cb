"""What fits share and need first: data, base, features, the store of runs; one job each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eramv_lab.data.files import locked
from eramv_lab.errors import Problem, UserError
from eramv_lab.train.files import read_json, write_json


def store(
    folder: str,
    runs: str,
    study: str,
    tags: Mapping[str, Any],
    kind: str = "ablation",
    close_running: bool = True,
) -> None:
    """Begin the study's run in MLflow and name it in `<folder>/track.json`; the pages that will
    show it are named in `links.json` beside it.

    `kind`, `close_running`: as `start_study` takes them. Where MLflow fails, fits go on without
    it: the files are then missing. Several machines that run one sweep come here at once.
    """
    file = Path(folder) / "track.json"
    with locked(file):
        _store(file, runs, study, tags, kind, close_running)


def _store(
    file: Path, runs: str, study: str, tags: Mapping[str, Any], kind: str, close_running: bool
) -> None:
    try:
        from eramv_lab.track.store import init_store, start_study
        from eramv_lab.track.view import links_of
        from eramv_lab.train.tracked import finish_left_open

        uri = init_store(Path(runs))
        run = start_study(uri, study, kind=kind, tags=tags, close_running=close_running)
        write_json(file, asdict(run))
        finish_left_open(run)
        links = links_of(uri, run.experiment_id, study, kind)
        write_json(file.with_name("links.json"), dict(links))
    except Exception as error:
        file.unlink(missing_ok=True)
        file.with_name("links.json").unlink(missing_ok=True)
        warnings.warn(f"MLflow does not follow this study: {error!r}", stacklevel=2)


def data(folder: str, section: Mapping[str, Any], processes: int) -> None:
    """Make the shards of a `data:` section where they are missing."""
    from eramv_lab.data.local import local_folders
    from eramv_lab.data.make import make_data
    from eramv_lab.recipe.schema import parse_data

    problems: list[Problem] = []
    config = parse_data(section, problems)
    if config is None:
        raise UserError(problems)
    if config.type == "world":
        make_data(config.source, config.folder, processes=processes, shown=False)
    else:
        local_folders(config, shown=False)


def base(folder: str, recipe: Mapping[str, Any], seed: int, target_folder: str) -> None:
    """Train a base where it is missing."""
    from eramv_lab.train.callbacks import Progress
    from eramv_lab.train.start import build_once

    progress = Progress(Path(folder))

    def tell(step: int, steps: int, text: str = "") -> None:
        progress.tell(phase="train", step=step, steps=steps, done=step / steps, text=text)

    build_once(recipe, seed, Path(target_folder), tell)


def features(folder: str, plan: Mapping[str, Any]) -> None:
    """Compute the tower's features of all splits where they are missing."""
    import torch

    from eramv_lab.data.module import LabData
    from eramv_lab.train.module import LitArm

    arm = plan["recipe"]
    torch.set_num_threads(arm["trainer"]["threads"])
    tower = LitArm(arm, plan["seed"], plan["start"]).model.vision_tower
    if arm["trainer"]["accelerator"] != "cpu" and torch.cuda.is_available():
        tower = tower.cuda()
    start = plan["start"]
    LabData(arm, seed=plan["seed"], tower=tower, start=start, shown=False).setup()


def finish(folder: str, study_dir: str, track: str, complete: bool) -> None:
    """Write the study's report and hand it to MLflow; a sweep has one of its search, and one of
    its arms where it came to fit some.
    """
    from eramv_lab.track.store import StudyRun, close_left, finish_study
    from eramv_lab.track.view import links_of
    from eramv_lab.train.tracked import finish_left_open

    root = Path(study_dir)
    search = read_json(root / "search.json")
    files = _reports(root, search is not None)
    try:
        parent = read_json(Path(track))
        if parent:
            run = StudyRun(**parent)
            if search is not None:
                finish_left_open(run)
                close_left(run)
            more = [root / name for name in ("recipe.yaml", "sweep.yaml", "best.yaml")]
            status = "FINISHED" if complete else "FAILED"
            numbers = _best(search or {})
            finish_study(run, status, metrics=numbers, artifacts=dict.fromkeys([*files, *more]))
            kind = "ablation" if search is None else "sweep"
            links = links_of(run.uri, run.experiment_id, run.study, kind)
            write_json(Path(track).with_name("links.json"), dict(links))
    except Exception as error:
        warnings.warn(f"MLflow did not take the report: {error!r}", stacklevel=2)


def _reports(root: Path, searched: bool) -> list[Path]:
    """The files of the search's report, where there was one, and of the comparison of arms."""
    from eramv_lab.report.artifacts import write_report

    files: list[Path] = []
    if searched:
        from eramv_lab.report.search_artifacts import write_search_report

        files += [*write_search_report(root), root / "search.json"]
        if not (root / "study.json").exists():
            return files
    try:
        files += write_report(root)
    except UserError as error:
        if not searched:
            raise
        warnings.warn(f"the search has its report, its arms have none: {error}", stacklevel=2)
    return files


def _best(search: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a search's best trial, for the run of the whole sweep."""
    number = (search.get("best") or {}).get("number")
    rows = [trial for trial in search.get("trials", []) if trial["number"] == number]
    return {key: row.get(key) for row in rows for key in ("accuracy", "prefill_tflops")}
