"""The runs in MLflow: made by the parent process, filled by the fits, each fit shown once.

Everything goes through `MlflowClient` with an explicit address; MLflow's global state is not used.
A study may be run again and again: its parent run is found by its tags, what a kill left RUNNING
is closed, and an earlier attempt at the same fit steps aside (`eramv.kind` becomes `attempt`).
Below a sweep's run hang its trials (kind `trial`), each with its `eramv.state`, the further seeds
of the best (`finalist`) and the arms of the study that ends it (`fit`).
Call `init_store` in the parent before any worker starts: two processes that make the file at once
break each other.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eramv_lab.track.client import client_of, log_files, log_numbers, search

EXPERIMENT = "eramv_lab"
DATABASE = "mlflow.db"
CLOSED = "KILLED"
"""Status of a fit that a kill cut off."""
FITS = ("fit", "trial", "finalist")
"""Kinds of runs that train something."""
SAID = ("pruned", "infeasible", "failed", "interrupted")
"""States of a trial that its name tells, beside `complete`."""
PALE = "#c9ced4"
"""Colour in charts of a trial that did not come to its end, so that the others stand out."""
STATE_OF = {"FINISHED": "complete", "FAILED": "failed", CLOSED: "interrupted"}


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
    uri: str,
    study: str,
    *,
    kind: str = "ablation",
    tags: Mapping[str, Any] | None = None,
    close_running: bool = True,
) -> StudyRun:
    """The parent run of `study`, the earlier one where there is one, set RUNNING.

    `kind`: ablation or sweep. `close_running`: fits of the study that are still RUNNING were
    killed and are closed; not where several processes run one study.
    """
    client = client_of(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        raise ValueError(f"{uri} has no experiment {EXPERIMENT!r}: call init_store first")
    where = experiment.experiment_id
    found = search(client, where, {"eramv.study": study, "eramv.kind": kind})
    if found:
        run_id = found[0].info.run_id
        client.update_run(run_id, status="RUNNING")
    else:
        named = {"eramv.kind": kind, "eramv.study": study, "mlflow.source.name": EXPERIMENT}
        run_id = client.create_run(where, tags=named, run_name=study).info.run_id
    for key, value in (tags or {}).items():
        client.set_tag(run_id, key, str(value))
    parent = StudyRun(uri=uri, study=study, experiment_id=where, run_id=run_id)
    if close_running:
        close_left(parent)
    return parent


def close_left(parent: StudyRun) -> None:
    """End every child that is still RUNNING: whoever filled it is gone."""
    client = client_of(parent.uri)
    below = {"mlflow.parentRunId": parent.run_id}
    for run in search(client, parent.experiment_id, below, "RUNNING"):
        if run.data.tags.get("eramv.kind") == "trial":
            client.set_tag(run.info.run_id, "eramv.state", STATE_OF[CLOSED])
        client.set_terminated(run.info.run_id, CLOSED)


def start_fit(
    parent: StudyRun,
    arm: str,
    seed: int,
    params: Mapping[str, Any],
    tags: Mapping[str, Any] | None = None,
    *,
    kind: str = "fit",
    name: str | None = None,
    goes_on: bool = False,
) -> str:
    """Begin the run of one fit and return its id; `name`: of the run, else arm and seed.

    `tags["eramv.hash"]`, the hash of the resolved recipe, tells the same fit from another one: an
    earlier attempt at the same arm, seed and hash no longer counts as a fit, or, where this one
    `goes_on` from it, its run is taken up again. Trials are told apart by seed and hash alone.
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
    by_arm = kind != "trial" or "eramv.hash" not in own
    same = {k: own[k] for k in SAME_FIT if k in own and (by_arm or k != "eramv.arm")}
    attempts = search(client, parent.experiment_id, same)
    if goes_on and attempts:
        run_id = attempts[0].info.run_id
        client.update_run(run_id, status="RUNNING", name=name)
        for key, value in own.items():
            client.set_tag(run_id, key, value)
        return run_id
    for earlier in attempts:
        client.set_tag(earlier.info.run_id, "eramv.kind", "attempt")
        if earlier.info.status == "RUNNING":
            client.set_terminated(earlier.info.run_id, CLOSED)
    run = client.create_run(parent.experiment_id, tags=own, run_name=name or f"{arm} s{seed}")
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
    tags: Mapping[str, Any] | None = None,
    artifacts: Iterable[Path] = (),
) -> None:
    """Log the row (design 6, same names) and the files, name the run by its accuracy, end it.

    `per_type` is the accuracy by question type, logged as `type/<name>`. Missing files and numbers
    that are None or not finite are left out. `status`: FINISHED, FAILED or KILLED. `tags`: what is
    known only now; a trial's `eramv.state` follows from the status where it is not among them.
    """
    client = client_of(uri)
    numbers = dict(row or {}) | {f"type/{k}": v for k, v in (per_type or {}).items()}
    log_numbers(client, run_id, numbers)
    log_files(client, run_id, artifacts)
    run = client.get_run(run_id)
    known = {key: str(value) for key, value in (tags or {}).items()}
    if run.data.tags.get("eramv.kind") == "trial":
        known.setdefault("eramv.state", STATE_OF.get(status, "complete"))
    if known.get("eramv.state") in SAID:
        known["mlflow.runColor"] = PALE
    elif run.data.tags.get("mlflow.runColor") == PALE:
        client.delete_tag(run_id, "mlflow.runColor")
    for key, value in known.items():
        client.set_tag(run_id, key, value)
    name = _ended(run.info.run_name or "", known.get("eramv.state"), (row or {}).get("accuracy"))
    if name != run.info.run_name:
        client.update_run(run_id, name=name)
    client.set_terminated(run_id, status)


def closed_trial(
    parent: StudyRun,
    name: str,
    params: Mapping[str, Any],
    tags: Mapping[str, Any],
    numbers: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
) -> str:
    """A trial that never trained, begun and ended at once: infeasible, or failed before it began.

    `tags["eramv.state"]` says which; `numbers`: what is known without training, e.g. the price.
    """
    run_id = start_fit(parent, name, seed, params, tags, kind="trial", name=name)
    status = "FAILED" if tags.get("eramv.state") == "failed" else "FINISHED"
    finish_fit(parent.uri, run_id, numbers, status, tags=tags)
    return run_id


def left_open(parent: StudyRun) -> dict[str, Path]:
    """The study's fits and trials that have not finished in MLflow: run id, and the folder."""
    runs = search(
        client_of(parent.uri), parent.experiment_id, {"mlflow.parentRunId": parent.run_id}
    )
    open_ = [run for run in runs if run.info.status != "FINISHED"]
    return {
        run.info.run_id: Path(run.data.tags["eramv.recipe"]).parent
        for run in open_
        if run.data.tags.get("eramv.kind") in FITS and "eramv.recipe" in run.data.tags
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
    log_numbers(client, parent.run_id, metrics or {})
    log_files(client, parent.run_id, artifacts)
    client.set_terminated(parent.run_id, status)


def _ended(name: str, state: str | None, accuracy: Any) -> str:
    """The name of a run that ended: what it was called, how it ended if badly, its accuracy."""
    name = name.partition(" acc ")[0]
    for said in SAID:
        name = name.removesuffix(f" {said}")
    if state in SAID:
        name += f" {state}"
    return f"{name} acc {accuracy:.3f}" if isinstance(accuracy, int | float) else name
