"""A fit's run in MLflow, begun and ended around it; what goes wrong there is told and forgotten."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eramv_lab.recipe.model_spec import parse_model
from eramv_lab.track.params import short_params
from eramv_lab.track.store import StudyRun, finish_fit, left_open, start_fit
from eramv_lab.train.files import read_json

ARTIFACTS = ("recipe.yaml", "env.json", "curves.csv", "predictions.jsonl", "result.json")


class Tracked:
    """The fit's run in MLflow; the earlier one where the fit goes on from a checkpoint."""

    def __init__(self, folder: Path, plan: Mapping[str, Any], *, goes_on: bool = False) -> None:
        self.folder = folder
        self.uri: str | None = None
        self.run_id: str | None = None
        parent = read_json(Path(plan["track"])) if plan.get("track") else None
        if not parent:
            return
        try:
            study = StudyRun(**parent)
            tags = {"eramv.hash": plan["hash"], "eramv.recipe": str(folder / "recipe.yaml")}
            params = short_params(plan["recipe"], anchors=_anchor_patches(plan["recipe"]))
            self.run_id = start_fit(study, plan["arm"], plan["seed"], params, tags, goes_on=goes_on)
            self.uri = study.uri
        except Exception as error:
            warnings.warn(f"MLflow does not follow this fit: {error!r}", stacklevel=2)

    def end(self, result: Mapping[str, Any] | None, status: str = "FINISHED") -> None:
        """Hand over the row and the files."""
        if self.uri is None or self.run_id is None:
            return
        try:
            finish(self.uri, self.run_id, self.folder, result, status)
        except Exception as error:
            warnings.warn(f"MLflow did not take the result: {error!r}", stacklevel=2)


def finish(
    uri: str, run_id: str, folder: Path, result: Mapping[str, Any] | None, status: str
) -> None:
    """Log a fit's row and files and end its run."""
    finish_fit(
        uri,
        run_id,
        result["row"] if result else None,
        status,
        per_type={k: v["accuracy"] for k, v in (result or {}).get("per_type", {}).items()},
        artifacts=[folder / name for name in (*ARTIFACTS, "error.txt")],
    )


def finish_left_open(study: StudyRun) -> None:
    """End the runs of fits that finished on disk and were cut off before MLflow knew."""
    for run_id, folder in left_open(study).items():
        result = read_json(folder / "result.json")
        if result is not None and result.get("mlflow_run_id") == run_id:
            finish(study.uri, run_id, folder, result, "FINISHED")


def _anchor_patches(recipe: Mapping[str, Any]) -> int:
    """Anchors of a resolved arm, CLS apart; `all` has no number of its own to show."""
    spec = parse_model(recipe["model"], [])
    if spec is None or spec.anchors is None:
        return 0
    return spec.dims().anchors - int(spec.anchors.takes_cls)
