"""What fits share and need first: data, base, features, the store of runs; one job each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eramv_lab.errors import Problem, UserError
from eramv_lab.train.files import write_json


def store(folder: str, runs: str, study: str, tags: Mapping[str, Any]) -> None:
    """Begin the study's run in MLflow and name it in `<folder>/track.json`.

    Where MLflow fails, fits go on without it: the file is then missing.
    """
    file = Path(folder) / "track.json"
    file.unlink(missing_ok=True)
    try:
        from eramv_lab.track.store import init_store, start_study
        from eramv_lab.train.tracked import finish_left_open

        run = start_study(init_store(Path(runs)), study, tags=tags)
        write_json(file, asdict(run))
        finish_left_open(run)
    except Exception as error:
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
    LabData(arm, seed=plan["seed"], tower=tower, shown=False).setup()


def finish(folder: str, study_dir: str, track: str, complete: bool) -> None:
    """Write the study's report and hand it to MLflow."""
    from eramv_lab.report.artifacts import write_report
    from eramv_lab.track.store import StudyRun, finish_study
    from eramv_lab.track.view import save_view
    from eramv_lab.train.files import read_json

    files = write_report(Path(study_dir))
    try:
        parent = read_json(Path(track))
        if parent:
            run = StudyRun(**parent)
            recipe = Path(study_dir) / "recipe.yaml"
            status = "FINISHED" if complete else "FAILED"
            finish_study(run, status, artifacts=[*files, recipe])
            save_view(run.uri, run.experiment_id, run.study)
    except Exception as error:
        warnings.warn(f"MLflow did not take the report: {error!r}", stacklevel=2)
