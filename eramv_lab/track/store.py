"""The runs in MLflow: made by the parent process, filled by the fits, each fit shown once.

Everything goes through `MlflowClient` with an explicit address; MLflow's global state is not used.
A study may be run again and again: its parent run is found by its tags, what a kill left RUNNING
is closed, and an earlier attempt at the same fit steps aside (`eramv.kind` becomes `attempt`).
Call `init_store` in the parent before any worker starts: two processes that make the file at once
break each other.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT = "eramv_lab"
DATABASE = "mlflow.db"
CLOSED = "KILLED"
"""Status of a fit that a kill cut off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRun:
    """Where a study is kept: plain text, so that it can be handed to workers."""

    uri: str
    study: str
    experiment_id: str
    run_id: str


def store_uri(runs: Path) -> str:
    """Address of the store of a runs folder, whether it exists or not."""
    return f"sqlite:///{(runs / DATABASE).resolve()}"


def client_of(uri: str) -> MlflowClient:
    """A client of the store at `uri`, with telemetry off and quiet migrations."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def init_store(runs: Path) -> str:
    """Create or migrate `runs/mlflow.db` and the lab's experiment; returns the store's address.

    Artifacts go to `runs/artifacts`. Where the folder was moved since, the experiment that points
    to the old place is renamed and a new one begun.
    """
    runs.mkdir(parents=True, exist_ok=True)
    uri = store_uri(runs)
    client = client_of(uri)
    artifacts = (runs / "artifacts").resolve().as_uri()
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is not None and experiment.artifact_location != artifacts:
        moved = f"{EXPERIMENT} (moved, {int(time.time())})"
        client.rename_experiment(experiment.experiment_id, moved)
        experiment = None
    if experiment is None:
        client.create_experiment(EXPERIMENT, artifact_location=artifacts)
    return uri


def start_study(
    uri: str, study: str, *, kind: str = "ablation", tags: Mapping[str, Any] | None = None
) -> StudyRun:
    """The parent run of `study`, the earlier one where there is one, set RUNNING.

    Fits of the study that are still RUNNING were killed and are closed, so only one process may
    run a study at a time.
    """
    client = client_of(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        raise ValueError(f"{uri} has no experiment {EXPERIMENT!r}: call init_store first")
    where = experiment.experiment_id
    found = _search(client, where, {"eramv.study": study, "eramv.kind": kind})
    if found:
        run_id = found[0].info.run_id
        client.update_run(run_id, status="RUNNING")
    else:
        named = {"eramv.kind": kind, "eramv.study": study, "mlflow.source.name": EXPERIMENT}
        run_id = client.create_run(where, tags=named, run_name=study).info.run_id
    for key, value in (tags or {}).items():
        client.set_tag(run_id, key, str(value))
    for run in _search(client, where, {"mlflow.parentRunId": run_id}, "RUNNING"):
        client.set_terminated(run.info.run_id, CLOSED)
    return StudyRun(uri=uri, study=study, experiment_id=where, run_id=run_id)


def start_fit(
    parent: StudyRun,
    arm: str,
    seed: int,
    params: Mapping[str, Any],
    tags: Mapping[str, Any] | None = None,
    *,
    kind: str = "fit",
    goes_on: bool = False,
) -> str:
    """Begin the run of one fit and return its id.

    `tags["eramv.hash"]`, the hash of the resolved recipe, tells the same fit from another one: an
    earlier attempt at the same arm, seed and hash no longer counts as a fit, or, where this one
    `goes_on` from it, its run is taken up again.
    """
    client = client_of(parent.uri)
    own = {
        "eramv.kind": kind,
        "eramv.study": parent.study,
        "eramv.arm": arm,
        "eramv.seed": str(seed),
        "mlflow.parentRunId": parent.run_id,
        "mlflow.source.name": EXPERIMENT,
    }
    own |= {key: str(value) for key, value in (tags or {}).items()}
    same = {key: own[key] for key in own if key.startswith("eramv.") and key in SAME_FIT}
    attempts = _search(client, parent.experiment_id, same)
    if goes_on and attempts:
        run_id = attempts[0].info.run_id
        client.update_run(run_id, status="RUNNING")
        for key, value in own.items():
            client.set_tag(run_id, key, value)
        return run_id
    for earlier in attempts:
        client.set_tag(earlier.info.run_id, "eramv.kind", "attempt")
        if earlier.info.status == "RUNNING":
            client.set_terminated(earlier.info.run_id, CLOSED)
    run = client.create_run(parent.experiment_id, tags=own, run_name=f"{arm} s{seed}")
    from mlflow.entities import Param

    shown = {"arm": arm, "seed": seed, **params}
    client.log_batch(
        run.info.run_id, params=[Param(k, str(v)) for k, v in shown.items() if v is not None]
    )
    return run.info.run_id


SAME_FIT = ("eramv.kind", "eramv.study", "eramv.arm", "eramv.seed", "eramv.hash")


def finish_fit(
    uri: str,
    run_id: str,
    row: Mapping[str, Any] | None = None,
    status: str = "FINISHED",
    *,
    per_type: Mapping[str, float] | None = None,
    artifacts: Iterable[Path] = (),
) -> None:
    """Log the row (design 6, same names) and the files, name the run by its accuracy, end it.

    `per_type` is the accuracy by question type, logged as `type/<name>`. Missing files and numbers
    that are None or not finite are left out. `status`: FINISHED, FAILED or KILLED.
    """
    client = client_of(uri)
    numbers = dict(row or {}) | {f"type/{k}": v for k, v in (per_type or {}).items()}
    _log_numbers(client, run_id, numbers)
    _log_files(client, run_id, artifacts)
    if row and isinstance(row.get("accuracy"), int | float):
        name = (client.get_run(run_id).info.run_name or "").partition(" acc ")[0]
        client.update_run(run_id, name=f"{name} acc {row['accuracy']:.3f}")
    client.set_terminated(run_id, status)


def left_open(parent: StudyRun) -> dict[str, Path]:
    """The study's fits that have not finished in MLflow: run id, and the folder of the fit."""
    client = client_of(parent.uri)
    tags = {"mlflow.parentRunId": parent.run_id, "eramv.kind": "fit"}
    runs = _search(client, parent.experiment_id, tags)
    open_ = [run for run in runs if run.info.status != "FINISHED"]
    return {
        run.info.run_id: Path(run.data.tags["eramv.recipe"]).parent
        for run in open_
        if "eramv.recipe" in run.data.tags
    }


