"""A sweep's trials in MLflow, as their fits and the jobs around them tell of them."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from eramv_lab.errors import UserError
from eramv_lab.recipe.resolve import load_recipe
from eramv_lab.track.client import client_of
from eramv_lab.track.store import StudyRun, start_fit, store_uri
from eramv_lab.train import around, prepare
from eramv_lab.train.files import read_json, write_json
from eramv_lab.train.tracked import Tracked, finish_left_open, run_params

RECIPE = """
model:
  vision: tiny
  anchors: {type: cls_topk, count: 4}
  connector: mlp2x_gelu
  language: tiny
  band: {start: 2, length: 2}
arms:
  banded: {}
  plain: {model.band: none, model.anchors: all}
data: {folder: data}
"""
SEARCH = {
    "schema": 1,
    "trials": [
        {"number": 0, "accuracy": 0.5, "prefill_tflops": 1e-4},
        {"number": 1, "accuracy": 0.9, "prefill_tflops": 2e-4, "error": None},
    ],
    "best": {"number": 1},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all; each test has a sweep of its own."""
    return tmp_path_factory.mktemp("tracked") / "runs"


@pytest.fixture
def root(runs: Path, request: pytest.FixtureRequest) -> Path:
    """The folder of a sweep whose store has been prepared."""
    folder = runs / request.node.name
    begin(runs, folder)
    return folder


def begin(runs: Path, root: Path, **more: Any) -> None:
    settings = {"kind": "sweep", "close_running": False} | more
    prepare.store(str(root / "store"), str(runs), root.name, {"eramv.question": "?"}, **settings)


def sweep_of(root: Path) -> StudyRun:
    return StudyRun(**(read_json(root / "store" / "track.json") or {}))


def run_of(root: Path, run_id: str | None) -> Any:
    assert run_id is not None
    return client_of(store_uri(root.parent)).get_run(run_id)


@pytest.fixture
def plan(root: Path, tmp_path: Path) -> dict[str, Any]:
    file = tmp_path / "small.yaml"
    file.write_text(RECIPE)
    arm = load_recipe(file).arm("banded")
    return {
        "arm": "trial",
        "seed": 0,
        "hash": "h13",
        "recipe": arm.with_seed(0).plain,
        "track": str(root / "store" / "track.json"),
        "kind": "trial",
        "name": "t013 s2 n2 a4",
        "tags": {"eramv.trial": 13},
    }


