"""Runs in MLflow: a study run twice shows each fit once, and what a kill left open is closed."""

from pathlib import Path

import pytest

from eramv_lab.track.client import client_of
from eramv_lab.track.page import filter_of
from eramv_lab.track.store import (
    PALE,
    close_left,
    closed_trial,
    finish_fit,
    finish_study,
    init_store,
    left_open,
    start_fit,
    start_study,
)

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


def test_trials_of_a_sweep(uri: str, tmp_path: Path):
    """Each has its name, its state and what was known at its end."""
    sweep = start_study(uri, "ca", kind="sweep", close_running=False)
    assert start_study(uri, "ca") != sweep  # an ablation of the same name is another study
    names: dict[str, tuple[str, str, str]] = {}
    for number, (state, status, row) in enumerate(
        [
            ("complete", "FINISHED", {"accuracy": 0.91, "prefill_tflops": 1e-4}),
            ("pruned", "FINISHED", {"accuracy": 0.61, "loss": None}),
            ("failed", "FAILED", None),
            ("interrupted", "KILLED", None),
        ]
    ):
        name, tags = f"t{number:03d} s2 n3", {"eramv.hash": f"h{number}"}
        run_id = start_fit(sweep, "trial", 0, {"anchors": 4}, tags, kind="trial", name=name)
        more = {"feasible": "true"} | ({"eramv.state": state} if state == "pruned" else {})
        finish_fit(uri, run_id, row, status, tags=more)
        run = client_of(uri).get_run(run_id)
        assert run.data.tags["eramv.state"] == state and run.data.tags["feasible"] == "true"
        assert (run.data.tags.get("mlflow.runColor") == PALE) == (state != "complete")
        names[state] = (run.info.run_name or "", run.info.status, run.data.tags["eramv.arm"])
    assert names == {
        "complete": ("t000 s2 n3 acc 0.910", "FINISHED", "trial"),
        "pruned": ("t001 s2 n3 pruned acc 0.610", "FINISHED", "trial"),
        "failed": ("t002 s2 n3 failed", "FAILED", "trial"),
        "interrupted": ("t003 s2 n3 interrupted", "KILLED", "trial"),
    }
    tags = {"eramv.hash": "big", "eramv.state": "infeasible", "feasible": "false"}
    closed = closed_trial(sweep, "t004 s0 n6", {"band_length": 6}, tags, {"prefill_tflops": 1.0})
    run = client_of(uri).get_run(closed)
    assert (run.info.run_name, run.info.status) == ("t004 s0 n6 infeasible", "FINISHED")
    assert run.data.metrics == {"prefill_tflops": 1.0} and run.data.params["band_length"] == "6"
    bad = closed_trial(sweep, "t005", {}, {"eramv.hash": "bad", "eramv.state": "failed"})
    assert client_of(uri).get_run(bad).info.status == "FAILED"
    shown = client_of(uri).search_runs([sweep.experiment_id], filter_of("ca", "trial"))
    assert len(shown) == 6


def test_a_trial_goes_on_under_its_later_number(uri: str):
    sweep = start_study(uri, "ca", kind="sweep", close_running=False)
    tags = {"eramv.hash": "h"}
    cut = start_fit(sweep, "t001", 0, {}, tags, kind="trial", name="t001 s2")
    finish_fit(uri, cut, status="KILLED")
    on = start_fit(sweep, "t007", 0, {}, tags, kind="trial", name="t007 s2", goes_on=True)
    finish_fit(uri, on, {"accuracy": 0.9})
    run = client_of(uri).get_run(on)
    assert on == cut and run.info.run_name == "t007 s2 acc 0.900"
    assert run.data.tags["eramv.state"] == "complete" and run.data.tags["eramv.arm"] == "t007"
    assert "mlflow.runColor" not in run.data.tags
    # begun anew without a checkpoint, the earlier attempt steps aside; another seed does not
    anew = start_fit(sweep, "t009", 0, {}, tags, kind="trial", name="t009 s2")
    seed = start_fit(sweep, "best", 1, {}, tags, kind="finalist")
    kinds = [client_of(uri).get_run(i).data.tags["eramv.kind"] for i in (cut, anew, seed)]
    assert kinds == ["attempt", "trial", "finalist"]


def test_what_other_machines_run_stays_open_until_the_end(uri: str, tmp_path: Path):
    sweep = start_study(uri, "ca", kind="sweep", close_running=False)
    folders = {}
    for kind in ("trial", "finalist", "fit"):
        tags = {"eramv.hash": kind, "eramv.recipe": str(tmp_path / kind / "recipe.yaml")}
        folders[start_fit(sweep, kind, 0, {}, tags, kind=kind)] = tmp_path / kind
    again = start_study(uri, "ca", kind="sweep", close_running=False)
    assert again == sweep and left_open(sweep) == folders
    assert {client_of(uri).get_run(i).info.status for i in folders} == {"RUNNING"}
    close_left(sweep)
    runs = [client_of(uri).get_run(i) for i in folders]
    assert {run.info.status for run in runs} == {"KILLED"}
    assert [run.data.tags.get("eramv.state") for run in runs] == ["interrupted", None, None]
