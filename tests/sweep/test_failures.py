"""What goes wrong in a sweep is one clear report each, with the right exit code."""

import io
import sqlite3
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eramv_lab.errors import InfeasibleError, LabError, UserError
from eramv_lab.sweep import run as running
from eramv_lab.sweep import store
from eramv_lab.sweep.load import load_sweep
from eramv_lab.sweep.store import LIVES
from eramv_lab.sweep.study import Search
from eramv_lab.train.files import read_json
from tests.sweep import tiny

HOW = ("raise", "device", "memory", "user", "exit")


def opened(file: Path, *overrides: str) -> None:
    """Open the study, so that its database is there, and let go of it."""
    search = Search(load_sweep(file, overrides), file.parent / "runs", Console(file=io.StringIO()))
    with ExitStack() as held:
        search.open(None, held)


# --- before anything trains


def test_no_setting_within_the_budget(tmp_path: Path, tiny_data: Path) -> None:
    file = tiny.write(tmp_path, tiny_data, budget={"prefill": 1000})
    with pytest.raises(InfeasibleError, match=r"no setting of the search keeps within the budget"):
        tiny.run(file)
    process = tiny.begin(file)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 3 and "Traceback" not in said
    assert "budget.prefill is 1000" in said and "the cheapest setting looked at needs" in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["search.model.anchors.count={from: 0, to: 7}"], "search.model.anchors.count"),
        (["search.train.lr={from: 0.1, to: 0.2}"], "search.train.lr"),
        (["budget.prefill.share=1.05"], "budget.prefill"),
        (["goal=accuracy"], "goal"),
        (["train.steps=9"], "recipe"),
        (["seeds=[1]"], "seed"),
    ],
)
def test_another_search_under_the_same_name(
    tmp_path: Path, tiny_data: Path, overrides: list[str], key: str
) -> None:
    file = tiny.write(tmp_path, tiny_data)
    opened(file)
    before = (tmp_path / "runs" / "tiny" / "sweep.yaml").read_text()
    with pytest.raises(UserError) as caught:
        tiny.run(file, *overrides)
    assert [problem.key for problem in caught.value.problems] == [key]
    assert f"when {tmp_path}/runs/tiny began" in str(caught.value)
    assert caught.value.exit_code == 2
    assert (tmp_path / "runs" / "tiny" / "sweep.yaml").read_text() == before


@pytest.mark.parametrize(
    "override",
    [
        "trials=9",
        "seeds=[0,1,2]",
        "finalists=3",
        "heartbeat.every=2",
        "launcher=slurm",
        "sampler=tpe",
        "pruner=median",
        "begin_with=none",
        "question=Why?",
        "train.log_every=3",
        "trainer.threads=2",
    ],
)
def test_what_may_change(tmp_path: Path, tiny_data: Path, override: str) -> None:
    file = tiny.write(tmp_path, tiny_data)
    opened(file)
    opened(file, override)
    load_sweep(tmp_path / "runs" / "tiny" / "sweep.yaml")  # as workers do


def test_a_locked_database(tmp_path: Path, tiny_data: Path, monkeypatch) -> None:
    monkeypatch.setattr(store, "PATIENCE_S", 0.2)
    file = tiny.write(tmp_path, tiny_data)
    opened(file)
    other = sqlite3.connect(tmp_path / "runs" / "tiny" / "search.db", isolation_level=None)
    other.execute("begin exclusive")
    with pytest.raises(LabError, match=r"search\.db: another program has locked it") as caught:
        tiny.run(file)
    assert caught.value.exit_code == 1
    other.close()
    opened(file)


def test_a_broken_database(tmp_path: Path, tiny_data: Path) -> None:
    file = tiny.write(tmp_path, tiny_data)
    opened(file)
    (tmp_path / "runs" / "tiny" / "search.db").write_bytes(b"\x00broken" * 1000)
    process = tiny.begin(file)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1 and "Traceback" not in said
    assert said.count("\n") == 1 and "search.db: file is not a database" in said


def test_runs_that_cannot_be_written(tmp_path: Path, tiny_data: Path) -> None:
    file = tiny.write(tmp_path, tiny_data)
    (tmp_path / "runs").write_text("a file")
    process = tiny.begin(file)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and "Traceback" not in said
    assert said.startswith(f"error: {tmp_path}/runs")


def test_two_of_the_same_name_at_once(tmp_path: Path, tiny_data: Path) -> None:
    file = tiny.write(tmp_path, tiny_data)
    sweep = load_sweep(file)
    search = Search(sweep, tmp_path / "runs", Console(file=io.StringIO()))
    with ExitStack() as held:
        search.open(None, held)
        process = tiny.begin(file)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 1 and said.count("\n") == 1
        assert "another process is running the study in" in said


@pytest.mark.slow
def test_data_that_cannot_be_made(tmp_path: Path, tiny_data: Path) -> None:
    (tmp_path / "data").write_text("a file")
    file = tiny.write(tmp_path, tmp_path / "data")
    with pytest.raises(LabError, match=r"data \w+ failed: .*; see .*\.prepare/data") as caught:
        tiny.run(file)
    assert caught.value.exit_code == 1


# --- workers and trials


@pytest.mark.slow
def test_workers_that_die_as_they_start(tmp_path: Path, tiny_data: Path, monkeypatch) -> None:
    monkeypatch.setattr(running, "WORK", "tests.sweep.failing:die")
    file = tiny.write(tmp_path, tiny_data, launcher={"type": "local", "lives": 1})
    code, said = tiny.run(file, workers=2)
    assert code == 1
    assert "worker w0 failed: w0 ended with exit code -9 (killed by signal 9)" in said
    assert "4 trials are left; the same command goes on with them" in said
    assert {trial.state.name for trial in tiny.trials(tmp_path / "runs" / "tiny")} == {"WAITING"}


