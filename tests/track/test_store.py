"""Runs in MLflow: a study run twice shows each fit once, and what a kill left open is closed."""

from pathlib import Path

import pytest

from eramv_lab.track.store import (
    client_of,
    finish_fit,
    finish_study,
    init_store,
    start_fit,
    start_study,
)
from eramv_lab.track.view import filter_of

ROW = {"accuracy": 0.943, "prefill_tflops": 7.4e-5, "loss": float("nan"), "peak_mib": None, "n": 48}


def fits(uri: str, experiment_id: str) -> list:
    return client_of(uri).search_runs([experiment_id], filter_of("ca"))


def test_row_params_tags_and_files_of_a_fit(uri: str, runs: Path, tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: {}\n")
    study = start_study(uri, "ca", tags={"eramv.recipe": "experiments/ca.yaml"})
    params, tags = {"anchors": 9, "band_start": 2}, {"eramv.hash": "a1b2c3d4"}
    run_id = start_fit(study, "eramv", 0, params, tags)
    finish_fit(uri, run_id, ROW, per_type={"digit": 0.98}, artifacts=[recipe, tmp_path / "none"])
    finish_study(study, metrics={"accuracy": 0.943}, artifacts=[recipe])

    run = client_of(uri).get_run(run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "eramv s0 acc 0.943"
    assert run.data.params == {"arm": "eramv", "seed": "0", "anchors": "9", "band_start": "2"}
    assert run.data.metrics == {
        "accuracy": 0.943,
        "prefill_tflops": 7.4e-5,
        "n": 48,
        "type/digit": 0.98,
    }
    assert run.data.tags["mlflow.parentRunId"] == study.run_id
    assert run.data.tags["eramv.hash"] == "a1b2c3d4"
    assert [f.path for f in client_of(uri).list_artifacts(run_id)] == ["recipe.yaml"]
    assert list((runs / "artifacts").rglob("recipe.yaml"))
    parent = client_of(uri).get_run(study.run_id)
    assert parent.info.status == "FINISHED" and parent.data.tags["eramv.kind"] == "ablation"


def test_a_study_run_again_doubles_nothing_and_closes_what_was_killed(uri: str):
    study = start_study(uri, "ca")
    done = start_fit(study, "eramv", 0, {}, {"eramv.hash": "aa"})
    finish_fit(uri, done, ROW)
    killed = start_fit(study, "eramv", 1, {}, {"eramv.hash": "aa"})

    again = start_study(uri, "ca")
    assert again == study
    assert client_of(uri).get_run(killed).info.status == "KILLED"
    anew = start_fit(again, "eramv", 1, {}, {"eramv.hash": "aa"})
    finish_fit(uri, anew, ROW)
    shown = {run.info.run_id for run in fits(uri, study.experiment_id)}
    assert shown == {done, anew}

    other_recipe = start_fit(again, "eramv", 1, {}, {"eramv.hash": "bb"})
    finish_fit(uri, other_recipe, status="FAILED")
    assert len(fits(uri, study.experiment_id)) == 3
    assert start_study(uri, "another").run_id != study.run_id


def test_a_name_with_a_quote(uri: str):
    assert start_study(uri, "it's") == start_study(uri, "it's")


def test_moved_folder_gets_a_new_place_for_artifacts(runs: Path, uri: str, tmp_path: Path):
    runs.rename(tmp_path / "elsewhere")
    moved = init_store(tmp_path / "elsewhere")
    study = start_study(moved, "ca")
    experiment = client_of(moved).get_experiment(study.experiment_id)
    assert experiment.artifact_location == (tmp_path / "elsewhere" / "artifacts").as_uri()
    assert init_store(tmp_path / "elsewhere") == moved


def test_study_needs_a_store(template: Path, runs: Path):
    with pytest.raises(ValueError, match="init_store"):
        start_study(f"sqlite:///{runs / 'mlflow.db'}", "ca")
