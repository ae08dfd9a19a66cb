"""Workers, the sweep and all of it are killed or stopped; the same line ends as if nothing was."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState
from safetensors.torch import load_file

from eramv_lab.sweep.store import cut_off
from eramv_lab.train.files import read_json
from eramv_lab.train.plan import checkpoint_steps
from tests.sweep import tiny

pytestmark = pytest.mark.slow
STEPS = 60
TRIALS = 6
PATIENCE_S = 180.0


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    train = tiny.plain()["train"] | {"steps": STEPS, "validate_every": 20, "checkpoint_every": 5}
    folder = tmp_path_factory.mktemp("survival")
    return tiny.write(folder, tiny_data, train=train, trials=TRIALS)


@pytest.fixture(scope="module")
def whole(file: Path) -> Path:
    """The study of a sweep that nothing has happened to."""
    process = tiny.begin(file, "--workers", "2", runs="whole")
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    return file.parent / "whole" / "tiny"


def amid(root: Path) -> list[Path]:
    """Folders of trials that are being trained and have a checkpoint."""
    found = [path.parent for path in root.glob("trials/*/checkpoints")]
    return [f for f in found if 10 <= max(checkpoint_steps(f), default=0) < STEPS - 20]


def workers_at(folder: Path) -> list[int]:
    """Processes that write the log of a trial: those that train it."""
    found: list[int] = []
    for process in Path("/proc").iterdir():
        try:
            if (process / "fd" / "1").readlink() == folder / "log.txt":
                found.append(int(process.name))
        except OSError:
            continue
    return found


def wait_for(process: subprocess.Popen[str], found: Callable[[], list[Path]]) -> Path:
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if process.poll() is not None:
            pytest.fail(f"it ended with {process.returncode}: {process.communicate()[0]}")
        if paths := found():
            return paths[0]
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail(f"nothing came: {process.communicate()[0]}")


def ended(process: subprocess.Popen[str]) -> str:
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, said
    return said


def check_like(root: Path, whole: Path) -> None:
    """The same trials with the same results, each trained once, and nothing left open."""
    trials = tiny.trials(root)
    assert all(trial.state.is_finished() for trial in trials)
    living = [trial for trial in trials if not cut_off(trial)]
    assert [t.state for t in living] == [TrialState.COMPLETE] * TRIALS
    mine, its = (
        {path.parent.name: path.parent for path in study.glob("trials/*/result.json")}
        for study in (root, whole)
    )
    assert mine.keys() == its.keys() and len(mine) == TRIALS
    for name, folder in mine.items():
        one, two = (load_file(f / "model.safetensors") for f in (folder, its[name]))
        assert all(torch.equal(one[key], two[key]) for key in one), name
        rows = [read_json(f / "result.json") for f in (folder, its[name])]
        for key in ("accuracy", "loss"):
            assert rows[0]["row"][key] == rows[1]["row"][key]  # type: ignore[index]
        assert (folder / "predictions.jsonl").read_text() == (
            its[name] / "predictions.jsonl"
        ).read_text()
        began = tiny.stints(folder, STEPS)
        assert began[0] == 0 and sorted(set(began)) == began
    parent, below = tiny.tracked(root)
    runs = [run for run in below if run.data.tags["eramv.kind"] == "trial"]
    assert {run.info.status for run in [parent, *runs]} == {"FINISHED"}
    assert len(runs) == TRIALS
    assert "RUNNING" not in {run.info.status for run in below}


def test_killed_workers_and_killed_sweeps(file: Path, whole: Path) -> None:
    root = file.parent / "cut" / "tiny"
    line = ("--workers", "2")

    process = tiny.begin(file, *line, runs="cut")
    first = wait_for(process, lambda: amid(root))
    (worker,) = workers_at(first)
    os.kill(worker, signal.SIGKILL)
    wait_for(process, lambda: [first] if (first / "result.json").exists() else [])
    process.poll()
    second = wait_for(process, lambda: amid(root))
    process.kill()
    process.communicate(timeout=PATIENCE_S)

    process = tiny.begin(file, *line, runs="cut")
    third = wait_for(process, lambda: [f for f in amid(root) if f != second])
    os.killpg(process.pid, signal.SIGKILL)
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == -signal.SIGKILL

    said = ended(tiny.begin(file, *line, runs="cut"))
    check_like(root, whole)
    trials = {t.user_attrs["folder"]: t for t in tiny.trials(root) if not cut_off(t)}
    for folder in {first, second, third}:
        trial = trials[str(folder.relative_to(root))]
        assert trial.user_attrs["resumed"] >= 1, said
        assert trial.user_attrs["lives"] >= 1
        assert len(tiny.stints(folder, STEPS)) >= 2
    found = read_json(root / "search.json")
    assert found is not None
    states = [trial["state"] for trial in found["trials"]]
    assert states.count("complete") == TRIALS and states.count("interrupted") >= 3
    assert set(states) == {"complete", "interrupted"}
    again = ended(tiny.begin(file, *line, runs="cut"))
    assert f"all {TRIALS} trials were done before" in again


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_in_order(file: Path, whole: Path, sign: signal.Signals, code: int) -> None:
    runs = f"stopped{code}"
    root = file.parent / runs / "tiny"
    process = tiny.begin(file, "--workers", "2", runs=runs)
    cut = wait_for(process, lambda: amid(root))
    process.send_signal(sign)
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, said
    assert "the same command goes on" in said and "Traceback" not in said
    trials = tiny.trials(root)
    assert TrialState.RUNNING not in {trial.state for trial in trials}
    assert [t.user_attrs.get("lives", 0) for t in trials] == [0] * len(trials)
    assert not list(root.rglob("error.txt")) and not workers_at(cut)
    ended(tiny.begin(file, "--workers", "2", runs=runs))
    check_like(root, whole)
    assert len(tiny.stints(cut, STEPS)) == 2


def test_stopped_among_the_finals(file: Path, whole: Path) -> None:
    root = file.parent / "finals" / "tiny"
    more = ("seeds=[0,1]", "--workers", "1")
    process = tiny.begin(file, *more, runs="finals")
    # the second seed of the best is neither a trial nor an arm of the study yet
    cut = wait_for(process, lambda: [f for f in amid(root) if "-s1-" in f.name])
    process.terminate()
    said, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 143 and "Traceback" not in said, said
    ended(tiny.begin(file, *more, runs="finals"))
    assert len(tiny.stints(cut, STEPS)) == 2
    _, below = tiny.tracked(root)
    assert {run.info.status for run in below} == {"FINISHED"}


def test_a_fresh_process_gives_what_a_used_one_gave(file: Path, whole: Path, tmp_path) -> None:
    found = read_json(whole / "search.json")
    assert found is not None
    late = max(found["trials"], key=lambda trial: trial["number"])
    recipe = whole / late["folder"] / "recipe.yaml"
    line = [*tiny.PROGRAM, "fit", str(recipe), "--runs", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, env=os.environ | tiny.ENV)
    assert done.returncode == 0, done.stderr
    (fresh,) = tmp_path.glob("*/*/model.safetensors")
    one, two = load_file(fresh), load_file(whole / late["folder"] / "model.safetensors")
    assert all(torch.equal(one[name], two[name]) for name in one)