def finish_study(
    parent: StudyRun,
    status: str = "FINISHED",
    *,
    metrics: Mapping[str, Any] | None = None,
    artifacts: Iterable[Path] = (),
) -> None:
    """Put the study's files (recipe, table, plots) on its parent run and end it."""
    client = client_of(parent.uri)
    _log_numbers(client, parent.run_id, metrics or {})
    _log_files(client, parent.run_id, artifacts)
    client.set_terminated(parent.run_id, status)


def quoted(text: str) -> str:
    """`text` as a value in MLflow's search language."""
    return f'"{text}"' if "'" in text else f"'{text}'"


def _search(
    client: MlflowClient, experiment_id: str, tags: Mapping[str, str], status: str | None = None
) -> Sequence[Run]:
    """Runs with all these tags (and this status), newest first."""
    parts = [f"tags.`{key}` = {quoted(value)}" for key, value in tags.items()]
    if status:
        parts.append(f"attributes.status = '{status}'")
    return client.search_runs([experiment_id], " and ".join(parts), max_results=1000)


def _log_numbers(client: MlflowClient, run_id: str, numbers: Mapping[str, Any]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    metrics = [
        Metric(key, float(value), now, 0)
        for key, value in numbers.items()
        if isinstance(value, int | float) and math.isfinite(value)
    ]
    if metrics:
        client.log_batch(run_id, metrics=metrics)


def _log_files(client: MlflowClient, run_id: str, files: Iterable[Path]) -> None:
    for file in files:
        if file.is_file():
            client.log_artifact(run_id, str(file))
