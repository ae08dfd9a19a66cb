"""A fit's run in MLflow, begun and ended around it; what goes wrong there is told and forgotten.

`plan` may say more of the run: `kind` (`fit`, or a sweep's `trial` or `finalist`), `name`, `tags`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eramv_lab.recipe.model_spec import parse_model
from eramv_lab.track.params import short_params
from eramv_lab.track.store import StudyRun, closed_trial, finish_fit, left_open, start_fit
from eramv_lab.train.files import read_json
from eramv_lab.train.plan import PRUNED
from eramv_lab.train.row import priced

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
            kind = plan.get("kind") or "fit"
            self.run_id = start_fit(
                study,
                plan["arm"],
                plan["seed"],
                run_params(plan["recipe"], kind),
                tags | dict(plan.get("tags") or {}),
                kind=kind,
                name=plan.get("name"),
                goes_on=goes_on,
            )
            self.uri = study.uri
        except Exception as error:
            warnings.warn(f"MLflow does not follow this fit: {error!r}", stacklevel=2)

    def end(
        self,
        result: Mapping[str, Any] | None,
        status: str = "FINISHED",
        tags: Mapping[str, Any] | None = None,
    ) -> None:
        """Hand over the row, the files and what `tags` are known only now.

        A trial that was pruned did what was asked: FINISHED, and its row has some numbers only.
        """
        if self.uri is None or self.run_id is None:
            return
        try:
            finish(self.uri, self.run_id, self.folder, result, status, tags)
        except Exception as error:
            warnings.warn(f"MLflow did not take the result: {error!r}", stacklevel=2)


def finish(
    uri: str,
    run_id: str,
    folder: Path,
    result: Mapping[str, Any] | None,
    status: str,
    tags: Mapping[str, Any] | None = None,
) -> None:
    """Log a fit's row and files and end its run; a result may say its `state` (`pruned`)."""
    result = result or {}
    said = {"eramv.state": result["state"]} if result.get("state") else {}
    finish_fit(
        uri,
        run_id,
        result.get("row"),
        status,
        per_type={k: v["accuracy"] for k, v in (result.get("per_type") or {}).items()},
        tags=said | dict(tags or {}),
        artifacts=[
            *(folder / name for name in (*ARTIFACTS, "error.txt")),
            *(folder / f"predictions_{name}.jsonl" for name in result.get("also") or ()),
        ],
    )


def note_infeasible(plan: Mapping[str, Any]) -> None:
    """The run of a trial that costs more than it may, begun and ended at once with its price."""
    parent = read_json(Path(plan["track"])) if plan.get("track") else None
    if not parent:
        return
    tags = {**plan["tags"], "eramv.hash": plan["hash"], "eramv.state": "infeasible"}
    try:
        closed_trial(
            StudyRun(**parent),
            plan["name"],
            run_params(plan["recipe"], "trial"),
            tags | {"feasible": "false"},
            priced(plan["recipe"]),
            seed=plan["seed"],
        )
    except Exception as error:
        warnings.warn(f"MLflow does not show this trial: {error!r}", stacklevel=2)


def finish_left_open(study: StudyRun) -> None:
    """End the runs of fits and trials that finished on disk and were cut off before MLflow knew."""
    for run_id, folder in left_open(study).items():
        result = read_json(folder / "result.json") or read_json(folder / PRUNED)
        if result is not None and result.get("mlflow_run_id") == run_id:
            finish(study.uri, run_id, folder, result, "FINISHED")


def run_params(recipe: Mapping[str, Any], kind: str = "fit") -> dict[str, str | int | float]:
    """What MLflow shows of a resolved arm. A trial has every number of the search: the chart of
    parallel coordinates leaves out a run that lacks one. The empty band begins at layer 0.
    """
    params = short_params(recipe, anchors=_anchor_patches(recipe))
    return params if kind == "fit" else {"band_start": 0} | params


def _anchor_patches(recipe: Mapping[str, Any]) -> int:
    """Anchors of a resolved arm, CLS apart; `all` has no number of its own to show."""
    spec = parse_model(recipe["model"], [])
    if spec is None or spec.anchors is None:
        return 0
    return spec.dims().anchors - int(spec.anchors.takes_cls)