def test_a_trial_that_was_pruned(root: Path, plan: dict[str, Any], tmp_path: Path):
    tracked = Tracked(tmp_path, plan)
    begun = run_of(root, tracked.run_id)
    assert begun.info.run_name == "t013 s2 n2 a4" and begun.info.status == "RUNNING"
    shown = {key: begun.data.params[key] for key in ("anchors", "band_start", "band_length")}
    assert shown == {"anchors": "4", "band_start": "2", "band_length": "2"}
    told = {key: begun.data.tags[key] for key in ("eramv.kind", "eramv.trial", "eramv.hash")}
    assert told == {"eramv.kind": "trial", "eramv.trial": "13", "eramv.hash": "h13"}
    tags = {"eramv.state": "pruned", "feasible": "true"}
    tracked.end({"row": {"accuracy": 0.61, "prefill_tflops": 1e-4}}, tags=tags)
    run = run_of(root, tracked.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "t013 s2 n2 a4 pruned acc 0.610"
    assert run.data.tags.items() >= tags.items()
    assert run.data.metrics == {"accuracy": 0.61, "prefill_tflops": 1e-4}


def test_without_a_store_there_is_nothing_to_tell(tmp_path: Path):
    tracked = Tracked(tmp_path, {"track": None})
    tracked.end(None, tags={"eramv.state": "failed"})
    assert tracked.run_id is None


def test_a_plan_of_a_fit_says_nothing_more(root: Path, plan: dict[str, Any], tmp_path: Path):
    for key in ("kind", "name", "tags"):
        del plan[key]
    run = run_of(root, Tracked(tmp_path, plan).run_id)
    assert run.data.tags["eramv.kind"] == "fit" and run.info.run_name == "trial s0"


def test_a_trial_without_band_has_every_number(tmp_path: Path):
    file = tmp_path / "small.yaml"
    file.write_text(RECIPE)
    plain = load_recipe(file).arm("plain").with_seed(0).plain
    params = run_params(plain, "trial")
    assert params["band_start"] == params["band_length"] == 0 and params["anchors"] == 144
    assert "band_start" not in run_params(plain)


@pytest.mark.parametrize("state", [None, "pruned"])
def test_trials_that_finished_on_disk(root: Path, plan: dict[str, Any], tmp_path: Path, state):
    run_id = Tracked(tmp_path, plan).run_id
    other = Tracked(tmp_path / "other", plan | {"hash": "h14", "name": "t014"}).run_id
    result = {"mlflow_run_id": run_id, "row": {"accuracy": 0.75}}
    write_json(tmp_path / "result.json", result | ({"state": state} if state else {}))
    finish_left_open(sweep_of(root))
    run = run_of(root, run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["eramv.state"] == (state or "complete")
    assert run_of(root, other).info.status == "RUNNING"


def test_a_sweep_begun_again_leaves_what_others_run(root: Path, runs: Path):
    sweep = sweep_of(root)
    run_id = start_fit(sweep, "trial", 0, {}, {"eramv.hash": "a"}, kind="trial")
    begin(runs, root)
    assert sweep_of(root) == sweep and run_of(root, run_id).info.status == "RUNNING"
    assert [what for what, _ in around.links(root / "store" / "track.json")] == [
        f"{root.name}, trials",
        f"{root.name}, trials (plain list)",
    ]
    begin(runs, root, close_running=True)
    assert run_of(root, run_id).info.status == "KILLED"
    assert run_of(root, sweep.run_id).data.tags["eramv.question"] == "?"


@pytest.fixture
def search_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(study_dir: Path) -> list[Path]:
        (study_dir / "trials.md").write_text("| trial |\n")
        return [study_dir / "trials.md"]

    module = ModuleType("eramv_lab.report.search_artifacts")
    module.__dict__["write_search_report"] = write
    monkeypatch.setitem(sys.modules, module.__name__, module)


def end(root: Path, complete: bool = True) -> list[str]:
    """Run the `finish` job; the files that the sweep's run has then."""
    prepare.finish(str(root / "finish"), str(root), str(root / "store" / "track.json"), complete)
    sweep = sweep_of(root)
    return [file.path for file in client_of(sweep.uri).list_artifacts(sweep.run_id)]


@pytest.mark.usefixtures("search_report")
def test_the_end_of_a_search_without_arms(root: Path):
    left = start_fit(sweep_of(root), "trial", 0, {}, {"eramv.hash": "a"}, kind="trial")
    (root / "search.json").write_text(json.dumps(SEARCH))
    (root / "best.yaml").write_text("model: {}\n")
    (root / "sweep.yaml").write_text("search: {}\n")
    assert end(root) == ["best.yaml", "search.json", "sweep.yaml", "trials.md"]
    run = run_of(root, sweep_of(root).run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"accuracy": 0.9, "prefill_tflops": 2e-4}
    assert run_of(root, left).info.status == "KILLED"
    assert end(root, complete=False) and run_of(root, run.info.run_id).info.status == "FAILED"


@pytest.mark.usefixtures("search_report")
def test_the_end_of_a_search_with_arms(root: Path, monkeypatch: pytest.MonkeyPatch):
    def write_report(study_dir: Path) -> list[Path]:
        (study_dir / "table.md").write_text("| arm |\n")
        return [study_dir / "table.md"]

    monkeypatch.setattr("eramv_lab.report.artifacts.write_report", write_report)
    start_fit(sweep_of(root), "best", 0, {})
    (root / "search.json").write_text(json.dumps(SEARCH | {"best": None}))
    (root / "study.json").write_text("{}")
    assert end(root) == ["search.json", "table.md", "trials.md"]
    assert len(around.links(root / "store" / "track.json")) == 4
    assert run_of(root, sweep_of(root).run_id).data.metrics == {}


@pytest.mark.usefixtures("search_report")
def test_a_search_is_told_even_where_no_arm_finished(root: Path, monkeypatch: pytest.MonkeyPatch):
    def write_report(study_dir: Path) -> list[Path]:
        raise UserError("no fit has finished")

    monkeypatch.setattr("eramv_lab.report.artifacts.write_report", write_report)
    (root / "search.json").write_text(json.dumps(SEARCH))
    (root / "study.json").write_text("{}")
    with pytest.warns(UserWarning, match="no fit has finished"):
        assert end(root) == ["search.json", "trials.md"]
    (root / "search.json").unlink()
    with pytest.raises(UserError, match="no fit has finished"):
        end(root)


def test_jobs_around_a_sweep(root: Path, monkeypatch: pytest.MonkeyPatch):
    recipe: Any = SimpleNamespace(name=root.name, question="?", path="sweeps/x.yaml")
    for kind, close in (("sweep", False), ("ablation", True)):
        jobs, _ = around.shared_jobs(recipe, root, [], 1, kind=kind)
        assert jobs[0].args["kind"] == kind and jobs[0].args["close_running"] is close
    assert around.shared_jobs(recipe, root, [], 1)[0][0].args["kind"] == "ablation"

    monkeypatch.setattr(around, "run_jobs", lambda jobs, **_: {})
    track = root / "store" / "track.json"
    around.finish(root, track, complete=True)
    assert not (root / "study.json").exists()  # no arms, no study
    (root / "study.json").write_text('{"study": "x"}')
    around.finish(root, track, complete=True)
    ids = (read_json(root / "study.json") or {})["mlflow"]
    assert ids["run_id"] == sweep_of(root).run_id
    assert around.links(root / "nowhere" / "track.json") == []