def failing(how: str, flag: Path) -> dict[str, Any]:
    """A setting that fails while the flag is there."""
    bridge = {"type": "failing", "how": how, "flag": str(flag)}
    return {"model.band": {"start": 1, "length": 1}, "model.bridge": bridge}


@pytest.mark.slow
def test_trials_that_fail(tmp_path: Path, tiny_data: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    begin = {"paper": "eramv"} | {how: failing(how, flag) for how in HOW}
    more = {"plugins": ["tests.sweep.failing"], "begin_with": begin, "trials": 6}
    file = tiny.write(tmp_path, tiny_data, **more)
    root = tmp_path / "runs" / "tiny"
    process = tiny.begin(file, "--workers", "1")
    said, _ = process.communicate(timeout=180)
    assert process.returncode == 1, said
    assert "Traceback" not in said
    errors = {
        "raise": "RuntimeError: no luck [/here]",
        "device": "out of memory: tried to allocate 80 GiB",
        "memory": "out of memory",
        "user": "this setting is not sound and never was",
        "exit": "SystemExit: 3",
    }
    trials = {trial.user_attrs["given"]: trial for trial in tiny.trials(root)}
    assert trials["paper"].state.name == "COMPLETE"
    for how in HOW:
        assert trials[how].state.name == "FAIL"
        assert trials[how].user_attrs["error"] == errors[how]
        folder = root / trials[how].user_attrs["folder"]
        assert "Traceback" in (folder / "error.txt").read_text()
        label = trials[how].user_attrs["label"]
        assert f"failed: {label}: {errors[how]}; see {folder}/" in said
    assert tiny.states(root) == {"complete": 1, "failed": 5}
    assert "best s0" in said  # the others are judged all the same
    _, below = tiny.tracked(root)
    runs = [run for run in below if run.data.tags["eramv.kind"] == "trial"]
    assert sorted(run.info.status for run in runs) == ["FAILED"] * 5 + ["FINISHED"]

    flag.unlink()  # what was wrong is mended: the same line tries them again
    code, said = tiny.run(file, workers=1)
    assert code == 0, said
    assert tiny.states(root) == {"complete": 6, "failed": 5}
    _, below = tiny.tracked(root)
    runs = [run for run in below if run.data.tags["eramv.kind"] == "trial"]
    assert [run.info.status for run in runs] == ["FINISHED"] * 6
    code, said = tiny.run(file, workers=1)
    assert code == 0 and "all 6 trials were done before" in said


@pytest.mark.slow
def test_a_trial_that_kills_its_worker_fails_in_the_end(tmp_path: Path, tiny_data: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    begin = {"bad": failing("kill", flag), "paper": "eramv"}
    file = tiny.write(tmp_path, tiny_data, plugins=["tests.sweep.failing"], begin_with=begin)
    code, said = tiny.run(file, "trials=2", workers=1)
    root = tmp_path / "runs" / "tiny"
    assert code == 1 and "worker w0 was lost (exit code -9) and is started again" in said
    assert flag.read_text().count("kill") == LIVES + 1
    assert tiny.states(root) == {"interrupted": LIVES + 1, "failed": 1, "complete": 1}
    assert f"failed: t000 bad s1 n1 a4: its worker was lost {LIVES + 1} times" in said
    _, below = tiny.tracked(root)
    assert "RUNNING" not in {run.info.status for run in below}


@pytest.mark.slow
def test_every_trial_fails(tmp_path: Path, tiny_data: Path) -> None:
    flag = tmp_path / "flag"
    flag.touch()
    begin = {"bad": failing("raise", flag)}
    file = tiny.write(tmp_path, tiny_data, plugins=["tests.sweep.failing"], begin_with=begin)
    process = tiny.begin(file, "--trials", "1")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in said, said
    assert tiny.states(tmp_path / "runs" / "tiny") == {"failed": 1}
    parent, below = tiny.tracked(tmp_path / "runs" / "tiny")
    assert "RUNNING" not in {run.info.status for run in [parent, *below]}


@pytest.mark.slow
def test_without_mlflow(tmp_path: Path, tiny_data: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_bytes(b"not a database" * 1000)
    file = tiny.write(tmp_path, tiny_data)
    process = tiny.begin(file, "--workers", "1", "--trials", "2")
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "Traceback" not in said, said
    assert "MLflow does not follow this study, see" in said
    found = read_json(tmp_path / "runs" / "tiny" / "search.json")
    assert found is not None and found["best"] is not None
    assert (tmp_path / "runs" / "tiny" / "pareto.html").exists()


@pytest.mark.slow
def test_a_broken_result_is_one_failed_trial(tmp_path: Path, tiny_data: Path) -> None:
    file = tiny.write(tmp_path, tiny_data)
    code, said = tiny.run(file, "trials=1", workers=1)
    assert code == 0, said
    root = tmp_path / "runs" / "tiny"
    (result,) = root.glob("trials/*/result.json")
    result.write_text("{")
    (root / "search.db").unlink()
    done = subprocess.run(
        [*tiny.PROGRAM, "sweep", file, "--runs", tmp_path / "runs", "--trials", "1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert "is not a result of this arm; move it away to fit again" in done.stdout
    assert result.read_text() == "{"
