"""Workers, the sweep and all of it are killed or stopped; the same line ends as if nothing was."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState
from safetensors.torch import load_file

from eramv_lab.sweep.store import cut_off
from eramv_lab.train.files import read_json
from tests.sweep import tiny
from tests.sweep.cutting import (
    STEPS,
    TRIALS,
    amid,
    check,
    ended,
    told,
    wait_for,
    workers_at,
    write_longer,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    return write_longer(tmp_path_factory.mktemp("survival"), tiny_data)


@pytest.fixture(scope="module")
def whole(file: Path) -> Path:
    """The study of a sweep that nothing has happened to."""
    ended(tiny.begin(file, "--workers", "2", runs="whole"))
    return file.parent / "whole" / "tiny"


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
    told(process)

    process = tiny.begin(file, *line, runs="cut")
    third = wait_for(process, lambda: [f for f in amid(root) if f != second])
    os.killpg(process.pid, signal.SIGKILL)
    said = told(process)
    assert process.returncode == -signal.SIGKILL

    said = ended(tiny.begin(file, *line, runs="cut"))
    check(root, whole)
    trials = {t.user_attrs["folder"]: t for t in tiny.trials(root) if not cut_off(t)}
    for folder in {first, second, third}:
        trial = trials[str(folder.relative_to(root))]
        assert trial.user_attrs["resumed"] >= 1, said
        assert len(tiny.stints(folder, STEPS)) >= 2
    assert trials[str(first.relative_to(root))].user_attrs["lives"] >= 1
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
    said = told(process)
    assert process.returncode == code, said
    assert "the same command goes on" in said and "Traceback" not in said
    trials = tiny.trials(root)
    assert TrialState.RUNNING not in {trial.state for trial in trials}
    assert [t.user_attrs.get("lives", 0) for t in trials] == [0] * len(trials)
    assert not list(root.rglob("error.txt")) and not workers_at(cut)
    ended(tiny.begin(file, "--workers", "2", runs=runs))
    check(root, whole)
    assert len(tiny.stints(cut, STEPS)) == 2


def test_stopped_among_the_finals(file: Path, whole: Path) -> None:
    root = file.parent / "finals" / "tiny"
    more = ("seeds=[0,1]", "--workers", "1")
    process = tiny.begin(file, *more, runs="finals")
    # the second seed of the best is neither a trial nor an arm of the study yet
    cut = wait_for(process, lambda: [f for f in amid(root) if "-s1-" in f.name])
    process.terminate()
    said = told(process)
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
